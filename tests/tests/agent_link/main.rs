//! The agent's end of the link, against a controller that follows a script: real TLS and HTTP/2 on loopback, the
//! production link, driver and spool.

mod script;

use hone_agent::link::End;
use hone_proto::error::{Reason, Refusal};
use hone_proto::id::Revision;
use hone_proto::wire;
use hone_proto::wire::agent_message::Message as Said;

use script::{Bench, soon};

#[tokio::test]
async fn hello_comes_first_and_tells_who_is_there() {
    let mut bench = Bench::new().await;
    let view = bench.driver.view().borrow().clone();
    let link = bench.link();
    let mut session = bench.session().await;
    let Said::Hello(hello) = session.said().await else { panic!("something came before Hello") };
    assert_eq!(hello.spool_id, view.spool.to_string());
    assert_eq!(hello.boot_id, "boot-1");
    assert_eq!((hello.protocol_min, hello.protocol_max), (1, 1));
    assert!(hello.attempts.is_empty() && hello.allocatable.is_some());
    // Nothing more before Welcome, and then heartbeats, which are acknowledged by their numbers.
    session.welcome(0).await;
    let Said::Heartbeat(beat) = session.said().await else { panic!("a heartbeat was expected") };
    assert_eq!(beat.number, 1);
    link.abort();
}

#[tokio::test]
async fn a_link_that_breaks_comes_back_with_what_was_not_acknowledged() {
    let mut bench = Bench::new().await;
    bench.record(&["one", "two", "three"]).await;
    let link = bench.link();
    let mut session = bench.session().await;
    session.hello().await;
    session.welcome(0).await;
    assert_eq!(session.events().await, [1, 2, 3]);
    session.ack(2).await;
    session.desired(1).await;
    // The acknowledgement is taken before the desired set that came after it.
    bench.revision(Revision::new(1)).await;
    drop(session);
    for _ in 0..3 {
        let mut session = bench.session().await;
        session.hello().await;
        session.welcome(2).await;
        assert_eq!(session.events().await, [3], "what is acknowledged is not sent again");
        drop(session);
    }
    link.abort();
}

#[tokio::test]
async fn acknowledged_events_leave_the_disk() {
    let mut bench = Bench::new().await;
    let texts: Vec<_> = (0..40).map(|n| n.to_string()).collect();
    bench.record(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let before = bench.segments();
    assert!(before > 3, "{before} segments");
    let link = bench.link();
    let mut session = bench.session().await;
    session.hello().await;
    session.welcome(0).await;
    let mut last = 0;
    while last < 40 {
        last = session.events().await.into_iter().max().expect("events");
    }
    assert_eq!(bench.segments(), before, "sent is not acknowledged");
    session.ack(40).await;
    session.desired(1).await;
    bench.revision(Revision::new(1)).await;
    assert_eq!(bench.segments(), 1);
    link.abort();
}

#[tokio::test]
async fn a_controller_that_is_away_is_tried_until_it_is_back() {
    let mut bench = Bench::new().await;
    let link = bench.link();
    let mut session = bench.session().await;
    session.hello().await;
    bench.close().await;
    drop(session);
    // Nobody listens now. A second life of the controller, at the same port.
    bench.listen().await;
    let mut session = bench.session().await;
    session.hello().await;
    assert!(!link.is_finished());
    link.abort();
}

#[tokio::test]
async fn a_refusal_of_the_handshake_or_of_the_session_is_told_from_a_broken_network() {
    // Revoked, as the acceptor says it, and as the fleet says it.
    let bench = Bench::denying().await;
    let End::Revoked(why) = soon("an end", bench.link()).await.expect("no panic") else {
        panic!("the link ended otherwise")
    };
    assert!(why.to_string().contains("revoked"), "{why}");
    let mut bench = Bench::new().await;
    let link = bench.link();
    let mut session = bench.session().await;
    session.hello().await;
    session.refuse(Refusal::new(Reason::Revoked, "this node was revoked")).await;
    let End::Revoked(why) = soon("an end", link).await.expect("no panic") else {
        panic!("the link ended otherwise")
    };
    assert_eq!(why.reason, Reason::Revoked);
    // Anything else is tried again: the node keeps its jobs.
    for reason in [Reason::Unavailable, Reason::Overloaded, Reason::Internal] {
        let mut bench = Bench::new().await;
        let link = bench.link();
        let mut session = bench.session().await;
        session.hello().await;
        session.refuse(Refusal::new(reason, "not now")).await;
        let mut session = bench.session().await;
        session.hello().await;
        assert!(!link.is_finished(), "{reason}");
        link.abort();
    }
}

#[tokio::test]
async fn a_desired_set_that_is_not_understood_is_refused_whole_and_the_link_stays() {
    let mut bench = Bench::new().await;
    let link = bench.link();
    let mut session = bench.session().await;
    session.hello().await;
    session.welcome(0).await;
    let broken = wire::DesiredSet {
        revision: 1,
        generation: 1,
        assignments: vec![wire::Assignment::default()],
    };
    session.say(wire::controller_message::Message::Desired(broken)).await;
    session.desired(2).await;
    bench.revision(Revision::new(2)).await;
    assert!(bench.driver.view().borrow().held.is_empty());
    let Said::Heartbeat(_) = session.said().await else { panic!("a heartbeat was expected") };
    link.abort();
}

#[tokio::test]
async fn the_link_ends_with_the_driver() {
    let mut bench = Bench::new().await;
    let link = bench.link();
    let mut session = bench.session().await;
    session.hello().await;
    session.welcome(0).await;
    bench.stop().await;
    // It notices at the latest when it has something to pass on.
    session.ack_perhaps(0).await;
    assert!(matches!(soon("an end", link).await.expect("no panic"), End::Shutdown));
}
