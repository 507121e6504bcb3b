//! Tokens work once, for what they were made for, and only with the right controller; expired keys renew, within
//! limits.

use std::time::Duration;

use hone_controller::core::input::{Caller, Command};
use hone_controller::core::record::{CertificateRecord, TokenPurpose};
use hone_controller::core::{Input, Subject};
use hone_controller::identity::Lifetimes;
use hone_controller::identity::joins::Joins;
use hone_proto::enrol::{EnrolError, ask_renewal, enrol, join};
use hone_proto::error::Reason;
use hone_proto::identity::renew::{RenewalError, Renewer};
use hone_proto::identity::{
    CertificateFacts, ClientIdentity, Connector, Credentials, Fingerprint, IdentityDir, Peer, Role,
};
use hone_proto::time::{Now, WallNanos};
use hone_proto::wire::{self, EnrolKind};
use hone_tests::controller::{ADMIN, InProcess, fresh_id};
use secrecy::ExposeSecret as _;

use super::{soon, why};

/// The controller's reason; `None` when it was let in, or failed before the controller could refuse.
fn reason(refused: Result<Credentials, EnrolError>) -> Option<Reason> {
    match refused {
        Err(EnrolError::Refused(refusal)) => Some(refusal.reason),
        _ => None,
    }
}

#[tokio::test]
async fn of_a_hundred_that_present_one_token_at_once_one_gets_in() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.node_token(0).await.expect("a token");
    let all = (0..100).map(|_| controller.enrol(&token, EnrolKind::Node));
    let all = soon("a hundred joins", futures_util::future::join_all(all)).await;
    let (won, lost): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{won:?}");
    for one in lost {
        assert_eq!(reason(one), Some(Reason::TokenRefused));
    }
    let replayed = controller.enrol(&token, EnrolKind::Node).await;
    assert_eq!(reason(replayed), Some(Reason::TokenRefused), "the token worked again");
    let nodes = controller.fleet.read(|fleet| fleet.nodes().len()).await.expect("the fleet");
    assert_eq!(nodes, 1, "a refused join made a node");
}

#[tokio::test]
async fn a_token_is_refused_alike_whatever_is_wrong_with_it() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.node_token(0).await.expect("a token");
    let (id, secret) = token.split_once('.').expect("two parts");
    let other = controller.node_token(0).await.expect("a token");
    let (_, other_secret) = other.split_once('.').expect("two parts");
    let zero = "0".repeat(16);
    let mut messages = std::collections::BTreeSet::new();
    for (what, token, kind) in [
        ("of another kind", token.clone(), EnrolKind::User),
        ("of another token's secret", format!("{id}.{other_secret}"), EnrolKind::Node),
        ("unknown", format!("{zero}.{secret}"), EnrolKind::Node),
        ("no token", "let me in".to_owned(), EnrolKind::Node),
    ] {
        match controller.enrol(&token, kind).await {
            Err(EnrolError::Refused(refusal)) => {
                assert_eq!(refusal.reason, Reason::TokenRefused, "{what}");
                messages.insert(refusal.message);
            }
            other => panic!("{what}: {other:?}"),
        }
    }
    assert_eq!(messages.len(), 1, "the answers tell what was wrong: {messages:?}");
    controller.enrol(&token, EnrolKind::Node).await.expect("the token was not spent by others");
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let controller = InProcess::start().await.expect("a controller");
    let mint = controller.identities.issuer.authority.tokens();
    let (text, parts) = mint.mint().expect("a token");
    let caller = Caller { user: ADMIN.parse().expect("a name"), role: Role::Admin };
    let command = Box::new(Command::MakeToken {
        public_id: parts.public_id,
        hash: parts.hash,
        purpose: TokenPurpose::Node,
        role: None,
        expires: Now::read().wall,
    });
    let request = fresh_id().parse().expect("an id");
    let made = move |ticket| Input::Request { ticket, caller, request, command };
    controller.fleet.call(made).await.expect("the token is kept");
    let refused = controller.enrol(text.expose_secret(), EnrolKind::Node).await;
    assert_eq!(reason(refused), Some(Reason::TokenRefused));
}

#[tokio::test]
async fn another_fingerprint_spends_no_token() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.node_token(0).await.expect("a token");
    let mut invitation = controller.invitation(&token, EnrolKind::Node);
    invitation.root = Fingerprint::of(b"another root");
    assert_eq!(reason(enrol(invitation).await), Some(Reason::Unauthenticated));
    controller.enrol(&token, EnrolKind::Node).await.expect("the token was never sent");
}

