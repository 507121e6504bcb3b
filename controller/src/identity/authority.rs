//! The fleet's certificate authority: a root that signs an issuing intermediate, which signs everything else.
//!
//! | file | what |
//! |---|---|
//! | `root.pem` | the root; agents and people pin it |
//! | `root.key` | its key: needed only to renew the intermediate, so it may be kept elsewhere |
//! | `issuing.pem`, `issuing.key` | the intermediate and its key |
//! | `token.key` | key of the hashes under which enrolment tokens are kept |
//! | `authority.toml` | the fleet's id; written last, so a folder with it is complete |

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hone_proto::id::FleetId;
use hone_proto::identity::files::{
    certificates_pem, make_private_dir, read_certificates, read_private, write_private,
};
use hone_proto::identity::{Fingerprint, IdentityError, SecretKey};
use hone_proto::time::WallNanos;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyUsagePurpose};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::tokens::TokenMint;

/// A root outlives the servers that pin it: replacing it means enrolling everybody again.
const ROOT_LIFE: Duration = Duration::from_secs(20 * 365 * 86_400);

/// An intermediate that leaked with its machine ends with it, or after this.
const ISSUING_LIFE: Duration = Duration::from_secs(5 * 365 * 86_400);

/// The intermediate is renewed when less than this remains and the root's key is at hand.
const ISSUING_RENEW_BEFORE: Duration = Duration::from_secs(365 * 86_400);

/// Certificates begin a little in the past, for clocks that lag behind: at most this, and less for short lives.
const BACKDATE: Duration = Duration::from_secs(300);

/// The newest version of `authority.toml`.
const VERSION: u32 = 1;

/// An authority that cannot be made or opened, or a request that it does not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("{0} holds an authority already")]
    Exists(PathBuf),
    /// There is none.
    #[error("{0} holds no authority")]
    Absent(PathBuf),
    /// A file, key or certificate is not usable.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The parts do not belong together.
    #[error("the authority is not usable: {0}")]
    Unusable(&'static str),
    /// The intermediate has expired.
    #[error(
        "the issuing certificate expired at {0}: put root.key back and start again to renew it"
    )]
    IssuingExpired(WallNanos),
    /// The signing request is malformed or does not prove that the requester holds the key.
    #[error("the signing request is not usable: {0}")]
    Request(&'static str),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    version: u32,
    fleet: FleetId,
}

/// A certificate authority that somebody brings along.
#[derive(Debug)]
pub struct Imported {
    /// The root, PEM.
    pub root: String,
    /// The intermediate that shall issue, PEM, signed by the root directly.
    pub issuing: String,
    /// Its key, PKCS#8 PEM.
    pub issuing_key: SecretKey,
}

/// The open authority. Holds the intermediate's key, never the root's.
#[derive(Debug)]
pub struct Authority {
    pub(super) fleet: FleetId,
    pub(super) root: CertificateDer<'static>,
    pub(super) issuing: CertificateDer<'static>,
    pub(super) key: SecretKey,
    tokens: TokenMint,
}

impl Authority {
    /// Makes a new authority in `dir`.
    pub fn create(dir: &Path, fleet: FleetId, now: WallNanos) -> Result<Self, AuthorityError> {
        refuse_existing(dir)?;
        make_private_dir(dir)?;
        let root_key = SecretKey::generate()?;
        let root = self_signed_root(&fleet, &root_key, now)?;
        let key = SecretKey::generate()?;
        let issuing = sign_issuing(&fleet, &root, &root_key, &key, now)?;
        write_private(&dir.join("root.key"), root_key.to_pem().as_bytes())?;
        Self::keep(dir, fleet, root, issuing, key, now)
    }

    /// Takes over an authority that was made elsewhere; its root key stays there.
    pub fn import(
        dir: &Path,
        fleet: FleetId,
        imported: Imported,
        now: WallNanos,
    ) -> Result<Self, AuthorityError> {
        refuse_existing(dir)?;
        let root = only_certificate(&imported.root, Path::new("the root"))?;
        let issuing = only_certificate(&imported.issuing, Path::new("the issuing certificate"))?;
        make_private_dir(dir)?;
        Self::keep(dir, fleet, root, issuing, imported.issuing_key, now)
    }

