//! HTTP/2's own limits, spoken by hand: what the transport library leaves open unless it is told.

use hone_proto::identity::AcceptLimits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::door::Door;
use super::soon;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_HEADERS: u8 = 4;

/// `POST / http`, host `x`: three entries of the static table and a literal.
const REQUEST: &[u8] = &[0x83, 0x86, 0x84, 0x41, 0x01, b'x'];

/// Requests of the flood: many times what is allowed.
const FLOOD: u32 = 5000;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// The next frame's kind and payload; `None` at the end of the connection.
async fn next(tls: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    tls.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; usize::try_from(length).expect("a length")];
    tls.read_exact(&mut payload).await.ok()?;
    Some((head[3], payload))
}

/// A connection whose preface is exchanged, and the settings that the server announced.
async fn spoken(door: &Door) -> (TlsStream<TcpStream>, Vec<(u16, u32)>) {
    let mut tls = door.tls(|_| {}).await.expect("a handshake");
    tls.write_all(PREFACE).await.expect("the preface");
    tls.write_all(&frame(SETTINGS, 0, 0, &[])).await.expect("settings");
    let (kind, payload) = soon("settings", next(&mut tls)).await.expect("a frame");
    assert_eq!(kind, SETTINGS);
    let entry = |six: &[u8]| {
        let id = u16::from_be_bytes([six[0], six[1]]);
        (id, u32::from_be_bytes([six[2], six[3], six[4], six[5]]))
    };
    (tls, payload.chunks_exact(6).map(entry).collect())
}

#[tokio::test]
async fn limits_of_streams_and_headers_are_announced() {
    let door = Door::with(AcceptLimits::default()).await;
    let (_tls, settings) = spoken(&door).await;
    let (max_streams, max_headers) = (3, 6);
    assert!(settings.contains(&(max_streams, 64)), "{settings:?}");
    assert!(settings.contains(&(max_headers, 16 << 10)), "{settings:?}");
}

#[tokio::test]
async fn a_client_that_makes_the_server_reset_streams_without_end_is_cut() {
    let door = Door::with(AcceptLimits::default()).await;
    let (tls, _) = spoken(&door).await;
    let (mut from, mut to) = tokio::io::split(tls);
    // Each request is followed by a window update that overflows its window: the server must reset the stream.
    let flood = async move {
        for number in 0..FLOOD {
            let stream = number * 2 + 1;
            let mut bytes = frame(HEADERS, END_HEADERS, stream, REQUEST);
            bytes.extend(frame(WINDOW_UPDATE, 0, stream, &[0x7f, 0xff, 0xff, 0xff]));
            if to.write_all(&bytes).await.is_err() || to.flush().await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let listen = async move {
        let mut resets = 0;
        while let Some((kind, _)) = next(&mut from).await {
            resets += u32::from(kind == RST_STREAM);
            if kind == GOAWAY {
                return (resets, true);
            }
        }
        (resets, false)
    };
    let ((), (resets, told)) = soon("the flood's end", async { tokio::join!(flood, listen) }).await;
    assert!(told, "{resets} resets were given, and the connection was not ended");
    assert!(resets > 0, "the server had nothing to reset");
    assert!(resets <= 300, "{resets} resets were given");
    door.still_serves().await;
}
