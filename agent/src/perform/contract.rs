//! What every container finds, whatever image it runs and on whichever node: fixed paths under `/hone`, and variables.
//! The paths of an attempt's folders, who may write there, and what each is for are the contract with trainers.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use hone_proto::assignment::Assignment;

use super::of_file;
use crate::core::input::StepError;
use crate::layout::{AttemptDirs, Layout};
use crate::runtime::{EnvVar, Mount};

/// Settings that every trainer gets: no network calls, no telemetry of any library, output as it happens.
const HYGIENE: &[(&str, &str)] = &[
    ("HF_HUB_OFFLINE", "1"),
    ("HF_DATASETS_OFFLINE", "1"),
    ("TRANSFORMERS_OFFLINE", "1"),
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
    ("DO_NOT_TRACK", "1"),
    ("AXOLOTL_DO_NOT_TRACK", "1"),
    ("UNSLOTH_DISABLE_STATISTICS", "1"),
    ("WANDB_MODE", "offline"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("PYTHONUNBUFFERED", "1"),
    ("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True"),
];

/// The attempt's own folders, which only its own uid and the agent can enter.
pub(super) fn make_folders(dirs: &AttemptDirs, owner: u32, spec: &str) -> Result<(), StepError> {
    let root = dirs.root();
    fs::create_dir_all(root).map_err(of_file(root))?;
    // The container enters its mounts directly; nobody else may pass through here.
    fs::set_permissions(root, fs::Permissions::from_mode(0o711)).map_err(of_file(root))?;
    for dir in dirs.writable() {
        fs::create_dir_all(&dir).map_err(of_file(&dir))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(of_file(&dir))?;
        chown(&dir, Some(owner), Some(owner)).map_err(of_file(&dir))?;
    }
    // The trainer reads it and cannot change it. Empty where the image needs no configuration of its own.
    let tool = dirs.tool();
    fs::create_dir_all(&tool).map_err(of_file(&tool))?;
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).map_err(of_file(&tool))?;
    give_file(&dirs.spec(), spec, None)?;
    let resume = dirs.resume();
    if resume.exists() {
        give_to(&resume, owner)?;
    }
    Ok(())
}

/// Writes a file that the container only reads: every user of it, or this one alone.
pub(super) fn give_file(path: &Path, text: &str, reader: Option<u32>) -> Result<(), StepError> {
    // Aside: a container that runs has the one that is there.
    let aside = path.with_extension("new");
    fs::write(&aside, text).map_err(of_file(&aside))?;
    // Whatever the umask.
    let mode = if reader.is_some() { 0o400 } else { 0o644 };
    fs::set_permissions(&aside, fs::Permissions::from_mode(mode)).map_err(of_file(&aside))?;
    if let Some(uid) = reader {
        chown(&aside, Some(uid), Some(uid)).map_err(of_file(&aside))?;
    }
    fs::rename(&aside, path).map_err(of_file(path))
}

/// A resumed checkpoint holds files that only their owner may read.
fn give_to(dir: &Path, owner: u32) -> Result<(), StepError> {
    chown(dir, Some(owner), Some(owner)).map_err(of_file(dir))?;
    for entry in fs::read_dir(dir).map_err(of_file(dir))? {
        let entry = entry.map_err(of_file(dir))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(of_file(&path))?;
        if kind.is_dir() {
            give_to(&path, owner)?;
        } else if kind.is_file() {
            chown(&path, Some(owner), Some(owner)).map_err(of_file(&path))?;
        }
    }
    Ok(())
}

pub(super) fn mounts(assignment: &Assignment, dirs: &AttemptDirs, layout: &Layout) -> Vec<Mount> {
    let mount = |source: PathBuf, target: String, read_only| Mount {
        source,
        target: PathBuf::from(target),
        read_only,
    };
    let mut mounts = vec![
        mount(dirs.spec(), "/hone/spec.json".to_owned(), true),
        mount(dirs.tool(), "/hone/tool".to_owned(), true),
        mount(dirs.output(), "/hone/output".to_owned(), false),
        mount(dirs.metrics(), "/hone/metrics".to_owned(), false),
        mount(dirs.control(), "/hone/control".to_owned(), false),
        mount(dirs.cache(), "/hone/cache".to_owned(), false),
    ];
    for input in &assignment.inputs {
        let target = format!("/hone/input/{}", input.channel.path());
        mounts.push(mount(layout.cached(&assignment.project, input.manifest), target, true));
    }
    if assignment.resume.is_some() {
        mounts.push(mount(dirs.resume(), "/hone/resume".to_owned(), true));
    }
    mounts
}

pub(super) fn environment(assignment: &Assignment) -> Vec<EnvVar> {
    let attempt = assignment.attempt;
    let threads = (assignment.promise.cpu.get() / 1000).max(1).to_string();
    let gpus = assignment.promise.gpus.len();
    let devices: Vec<_> = (0..gpus).map(|nth| nth.to_string()).collect();
    let resume = if assignment.resume.is_some() { "/hone/resume" } else { "" };
    let max = assignment.max_time.map(|time| time.as_secs().to_string()).unwrap_or_default();
    let contract = [
        ("HONE_CONTRACT", "1".to_owned()),
        ("HONE_JOB_ID", attempt.job.to_string()),
        ("HONE_ATTEMPT", attempt.token.attempt.to_string()),
        ("HONE_SPEC", "/hone/spec.json".to_owned()),
        ("HONE_MODEL_DIR", "/hone/input/model".to_owned()),
        ("HONE_DATA_DIR", "/hone/input/data".to_owned()),
        ("HONE_OUTPUT_DIR", "/hone/output".to_owned()),
        ("HONE_METRICS_DIR", "/hone/metrics".to_owned()),
        ("HONE_CONTROL_DIR", "/hone/control".to_owned()),
        ("HONE_CACHE_DIR", "/hone/cache".to_owned()),
        ("HONE_RESUME_FROM", resume.to_owned()),
        ("HONE_GRACE_SECONDS", assignment.grace.as_secs().to_string()),
        ("HONE_MAX_SECONDS", max),
        // The launcher would kill its workers 30 s after it passed SIGTERM on, whatever they still save.
        ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", assignment.grace.as_secs().to_string()),
        ("HONE_GPU_COUNT", gpus.to_string()),
        ("HONE_GPU_MEM_BYTES", assignment.promise.vram.get().to_string()),
        ("CUDA_VISIBLE_DEVICES", devices.join(",")),
        ("HOME", "/hone/cache".to_owned()),
        ("HF_HOME", "/hone/cache/huggingface".to_owned()),
        ("XDG_CACHE_HOME", "/hone/cache/xdg".to_owned()),
        ("TRITON_CACHE_DIR", "/hone/cache/triton".to_owned()),
        ("TORCHINDUCTOR_CACHE_DIR", "/hone/cache/inductor".to_owned()),
        ("TENSORBOARD_LOGGING_DIR", "/hone/metrics/tb".to_owned()),
        // As many threads as cores were promised: another count gives other sums, and a run could not be repeated.
        ("OMP_NUM_THREADS", threads),
    ];
    let hygiene = HYGIENE.iter().map(|(name, value)| (*name, (*value).to_owned()));
    contract
        .into_iter()
        .chain(hygiene)
        .map(|(name, value)| EnvVar { name: name.to_owned(), value })
        .collect()
}

#[cfg(test)]
#[path = "contract_tests.rs"]
mod tests;
