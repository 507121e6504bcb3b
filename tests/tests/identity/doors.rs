//! What comes to a port without a certificate, without manners or without end.

use std::time::Duration;

use hone_proto::error::Reason;
use hone_proto::identity::AcceptLimits;
use tokio::io::AsyncWriteExt as _;

use super::door::{Door, closed};
use super::soon;

#[tokio::test]
async fn a_handshake_that_never_ends_is_cut_and_blocks_nobody() {
    let handshake = Duration::from_millis(300);
    let door = Door::with(AcceptLimits { handshake, ..AcceptLimits::default() }).await;
    let mut silent = door.tcp().await;
    let mut slow = door.tcp().await;
    // The beginning of a TLS record that announces more than ever comes.
    slow.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).await.expect("a few bytes");
    door.still_serves().await;
    assert_eq!(closed(&mut silent).await, 0);
    closed(&mut slow).await;
    assert_eq!((door.stats)().late_handshakes, 2);
}

#[tokio::test]
async fn one_source_cannot_hold_all_places_of_the_handshake() {
    let limits = AcceptLimits { pending: 6, pending_per_source: 4, ..AcceptLimits::default() };
    let door = Door::with(limits).await;
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(door.tcp_from(2).await);
    }
    let mut fifth = door.tcp_from(2).await;
    assert_eq!(closed(&mut fifth).await, 0, "the fifth was not turned away");
    assert_eq!((door.stats)().refused_source, 1);
    door.still_serves().await;
    held.push(door.tcp_from(3).await);
    held.push(door.tcp_from(3).await);
    let mut seventh = door.tcp_from(4).await;
    assert_eq!(closed(&mut seventh).await, 0, "the seventh was not turned away");
    assert_eq!((door.stats)().refused_pending, 1);
    assert_eq!(door.call().await, Reason::Unavailable);
    let failed = (door.stats)().failed_handshakes;
    held.clear();
    door.until("the places come back", |stats| stats.failed_handshakes == failed + 6).await;
    door.still_serves().await;
}

#[tokio::test]
async fn connections_are_bounded_and_come_back() {
    let limits = AcceptLimits { connections: 3, ..AcceptLimits::default() };
    let door = Door::with(limits).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(door.tls(|_| {}).await.expect("a connection"));
    }
    let mut fourth = door.tcp().await;
    assert_eq!(closed(&mut fourth).await, 0, "the fourth was not turned away");
    assert_eq!((door.stats)().refused_connections, 1);
    held.clear();
    soon("a place comes back", async {
        while door.call().await != Reason::Protocol {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn plain_text_and_noise_are_turned_away() {
    let door = Door::with(AcceptLimits::default()).await;
    let noise: &[&[u8]] = &[
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &[0xff; 512],
        &[0x16, 0x03, 0x01, 0xff, 0xff],
        &[0; 64],
    ];
    for bytes in noise {
        let mut tcp = door.tcp().await;
        tcp.write_all(bytes).await.expect("it is sent");
        tcp.shutdown().await.expect("nothing more comes");
        let answered = closed(&mut tcp).await;
        assert!(answered <= 64, "{answered} bytes in answer to {bytes:?}");
    }
    let all = u64::try_from(noise.len()).expect("a few");
    door.until("each is counted", |stats| stats.failed_handshakes == all).await;
    door.still_serves().await;
}

#[tokio::test]
async fn another_protocol_within_tls_is_turned_away() {
    let door = Door::with(AcceptLimits::default()).await;
    let http1 = door.tls(|config| config.alpn_protocols = vec![b"http/1.1".to_vec()]).await;
    assert!(http1.is_err(), "HTTP/1.1 was agreed on");
    let mut tls = door.tls(|config| config.alpn_protocols.clear()).await.expect("a handshake");
    tls.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("it is sent");
    let answered = closed(&mut tls).await;
    assert!(answered < 256, "{answered} bytes in answer");
    door.still_serves().await;
}

#[tokio::test]
async fn a_peer_that_says_nothing_after_its_handshake_is_cut() {
    let first_bytes = Duration::from_millis(300);
    let door = Door::with(AcceptLimits { first_bytes, ..AcceptLimits::default() }).await;
    let mut tls = door.tls(|_| {}).await.expect("a handshake");
    closed(&mut tls).await;
    door.still_serves().await;
}

#[tokio::test]
async fn a_port_with_a_lifetime_cuts_whoever_stays() {
    let lifetime = Some(Duration::from_millis(300));
    let door = Door::with(AcceptLimits { lifetime, ..AcceptLimits::default() }).await;
    let mut tls = door.tls(|_| {}).await.expect("a handshake");
    tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .expect("it is sent");
    closed(&mut tls).await;
    door.still_serves().await;
}
