//! One port of the production acceptor that serves no call, and somebody who may enter.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::Arc;

use hone_controller::identity::Lifetimes;
use hone_proto::error::Reason;
use hone_proto::identity::tls::Admission;
use hone_proto::identity::{
    AcceptLimits, AcceptStats, ClientIdentity, Connector, ControllerAddress, Credentials, Plane,
    incoming, server_builder,
};
use hone_proto::wire;
use hone_tests::identities::{Identities, user};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::service::Routes;

use super::{soon, why};

/// One port that serves no call, and somebody who may enter.
pub(crate) struct Door {
    /// Where it is.
    pub(crate) address: SocketAddr,
    /// Somebody who may enter.
    pub(crate) guest: Credentials,
    /// What came so far.
    pub(crate) stats: Box<dyn Fn() -> AcceptStats>,
    _ids: Identities,
}

impl Door {
    /// With these bounds.
    pub(crate) async fn with(limits: AcceptLimits) -> Self {
        let ids = Identities::new(Lifetimes::default()).expect("identities");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let controller = ids.controller().expect("credentials");
        let config = controller.server_config(Admission::later()).expect("a configuration");
        let connections = incoming(listener, watch::channel(config).1, limits);
        let stats = Box::new(connections.stats());
        let server = server_builder(Plane::Control).add_routes(Routes::default());
        tokio::spawn(server.serve_with_incoming(connections));
        let guest = ids.good(&user("ada").expect("a name")).expect("credentials");
        Self { address, guest, stats, _ids: ids }
    }

    /// Somebody with a good certificate still gets through.
    pub(crate) async fn still_serves(&self) {
        assert_eq!(self.call().await, Reason::Protocol, "a good client is not served");
    }

    /// The controller's reason for refusing the guest's call: there is no such call here.
    pub(crate) async fn call(&self) -> Reason {
        let connector = Connector::fixed(ClientIdentity::new(&self.guest).expect("an identity"));
        let address = ControllerAddress::consecutive("127.0.0.1", self.address.port());
        let channel = connector.channel(&address, Plane::Control).expect("a channel");
        let mut client = wire::link_client::LinkClient::new(channel);
        why(soon("a call", client.renew(wire::SigningRequest::default())).await).reason
    }

    /// A TCP connection.
    pub(crate) async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// A TCP connection from another address of this machine.
    pub(crate) async fn tcp_from(&self, last: u8) -> TcpStream {
        let socket = TcpSocket::new_v4().expect("a socket");
        let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
        socket.bind(source.into()).expect("another address");
        socket.connect(self.address).await.expect("a connection")
    }

    /// A TLS connection of the guest, after this change of its configuration.
    pub(crate) async fn tls(
        &self,
        change: impl FnOnce(&mut ClientConfig),
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut config = ClientConfig::clone(&self.guest.client_config().expect("a configuration"));
        change(&mut config);
        let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
        let tcp = self.tcp().await;
        soon("a handshake", TlsConnector::from(Arc::new(config)).connect(name, tcp)).await
    }

    /// Waits until the counts say so.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&AcceptStats) -> bool) {
        soon(what, async {
            while !holds(&(self.stats)()) {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// Reads until the other side closes. A reset is a close too.
pub(crate) async fn closed(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> usize {
    let mut all = Vec::new();
    // What came before the end counts, however it ended.
    let _ = soon("the other side's close", stream.read_to_end(&mut all)).await;
    all.len()
}
