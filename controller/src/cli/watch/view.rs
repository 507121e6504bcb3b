//! What a watcher sees: a frame to redraw, a line per step, and the summary at the end. Pure.

use hone_proto::quantity::Bytes;
use hone_proto::wire::{JobView, SeriesPoint};

use crate::cli::render::curve::curve;
use crate::cli::render::human::{UNKNOWN, bar, duration, fit, number, one_line, place};
use crate::cli::render::{hardware, job as job_text};

use super::model::{Progress, ended};

/// Rows of the live curve on a terminal that is high enough.
const CURVE_ROWS: usize = 12;
/// Columns of a value in a step's line: `-1.23e-4`.
const VALUE: usize = 8;
/// Rows of the curve in a summary.
pub const SUMMARY_ROWS: usize = 8;

/// One frame, at most `columns` wide and `rows` high. `trouble` says what the connection suffers from.
#[must_use]
pub fn frame(
    progress: &Progress,
    trouble: Option<&str>,
    columns: usize,
    rows: usize,
) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(job) = progress.job() else {
        return vec![fit(trouble.unwrap_or("waiting for the controller"), columns)];
    };
    lines.push(heading(job));
    lines.push(steps(progress, columns));
    let values = values(progress);
    if !values.is_empty() {
        lines.push(format!("  {values}"));
    }
    if let Some(sample) = progress.hardware() {
        let gpus = job.attempts.last().map_or(&[][..], |attempt| &attempt.gpu_uuids);
        let hardware = hardware::of_job(sample, job.job, gpus);
        lines.extend(hardware.into_iter().map(|line| format!("  {line}")));
    }
    if let Some(step) = job.latest_checkpoint_step {
        lines.push(format!("  latest checkpoint: step {step}"));
    }
    if !job.reason.is_empty() {
        lines.push(format!("  {}", one_line(&job.reason)));
    }
    let last = trouble.unwrap_or("q or Ctrl-C leaves this view; the job goes on without it");
    // The curve takes what room is left above the last line, its axis and a remark.
    let room = rows.saturating_sub(lines.len() + 5).min(CURVE_ROWS);
    let loss = progress.metric("loss");
    if room >= 3 && !loss.is_empty() {
        lines.push("  loss".to_owned());
        lines.extend(curve(&loss, columns, room));
    }
    lines.push(last.to_owned());
    lines.truncate(rows.max(1));
    lines.iter().map(|line| fit(line, columns)).collect()
}

fn heading(job: &JobView) -> String {
    let mut text = format!("job {} {} · {}", job.job, one_line(&job.name), job.state);
    if let Some(attempt) = job.attempts.last() {
        // Of a job that waits the last attempt is history: it is nowhere.
        if job.state != "queued" {
            let node = place(&attempt.node_host, &attempt.node);
            text.push_str(&format!(" · node {}", one_line(node)));
        }
        text.push_str(&format!(" · attempt {} {}", attempt.attempt, attempt.state));
        if !attempt.detail.is_empty() {
            text.push_str(&format!(" ({})", one_line(&attempt.detail)));
        }
    }
    text
}

fn steps(progress: &Progress, columns: usize) -> String {
    let step = progress.step().unwrap_or(0);
    let Some(whole) = progress.max_steps() else { return format!("  step {step}") };
    let share = if whole == 0 { 0 } else { u128::from(step) * 100 / u128::from(whole) };
    let left = match progress.remaining() {
        Some(left) if step < whole => format!("  {} left", duration(left)),
        _ => String::new(),
    };
    let bar = bar(step, whole, columns.saturating_sub(44).clamp(10, 40));
    format!("  step {step}/{whole} {bar} {share} %{left}")
}

