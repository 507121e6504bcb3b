//! Jobs, attempts, evaluations and checkpoints as text. Pure.

use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::time::WallNanos;
use hone_proto::wire::{CheckpointView, DemandView, EvaluationView, JobView};

use super::human::{UNKNOWN, age, count, duration, number, place, time};
use super::table::{Kind, facts, table};
use crate::cli::watch::model::perplexity;

/// `hone ps`.
#[must_use]
pub fn list(jobs: &[JobView], now: WallNanos, width: usize) -> String {
    let columns = [
        ("JOB", Kind::Number),
        ("NAME", Kind::Text),
        ("STATE", Kind::Fixed),
        ("NODE", Kind::Text),
        ("STEP", Kind::Number),
        ("SAVED", Kind::Number),
        ("AGE", Kind::Number),
        ("OWNER", Kind::Text),
    ];
    let rows: Vec<_> = jobs
        .iter()
        .map(|job| {
            vec![
                job.job.to_string(),
                job.name.clone(),
                job.state.clone(),
                node(job),
                steps(job),
                known(job.latest_checkpoint_step),
                age(now, WallNanos::new(job.submitted_wall_ns)),
                job.owner.clone(),
            ]
        })
        .collect();
    table(&columns, &rows, width)
}

/// Where a job is, or where it was when it ended; one that waits is nowhere.
fn node(job: &JobView) -> String {
    let last = job.attempts.last().filter(|_| job.state != "queued");
    last.map_or_else(|| UNKNOWN.to_owned(), |a| place(&a.node_host, &a.node).to_owned())
}

fn steps(job: &JobView) -> String {
    match (job.step, job.max_steps) {
        (Some(step), Some(whole)) => format!("{step}/{whole}"),
        (Some(step), None) => step.to_string(),
        (None, _) => UNKNOWN.to_owned(),
    }
}

fn known<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}

/// The facts of one job: who, when, where, how far, with what, and what held it back.
#[must_use]
pub fn details(job: &JobView, held_back: Option<String>, now: WallNanos, width: usize) -> String {
    let submitted = WallNanos::new(job.submitted_wall_ns);
    let ended = job.ended_wall_ns.map(WallNanos::new);
    let spent = ended.unwrap_or(now).since(submitted);
    let verb = if ended.is_some() { "took" } else { "so far" };
    let mut state = job.state.clone();
    if job.cancel_requested {
        state.push_str(&format!(" (cancelled by {})", job.cancelled_by));
    }
    let pairs = [
        ("job", job.job.to_string()),
        ("name", job.name.clone()),
        ("state", state),
        ("reason", job.reason.clone()),
        ("owner", job.owner.clone()),
        ("project", job.project.clone()),
        ("submitted", format!("{} by {}", time(submitted), job.owner)),
        ("ended", ended.map(time).unwrap_or_default()),
        (verb, duration(spent)),
        ("step", if job.step.is_some() { steps(job) } else { String::new() }),
        ("bottleneck", held_back.unwrap_or_default()),
        ("parameters", parameters(job)),
        ("demand", job.demand.as_ref().map(demand).unwrap_or_default()),
        ("relaxations", job.relaxations.join(", ")),
        ("trainer", trainer(job)),
        ("image", job.image_reference.clone()),
        ("image has", image_stack(job)),
    ];
    facts(&pairs, width)
}

/// `trl (steered): no checkpoint on demand, …`.
fn trainer(job: &JobView) -> String {
    if job.contract_level.is_empty() {
        return String::new();
    }
    let lacks =
        if job.lacks.is_empty() { String::new() } else { format!(": {}", job.lacks.join(", ")) };
    format!("{} ({}){lacks}", job.trainer_kind, job.contract_level)
}

fn parameters(job: &JobView) -> String {
    match (job.trainable_params, job.total_params) {
        (Some(trained), Some(all)) if all > 0 => {
            #[expect(clippy::cast_precision_loss, reason = "a share with two decimals")]
            let share = trained as f64 / all as f64 * 100.0;
            format!("{} of {} trained ({share:.2} %)", count(trained), count(all))
        }
        (Some(trained), _) => format!("{} trained", count(trained)),
        _ => String::new(),
    }
}

/// The stack that the image's labels name: `torch 2.9.0, cuda 12.8`.
fn image_stack(job: &JobView) -> String {
    job.image_labels
        .iter()
        .filter_map(|(key, value)| Some(format!("{} {value}", key.strip_prefix("hone.")?)))
        .collect::<Vec<_>>()
        .join(", ")
}

/// `1 GPU with 24.0 GiB, 4 cores, 16.0 GiB RAM, 50.0 GiB disk`.
#[must_use]
pub fn demand(demand: &DemandView) -> String {
    let mut parts = Vec::new();
    if demand.gpus > 0 {
        let noun = if demand.gpus == 1 { "GPU" } else { "GPUs" };
        let vram = Bytes::new(demand.vram_bytes);
        // What is promised of a GPU is all of it: there is no amount to tell.
        let with = if vram == Bytes::ZERO { String::new() } else { format!(" with {vram}") };
        parts.push(format!("{} {noun}{with}", demand.gpus));
    }
    let noun = if demand.milli_cpu == 1000 { "core" } else { "cores" };
    parts.push(format!("{} {noun}", MilliCpu::new(demand.milli_cpu)));
    parts.push(format!("{} RAM", Bytes::new(demand.ram_bytes)));
    parts.push(format!("{} disk", Bytes::new(demand.disk_bytes)));
    parts.join(", ")
}

