//! Bad specs through the real command: each is refused with its own exit code and advice, and changes nothing.

use anyhow::{Result, ensure};
use hone_tests::cluster::cluster;
use hone_tests::cluster::job::spec;

/// The spec itself is wrong.
const BAD_SPEC: i32 = 4;
/// The spec is right, and the answer is no.
const REFUSED: i32 = 3;

/// What is replaced in a good spec, by what, the exit code, and words that the talk must hold.
const BAD: &[(&str, &str, i32, &[&str])] = &[
    ("max_steps", "max_step", BAD_SPEC, &[":10:", "`max_step`", "hint: did you mean `max_steps`?"]),
    ("./task.jsonl", "./tusk.jsonl", BAD_SPEC, &[":4:", "./tusk.jsonl", "hint: "]),
    ("./model", "./nothing", BAD_SPEC, &[":2:", "./nothing", "hint: "]),
    ("seq_len: 256", "seq_len: 99999999999", BAD_SPEC, &["train.seq_len", "1048576", "hint: "]),
    ("memory: 2 GiB", "memory: 512 TiB", BAD_SPEC, &["resources.memory", "hint: "]),
    ("cpu: 1", "cpu: -1", BAD_SPEC, &["resources.cpu", "hint: "]),
    ("type: lora", "type: lore", BAD_SPEC, &["hint: did you mean `lora`?"]),
    ("name: bad", "name: [bad", BAD_SPEC, &["hint: "]),
    ("cpu: 1", "cpu: 512", REFUSED, &["cores", "hint: "]),
    ("memory: 2 GiB", "memory: 60 TiB", REFUSED, &["hint: "]),
    ("disk: 1 GiB", "disk: 60 TiB", REFUSED, &["disk", "hint: "]),
];

#[test]
fn bad_specs_are_refused_and_change_nothing() -> Result<()> {
    let fleet = cluster()?;
    let numbers = || -> Result<Vec<_>> { Ok(fleet.jobs()?.iter().map(|job| job.job).collect()) };
    let before = (numbers()?, fleet.stored()?);
    let mut wrong = Vec::new();
    for (from, to, code, words) in BAD {
        let path = fleet.write_spec("bad", &spec("bad", 1).replacen(from, to, 1))?;
        let output = fleet.hone().args(["submit", &path, "--image", &fleet.image]).output()?;
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        let silent: Vec<_> = words.iter().filter(|word| !talk.contains(**word)).collect();
        if output.status.code() != Some(*code) || !silent.is_empty() || !output.stdout.is_empty() {
            wrong.push(format!("{to}: {}, without {silent:?}: {talk}", output.status));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    ensure!(numbers()? == before.0, "a refused spec changed the jobs");
    ensure!(fleet.stored()? == before.1, "a refused spec left objects or chunks behind");
    Ok(())
}
