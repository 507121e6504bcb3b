//! The verbs against a made-up controller: what they print, what they send, how they end.

use clap::CommandFactory as _;
use hone_proto::error::{Reason, Refusal};
use hone_proto::wire::series_update::Update;
use hone_proto::wire::{
    Allocatable, AllocatableGpu, AttemptView, CheckpointView, DemandView, EventView, ExplainReply,
    JobView, LogView, NodeRollup, NodeSample, NodeVerdict, NodeView, OperatorView, Shortfall,
    hardware_update,
};
use tonic::Status;

use super::Cli;
use super::fake::{Fake, NOW};
use super::render::hardware::tests::{busy, full, gpu};
use super::render::human::width;
use super::watch::model::tests::point;

const MINUTE: u64 = 60_000_000_000;

fn job(number: u64, name: &str, state: &str) -> JobView {
    let ended = matches!(state, "completed" | "failed" | "cancelled");
    JobView {
        job: number,
        name: name.to_owned(),
        owner: "ada".to_owned(),
        project: "default".to_owned(),
        state: state.to_owned(),
        submitted_wall_ns: NOW.get() - 90 * MINUTE,
        ended_wall_ns: ended.then(|| NOW.get() - MINUTE),
        step: Some(120),
        max_steps: Some(400),
        latest_checkpoint_step: Some(100),
        attempts: vec![AttemptView {
            attempt: 1,
            generation: 1,
            node: "n-4f2a91".to_owned(),
            state: "running".to_owned(),
            placed_wall_ns: NOW.get() - 80 * MINUTE,
            ..Default::default()
        }],
        demand: Some(DemandView {
            gpus: 1,
            vram_bytes: 20 << 30,
            milli_cpu: 2500,
            ram_bytes: 8 << 30,
            disk_bytes: 50 << 30,
        }),
        spec_yaml: "name: quickstart\nstrategy:\n  method: lora\n".to_owned(),
        image_reference: "sha256:77aa".to_owned(),
        trainable_params: Some(1_200_000),
        total_params: Some(103_000_000),
        ..Default::default()
    }
}

fn node(id: &str, hostname: &str) -> NodeView {
    NodeView {
        id: id.to_owned(),
        hostname: hostname.to_owned(),
        state: "ready".to_owned(),
        enrolled_by: "ada".to_owned(),
        enrolled_wall_ns: NOW.get() - 3000 * MINUTE,
        last_seen_wall_ns: Some(NOW.get() - 2_000_000_000),
        inventory: Some(full()),
        allocatable: Some(Allocatable {
            gpus: vec![AllocatableGpu { uuid: gpu(), vram_bytes: 80 << 30 }; 1],
            milli_cpu: 15_500,
            ram_bytes: 120 << 30,
            disk_bytes: 500 << 30,
        }),
        promised: Some(DemandView { gpus: 1, milli_cpu: 4000, ..Default::default() }),
        sample: Some(busy(7)),
        jobs: vec![7],
        agent_version: "0.1.0".to_owned(),
        ..Default::default()
    }
}

