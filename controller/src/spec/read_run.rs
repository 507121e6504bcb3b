//! From the tree to a spec: what runs, what it needs, and what it leaves.

use std::time::Duration;

use hone_proto::quantity::{Bytes, MilliCpu};

use super::error::{ProblemKind, quoted};
use super::node::Value;
use super::problems::Problems;
use super::read_tool::tool;
use super::reader::{At, Section};
use super::types::{Container, Evaluate, Gpus, OnDisconnect, Resources, Trainer, Wait};
use super::words::{ContainerUser, Export, MethodKind, Network, TrainerKind};

/// The CPU flavour of the trainer image, as its build script tags it.
pub const DEFAULT_IMAGE: &str = "hone-trainer:cpu";

/// Arguments of a command.
const MAX_COMMAND: usize = 64;
/// Longest reference of an image: what registries accept, with a digest.
const MAX_IMAGE: usize = 512;
/// Shortest wait for a silent controller: its lease.
const MIN_WAIT: Duration = Duration::from_secs(30);
/// Longest wait that is not `forever`.
const MAX_WAIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What runs in the container; nothing when its kind is a word that nobody knows, on which the rest depends.
pub(super) fn trainer(top: &Section<'_>, p: &mut Problems<'_>) -> Option<Trainer> {
    let section = top.section("trainer", p);
    let kind = section.get("kind").map_or(Some(TrainerKind::Hone), |at| at.word(p))?;
    let image = match section.get("image") {
        Some(at) => image(&at, p),
        None if kind == TrainerKind::Hone => Some(DEFAULT_IMAGE.to_owned()),
        None => section.required("image", p).map(|_| String::new()),
    };
    let given = section.get("command");
    let own = given.as_ref().map_or_else(Vec::new, |at| command(at, p));
    if !kind.is_rendered() && own.is_empty() {
        let at = given.as_ref().map_or_else(|| section.here(), At::here);
        let what = format!("kind `{}` needs a command", kind.name());
        let hint = "`trainer.command` says how the tool is started, such as `[python, train.py]`";
        p.add(ProblemKind::Missing, at, what, hint);
    }
    Some(Trainer {
        kind,
        image: image.unwrap_or_default(),
        command: own,
        tool: tool(&section, kind, p),
    })
}

fn image(at: &At<'_>, p: &mut Problems<'_>) -> Option<String> {
    let text = at.text(p)?;
    let legal =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':' | '@');
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts && text.len() <= MAX_IMAGE && text.chars().all(legal) {
        return Some(text);
    }
    let what = format!("{} is not the name of an image", quoted(&text, 60));
    at.bad(p, what, "such as `hone-trainer:cpu`, or `registry/name@sha256:…`");
    None
}

fn command(at: &At<'_>, p: &mut Problems<'_>) -> Vec<String> {
    if matches!(at.node.value, Value::Text(_)) {
        at.wrong_type(p);
        return Vec::new();
    }
    let items = at.list(p).unwrap_or_default();
    if items.len() > MAX_COMMAND {
        at.bad(p, format!("{} arguments, more than {MAX_COMMAND}", items.len()), "");
        return Vec::new();
    }
    let mut command = Vec::new();
    for item in &items {
        if let Value::Text(_) = item.node.value {
            command.extend(item.text(p));
        } else {
            let what = format!("each argument is text, not {}", item.node.value.kind());
            p.add(ProblemKind::WrongType, item.here(), what, "put it in quotes");
        }
    }
    command
}

pub(super) fn resources(top: &Section<'_>, p: &mut Problems<'_>) -> Resources {
    let section = top.section("resources", p);
    let memory = section.size("memory", p).unwrap_or(Bytes::gib(4));
    let shm = section.size("shm", p).unwrap_or(Bytes::mib(256).min(memory));
    if let (true, Some(at)) = (shm > memory, section.get("shm")) {
        let what = format!("{shm} is more than the memory of {memory}, which it is a part of");
        p.add(ProblemKind::Conflict, at.here(), what, "raise `resources.memory`, or lower this");
    }
    Resources {
        gpus: gpus(&section, p),
        cpu: section.real("cpu", p).map_or(MilliCpu::cores(1), milli),
        memory,
        disk: section.size("disk", p).unwrap_or(Bytes::gib(10)),
        shm,
        network: section.word("network", p).unwrap_or(Network::None),
        max_hours: section.real("max_hours", p),
        max_attempts: section.small("max_attempts", p).unwrap_or(5),
    }
}

fn milli(cores: f64) -> MilliCpu {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the key's bounds keep it between 0.1 and 1024"
    )]
    MilliCpu::new((cores * 1000.0).round() as u32)
}

