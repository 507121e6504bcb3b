//! Who may hold how many connections, and how many may be in their handshake: counted, bounded, and without I/O.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::accept::AcceptLimits;

/// Counts of what came to a port since it was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AcceptStats {
    /// Connections that finished their handshake.
    pub established: u64,
    /// Turned away: too many connections in their handshake.
    pub refused_pending: u64,
    /// Turned away: too many of one source.
    pub refused_source: u64,
    /// Turned away: too many connections.
    pub refused_connections: u64,
    /// Handshakes that failed: plain text, a foreign or absent certificate.
    pub failed_handshakes: u64,
    /// Handshakes that took too long.
    pub late_handshakes: u64,
    /// Errors of `accept` itself, such as no file descriptors left.
    pub accept_errors: u64,
}

/// What the gate counts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Count {
    Established,
    RefusedPending,
    RefusedSource,
    RefusedConnections,
    FailedHandshake,
    LateHandshake,
    AcceptError,
}

const COUNTS: usize = 7;

/// The gate of one port.
#[derive(Debug)]
pub(super) struct Gate {
    limits: AcceptLimits,
    held: Mutex<Held>,
    counts: [AtomicU64; COUNTS],
}

#[derive(Debug, Default)]
struct Held {
    pending: usize,
    connections: usize,
    sources: HashMap<IpAddr, Source>,
}

#[derive(Debug, Default)]
struct Source {
    pending: usize,
    connections: usize,
}

impl Gate {
    pub(super) fn new(limits: AcceptLimits) -> Arc<Self> {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Arc::new(Self { limits, held: Mutex::default(), counts })
    }

    pub(super) fn count(&self, what: Count) {
        if let Some(counter) = self.counts.get(what as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn stats(&self) -> AcceptStats {
        let read = |what: Count| {
            self.counts.get(what as usize).map_or(0, |counter| counter.load(Ordering::Relaxed))
        };
        AcceptStats {
            established: read(Count::Established),
            refused_pending: read(Count::RefusedPending),
            refused_source: read(Count::RefusedSource),
            refused_connections: read(Count::RefusedConnections),
            failed_handshakes: read(Count::FailedHandshake),
            late_handshakes: read(Count::LateHandshake),
            accept_errors: read(Count::AcceptError),
        }
    }

    /// Lets a new connection into its handshake, or counts why not.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let source = source_of(address);
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let of_source = held.sources.get(&source);
        let (pending, connections) = of_source.map_or((0, 0), |s| (s.pending, s.connections));
        let refused = if pending >= self.limits.pending_per_source
            || connections >= self.limits.connections_per_source
        {
            Some(Count::RefusedSource)
        } else if held.pending >= self.limits.pending {
            Some(Count::RefusedPending)
        } else if held.connections >= self.limits.connections {
            Some(Count::RefusedConnections)
        } else {
            None
        };
        if let Some(what) = refused {
            self.count(what);
            return None;
        }
        held.pending += 1;
        held.connections += 1;
        let of_source = held.sources.entry(source).or_default();
        of_source.pending += 1;
        of_source.connections += 1;
        Some(Place { gate: Arc::clone(self), source, pending: true })
    }

    fn change(&self, source: IpAddr, change: impl Fn(&mut usize, &mut usize)) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Held { pending, connections, sources } = &mut *held;
        change(pending, connections);
        if let Some(of_source) = sources.get_mut(&source) {
            change(&mut of_source.pending, &mut of_source.connections);
            if of_source.connections == 0 {
                sources.remove(&source);
            }
        }
    }
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    source: IpAddr,
    pending: bool,
}

impl Place {
    /// The handshake is over.
    pub(super) fn established(&mut self) {
        if std::mem::take(&mut self.pending) {
            self.gate.change(self.source, |pending, _| *pending = pending.saturating_sub(1));
            self.gate.count(Count::Established);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let was_pending = usize::from(self.pending);
        self.gate.change(self.source, |pending, connections| {
            *pending = pending.saturating_sub(was_pending);
            *connections = connections.saturating_sub(1);
        });
    }
}

/// What counts as one source: an IPv4 address, or an IPv6 /64, since one host commonly owns a whole one.
#[must_use]
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Arc<Gate> {
        Gate::new(AcceptLimits {
            pending: 3,
            pending_per_source: 2,
            connections: 5,
            connections_per_source: 4,
            ..AcceptLimits::default()
        })
    }

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    #[test]
    fn bounds_hold_and_places_come_back() {
        let gate = gate();
        let first = gate.enter(v4(1)).expect("a place");
        let _second = gate.enter(v4(1)).expect("a place");
        assert!(gate.enter(v4(1)).is_none(), "a third handshake of one source");
        let _third = gate.enter(v4(2)).expect("a place");
        assert!(gate.enter(v4(3)).is_none(), "a fourth handshake");
        assert_eq!(gate.stats().refused_source, 1);
        assert_eq!(gate.stats().refused_pending, 1);
        drop(first);
        assert!(gate.enter(v4(3)).is_some());
    }

    #[test]
    fn established_connections_still_count() {
        let gate = gate();
        let mut kept = Vec::new();
        for last in [1, 1, 1, 1, 2] {
            let mut place = gate.enter(v4(last)).expect("a place");
            place.established();
            kept.push(place);
        }
        assert!(gate.enter(v4(1)).is_none(), "a fifth of one source");
        assert!(gate.enter(v4(3)).is_none(), "a sixth in all");
        assert_eq!(gate.stats().refused_source, 1);
        assert_eq!(gate.stats().refused_connections, 1);
        kept.clear();
        let held = gate.held.lock().expect("the lock");
        assert_eq!((held.pending, held.connections, held.sources.len()), (0, 0, 0));
    }

    #[test]
    fn one_ipv6_network_is_one_source() {
        let a = source_of("2001:db8:1:2::1".parse().expect("an address"));
        let b = source_of("2001:db8:1:2:ffff::9".parse().expect("an address"));
        assert_eq!(a, b);
        assert_eq!(source_of("::ffff:192.0.2.1".parse().expect("an address")), v4(1));
    }
}
