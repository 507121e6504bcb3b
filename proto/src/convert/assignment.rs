//! Desired sets on the wire.

use std::time::Duration;

use super::{WireError, digest, digest_bytes, optional_digest};
use crate::assignment::{
    Assignment, Channel, DesiredSet, ImageRef, Input, Intent, Promise, Relaxation,
};
use crate::id::{Generation, Revision};
use crate::quantity::{Bytes, MilliCpu};
use crate::wire;

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl From<DesiredSet> for wire::DesiredSet {
    fn from(set: DesiredSet) -> Self {
        Self {
            revision: set.revision.get(),
            generation: set.generation.get(),
            assignments: set.assignments.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::DesiredSet> for DesiredSet {
    type Error = WireError;
    fn try_from(wire: wire::DesiredSet) -> Result<Self, WireError> {
        Ok(Self {
            revision: Revision::new(wire.revision),
            generation: Generation::new(wire.generation),
            assignments: wire
                .assignments
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
        })
    }
}

impl From<Assignment> for wire::Assignment {
    fn from(a: Assignment) -> Self {
        let (intent, stop_reason) = match a.intent {
            Intent::Run => (wire::Intent::Run, String::new()),
            Intent::Stop { reason } => (wire::Intent::Stop, reason),
        };
        Self {
            attempt: Some(a.attempt.into()),
            job_name: a.job_name.into(),
            project: a.project.into(),
            owner: a.owner.into(),
            intent: intent.into(),
            stop_reason,
            image: Some(wire::Image {
                reference: a.image.reference,
                manifest: digest_bytes(a.image.manifest),
            }),
            command: a.command,
            trainer_spec_json: a.trainer_spec.into_bytes(),
            inputs: a
                .inputs
                .into_iter()
                .map(|input| wire::Input {
                    channel: input.channel.path().to_owned(),
                    manifest: digest_bytes(Some(input.manifest)),
                })
                .collect(),
            resume_manifest: digest_bytes(a.resume),
            promise: Some(a.promise.into()),
            relaxations: a.relaxations.iter().map(|r| r.name().to_owned()).collect(),
            keep_checkpoints: a.keep_checkpoints,
            grace_seconds: u32::try_from(a.grace.as_secs()).unwrap_or(u32::MAX),
            disconnect_wait_ms: a.disconnect_wait.map(millis),
            checkpoint_requests: a.checkpoint_requests,
            traceparent: a.traceparent,
            max_seconds: a.max_time.map(|t| t.as_secs()),
        }
    }
}

impl TryFrom<wire::Assignment> for Assignment {
    type Error = WireError;
    fn try_from(w: wire::Assignment) -> Result<Self, WireError> {
        let intent = match wire::Intent::try_from(w.intent) {
            Ok(wire::Intent::Run) => Intent::Run,
            Ok(wire::Intent::Stop) => Intent::Stop { reason: w.stop_reason },
            Ok(wire::Intent::Unspecified) | Err(_) => {
                return Err(WireError::new("assignment.intent", format!("unknown: {}", w.intent)));
            }
        };
        let image = w.image.ok_or_else(|| WireError::missing("assignment.image"))?;
        Ok(Self {
            attempt: w.attempt.ok_or_else(|| WireError::missing("assignment.attempt"))?.into(),
            job_name: w.job_name.parse().map_err(WireError::id("assignment.job_name"))?,
            project: w.project.parse().map_err(WireError::id("assignment.project"))?,
            owner: w.owner.parse().map_err(WireError::id("assignment.owner"))?,
            intent,
            image: ImageRef {
                reference: image.reference,
                manifest: optional_digest("assignment.image.manifest", &image.manifest)?,
            },
            command: w.command,
            trainer_spec: String::from_utf8(w.trainer_spec_json)
                .map_err(|e| WireError::new("assignment.trainer_spec_json", e.to_string()))?,
            inputs: w.inputs.iter().map(input).collect::<Result<_, _>>()?,
            resume: optional_digest("assignment.resume_manifest", &w.resume_manifest)?,
            promise: w.promise.ok_or_else(|| WireError::missing("assignment.promise"))?.into(),
            relaxations: w.relaxations.iter().map(|n| relaxation(n)).collect::<Result<_, _>>()?,
            keep_checkpoints: w.keep_checkpoints.max(1),
            grace: Duration::from_secs(w.grace_seconds.into()),
            disconnect_wait: w.disconnect_wait_ms.map(Duration::from_millis),
            checkpoint_requests: w.checkpoint_requests,
            traceparent: w.traceparent,
            max_time: w.max_seconds.map(Duration::from_secs),
        })
    }
}

fn input(wire: &wire::Input) -> Result<Input, WireError> {
    let channel = Channel::from_path(&wire.channel)
        .ok_or_else(|| WireError::new("input.channel", format!("unknown: {:?}", wire.channel)))?;
    Ok(Input { channel, manifest: digest("input.manifest", &wire.manifest)? })
}

fn relaxation(name: &str) -> Result<Relaxation, WireError> {
    Relaxation::from_name(name)
        .ok_or_else(|| WireError::new("assignment.relaxations", format!("unknown: {name:?}")))
}

impl From<Promise> for wire::Promise {
    fn from(p: Promise) -> Self {
        Self {
            gpu_uuids: p.gpus,
            milli_cpu: p.cpu.get(),
            ram_bytes: p.ram.get(),
            disk_bytes: p.disk.get(),
            shm_bytes: p.shm.get(),
            vram_bytes: p.vram.get(),
        }
    }
}

impl From<wire::Promise> for Promise {
    fn from(w: wire::Promise) -> Self {
        Self {
            gpus: w.gpu_uuids,
            vram: Bytes::new(w.vram_bytes),
            cpu: MilliCpu::new(w.milli_cpu),
            ram: Bytes::new(w.ram_bytes),
            disk: Bytes::new(w.disk_bytes),
            shm: Bytes::new(w.shm_bytes),
        }
    }
}
