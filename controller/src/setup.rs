//! The first minute of a controller: its authority, its empty state, its first operator. What `hone init` does.
//!
//! | below the data folder | what |
//! |---|---|
//! | `authority/` | the fleet's certificate authority |
//! | `state/` and what stands beside it | the durable facts |
//! | `chunks/` | bulk data |
//! | `series/` | metrics, logs and samples |
//! | `backup/` | the newest export of the durable facts |
//! | `generation` | the highest generation that a restore began |
//! | `address.toml` | where the controller says that it listens; written last, so a folder with it is complete |
//!
//! A set-up that was interrupted is finished by the next one, with the authority that it had made.

use std::path::{Path, PathBuf};

use hone_proto::id::{FleetId, UserName};
use hone_proto::identity::files::{make_private_dir, read_private, write_private};
use hone_proto::identity::{ControllerAddress, Credentials, Fingerprint, IdentityError};
use hone_proto::time::Now;

use crate::core::record::CertificateRecord;
use crate::core::{Effect, Fleet, Input, Settings, Subject, Ticket};
use crate::identity::{Authority, AuthorityError, Lifetimes};
use crate::store::{Batch, SledStore, Store, StoreError};

/// Where things lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataDir(PathBuf);

impl DataDir {
    /// Below this folder.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
    /// The folder itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
    /// The certificate authority.
    #[must_use]
    pub fn authority(&self) -> PathBuf {
        self.0.join("authority")
    }
    /// The durable facts: the store makes its own folders there.
    #[must_use]
    pub fn store(&self) -> &Path {
        &self.0
    }
    /// Bulk data.
    #[must_use]
    pub fn chunks(&self) -> PathBuf {
        self.0.join("chunks")
    }
    /// Metrics, logs and samples.
    #[must_use]
    pub fn series(&self) -> PathBuf {
        self.0.join("series")
    }
    /// The newest export of the state.
    #[must_use]
    pub fn export(&self) -> PathBuf {
        self.0.join("backup").join("state.export")
    }
    /// The highest generation that a restore began here; outlives the state.
    #[must_use]
    pub fn generation(&self) -> PathBuf {
        self.0.join("generation")
    }
    fn address_file(&self) -> PathBuf {
        self.0.join("address.toml")
    }

    /// Whether a controller lives here.
    #[must_use]
    pub fn is_set_up(&self) -> bool {
        self.address_file().exists()
    }

    /// Where the controller says that it listens.
    ///
    /// # Errors
    /// When no controller lives here, or the file is damaged.
    pub fn address(&self) -> Result<ControllerAddress, SetupError> {
        if !self.is_set_up() {
            return Err(SetupError::NotSetUp(self.0.clone()));
        }
        let path = self.address_file();
        let text = read_private(&path)?;
        toml::from_str(&text).map_err(|error| SetupError::Address { path, why: error.to_string() })
    }
}

