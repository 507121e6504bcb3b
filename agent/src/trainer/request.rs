//! A request to what trains: an empty file in a folder that its container may change, so it is made new and no link is
//! followed.

use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;

/// Makes the file `name` in this folder; one that is there already asks for the same.
///
/// # Errors
/// When the folder is a link or cannot be written.
pub fn leave_request(folder: &Path, name: &str) -> io::Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = openat(CWD, folder, flags, Mode::empty())?;
    let new = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&dir, name, new, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_a_new_file_and_never_goes_through_a_link() {
        let dir = tempfile::tempdir().expect("a folder");
        let control = dir.path().join("control");
        std::fs::create_dir(&control).expect("made");
        leave_request(&control, "stop").expect("asked");
        leave_request(&control, "stop").expect("asked again");
        assert_eq!(std::fs::read(control.join("stop")).expect("there"), b"");
        let outside = dir.path().join("outside");
        std::os::unix::fs::symlink(&outside, control.join("checkpoint")).expect("linked");
        leave_request(&control, "checkpoint").expect("taken for asked");
        assert!(!outside.exists(), "a file was made through a link");
        std::fs::rename(&control, dir.path().join("elsewhere")).expect("moved");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), &control).expect("linked");
        assert!(leave_request(&control, "stop").is_err(), "the folder itself was a link");
    }
}