/// `loss 2.310  lr 1.00e-4  840 tokens/s`.
fn values(progress: &Progress) -> String {
    let known = |label: &str, name: &str| {
        progress.latest(name).map(|value| format!("{label} {}", number(value)))
    };
    let evaluated = progress.split("eval", "eval_loss");
    let parts = [
        known("loss", "loss"),
        known("lr", "learning_rate"),
        progress.latest("tokens_per_second").map(|value| format!("{} tokens/s", number(value))),
        known("grad norm", "grad_norm"),
        evaluated.last().map(|(_, value)| format!("eval loss {}", number(*value))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join("  ")
}

/// One step as one line, for logs and pipes; lines of one run stand in columns.
#[must_use]
pub fn step_line(point: &SeriesPoint, progress: &Progress) -> String {
    let value = |name: &str| point.values.get(name).map(|value| number(*value));
    let whole = progress.max_steps();
    let step = match whole {
        Some(whole) => format!("step {}/{whole}", point.step),
        None => format!("step {}", point.step),
    };
    // As wide as the last step's.
    let columns = whole.map_or(0, |whole| format!("step {whole}/{whole}").len());
    let mut text = format!("{step:<columns$}");
    let train = point.split == "train";
    if !train {
        text.push_str(&format!("  {}", one_line(&point.split)));
    }
    let shown = [
        ("loss", "loss", train),
        ("eval_loss", "eval loss", false),
        ("learning_rate", "lr", train),
        ("tokens_per_second", "tokens/s", train),
    ];
    for (name, label, always) in shown {
        match value(name) {
            Some(value) => text.push_str(&format!("  {label} {value:>VALUE$}")),
            None if always => text.push_str(&format!("  {label} {UNKNOWN:>VALUE$}")),
            None => {}
        }
    }
    if let (Some(left), true) = (progress.remaining(), train) {
        text.push_str(&format!("  {} left", duration(left)));
    }
    text
}

/// A change of state as one line, for logs and pipes.
#[must_use]
pub fn state_line(job: &JobView) -> String {
    let text = heading(job);
    // The heading ends with the attempt that the reason begins with.
    let failed = job.attempts.last().map(|a| format!("attempt {} failed: ", a.attempt));
    let reason = failed.and_then(|said| job.reason.strip_prefix(&said)).unwrap_or(&job.reason);
    if reason.is_empty() { text } else { format!("{text}: {}", one_line(reason)) }
}

/// What is left to say when the job has ended, or what is known so far.
#[must_use]
pub fn summary(progress: &Progress, package: Option<&PackageFacts>, columns: usize) -> String {
    let Some(job) = progress.job() else { return String::new() };
    let mut parts = Vec::new();
    let evaluation = job_text::evaluations(job, columns);
    if !evaluation.is_empty() {
        parts.push(evaluation);
    }
    let loss = progress.metric("loss");
    if !loss.is_empty() {
        let mut lines = vec!["loss by step".to_owned()];
        lines.extend(curve(&loss, columns, SUMMARY_ROWS));
        parts.push(lines.join("\n"));
    }
    if let Some(package) = package {
        parts.push(package.text());
    }
    if ended(&job.state) {
        parts.push(next_commands(job));
    }
    parts.join("\n\n")
}

/// The package of a completed job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackageFacts {
    /// Its manifest, as hexadecimal digits.
    pub manifest: String,
    /// Its size.
    pub bytes: Bytes,
    /// Its files.
    pub files: u64,
    /// Address of the controller that keeps it.
    pub address: String,
}

impl PackageFacts {
    fn text(&self) -> String {
        let noun = if self.files == 1 { "file" } else { "files" };
        format!(
            "package: {} {noun}, {}, verified, kept by the controller at {}\n         {}",
            self.files,
            self.bytes,
            one_line(&self.address),
            self.manifest,
        )
    }
}

fn next_commands(job: &JobView) -> String {
    let number = job.job;
    let pull = if job.state == "completed" {
        format!("hone pull {number} --package -o ./{}", one_line(&job.name))
    } else {
        format!("hone explain {number}")
    };
    format!("next:\n  hone show {number}\n  {pull}\n  hone logs {number}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::render::hardware::tests::{busy, gpu};
    use crate::cli::render::human;
    use crate::cli::watch::model::tests::point;
    use hone_proto::wire::{AttemptView, EvaluationView, series_update::Update};

    fn progress(state: &str) -> Progress {
        let attempt = AttemptView {
            attempt: 1,
            node: "n-1f2e".to_owned(),
            state: "running".to_owned(),
            gpu_uuids: vec![gpu()],
            ..Default::default()
        };
        let evaluation = |model: &str, nll_sum, step| EvaluationView {
            model: model.to_owned(),
            nll_sum,
            tokens: 1000,
            perplexity: 0.0,
            step,
        };
        let job = JobView {
            job: 12,
            name: "quickstart".to_owned(),
            owner: "ada".to_owned(),
            state: state.to_owned(),
            attempts: vec![attempt],
            max_steps: Some(80),
            latest_checkpoint_step: Some(30),
            evaluations: vec![evaluation("base", 3912.0, 0), evaluation("tuned", 1204.0, 80)],
            ..Default::default()
        };
        let mut progress = Progress::default();
        progress.apply(Update::Job(job));
        progress.apply(Update::Hardware(busy(12)));
        for step in 1..=40_u32 {
            let mut point = point(1, u64::from(step), 4.0 / (1.0 + f64::from(step) / 20.0));
            point.values.insert("learning_rate".to_owned(), 2e-4);
            point.values.insert("tokens_per_second".to_owned(), 842.4);
            progress.apply(Update::Point(point));
        }
        progress
    }

    #[test]
    fn a_frame_fits_any_terminal() {
        let progress = progress("running");
        for (columns, rows) in [(80, 24), (40, 10), (200, 60), (20, 3), (80, 1)] {
            let lines = frame(&progress, None, columns, rows);
            assert!(lines.len() <= rows, "{} lines on {rows}", lines.len());
            assert!(lines.iter().all(|line| human::width(line) <= columns), "{lines:?}");
        }
        insta::assert_snapshot!(frame(&progress, None, 80, 24).join("\n"));
    }

    #[test]
    fn a_frame_names_what_is_wrong_with_the_connection() {
        let lines = frame(&progress("running"), Some("the controller is away"), 80, 24);
        assert_eq!(lines.last().map(String::as_str), Some("the controller is away"));
        assert_eq!(frame(&Progress::default(), None, 80, 24), ["waiting for the controller"]);
    }

    #[test]
    fn a_job_that_waits_again_is_on_no_node_and_its_failure_is_told_once() {
        let attempt = |state: &str| AttemptView {
            attempt: 2,
            node: "n-1f2e".to_owned(),
            node_host: "gpu-1".to_owned(),
            state: state.to_owned(),
            ..Default::default()
        };
        let job = |state: &str, reason: &str, attempt| JobView {
            job: 12,
            name: "tune".to_owned(),
            state: state.to_owned(),
            reason: reason.to_owned(),
            attempts: vec![attempt],
            ..Default::default()
        };
        let again = job("queued", "attempt 2 failed: the engine refused it", attempt("failed"));
        let line = state_line(&again);
        assert_eq!(line, "job 12 tune · queued · attempt 2 failed: the engine refused it");
        let line = state_line(&job("running", "", attempt("running")));
        assert_eq!(line, "job 12 tune · running · node gpu-1 · attempt 2 running");
    }

    #[test]
    fn a_step_is_one_line() {
        let progress = progress("running");
        let point = progress.all()[39].clone();
        insta::assert_snapshot!(step_line(&point, &progress), @"step 40/80  loss    1.333  lr  2.00e-4  tokens/s    842.4  1 min 20 s left");
        let ends: Vec<_> = [&progress.all()[0], &progress.all()[39]]
            .map(|point| step_line(point, &progress).find("tokens/s"))
            .to_vec();
        assert_eq!(ends[0], ends[1], "columns stand below each other");
    }

    #[test]
    fn the_summary_compares_base_and_tuned() {
        let package = PackageFacts {
            manifest: "ab".repeat(32),
            bytes: Bytes::mib(3),
            files: 5,
            address: "hone.example:7400".to_owned(),
        };
        insta::assert_snapshot!(summary(&progress("completed"), Some(&package), 80));
    }
}
