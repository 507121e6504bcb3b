//! Nodes as text. Pure.

use hone_proto::time::WallNanos;
use hone_proto::wire::NodeView;

use super::human::{UNKNOWN, age, time};
use super::table::{Kind, facts, table};
use super::{hardware, job};

/// `hone node list`.
#[must_use]
pub fn list(nodes: &[NodeView], now: WallNanos, width: usize) -> String {
    let columns = [
        ("NODE", Kind::Fixed),
        ("HOST", Kind::Text),
        ("STATE", Kind::Fixed),
        ("HAS", Kind::Fixed),
        ("JOBS", Kind::Text),
        ("SEEN", Kind::Number),
    ];
    let rows: Vec<_> = nodes
        .iter()
        .map(|node| {
            vec![
                node.id.clone(),
                node.hostname.clone(),
                node.state.clone(),
                node.allocatable.as_ref().map(hardware::allocatable_short).unwrap_or_default(),
                jobs(node),
                seen(node, now),
            ]
        })
        .collect();
    table(&columns, &rows, width)
}

fn jobs(node: &NodeView) -> String {
    if node.jobs.is_empty() {
        return UNKNOWN.to_owned();
    }
    node.jobs.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn seen(node: &NodeView, now: WallNanos) -> String {
    node.last_seen_wall_ns.map_or_else(|| "never".to_owned(), |seen| age(now, WallNanos::new(seen)))
}

/// `hone node show`.
#[must_use]
pub fn details(node: &NodeView, now: WallNanos, width: usize) -> String {
    let until = node.certificate_expires_wall_ns.map(|ns| time(WallNanos::new(ns)));
    let pairs = [
        ("node", node.id.clone()),
        ("host", node.hostname.clone()),
        ("state", node.state.clone()),
        ("seen", format!("{} ago", seen(node, now)).replace("never ago", "never")),
        (
            "enrolled",
            format!("{} by {}", time(WallNanos::new(node.enrolled_wall_ns)), node.enrolled_by),
        ),
        ("agent", node.agent_version.clone()),
        ("certificate", until.map(|time| format!("until {time}")).unwrap_or_default()),
        ("may promise", node.allocatable.as_ref().map(hardware::allocatable).unwrap_or_default()),
        ("promised", node.promised.as_ref().map(job::demand).unwrap_or_default()),
        ("jobs", jobs(node)),
    ];
    let mut parts = vec![facts(&pairs, width)];
    if let Some(inventory) = &node.inventory {
        parts.extend(hardware::inventory(inventory, width));
    }
    let now = node.sample.as_ref().map(|sample| hardware::sample(sample, width));
    parts.extend(now.filter(|text| !text.is_empty()));
    parts.join("\n\n")
}
