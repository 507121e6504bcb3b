//! `hone watch`: a live view that can be left and rejoined at any time. It only reads; the job never notices.

use std::future::Future;
use std::time::Duration;

use hone_proto::quantity::Bytes;
use hone_proto::wire::{JobView, NodeSample, SeriesPoint, SeriesRequest, series_update::Update};
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::client::Client;
use super::error::{CallError, Exit};
use super::follow::{LONGEST_PAUSE, away, going_away, worth_waiting};
use super::output::Printer;
use super::render::job::hex;
use super::{Ctx, OutputArgs, show};

pub mod model;
mod pace;
mod screen;
pub mod view;

use model::{Progress, ended};
use pace::Pace;
use screen::{Left, Screen};
use view::PackageFacts;

/// Frames are drawn at most so often: history arrives in bursts of thousands of points.
const FRAME: Duration = Duration::from_millis(100);

/// Follow a job live; leave with q or Ctrl-C, the job goes on
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number, or name (the newest job of that name)
    job: String,
    /// Without a terminal, print every step: else the first, the last, evaluations, and one step in a second
    #[arg(long)]
    every_step: bool,
    #[command(flatten)]
    pub(super) output: OutputArgs,
}

pub(super) async fn run(args: &Args, ctx: &mut Ctx) -> anyhow::Result<Exit> {
    let client = ctx.client().await?;
    let job = client.job_number(&args.job).await?;
    let screen = Screen::open(&ctx.printer);
    let leaving = screen::leaving(screen.is_some());
    let mut watch = Watch::new(client, job, &mut ctx.printer, screen);
    watch.pace = Pace::new(args.every_step);
    watch.follow(leaving).await
}

/// Follows a job that was just submitted: as [`run`], but a controller that is away is waited for from the start.
pub(super) async fn follow(
    client: Client,
    job: u64,
    every_step: bool,
    printer: &mut Printer,
) -> anyhow::Result<Exit> {
    let screen = Screen::open(printer);
    let leaving = screen::leaving(screen.is_some());
    let mut watch = Watch::new(client, job, printer, screen);
    watch.met = true;
    watch.pace = Pace::new(every_step);
    watch.follow(leaving).await
}

