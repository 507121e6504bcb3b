//! Bad specs, and the whole of what a user then reads.
//!
//! The snapshot holds each text with its message: review it as prose. `INSTA_UPDATE=always` rewrites it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use super::super::*;
use super::good;

/// One refused text for each thing that can be wrong.
const BAD: &[(&str, &str)] = &[
    ("empty", ""),
    ("only comments", "# later\n"),
    ("not a mapping", "- a\n- b\n"),
    ("a word", "hello\n"),
    ("nothing required is there", "name: x\n"),
    ("a path is missing", "model: {name: m}\ndata: {eval: {seed: 1}}\n"),
    ("unknown key", "model: ./m\ndata: ./d.jsonl\ntrain:\n  batch:\n    efective: 64\n"),
    ("unknown key with a capital", "model: ./m\ndata: ./d.jsonl\nLabels: {}\n"),
    ("a key of another tool", "model: ./m\ndata: ./d.jsonl\nlearning_rate: 0.1\n"),
    ("a key in the wrong place", "model: ./m\ndata: ./d.jsonl\nseq_len: 128\n"),
    ("a key of nothing", "model: ./m\ndata: ./d.jsonl\ncontainer: {potatoes: 3}\n"),
    (
        "several problems",
        "model: ./m\ndata: ./d.jsonl\ntrain: {epochs: many, seq_len: 0, seed: -1}\nrecources: {}\n",
    ),
    (
        "wrong types",
        "model: [a]\ndata: 3\ntrain: yes\nlabels: x\nname: 12\nevaluate: {base_model: yes}\n",
    ),
    (
        "text where a list belongs",
        "model: ./m\ndata: ./d.jsonl\nexport: adapter\ntrainer: {command: sh -c x}\n",
    ),
    (
        "size without unit",
        "model: ./m\ndata: ./d.jsonl\nresources: {memory: 32, disk: 40GQ, shm: 8..GB}\n",
    ),
    (
        "absurd numbers",
        "model: ./m\ndata: ./d.jsonl\ntrain: {epochs: 1e9, seq_len: 99999999999999999999999, clip_norm: .nan, batch: 0}\nresources: {memory: 1048576TiB, disk: 1B, cpu: 1e6, gpus: -1, max_hours: .inf}\n",
    ),
    ("absurd size", "model: ./m\ndata: ./d.jsonl\nresources: {memory: 99999999999TiB}\n"),
    ("half a step", "model: ./m\ndata: ./d.jsonl\ntrain: {max_steps: 1.5}\n"),
    ("epochs and steps", "model: ./m\ndata: ./d.jsonl\ntrain:\n  epochs: 1\n  max_steps: 10\n"),
    (
        "a micro-batch that does not divide",
        "model: ./m\ndata: ./d.jsonl\ntrain: {batch: {effective: 12, micro: 5}}\n",
    ),
    (
        "lora settings without lora",
        "model: ./m\ndata: ./d.jsonl\nmethod: {type: full, lora: {r: 8}}\n",
    ),
    ("shm above memory", "model: ./m\ndata: ./d.jsonl\nresources: {memory: 1GiB, shm: 2GiB}\n"),
    (
        "vram without a gpu",
        "model: ./m\ndata: ./d.jsonl\nresources: {gpus: {count: 0, vram: 1GiB}}\n",
    ),
    (
        "eval twice",
        "model: ./m\ndata: {train: ./d.jsonl, eval: {path: ./e.jsonl, fraction: 0.1}}\n",
    ),
    (
        "a misspelt word",
        "model: ./m\ndata: ./d.jsonl\ntrain: {precision: bf61, schedule: {type: cosin}}\nlog_level: loud\n",
    ),
    (
        "names",
        "name: My Job\nproject: ../x\nmodel: ./m\ndata: ./d.jsonl\nlabels: {a b: x, n: 1}\ntrainer: {image: -x}\n",
    ),
    ("modules", "model: ./m\ndata: ./d.jsonl\nmethod: {lora: {targets: [q proj, 3]}}\n"),
    ("betas", "model: ./m\ndata: ./d.jsonl\ntrain: {optimizer: {betas: [0.9, 1.0], lr: 0}}\n"),
    ("waits", "model: ./m\ndata: ./d.jsonl\non_disconnect: {wait: 5}\n"),
    (
        "a system prompt of nothing",
        "model: ./m\ndata: {train: ./d.jsonl, system: \"  \", bad_rows: ignore, preload: tmpfs}\n",
    ),
    (
        "a system prompt with odd characters",
        "model: ./m\ndata: {train: ./d.jsonl, system: \"a\\eb\"}\n",
    ),
    ("a short wait", "model: ./m\ndata: ./d.jsonl\non_disconnect: {wait: 5s}\n"),
    ("a model from a hub", "model: Qwen/Qwen2.5-7B-Instruct\ndata: tatsu-lab/alpaca\n"),
    (
        "a model by id",
        "model: {id: Qwen/Qwen2.5-7B, trust_remote_code: true}\ndata: s3://bucket/d.jsonl\n",
    ),
    ("a home directory", "model: ~/model\ndata: ./d.jsonl\n"),
    (
        "not supported yet",
        "model: ./m\ndata: ./d.jsonl\nmethod: {type: qlora, quant: {bits: 4}}\nserve: {engine: vllm}\nexport: [gguf, model]\n",
    ),
    (
        "what freezing trains",
        "model: ./m\ndata: ./d.jsonl\nmethod: {type: freeze, lora: {r: 8}, quant: {bits: 4}}\n",
    ),
    (
        "freezing by two ways",
        "model: ./m\ndata: ./d.jsonl\nmethod: {type: freeze, freeze: {last_layers: 1, modules: [lm_head]}}\n",
    ),
    (
        "bits that no library has",
        "model: ./m\ndata: ./d.jsonl\nmethod: {quant: {bits: 5, type: nf8}}\ntrain: {optimizer: {bits: 16}}\n",
    ),
    (
        "state that adafactor has not",
        "model: ./m\ndata: ./d.jsonl\ntrain: {optimizer: {name: adafactor, bits: 8}}\n",
    ),
    (
        "nothing to spread a model over",
        "model: ./m\ndata: ./d.jsonl\ntrain: {sharding: full}\nresources: {gpus: 1}\n",
    ),
    (
        "a quantised base in parts",
        "model: ./m\ndata: ./d.jsonl\nmethod: {quant: {bits: 8}}\ntrain: {sharding: full}\nresources: {gpus: 2}\n",
    ),
    (
        "dora in parts",
        "model: ./m\ndata: ./d.jsonl\nmethod: {lora: {dora: true}}\ntrain: {sharding: full}\nresources: {gpus: 2}\n",
    ),
    (
        "an optimizer whose state has no parts",
        "model: ./m\ndata: ./d.jsonl\ntrain: {sharding: full, optimizer: {name: adafactor}}\nresources: {gpus: 2}\n",
    ),
    (
        "what the method does not export",
        "model: ./m\ndata: ./d.jsonl\nmethod: full\nexport: [adapter]\n",
    ),
    (
        "tool keys with hone's own trainer",
        "model: ./m\ndata: ./d.jsonl\ntrainer: {config: ./x.yml, stop: term}\n",
    ),
    ("a tool without an image", "model: ./m\ndata: ./d.jsonl\ntrainer: {kind: trl}\n"),
    ("a script without a command", "name: n\ntrainer: {kind: hf, image: i}\n"),
    (
        "what cannot be read of a tool",
        "name: n\ntrainer: {kind: custom, image: i, command: [c], stdout_patterns: ['loss=(.*)', '('], env: {LD_PRELOAD: x}, checkpoint: {path: ../c, complete: {marker: a/b}}, resume: {argument: --resume}}\n",
    ),
    (
        "two ways at once",
        "name: n\ntrainer: {kind: custom, image: i, command: [c], checkpoint: {path: 'c-{step}', complete: {marker: D, settled: 10s}}, resume: {argument: '--r={path}', environment: R}}\n",
    ),
    ("a later version", "version: 2\nkind: dpo\nmodel: ./m\ndata: ./d.jsonl\n"),
    ("duplicate key", "model: ./m\ndata: ./d.jsonl\ntrain:\n  seed: 1\n  seed: 2\n"),
    ("tabs", "model: ./m\ndata:\n\ttrain: ./d.jsonl\n"),
    ("garbage", "model: \u{1}\u{1b}[31m\ndata: x\n"),
    ("bidirectional text", "model: ./m\ndata: ./d.jsonl\n\u{202e}key: 1\n"),
    ("unclosed", "model: ./m\ndata: {train: ./d.jsonl\nname: x\n"),
    ("colon in text", "model: ./m\ndata: ./d.jsonl\nlabels:\n  a: b: c\n"),
    ("two documents", "model: ./m\ndata: ./d.jsonl\n---\nmodel: ./n\n"),
    ("merge key", "model: ./m\ndata: ./d.jsonl\ntrain:\n  <<: {seed: 1}\n"),
    ("unknown alias", "model: *x\ndata: ./d.jsonl\n"),
    ("unknown tag", "model: !secret x\ndata: ./d.jsonl\n"),
    ("a list for a key", "? [a]\n: b\n"),
];

