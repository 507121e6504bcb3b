//! A turn for which there is no room, although there seemed to be.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hone_proto::identity::Role;
use hone_proto::time::Now;

use super::*;
use crate::core::record::TokenPurpose;
use crate::core::{Caller, Command, Settings};
use crate::store::{Batch, MemoryStore, Record};

/// A store whose disk another process fills.
struct Shared {
    inner: MemoryStore,
    full: Arc<AtomicBool>,
}

impl Store for Shared {
    fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        if self.full.load(Ordering::SeqCst) {
            return Err(StoreError::DiskFull { path: "/somewhere".into(), free: 0 });
        }
        self.inner.commit(batch)
    }

    fn scan(&self, prefix: &[u8]) -> Result<Vec<Record>, StoreError> {
        self.inner.scan(prefix)
    }
}

/// Asks for a token, always with the same request.
async fn make_token(fleet: &Handle) -> Result<Reply, Refusal> {
    fleet
        .call(|ticket| Input::Request {
            ticket,
            caller: Caller { user: "ada".parse().expect("a name"), role: Role::Admin },
            request: "request-1".parse().expect("an id"),
            command: Box::new(Command::MakeToken {
                public_id: "token-1".to_owned(),
                hash: String::new(),
                purpose: TokenPurpose::Node,
                role: None,
                expires: Now::read().wall.plus(std::time::Duration::from_secs(60)),
            }),
        })
        .await
}

#[tokio::test]
async fn a_turn_that_does_not_fit_never_happened_and_can_be_had_later() {
    let scratch = tempfile::tempdir().expect("a folder");
    let journal = Journal::open(scratch.path(), []).expect("a journal");
    let (name, ada) = ("fleet-1".parse().expect("an id"), "ada".parse().expect("a name"));
    let (state, founding) = Fleet::found(Settings::default(), name, ada, Now::read());
    let full = Arc::new(AtomicBool::new(false));
    let store = Shared { inner: MemoryStore::new(), full: Arc::clone(&full) };
    let (driver, fleet) = Driver::start(state, founding, store, journal, |_| {}).expect("a thread");
    let tokens = || fleet.read(|fleet| (fleet.tokens().len(), fleet.history().len()));
    let before = tokens().await.expect("it reads");
    full.store(true, Ordering::SeqCst);
    for _ in 0..2 {
        let refused = make_token(&fleet).await.expect_err("it was taken");
        assert_eq!(refused.reason, Reason::OutOfSpace);
        assert_eq!(tokens().await.expect("it reads"), before, "memory is ahead of the disk");
    }
    full.store(false, Ordering::SeqCst);
    make_token(&fleet).await.expect("there is room again");
    assert_eq!(tokens().await.expect("it reads").0, before.0 + 1);
    driver.stop().await.expect("it ends well");
}
