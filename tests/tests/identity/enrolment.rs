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
    SecretKey,
};
use hone_proto::time::{Now, WallNanos};
use hone_proto::wire::{self, EnrolKind};
use hone_tests::controller::InProcess;
use hone_tests::reach::{ADMIN, fresh_id};
use secrecy::ExposeSecret as _;

use super::tokens::reason;
use super::{soon, why};

#[tokio::test]
async fn of_a_hundred_that_present_one_token_at_once_one_gets_in() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.reach.node_token(0).await.expect("a token");
    let all = (0..100).map(|_| controller.reach.enrol(&token, EnrolKind::Node));
    let all = soon("a hundred joins", futures_util::future::join_all(all)).await;
    let (won, lost): (Vec<_>, Vec<_>) = all.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1, "{won:?}");
    for one in lost {
        assert_eq!(reason(one), Some(Reason::TokenRefused));
    }
    let replayed = controller.reach.enrol(&token, EnrolKind::Node).await;
    assert_eq!(reason(replayed), Some(Reason::TokenRefused), "the token worked again");
    let nodes = controller.fleet.read(|fleet| fleet.nodes().len()).await.expect("the fleet");
    assert_eq!(nodes, 1, "a refused join made a node");
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let controller = InProcess::start().await.expect("a controller");
    let mint = controller.reach.identities.issuer.authority.tokens();
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
    let refused = controller.reach.enrol(text.expose_secret(), EnrolKind::Node).await;
    assert_eq!(reason(refused), Some(Reason::TokenRefused));
}

#[tokio::test]
async fn another_fingerprint_spends_no_token() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.reach.node_token(0).await.expect("a token");
    let mut invitation = controller.reach.invitation(&token, EnrolKind::Node);
    invitation.root = Fingerprint::of(b"another root");
    assert_eq!(reason(enrol(invitation).await), Some(Reason::Unauthenticated));
    controller.reach.enrol(&token, EnrolKind::Node).await.expect("the token was never sent");
}

#[tokio::test]
async fn an_enrolled_identity_is_kept_and_a_folder_that_cannot_be_written_spends_no_token() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.reach.invite("bob", "submitter").await.expect("a token");
    let scratch = tempfile::tempdir().expect("a folder");
    std::fs::write(scratch.path().join("taken"), "a file").expect("a file");
    let dir = IdentityDir::new(scratch.path().join("taken/identity"));
    let invitation = || controller.reach.invitation(&token, EnrolKind::User);
    assert!(matches!(join(&dir, invitation()).await, Err(EnrolError::Identity(_))));
    let dir = IdentityDir::new(scratch.path().join("identity"));
    join(&dir, invitation()).await.expect("bob logs in");
    let (kept, record) = dir.load().expect("the identity");
    assert_eq!(record.controller, controller.reach.address);
    assert_eq!(kept.certificate().id.peer, Peer::User("bob".parse().expect("a name")));
    let me =
        controller.reach.operator(&kept).expect("a client").who_am_i(wire::WhoAmIRequest {}).await;
    let me = me.expect("an answer").into_inner();
    assert_eq!((me.user.as_str(), me.role.as_str()), ("bob", "submitter"));
}

#[tokio::test]
async fn tries_to_enrol_are_bounded_per_source() {
    let controller = InProcess::with(Lifetimes::default(), Joins::new(3, 1000)).await;
    let controller = controller.expect("a controller");
    for _ in 0..3 {
        let refused = controller.reach.enrol("no token", EnrolKind::Node).await;
        assert_eq!(reason(refused), Some(Reason::TokenRefused));
    }
    let token = controller.reach.node_token(0).await.expect("a token");
    let refused = controller.reach.enrol(&token, EnrolKind::Node).await;
    assert_eq!(reason(refused), Some(Reason::Overloaded));
}

/// Lets the fleet know this certificate of the subject, as if it had been issued when it began.
async fn known(
    controller: &InProcess,
    subject: Subject,
    facts: &CertificateFacts,
    not_after: WallNanos,
) {
    let key = facts.key.to_string();
    let certificate = CertificateRecord { key, not_after, follows: None };
    let issued = move |ticket| Input::Issued { ticket, subject, certificate, with: None };
    controller.fleet.call(issued).await.expect("the certificate is recorded");
}

