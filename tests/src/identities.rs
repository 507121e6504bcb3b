//! Named identities, good and bad, one of each way in which a certificate can be wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use hone_controller::core::Subject;
use hone_controller::identity::authority::Imported;
use hone_controller::identity::{Authority, Issuer, Lifetimes};
use hone_proto::identity::{ClientIdentity, Credentials, SecretKey};
use hone_proto::time::{Now, WallNanos};
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::CertificateDer;

const HOUR: Duration = Duration::from_secs(3600);

/// Two authorities of one fleet id: the fleet's own, and a stranger's that names itself the same.
pub struct Identities {
    /// The fleet's.
    pub issuer: Arc<Issuer>,
    foreign: Authority,
    sibling: Authority,
    _own: Option<tempfile::TempDir>,
    _scratch: tempfile::TempDir,
}

/// A node with this id.
pub fn node(id: &str) -> Result<Subject> {
    Ok(Subject::Node(id.parse()?))
}

/// A person with this name.
pub fn user(name: &str) -> Result<Subject> {
    Ok(Subject::User(name.parse()?))
}

impl Identities {
    /// Makes the authorities; what the fleet's own one issues lives so long.
    pub fn new(lifetimes: Lifetimes) -> Result<Self> {
        let own = tempfile::tempdir()?;
        let dir = own.path().join("own");
        Authority::create(&dir, "fleet-1".parse()?, Now::read().wall)?;
        Ok(Self { _own: Some(own), ..Self::around(&dir, lifetimes)? })
    }

    /// Those of the fleet whose authority lies in `own`, and the stranger's beside it.
    pub fn around(own: &Path, lifetimes: Lifetimes) -> Result<Self> {
        let scratch = tempfile::tempdir()?;
        let now = Now::read().wall;
        let dir = |name: &str| -> PathBuf { scratch.path().join(name) };
        let authority = Authority::open(own, now)?;
        let foreign = Authority::create(&dir("foreign"), authority.fleet().clone(), now)?;
        // The same root and intermediate, but in the name of another fleet.
        let read = |name: &str| std::fs::read_to_string(own.join(name));
        let imported = Imported {
            root: read("root.pem")?,
            issuing: read("issuing.pem")?,
            issuing_key: SecretKey::from_pem(&read("issuing.key")?)?,
        };
        let sibling = Authority::import(&dir("sibling"), "fleet-2".parse()?, imported, now)?;
        let issuer = Arc::new(Issuer { authority, lifetimes });
        Ok(Self { issuer, foreign, sibling, _own: None, _scratch: scratch })
    }

    /// In force for an hour.
    pub fn good(&self, subject: &Subject) -> Result<Credentials> {
        self.at(subject, HOUR, Now::read().wall)
    }

    /// Issued at `now` for `life`.
    pub fn at(&self, subject: &Subject, life: Duration, now: WallNanos) -> Result<Credentials> {
        Ok(self.issuer.authority.local_credentials(subject, life, now)?)
    }

    /// Ended an hour ago.
    pub fn expired(&self, subject: &Subject) -> Result<Credentials> {
        self.at(subject, HOUR, before(HOUR * 2))
    }

    /// Begins in an hour.
    pub fn not_yet_valid(&self, subject: &Subject) -> Result<Credentials> {
        self.at(subject, HOUR, Now::read().wall.plus(HOUR * 2))
    }

    /// Of the stranger's authority, but trusting ours.
    pub fn foreign(&self, subject: &Subject) -> Result<Credentials> {
        let theirs = self.foreign.local_credentials(subject, HOUR, Now::read().wall)?;
        self.trusting_us(theirs.chain().to_vec(), theirs.key().clone())
    }

    /// Signed by our own intermediate, in the name of another fleet.
    pub fn of_another_fleet(&self, subject: &Subject) -> Result<Credentials> {
        Ok(self.sibling.local_credentials(subject, HOUR, Now::read().wall)?)
    }

    /// Sound, but without the intermediate that leads to the root.
    pub fn without_intermediate(&self, subject: &Subject) -> Result<Credentials> {
        let good = self.good(subject)?;
        self.trusting_us(good.chain().iter().take(1).cloned().collect(), good.key().clone())
    }

    /// Signed by nobody but itself.
    pub fn self_signed(&self, name: &str) -> Result<Credentials> {
        let key = SecretKey::generate()?;
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(name.try_into()?)];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let certificate = params.self_signed(&*key.pair()?)?;
        self.trusting_us(vec![certificate.der().clone()], key)
    }

    /// The controller's own certificate, made for servers.
    pub fn controller(&self) -> Result<Credentials> {
        Ok(self.issuer.authority.controller_credentials(HOUR, Now::read().wall)?)
    }

    /// A controller of the stranger's authority.
    pub fn foreign_controller(&self) -> Result<Credentials> {
        Ok(self.foreign.controller_credentials(HOUR, Now::read().wall)?)
    }

    /// A controller of the same root, in the name of another fleet.
    pub fn controller_of_another_fleet(&self) -> Result<Credentials> {
        Ok(self.sibling.controller_credentials(HOUR, Now::read().wall)?)
    }

    /// No certificate at all; trusts our root.
    pub fn nobody(&self) -> Result<ClientIdentity> {
        Ok(ClientIdentity::nameless(&self.controller()?)?)
    }

    fn trusting_us(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: SecretKey,
    ) -> Result<Credentials> {
        Ok(Credentials::new(self.issuer.authority.root().clone(), chain, key)?)
    }
}

fn before(span: Duration) -> WallNanos {
    let back = u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
    WallNanos::new(Now::read().wall.get().saturating_sub(back))
}
