//! From the tree to a spec: what is trained, and how the rest is kept.

use super::error::{ProblemKind, quoted};
use super::node::Value;
use super::problems::Problems;
use super::reader::{At, Section};
use super::types::{Freeze, Lora, Method, Quant, QuantBits, Targets};
use super::words::{MethodKind, QuantType};

/// Modules that a list may name; models have fewer kinds of layers.
const MAX_MODULES: usize = 64;
/// Longest name of a module, in characters.
const MAX_MODULE: usize = 128;

pub(super) fn method(top: &Section<'_>, p: &mut Problems<'_>) -> Option<Method> {
    let (kind, section) = match top.get("method") {
        None => (MethodKind::Lora, top.nothing("method")),
        Some(at) if matches!(at.node.value, Value::Text(_)) => {
            let short = At { path: "method.type".to_owned(), node: at.node };
            (short.word(p)?, top.nothing("method"))
        }
        Some(at) => {
            let section = Section::open(&at, p)?;
            // A wrong type leaves open what would be the defaults of much else.
            let kind = section.get("type").map_or(Some(MethodKind::Lora), |at| at.word(p));
            (kind?, section)
        }
    };
    let adapter = kind == MethodKind::Lora;
    for (key, belongs, owner) in [
        ("lora", adapter, MethodKind::Lora),
        ("quant", adapter, MethodKind::Lora),
        ("freeze", kind == MethodKind::Freeze, MethodKind::Freeze),
    ] {
        if let (false, Some(extra)) = (belongs, section.get(key)) {
            let what = format!("has no meaning with type `{}`", kind.name());
            let hint = format!("remove it, or set the type to `{}`", owner.name());
            p.add(ProblemKind::Conflict, extra.here(), what, hint);
        }
    }
    Some(Method {
        kind,
        lora: adapter.then(|| lora(&section, p)),
        quant: (adapter && section.get("quant").is_some()).then(|| quant(&section, p)),
        freeze: if kind == MethodKind::Freeze { freeze(&section, p) } else { None },
    })
}

fn lora(method: &Section<'_>, p: &mut Problems<'_>) -> Lora {
    let section = method.section("lora", p);
    let r = section.small("r", p).unwrap_or(16);
    Lora {
        r,
        alpha: section.small("alpha", p).unwrap_or(2 * r),
        dropout: section.real("dropout", p).unwrap_or(0.0),
        targets: section
            .get("targets")
            .and_then(|at| targets(&at, p))
            .unwrap_or(Targets::AllLinear),
        rslora: section.flag("rslora", p).unwrap_or(false),
        dora: section.flag("dora", p).unwrap_or(false),
    }
}

fn targets(at: &At<'_>, p: &mut Problems<'_>) -> Option<Targets> {
    if let Value::Text(text) = &at.node.value {
        if text == Targets::ALL_LINEAR {
            return Some(Targets::AllLinear);
        }
        let hint = format!("write `{}`, or a list such as `[q_proj, v_proj]`", Targets::ALL_LINEAR);
        at.bad(p, format!("does not know {}", quoted(text, 60)), hint);
        return None;
    }
    modules(at, p).map(Targets::Named)
}

fn quant(method: &Section<'_>, p: &mut Problems<'_>) -> Quant {
    let section = method.section("quant", p);
    Quant {
        bits: section.get("bits").and_then(|at| bits(&at, p)).unwrap_or_default(),
        kind: section.word("type", p).unwrap_or(QuantType::Nf4),
        double: section.flag("double", p).unwrap_or(true),
    }
}

fn bits(at: &At<'_>, p: &mut Problems<'_>) -> Option<QuantBits> {
    match at.whole(p)? {
        4 => Some(QuantBits::Four),
        8 => Some(QuantBits::Eight),
        other => {
            let hint = "leave `quant` out for a base in 16 bits";
            at.bad(p, format!("must be 4 or 8, not {other}"), hint);
            None
        }
    }
}

fn freeze(method: &Section<'_>, p: &mut Problems<'_>) -> Option<Freeze> {
    let section = method.section("freeze", p);
    match (section.get("last_layers"), section.get("modules")) {
        (Some(at), None) => at.whole(p).and_then(|n| u32::try_from(n).ok()).map(Freeze::LastLayers),
        (None, Some(at)) => modules(&at, p).map(Freeze::Modules),
        (Some(_), Some(extra)) => {
            let hint = "keep one of the two: each says what is trained";
            p.add(ProblemKind::Conflict, extra.here(), "stands beside `last_layers`", hint);
            None
        }
        (None, None) => {
            let hint = "such as `{type: freeze, freeze: {last_layers: 4}}`, or `modules` by name";
            p.add(ProblemKind::Missing, section.here(), "nothing says what is trained", hint);
            None
        }
    }
}

fn modules(at: &At<'_>, p: &mut Problems<'_>) -> Option<Vec<String>> {
    let items = at.list(p)?;
    if items.is_empty() || items.len() > MAX_MODULES {
        at.bad(p, format!("must name 1 to {MAX_MODULES} modules, not {}", items.len()), "");
        return None;
    }
    Some(items.iter().filter_map(|item| module(item, p)).collect())
}

fn module(at: &At<'_>, p: &mut Problems<'_>) -> Option<String> {
    let name = at.text(p)?;
    if name.len() <= MAX_MODULE
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.'))
    {
        return Some(name);
    }
    let what = format!("{} is not the name of a module", quoted(&name, 60));
    at.bad(p, what, "names such as `q_proj`, as the model's code has them");
    None
}
