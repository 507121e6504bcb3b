//! A client that keeps session tickets must not get past the verifier with them. The control shows that it would: a
//! server with the library's defaults resumes the session without a look at the certificate.

use std::sync::Arc;

use hone_controller::identity::Lifetimes;
use hone_proto::identity::tls::Admission;
use hone_proto::identity::{Credentials, Plane};
use hone_proto::wire;
use hone_tests::identities::{Identities, user};
use hone_tests::reach::fresh_id;
use rustls::client::{Resumption, TicketRequest};
use rustls::pki_types::ServerName;
use rustls::server::ServerSessionMemoryCache;
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{controller, soon};

/// A client that stores every ticket that it is given, and asks for several.
fn hoarding(credentials: &Credentials) -> Arc<ClientConfig> {
    let mut config = ClientConfig::clone(&credentials.client_config().expect("a configuration"));
    config.resumption = Resumption::in_memory_sessions(64);
    config.send_ticket_request = Some(TicketRequest { new_session_count: 4, resumption_count: 4 });
    Arc::new(config)
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Let in, after this kind of handshake and with so many tickets for the next one.
    In { resumed: bool, tickets: u32 },
    /// The server ended it.
    Out,
}

async fn visit(config: &Arc<ClientConfig>, port: u16) -> Outcome {
    let tcp = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let connecting = TlsConnector::from(Arc::clone(config)).connect(name, tcp);
    let Ok(mut tls) = soon("a handshake", connecting).await else { return Outcome::Out };
    let mut first = [0; 64];
    match soon("the first bytes", tls.read(&mut first)).await {
        Ok(n) if n > 0 => {
            let session = tls.get_ref().1;
            Outcome::In {
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                tickets: session.tls13_tickets_received(),
            }
        }
        _ => Outcome::Out,
    }
}

#[tokio::test]
async fn a_session_is_never_resumed_and_a_revoked_peer_never_comes_back() {
    let controller = controller().await;
    let bob = controller.reach.enrolled_user("bob", "viewer").await.expect("bob");
    let config = hoarding(&bob);
    let port = controller.reach.address.port(Plane::Control);
    for _ in 0..3 {
        assert_eq!(visit(&config, port).await, Outcome::In { resumed: false, tickets: 0 });
    }
    let request = wire::RevokeOperatorRequest { request_id: fresh_id(), user: "bob".to_owned() };
    let mut admin = controller.reach.operator(&controller.reach.admin).expect("a client");
    admin.revoke_operator(request).await.expect("bob is revoked");
    assert_eq!(visit(&config, port).await, Outcome::Out);
}

#[tokio::test]
async fn control_with_the_defaults_of_the_library_the_session_is_resumed() {
    let ids = Identities::new(Lifetimes::default()).expect("identities");
    let hardened = ids.controller().expect("credentials").server_config(Admission::later());
    let mut config = ServerConfig::clone(&hardened.expect("a configuration"));
    config.send_tls13_tickets = 2;
    config.session_storage = ServerSessionMemoryCache::new(64);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let mut tls = acceptor.accept(tcp).await.expect("a handshake");
            tls.write_all(b"hello").await.expect("a greeting");
            tls.flush().await.expect("a greeting");
        }
    });
    let client = hoarding(&ids.good(&user("bob").expect("a name")).expect("credentials"));
    assert_eq!(visit(&client, port).await, Outcome::In { resumed: false, tickets: 2 });
    let Outcome::In { resumed, .. } = visit(&client, port).await else { panic!("not let in") };
    assert!(resumed, "the attack that the other test rules out does not work here either");
}
