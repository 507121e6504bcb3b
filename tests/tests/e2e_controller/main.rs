//! `hone serve` as a process, without agent and engine: its state lost and restored, its disk full, and on its three ports
//! everybody who may not enter.

#[path = "../identity/certificates.rs"]
mod certificates;
mod founding;
mod full_disk;
mod joining;
#[path = "../identity/ownership.rs"]
mod ownership;
mod restore;
#[path = "../identity/resumption.rs"]
mod resumption;
#[path = "../identity/revocation.rs"]
mod revocation;
#[path = "../identity/roles.rs"]
mod roles;
#[path = "../identity/tokens.rs"]
mod tokens;

use hone_proto::error::Refusal;
use hone_proto::identity::refused::refusal;
use hone_tests::reach::PATIENCE;
use hone_tests::served::Served;
use tonic::Status;

/// The controller that the shared cases are tried on; `identity` tries them on one within the test.
async fn controller() -> Served {
    let starting = tokio::task::spawn_blocking(|| Served::start(""));
    starting.await.expect("it is not cancelled").expect("a controller")
}

/// Ends a test that hangs, with a line that says at what.
async fn soon<T>(what: &str, doing: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, doing).await.expect(what)
}

/// Why a call did not succeed.
fn why<T>(answer: Result<T, Status>) -> Refusal {
    refusal(&answer.map(drop).expect_err("the call succeeded"))
}