/// A world in which every name is as long as it may be.
fn crowded() -> Fake {
    let fake = Fake::default();
    let long = "x".repeat(64);
    let mut wide = job(123_456, &long, "completed");
    long.clone_into(&mut wide.owner);
    long.clone_into(&mut wide.attempts[0].node);
    "a very long message ".repeat(9).clone_into(&mut wide.attempts[0].message);
    "it waits since ".repeat(20).clone_into(&mut wide.reason);
    (wide.step, wide.max_steps) = (Some(1_000_000), Some(1_000_000));
    let mut crowd = node("n-0123456789abcdef", &"h".repeat(64));
    crowd.jobs = (1..40).collect();
    let mut world = fake.world();
    world.jobs = vec![wide.clone(), job(7, "quickstart", "running")];
    world.nodes = vec![crowd, node("n-2", "gpu-2")];
    world.checkpoints = vec![CheckpointView {
        kind: "checkpoint".to_owned(),
        step: 1_000_000,
        attempt: 12,
        manifest: vec![0xab; 32],
        bytes: 123 << 30,
        files: 1200,
        committed_wall_ns: NOW.get() - MINUTE,
        node: long.clone(),
        ..Default::default()
    }];
    world.operators = vec![OperatorView {
        user: long.clone(),
        role: "submitter".to_owned(),
        state: "invited".to_owned(),
        invited_by: long.clone(),
        certificate_expires_wall_ns: Some(NOW.get()),
    }];
    let missing = "misses 3.1 GiB of memory on GPU 0, which others use ".repeat(4);
    let shortfalls = vec![Shortfall { what: "vram".to_owned(), missing: 1, text: missing }];
    world.explain = ExplainReply {
        job: Some(wide),
        reasons: vec!["no node fits".to_owned()],
        nodes: vec![NodeVerdict { node: long, fits: false, shortfalls, ..Default::default() }],
    };
    world.series =
        [(1..=300).map(|s| Ok(Update::Point(point(1, s, 3.0 / s as f64)))).collect()].into();
    drop(world);
    fake
}

#[test]
fn the_arguments_are_well_formed() {
    Cli::command().debug_assert();
}

#[test]
fn help_names_every_exit_code() {
    let help = Cli::command().render_long_help().to_string();
    for code in ["0 ok", "3 the answer is no", "9 the followed job", "130 interrupted"] {
        assert!(help.contains(code), "{code} is missing:\n{help}");
    }
}

#[tokio::test]
async fn every_table_fits_in_80_columns_however_long_the_names() {
    let fake = crowded();
    for args in [
        &["ps", "--all"][..],
        &["show", "7"],
        &["show", "123456"],
        &["checkpoints", "7"],
        &["explain", "123456"],
        &["node", "list"],
        &["node", "show", "n-2"],
        &["operator", "list"],
    ] {
        let ran = fake.hone(args).await;
        assert_eq!((ran.exit, ran.err.as_str()), (0, ""), "{args:?}");
        assert!(ran.out.lines().count() > 1, "{args:?} printed nothing: {}", ran.out);
        for line in ran.out.lines() {
            assert!(width(line) <= 80, "{args:?}: {} columns: {line}", width(line));
        }
    }
}

#[tokio::test]
async fn jobs_and_nodes_as_tables() {
    let fake = crowded();
    insta::assert_snapshot!("ps", fake.hone(&["ps", "--all"]).await.out);
    insta::assert_snapshot!("show", fake.hone(&["show", "quickstart"]).await.out);
    insta::assert_snapshot!("explain", fake.hone(&["explain", "7"]).await.out);
    insta::assert_snapshot!("node_list", fake.hone(&["node", "list"]).await.out);
    insta::assert_snapshot!("node_show", fake.hone(&["node", "show", "gpu-2"]).await.out);
}

#[tokio::test]
async fn every_cause_is_read_in_full_and_a_waiting_job_is_nowhere() {
    let fake = Fake::default();
    let attempt = |number: u32, message: &str| AttemptView {
        attempt: number,
        node: "n-4f2a91".to_owned(),
        node_host: "gpu-1".to_owned(),
        state: "failed".to_owned(),
        placed_wall_ns: NOW.get() - 80 * MINUTE,
        cause: "engine_refused".to_owned(),
        message: message.to_owned(),
        ..Default::default()
    };
    let refused = "the container engine refused it: no such image: sha256:77aa, and it could not be \
                   carried either";
    let mut waits = job(7, "tune", "queued");
    waits.relaxations = vec!["network: egress".to_owned()];
    "trl".clone_into(&mut waits.trainer_kind);
    "steered".clone_into(&mut waits.contract_level);
    waits.lacks =
        vec!["no checkpoint on demand".to_owned(), "no evaluation of the base model".to_owned()];
    waits.attempts = vec![attempt(1, refused), attempt(2, refused), attempt(3, "killed")];
    fake.world().jobs = vec![waits];
    insta::assert_snapshot!("show_causes", fake.hone(&["show", "7"]).await.out);
    let listed = fake.hone(&["ps"]).await.out;
    let row: Vec<_> = listed.lines().nth(1).expect("a row").split_whitespace().collect();
    assert_eq!(row[..4], ["7", "tune", "queued", "-"]);
}

