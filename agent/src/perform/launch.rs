//! Makes and starts the container of an attempt: closed by default, each relaxation by its name.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use hone_proto::assignment::{Assignment, Relaxation};
use hone_proto::id::AttemptId;
use hone_proto::quantity::Bytes;

use super::{Performer, never, of_file, of_runtime};
use crate::core::input::StepError;
use crate::layout::{self, AttemptDirs, Layout};
use crate::runtime::{
    ContainerSpec, ContainerState, EnvVar, ImageName, LogLimit, Mount, Network, Observed,
    Runtime as _, RuntimeError, Tmpfs, User,
};

/// Processes of one container. A data loader per core and a few helpers each stay far below.
const PIDS: u32 = 1024;

/// Scratch in memory of one container.
const TMP: Bytes = Bytes::mib(512);

/// Least shared memory: what engines give by default.
const LEAST_SHM: Bytes = Bytes::mib(64);

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

impl Performer {
    pub(super) async fn launch(
        &self,
        assignment: &Assignment,
        place: u32,
    ) -> Result<String, StepError> {
        let uid = self.policy.uid(place);
        let dirs = self.layout.attempt(assignment.attempt);
        let owner = if user_of(assignment, uid) == User::Image { 0 } else { uid };
        let spec_json = assignment.trainer_spec.clone();
        let made = tokio::task::spawn_blocking({
            let dirs = dirs.clone();
            move || make_folders(&dirs, owner, &spec_json)
        });
        made.await.map_err(|error| never("agent_fault", error.to_string()))??;
        let spec = self.container(assignment, &dirs, uid)?;
        let id = match self.runtime.create(&spec).await {
            Ok(id) => id,
            Err(taken @ RuntimeError::NameTaken { .. }) => {
                return self.adopt(assignment.attempt, &taken).await;
            }
            Err(error) => return Err(of_runtime(&error)),
        };
        self.runtime.start(&id).await.map_err(|e| of_runtime(&e))?;
        Ok(id.as_str().to_owned())
    }

    /// The name is taken: by this attempt's own container where an earlier answer got lost, with the engine's or with
    /// the agent's last life.
    async fn adopt(&self, attempt: AttemptId, taken: &RuntimeError) -> Result<String, StepError> {
        let all = self.runtime.list().await.map_err(|e| of_runtime(&e))?;
        let started = |seen: &Observed| {
            use ContainerState::{Exited, Running};
            seen.attempt == Some(attempt) && matches!(seen.state, Running { .. } | Exited { .. })
        };
        let own = all.into_iter().find(started).map(|own| own.id.as_str().to_owned());
        own.ok_or_else(|| of_runtime(taken))
    }

    fn container(
        &self,
        assignment: &Assignment,
        dirs: &AttemptDirs,
        uid: u32,
    ) -> Result<ContainerSpec, StepError> {
        let image: ImageName = assignment
            .image
            .reference
            .parse()
            .map_err(|error| never("bad_image", format!("{error}")))?;
        let gpus = assignment
            .promise
            .gpus
            .iter()
            .map(|gpu| gpu.parse().map_err(|error| never("bad_gpu", format!("{gpu}: {error}"))))
            .collect::<Result<Vec<_>, _>>()?;
        // Memory file systems count against the container's memory; a small one gets small ones.
        let quarter = Bytes::new(assignment.promise.ram.get() / 4);
        let egress = assignment.relaxations.contains(&Relaxation::NetworkEgress);
        // A command of the user's own replaces the image's entry point: it is the whole command line.
        let (entrypoint, command) = match assignment.command.split_first() {
            None => (None, None),
            Some((program, rest)) => (Some(vec![program.clone()]), Some(rest.to_vec())),
        };
        Ok(ContainerSpec {
            attempt: assignment.attempt,
            name: format!("{}-{}", self.prefix, layout::name(assignment.attempt)),
            image,
            entrypoint,
            command,
            workdir: None,
            user_env: Vec::new(),
            env: environment(assignment),
            mounts: mounts(assignment, dirs, &self.layout),
            tmpfs: vec![Tmpfs {
                target: PathBuf::from("/tmp"),
                size: TMP.min(quarter),
                exec: false,
            }],
            user: user_of(assignment, uid),
            memory: assignment.promise.ram,
            cpus: assignment.promise.cpu,
            cpuset: None,
            pids: PIDS,
            shm: assignment.promise.shm.max(LEAST_SHM.min(quarter)),
            open_files: None,
            gpus,
            network: if egress { Network::Bridge } else { Network::None },
            stop_grace: assignment.grace,
            log: LogLimit::default(),
        })
    }
}

fn user_of(assignment: &Assignment, uid: u32) -> User {
    if assignment.relaxations.contains(&Relaxation::UserImage) {
        User::Image
    } else {
        User::Attempt(uid)
    }
}

/// The attempt's own folders, which only its own uid and the agent can enter.
fn make_folders(dirs: &AttemptDirs, owner: u32, spec: &str) -> Result<(), StepError> {
    let root = dirs.root();
    fs::create_dir_all(root).map_err(of_file(root))?;
    // The container enters its mounts directly; nobody else may pass through here.
    fs::set_permissions(root, fs::Permissions::from_mode(0o711)).map_err(of_file(root))?;
    for dir in [dirs.output(), dirs.metrics(), dirs.control(), dirs.cache()] {
        fs::create_dir_all(&dir).map_err(of_file(&dir))?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700)).map_err(of_file(&dir))?;
        chown(&dir, Some(owner), Some(owner)).map_err(of_file(&dir))?;
    }
    let path = dirs.spec();
    fs::write(&path, spec).map_err(of_file(&path))?;
    // Whatever the umask: the container's user must read it.
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(of_file(&path))?;
    let resume = dirs.resume();
    if resume.exists() {
        give_to(&resume, owner)?;
    }
    Ok(())
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

fn mounts(assignment: &Assignment, dirs: &AttemptDirs, layout: &Layout) -> Vec<Mount> {
    let mount = |source: PathBuf, target: String, read_only| Mount {
        source,
        target: PathBuf::from(target),
        read_only,
    };
    let mut mounts = vec![
        mount(dirs.spec(), "/hone/spec.json".to_owned(), true),
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

fn environment(assignment: &Assignment) -> Vec<EnvVar> {
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
