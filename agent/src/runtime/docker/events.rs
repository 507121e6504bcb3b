//! The engine's events, only ever as a nudge to list again.

use std::time::Duration;

use bollard::query_parameters::EventsOptions;
use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::runtime::{ContainerId, EngineEvent};

use super::Docker;

/// Events that wait for a slow receiver. One is enough to make it list again, so the rest is dropped uncounted.
const PENDING_EVENTS: usize = 32;
/// First pause before the subscription is renewed.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest pause: an engine that comes back is noticed within this, and the core lists on a timer anyway.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// What is listened to; everything else an engine says about containers changes no state of ours.
const ACTIONS: [&str; 5] = ["start", "die", "oom", "kill", "destroy"];

/// Starts a task that listens until the receiver is dropped.
pub(super) fn subscribe(docker: Docker) -> mpsc::Receiver<EngineEvent> {
    let (sender, receiver) = mpsc::channel(PENDING_EVENTS);
    tokio::spawn(listen(docker, sender));
    receiver
}

async fn listen(docker: Docker, sender: mpsc::Sender<EngineEvent>) {
    let mut pause = FIRST_PAUSE;
    loop {
        let heard = tokio::select! {
            () = sender.closed() => return,
            heard = session(&docker, &sender) => heard,
        };
        if push(&sender, EngineEvent::Lost).is_err() {
            return;
        }
        pause = if heard { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// One subscription, until it breaks. Returns whether it was ever made.
async fn session(docker: &Docker, sender: &mpsc::Sender<EngineEvent>) -> bool {
    // Proves that the engine answers: the event call itself may stay silent for hours.
    let Ok(client) = docker.client("listen to events").await else { return false };
    if !matches!(
        docker.ask("listen to events", |client| async move { client.ping().await }).await,
        Ok(Ok(_))
    ) {
        return false;
    }
    let mut filters = docker.shared.owner.filter();
    filters.insert("type".to_owned(), vec!["container".to_owned()]);
    filters.insert("event".to_owned(), ACTIONS.map(str::to_owned).to_vec());
    let mut events = std::pin::pin!(
        client.events(Some(EventsOptions { filters: Some(filters), ..Default::default() }))
    );
    let mut announced = false;
    loop {
        // The request is on its way once the stream was polled; a short wait then means "subscribed and quiet".
        let next = if announced {
            events.next().await
        } else {
            match tokio::time::timeout(FIRST_PAUSE, events.next()).await {
                Ok(next) => next,
                Err(_) => {
                    announced = true;
                    if push(sender, EngineEvent::Subscribed).is_err() {
                        return true;
                    }
                    continue;
                }
            }
        };
        let Some(Ok(message)) = next else {
            docker.forget_client().await;
            return announced;
        };
        let Some(id) = message.actor.and_then(|actor| actor.id) else { continue };
        if push(sender, EngineEvent::Changed(ContainerId::new(id))).is_err() {
            return true;
        }
    }
}

/// Hands an event over without waiting. `Err` when nobody listens any more.
fn push(sender: &mpsc::Sender<EngineEvent>, event: EngineEvent) -> Result<(), ()> {
    match sender.try_send(event) {
        Err(TrySendError::Closed(_)) => Err(()),
        Ok(()) | Err(TrySendError::Full(_)) => Ok(()),
    }
}