#[test]
fn each_bad_spec_says_what_where_and_what_to_do() {
    let mut page = String::new();
    for (title, text) in BAD {
        let error = parse(text, "job.yaml").expect_err(title);
        writeln!(page, "## {title}\n{error}\n").expect("a String");
    }
    insta::assert_snapshot!("bad_specs", page);
}

#[test]
fn every_problem_has_a_hint_and_a_place_within_the_text() {
    for (title, text) in BAD {
        let lines: Vec<_> = text.split('\n').collect();
        for problem in parse(text, "job.yaml").expect_err(title).problems() {
            assert!(!problem.hint.is_empty(), "{title}: {problem:?}");
            let line = lines
                .get(problem.line as usize - 1)
                .unwrap_or_else(|| panic!("{title}: {problem:?}"));
            assert!(problem.column as usize <= line.chars().count() + 1, "{title}: {problem:?}");
        }
    }
}

fn only(text: &str) -> Problem {
    let error = parse(text, "job.yaml").expect_err("refused");
    assert_eq!(error.problems().len(), 1, "{error}");
    error.problems()[0].clone()
}

#[test]
fn bombs_are_refused_quickly() {
    // Each level stands for ten of the one above: ten thousand million values in all.
    let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for n in 1..10 {
        let aliases = vec![format!("*a{}", n - 1); 10].join(", ");
        writeln!(bomb, "a{n}: &a{n} [{aliases}]").expect("a String");
    }
    let deep = format!("model: {}{}\n", "[".repeat(5000), "]".repeat(5000));
    let block: String = (0..300).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let wide = format!("labels: [{}]\n", "1, ".repeat(50_000));
    let anchors: String = (0..5000).map(|n| format!("k{n}: &a{n} 1\n")).collect();
    let start = Instant::now();
    for (text, kind) in [
        (bomb, ProblemKind::TooLarge),
        (block, ProblemKind::TooLarge),
        (wide, ProblemKind::TooLarge),
        (anchors, ProblemKind::TooLarge),
        ("x".repeat(MAX_TEXT + 1), ProblemKind::TooLarge),
    ] {
        let problem = only(&text);
        assert_eq!(problem.kind, kind, "{problem:?}");
        assert!(!problem.hint.is_empty(), "{problem:?}");
    }
    assert!(matches!(only(&deep).kind, ProblemKind::TooLarge | ProblemKind::Syntax));
    let unknown: String = (0..8000).map(|n| format!("k{n}: 1\n")).collect();
    assert!(parse(&unknown, "x").is_err());
    // Generous: a debug build on a busy machine needs well below a second for all of them.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn bytes_that_are_no_text_name_their_place() {
    let error = parse_bytes(b"model: ./m\ndata: \xff\xfe\n", "job.yaml").expect_err("not UTF-8");
    assert_eq!(
        error.to_string(),
        "job.yaml:2:7: the byte 0xff is not UTF-8 text\n2 | data: \u{fffd}\u{fffd}\n  |       ^\n\
         hint: save the file as UTF-8; is this the right file?"
    );
    assert_eq!(
        parse_bytes(&vec![0xff; MAX_TEXT + 1], "x").expect_err("long").problems()[0].kind,
        ProblemKind::TooLarge
    );
}

