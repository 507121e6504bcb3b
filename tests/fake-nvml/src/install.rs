//! Copies of the library for tests.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

use crate::Script;

/// One copy of the fake library, with a script of its own.
#[derive(Debug)]
pub struct FakeNvml {
    library: PathBuf,
}

impl FakeNvml {
    /// Puts a copy and its script into `dir`.
    ///
    /// # Errors
    /// The library was not built beside the running test, or `dir` cannot be written.
    pub fn install(dir: &Path, script: &Script) -> io::Result<Self> {
        Self::install_without(dir, script, &[])
    }

    /// Like [`Self::install`], of a driver so old that it lacks the functions `missing`.
    ///
    /// # Errors
    /// As [`Self::install`]; also when the library never had one of them.
    pub fn install_without(dir: &Path, script: &Script, missing: &[&str]) -> io::Result<Self> {
        let mut image = fs::read(built_library()?)?;
        for name in missing {
            rename_symbol(&mut image, name)?;
        }
        let library = dir.join("libnvidia-ml.so.1");
        fs::write(&library, image)?;
        let fake = Self { library };
        fake.play(script)?;
        Ok(fake)
    }

    /// Where the copy lies: what an agent is told to load.
    #[must_use]
    pub fn library(&self) -> &Path {
        &self.library
    }

    /// From now on the driver says this.
    ///
    /// # Errors
    /// The script cannot be written.
    pub fn play(&self, script: &Script) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(script).map_err(io::Error::other)?;
        let fresh = self.library.with_extension("fresh");
        fs::write(&fresh, text)?;
        // A rename: no call ever reads half a script.
        fs::rename(fresh, format!("{}.json", self.library.display()))
    }
}

/// Cargo builds the library into the folder of the test binary, or, for a plain binary, into `deps` below it.
fn built_library() -> io::Result<PathBuf> {
    let exe = env::current_exe()?;
    let dir = exe.parent().ok_or_else(|| io::Error::other("the test binary has no folder"))?;
    [dir.join("libfake_nvml.so"), dir.join("deps/libfake_nvml.so")]
        .into_iter()
        .find(|path| path.exists())
        .ok_or_else(|| io::Error::other(format!("no libfake_nvml.so in {}", dir.display())))
}

/// Takes a function away: under another name its hash no longer matches, so that no look-up finds either.
fn rename_symbol(image: &mut [u8], name: &str) -> io::Result<()> {
    let stored: Vec<u8> = [b"\0", name.as_bytes(), b"\0"].concat();
    let mut found = false;
    let mut from = 0;
    while let Some(at) = image[from..].windows(stored.len()).position(|window| window == stored) {
        image[from + at + 1] = b'X';
        found = true;
        from += at + 1;
    }
    if found { Ok(()) } else { Err(io::Error::other(format!("there is no {name}"))) }
}
