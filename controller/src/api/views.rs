//! What people see of the fleet: made from the core's records at one place.

use hone_proto::id::NodeId;
use hone_proto::wire;
use prost::Message as _;

use crate::core::record::{
    AttemptRecord, AttemptState, End, Evaluation, FleetEvent, JobState, NodeAdmin, Saved,
    SavedKind, UserRecord,
};
use crate::core::{Fleet, Job, Node};
use crate::placement::{Demand, Shortfall};
use crate::spec::Standing;

/// Splits of a trainer's evaluation and the words for the models that they judge.
const EVALUATED: [(&str, &str); 2] = [("eval_base", "base"), ("eval", "tuned")];

pub(super) fn job(fleet: &Fleet, job: &Job) -> wire::JobView {
    let record = &job.record;
    let silent = job
        .current()
        .and_then(|attempt| fleet.nodes().get(&attempt.node))
        .is_some_and(|node| node.silent);
    let (state, reason) = job_state(job, silent);
    let standing = Standing::of(&record.wish.trainer_spec);
    wire::JobView {
        job: record.id.get(),
        name: record.wish.name.to_string(),
        project: record.wish.project.to_string(),
        owner: record.owner.to_string(),
        state: state.to_owned(),
        reason,
        submitted_wall_ns: record.submitted_at.get(),
        ended_wall_ns: match &record.state {
            JobState::Ended { at, .. } => Some(at.get()),
            JobState::Queued { .. } | JobState::Active => None,
        },
        attempts: job.attempts.iter().map(|a| attempt(fleet, a, silent)).collect(),
        step: job.progress.step.map(hone_proto::id::Step::get),
        max_steps: job.progress.max_steps.map(hone_proto::id::Step::get),
        latest_checkpoint_step: record.latest.as_ref().map(|saved| saved.step.get()),
        package: hone_proto::convert::digest_bytes(record.package.as_ref().map(|p| p.manifest)),
        spec_yaml: job.spec_yaml.clone(),
        image_reference: record.wish.image.reference.clone(),
        image_labels: record.wish.image_labels.clone(),
        demand: Some(demand(&record.wish.demand)),
        evaluations: EVALUATED
            .iter()
            .filter_map(|(split, model)| {
                job.progress.evaluations.get(*split).map(|e| evaluation(model, e))
            })
            .collect(),
        cancel_requested: record.cancelled_by.is_some(),
        cancelled_by: record.cancelled_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        trainable_params: job.progress.trainable_params,
        total_params: job.progress.total_params,
        older_attempts: job.attempts.dropped(),
        relaxations: record.wish.relaxations.iter().map(|r| r.name().to_owned()).collect(),
        trainer_kind: standing.kind.name().to_owned(),
        contract_level: standing.level.name().to_owned(),
        lacks: standing.lacks.iter().map(|lack| (*lack).to_owned()).collect(),
    }
}

fn job_state(job: &Job, silent: bool) -> (&'static str, String) {
    match &job.record.state {
        JobState::Queued { reason, .. } => ("queued", reason.clone()),
        JobState::Active if silent => {
            ("unknown", "its node is silent; it is believed to go on".to_owned())
        }
        JobState::Active => match job.attempts.last().and_then(|attempt| attempt.stop) {
            Some(_) => ("stopping", String::new()),
            None => ("running", String::new()),
        },
        JobState::Ended { end, message, .. } => {
            let state = match end {
                End::Completed => "completed",
                End::Failed => "failed",
                End::Cancelled => "cancelled",
            };
            (state, message.clone())
        }
    }
}