/// Found by fuzzing: the line was counted with carriage returns, and looked for without them.
#[test]
fn a_line_is_found_whatever_ends_lines() {
    for end in ["\n", "\r\n", "\r"] {
        let text = ["model: ./m", "data: ./d.jsonl", "lables: {}", ""].join(end);
        let problem = only(&text);
        let told = (problem.line, problem.column, problem.excerpt.as_str());
        assert_eq!(told, (3, 1, "lables: {}"), "{end:?}");
        let text = ["a: 1", "b: \u{1}", ""].join(end);
        let error = check_config(&good(CONFIGURED), &text).expect_err("a control character");
        let problem = &error.problems()[0];
        assert_eq!((problem.line, problem.column, &problem.excerpt[..2]), (2, 4, "b:"), "{end:?}");
        let bytes = [&b"a: 1"[..], end.as_bytes(), b"b: \xff"].concat();
        let error = parse_bytes(&bytes, "job.yaml").expect_err("not UTF-8");
        let problem = &error.problems()[0];
        assert_eq!((problem.line, problem.column), (2, 4), "{end:?}");
    }
}

const CONFIGURED: &str =
    "name: n\ntrainer: {kind: custom, image: i, command: [c], config: ./a.txt}\n";

#[test]
fn a_tab_is_pointed_at_wherever_it_stands() {
    let deep = "model: ./m\ndata:\n  train: ./d.jsonl\n  # rows\n  \teval: ./e.jsonl\n";
    for (text, place) in [("model:\n\tpath: ./m\n", (2, 1)), (deep, (5, 3))] {
        let problem = only(text);
        assert_eq!((problem.line, problem.column), place, "{problem:?}");
        assert!(problem.hint.contains("spaces"), "{problem:?}");
    }
}

#[test]
fn a_long_line_is_cut_around_the_place() {
    let text = format!("model: ./m\ndata: ./d.jsonl\nlabels: {{{} bad key: x}}\n", " ".repeat(400));
    let problem = only(&text);
    assert!(problem.excerpt.chars().count() <= 100, "{problem:?}");
    assert!(problem.excerpt.contains("bad key"), "{problem:?}");
}
