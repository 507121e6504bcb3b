//! A way to the controller's three ports that a test can cut, mend and slow down.
//!
//! A cut is silent, like a pulled cable: nothing travels and nobody is told. When it is mended, connections from
//! before are gone.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

/// How often a connection looks whether it is cut.
const LOOK: Duration = Duration::from_millis(20);
/// Read at once; small, so that a slow link is even.
const PIECE: usize = 16 << 10;
/// Ports tried before giving up.
const TRIES: usize = 200;

/// The first of three ports in a row that nobody listens on.
///
/// # Errors
/// When there are none.
pub fn three_free_ports() -> Result<u16> {
    listen().map(|listeners| listeners.0)
}

fn listen() -> Result<(u16, [TcpListener; 3])> {
    for _ in 0..TRIES {
        // Below the ports that systems hand out by themselves, so that nobody takes one in between.
        let first = rand::random_range(10_000..32_000);
        let at = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
        if let (Ok(a), Ok(b), Ok(c)) = (at(first), at(first + 1), at(first + 2)) {
            return Ok((first, [a, b, c]));
        }
    }
    bail!("no three free ports in a row")
}

#[derive(Debug)]
struct State {
    cut: AtomicBool,
    /// Bytes per second towards the controller on the bulk port; 0 is as fast as it goes.
    rate: AtomicU64,
    /// Bytes that went towards the controller on the bulk port.
    uploaded: AtomicU64,
    /// Where they stop.
    limit: AtomicU64,
    /// Something waits there.
    held: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            cut: AtomicBool::default(),
            rate: AtomicU64::default(),
            uploaded: AtomicU64::default(),
            limit: AtomicU64::new(u64::MAX),
            held: AtomicBool::default(),
            open: Mutex::default(),
        }
    }
}

/// Forwards three ports. Ends with the test process.
#[derive(Debug)]
pub struct Proxy {
    /// The first of its three ports.
    pub ports: u16,
    state: Arc<State>,
}

impl Proxy {
    /// One to the three ports from `to` on.
    ///
    /// # Errors
    /// When there are no ports.
    pub fn new(to: u16) -> Result<Self> {
        let (ports, listeners) = listen()?;
        let state = Arc::new(State::default());
        for (listener, plane) in listeners.into_iter().zip(0..) {
            let state = Arc::clone(&state);
            std::thread::Builder::new()
                .name(format!("proxy-{plane}"))
                .spawn(move || accept(&listener, to + plane, plane == 1, &state))
                .context("a thread")?;
        }
        Ok(Self { ports, state })
    }

    /// Nothing travels any more.
    pub fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
    }

    /// Ends a cut.
    pub fn mend(&self) {
        if !self.state.cut.load(Ordering::SeqCst) {
            return;
        }
        let mut open = self.state.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// Uploads travel at this many bytes per second.
    pub fn slow_uploads(&self, rate: u64) {
        self.state.rate.store(rate, Ordering::SeqCst);
    }

    /// Uploads travel as fast as they go.
    pub fn at_full_speed(&self) {
        self.state.rate.store(0, Ordering::SeqCst);
    }

    /// Of what is uploaded from now on, the first `bytes` get through and nothing after them: whatever a client sends
    /// last, such as the commit of what it uploaded, is certainly still on this side.
    pub fn hold_uploads_after(&self, bytes: u64) {
        self.state.held.store(false, Ordering::SeqCst);
        self.state.limit.store(self.uploaded() + bytes, Ordering::SeqCst);
    }

    /// Whether something was held back.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.state.held.load(Ordering::SeqCst)
    }

    /// Nothing is held back any more.
    pub fn release(&self) {
        self.state.limit.store(u64::MAX, Ordering::SeqCst);
    }

    /// Bytes that were uploaded so far.
    #[must_use]
    pub fn uploaded(&self) -> u64 {
        self.state.uploaded.load(Ordering::SeqCst)
    }
}

fn accept(listener: &TcpListener, to: u16, bulk: bool, state: &Arc<State>) {
    for inward in listener.incoming().flatten() {
        // The controller is away: the caller sees a connection that ends at once.
        let Ok(outward) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)) else { continue };
        // A connection that cannot be set up ends when its halves are dropped.
        let _ = forward(inward, outward, bulk, state);
    }
}

fn forward(inward: TcpStream, outward: TcpStream, bulk: bool, state: &Arc<State>) -> Result<()> {
    let mut open = state.open.lock().unwrap_or_else(PoisonError::into_inner);
    for stream in [&inward, &outward] {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LOOK))?;
        open.push(stream.try_clone()?);
    }
    drop(open);
    let (back, forth) = (outward.try_clone()?, inward.try_clone()?);
    let up = Arc::clone(state);
    std::thread::Builder::new().spawn(move || copy(inward, outward, bulk, &up))?;
    let down = Arc::clone(state);
    std::thread::Builder::new().spawn(move || copy(back, forth, false, &down))?;
    Ok(())
}

/// Copies until either side ends.
fn copy(mut from: TcpStream, mut to: TcpStream, uploads: bool, state: &State) {
    let mut piece = [0; PIECE];
    loop {
        if state.cut.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK);
            continue;
        }
        let read = match from.read(&mut piece) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        if uploads {
            pace(read as u64, state);
        }
        // What was read when the cable was pulled is lost on the way.
        if !state.cut.load(Ordering::SeqCst) && to.write_all(&piece[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn pace(bytes: u64, state: &State) {
    let rate = state.rate.load(Ordering::SeqCst);
    if let Some(micros) = (bytes * 1_000_000).checked_div(rate) {
        std::thread::sleep(Duration::from_micros(micros));
    }
    let goes = |uploaded: u64| {
        let sum = uploaded.saturating_add(bytes);
        (sum <= state.limit.load(Ordering::SeqCst)).then_some(sum)
    };
    while state.uploaded.fetch_update(Ordering::SeqCst, Ordering::SeqCst, goes).is_err() {
        state.held.store(true, Ordering::SeqCst);
        std::thread::sleep(LOOK);
    }
}
