//! People and machines that join by what is printed for them, through the real programs, and identities that stay whose
//! they are.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use hone_proto::time::Now;
use hone_tests::cluster::process::{Process, binary};
use hone_tests::cluster::wait_until;
use hone_tests::reach::PATIENCE;
use hone_tests::served::Served;

/// Exit codes of the table of errors.
const USAGE: i32 = 2;
const NOT_PERMITTED: i32 = 6;
const NOT_FOUND: i32 = 7;
const CONFLICT: i32 = 8;

/// Runs what was printed as a person does: pasted into a shell, with the programs on the path.
pub(super) fn paste(line: &str, config: &Path) -> Result<Output> {
    let programs = binary("hone")?;
    let programs = programs.parent().context("a program lies in a folder")?;
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut shell = Command::new("bash")
        .env("PATH", path)
        .env("HONE_CONFIG_DIR", config)
        .env_remove("HONE_CONTEXT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    shell.stdin.take().context("a pipe")?.write_all(line.as_bytes())?;
    Ok(shell.wait_with_output()?)
}

/// It ended with this code, and said this.
pub(super) fn ended(output: &Output, code: i32, words: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{}: {said}", output.status);
    for word in words {
        ensure!(said.contains(word), "without {word:?}: {said}");
    }
    Ok(())
}

#[test]
fn an_invited_person_pastes_the_printed_line_and_nobody_elses_identity_is_replaced() -> Result<()> {
    let fleet = Served::start("")?;
    let config = fleet.dir().join("config");
    let invite = |name: &str| fleet.run(&["operator", "invite", name]);
    let line = invite("grace")?;

    // On the admin's own machine, where the context of this controller is the admin's.
    let named = line.replace("hone login", "hone login --name test");
    ended(&paste(&named, &config)?, CONFLICT, &["`test` is user/", "hint:", "--name NAME"])?;
    ended(&paste("hone operator list", &config)?, 0, &[])?;

    // No token was spent for that: on her own machine the same line works, once.
    let hers = fleet.dir().join("hers");
    ended(&paste(&line, &hers)?, 0, &["you are grace"])?;
    ended(&paste("hone ps", &hers)?, 0, &[])?;
    ended(&paste("hone operator invite eve", &hers)?, NOT_PERMITTED, &["hint:"])?;
    let elsewhere = fleet.dir().join("elsewhere");
    ended(&paste(&line, &elsewhere)?, NOT_PERMITTED, &["hint: a token works once"])?;
    ensure!(!elsewhere.join("contexts/127.0.0.1").exists(), "a context without an identity");

    // Whom the controller takes no more may come back under the same name of the context.
    fleet.run(&["operator", "revoke", "grace"])?;
    ended(&paste(&invite("bob")?, &hers)?, 0, &["you are bob"])?;
    ended(&paste("hone ps", &hers)?, 0, &[])
}

#[test]
fn a_machine_joins_by_the_printed_line_and_is_not_joined_over() -> Result<()> {
    let fleet = Served::start("")?;
    let (config, state) = (fleet.dir().join("config"), fleet.dir().join("agent"));
    let line = |options: &str| -> Result<String> {
        let state = format!("hone-agent --state-dir {} join {options}", state.display());
        Ok(fleet.run(&["node", "token"])?.replace("hone-agent join", &state))
    };
    let settings = fleet.dir().join("agent.toml");
    std::fs::write(&settings, "[engine]\nsocket = \"/nowhere/docker.sock\"\n")?;
    let mut run = Command::new(binary("hone-agent")?);
    run.args(["run", "--config"]).arg(&settings).arg("--state-dir").arg(&state);
    ended(&run.output()?, NOT_FOUND, &["has not joined", "hint: join a fleet first"])?;

    let (once, fresh) = (line("")?, line("")?);
    ended(&paste(&once, &config)?, 0, &["joined as"])?;
    ended(&paste(&fresh, &config)?, CONFLICT, &["already", "hint:", "--again"])?;
    let mut agent = Process::new("agent", fleet.dir(), run);
    agent.start()?;
    wait_until("the agent runs", PATIENCE, || {
        agent.still_runs()?;
        Ok(agent.said()?.contains("the agent runs").then_some(()))
    })?;
    let again = fresh.replace(" join ", " join --again ");
    ended(&paste(&again, &config)?, CONFLICT, &["another agent runs", "hint: stop it first"])?;
    agent.terminate()?;

    // No token was spent so far but the first.
    ended(
        &paste(&once.replace(" join ", " join --again "), &config)?,
        NOT_PERMITTED,
        &["error: cannot join", "hint: a token works once"],
    )?;
    ended(&paste(&again, &config)?, 0, &["joined as"])?;
    let nodes = fleet.run(&["node", "list", "-o", "json"])?;
    let nodes: Vec<serde_json::Value> = serde_json::from_str(&nodes)?;
    ensure!(nodes.len() == 2, "{nodes:?}");
    for node in &nodes {
        fleet.run(&["node", "revoke", node["id"].as_str().context("its id")?])?;
    }
    // What the controller takes no more is in nobody's way.
    ended(&paste(&line("")?, &config)?, 0, &["joined as"])
}

#[test]
fn a_token_lives_as_the_controllers_settings_say() -> Result<()> {
    let fleet = Served::start("[bounds]\ntoken_most_seconds = 600\n")?;
    let seconds_left = |args: &[&str]| -> Result<u64> {
        let reply: serde_json::Value = serde_json::from_str(&fleet.run(args)?)?;
        let until = reply["expires_wall_ns"].as_u64().context("when it expires")?;
        Ok(until.saturating_sub(Now::read().wall.get()) / 1_000_000_000)
    };
    for args in [&["node", "token"][..], &["operator", "invite", "grace"]] {
        let left = seconds_left(&[args, &["-o", "json"]].concat())?;
        ensure!((500..=600).contains(&left), "{args:?}: {left} s");
        let left = seconds_left(&[args, &["--ttl", "1m", "-o", "json"]].concat())?;
        ensure!((1..=60).contains(&left), "{args:?}: {left} s");
        let no = fleet.refused(&[args, &["--ttl", "1h"]].concat(), USAGE)?;
        ensure!(no.contains("600 seconds at most"), "{no}");
    }
    Ok(())
}