fn attempt(fleet: &Fleet, record: &AttemptRecord, silent: bool) -> wire::AttemptView {
    let mut view = wire::AttemptView {
        attempt: record.token.attempt.get(),
        generation: record.token.generation.get(),
        node: record.node.to_string(),
        node_host: host(fleet, &record.node),
        placed_wall_ns: record.placed_at.get(),
        resumed_from_step: record.resume.as_ref().map(|saved| saved.step.get()),
        gpu_uuids: record.promise.gpus.clone(),
        ..wire::AttemptView::default()
    };
    match &record.state {
        AttemptState::Placed => view.state = "placed".to_owned(),
        AttemptState::Reported(_, _) if silent => view.state = "unknown".to_owned(),
        AttemptState::Reported(phase, detail) => {
            view.state = phase.name().to_owned();
            view.detail.clone_from(detail);
        }
        AttemptState::Ended(outcome, at) => {
            use hone_proto::event::OutcomeKind;
            view.state = match outcome.kind {
                OutcomeKind::Completed => "completed",
                OutcomeKind::Interrupted => "interrupted",
                OutcomeKind::Failed | OutcomeKind::FailedRetryable => "failed",
            }
            .to_owned();
            view.ended_wall_ns = Some(at.get());
            view.exit_code = outcome.exit_code;
            view.cause.clone_from(&outcome.cause);
            view.message.clone_from(&outcome.message);
        }
        AttemptState::Lost { why, at } => {
            view.state = "lost".to_owned();
            view.ended_wall_ns = Some(at.get());
            view.cause = "lost".to_owned();
            view.message.clone_from(why);
        }
    }
    view
}

fn evaluation(model: &str, evaluation: &Evaluation) -> wire::EvaluationView {
    wire::EvaluationView {
        model: model.to_owned(),
        nll_sum: evaluation.nll_sum,
        tokens: evaluation.tokens,
        perplexity: evaluation.perplexity(),
        step: evaluation.step.get(),
    }
}

fn demand(demand: &Demand) -> wire::DemandView {
    wire::DemandView {
        gpus: demand.gpus,
        vram_bytes: demand.vram.get(),
        milli_cpu: demand.cpu.get(),
        ram_bytes: demand.ram.get(),
        disk_bytes: demand.disk.get(),
    }
}

/// The host name of a node, where it is known.
fn host(fleet: &Fleet, node: &NodeId) -> String {
    fleet.nodes().get(node).map(|node| node.record.hostname.clone()).unwrap_or_default()
}

pub(super) fn saved(fleet: &Fleet, job: &Job, saved: &Saved) -> wire::CheckpointView {
    let node = job.attempts.get(saved.token).map(|attempt| &attempt.node);
    wire::CheckpointView {
        kind: match saved.kind {
            SavedKind::Checkpoint => "checkpoint",
            SavedKind::Package => "package",
        }
        .to_owned(),
        step: saved.step.get(),
        attempt: saved.token.attempt.get(),
        generation: saved.token.generation.get(),
        manifest: saved.manifest.as_bytes().to_vec(),
        bytes: saved.bytes.get(),
        files: saved.files,
        committed_wall_ns: saved.at.get(),
        node: node.map(ToString::to_string).unwrap_or_default(),
        node_host: node.map(|node| host(fleet, node)).unwrap_or_default(),
    }
}

pub(super) fn node(fleet: &Fleet, node: &Node) -> wire::NodeView {
    let record = &node.record;
    let state = match (record.admin, record.capacity.is_some(), node.silent) {
        (NodeAdmin::Revoked, ..) => "revoked",
        (_, false, _) => "joining",
        (_, _, true) => "unreachable",
        (NodeAdmin::Drained, ..) => "drained",
        (NodeAdmin::Ready, ..) => "ready",
    };
    let mut promised = Demand::default();
    let mut jobs = Vec::new();
    for (job, attempt) in fleet.held_by(record) {
        promised.gpus += u32::try_from(attempt.promise.gpus.len()).unwrap_or(u32::MAX);
        promised.cpu = promised.cpu.saturating_add(attempt.promise.cpu);
        promised.ram = promised.ram.saturating_add(attempt.promise.ram);
        promised.disk = promised.disk.saturating_add(attempt.promise.disk);
        jobs.push(job.id.get());
    }
    let inventory = wire::Inventory::decode(node.inventory.as_slice()).ok();
    let offer = record.capacity.as_ref();
    wire::NodeView {
        id: record.id.to_string(),
        hostname: record.hostname.clone(),
        state: state.to_owned(),
        enrolled_by: record.enrolled_by.to_string(),
        enrolled_wall_ns: record.enrolled_at.get(),
        last_seen_wall_ns: record.last_hello.map(hone_proto::time::WallNanos::get),
        inventory: inventory.filter(|_| record.last_hello.is_some()),
        allocatable: offer.map(|offer| wire::Allocatable {
            gpus: offer
                .gpus
                .iter()
                .map(|gpu| wire::AllocatableGpu {
                    uuid: gpu.uuid.clone(),
                    vram_bytes: gpu.vram.get(),
                })
                .collect(),
            milli_cpu: offer.cpu.get(),
            ram_bytes: offer.ram.get(),
            disk_bytes: offer.disk.get(),
        }),
        promised: Some(demand(&promised)),
        jobs,
        sample: None,
        agent_version: record.agent_version.clone(),
        certificate_expires_wall_ns: record.certificate.as_ref().map(|c| c.not_after.get()),
    }
}

