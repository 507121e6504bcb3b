//! Bounds and periods of the core.

use std::time::Duration;

/// Bounds and periods of the core, each with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How long a silent node is believed. 30 s: three missed heartbeats of ten seconds' patience, far above a slow
    /// handshake, far below what people notice.
    pub lease: Duration,
    /// What `on_disconnect: auto` waits where another node could hold the job.
    pub auto_wait: Duration,
    /// By how much the controller waits longer than the agent: it bounds the overlap of two attempts.
    pub lost_margin: Duration,
    /// How long the controller suspects itself after a mass loss, unless somebody says otherwise.
    pub mass_loss_hold: Duration,
    /// First pause after a failed attempt; doubles up to `retry_cap`.
    pub retry_base: Duration,
    /// Longest pause after a failed attempt.
    pub retry_cap: Duration,
    /// How long the result of a request is kept.
    pub keep_requests: Duration,
    /// How long at least, by the clock that nobody sets: a wall clock that jumps a day ahead must not turn a retry into
    /// a second job.
    pub keep_requests_at_least: Duration,
    /// Lines of history that are kept of what people did, and as many of what the fleet and its nodes did.
    pub keep_history: u64,
    /// Attempts of a job that are kept, besides those that a node may still hold. 64: far more than a person reads, and
    /// a job that moves every hour for years stays as small as any other.
    pub keep_attempts: usize,
    /// Checkpoints and packages of a job that are kept. 10,000: one every five minutes for a month; beyond it the oldest
    /// is retired with each new one, and history says so.
    pub keep_saved: usize,
    /// Requests of one person whose results are kept. 10,000: seven a minute all day; beyond it that person waits, and
    /// nobody else.
    pub most_requests: usize,
    /// Attempts that one node carries at a time. 128 of the largest jobs make a desired set of less than the 8 MiB that
    /// an agent reads.
    pub most_per_node: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(30),
            auto_wait: Duration::from_secs(30 * 60),
            lost_margin: Duration::from_secs(60),
            mass_loss_hold: Duration::from_secs(3600),
            retry_base: Duration::from_secs(2),
            retry_cap: Duration::from_secs(300),
            keep_requests: Duration::from_secs(24 * 3600),
            keep_requests_at_least: Duration::from_secs(3600),
            keep_history: 10_000,
            keep_attempts: 64,
            keep_saved: 10_000,
            most_requests: 10_000,
            most_per_node: 128,
        }
    }
}
