//! What happened in the fleet, to whoever asks for it.

use hone_proto::error::Refusal;
use hone_proto::id::{JobId, NodeId};
use hone_proto::wire;
use tokio::sync::mpsc;
use tonic::Status;

use super::super::{find_node, no_job, views};
use super::{Boxed, MAX_TAIL, Tail, news, spawn};
use crate::core::Fleet;
use crate::core::record::FleetEvent;
use crate::driver::Handle;

/// Lines of history that are looked at in one read of the fleet: everybody waits for it.
const PAGE: usize = 1000;

/// What a reader of the history wants to know of.
#[derive(Debug, Clone)]
struct About {
    job: Option<JobId>,
    node: Option<NodeId>,
}

impl About {
    /// Refuses what the fleet does not know: silence would read as "nothing happened".
    fn new(fleet: &Fleet, job: Option<JobId>, node: &str) -> Result<Self, Refusal> {
        if let Some(id) = job
            && !fleet.jobs().contains_key(&id)
        {
            return Err(no_job(id));
        }
        let node = if node.is_empty() { None } else { Some(find_node(fleet, node)?) };
        Ok(Self { job, node })
    }

    fn admits(&self, event: &FleetEvent) -> bool {
        (self.job.is_none() || event.job == self.job)
            && (self.node.is_none() || event.node == self.node)
    }

    /// What is wanted of the next lines after this number, and the number of the last line that was looked at.
    fn page(&self, fleet: &Fleet, after: u64) -> (Vec<wire::EventView>, Option<u64>) {
        let lines = || fleet.history().range(after + 1..).take(PAGE);
        let wanted = lines().filter(|(_, event)| self.admits(event));
        let last = lines().last().map(|(number, _)| *number);
        (wanted.map(|(_, event)| views::event(fleet, event)).collect(), last)
    }
}

pub(in crate::api) async fn events(
    fleet: &Handle,
    request: wire::EventsRequest,
) -> Result<Boxed<wire::EventView>, Refusal> {
    let (job, node) = (request.job.map(JobId::new), request.node);
    let about = fleet.read(move |fleet| About::new(fleet, job, &node)).await??;
    let fleet = fleet.clone();
    let tail = usize::try_from(request.tail).unwrap_or(MAX_TAIL);
    let follow = request.follow;
    Ok(spawn(move |to| async move { follow_events(&fleet, about, tail, follow, &to).await }))
}

async fn follow_events(
    fleet: &Handle,
    about: About,
    tail: usize,
    follow: bool,
    to: &mpsc::Sender<Result<wire::EventView, Status>>,
) -> Result<(), Refusal> {
    let mut turns = fleet.turns();
    let mut after = 0;
    let mut last = Tail::new(tail);
    loop {
        turns.mark_unchanged();
        loop {
            let about = about.clone();
            let (found, looked_at) = fleet.read(move |fleet| about.page(fleet, after)).await?;
            for event in found {
                if let Some(event) = last.push(event)
                    && to.send(Ok(event)).await.is_err()
                {
                    return Ok(());
                }
            }
            match looked_at {
                Some(number) => after = number,
                None => break,
            }
        }
        for event in last.end() {
            if to.send(Ok(event)).await.is_err() {
                return Ok(());
            }
        }
        if !follow || !news(&mut turns, to).await? {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::tests::World;
    use super::*;

    #[test]
    fn what_a_filter_drops_is_not_walked_again() {
        let mut world = World::new();
        let node = world.join("n-1", "gpu-1");
        let job = world.submit("tune");
        world.drain(&node);
        let newest = world.fleet.history().keys().next_back().copied();
        let filter = About { job: None, node: None };
        let (all, looked_at) = filter.page(&world.fleet, 0);
        assert_eq!((all.last().map(|event| event.number), looked_at), (newest, newest));
        let (found, looked_at) = About { job: Some(job), node: Some(node) }.page(&world.fleet, 0);
        assert_eq!((found, looked_at), (Vec::new(), newest));
        assert_eq!(filter.page(&world.fleet, newest.unwrap_or(0)), (Vec::new(), None));
    }
}