/// Every placement of a job, and below it in full what those that ended said.
#[must_use]
pub fn attempts(job: &JobView, now: WallNanos, width: usize) -> String {
    let columns = [
        ("ATTEMPT", Kind::Number),
        ("NODE", Kind::Text),
        ("STATE", Kind::Fixed),
        ("AGE", Kind::Number),
        ("FROM", Kind::Number),
        ("EXIT", Kind::Number),
        ("CAUSE", Kind::Text),
    ];
    let rows: Vec<_> = job
        .attempts
        .iter()
        .map(|a| {
            vec![
                a.attempt.to_string(),
                place(&a.node_host, &a.node).to_owned(),
                a.state.clone(),
                age(now, WallNanos::new(a.placed_wall_ns)),
                known(a.resumed_from_step),
                known(a.exit_code),
                if a.cause.is_empty() { a.detail.clone() } else { a.cause.clone() },
            ]
        })
        .collect();
    let mut text = table(&columns, &rows, width);
    if job.older_attempts > 0 {
        text.push_str(&format!("\n({} older attempts are not kept)", job.older_attempts));
    }
    let said = said(job, width);
    if !said.is_empty() {
        text.push_str(&format!("\n\n{said}"));
    }
    text
}

/// What attempts said at their ends; what several said one after the other stands once.
fn said(job: &JobView, width: usize) -> String {
    let mut said: Vec<(u32, u32, &str)> = Vec::new();
    for attempt in job.attempts.iter().filter(|attempt| !attempt.message.is_empty()) {
        match said.last_mut() {
            Some((_, last, text)) if *text == attempt.message && *last + 1 == attempt.attempt => {
                *last = attempt.attempt;
            }
            _ => said.push((attempt.attempt, attempt.attempt, &attempt.message)),
        }
    }
    let labels: Vec<_> = said
        .iter()
        .map(|(first, last, _)| match first == last {
            true => format!("attempt {first}"),
            false => format!("attempts {first} to {last}"),
        })
        .collect();
    let texts = said.iter().map(|(.., text)| (*text).to_owned());
    facts(&labels.iter().map(String::as_str).zip(texts).collect::<Vec<_>>(), width)
}

/// Base against tuned model on the held-out rows. Empty when nothing was evaluated.
#[must_use]
pub fn evaluations(job: &JobView, width: usize) -> String {
    if job.evaluations.is_empty() {
        return String::new();
    }
    let columns = [
        ("HELD-OUT ROWS", Kind::Text),
        ("STEP", Kind::Number),
        ("TOKENS", Kind::Number),
        ("NLL SUM", Kind::Number),
        ("PERPLEXITY", Kind::Number),
    ];
    let rows: Vec<_> = job
        .evaluations
        .iter()
        .map(|e| {
            vec![
                format!("{} model", e.model),
                e.step.to_string(),
                e.tokens.to_string(),
                number(e.nll_sum),
                perplexity(e).map_or_else(|| UNKNOWN.to_owned(), number),
            ]
        })
        .collect();
    let mut text = table(&columns, &rows, width);
    if let Some(verdict) = verdict(&job.evaluations) {
        text.push('\n');
        text.push_str(&verdict);
    }
    text
}

/// One sentence on whether the tuning helped.
fn verdict(evaluations: &[EvaluationView]) -> Option<String> {
    let last = |model: &str| evaluations.iter().rev().find(|e| e.model == model);
    let (base, tuned) = (perplexity(last("base")?)?, perplexity(last("tuned")?)?);
    if !base.is_finite() || !tuned.is_finite() || tuned <= 0.0 {
        return None;
    }
    Some(if tuned < base {
        format!("the tuned model is {:.1} times less surprised than the base model", base / tuned)
    } else {
        "the tuned model is no better than the base model".to_owned()
    })
}

/// Committed checkpoints and packages.
#[must_use]
pub fn checkpoints(checkpoints: &[CheckpointView], now: WallNanos, width: usize) -> String {
    let columns = [
        ("KIND", Kind::Fixed),
        ("STEP", Kind::Number),
        ("ATTEMPT", Kind::Number),
        ("SIZE", Kind::Number),
        ("FILES", Kind::Number),
        ("AGE", Kind::Number),
        ("NODE", Kind::Text),
        ("MANIFEST", Kind::Fixed),
    ];
    let rows: Vec<_> = checkpoints
        .iter()
        .map(|c| {
            vec![
                c.kind.clone(),
                c.step.to_string(),
                c.attempt.to_string(),
                Bytes::new(c.bytes).to_string(),
                c.files.to_string(),
                age(now, WallNanos::new(c.committed_wall_ns)),
                place(&c.node_host, &c.node).to_owned(),
                hex(&c.manifest).chars().take(12).collect(),
            ]
        })
        .collect();
    table(&columns, &rows, width)
}

/// Bytes as hexadecimal digits.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