    fn keep(
        dir: &Path,
        fleet: FleetId,
        root: CertificateDer<'static>,
        issuing: CertificateDer<'static>,
        key: SecretKey,
        now: WallNanos,
    ) -> Result<Self, AuthorityError> {
        let tokens = TokenMint::create(&dir.join("token.key"))?;
        let authority = Self { fleet, root, issuing, key, tokens };
        authority.prove(now)?;
        write_private(&dir.join("root.pem"), certificates_pem([&authority.root]).as_bytes())?;
        write_private(&dir.join("issuing.key"), authority.key.to_pem().as_bytes())?;
        write_private(&dir.join("issuing.pem"), certificates_pem([&authority.issuing]).as_bytes())?;
        let record = Record { version: VERSION, fleet: authority.fleet.clone() };
        let text = toml::to_string(&record)
            .map_err(|_| AuthorityError::Unusable("its record cannot be written"))?;
        write_private(&dir.join("authority.toml"), text.as_bytes())?;
        Ok(authority)
    }

    /// Opens the authority in `dir`. Renews the intermediate when it is in its last year and the root's key is there.
    pub fn open(dir: &Path, now: WallNanos) -> Result<Self, AuthorityError> {
        let record = dir.join("authority.toml");
        if !record.exists() {
            return Err(AuthorityError::Absent(dir.to_owned()));
        }
        let record: Record = toml::from_str(&read_private(&record)?)
            .map_err(|_| AuthorityError::Unusable("authority.toml is malformed"))?;
        if record.version != VERSION {
            return Err(AuthorityError::Unusable("authority.toml is of another release"));
        }
        let read = |name: &str| read_private(&dir.join(name));
        let root = only_certificate(&read("root.pem")?, &dir.join("root.pem"))?;
        let mut issuing = only_certificate(&read("issuing.pem")?, &dir.join("issuing.pem"))?;
        let key = SecretKey::from_pem(&read("issuing.key")?)?;
        let ends = not_after(&issuing)?;
        let root_key = dir.join("root.key");
        if ends.since(now) < ISSUING_RENEW_BEFORE && root_key.exists() {
            let root_key = SecretKey::from_pem(&read_private(&root_key)?)?;
            issuing = sign_issuing(&record.fleet, &root, &root_key, &key, now)?;
            write_private(&dir.join("issuing.pem"), certificates_pem([&issuing]).as_bytes())?;
        } else if ends <= now {
            return Err(AuthorityError::IssuingExpired(ends));
        }
        let tokens = TokenMint::open(&dir.join("token.key"))?;
        let authority = Self { fleet: record.fleet, root, issuing, key, tokens };
        authority.prove(now)?;
        Ok(authority)
    }

    /// The fleet that it is for.
    #[must_use]
    pub const fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    /// The root that everybody pins.
    #[must_use]
    pub const fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// What is printed beside a token, so that a newcomer knows whom it talks to.
    #[must_use]
    pub fn root_fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.root)
    }

    /// Makes and recognises enrolment tokens.
    #[must_use]
    pub const fn tokens(&self) -> &TokenMint {
        &self.tokens
    }

    /// When the intermediate ends; no leaf outlives it.
    pub fn issuing_until(&self) -> Result<WallNanos, AuthorityError> {
        not_after(&self.issuing)
    }

    /// The parts belong together: a leaf made now verifies up to the root, as every peer will verify it.
    fn prove(&self, now: WallNanos) -> Result<(), AuthorityError> {
        let credentials = self.controller_credentials(Duration::from_secs(3600), now)?;
        let [leaf, intermediates @ ..] = credentials.chain() else {
            return Err(AuthorityError::Unusable("it issues no chain"));
        };
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(self.root.clone())
            .map_err(|_| AuthorityError::Unusable("its root is no certificate"))?;
        let parsed = rustls::server::ParsedCertificate::try_from(leaf)
            .map_err(|_| AuthorityError::Unusable("it issues no certificates"))?;
        let at = rustls::pki_types::UnixTime::since_unix_epoch(Duration::from_nanos(now.get()));
        let algorithms =
            rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            intermediates,
            at,
            algorithms.all,
        )
        .map_err(|_| AuthorityError::Unusable("its key, intermediate and root do not form a chain"))
    }
}