#[tokio::test]
async fn json_holds_the_same_values_wherever_the_option_stands() {
    let fake = crowded();
    for args in [["ps", "-o", "json"], ["-o", "json", "ps"]] {
        let ran = fake.hone(&args).await;
        let jobs: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
        assert_eq!(jobs[0]["job"], 7);
        assert_eq!(jobs[0]["attempts"][0]["node"], "n-4f2a91");
    }
    let ran = fake.hone(&["show", "7", "-o", "json"]).await;
    let shown: serde_json::Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(shown["series"].as_array().map(Vec::len), Some(300));
    assert_eq!(shown["checkpoints"][0]["manifest"], "ab".repeat(32));
}

/// Verbs of which `-o json` is not asked, as the README says.
const WITHOUT_JSON: [&str; 3] = ["serve", "pull", "completions"];

/// A command line for every other verb.
const WITH_JSON: [&[&str]; 24] = [
    &["init"],
    &["submit", "job.yaml"],
    &["ps"],
    &["show", "7"],
    &["watch", "7"],
    &["logs", "7"],
    &["cancel", "7"],
    &["checkpoints", "7"],
    &["explain", "7"],
    &["events"],
    &["fit", "--table", "measured.csv"],
    &["node", "token"],
    &["node", "list"],
    &["node", "show", "n-2"],
    &["node", "samples", "n-2"],
    &["node", "drain", "n-2"],
    &["node", "resume", "n-2"],
    &["node", "lost", "n-2"],
    &["node", "revoke", "n-2"],
    &["operator", "invite", "grace"],
    &["operator", "list"],
    &["login", "--address", "h:7402", "--fingerprint"],
    &["export", "x"],
    &["restore", "x"],
];

/// Verbs that need more than a made-up controller; their values are tested where they are made.
const NOT_RUN: [&str; 6] = ["init", "submit", "login", "export", "restore", "fit"];

/// Every verb by its words.
fn verbs(command: &clap::Command, before: &str) -> Vec<String> {
    let shown = command.get_subcommands().filter(|verb| verb.get_name() != "help");
    let words = |verb: &clap::Command| format!("{before}{}", verb.get_name());
    shown
        .flat_map(|verb| match verb.has_subcommands() {
            true => verbs(verb, &format!("{} ", words(verb))),
            false => vec![words(verb)],
        })
        .collect()
}

#[tokio::test]
async fn every_verb_prints_json() {
    let fake = crowded();
    fake.world().series = [vec![ended("completed")]].into();
    fake.world().logs = [vec![Ok(LogView::default())]].into();
    fake.world().events = vec![EventView::default()];
    fake.world().hardware = vec![hardware_update::Update::Rollup(NodeRollup::default())];
    let fingerprint = "ab".repeat(32);
    let mut left = verbs(&Cli::command(), "");
    left.retain(|verb| !WITHOUT_JSON.contains(&verb.as_str()) && verb != "operator revoke");
    for words in WITH_JSON {
        let mut args = words.to_vec();
        if words[0] == "login" {
            args.push(&fingerprint);
        }
        args.extend(["-o", "json"]);
        let parsed = <Cli as clap::Parser>::try_parse_from(std::iter::once(&"hone").chain(&args));
        let format = parsed.expect("it takes the option").command.format();
        assert_eq!(format, Some(super::output::Format::Json), "{args:?}");
        left.retain(|verb| !words.join(" ").starts_with(verb.as_str()));
        if NOT_RUN.contains(&words[0]) {
            continue;
        }
        let ran = fake.hone(&args).await;
        let values = serde_json::Deserializer::from_str(&ran.out).into_iter();
        let values: Result<Vec<serde_json::Value>, _> = values.collect();
        assert!(values.is_ok_and(|values| !values.is_empty()), "{args:?}: {}{}", ran.out, ran.err);
    }
    assert!(left.is_empty(), "verbs that this test does not know: {left:?}");
    for words in [
        &["operator", "revoke", "grace", "-o", "json"][..],
        &["-o", "json", "pull", "7", "-o", "x"],
    ] {
        let parsed = <Cli as clap::Parser>::try_parse_from(std::iter::once(&"hone").chain(words));
        assert!(parsed.is_ok(), "{words:?}");
    }
}

