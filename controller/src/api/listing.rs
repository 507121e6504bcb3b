//! Lists of jobs: rows that stay small however large the history is.

use hone_proto::wire;

use super::views;
use crate::core::record::JobState;
use crate::core::{Fleet, Job};

/// Jobs of one listing unless the caller says otherwise.
const LIMIT: usize = 200;

/// Jobs of one listing at most: with a row of about 2 KiB at worst, a quarter of the largest message.
const MAX_LIMIT: usize = 1000;

/// Longest reason in a row: enough for a line; `GetJob` has all of it.
const MAX_REASON: usize = 256;

/// The newest jobs that are asked for.
pub(super) fn jobs(fleet: &Fleet, request: &wire::ListJobsRequest) -> Vec<wire::JobView> {
    let limit = match usize::try_from(request.limit).unwrap_or(MAX_LIMIT) {
        0 => LIMIT,
        limit => limit.min(MAX_LIMIT),
    };
    fleet
        .jobs()
        .values()
        .rev()
        .filter(|job| !request.active_only || !ended(job))
        .filter(|job| request.name.is_empty() || job.record.wish.name.as_str() == request.name)
        .take(limit)
        .map(|job| row(fleet, job))
        .collect()
}

fn ended(job: &Job) -> bool {
    matches!(job.record.state, JobState::Ended { .. })
}

/// A job without what may be long: its spec, its image's labels, its former attempts and what they said.
fn row(fleet: &Fleet, job: &Job) -> wire::JobView {
    let mut row = views::job(fleet, job);
    row.spec_yaml = String::new();
    row.image_labels.clear();
    row.attempts.drain(..row.attempts.len().saturating_sub(1));
    for attempt in &mut row.attempts {
        attempt.message = String::new();
        attempt.detail = String::new();
    }
    if let Some((end, _)) = row.reason.char_indices().nth(MAX_REASON) {
        row.reason.truncate(end);
        row.reason.push('…');
    }
    row
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::super::tests::World;
    use super::*;

    fn asked(name: &str, limit: u32) -> wire::ListJobsRequest {
        wire::ListJobsRequest { active_only: false, limit, name: name.to_owned() }
    }

    #[test]
    fn a_listing_is_small_and_finds_a_name_however_long_the_history_is() {
        let mut world = World::new();
        let first = world.submit("rare").get();
        for _ in 0..MAX_LIMIT + 10 {
            world.submit("often");
        }
        let all = jobs(&world.fleet, &asked("", u32::MAX));
        assert_eq!(all.len(), MAX_LIMIT);
        assert!(all.iter().all(|job| job.spec_yaml.is_empty() && job.image_labels.is_empty()));
        let size = wire::ListJobsReply { jobs: all }.encoded_len();
        assert!(size < MAX_LIMIT * 2048, "{size} bytes");
        let named = jobs(&world.fleet, &asked("rare", 1));
        assert_eq!(named.iter().map(|job| job.job).collect::<Vec<_>>(), [first]);
        assert_eq!(jobs(&world.fleet, &asked("", 0)).len(), LIMIT);
    }
}
