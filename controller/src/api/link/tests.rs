//! The link over real gRPC: what a node may say, and how it learns that it said something wrong.

use std::sync::Arc;
use std::time::Duration;

use hone_proto::identity::PeerInfo;
use hone_proto::identity::certificate::{CertificateFacts, KeyDigest, PeerCertificate, Serial};
use hone_proto::time::{Now, WallNanos};
use tonic::transport::{Channel, Endpoint, Server};

use super::*;
use crate::core::{Fleet, Settings};
use crate::driver::{Driver, Journal};
use crate::identity::{Authority, Issuer, Lifetimes};
use crate::store::MemoryStore;

/// Long enough for a loaded machine; nothing is learnt from how long it took.
const PATIENCE: Duration = Duration::from_secs(60);

struct World {
    _driver: Driver,
    channel: Channel,
    _dir: tempfile::TempDir,
}

/// In the place of TLS: the node `n1`.
fn named(mut request: Request<()>) -> Result<Request<()>, Status> {
    let facts = CertificateFacts {
        serial: Serial::from_bytes(&[1]),
        not_before: WallNanos::new(0),
        not_after: WallNanos::new(u64::MAX),
        key: KeyDigest::of(b"n1"),
    };
    let id = "spiffe://fleet/node/n1".parse().map_err(|_| Status::internal("an id"))?;
    let certificate = Some(Arc::new(PeerCertificate { id, facts }));
    request.extensions_mut().insert(PeerInfo::new(certificate, ([127, 0, 0, 1], 1).into()));
    Ok(request)
}

fn fleet() -> (Fleet, Vec<crate::core::Effect>) {
    let fleet = "fleet".parse().expect("id");
    Fleet::found(Settings::default(), fleet, "ada".parse().expect("name"), Now::read())
}

