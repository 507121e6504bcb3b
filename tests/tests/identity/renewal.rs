//! Certificates renew by themselves and drop no stream; what is not renewed, or revoked, ends.

use std::time::Duration;

use hone_controller::identity::Lifetimes;
use hone_controller::identity::joins::Joins;
use hone_proto::enrol::{ask_renewal, join};
use hone_proto::error::{Reason, Refusal};
use hone_proto::identity::renew::Renewer;
use hone_proto::identity::{
    CertificateRefusal, ClientIdentity, Connector, IdentityDir, Plane, certificate_refused,
};
use hone_proto::time::Now;
use hone_proto::wire::operator_client::OperatorClient;
use hone_proto::wire::{self, EnrolKind};
use hone_tests::controller::InProcess;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::soon;

async fn follow(client: &mut OperatorClient<Channel>) -> Streaming<wire::EventView> {
    let request = wire::EventsRequest { follow: true, ..Default::default() };
    client.events(request).await.expect("a stream").into_inner()
}

/// Reads on until the stream ends, and says why.
async fn end_of(mut stream: Streaming<wire::EventView>) -> Result<(), Status> {
    while stream.message().await?.is_some() {}
    Ok(())
}

#[tokio::test]
async fn a_stream_outlives_its_certificate_when_it_is_renewed_and_ends_with_it_when_not() {
    let lifetimes = Lifetimes { user: Duration::from_secs(8), ..Lifetimes::default() };
    let controller = InProcess::with(lifetimes, Joins::default()).await.expect("a controller");

    let token = controller.reach.invite("bob", "viewer").await.expect("a token");
    let scratch = tempfile::tempdir().expect("a folder");
    let dir = IdentityDir::new(scratch.path());
    let (bob, record) = join(&dir, controller.reach.invitation(&token, EnrolKind::User))
        .await
        .expect("bob logs in");
    let carol = controller.reach.enrolled_user("carol", "viewer").await.expect("carol");

    let nameless = std::sync::Arc::new(ClientIdentity::nameless(&bob).expect("an identity"));
    let (renewer, newest) = Renewer::new(dir.clone(), bob.clone()).expect("a renewer");
    let connector = Connector::new(newest);
    let channel = connector.channel(&record.controller, Plane::Control).expect("a channel");
    let renewing = tokio::spawn(renewer.run(move |renewal| {
        ask_renewal(connector.clone(), nameless.clone(), record.controller.clone(), renewal)
    }));
    let mut bobs = follow(&mut OperatorClient::new(channel.clone())).await;
    let mut carols_client = controller.reach.operator(&carol).expect("a client");
    let carols = follow(&mut carols_client).await;

    let ended = soon("carol's stream", end_of(carols)).await.expect_err("it ended well");
    assert_eq!(Refusal::from(&ended).reason, Reason::Unauthenticated, "{ended:?}");
    let carols_end = carol.certificate().facts.not_after;
    assert!(Now::read().wall >= carols_end, "carol's stream ended before her certificate did");
    // The old connection is hung up, so that a client with a newer certificate would show it; carol has none.
    let refused = soon("a new handshake", async {
        loop {
            let again = carols_client.who_am_i(wire::WhoAmIRequest {}).await;
            let status = again.expect_err("carol goes on with an expired certificate");
            if let Some(refused) = certificate_refused(&status) {
                return refused;
            }
            // Refused on the old connection, or cut off with it.
        }
    });
    assert_eq!(refused.await, CertificateRefusal::Expired);

    let bobs_end = bob.certificate().facts.not_after;
    while Now::read().wall < bobs_end.plus(Duration::from_millis(500)) {
        let left = bobs_end.plus(Duration::from_millis(500)).since(Now::read().wall);
        tokio::time::sleep(left).await;
    }
    controller.reach.node_token(0).await.expect("something happens");
    let seen = soon("the event", async {
        loop {
            let event = bobs.message().await.expect("bob's stream is open").expect("an event");
            if event.kind == "token_made" && event.text == "for a node" {
                return event;
            }
        }
    });
    assert_eq!(seen.await.actor, "ada");
    let call = OperatorClient::new(channel).who_am_i(wire::WhoAmIRequest {}).await;
    assert_eq!(call.expect("the same connection still serves calls").into_inner().user, "bob");
    let (kept, _) = dir.load().expect("bob's identity");
    assert!(kept.certificate().facts.not_after > bobs_end, "nothing was written to disk");
    assert_ne!(kept.certificate().facts.key, bob.certificate().facts.key, "the key is the old one");
    renewing.abort();
}
