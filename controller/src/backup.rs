//! Verified exports of the state: what a damaged store is restored from. Written on a schedule, and when somebody asks.
//!
//! Only the fleet's thread has the store, so that is where they are written, between two turns.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use hone_proto::error::{Reason, Refusal};
use hone_proto::time::{BootNanos, Now};
use tokio::sync::{mpsc, oneshot};

use crate::setup::DataDir;
use crate::store::{ExportSummary, SledStore, StoreError};

/// People who wait for an export. Two: each is read to its end by one, and a third may as well come back.
const WAITING: usize = 2;

/// An export, open for reading: a later one takes its name, not its content.
type Written = (ExportSummary, File);

type Ask = oneshot::Sender<Result<Written, Refusal>>;

/// Asks for exports.
#[derive(Debug, Clone)]
pub struct Exports(mpsc::Sender<Ask>);

impl Exports {
    /// An export of the state as it is now.
    ///
    /// # Errors
    /// When there is no room for it, or the controller is shutting down.
    pub async fn now(&self) -> Result<Written, Refusal> {
        let (ask, answer) = oneshot::channel();
        self.0.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                Refusal::new(Reason::Overloaded, "others wait for an export already")
            }
            mpsc::error::TrySendError::Closed(_) => gone(),
        })?;
        answer.await.map_err(|_| gone())?
    }
}

fn gone() -> Refusal {
    Refusal::new(Reason::Unavailable, "the controller is shutting down")
}

/// Writes exports. Lives beside the store.
#[derive(Debug)]
pub struct Exporter {
    path: PathBuf,
    every: Duration,
    last: BootNanos,
    asked: mpsc::Receiver<Ask>,
}

/// Exports of the controller in `dir`: one `every` so often, and those that are asked for.
#[must_use]
pub fn exports(dir: &DataDir, every: Duration, now: Now) -> (Exports, Exporter) {
    let (asks, asked) = mpsc::channel(WAITING);
    let exporter = Exporter { path: dir.export(), every, last: now.boot, asked };
    (Exports(asks), exporter)
}

impl Exporter {
    /// Writes one if it is due or asked for. Between two turns of the fleet.
    pub fn care(&mut self, store: &SledStore) {
        while let Ok(ask) = self.asked.try_recv() {
            // Whoever went away does not mind.
            let _ = ask.send(self.write(store).map_err(|error| refusal(&error)));
        }
        if Now::read().boot.since(self.last) >= self.every {
            // It is logged, and tried again when the next one is due.
            let _ = self.write(store);
        }
    }

    fn write(&mut self, store: &SledStore) -> Result<Written, StoreError> {
        self.last = Now::read().boot;
        let io = |verb, source| StoreError::Io { verb, path: self.path.clone(), source };
        let written = self
            .path
            .parent()
            .map_or(Ok(()), crate::durable::create_dirs)
            .map_err(|error| io("make the folder of", error))
            .and_then(|()| store.export(&self.path))
            .and_then(|summary| {
                let file = File::open(&self.path).map_err(|error| io("open", error))?;
                Ok((summary, file))
            });
        match &written {
            Ok((summary, _)) => {
                tracing::info!(path = %self.path.display(), ?summary, "state exported");
            }
            Err(error) => tracing::error!(
                path = %self.path.display(),
                error = error as &dyn std::error::Error,
                "state not exported"
            ),
        }
        written
    }
}

fn refusal(error: &StoreError) -> Refusal {
    let reason = if error.is_full_disk() { Reason::OutOfSpace } else { Reason::Internal };
    Refusal::new(reason, format!("the state cannot be exported: {error}"))
}