#[tokio::test]
async fn a_name_means_its_newest_job_and_a_typo_gets_a_suggestion() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "running"), job(4, "tune", "failed")];
    let ran = fake.hone(&["cancel", "tune"]).await;
    assert_eq!((ran.exit, ran.out.as_str()), (0, "job 9 is stopping\n"));
    let ran = fake.hone(&["show", "tnue"]).await;
    assert_eq!(ran.exit, 7);
    insta::assert_snapshot!(ran.err, @r"
        error: there is no job named `tnue`
        hint: did you mean `tune`?
        ");
}

#[tokio::test]
async fn a_listing_larger_than_the_librarys_own_bound_is_read() {
    let fake = Fake::default();
    let large = |number: u64| JobView { reason: "x".repeat(6000), ..job(number, "tune", "queued") };
    fake.world().jobs = (1..=1000).rev().map(large).collect();
    let ran = fake.hone(&["ps", "--limit", "1000"]).await;
    assert_eq!((ran.exit, ran.out.lines().count()), (0, 1001), "{}", ran.err);
    assert!(ran.err.contains("--limit shows more"), "{}", ran.err);
    assert_eq!(fake.hone(&["ps", "--name", "other"]).await.out, "");
}

#[tokio::test]
async fn a_change_is_tried_again_with_the_same_request_id() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "running")];
    fake.world().refusals = vec![Status::unavailable("going away"); 2].into();
    assert_eq!(fake.hone(&["cancel", "9"]).await.exit, 0);
    let ids = fake.world().request_ids.clone();
    assert_eq!(ids.len(), 3);
    assert!(ids.iter().all(|id| *id == ids[0] && id.len() == 36), "{ids:?}");
    assert_eq!(ids[0], ids[0].to_lowercase());
    assert_eq!(fake.hone(&["cancel", "9"]).await.exit, 0);
    assert_ne!(fake.world().request_ids[3], ids[0], "another change has another id");
}

