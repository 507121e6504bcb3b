//! The table of the contract, path by path and variable by variable.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use hone_proto::assignment::{Channel, ImageRef, Input, Intent, Promise};
use hone_proto::id::{Attempt, AttemptId, Digest, Generation, JobId, ProjectName, Token};
use hone_proto::quantity::{Bytes, MilliCpu};

use super::*;

fn assignment() -> Assignment {
    let input = |channel| Input { channel, manifest: Digest::of(b"an input") };
    Assignment {
        attempt: AttemptId {
            job: JobId::new(7),
            token: Token { generation: Generation::new(1), attempt: Attempt::new(2) },
        },
        job_name: "tune".parse().expect("a name"),
        project: ProjectName::default_project(),
        owner: "ada".parse().expect("a name"),
        intent: Intent::Run,
        image: ImageRef { reference: "sha256:ab".to_owned(), manifest: None },
        command: vec![],
        trainer_spec: "{}".to_owned(),
        inputs: vec![input(Channel::Model), input(Channel::Train), input(Channel::Eval)],
        resume: Some(Digest::of(b"a checkpoint")),
        promise: Promise {
            gpus: vec!["GPU-a".to_owned(), "GPU-b".to_owned()],
            vram: Bytes::gib(20),
            cpu: MilliCpu::new(2_500),
            ram: Bytes::gib(4),
            ..Promise::default()
        },
        relaxations: vec![],
        keep_checkpoints: 2,
        grace: Duration::from_secs(120),
        disconnect_wait: None,
        checkpoint_requests: 0,
        traceparent: String::new(),
        max_time: Some(Duration::from_secs(3600)),
    }
}

/// Container paths with whether they are read-only.
fn seen(assignment: &Assignment, root: &str) -> BTreeMap<String, bool> {
    let layout = Layout::new(PathBuf::from(root));
    let mounts = mounts(assignment, &layout.attempt(assignment.attempt), &layout);
    let path = |mount: &Mount| mount.target.to_str().expect("text").to_owned();
    mounts.iter().map(|mount| (path(mount), mount.read_only)).collect()
}

#[test]
fn every_path_of_the_contract_is_there_and_the_same_on_every_node() {
    let all = seen(&assignment(), "/var/lib/hone-agent");
    let expected = [
        ("/hone/cache", false),
        ("/hone/control", false),
        ("/hone/input/data/eval", true),
        ("/hone/input/data/train", true),
        ("/hone/input/model", true),
        ("/hone/metrics", false),
        ("/hone/output", false),
        ("/hone/resume", true),
        ("/hone/spec.json", true),
        ("/hone/tool", true),
    ];
    assert_eq!(all, expected.map(|(path, ro)| (path.to_owned(), ro)).into());
    assert_eq!(all, seen(&assignment(), "/srv/elsewhere"));
    let first = seen(&Assignment { resume: None, inputs: vec![], ..assignment() }, "/srv");
    let missing: Vec<_> = all.keys().filter(|path| !first.contains_key(*path)).collect();
    let optional = missing.iter().all(|p| **p == "/hone/resume" || p.starts_with("/hone/input/"));
    assert!(optional, "only what there is none of may be absent: {missing:?}");
}

#[test]
fn every_variable_of_the_contract_is_set() {
    let variables = environment(&assignment());
    let count = variables.len();
    let set: BTreeMap<_, _> = variables.into_iter().map(|var| (var.name, var.value)).collect();
    assert_eq!(set.len(), count, "a variable is set twice");
    let expected = [
        ("HONE_CONTRACT", "1"),
        ("HONE_JOB_ID", "7"),
        ("HONE_ATTEMPT", "2"),
        ("HONE_SPEC", "/hone/spec.json"),
        ("HONE_MODEL_DIR", "/hone/input/model"),
        ("HONE_DATA_DIR", "/hone/input/data"),
        ("HONE_OUTPUT_DIR", "/hone/output"),
        ("HONE_METRICS_DIR", "/hone/metrics"),
        ("HONE_CONTROL_DIR", "/hone/control"),
        ("HONE_CACHE_DIR", "/hone/cache"),
        ("HONE_RESUME_FROM", "/hone/resume"),
        ("HONE_GRACE_SECONDS", "120"),
        ("HONE_MAX_SECONDS", "3600"),
        ("HONE_GPU_COUNT", "2"),
        ("HONE_GPU_MEM_BYTES", "21474836480"),
        ("CUDA_VISIBLE_DEVICES", "0,1"),
        ("TENSORBOARD_LOGGING_DIR", "/hone/metrics/tb"),
        ("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "120"),
        ("HOME", "/hone/cache"),
        ("HF_HOME", "/hone/cache/huggingface"),
        ("XDG_CACHE_HOME", "/hone/cache/xdg"),
        ("TRITON_CACHE_DIR", "/hone/cache/triton"),
        ("TORCHINDUCTOR_CACHE_DIR", "/hone/cache/inductor"),
        ("OMP_NUM_THREADS", "2"),
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
    assert_eq!(set, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    let first = environment(&Assignment { resume: None, max_time: None, ..assignment() });
    let empty: Vec<_> = first.into_iter().filter(|var| var.value.is_empty()).collect();
    let names: Vec<_> = empty.iter().map(|var| var.name.as_str()).collect();
    assert_eq!(names, ["HONE_RESUME_FROM", "HONE_MAX_SECONDS"], "set, and empty");
}

#[test]
fn a_trainer_writes_only_where_it_may() {
    let scratch = tempfile::tempdir().expect("a folder");
    let layout = Layout::new(scratch.path().to_owned());
    let dirs = layout.attempt(assignment().attempt);
    let owner = rustix::process::geteuid().as_raw();
    make_folders(&dirs, owner, "{\"a\": 1}").expect("made");
    let mounted = fs::File::open(dirs.spec()).expect("opened");
    make_folders(&dirs, owner, "{\"a\": 2}").expect("made again, after a crash");
    let of_the_first = std::io::read_to_string(mounted).expect("read");
    assert_eq!(of_the_first, "{\"a\": 1}", "a container's own was written over");
    assert_eq!(fs::read_to_string(dirs.spec()).expect("read"), "{\"a\": 2}");
    let mode = |path: PathBuf| fs::metadata(path).expect("it is there").mode() & 0o777;
    for own in [dirs.output(), dirs.metrics(), dirs.control(), dirs.cache()] {
        assert_eq!(mode(own), 0o700);
    }
    assert_eq!((mode(dirs.tool()), mode(dirs.spec())), (0o755, 0o644));
    assert_eq!(fs::read_dir(dirs.tool()).expect("a listing").count(), 0);
}
