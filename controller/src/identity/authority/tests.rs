//! The authority by itself: what it keeps, what it signs, and what it refuses.

use std::os::unix::fs::PermissionsExt as _;

use hone_proto::identity::{Peer, PeerCertificate};
use hone_proto::time::Now;
use rcgen::SanType;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer as _;

use super::*;
use crate::core::input::Subject;

fn fleet() -> FleetId {
    "f1".parse().expect("a fleet id")
}

fn node() -> Subject {
    Subject::Node("n1".parse().expect("a node id"))
}

const HOUR: Duration = Duration::from_secs(3600);

fn made() -> (tempfile::TempDir, Authority, WallNanos) {
    let scratch = tempfile::tempdir().expect("a folder");
    let now = Now::read().wall;
    let authority =
        Authority::create(&scratch.path().join("ca"), fleet(), now).expect("an authority");
    (scratch, authority, now)
}

#[test]
fn an_authority_is_found_again_and_its_files_are_private() {
    let (scratch, authority, now) = made();
    let dir = scratch.path().join("ca");
    let again = Authority::open(&dir, now).expect("the same authority");
    assert_eq!(again.root_fingerprint(), authority.root_fingerprint());
    assert_eq!(again.fleet(), authority.fleet());
    for entry in fs::read_dir(&dir).expect("a listing") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
    assert!(matches!(Authority::create(&dir, fleet(), now), Err(AuthorityError::Exists(_))));
    assert!(matches!(Authority::open(scratch.path(), now), Err(AuthorityError::Absent(_))));
}

#[test]
fn a_creation_that_was_cut_off_begins_again() {
    let (scratch, first, now) = made();
    let dir = scratch.path().join("ca");
    fs::remove_file(dir.join("authority.toml")).expect("cut off before the record");
    let second = Authority::create(&dir, fleet(), now).expect("an authority");
    assert_ne!(second.root_fingerprint(), first.root_fingerprint());
}

#[test]
fn the_root_key_is_needed_only_to_renew_the_intermediate() {
    let (scratch, authority, now) = made();
    let dir = scratch.path().join("ca");
    let root_key = fs::read(dir.join("root.key")).expect("the root's key");
    fs::remove_file(dir.join("root.key")).expect("it is taken away");
    Authority::open(&dir, now).expect("it opens without");
    let late = authority.issuing_until().expect("its end");
    assert!(matches!(Authority::open(&dir, late), Err(AuthorityError::IssuingExpired(_))));
    fs::write(dir.join("root.key"), root_key).expect("it is put back");
    let renewed = Authority::open(&dir, late).expect("the intermediate is renewed");
    assert!(renewed.issuing_until().expect("its end") > late);
    assert_eq!(renewed.root_fingerprint(), authority.root_fingerprint());
}

#[test]
fn parts_that_do_not_belong_together_are_refused() {
    let (one, _, now) = made();
    let (two, _, _) = made();
    let (one, two) = (one.path().join("ca"), two.path().join("ca"));
    fs::copy(two.join("issuing.key"), one.join("issuing.key")).expect("another's key");
    assert!(matches!(Authority::open(&one, now), Err(AuthorityError::Unusable(_))));
}

#[test]
fn an_authority_made_elsewhere_is_taken_over_without_its_root_key() {
    let (scratch, original, now) = made();
    let dir = scratch.path().join("ca");
    let read = |name: &str| fs::read_to_string(dir.join(name)).expect("a file");
    let imported = || Imported {
        root: read("root.pem"),
        issuing: read("issuing.pem"),
        issuing_key: SecretKey::from_pem(&read("issuing.key")).expect("a key"),
    };
    let other = scratch.path().join("other");
    let taken = Authority::import(&other, fleet(), imported(), now).expect("it is taken over");
    assert_eq!(taken.root_fingerprint(), original.root_fingerprint());
    assert!(!other.join("root.key").exists());
    let mut wrong = imported();
    wrong.issuing_key = SecretKey::generate().expect("a key");
    let third = scratch.path().join("third");
    assert!(matches!(
        Authority::import(&third, fleet(), wrong, now),
        Err(AuthorityError::Unusable(_))
    ));
    assert!(matches!(Authority::open(&third, now), Err(AuthorityError::Absent(_))));
}