#[tokio::test]
async fn a_refusal_is_not_tried_again_and_silence_is_given_up() {
    let fake = Fake::default();
    fake.world().refusals = [Refusal::new(Reason::NotOwner, "job 9 is ada's").into()].into();
    let ran = fake.hone(&["cancel", "9"]).await;
    assert_eq!((ran.exit, fake.world().request_ids.len()), (6, 1));
    insta::assert_snapshot!(ran.err, @r"
        error: job 9 is ada's
        hint: its owner or an operator may do this
        ");
    fake.world().refusals = vec![Status::unavailable("going away"); 9].into();
    let ran = fake.hone(&["ps"]).await;
    assert_eq!((ran.exit, ran.out.as_str()), (5, ""));
    insta::assert_snapshot!(ran.err, @r"
        error: cannot reach the controller at fake.example:7400
          caused by: going away
        hint: is `hone serve` running, and its address reachable?
        ");
}

#[tokio::test]
async fn a_traceback_is_one_record_and_filters_are_the_controllers() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "running")];
    let record = |level: &str, text: &str| LogView {
        wall_ns: NOW.get(),
        attempt: 2,
        output: "stderr".to_owned(),
        level: level.to_owned(),
        text: text.to_owned(),
    };
    let traceback = record("error", "Traceback:\n  File \"x.py\"\nBoom\x1b[31m\n");
    fake.world().logs = [vec![Ok(traceback), Ok(record("", "plain"))]].into();
    let args =
        ["logs", "9", "--level", "warning", "--since", "10m", "--grep", "a|b", "--tail", "5"];
    let ran = fake.hone(&args).await;
    insta::assert_snapshot!(ran.out, @r#"
        2026-01-01T00:00:00.000Z 2 error   Traceback:
              File "x.py"
            Boom␛[31m
        2026-01-01T00:00:00.000Z 2 stderr  plain
        "#);
    let asked = fake.world().log_request.take().expect("a request");
    assert_eq!((asked.level.as_str(), asked.grep.as_str(), asked.tail), ("warning", "a|b", 5));
    assert_eq!(asked.since_wall_ns, Some(NOW.get() - 10 * MINUTE));
}

#[tokio::test]
async fn followed_logs_go_on_after_a_cut_and_say_nothing_twice() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "completed")];
    let record = |n: u64| {
        let text = format!("line {n}");
        Ok(LogView { wall_ns: NOW.get() + n, attempt: 1, text, ..Default::default() })
    };
    let cut = Err(Status::unavailable("cut"));
    fake.world().logs =
        [vec![record(1), record(2), cut], vec![record(1), record(2), record(3)]].into();
    let ran = fake.hone(&["logs", "9", "-f", "--tail", "2"]).await;
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let texts: Vec<_> = ran.out.lines().filter_map(|line| line.split("line ").nth(1)).collect();
    assert_eq!(texts, ["1", "2", "3"]);
    assert!(ran.err.contains("out of reach") && ran.err.contains("is back"), "{}", ran.err);
    let again = fake.world().log_request.take().expect("a request");
    assert_eq!(again.tail, 0, "a tail counted from another end would leave a gap");
    assert!(again.since_wall_ns < Some(NOW.get() + 2));
}

#[tokio::test]
async fn followed_logs_do_not_take_the_controllers_end_for_the_jobs() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "running")];
    fake.world().states = ["running", "completed"].into();
    let record = |n: u64| {
        let text = format!("line {n}");
        Ok(LogView { wall_ns: NOW.get() + n, attempt: 1, text, ..Default::default() })
    };
    // The first stream ends without a word while the job goes on: a controller that was told to stop.
    fake.world().logs = [vec![record(1)], vec![record(1), record(2)]].into();
    let ran = fake.hone(&["logs", "9", "-f"]).await;
    let texts: Vec<_> = ran.out.lines().filter_map(|line| line.split("line ").nth(1)).collect();
    assert_eq!((ran.exit, texts), (0, vec!["1", "2"]), "{}", ran.err);
    assert!(ran.err.contains("is back"), "{}", ran.err);
}

#[tokio::test]
async fn a_follower_of_a_quiet_job_waits_for_the_controller_too() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "completed")];
    let line = LogView { wall_ns: NOW.get(), text: "at last".to_owned(), ..Default::default() };
    fake.world().logs = [vec![Err(Status::unavailable("cut"))], vec![Ok(line)]].into();
    let ran = fake.hone(&["logs", "9", "-f"]).await;
    assert_eq!(ran.exit, 0, "{}", ran.err);
    assert!(ran.out.contains("at last"), "{}", ran.out);
    let ran = fake.hone(&["events", "-f"]).await;
    assert_eq!(ran.exit, 6, "no end of a stream of events is the end: {}", ran.err);
    assert_eq!(fake.world().opened, 3);
}