fn refuse_existing(dir: &Path) -> Result<(), AuthorityError> {
    // Any of these would be lost for good if it were written over.
    let precious = ["authority.toml", "root.pem", "root.key", "issuing.key"];
    let complete = dir.join("authority.toml").exists();
    if complete {
        return Err(AuthorityError::Exists(dir.to_owned()));
    }
    // A creation that was cut off before its record was written was never used: begin again.
    for name in precious {
        let path = dir.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                let error = IdentityError::Io { doing: "cannot remove", path, source };
                return Err(error.into());
            }
            _ => {}
        }
    }
    Ok(())
}

fn only_certificate(text: &str, path: &Path) -> Result<CertificateDer<'static>, AuthorityError> {
    let [certificate] =
        <[_; 1]>::try_from(read_certificates(text, path)?).map_err(|_| IdentityError::File {
            path: path.to_owned(),
            why: "it must hold one certificate".to_owned(),
        })?;
    Ok(certificate)
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<WallNanos, AuthorityError> {
    let unusable = AuthorityError::Unusable("a certificate of it cannot be read");
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else {
        return Err(unusable);
    };
    match u64::try_from(parsed.validity().not_after.timestamp()) {
        Ok(seconds) => Ok(WallNanos::new(seconds.saturating_mul(1_000_000_000))),
        Err(_) => Err(unusable),
    }
}

fn authority_params(name: &str, below: u8, life: Duration, now: WallNanos) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, life, now, WallNanos::new(u64::MAX));
    params
}

/// Valid from a little before `now`, for `life`, but not past `end`.
pub(super) fn set_validity(
    params: &mut CertificateParams,
    life: Duration,
    now: WallNanos,
    end: WallNanos,
) {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let seconds = |time: WallNanos| Duration::from_secs(time.get() / 1_000_000_000);
    let backdate = BACKDATE.min(life / 10);
    let until = now.plus(life).min(end);
    params.not_before = epoch + seconds(now).saturating_sub(backdate);
    params.not_after = epoch + seconds(until);
    params.serial_number = Some(random_serial());
}

/// Random, since the library's default follows from the key, and one key has several certificates.
fn random_serial() -> rcgen::SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    // Positive, and without a leading zero byte that encoders may drop.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    rcgen::SerialNumber::from_slice(&bytes)
}

fn self_signed_root(
    fleet: &FleetId,
    key: &SecretKey,
    now: WallNanos,
) -> Result<CertificateDer<'static>, AuthorityError> {
    let params = authority_params(&format!("hone fleet root {}", short(fleet)), 1, ROOT_LIFE, now);
    let signed = params.self_signed(&*key.pair()?);
    Ok(signed.map_err(|_| AuthorityError::Unusable("the root cannot be signed"))?.der().clone())
}

fn sign_issuing(
    fleet: &FleetId,
    root: &CertificateDer<'static>,
    root_key: &SecretKey,
    key: &SecretKey,
    now: WallNanos,
) -> Result<CertificateDer<'static>, AuthorityError> {
    let name = format!("hone issuing {}", short(fleet));
    let mut params = authority_params(&name, 0, ISSUING_LIFE, now);
    let end = not_after(root)?;
    set_validity(&mut params, ISSUING_LIFE, now, end);
    let root_pair = root_key.pair()?;
    let issuer = Issuer::from_ca_cert_der(root, &*root_pair)
        .map_err(|_| AuthorityError::Unusable("the root cannot sign"))?;
    let signed = params.signed_by(&*key.pair()?, &issuer);
    let signed =
        signed.map_err(|_| AuthorityError::Unusable("the intermediate cannot be signed"))?;
    Ok(signed.der().clone())
}

/// A common name holds 64 characters; a fleet id alone may have as many.
fn short(fleet: &FleetId) -> String {
    fleet.as_str().chars().take(40).collect()
}

#[cfg(test)]
mod tests;