#[test]
fn a_leaf_says_what_the_controller_chose_and_for_how_long() {
    let (_scratch, authority, now) = made();
    let key = SecretKey::generate().expect("a key");
    let request = key.signing_request().expect("a request");
    let issued = authority.issue(&request, &node(), HOUR, now).expect("a certificate");
    let leaf = PeerCertificate::read(&issued.answer.chain_der[0]).expect("a leaf");
    assert_eq!(leaf.id.to_string(), "spiffe://f1/node/n1");
    assert_eq!(leaf.facts.key, key.digest().expect("a digest"));
    assert!(leaf.facts.not_before < now && now.since(leaf.facts.not_before) <= HOUR / 5);
    assert!(leaf.facts.not_after <= now.plus(HOUR));
    assert!(leaf.facts.not_after.since(now) > HOUR - Duration::from_secs(2));
    let again = authority.issue(&request, &node(), HOUR, now).expect("a certificate");
    assert_ne!(again.facts.serial, issued.facts.serial, "one key, two serial numbers");
    let endless = authority.issue(&request, &node(), HOUR * 1_000_000, now).expect("a certificate");
    assert_eq!(Ok(endless.facts.not_after), authority.issuing_until().map_err(|e| e.to_string()));
}

#[test]
fn names_in_a_request_are_not_taken() {
    let (_scratch, authority, now) = made();
    let key = SecretKey::generate().expect("a key");
    let mut params = CertificateParams::default();
    let name = "spiffe://f1/controller".try_into().expect("a URI");
    params.subject_alt_names = vec![SanType::URI(name)];
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&*key.pair().expect("a pair")).expect("a request");
    let issued = authority.issue(request.der(), &node(), HOUR, now).expect("a certificate");
    let (_, leaf) =
        x509_parser::parse_x509_certificate(&issued.answer.chain_der[0]).expect("a leaf");
    assert!(!leaf.is_ca());
    let usage = leaf.extended_key_usage().expect("extensions").expect("a usage").value;
    assert!(usage.client_auth && !usage.server_auth && !usage.any);
    let peer = PeerCertificate::read(&issued.answer.chain_der[0]).expect("a peer").id.peer;
    assert_eq!(peer, Peer::Node("n1".parse().expect("a node id")));
}

#[test]
fn a_request_without_proof_of_its_key_is_refused() {
    let (_scratch, authority, now) = made();
    let key = SecretKey::generate().expect("a key");
    let request = key.signing_request().expect("a request");
    let issue = |bytes: &[u8]| authority.issue(bytes, &node(), HOUR, now).map(|_| ());
    assert!(issue(&request).is_ok());
    assert!(issue(b"").is_err());
    assert!(issue(&vec![0x30; 9 << 10]).is_err());
    // All that is signed, and the signature. (Of the algorithm's name between them the parser does not read each bit.)
    let (_, parsed) = X509CertificationRequest::from_der(&request).expect("a request");
    let signed = parsed.certification_request_info.raw.len();
    let signature = request.len() - parsed.signature_value.data.len();
    for at in (3..3 + signed).chain(signature..request.len()) {
        let mut broken = request.clone();
        broken[at] ^= 1;
        assert!(issue(&broken).is_err(), "byte {at} was changed");
    }
    let other = SecretKey::generate().expect("a key").signing_request().expect("a request");
    // The other's body under this one's signature.
    let mut spliced = other;
    let tail = request.len() - 64;
    spliced.truncate(spliced.len().min(tail));
    spliced.extend_from_slice(&request[tail..]);
    assert!(issue(&spliced).is_err());
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).expect("an RSA key");
    let rsa = CertificateParams::default().serialize_request(&rsa).expect("a request");
    assert!(issue(rsa.der()).is_err(), "RSA was taken");
}