async fn world() -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let (fleet, founding) = fleet();
    let id = fleet.meta().fleet.clone();
    let journal = Journal::open(dir.path(), []).expect("a journal");
    let started = Driver::start(fleet, founding, MemoryStore::new(), journal, |_| ());
    let (driver, handle) = started.expect("a thread");
    join(&handle).await;
    let authority = Authority::create(&dir.path().join("ca"), id, Now::read().wall);
    let lifetimes = Lifetimes::default();
    let issuer = Arc::new(Issuer { authority: authority.expect("an authority"), lifetimes });
    let renewals = Renewals::new(issuer, handle.clone());
    let service = wire::link_server::LinkServer::new(LinkService::new(handle, renewals, 1000));
    let service = tonic::service::interceptor::InterceptedService::new(service, named);
    let (near, far) = tokio::io::duplex(1 << 20);
    let incoming = tokio_stream::iter([Ok::<_, std::io::Error>(far)]);
    tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    let mut near = Some(near);
    let connector = tower::service_fn(move |_| {
        let near = near.take().ok_or_else(|| std::io::Error::other("one connection only"));
        async move { near.map(hyper_util::rt::TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://link.test").connect_with_connector(connector).await;
    World { _driver: driver, channel: channel.expect("a channel"), _dir: dir }
}

async fn join(fleet: &Handle) {
    let made = crate::core::Command::MakeToken {
        public_id: "t".to_owned(),
        hash: "h".to_owned(),
        purpose: crate::core::record::TokenPurpose::Node,
        role: None,
        expires: WallNanos::new(u64::MAX),
    };
    let role = hone_proto::identity::Role::Admin;
    let caller = crate::core::Caller { user: "ada".parse().expect("name"), role };
    let (request, command) = ("r".parse().expect("id"), Box::new(made));
    let asked = fleet.call(move |ticket| Input::Request { ticket, caller, request, command });
    asked.await.expect("a token");
    let (public_id, fresh_node) = ("t".to_owned(), "n1".parse().expect("id"));
    let spent = fleet.call(move |ticket| Input::Spend {
        ticket,
        public_id,
        fresh_node,
        display_name: "n1".to_owned(),
        for_node: true,
    });
    spent.await.expect("it joins");
}

fn hello() -> wire::Hello {
    wire::Hello {
        protocol_min: 1,
        protocol_max: 1,
        boot_id: "boot-1".to_owned(),
        spool_id: "spool-1".to_owned(),
        ..Default::default()
    }
}

fn batch(events: Vec<wire::Event>) -> FromAgent {
    let stream = wire::EventStream::State.into();
    FromAgent::Events(wire::EventBatch { spool_id: "spool-1".to_owned(), stream, events })
}

fn event(seq: u64, payload: Option<wire::event::Payload>) -> wire::Event {
    let at = Some(wire::Times { wall_ns: 1, boot_ns: 1 });
    wire::Event { seq, at, boot_id: "boot-1".to_owned(), payload }
}

/// Says these things and hears until the stream ends or `enough` was heard.
async fn talk(
    world: &World,
    says: Vec<FromAgent>,
    enough: impl Fn(&ToWire) -> bool,
) -> Result<ToWire, Status> {
    let (sender, outgoing) = mpsc::channel(8);
    for message in says {
        let message = wire::AgentMessage { message: Some(message) };
        sender.send(message).await.expect("there is room");
    }
    let mut client = wire::link_client::LinkClient::new(world.channel.clone());
    let attached = client.attach(ReceiverStream::new(outgoing));
    let heard = async {
        let mut incoming = attached.await?.into_inner();
        while let Some(message) = incoming.message().await? {
            match message.message {
                Some(heard) if enough(&heard) => return Ok(heard),
                _ => {}
            }
        }
        Err(Status::ok("the stream ended without a word"))
    };
    let heard = tokio::time::timeout(PATIENCE, heard).await.expect("the node learns nothing");
    drop(sender);
    heard
}

#[tokio::test]
async fn a_node_that_says_something_malformed_is_told_so_at_once() {
    let world = world().await;
    let malformed = batch(vec![wire::Event { at: None, ..event(1, None) }]);
    let told = talk(&world, vec![FromAgent::Hello(hello()), malformed], |_| false).await;
    let refusal = Refusal::from(&told.expect_err("the stream ends"));
    assert_eq!(refusal.reason, Reason::BadRequest);
    assert!(refusal.message.contains("event.at"), "{}", refusal.message);
}

#[tokio::test]
async fn an_event_of_a_newer_release_is_acknowledged_and_the_link_lasts() {
    let world = world().await;
    let newer = wire::AttemptPhase {
        attempt: Some(wire::AttemptRef { job: 1, generation: 1, attempt: 1 }),
        phase: 99,
        detail: String::new(),
    };
    let says = vec![
        FromAgent::Hello(hello()),
        batch(vec![event(1, None), event(2, Some(wire::event::Payload::Phase(newer)))]),
    ];
    let acked = talk(&world, says, |heard| matches!(heard, ToWire::Ack(_))).await;
    assert!(matches!(acked, Ok(ToWire::Ack(ack)) if ack.seq == 2));
}

#[tokio::test]
async fn what_no_record_could_hold_is_refused_and_the_controller_goes_on() {
    let world = world().await;
    let kernel = "k".repeat(MAX_INVENTORY);
    let inventory = Some(wire::Inventory { kernel, ..Default::default() });
    let large = FromAgent::Hello(wire::Hello { inventory, ..hello() });
    let told = talk(&world, vec![large], |_| false).await.expect_err("refused");
    assert_eq!(Refusal::from(&told).reason, Reason::BadRequest);
    let detail = "d".repeat(MAX_BATCH);
    let phase = wire::AttemptPhase { attempt: None, phase: 1, detail };
    let large = batch(vec![event(1, Some(wire::event::Payload::Phase(phase)))]);
    let told = talk(&world, vec![FromAgent::Hello(hello()), large], |_| false).await;
    assert_eq!(Refusal::from(&told.expect_err("refused")).reason, Reason::BadRequest);
    let welcome = |heard: &ToWire| matches!(heard, ToWire::Welcome(_));
    talk(&world, vec![FromAgent::Hello(hello())], welcome).await.expect("it is welcome again");
}
