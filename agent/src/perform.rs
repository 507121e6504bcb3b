//! Does what the reconciler wants done, each effect in a task of its own, and tells it how that went. Every effect is
//! safe to repeat: after a crash it is asked for again.

mod cache;
mod contract;
mod control;
mod launch;
mod remove;
mod save;
mod stage;
mod tool;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hone_proto::bulk::{Client, Retry, Scope};
use hone_proto::id::AttemptId;
use hone_proto::identity::{Connector, ControllerAddress, Plane};
use hone_proto::telemetry;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tracing::{Instrument as _, Span};

pub use self::cache::{InputCache, KEEP_UNUSED};
use crate::adapters::versions::Versions;
use crate::config::Policy;
use crate::core::input::{StepError, UploadError};
use crate::core::{Effect, Input};
use crate::driver::Handle;
use crate::layout::Layout;
use crate::runtime::docker::Docker;
use crate::runtime::{ContainerId, Runtime as _, RuntimeError, Signal};
use crate::watch::Watcher;

/// Effects that run at the same time. The rest waits its turn; a node carries few attempts.
const AT_ONCE: usize = 64;

/// What effects need.
pub struct Performer {
    /// The container engine.
    pub runtime: Docker,
    /// Where things lie.
    pub layout: Layout,
    /// The machine owner's word.
    pub policy: Policy,
    /// The reconciler.
    pub driver: Handle,
    /// Reads what trainers leave.
    pub watcher: Watcher,
    /// Makes connections to the controller.
    pub connector: Connector,
    /// Where it is.
    pub controller: ControllerAddress,
    /// Inputs that are here.
    pub cache: InputCache,
    /// Begins the names of this agent's containers: another agent at the same engine may carry the same attempt number.
    pub prefix: String,
    /// What images hold that were asked.
    pub versions: Mutex<BTreeMap<String, Versions>>,
}

impl Performer {
    /// Performs effects until the driver ends. Within a `LocalSet`: the agent has one thread for all of this.
    pub async fn run(self: Arc<Self>, mut effects: mpsc::Receiver<Effect>) {
        let mut running = JoinSet::new();
        while let Some(effect) = effects.recv().await {
            while running.len() >= AT_ONCE {
                running.join_next().await;
            }
            while running.try_join_next().is_some() {}
            let me = Arc::clone(&self);
            running.spawn_local(async move { me.perform(effect).await });
        }
    }

    async fn perform(&self, effect: Effect) {
        let answer = match effect {
            Effect::Keep | Effect::Report(_) => None,
            Effect::Stage(assignment, _) => {
                let attempt = assignment.attempt;
                let span = traced!("stage", attempt, &assignment.traceparent);
                let staged = self.while_wanted(attempt, self.stage(&assignment));
                let gone = || Err(later("unwanted", &Unwanted));
                let result = staged.instrument(span.clone()).await.unwrap_or_else(gone);
                log_step("staging", attempt, &span, &result);
                Some(Input::Staged { attempt, result })
            }
            Effect::Launch(assignment, place) => {
                let attempt = assignment.attempt;
                let span = traced!("launch", attempt, &assignment.traceparent);
                let result = self.launch(&assignment, place).instrument(span.clone()).await;
                log_step("launch", attempt, &span, &result);
                Some(Input::Launched { attempt, result })
            }
            Effect::AskToStop { attempt, container } => {
                self.ask_to_stop(attempt, &container).await;
                None
            }
            Effect::AskToSave { attempt, .. } => {
                self.ask_to_save(attempt);
                None
            }
            Effect::Kill { container } => {
                self.signal(&container, Signal::Kill).await;
                None
            }
            Effect::Drain(attempt) => {
                // Answered by the watcher, which reads to the end first.
                self.watcher.drain(attempt);
                None
            }
            Effect::Upload { attempt, upload, traceparent } => {
                let span = traced!("upload", attempt, &traceparent);
                let work = self.upload(attempt, upload.clone(), &traceparent);
                let answer = self.while_wanted(attempt, work).instrument(span.clone()).await;
                let gone = || Err(UploadError::Later(Unwanted.to_string()));
                let took = Duration::ZERO;
                let answer = answer.unwrap_or_else(|| Input::Uploaded {
                    attempt,
                    upload,
                    took,
                    result: gone(),
                });
                if !matches!(answer, Input::Uploaded { result: Ok(()), .. }) {
                    telemetry::failed(&span);
                }
                Some(answer)
            }
            Effect::Discard { attempt, path } => {
                self.discard(attempt, &path).await;
                None
            }
            Effect::Remove { attempt, container } => {
                let done = self.remove(attempt, container).await;
                Some(Input::Removed { attempt, done })
            }
            Effect::Sweep { container } => {
                self.sweep(&container).await;
                Some(Input::Swept { container })
            }
        };
        if let Some(input) = answer {
            // An agent that is ending asks for it again when it starts.
            let _ = self.driver.tell(input).await;
        }
    }

