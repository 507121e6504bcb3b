//! A client talks to its fleet's controller and to nobody else, whatever answers at the address.

use std::sync::Arc;
use std::time::Duration;

use hone_controller::identity::Lifetimes;
use hone_proto::error::Reason;
use hone_proto::identity::tls::Admission;
use hone_proto::identity::{
    AcceptLimits, ClientIdentity, Connector, ControllerAddress, Credentials, Plane, incoming,
    server_builder,
};
use hone_proto::time::{Now, WallNanos};
use hone_proto::wire;
use hone_tests::identities::{Identities, node, user};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::service::Routes;

use super::{chain, soon, why};

/// Something that answers with these credentials, and to every call that there is no such call.
async fn answering(credentials: &Credentials) -> ControllerAddress {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let config = credentials.server_config(Admission::later()).expect("a configuration");
    let connections = incoming(listener, watch::channel(config).1, AcceptLimits::default());
    let server = server_builder(Plane::Control).add_routes(Routes::default());
    tokio::spawn(server.serve_with_incoming(connections));
    ControllerAddress::consecutive("127.0.0.1", port)
}

#[tokio::test]
async fn what_is_not_the_controller_is_told_nothing() {
    let ids = Identities::new(Lifetimes::default()).expect("identities");
    let hour = Duration::from_secs(3600);
    let now = Now::read().wall;
    let earlier = WallNanos::new(now.get() - 2 * 3_600_000_000_000);
    let authority = &ids.issuer.authority;
    let mine = ids.good(&user("ada").expect("a name")).expect("credentials");
    let connector = Connector::fixed(ClientIdentity::new(&mine).expect("an identity"));
    let ask = async |server: &Credentials| {
        let address = answering(server).await;
        let channel = connector.channel(&address, Plane::Control).expect("a channel");
        let mut client = wire::operator_client::OperatorClient::new(channel);
        soon("a call", client.who_am_i(wire::WhoAmIRequest {})).await
    };
    let right = ask(&ids.controller().expect("credentials")).await;
    assert_eq!(why(right).reason, Reason::Protocol, "the controller itself was not talked to");
    let wrong = [
        ("a stranger's controller", ids.foreign_controller()),
        ("a node", ids.good(&node("n-1").expect("an id"))),
        ("a self-signed one", ids.self_signed("spiffe://fleet-1/controller")),
        ("an expired one", Ok(authority.controller_credentials(hour, earlier).expect("one"))),
        (
            "one of the future",
            Ok(authority.controller_credentials(hour, now.plus(hour * 2)).expect("one")),
        ),
    ];
    for (what, server) in wrong {
        let status = ask(&server.expect(what)).await.expect_err(what);
        let text = chain(&status);
        assert!(text.contains("not this fleet's controller"), "{what}: {text}");
        assert_eq!(why::<()>(Err(status)).reason, Reason::Unauthenticated, "{what}");
    }
}

#[tokio::test]
async fn a_controller_of_another_fleet_of_the_same_root_is_refused() {
    let ids = Identities::new(Lifetimes::default()).expect("identities");
    // Its fleet is fleet-2; the node's pin says fleet-1, the root is the same.
    let sibling = ids.controller_of_another_fleet().expect("credentials");
    let address = answering(&sibling).await;
    let mine = ids.good(&node("n-1").expect("an id")).expect("credentials");
    let connector = Connector::fixed(ClientIdentity::new(&mine).expect("an identity"));
    let channel = connector.channel(&address, Plane::Control).expect("a channel");
    let mut client = wire::link_client::LinkClient::new(channel);
    let answer = soon("a call", client.renew(wire::SigningRequest::default())).await;
    assert_eq!(why(answer).reason, Reason::Unauthenticated);
}

#[tokio::test]
async fn a_new_connection_shows_the_newest_identity() {
    let ids = Identities::new(Lifetimes::default()).expect("identities");
    let address = answering(&ids.controller().expect("credentials")).await;
    let subject = node("n-1").expect("an id");
    let identity = |credentials: &Credentials| {
        Arc::new(ClientIdentity::new(credentials).expect("an identity"))
    };
    let (show, newest) = watch::channel(identity(&ids.expired(&subject).expect("credentials")));
    let connector = Connector::new(newest);
    let channel = connector.channel(&address, Plane::Control).expect("a channel");
    let mut client = wire::link_client::LinkClient::new(channel);
    let before = soon("a call", client.renew(wire::SigningRequest::default())).await;
    assert_eq!(why(before).reason, Reason::Unauthenticated);
    show.send_replace(identity(&ids.good(&subject).expect("credentials")));
    let after = soon("a call", client.renew(wire::SigningRequest::default())).await;
    assert_eq!(why(after).reason, Reason::Protocol, "the same channel connects with the new one");
}