async fn renew_expired(
    controller: &InProcess,
    old: &Credentials,
) -> Result<Credentials, RenewalError> {
    let scratch = tempfile::tempdir().expect("a folder");
    let dir = IdentityDir::new(scratch.path());
    dir.create(old, controller.reach.address.clone()).expect("the identity is kept");
    let nameless = ClientIdentity::nameless(old).expect("an identity");
    let (mut renewer, newest) = Renewer::new(dir.clone(), old.clone()).expect("a renewer");
    let connector = Connector::new(newest);
    let to = controller.reach.address.clone();
    let ask = |renewal| ask_renewal(connector, nameless.into(), to, renewal);
    soon("a renewal", renewer.renew_once(Now::read().wall, ask)).await?;
    Ok(dir.load().expect("the renewed identity").0)
}

#[tokio::test]
async fn an_expired_key_renews_while_it_is_known_unrevoked_and_not_too_old() {
    let controller = InProcess::start().await.expect("a controller");
    let enrolled = controller.reach.enrolled_node().await.expect("a node");
    let Peer::Node(id) = enrolled.certificate().id.peer.clone() else { panic!("not a node") };
    let subject = || Subject::Node(id.clone());
    let old = controller.reach.identities.expired(&subject()).expect("credentials");
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
    let mut link = controller.reach.link(&new).expect("a client");
    let request = wire::SigningRequest { csr_der: new.key().signing_request().expect("a request") };
    link.renew(request).await.expect("the new certificate is in force");

    known(&controller, subject(), facts, facts.not_after).await;
    let request = wire::RevokeNodeRequest { request_id: fresh_id(), node: id.to_string() };
    let mut admin = controller.reach.operator(&controller.reach.admin).expect("a client");
    admin.revoke_node(request).await.expect("the node is revoked");
    refused("a revoked node").await;
}

#[tokio::test]
async fn a_request_that_cannot_be_signed_costs_no_token() {
    let controller = InProcess::start().await.expect("a controller");
    let token = controller.reach.node_token(0).await.expect("a token");
    let nobody = controller.reach.identities.nobody().expect("an identity");
    let plane = hone_proto::identity::Plane::Enrolment;
    let channel = controller.reach.channel(nobody, plane).expect("a channel");
    let mut client = wire::enrolment_client::EnrolmentClient::new(channel);
    let request = wire::EnrolRequest {
        token: token.clone(),
        signing_request: Some(wire::SigningRequest { csr_der: vec![0x30, 0] }),
        kind: EnrolKind::Node.into(),
        display_name: String::new(),
    };
    assert_eq!(why(client.enrol(request).await).reason, Reason::BadRequest);
    controller.reach.enrol(&token, EnrolKind::Node).await.expect("the token is still good");
}

/// Renews over the link with a new key, and loses the answer.
async fn renew_in_vain(controller: &InProcess, holder: &Credentials) {
    let key = SecretKey::generate().expect("a key");
    let request = wire::SigningRequest { csr_der: key.signing_request().expect("a request") };
    let mut link = controller.reach.link(holder).expect("a client");
    link.renew(request).await.expect("an answer that nobody keeps");
}

#[tokio::test]
async fn the_old_key_renews_on_when_the_answer_got_lost_also_after_it_expired() {
    let lifetimes = Lifetimes { node: Duration::from_secs(4), ..Lifetimes::default() };
    let controller = InProcess::with(lifetimes, Joins::default()).await.expect("a controller");
    let node = controller.reach.enrolled_node().await.expect("a node");
    renew_in_vain(&controller, &node).await;
    renew_in_vain(&controller, &node).await;
    let end = node.certificate().facts.not_after;
    while Now::read().wall <= end {
        tokio::time::sleep(end.since(Now::read().wall) + Duration::from_millis(10)).await;
    }
    let new = renew_expired(&controller, &node).await.expect("the old key renews");
    assert_eq!(new.certificate().id, node.certificate().id);
    let mut link = controller.reach.link(&new).expect("a client");
    let request = wire::SigningRequest { csr_der: new.key().signing_request().expect("a request") };
    link.renew(request).await.expect("the new certificate is in force");
}
