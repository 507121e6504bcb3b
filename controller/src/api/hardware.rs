//! Hardware of a node over time: the rollups that are kept, from its file, and the samples that it sends live.

use std::path::Path;

use hone_proto::error::Refusal;
use hone_proto::id::NodeId;
use hone_proto::wire;
use hone_proto::wire::event::Payload;
use hone_proto::wire::hardware_update::Update;
use prost::Message as _;
use tokio::sync::mpsc;
use tonic::Status;

use super::find_node;
use super::operator::internal;
use super::streams::{Boxed, FileReader, Step, news, spawn};
use crate::driver::{FileId, Handle, Journal, JournalError};

pub(super) async fn hardware(
    fleet: &Handle,
    journal: &Path,
    request: wire::HardwareRequest,
) -> Result<Boxed<wire::HardwareUpdate>, Refusal> {
    let wire::HardwareRequest { node, follow, since_wall_ns } = request;
    let node = fleet.read(move |fleet| find_node(fleet, &node)).await??;
    let since = since_wall_ns.unwrap_or(0);
    let file = FileId::Node(node.clone());
    let (place, durable) = (journal.to_owned(), fleet.length(&file));
    let looked_up = file.clone();
    let offset = tokio::task::spawn_blocking(move || begin(&place, &looked_up, durable, since))
        .await
        .map_err(internal)?
        .map_err(internal)?;
    let file = FileReader { fleet: fleet.clone(), journal: journal.to_owned(), file, offset };
    Ok(spawn(move |to| async move { tell(file, &node, since, follow, &to).await }))
}

/// Where to begin for what is no older than `since`: a year of rollups is gigabytes. Nodes report in the order in which
/// things happened, so a segment that begins at that time or before it ends the search.
fn begin(journal: &Path, file: &FileId, durable: u64, since: u64) -> Result<u64, JournalError> {
    let starts = Journal::starts(journal, file, durable)?;
    for start in starts.iter().rev() {
        let (records, _) = Journal::read(journal, file, *start, durable, 1)?;
        let first = records.first().and_then(|record| wire::Event::decode(record.as_slice()).ok());
        if first.and_then(|event| event.at).is_some_and(|at| at.wall_ns <= since) {
            return Ok(*start);
        }
    }
    Ok(starts.first().copied().unwrap_or(0))
}

async fn tell(
    mut file: FileReader,
    node: &NodeId,
    since: u64,
    follow: bool,
    to: &mpsc::Sender<Result<wire::HardwareUpdate, Status>>,
) -> Result<(), Refusal> {
    let send =
        async |update| to.send(Ok(wire::HardwareUpdate { update: Some(update) })).await.is_ok();
    let mut turns = file.fleet.turns();
    let mut shown = 0;
    loop {
        turns.mark_unchanged();
        while let Step::Events(events) = file.step().await? {
            for update in events.into_iter().filter_map(|event| kept(event, since)) {
                if !send(update).await {
                    return Ok(());
                }
            }
        }
        if !follow {
            return Ok(());
        }
        if let Some(sample) = file.fleet.sample_since(node, shown) {
            shown = sample.wall_ns;
            if !send(Update::Sample(sample)).await {
                return Ok(());
            }
        }
        if !news(&mut turns, to).await? {
            return Ok(());
        }
    }
}

fn kept(event: wire::Event, since: u64) -> Option<Update> {
    let at = event.at.map_or(0, |at| at.wall_ns);
    match event.payload? {
        Payload::Hardware(hardware) => {
            hardware.rollup.filter(|rollup| rollup.to_wall_ns >= since).map(Update::Rollup)
        }
        Payload::Gap(gap) => (at >= since).then_some(Update::Gap(gap)),
        _ => None,
    }
}
