//! An identity on disk: a folder that only its owner can enter.
//!
//! | file | what |
//! |---|---|
//! | `root.pem` | the fleet's root, which the holder pins |
//! | `identity.toml` | fleet, holder, where the controller listens |
//! | `credentials.pem` | private key and certificate chain: one file, so that renewal replaces both or neither |
//!
//! `credentials.pem` is written last: a folder with it is complete.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::IdentityError;
use super::connect::ControllerAddress;
use super::key::SecretKey;
use super::peer::SpiffeId;
use super::tls::Credentials;

const ROOT: &str = "root.pem";
const RECORD: &str = "identity.toml";
const CREDENTIALS: &str = "credentials.pem";

/// No file of an identity is longer: a chain of three with a key is some 4 KiB.
const MAX_FILE: u64 = 256 << 10;

/// What an identity's holder knows besides keys: `identity.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityRecord {
    /// Version of this file's format.
    pub version: u32,
    /// The holder's name, `spiffe://…`.
    pub id: String,
    /// Where the controller listens.
    pub controller: ControllerAddress,
}

/// The newest version of `identity.toml`.
const RECORD_VERSION: u32 = 1;

impl IdentityRecord {
    /// The record of this holder.
    #[must_use]
    pub fn new(id: &SpiffeId, controller: ControllerAddress) -> Self {
        Self { version: RECORD_VERSION, id: id.to_string(), controller }
    }
}

/// The folder of one identity.
#[derive(Debug, Clone)]
pub struct IdentityDir {
    path: PathBuf,
}

impl IdentityDir {
    /// The folder at `path`; nothing is read or made yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// True when it holds a complete identity.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.path.join(CREDENTIALS).exists()
    }

    /// Makes the folder and proves that it can be written: asked before a token is spent.
    pub fn prepare(&self) -> Result<(), IdentityError> {
        make_private_dir(&self.path)?;
        let probe = self.path.join(".probe");
        write_private(&probe, b"")?;
        remove_durably(&probe)
    }

    /// Takes back [`Self::prepare`] when nothing came of it. A folder that holds anything stays.
    pub fn leave(&self) {
        // It is empty, and in nobody's way.
        let _ = fs::remove_dir(&self.path);
    }

    /// Keeps an identity, in place of the one that was there, if any.
    pub fn create(
        &self,
        credentials: &Credentials,
        controller: ControllerAddress,
    ) -> Result<IdentityRecord, IdentityError> {
        make_private_dir(&self.path)?;
        // Without this file the folder is incomplete, so a crash cannot leave a mixture that looks whole.
        remove_durably(&self.path.join(CREDENTIALS))?;
        let record = IdentityRecord::new(&credentials.certificate().id, controller);
        let text = toml::to_string(&record).map_err(|error| IdentityError::File {
            path: self.path.join(RECORD),
            why: error.to_string(),
        })?;
        write_private(&self.path.join(ROOT), certificates_pem([credentials.root()]).as_bytes())?;
        write_private(&self.path.join(RECORD), text.as_bytes())?;
        self.renew(credentials)?;
        Ok(record)
    }

    /// Replaces key and certificate chain at once.
    pub fn renew(&self, credentials: &Credentials) -> Result<(), IdentityError> {
        let mut text = credentials.key().to_pem();
        text.push_str(&certificates_pem(credentials.chain()));
        write_private(&self.path.join(CREDENTIALS), text.as_bytes())
    }

    /// Reads it back.
    pub fn load(&self) -> Result<(Credentials, IdentityRecord), IdentityError> {
        let root = self.path.join(ROOT);
        let roots = read_certificates(&read_private(&root)?, &root)?;
        let [root] = <[_; 1]>::try_from(roots).map_err(|_| IdentityError::File {
            path: root,
            why: "it must hold one certificate".to_owned(),
        })?;
        let path = self.path.join(CREDENTIALS);
        let text = read_private(&path)?;
        let chain = read_certificates(&text, &path)?;
        let credentials = Credentials::new(root, chain, SecretKey::from_pem(&text)?)?;
        let path = self.path.join(RECORD);
        let record: IdentityRecord = toml::from_str(&read_private(&path)?)
            .map_err(|error| IdentityError::File { path: path.clone(), why: error.to_string() })?;
        if record.version != RECORD_VERSION {
            let why =
                format!("its version is {}, this release knows {RECORD_VERSION}", record.version);
            return Err(IdentityError::File { path, why });
        }
        if record.id != credentials.certificate().id.to_string() {
            let why = format!("it names {}, the certificate does not", record.id);
            return Err(IdentityError::File { path, why });
        }
        Ok((credentials, record))
    }
}

/// Certificates as PEM, in this order.
#[must_use]
pub fn certificates_pem<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'static>>,
) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    let encode = |der: &CertificateDer<'_>| {
        pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), config)
    };
    certificates.into_iter().map(encode).collect()
}

/// Every certificate of a PEM text; `path` is for the error.
pub fn read_certificates(
    text: &str,
    path: &Path,
) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(text.as_bytes()).collect::<Result<_, _>>().map_err(|error| {
        IdentityError::File { path: path.to_owned(), why: format!("it is not PEM: {error}") }
    })
}

fn io(doing: &'static str, path: &Path) -> impl Fn(std::io::Error) -> IdentityError {
    let path = path.to_owned();
    move |source| IdentityError::Io { doing, path: path.clone(), source }
}

/// Makes a folder that only its owner can enter. One that exists stays as it is.
pub fn make_private_dir(path: &Path) -> Result<(), IdentityError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(io("cannot make", path))?;
    sync_parent(path)
}

/// Writes a file that only its owner can read, durably and at once: temporary file, sync, rename, sync of the folder.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), IdentityError> {
    let temporary = temporary_beside(path);
    // A left-over of a crash; it was never the file itself.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(io("cannot remove", &temporary)(error));
        }
        _ => {}
    }
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(io("cannot write", path))?;
    sync_parent(path)
}

/// Reads a file of an identity, at most 256 KiB.
pub fn read_private(path: &Path) -> Result<Zeroizing<String>, IdentityError> {
    use std::io::Read as _;
    let file = File::open(path).map_err(io("cannot read", path))?;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE).read_to_string(&mut text).map_err(io("cannot read", path))?;
    Ok(text)
}

fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

fn remove_durably(path: &Path) -> Result<(), IdentityError> {
    match fs::remove_file(path) {
        Ok(()) => sync_parent(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(io("cannot remove", path)(error)),
    }
}

fn sync_parent(path: &Path) -> Result<(), IdentityError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(io("cannot sync", parent))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn files_are_private_and_replaced_whole() {
        let scratch = tempfile::tempdir().expect("a folder");
        let dir = scratch.path().join("a/b");
        make_private_dir(&dir).expect("a folder is made");
        let path = dir.join("secret");
        fs::write(temporary_beside(&path), "left over").expect("a left-over");
        write_private(&path, b"one").expect("it is written");
        write_private(&path, b"two").expect("it is written again");
        assert_eq!(read_private(&path).expect("it is read").as_str(), "two");
        let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(&dir)), (0o600, 0o700));
        assert_eq!(fs::read_dir(&dir).expect("a listing").count(), 1, "a temporary file stayed");
    }
}