/// One update as JSON.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Record<'a> {
    Job(&'a JobView),
    Point(&'a SeriesPoint),
    Hardware(&'a NodeSample),
}

pub(super) struct Watch<'a> {
    client: Client,
    job: u64,
    printer: &'a mut Printer,
    screen: Option<Screen>,
    progress: Progress,
    /// What is wrong with the connection, for the last line of the frame.
    trouble: Option<String>,
    /// The state that was last printed as a line.
    said: String,
    /// The step whose checkpoint was last printed as a line.
    saved: Option<u64>,
    /// Which steps become lines.
    pace: Pace,
    /// The controller has answered at least once.
    met: bool,
    pause: Duration,
}

/// Why reading stopped.
enum Stopped {
    Left(Left),
    Ended,
    Lost(anyhow::Error),
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        client: Client,
        job: u64,
        printer: &'a mut Printer,
        screen: Option<Screen>,
    ) -> Self {
        let pause = client.pace().reconnect;
        Self {
            client,
            job,
            printer,
            screen,
            progress: Progress::default(),
            trouble: None,
            said: String::new(),
            saved: None,
            pace: Pace::default(),
            met: false,
            pause,
        }
    }

    /// Shows the job until it ends or somebody leaves; connects again as often as needed.
    pub(super) async fn follow(
        &mut self,
        leaving: impl Future<Output = Left>,
    ) -> anyhow::Result<Exit> {
        tokio::pin!(leaving);
        loop {
            match self.read(&mut leaving).await? {
                Stopped::Ended => return self.conclude().await,
                Stopped::Left(how) => return self.leave(how),
                Stopped::Lost(error) => {
                    if !self.met || !worth_waiting(&error) {
                        self.clear()?;
                        return Err(error);
                    }
                }
            }
            let pause = self.pause;
            self.pause = (pause * 2).min(LONGEST_PAUSE);
            self.trouble(format!("{}. The job goes on", away(&self.client, pause)))?;
            tokio::select! {
                how = &mut leaving => return self.leave(how),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads one stream of updates to its end.
    async fn read(
        &mut self,
        leaving: &mut (impl Future<Output = Left> + Unpin),
    ) -> anyhow::Result<Stopped> {
        let request = SeriesRequest { job: self.job, follow: true };
        let client = self.client.clone();
        let opened = tokio::select! {
            how = &mut *leaving => return Ok(Stopped::Left(how)),
            opened = client.stream(|mut c| async move { c.series(request).await }) => opened,
        };
        let mut updates = match opened {
            Ok(updates) => updates,
            Err(error) => return Ok(Stopped::Lost(error)),
        };
        // Set while the frame is older than what is known.
        let mut redraw: Option<Instant> = None;
        loop {
            let due = redraw.unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                how = &mut *leaving => return Ok(Stopped::Left(how)),
                () = sleep_until(due), if redraw.is_some() => {
                    redraw = None;
                    self.draw()?;
                }
                message = updates.message() => match message {
                    Ok(Some(update)) => {
                        self.connected();
                        if let Some(update) = update.update {
                            self.take(update)?;
                            redraw = redraw.or_else(|| Some(Instant::now() + FRAME));
                        }
                    }
                    Ok(None) if self.ended() => return Ok(Stopped::Ended),
                    Ok(None) => return Ok(Stopped::Lost(going_away())),
                    Err(status) => return Ok(Stopped::Lost(CallError::from(status).into())),
                },
            }
        }
    }

    fn connected(&mut self) {
        self.met = true;
        self.pause = self.client.pace().reconnect;
        if self.trouble.take().is_some() && self.screen.is_none() {
            self.printer.talk("the controller is back");
        }
    }

    fn take(&mut self, update: Update) -> anyhow::Result<()> {
        if self.printer.json() {
            let record = match &update {
                Update::Job(job) => Some(Record::Job(job)),
                Update::Hardware(sample) => Some(Record::Hardware(sample)),
                Update::Point(_) => None,
            };
            if let Some(record) = record {
                self.printer.record(&record, |_| String::new())?;
            }
        }
        let news = self.progress.apply(update).cloned();
        if self.screen.is_some() {
            return Ok(());
        }
        if self.printer.json() {
            return match &news {
                Some(point) => self.printer.record(&Record::Point(point), |_| String::new()),
                None => Ok(()),
            };
        }
        if let Some(point) = news {
            return match self.pace.next(&point, self.progress.max_steps(), Instant::now()) {
                Some(point) => self.step(&point),
                None => Ok(()),
            };
        }
        self.state()
    }

    fn step(&mut self, point: &SeriesPoint) -> anyhow::Result<()> {
        self.printer.data(&view::step_line(point, &self.progress))
    }

    /// Says what has changed about the job, after the newest step.
    fn state(&mut self) -> anyhow::Result<()> {
        let Some(job) = self.progress.job() else { return Ok(()) };
        let (line, saved) = (view::state_line(job), job.latest_checkpoint_step);
        if line == self.said && saved == self.saved {
            return Ok(());
        }
        if let Some(point) = self.pace.held() {
            self.step(&point)?;
        }
        if let Some(step) = saved.filter(|_| saved != self.saved) {
            self.printer.data(&format!("checkpoint of step {step} is saved"))?;
        }
        if line != self.said {
            self.printer.data(&line)?;
        }
        (self.said, self.saved) = (line, saved);
        Ok(())
    }

    fn ended(&self) -> bool {
        self.progress.job().is_some_and(|job| ended(&job.state))
    }

    fn trouble(&mut self, text: String) -> anyhow::Result<()> {
        if self.screen.is_none() {
            self.printer.talk(&text);
        }
        self.trouble = Some(text);
        self.draw()
    }

    fn draw(&mut self) -> anyhow::Result<()> {
        let Some(screen) = &mut self.screen else { return Ok(()) };
        let (columns, rows) = screen.size();
        let lines = view::frame(&self.progress, self.trouble.as_deref(), columns, rows);
        let text = screen.frame(&lines);
        self.printer.raw(&text)
    }

    fn clear(&mut self) -> anyhow::Result<()> {
        match self.screen.take() {
            Some(mut screen) => self.printer.raw(&screen.frame(&[])),
            None => Ok(()),
        }
    }

    fn leave(&mut self, how: Left) -> anyhow::Result<Exit> {
        self.draw()?;
        self.screen = None;
        let job = self.job;
        self.printer.talk(&format!("job {job} goes on; `hone watch {job}` shows it again"));
        Ok(match how {
            Left::Key => Exit::OK,
            Left::Signal => Exit::INTERRUPTED,
        })
    }

    async fn conclude(&mut self) -> anyhow::Result<Exit> {
        self.clear()?;
        if !self.printer.json() {
            let package = self.package().await;
            self.state()?;
            let text = view::summary(&self.progress, package.as_ref(), self.printer.width());
            self.printer.data(&format!("\n{text}"))?;
        }
        let completed = self.progress.job().is_some_and(|job| job.state == "completed");
        Ok(if completed { Exit::OK } else { Exit::JOB_FAILED })
    }

    /// The newest package. The summary does without it when the controller goes away right now.
    async fn package(&self) -> Option<PackageFacts> {
        let committed = show::checkpoints(&self.client, self.job).await.ok()?;
        let package = committed.iter().rev().find(|c| c.kind == "package")?;
        Some(PackageFacts {
            manifest: hex(&package.manifest),
            bytes: Bytes::new(package.bytes),
            files: package.files,
            address: self.client.address(),
        })
    }
}