#[tokio::test]
async fn events_say_who_did_it() {
    let fake = Fake::default();
    fake.world().events = vec![EventView {
        number: 1,
        wall_ns: NOW.get(),
        kind: "job_cancelled".to_owned(),
        job: Some(9),
        actor: "grace".to_owned(),
        text: "asked for".to_owned(),
        ..Default::default()
    }];
    insta::assert_snapshot!(fake.hone(&["events"]).await.out, @"2026-01-01 00:00:00Z job_cancelled job 9 by grace: asked for");
}

#[tokio::test]
async fn a_token_is_fed_by_standard_input_in_one_command() {
    let fake = Fake::default();
    let ran = fake.hone(&["node", "token"]).await;
    insta::assert_snapshot!("node_token", format!("{}---\n{}", ran.out, ran.err));
    let ran = fake.hone(&["operator", "invite", "grace", "--role", "viewer"]).await;
    insta::assert_snapshot!("operator_invite", format!("{}---\n{}", ran.out, ran.err));
}

#[tokio::test]
async fn a_mistyped_node_or_person_gets_a_suggestion() {
    let fake = crowded();
    let grace = OperatorView { user: "grace".to_owned(), ..Default::default() };
    fake.world().operators = vec![grace];
    for (args, hint) in [
        (&["node", "show", "gpu-3"][..], "did you mean `gpu-2`?"),
        (&["node", "drain", "n-l"], "did you mean `n-2`?"),
        (&["node", "show", "something-else"], "`hone node list`"),
        (&["operator", "revoke", "garce"], "did you mean `grace`?"),
        (&["operator", "revoke", "somebody"], "`hone operator list`"),
    ] {
        let ran = fake.hone(args).await;
        assert_eq!(ran.exit, 7, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(&format!("hint: {hint}")), "{args:?}: {}", ran.err);
    }
}

#[tokio::test]
async fn of_several_nodes_of_one_name_the_ids_are_told() {
    let fake = crowded();
    fake.world().nodes = vec![node("n-1", "gpu"), node("n-2", "gpu")];
    let ran = fake.hone(&["node", "drain", "gpu"]).await;
    insta::assert_snapshot!(ran.err, @r"
    error: several nodes are called gpu
    hint: name one by its id: n-1 (ready), n-2 (ready)
    ");
    assert_eq!(ran.exit, 8);
}

#[tokio::test]
async fn a_file_that_is_not_there_is_the_users_to_mend() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config");
    let fingerprint = "ab".repeat(32);
    let (config, missing) = (config.to_str().expect("UTF-8"), "/nowhere/token");
    let args = ["login", "--address", "h:7402", "--fingerprint", &fingerprint];
    let ran = Fake::default()
        .hone(&[&args[..], &["--token-file", missing, "--config-dir", config]].concat())
        .await;
    assert_eq!(ran.exit, 2, "{}", ran.err);
    assert!(ran.err.contains(missing) && !ran.err.contains("fault of hone"), "{}", ran.err);
}

#[tokio::test]
async fn nodes_change_by_name() {
    let fake = crowded();
    let ran = fake.hone(&["node", "drain", "gpu-2", "--stop-jobs"]).await;
    assert_eq!(ran.out, "node n-2 (gpu-2) is drained\n");
    assert_eq!(fake.hone(&["node", "revoke", "nobody"]).await.exit, 7);
}

