//! Rows of an update, shared among the GPUs: a tool's own figures hold for each of its processes.

use super::{RenderError, Scene};
use crate::adapters::job::ToolJob;

/// What each process takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch {
    /// Rows at once.
    pub(super) micro: u64,
    /// Passes of so many rows before the weights change.
    pub(super) accumulation: u64,
}

impl Batch {
    /// The share of each process, one for each GPU: micro × accumulation × GPUs is exactly the batch that the spec names.
    ///
    /// # Errors
    /// When the batch cannot be shared out evenly.
    pub(super) fn of(job: &ToolJob, scene: &Scene) -> Result<Self, RenderError> {
        let micro = job.whole("/train/micro_batch").unwrap_or(1).max(1);
        let rows = micro.saturating_mul(job.whole("/train/accumulation").unwrap_or(1).max(1));
        let processes = u64::try_from(scene.gpus).unwrap_or(u64::MAX).max(1);
        if !rows.is_multiple_of(processes) {
            return Err(RenderError::Unsupported(format!(
                "{rows} rows in each step cannot be shared evenly among {processes} GPUs: set \
                 `train.batch.effective` to a multiple of {processes}"
            )));
        }
        let share = rows / processes;
        let micro = (1..=micro.min(share)).rev().find(|micro| share.is_multiple_of(*micro));
        let micro = micro.unwrap_or(1);
        Ok(Self { micro, accumulation: share / micro })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_gpus_together_take_exactly_the_batch_of_the_spec() {
        for (micro, accumulation, gpus, expected) in [
            (8, 2, 0, Some((8, 2))),
            (8, 2, 1, Some((8, 2))),
            (8, 2, 2, Some((8, 1))),
            (8, 2, 4, Some((4, 1))),
            (8, 3, 2, Some((6, 2))),
            (1, 12, 4, Some((1, 3))),
            (8, 2, 3, None),
            (1, 1, 2, None),
        ] {
            let train = json!({"micro_batch": micro, "accumulation": accumulation});
            let spec = json!({"train": train, "trainer": {"kind": "trl"}});
            let job = ToolJob::of_spec(&spec.to_string()).expect("a spec").expect("a tool");
            let scene = Scene { gpus, ..Scene::default() };
            let found = Batch::of(&job, &scene).ok();
            let found = found.map(|batch| (batch.micro, batch.accumulation));
            assert_eq!(found, expected, "{micro} x {accumulation} on {gpus}");
        }
    }
}