fn gpus(resources: &Section<'_>, p: &mut Problems<'_>) -> Gpus {
    const NONE: Gpus = Gpus { count: 0, vram: None };
    let (count, vram) = match resources.get("gpus") {
        None => return NONE,
        Some(at) if matches!(at.node.value, Value::Whole(_) | Value::Real(_)) => {
            let short = At { path: "resources.gpus.count".to_owned(), node: at.node };
            (short.whole(p), None)
        }
        Some(at) => {
            let Some(section) = Section::open(&at, p) else { return NONE };
            let (vram, asked) = (section.size("vram", p), section.get("vram"));
            // Whoever says how much VRAM means at least one GPU.
            let count = match section.get("count") {
                Some(_) => section.whole("count", p),
                None => Some(u64::from(asked.is_some())),
            };
            if let (Some(0), Some(extra)) = (count, asked) {
                let what = "has no meaning without a GPU";
                p.add(ProblemKind::Conflict, extra.here(), what, "set `count: 1`");
            }
            (count, vram)
        }
    };
    let count = count.unwrap_or(0);
    Gpus { count: u32::try_from(count).unwrap_or(u32::MAX), vram }
}

pub(super) fn container(top: &Section<'_>, p: &mut Problems<'_>) -> Container {
    let section = top.section("container", p);
    Container { user: section.word("user", p).unwrap_or(ContainerUser::Attempt) }
}

pub(super) fn on_disconnect(top: &Section<'_>, p: &mut Problems<'_>) -> OnDisconnect {
    let section = top.section("on_disconnect", p);
    OnDisconnect { wait: section.get("wait").and_then(|at| wait(&at, p)).unwrap_or(Wait::Auto) }
}

fn wait(at: &At<'_>, p: &mut Problems<'_>) -> Option<Wait> {
    const HINT: &str = "write `auto`, `forever`, or a time such as `90s`, `45m`, `2h` or `1d`";
    let text = match &at.node.value {
        Value::Text(text) => text,
        Value::Whole(_) | Value::Real(_) => {
            at.bad(p, "a time needs a unit", HINT);
            return None;
        }
        _ => {
            at.wrong_type(p);
            return None;
        }
    };
    match text.as_str() {
        "auto" => return Some(Wait::Auto),
        "forever" => return Some(Wait::Forever),
        _ => {}
    }
    let Some(time) = duration(text) else {
        at.bad(p, format!("{} is not a time", quoted(text, 60)), HINT);
        return None;
    };
    if (MIN_WAIT..=MAX_WAIT).contains(&time) {
        return Some(Wait::For(time));
    }
    at.bad(p, format!("must lie between 30s and 30d, not {}", quoted(text, 60)), HINT);
    None
}

/// A whole number with `s`, `m`, `h` or `d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(seconds).map(Duration::from_secs)
}

pub(super) fn evaluate(top: &Section<'_>, p: &mut Problems<'_>) -> Evaluate {
    let section = top.section("evaluate", p);
    Evaluate { base_model: section.flag("base_model", p).unwrap_or(true) }
}

/// What the package holds. A method exports what it trains: merging an adapter into the model is not supported yet.
pub(super) fn export(
    top: &Section<'_>,
    method: Option<MethodKind>,
    trainer: Option<&Trainer>,
    p: &mut Problems<'_>,
) -> Vec<Export> {
    if let Some(trainer) = trainer.filter(|trainer| trainer.kind == TrainerKind::Custom) {
        return export_of_custom(top, trainer, p);
    }
    let fits = match method {
        Some(MethodKind::Full | MethodKind::Freeze) => Export::Model,
        _ => Export::Adapter,
    };
    let Some(at) = top.get("export") else { return vec![fits] };
    let mut wanted = Vec::new();
    for item in at.list(p).unwrap_or_default() {
        let Some(one) = item.word::<Export>(p) else { continue };
        if one == Export::Model && method == Some(MethodKind::Lora) {
            item.not_yet(p, "merging the adapter into the model; export `adapter`");
        } else if one != fits && method.is_some() {
            let what = format!("`{}` does not come from this method", one.name());
            p.add(ProblemKind::Conflict, item.here(), what, format!("export `{}`", fits.name()));
        } else if wanted.contains(&one) {
            item.bad(p, format!("`{}` stands twice", one.name()), "");
        } else {
            wanted.push(one);
        }
    }
    wanted
}

/// What a foreign trainer leaves is its last complete checkpoint, whole, whatever it holds.
fn export_of_custom(top: &Section<'_>, trainer: &Trainer, p: &mut Problems<'_>) -> Vec<Export> {
    let saves = trainer.tool.as_ref().is_some_and(|tool| tool.checkpoint.is_some());
    let Some(at) = top.get("export") else {
        return if saves { vec![Export::Model] } else { Vec::new() };
    };
    let mut wanted = Vec::new();
    for item in at.list(p).unwrap_or_default() {
        let Some(one) = item.word::<Export>(p) else { continue };
        if !saves {
            let what = "a `custom` trainer leaves nothing that hone knows of";
            let hint = "say with `trainer.checkpoint` what its checkpoints are: the package is the last of them";
            p.add(ProblemKind::Conflict, item.here(), what, hint);
        } else if wanted.is_empty() {
            wanted.push(one);
        } else {
            item.bad(p, "the last checkpoint is packed once", "name one of the two");
        }
    }
    wanted
}