pub(super) fn operator(user: &UserRecord) -> wire::OperatorView {
    let state = match (user.revoked, &user.certificate) {
        (true, _) => "revoked",
        (false, Some(_)) => "active",
        (false, None) => "invited",
    };
    wire::OperatorView {
        user: user.name.to_string(),
        role: user.role.to_string(),
        state: state.to_owned(),
        invited_by: user.invited_by.as_ref().map(ToString::to_string).unwrap_or_default(),
        certificate_expires_wall_ns: user.certificate.as_ref().map(|c| c.not_after.get()),
    }
}

pub(super) fn event(fleet: &Fleet, event: &FleetEvent) -> wire::EventView {
    wire::EventView {
        number: event.number,
        wall_ns: event.at.get(),
        kind: event.kind.clone(),
        job: event.job.map(hone_proto::id::JobId::get),
        attempt: event.attempt.map(hone_proto::id::Attempt::get),
        node: event.node.as_ref().map(ToString::to_string).unwrap_or_default(),
        node_host: event.node.as_ref().map(|node| host(fleet, node)).unwrap_or_default(),
        actor: event.actor.as_ref().map(ToString::to_string).unwrap_or_default(),
        text: event.text.clone(),
    }
}

pub(super) fn explain(fleet: &Fleet, asked: &Job) -> wire::ExplainReply {
    let view = job(fleet, asked);
    let mut reasons = Vec::new();
    match &asked.record.state {
        JobState::Queued { reason, not_before } => {
            reasons
                .push(if reason.is_empty() { "it was just submitted" } else { reason }.to_owned());
            if let Some(time) = not_before {
                reasons.push(format!("it is tried again at {}", time.to_the_second()));
            }
        }
        JobState::Active => {
            if let Some(attempt) = asked.current() {
                reasons.push(format!(
                    "attempt {} is on node {}, the tightest of the nodes that could hold it",
                    attempt.token.attempt,
                    fleet.name_of(&attempt.node)
                ));
            }
            if !view.reason.is_empty() {
                reasons.push(view.reason.clone());
            }
        }
        JobState::Ended { message, .. } => reasons.push(message.clone()),
    }
    let queued = matches!(asked.record.state, JobState::Queued { .. });
    let nodes = if queued { fleet.verdicts(&asked.record) } else { Vec::new() };
    wire::ExplainReply {
        job: Some(view),
        reasons,
        nodes: nodes
            .into_iter()
            .map(|(node, lacks)| wire::NodeVerdict {
                node: node.to_string(),
                node_host: host(fleet, &node),
                fits: lacks.is_empty(),
                shortfalls: lacks.iter().map(shortfall).collect(),
            })
            .collect(),
    }
}

fn shortfall(lack: &Shortfall) -> wire::Shortfall {
    let (what, missing) = match lack {
        Shortfall::Gpus(n) => ("gpus", u64::from(*n)),
        Shortfall::Vram(n) => ("vram", n.get()),
        Shortfall::Cpu(n) => ("cpu", u64::from(n.get())),
        Shortfall::Ram(n) => ("ram", n.get()),
        Shortfall::Disk(n) => ("disk", n.get()),
        Shortfall::Drained => ("drained", 0),
        Shortfall::Unreachable => ("unreachable", 0),
        Shortfall::Revoked => ("revoked", 0),
        Shortfall::NeverSeen => ("never_seen", 0),
        Shortfall::Full => ("full", 0),
    };
    wire::Shortfall { what: what.to_owned(), missing, text: lack.to_string() }
}