#[tokio::test]
async fn a_nodes_hardware_is_listed_from_a_time_on() {
    let fake = crowded();
    let rollup = |n: u64| {
        let to_wall_ns = NOW.get() + n;
        hardware_update::Update::Rollup(NodeRollup {
            to_wall_ns,
            samples: 10,
            ..Default::default()
        })
    };
    let sample =
        hardware_update::Update::Sample(NodeSample { wall_ns: NOW.get(), ..Default::default() });
    // As when a stream broke and was opened again.
    fake.world().hardware = vec![rollup(1), rollup(1), rollup(2), sample];
    let ran = fake.hone(&["node", "samples", "gpu-2", "--since", "2h"]).await;
    assert_eq!(ran.out.lines().count(), 3, "{}", ran.out);
    let asked = fake.world().hardware_request.take().expect("a request");
    assert_eq!(asked.since_wall_ns, Some(NOW.get() - 120 * MINUTE));
    let ran = fake.hone(&["node", "samples", "gpu-2", "-o", "json"]).await;
    let last: serde_json::Value =
        serde_json::from_str(ran.out.lines().last().expect("a line")).expect("it is JSON");
    assert_eq!(last["sample"]["wall_ns"], NOW.get());
}

#[tokio::test]
async fn completions_exist_for_the_common_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = Fake::default().hone(&["completions", shell]).await;
        assert!(ran.out.contains("checkpoints"), "{shell}");
    }
}

fn ended(state: &str) -> Result<Update, Status> {
    Ok(Update::Job(job(9, "tune", state)))
}

fn steps(range: std::ops::RangeInclusive<u64>) -> Vec<Result<Update, Status>> {
    range.map(|step| Ok(Update::Point(point(1, step, 4.0 / step as f64)))).collect()
}

#[tokio::test]
async fn a_watcher_that_was_cut_off_rejoins_and_has_every_step_once() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "running")];
    let mut first = vec![ended("running")];
    first.extend(steps(1..=3));
    first.push(Err(Status::unavailable("cut")));
    let away = vec![Err(Status::unavailable("still away"))];
    let mut rejoined = vec![ended("running")];
    rejoined.extend(steps(1..=5));
    rejoined.push(ended("completed"));
    fake.world().series = [first, away, rejoined].into();
    let ran = fake.hone(&["watch", "9", "--every-step"]).await;
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let seen: Vec<_> = ran.out.lines().filter(|line| line.starts_with("step ")).collect();
    assert_eq!(seen.len(), 5, "{seen:?}");
    insta::assert_snapshot!("watch_rejoined", format!("{}---\n{}", ran.out, ran.err));
}

#[tokio::test]
async fn a_long_run_is_a_few_lines_and_none_that_matters_is_left_out() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "running")];
    let saved = JobView { latest_checkpoint_step: Some(380), ..job(9, "tune", "running") };
    let mut updates = vec![ended("running")];
    updates.extend(steps(1..=390));
    updates.push(Ok(Update::Job(saved)));
    updates.extend(steps(391..=400));
    updates.push(ended("completed"));
    fake.world().series = [updates].into();
    let ran = fake.hone(&["watch", "9"]).await;
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let steps = ran.out.lines().filter(|line| line.starts_with("step ")).count();
    assert!(steps < 100, "{steps} lines");
    for line in ["step 1/400 ", "step 390/400 ", "checkpoint of step 380", "step 400/400 "] {
        assert!(ran.out.contains(line), "{line:?} is missing: {}", ran.out);
    }
}

#[tokio::test]
async fn a_watched_job_that_fails_is_exit_code_9() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "failed")];
    fake.world().series = [vec![ended("failed")]].into();
    let ran = fake.hone(&["watch", "9"]).await;
    assert_eq!(ran.exit, 9);
    assert!(ran.out.contains("hone explain 9"), "{}", ran.out);
}

#[tokio::test]
async fn a_watcher_does_not_wait_for_what_will_not_change() {
    let fake = Fake::default();
    fake.world().jobs = vec![job(9, "tune", "running")];
    let revoked = Refusal::new(Reason::Revoked, "the certificate of ada was revoked");
    fake.world().series = [vec![ended("running"), Err(revoked.into())]].into();
    assert_eq!(fake.hone(&["watch", "9"]).await.exit, 6);
    fake.world().series = [vec![Err(Status::unavailable("away"))]].into();
    assert_eq!(fake.hone(&["watch", "9"]).await.exit, 5, "it was never reached");
}