    async fn signal(&self, container: &str, signal: Signal) {
        let id = ContainerId::new(container.to_owned());
        if let Err(error) = self.runtime.signal(&id, signal).await {
            tracing::warn!(container = %id, signal = signal.name(), "not delivered: {error}");
        }
    }

    /// Does something until it is done or the attempt is given up: transfers outlast any cut of the link by themselves.
    async fn while_wanted<T>(&self, id: AttemptId, work: impl Future<Output = T>) -> Option<T> {
        let mut view = self.driver.view();
        tokio::select! {
            biased;
            done = work => Some(done),
            _ = view.wait_for(|view| !view.wanted.contains(&id)) => None,
        }
    }

    /// Bulk data on behalf of an attempt, over a connection of its own, in the trace that it was given.
    fn bulk(&self, attempt: AttemptId, traceparent: &str) -> Result<Client, StepError> {
        let channel = self
            .connector
            .channel(&self.controller, Plane::Bulk)
            .map_err(|error| later("controller_unreachable", &error))?;
        let client = Client::new(channel, Scope::Attempt(attempt), Retry::forever());
        let given = traceparent.to_owned();
        Ok(client.with_metadata(Arc::new(move |data| telemetry::inject_or(data, &given))))
    }
}

/// The controller gave the attempt up while something was done for it.
#[derive(Debug, thiserror::Error)]
#[error("it is no longer wanted")]
struct Unwanted;

/// A span of something done for an attempt, in the trace of the submit.
macro_rules! traced {
    ($name:literal, $attempt:expr, $traceparent:expr) => {{
        let attempt = $attempt;
        let span = tracing::info_span!($name, %attempt, otel.status_code = tracing::field::Empty);
        telemetry::continue_trace(&span, $traceparent);
        span
    }};
}
use traced;

fn log_step<T>(what: &str, attempt: AttemptId, span: &Span, result: &Result<T, StepError>) {
    match result {
        Ok(_) => tracing::info!(%attempt, "{what} is done"),
        Err(error) => {
            telemetry::failed(span);
            tracing::warn!(%attempt, cause = error.cause, retryable = error.retryable, "{what} failed: {}", error.message);
        }
    }
}

/// All of an error's chain in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// It may work later; after enough tries another node may have more luck.
fn later(cause: &str, error: &dyn std::error::Error) -> StepError {
    StepError { retryable: true, cause: cause.to_owned(), message: chain(error), elsewhere: true }
}

/// It never will, here or elsewhere.
fn never(cause: &str, message: String) -> StepError {
    StepError { retryable: false, cause: cause.to_owned(), message, elsewhere: false }
}

/// It never will here; another node may take it.
fn not_here(cause: &str, message: String) -> StepError {
    StepError { retryable: false, cause: cause.to_owned(), message, elsewhere: true }
}

/// The name that an assignment gives its image.
fn image_name<T: std::str::FromStr<Err: std::fmt::Display>>(
    reference: &str,
) -> Result<T, StepError> {
    reference.parse().map_err(|error| never("bad_image", format!("{reference}: {error}")))
}

fn of_file(path: &Path) -> impl FnOnce(std::io::Error) -> StepError + '_ {
    move |error| {
        let full = error.kind() == std::io::ErrorKind::StorageFull;
        let cause = if full { "disk_full" } else { "local_file" };
        StepError {
            retryable: !full,
            cause: cause.to_owned(),
            message: format!("{}: {error}", path.display()),
            elsewhere: true,
        }
    }
}

fn of_runtime(error: &RuntimeError) -> StepError {
    let message = match error.hint() {
        Some(hint) => format!("{}; {hint}", chain(error)),
        None => chain(error),
    };
    if error.is_retryable() {
        StepError {
            retryable: true,
            cause: "engine_unavailable".to_owned(),
            message,
            elsewhere: true,
        }
    } else {
        not_here("engine_refused", message)
    }
}
