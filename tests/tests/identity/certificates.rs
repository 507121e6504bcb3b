//! Every way in which a client's certificate can be wrong ends in the handshake, and the client is told which.

use std::sync::Arc;

use hone_proto::identity::{
    CertificateRefusal, ClientIdentity, Credentials, Plane, certificate_refused,
};
use hone_proto::wire;
use hone_proto::wire::bulk_client::BulkClient;
use hone_proto::wire::operator_client::OperatorClient;
use hone_tests::identities::{node, user};
use hone_tests::reach::{ADMIN, Reach, fresh_id};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Status;

use super::{controller, soon};

/// A first call on each port that demands a certificate.
async fn call(reach: &Reach, identity: &ClientIdentity, plane: Plane) -> Result<(), Status> {
    let channel = reach.channel(identity.clone(), plane).expect("a channel");
    match plane {
        Plane::Bulk => {
            let scope = wire::scope::Scope::Project("default".to_owned());
            let scope = Some(wire::Scope { scope: Some(scope) });
            let request = wire::MissingRequest { scope, digests: Vec::new() };
            soon("a call", BulkClient::new(channel).missing(request)).await.map(drop)
        }
        _ => {
            let mut client = OperatorClient::new(channel);
            soon("a call", client.who_am_i(wire::WhoAmIRequest {})).await.map(drop)
        }
    }
}

async fn refused(reach: &Reach, what: &str, identity: ClientIdentity, why: CertificateRefusal) {
    for plane in [Plane::Control, Plane::Bulk] {
        let status = call(reach, &identity, plane).await.expect_err(what);
        let found = certificate_refused(&status);
        assert_eq!(found, Some(why), "{what} at {plane:?}: {status:?}");
    }
}

fn showing(credentials: &Credentials) -> ClientIdentity {
    ClientIdentity::new(credentials).expect("an identity")
}

#[tokio::test]
async fn only_a_certificate_of_this_fleet_that_is_in_force_gets_through() {
    let controller = controller().await;
    let ids = &controller.reach.identities;
    // The subject is the admin: it is not the name that keeps these out.
    let admin = user(ADMIN).expect("a name");
    for plane in [Plane::Control, Plane::Bulk] {
        call(&controller.reach, &showing(&controller.reach.admin), plane)
            .await
            .expect("the admin is let in");
    }
    let wrong = [
        ("a stranger's authority", ids.foreign(&admin), CertificateRefusal::UnknownRoot),
        ("an expired certificate", ids.expired(&admin), CertificateRefusal::Expired),
        ("one of the future", ids.not_yet_valid(&admin), CertificateRefusal::Expired),
        ("one without a chain", ids.without_intermediate(&admin), CertificateRefusal::UnknownRoot),
        (
            "a self-signed one",
            ids.self_signed(&format!("spiffe://{}/user/{ADMIN}", ids.issuer.authority.fleet())),
            CertificateRefusal::UnknownRoot,
        ),
        ("the controller's own", ids.controller(), CertificateRefusal::Unusable),
    ];
    for (what, credentials, why) in wrong {
        refused(&controller.reach, what, showing(&credentials.expect(what)), why).await;
    }
    let nobody = ids.nobody().expect("an identity");
    refused(&controller.reach, "nobody", nobody, CertificateRefusal::Required).await;
}

#[tokio::test]
async fn a_name_that_the_fleet_does_not_know_is_refused_although_its_certificate_is_sound() {
    let controller = controller().await;
    let ids = &controller.reach.identities;
    for subject in [user("mallory"), node("n-0"), node(ADMIN)] {
        let credentials = ids.good(&subject.expect("a name")).expect("a certificate");
        refused(&controller.reach, "a name", showing(&credentials), CertificateRefusal::Revoked)
            .await;
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_at_once_and_the_client_is_told() {
    let controller = controller().await;
    let bob = controller.reach.enrolled_user("bob", "submitter").await.expect("bob");
    let machine = controller.reach.enrolled_node().await.expect("a node");
    call(&controller.reach, &showing(&bob), Plane::Control).await.expect("bob is let in");
    let id = machine.certificate().id.peer.to_string().replace("node/", "");
    let mut admin = controller.reach.operator(&controller.reach.admin).expect("a client");
    let request = wire::RevokeNodeRequest { request_id: fresh_id(), node: id };
    admin.revoke_node(request).await.expect("the node is revoked");
    let request = wire::RevokeOperatorRequest { request_id: fresh_id(), user: "bob".to_owned() };
    admin.revoke_operator(request).await.expect("bob is revoked");
    refused(&controller.reach, "bob", showing(&bob), CertificateRefusal::Revoked).await;
    refused(&controller.reach, "the node", showing(&machine), CertificateRefusal::Revoked).await;
}

#[tokio::test]
async fn a_certificate_in_the_name_of_another_fleet_is_refused_although_its_chain_is_ours() {
    let controller = controller().await;
    let ids = &controller.reach.identities;
    let admin = user(ADMIN).expect("a name");
    let theirs = ids.of_another_fleet(&admin).expect("a certificate");
    let theirs = theirs.client_config().expect("a configuration");
    // Our own clients would not even talk to this controller, so this one is made by hand.
    let mut config = ClientConfig::clone(&controller.reach.admin.client_config().expect("one"));
    config.client_auth_cert_resolver = Arc::clone(&theirs.client_auth_cert_resolver);
    let port = controller.reach.address.port(Plane::Control);
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    let mut tls = soon("a handshake", connecting).await.expect("the client's half of it");
    let refused = soon("the answer", tls.read_u8()).await.expect_err("it was let in");
    assert_eq!(certificate_refused(&refused), Some(CertificateRefusal::WrongName), "{refused:?}");
}