#[tokio::test]
async fn an_enrolled_identity_is_kept_and_a_folder_that_cannot_be_written_spends_no_token() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.invite("bob", "submitter").await.expect("a token");
    let scratch = tempfile::tempdir().expect("a folder");
    std::fs::write(scratch.path().join("taken"), "a file").expect("a file");
    let dir = IdentityDir::new(scratch.path().join("taken/identity"));
    let invitation = || controller.invitation(&token, EnrolKind::User);
    assert!(matches!(join(&dir, invitation()).await, Err(EnrolError::Identity(_))));
    let dir = IdentityDir::new(scratch.path().join("identity"));
    join(&dir, invitation()).await.expect("bob logs in");
    let (kept, record) = dir.load().expect("the identity");
    assert_eq!(record.controller, controller.address);
    assert_eq!(kept.certificate().id.peer, Peer::User("bob".parse().expect("a name")));
    let me = controller.operator(&kept).expect("a client").who_am_i(wire::WhoAmIRequest {}).await;
    let me = me.expect("an answer").into_inner();
    assert_eq!((me.user.as_str(), me.role.as_str()), ("bob", "submitter"));
}

#[tokio::test]
async fn tries_to_enrol_are_bounded_per_source() {
    let controller = InProcess::with(Lifetimes::default(), Joins::new(3, 1000)).await;
    let controller = controller.expect("a controller");
    for _ in 0..3 {
        let refused = controller.enrol("no token", EnrolKind::Node).await;
        assert_eq!(reason(refused), Some(Reason::TokenRefused));
    }
    let token = controller.node_token(0).await.expect("a token");
    let refused = controller.enrol(&token, EnrolKind::Node).await;
    assert_eq!(reason(refused), Some(Reason::Overloaded));
}

/// Lets the fleet know this certificate of the subject, as if it had been issued when it began.
async fn known(
    controller: &InProcess,
    subject: Subject,
    facts: &CertificateFacts,
    not_after: WallNanos,
) {
    let certificate = CertificateRecord { key: facts.key.to_string(), not_after };
    let issued = move |ticket| Input::Issued { ticket, subject, certificate };
    controller.fleet.call(issued).await.expect("the certificate is recorded");
}

async fn renew_expired(
    controller: &InProcess,
    old: &Credentials,
) -> Result<Credentials, RenewalError> {
    let scratch = tempfile::tempdir().expect("a folder");
    let dir = IdentityDir::new(scratch.path());
    dir.create(old, controller.address.clone()).expect("the identity is kept");
    let nameless = ClientIdentity::nameless(old).expect("an identity");
    let (mut renewer, newest) = Renewer::new(dir.clone(), old.clone()).expect("a renewer");
    let connector = Connector::new(newest);
    let to = controller.address.clone();
    let ask = |renewal| ask_renewal(connector, nameless.into(), to, renewal);
    soon("a renewal", renewer.renew_once(Now::read().wall, ask)).await?;
    Ok(dir.load().expect("the renewed identity").0)
}

#[tokio::test]
async fn an_expired_key_renews_while_it_is_known_unrevoked_and_not_too_old() {
    let controller = InProcess::start().await.expect("a controller");
    let enrolled = controller.enrolled_node().await.expect("a node");
    let Peer::Node(id) = enrolled.certificate().id.peer.clone() else { panic!("not a node") };
    let subject = || Subject::Node(id.clone());
    let old = controller.identities.expired(&subject()).expect("credentials");
    let facts = &old.certificate().facts;
    let refused = async |what: &str| match renew_expired(&controller, &old).await {
        Err(RenewalError::Refused(refusal)) => assert_eq!(refusal.reason, Reason::NotPermitted),
        other => panic!("{what}: {other:?}"),
    };

    refused("an unknown key").await;
    let long_ago = Duration::from_secs(91 * 86_400).as_nanos();
    let long_ago = Now::read().wall.get() - u64::try_from(long_ago).expect("a time");
    known(&controller, subject(), facts, WallNanos::new(long_ago)).await;
    refused("too old a key").await;

    known(&controller, subject(), facts, facts.not_after).await;
    let new = renew_expired(&controller, &old).await.expect("it renews");
    assert_eq!(new.certificate().id, old.certificate().id);
    let mut link = controller.link(&new).expect("a client");
    let request = wire::SigningRequest { csr_der: new.key().signing_request().expect("a request") };
    link.renew(request).await.expect("the new certificate is in force");

    known(&controller, subject(), facts, facts.not_after).await;
    let request = wire::RevokeNodeRequest { request_id: fresh_id(), node: id.to_string() };
    let mut admin = controller.operator(&controller.admin).expect("a client");
    admin.revoke_node(request).await.expect("the node is revoked");
    refused("a revoked node").await;
}

#[tokio::test]
async fn a_request_that_cannot_be_signed_costs_no_token() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.node_token(0).await.expect("a token");
    let nobody = controller.identities.nobody().expect("an identity");
    let plane = hone_proto::identity::Plane::Enrolment;
    let channel = controller.channel(nobody, plane).expect("a channel");
    let mut client = wire::enrolment_client::EnrolmentClient::new(channel);
    let request = wire::EnrolRequest {
        token: token.clone(),
        signing_request: Some(wire::SigningRequest { csr_der: vec![0x30, 0] }),
        kind: EnrolKind::Node.into(),
        display_name: String::new(),
    };
    assert_eq!(why(client.enrol(request).await).reason, Reason::BadRequest);
    controller.enrol(&token, EnrolKind::Node).await.expect("the token is still good");
}
