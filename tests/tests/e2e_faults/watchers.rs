//! People who follow a job and are gone: killed, hung up with their terminal, cut off. The job never notices, and whoever
//! comes back sees all of it.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use hone_tests::cluster::job::{STEPS, spec};
use hone_tests::cluster::{Cluster, JOB_PATIENCE, PATIENCE, cluster, succeeded, wait_until};

/// Somebody who follows, and the file that holds what they see.
struct Follower {
    child: Child,
    seen: std::path::PathBuf,
}

impl Follower {
    fn start(fleet: &Cluster, name: &str, mut command: Command) -> Result<Self> {
        let seen = fleet.dir.join(format!("{name}.out"));
        let file = File::create(&seen)?;
        let child = command.stdin(Stdio::null()).stderr(file.try_clone()?).stdout(file).spawn()?;
        Ok(Self { child, seen })
    }

    fn sees(&self, what: &str) -> Result<()> {
        wait_until(&format!("{} holds {what:?}", self.seen.display()), PATIENCE, || {
            Ok(String::from_utf8_lossy(&std::fs::read(&self.seen)?).contains(what).then_some(()))
        })
    }

    /// SIGKILL, while it follows.
    fn kill(mut self) -> Result<()> {
        ensure!(self.child.try_wait()?.is_none(), "{} was over already", self.seen.display());
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

/// Every training step's line is there once, in order.
fn has_each_step(text: &str) -> Result<()> {
    let steps: Vec<u64> = text
        .lines()
        .filter(|line| line.contains("  lr "))
        .filter_map(|line| line.strip_prefix("step ")?.split_once('/')?.0.parse().ok())
        .collect();
    ensure!(steps == (1..=STEPS).collect::<Vec<_>>(), "steps {steps:?} in:\n{text}");
    Ok(())
}

/// `hone watch` in a terminal of its own, which ends with `script`.
fn in_a_terminal(fleet: &Cluster, job: &str) -> Result<Command> {
    let hone = fleet.hone();
    let program = Path::new(hone.get_program()).to_str().context("a path in UTF-8")?.to_owned();
    let mut script = Command::new("script");
    for (name, value) in hone.get_envs() {
        match value {
            Some(value) => script.env(name, value),
            None => script.env_remove(name),
        };
    }
    script.args(["-qfc", &format!("'{program}' watch {job}"), "/dev/null"]).env("TERM", "xterm");
    Ok(script)
}

#[test]
fn followers_come_and_go_and_the_job_goes_on() -> Result<()> {
    let fleet = cluster()?;
    let before = fleet.jobs()?.iter().map(|job| job.job).max().unwrap_or(0);
    let path = fleet.write_spec("followed", &spec("followed", 13))?;
    let mut submit = fleet.hone();
    submit.args(["submit", &path, "--follow", "--every-step", "--image", &fleet.image]);
    let submit = Follower::start(&fleet, "submit", submit)?;
    let number = wait_until("the job is accepted", JOB_PATIENCE, || {
        Ok(fleet.jobs()?.iter().map(|job| job.job).find(|job| *job > before))
    })?;
    let job = number.to_string();

    let mut watch = fleet.hone();
    watch.args(["watch", &job, "--every-step"]);
    let watch = Follower::start(&fleet, "watch", watch)?;
    let terminal = Follower::start(&fleet, "terminal", in_a_terminal(&fleet, &job)?)?;
    let way = fleet.another_way()?;
    let mut apart = fleet.hone_through(&way)?;
    apart.args(["watch", &job, "--every-step"]);
    let mut apart = Follower::start(&fleet, "apart", apart)?;

    apart.sees("step 3/")?;
    way.cut();
    submit.sees("step 4/")?;
    submit.kill()?;
    watch.sees("step 4/")?;
    watch.kill()?;
    terminal.sees("4")?;
    terminal.kill()?;

    let ended = fleet.completes(number)?;
    ensure!(ended.attempts.len() == 1, "{} attempts", ended.attempts.len());
    ensure!(!ended.cancel_requested, "a follower who leaves cancels nothing");
    has_each_step(&fleet.run(&["watch", &job, "--every-step"])?)?;

    // Who was cut off follows again by themselves, to the end.
    way.mend();
    let status =
        wait_until("the one who was cut off is done", PATIENCE, || Ok(apart.child.try_wait()?))?;
    let text = std::fs::read_to_string(&apart.seen)?;
    ensure!(status.success(), "{status}: {text}");
    has_each_step(&text)?;
    succeeded(fleet.hone().args(["show", &job]).output()?).map(drop)
}

#[test]
fn a_submitter_who_is_cut_off_follows_again_to_the_end() -> Result<()> {
    let fleet = cluster()?;
    let before = fleet.jobs()?.iter().map(|job| job.job).max().unwrap_or(0);
    let path = fleet.write_spec("submitted-apart", &spec("submitted-apart", 17))?;
    let way = fleet.another_way()?;
    let mut submit = fleet.hone_through(&way)?;
    submit.args(["submit", &path, "--follow", "--every-step", "--image", &fleet.image]);
    let mut submit = Follower::start(&fleet, "submit-apart", submit)?;
    submit.sees("step 3/")?;
    way.cut();
    let job = fleet.jobs()?.iter().map(|job| job.job).find(|job| *job > before);
    let job = job.context("the job was accepted")?;
    let ended = fleet.completes(job)?;
    ensure!(ended.attempts.len() == 1, "{} attempts", ended.attempts.len());
    ensure!(!ended.cancel_requested, "a submitter who is cut off cancels nothing");
    ensure!(submit.child.try_wait()?.is_none(), "it ended while it was cut off");
    way.mend();
    let status = wait_until("it is done", PATIENCE, || Ok(submit.child.try_wait()?))?;
    let text = std::fs::read_to_string(&submit.seen)?;
    ensure!(status.success(), "{status}: {text}");
    has_each_step(&text)
}
