//! Files of procfs, sysfs and cgroupfs that are read over and over: opened once, read from the start each time.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// Most that is read of one file. `/proc/stat` of a machine with 512 cores and its interrupt counters is a tenth.
const MAX_LEN: usize = 1 << 20;

/// First size of a shared buffer: every file of a small machine fits, so that it never grows there.
const FIRST_LEN: usize = 16 << 10;

/// A file that stays open between readings.
#[derive(Debug)]
pub(crate) struct KeptFile {
    path: PathBuf,
    file: Option<File>,
}

impl KeptFile {
    /// The file at `path`; opened when it is first read.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), file: None }
    }

    /// What the file says now, in `buffer`. After an error the next reading opens it anew.
    pub(crate) fn read<'b>(&mut self, buffer: &'b mut Vec<u8>) -> io::Result<&'b [u8]> {
        let result = match self.file.as_ref() {
            Some(file) => read_from_start(file, buffer),
            None => File::open(&self.path).and_then(|file| {
                let len = read_from_start(&file, buffer);
                self.file = Some(file);
                len
            }),
        };
        match result {
            Ok(len) => Ok(&buffer[..len]),
            Err(error) => {
                self.file = None;
                Err(error)
            }
        }
    }
}

/// What a file that is read only once says, at most [`MAX_LEN`] of it.
pub(crate) fn read_once(path: &Path) -> io::Result<String> {
    let mut buffer = Vec::new();
    let len = read_from_start(&File::open(path)?, &mut buffer)?;
    buffer.truncate(len);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

/// Several reads may be needed: the kernel hands out some of these files page by page.
fn read_from_start(file: &File, buffer: &mut Vec<u8>) -> io::Result<usize> {
    if buffer.is_empty() {
        buffer.resize(FIRST_LEN, 0);
    }
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            if filled >= MAX_LEN {
                return Ok(filled);
            }
            buffer.resize(filled * 2, 0);
        }
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => return Ok(filled),
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_kept_file_is_read_anew_and_its_end_is_not_the_last_reading() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("counter");
        fs::write(&path, "a long first reading").expect("written");
        let (mut file, mut buffer) = (KeptFile::new(&path), Vec::new());
        assert_eq!(file.read(&mut buffer).expect("read"), b"a long first reading");
        fs::write(&path, "short").expect("written");
        assert_eq!(file.read(&mut buffer).expect("read"), b"short");
    }

    #[test]
    fn a_file_larger_than_the_buffer_is_read_whole_up_to_the_bound() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("large");
        let mut buffer = Vec::new();
        for (written, read) in [(100_000, 100_000), (2 * MAX_LEN, MAX_LEN)] {
            fs::write(&path, vec![b'x'; written]).expect("written");
            assert_eq!(KeptFile::new(&path).read(&mut buffer).expect("read").len(), read);
        }
    }

    #[test]
    fn a_file_that_appears_later_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("later");
        let (mut file, mut buffer) = (KeptFile::new(&path), Vec::new());
        assert!(file.read(&mut buffer).is_err());
        fs::write(&path, "now").expect("written");
        assert_eq!(file.read(&mut buffer).expect("read"), b"now");
    }
}
