//! One node at the real engine: an image that it lacks comes through hone, inputs that nobody uses make room for those of
//! the next job, and a stray container of its own goes, while those of others stay.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use hone_tests::cluster::{Cluster, PATIENCE, succeeded, wait_until};
use hone_tests::docker::{TestNode, docker};

use super::collectors::{is_heard, with_agent};

/// Any machine will do.
const AGENT: &str = "[policy]
reserve_memory = \"1 MiB\"
reserve_disk = \"1 MiB\"
least_free_disk = \"1 MiB\"
";

/// A job whose program ends with a code of its own.
const SPEC: &str = "name: carried
model: {path: ./model, name: nothing}
data:
  train: {path: ./task.jsonl, format: messages}
train: {max_steps: 1}
trainer: {command: [/guest, exit, '5']}
resources: {cpu: 0.5, memory: 64 MiB, disk: 64 MiB}
";

fn is_there(container: &str) -> bool {
    docker(&["inspect", container]).is_ok()
}

#[test]
fn an_image_that_the_node_lacks_is_carried_there_through_hone() -> Result<()> {
    let mut fleet = with_agent(AGENT, "")?;
    is_heard(&fleet)?;
    let mut images = TestNode::new()?;
    let image = images.import_guest(&[])?;

    // While the agent is away; its node counts on for a while.
    fleet.agent.terminate()?;
    let path = fleet.write_spec("carried", SPEC)?;
    let submitted = fleet.hone().args(["submit", &path, "--image", &image]).output()?;
    let job: u64 = succeeded(submitted)?.trim().parse()?;
    docker(&["rmi", "-f", &image])?;
    ensure!(docker(&["image", "inspect", &image]).is_err(), "the engine holds it on");

    fleet.agent.start()?;
    let ran = wait_until("the job has run", PATIENCE, || {
        let attempts = fleet.job(job)?.attempts;
        Ok(attempts.into_iter().find(|attempt| attempt.exit_code.is_some()))
    })?;
    ensure!(ran.exit_code == Some(5), "another program ran: {ran:?}");
    ensure!(docker(&["image", "inspect", "-f", "{{.Id}}", &image])? == image);
    ensure!(fleet.agent.said()?.contains("loading the image from its chunks"));
    fleet.run(&["cancel", &job.to_string()])?;
    leaves_no_container(&fleet)
}

/// Waits for it: an image stays as long as a container of it does.
fn leaves_no_container(fleet: &Cluster) -> Result<()> {
    wait_until("nothing is left of it", PATIENCE, || {
        let label = format!("label=hone.fleet={}", fleet.fleet());
        Ok(docker(&["ps", "-aq", "--filter", &label])?.is_empty().then_some(()))
    })
}

/// Runs a job whose model has so many bytes, with this one in them, and which is promised so much disk. Waits until nothing
/// is left of it but its inputs.
fn run_once(
    fleet: &Cluster,
    (name, image): (&str, &str),
    (size, of): (usize, u8),
    disk: &str,
) -> Result<()> {
    std::fs::write(fleet.dir.join("work/model/weights.bin"), vec![of; size])?;
    let spec = SPEC.replace("carried", name).replace("64 MiB}", &format!("{disk}}}"));
    let path = fleet.write_spec(name, &spec)?;
    let job: u64 = fleet.run(&["submit", &path, "--image", image])?.trim().parse()?;
    wait_until("the job has run", PATIENCE, || {
        let attempts = fleet.job(job)?.attempts;
        Ok(attempts.iter().any(|attempt| attempt.exit_code == Some(5)).then_some(()))
    })?;
    fleet.run(&["cancel", &job.to_string()])?;
    wait_until("its files are gone", PATIENCE, || {
        Ok(std::fs::read_dir(fleet.agent_dir().join("attempts"))?.next().is_none().then_some(()))
    })?;
    leaves_no_container(fleet)
}

/// Inputs on the node with a model among them.
fn models(fleet: &Cluster) -> Result<Vec<PathBuf>> {
    let inputs = std::fs::read_dir(fleet.agent_dir().join("cache/default"))?;
    let inputs = inputs.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(inputs.into_iter().filter(|input| input.join("weights.bin").exists()).collect())
}

#[test]
fn inputs_that_nobody_uses_make_room_for_the_next_job() -> Result<()> {
    let fleet = with_agent(AGENT, "160m")?;
    is_heard(&fleet)?;
    let mut images = TestNode::new()?;
    let image = images.import_guest(&[])?;
    // Two of them do not fit.
    let size = 90 << 20;
    run_once(&fleet, ("first", &image), (size, 1), "64 MiB")?;
    let first = models(&fleet)?;
    ensure!(first.len() == 1, "what may be used again stays: {first:?}");
    run_once(&fleet, ("second", &image), (size, 2), "64 MiB")?;
    let second = models(&fleet)?;
    ensure!(second.len() == 1 && second != first, "{first:?}, then {second:?}");
    // Its inputs fit beside them; what it may write does not.
    run_once(&fleet, ("third", &image), (1 << 20, 3), "120 MiB")?;
    let third = models(&fleet)?;
    ensure!(third.len() == 1 && third != second, "{second:?}, then {third:?}");
    Ok(())
}

#[test]
fn a_stray_container_goes_and_those_of_others_stay() -> Result<()> {
    // Its clean-up knows the label of a fleet of its own, which strangers carry here. It comes last: containers of ours
    // hold the image until the fleet goes.
    let mut strangers = TestNode::new()?;
    let fleet = with_agent(AGENT, "")?;
    is_heard(&fleet)?;
    let image = strangers.import_guest(&[])?;
    let (ours, others) = (fleet.fleet().to_owned(), strangers.fleet.clone());
    let node = fleet.node()?;
    let run = |fleet: &str, node: Option<&str>| {
        let mut args = vec!["run".to_owned(), "-d".to_owned(), "--network=none".to_owned()];
        let mut label = |name: &str, value: &str| {
            args.extend(["--label".to_owned(), format!("hone.{name}={value}")]);
        };
        label("fleet", fleet);
        if let Some(node) = node {
            label("node", node);
        }
        for name in ["job", "generation", "attempt"] {
            label(name, "1");
        }
        args.extend([image.clone(), "sleep".to_owned()]);
        docker(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let spared = [
        run(&ours, Some("n-another"))?,
        run(&ours, None)?,
        run(&others, Some(&node))?,
        run(&others, None)?,
    ];
    let strays = [run(&ours, Some(&node))?, run(&ours, Some(&node))?];
    for stray in &strays {
        wait_until("the stray is swept", PATIENCE, || Ok((!is_there(stray)).then_some(())))?;
    }
    // It has looked at all of them several times by now.
    let again = run(&ours, Some(&node))?;
    wait_until("a later one too", PATIENCE, || Ok((!is_there(&again)).then_some(())))?;
    for container in &spared {
        let state = docker(&["inspect", "-f", "{{.State.Status}}", container])?;
        ensure!(state == "running", "{container} of another is {state}");
    }
    ensure!(fleet.agent.said()?.contains("belongs to no attempt"));
    Ok(())
}
