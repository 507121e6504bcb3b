//! The verbs against a made-up controller: what they print, what they send, how they end.

use clap::CommandFactory as _;
use hone_proto::error::{Reason, Refusal};
use hone_proto::wire::series_update::Update;
use hone_proto::wire::{
    AttemptView, CheckpointView, DemandView, EventView, ExplainReply, JobView, LogView,
    NodeVerdict, NodeView, OperatorView, Shortfall,
};
use tonic::Status;

use super::Cli;
use super::fake::{Fake, NOW};
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
        nodes: vec![NodeVerdict { node: long, fits: false, shortfalls }],
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
    fake.world().jobs = vec![job(9, "tune", "running")];
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
async fn nodes_change_by_name() {
    let fake = crowded();
    let ran = fake.hone(&["node", "drain", "gpu-2", "--stop-jobs"]).await;
    assert_eq!(ran.out, "node n-2 (gpu-2) is drained\n");
    assert_eq!(fake.hone(&["node", "revoke", "nobody"]).await.exit, 7);
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
    let ran = fake.hone(&["watch", "9"]).await;
    assert_eq!(ran.exit, 0, "{}", ran.err);
    let seen: Vec<_> = ran.out.lines().filter(|line| line.starts_with("step ")).collect();
    assert_eq!(seen.len(), 5, "{seen:?}");
    insta::assert_snapshot!("watch_rejoined", format!("{}---\n{}", ran.out, ran.err));
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
