//! The table of keys: its defaults are the true ones, no key is missing, and the page made from it is current.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;

use super::super::{not_yet, *};
use super::{FULL, MINIMAL, TOOLS, canonical};

/// The paths of every key of `value`, sections included. Labels are the user's own.
fn walk(value: &Value, under: &str, found: &mut BTreeSet<String>) {
    let Value::Object(map) = value else { return };
    for (name, inner) in map {
        let path = if under.is_empty() { name.clone() } else { format!("{under}.{name}") };
        // Names that are the user's own, or the tool's.
        if !["labels", "trainer.env", "trainer.override"].contains(&path.as_str()) {
            walk(inner, &path, found);
        }
        found.insert(path);
    }
}

#[test]
fn the_table_has_every_field_of_the_types_and_no_other() {
    let mut found = BTreeSet::new();
    walk(&canonical(FULL), "", &mut found);
    // What excludes something that the full example has.
    let others = [
        "checkpoint: {path: \"c-{step}\", complete: {settled: 5s}}",
        "resume: {environment: FROM}",
    ];
    for other in others {
        let custom = "trainer: {kind: custom, image: i, command: [c], ";
        walk(&canonical(&format!("name: n\n{custom}{other}}}\n")), "", &mut found);
    }
    TOOLS.iter().for_each(|example| walk(&canonical(example), "", &mut found));
    walk(
        &canonical(
            &format!("{MINIMAL}train: {{max_steps: 9}}\n").replace(
                "data: ./train.jsonl",
                "data: {train: ./t.jsonl, eval: {path: ./e.jsonl}}",
            ),
        ),
        "",
        &mut found,
    );
    for frozen in ["last_layers: 1", "modules: [lm_head]"] {
        let text = format!("{MINIMAL}method: {{type: freeze, freeze: {{{frozen}}}}}\n");
        walk(&canonical(&text), "", &mut found);
    }
    let table: BTreeSet<_> = KEYS.iter().map(|key| key.path.to_owned()).collect();
    assert_eq!(found, table);
    assert_eq!(table.len(), KEYS.len(), "a key stands twice");
}

#[test]
fn the_examples_show_every_key() {
    let all = format!("{FULL}{}", TOOLS.concat());
    for key in KEYS {
        let name = key.path.rsplit('.').next().expect("a name");
        // Other tools' keys stand in their examples; all the rest in the full one.
        let place = if key.path.starts_with("trainer.") { &all } else { FULL };
        assert!(place.contains(&format!("{name}:")), "{} is in no example", key.path);
    }
}

#[test]
fn each_default_in_the_table_is_what_holds() {
    let spec = canonical(MINIMAL);
    for key in KEYS {
        let value = key.path.split('.').try_fold(&spec, |value, name| value.get(name));
        match (key.absent, value) {
            (Absent::Is(text), Some(value)) => {
                let shown = match (key.shape, value) {
                    (Shape::Size(..), Value::String(size)) => {
                        let (table, held): (Bytes, Bytes) =
                            (text.parse().expect("a size"), size.parse().expect("a size"));
                        assert_eq!(table, held, "{}", key.path);
                        continue;
                    }
                    (Shape::Real(..), Value::Number(number)) => {
                        let table: f64 = text.parse().expect("a number");
                        assert_eq!(Some(table), number.as_f64(), "{}", key.path);
                        continue;
                    }
                    (_, Value::String(word)) => word.clone(),
                    (_, other) => other.to_string(),
                };
                assert_eq!(shown, text, "{}", key.path);
            }
            (Absent::Is(_), None) => panic!("{} has a default but is not there", key.path),
            (Absent::Inner, value) => assert!(value.is_some_and(Value::is_object), "{}", key.path),
            (Absent::Required | Absent::Else(_), _) => {}
        }
    }
}

#[test]
fn nothing_is_both_supported_and_not() {
    for (path, _) in not_yet::KEYS {
        assert!(keys::find(path).is_none(), "{path}");
        let section = path.rsplit_once('.').map_or("", |(section, _)| section);
        assert!(section.is_empty() || keys::find(section).is_some(), "{path} lies nowhere");
    }
    for (path, words, _) in not_yet::WORDS {
        let Some(Shape::Word(known)) = keys::find(path).map(|key| key.shape) else {
            assert_eq!(*path, "export", "{path} takes no words");
            continue;
        };
        assert!(words.iter().all(|word| !known.contains(word)), "{path}");
    }
}

#[test]
fn the_page_is_current() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/spec.md");
    if std::env::var_os("HONE_BLESS").is_some() {
        std::fs::write(&page, markdown()).expect("written");
    }
    let stored = std::fs::read_to_string(&page).expect("docs/spec.md");
    assert!(
        stored == markdown(),
        "docs/spec.md is stale: HONE_BLESS=1 cargo test -p hone-controller --lib spec"
    );
}
