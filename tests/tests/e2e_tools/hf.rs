//! A script around the `Trainer` of Hugging Face, which is killed while it writes a checkpoint.

use anyhow::{Result, ensure};
use hone_tests::cluster::material::tool_image;
use hone_tests::cluster::{Cluster, PATIENCE, Setup, wait_until};
use hone_tests::disk::Filler;
use hone_tests::docker::docker;

use super::job::{fleet_with_pairs, has_each_loss_once, write_pairs};
use super::saving::Saving;

/// Steps of the job, and between two checkpoints: on a fast machine too each of them lies still for long enough to be
/// taken, before the tool rotates it away.
const STEPS: u64 = 320;
const EVERY: u64 = 40;

fn spec(name: &str, image: &str) -> String {
    format!(
        "name: {name}
model: {{path: ./model, name: test-base}}
data: {{train: {{path: ./pairs.jsonl, format: prompt_completion}}}}
method: {{type: full}}
train:
  max_steps: {STEPS}
  batch: {{effective: 4, micro: 4}}
  precision: fp32
checkpoint: {{every: {{steps: {EVERY}}}}}
trainer:
  kind: hf
  image: \"{image}\"
  command: [python3, /opt/tool/train.py, --model_name_or_path, /hone/input/model,
            --train_file, /hone/input/data/train/pairs.jsonl]
resources: {{cpu: 1, memory: 3 GiB, disk: 1 GiB}}
"
    )
}

/// Submits a job, and stops it in the middle of a save that comes after its first checkpoint.
fn stopped_in_a_save(fleet: &Cluster, name: &str) -> Result<(u64, Saving)> {
    let path = fleet.write_spec(name, &spec(name, &tool_image("hf")?))?;
    let job: u64 = fleet.run(&["submit", &path])?.trim().parse()?;
    fleet.commits(job, EVERY)?;
    Ok((job, Saving::caught(fleet, job, EVERY)?))
}

/// Its first attempt ends; gives what the end was put down to, and the newest step that is safe.
fn ends_without_the_save(fleet: &Cluster, job: u64, cut: u64) -> Result<(String, Option<u64>)> {
    let cause = wait_until("the attempt has ended", PATIENCE, || {
        let first = fleet.job(job)?.attempts.into_iter().next();
        let ended = first.filter(|attempt| attempt.ended_wall_ns.is_some());
        Ok(ended.map(|attempt| format!("{}: {}", attempt.cause, attempt.message)))
    })?;
    let committed = fleet.committed(job)?;
    let torn = committed.iter().find(|saved| saved.attempt == 1 && saved.step >= cut);
    ensure!(torn.is_none(), "the torn save of step {cut} was committed: {torn:?}");
    Ok((cause, committed.iter().map(|saved| saved.step).max()))
}

/// It went on from that step, in a second attempt, and did all that it was to do.
fn completes_from(fleet: &Cluster, job: u64, newest: Option<u64>) -> Result<()> {
    let ended = fleet.completes(job)?;
    let resumed: Vec<_> = ended.attempts.iter().map(|a| a.resumed_from_step).collect();
    ensure!(resumed == [None, newest], "they began at {resumed:?}; {newest:?} was committed");
    ensure!(ended.step == Some(STEPS), "it ended at {:?}", ended.step);
    has_each_loss_once(fleet, job, STEPS, newest.unwrap_or_default())?;
    ensure!(!fleet.packaged(job, "model.safetensors")?.is_empty(), "the package holds no model");
    Ok(())
}

#[test]
fn a_script_that_dies_in_the_middle_of_a_save_goes_on_from_the_checkpoint_before() -> Result<()> {
    let fleet = fleet_with_pairs()?;
    let (job, saving) = stopped_in_a_save(&fleet, "hf")?;
    docker(&["kill", &saving.container])?;
    ensure!(!saving.is_whole(), "the save of step {} went on", saving.step);
    let (_, newest) = ends_without_the_save(&fleet, job, saving.step)?;
    completes_from(&fleet, job, newest)
}

#[test]
fn a_script_whose_disk_fills_up_in_the_middle_of_a_save_says_so_and_goes_on_once_there_is_room()
-> Result<()> {
    // One test of this binary at a time.
    let _turn = fleet_with_pairs()?;
    let policy = "[policy]\nreserve_disk = \"256 MiB\"\nleast_free_disk = \"128 MiB\"\n";
    let fleet = Cluster::new(&Setup {
        agent: policy.to_owned(),
        agent_disk: "3g".to_owned(),
        ..Setup::default()
    })?;
    write_pairs(&fleet)?;
    let (job, saving) = stopped_in_a_save(&fleet, "hf-full")?;
    let filler = Filler::fill(&fleet.agent_dir())?;
    saving.goes_on()?;
    let (cause, newest) = ends_without_the_save(&fleet, job, saving.step)?;
    // Either the tool failed first, or the agent asked it to stop.
    let of_disk = |text: &str| text.contains("disk_full") || text.contains("the disk was full");
    ensure!(of_disk(&cause), "its end was put down to {cause}");
    let shown = fleet.run(&["show", &job.to_string()])?;
    ensure!(of_disk(&shown), "nothing tells of the disk:\n{shown}");
    drop(filler);
    completes_from(&fleet, job, newest)
}
