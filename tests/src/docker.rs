//! The real engine for tests: an image made from nothing, and a clean-up that knows its own labels.
//!
//! It talks through the engine's command line, so that what the agent's adapter does is seen by other eyes. A missing
//! engine is a failure.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};

/// The source of the program that test containers run.
const GUEST: &str = include_str!("../guest/guest.rs");

/// Runs the engine's command line and returns what it printed.
///
/// # Errors
/// When it is missing or fails; the message holds what it said.
pub fn docker(args: &[&str]) -> Result<String> {
    let output =
        Command::new("docker").args(args).output().context("the docker command cannot be run")?;
    said(args, &output)
}

fn said(args: &[&str], output: &Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "docker {} failed: {}",
            args.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// A fleet and a node of one test at the real engine. Dropping it removes its containers and images, and only those.
#[derive(Debug)]
pub struct TestNode {
    /// The fleet's id, different in every test and run.
    pub fleet: String,
    /// The node's id.
    pub node: String,
    /// A directory for mounts.
    pub temp: tempfile::TempDir,
    images: Vec<String>,
}

impl TestNode {
    /// A node with nothing on it.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub fn new() -> Result<Self> {
        docker(&["version"]).context("these tests need a running Docker engine")?;
        let fleet = format!("test-{:016x}", rand::random::<u64>());
        Ok(Self { fleet, node: "n1".to_owned(), temp: tempfile::tempdir()?, images: Vec::new() })
    }

    /// Imports an image that holds only the guest program, as its entry point. `changes` are further instructions, as
    /// in a Dockerfile. Returns its id.
    ///
    /// # Errors
    /// When it cannot be built.
    pub fn import_guest(&mut self, changes: &[&str]) -> Result<String> {
        let guest = guest()?;
        let tar = Command::new("tar")
            .arg("-C")
            .arg(guest.parent().context("the guest lies in a directory")?)
            .args(["-c", "guest"])
            .stdout(Stdio::piped())
            .spawn()
            .context("tar cannot be run")?;
        let label = format!("LABEL hone.test={}", self.fleet);
        let mut import = Command::new("docker");
        import.args(["import", "--change", "ENTRYPOINT [\"/guest\"]", "--change", &label]);
        changes.iter().for_each(|change| {
            import.args(["--change", change]);
        });
        let archive = tar.stdout.context("tar has an output")?;
        let output = import.arg("-").stdin(archive).output().context("docker cannot be run")?;
        let id = said(&["import"], &output)?;
        self.images.push(id.clone());
        Ok(id)
    }

    /// Also removes this image in the end.
    pub fn will_remove(&mut self, image: &str) {
        self.images.push(image.to_owned());
    }

    /// A directory below the test's own, made for everybody to write.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn shared_dir(&self, name: &str) -> Result<PathBuf> {
        use std::os::unix::fs::PermissionsExt;
        let path = self.temp.path().join(name);
        std::fs::create_dir_all(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))?;
        Ok(path)
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let filter = format!("label=hone.fleet={}", self.fleet);
        let listed = docker(&["ps", "-aq", "--filter", &filter]).unwrap_or_default();
        for id in listed.split_whitespace() {
            let _ = docker(&["rm", "-f", "-v", id]);
        }
        for image in &self.images {
            let _ = docker(&["rmi", "-f", image]);
        }
    }
}

/// The guest program, compiled once per process into a directory that outlives the tests of the process.
///
/// # Errors
/// When it cannot be compiled.
pub fn guest() -> Result<&'static Path> {
    static GUEST_DIR: OnceLock<Result<tempfile::TempDir, String>> = OnceLock::new();
    static GUEST_PATH: OnceLock<PathBuf> = OnceLock::new();
    let dir = GUEST_DIR.get_or_init(|| compile().map_err(|error| format!("{error:#}")));
    match dir {
        Ok(dir) => Ok(GUEST_PATH.get_or_init(|| dir.path().join("guest"))),
        Err(error) => bail!("the guest program cannot be compiled: {error}"),
    }
}

fn compile() -> Result<tempfile::TempDir> {
    let dir = tempfile::tempdir()?;
    let source = dir.path().join("guest.rs");
    std::fs::write(&source, GUEST)?;
    let output = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "-C",
            "target-feature=+crt-static",
            "-C",
            "strip=symbols",
            "-o",
        ])
        .arg(dir.path().join("guest"))
        .arg(&source)
        .output()
        .context("rustc cannot be run")?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(dir)
}