/// Why a controller cannot be set up, or is not.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// There is one already.
    #[error("{} holds a controller already", .0.display())]
    Exists(PathBuf),
    /// There is none.
    #[error("{} holds no controller", .0.display())]
    NotSetUp(PathBuf),
    /// `address.toml` is damaged.
    #[error("{} cannot be used: {why}", path.display())]
    Address {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The authority cannot be made.
    #[error("the certificate authority cannot be made")]
    Authority(#[from] AuthorityError),
    /// The state cannot be made.
    #[error("the state cannot be made")]
    Store(#[from] StoreError),
    /// A file cannot be made.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// A new controller.
#[derive(Debug)]
pub struct Founded {
    /// The fleet's id.
    pub fleet: FleetId,
    /// Fingerprint of the root that everybody pins.
    pub root: Fingerprint,
    /// The first operator's.
    pub credentials: Credentials,
}

/// Sets a controller up in `dir`, with `first` as its first admin. `fleet` names it, unless an interrupted set-up has.
///
/// # Errors
/// When there is one already, or files cannot be made.
pub fn found(
    dir: &DataDir,
    fleet: FleetId,
    first: &UserName,
    address: &ControllerAddress,
    now: Now,
) -> Result<Founded, SetupError> {
    if dir.is_set_up() {
        return Err(SetupError::Exists(dir.path().to_owned()));
    }
    make_private_dir(dir.path())?;
    let authority = match Authority::open(&dir.authority(), now.wall) {
        Err(AuthorityError::Absent(_)) => Authority::create(&dir.authority(), fleet, now.wall)?,
        opened => opened?,
    };
    let subject = Subject::User(first.clone());
    let life = Lifetimes::default().of(&subject);
    let credentials = authority.local_credentials(&subject, life, now.wall)?;
    let facts = &credentials.certificate().facts;
    let held =
        CertificateRecord { key: facts.key.to_string(), not_after: facts.not_after, follows: None };
    let mut store = SledStore::open(dir.store())?;
    // What an interrupted set-up left is that of a fleet in which nothing has happened yet.
    let mut batch = Batch::new();
    for record in store.scan(b"")? {
        batch.delete(record.0);
    }
    let (mut state, mut effects) =
        Fleet::found(Settings::default(), authority.fleet().clone(), first.clone(), now);
    effects.extend(
        state.handle(
            now,
            Input::Issued { ticket: Ticket(0), subject, certificate: held, with: None },
        ),
    );
    for effect in effects {
        if let Effect::Put(key, value) = effect {
            batch.put(key, value);
        }
    }
    store.commit(&batch)?;
    let text = toml::to_string(address).map_err(|error| SetupError::Address {
        path: dir.address_file(),
        why: error.to_string(),
    })?;
    write_private(&dir.address_file(), text.as_bytes())?;
    Ok(Founded {
        fleet: authority.fleet().clone(),
        root: authority.root_fingerprint(),
        credentials,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hone_proto::identity::Peer;

    fn address() -> ControllerAddress {
        ControllerAddress::consecutive("hone.example", 7400)
    }

    fn try_found(dir: &DataDir) -> Result<Founded, SetupError> {
        let fleet = "fleet-1".parse().expect("an id");
        found(dir, fleet, &"ada".parse().expect("a name"), &address(), Now::read())
    }

    #[test]
    fn a_new_controller_knows_its_first_admin_and_its_address() {
        let scratch = tempfile::tempdir().expect("a folder");
        let dir = DataDir::new(scratch.path().join("hone"));
        assert!(matches!(dir.address(), Err(SetupError::NotSetUp(_))));
        let founded = try_found(&dir).expect("it is set up");
        assert_eq!(dir.address().expect("an address"), address());
        let certificate = founded.credentials.certificate();
        assert_eq!(certificate.id.peer, Peer::User("ada".parse().expect("a name")));
        let store = SledStore::open(dir.store()).expect("the state");
        let records = store.scan(b"").expect("records");
        let text = |(key, value)| (String::from_utf8(key).expect("a key is text"), value);
        let records = records.into_iter().map(text);
        let fleet = Fleet::load(Settings::default(), records).expect("a fleet");
        let ada = fleet.access().users.into_iter().next().expect("a user");
        assert_eq!((ada.0.as_str(), ada.1), ("ada", crate::core::record::Role::Admin));
        let key = certificate.facts.key.to_string();
        assert!(fleet.holder_of(&key).is_some(), "the first certificate cannot be renewed");
    }

    #[test]
    fn nothing_is_set_up_twice_and_what_was_interrupted_is_finished() {
        let scratch = tempfile::tempdir().expect("a folder");
        let dir = DataDir::new(scratch.path());
        let first = try_found(&dir).expect("it is set up");
        assert!(matches!(try_found(&dir), Err(SetupError::Exists(_))));
        std::fs::remove_file(dir.address_file()).expect("as if interrupted before the end");
        let again = try_found(&dir).expect("it is finished");
        assert_eq!(again.root, first.root, "another authority was made");
    }
}
