//! Who gets in, and who does not: real TLS on loopback, against the production ports and services.

mod certificates;
mod controllers;
mod door;
mod doors;
mod enrolment;
mod http2;
mod ownership;
mod renewal;
mod resumption;
mod revocation;
mod roles;
mod tokens;

use std::error::Error;

use hone_proto::error::Refusal;
use hone_proto::identity::refused::refusal;
use hone_tests::controller::InProcess;
use hone_tests::reach::PATIENCE;
use tonic::Status;

/// The controller that the shared cases are tried on; `e2e_controller` tries them on a process.
async fn controller() -> InProcess {
    InProcess::start().await.expect("a controller")
}

/// Ends a test that hangs, with a line that says at what.
async fn soon<T>(what: &str, doing: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, doing).await.expect(what)
}

/// Why a call did not succeed.
fn why<T>(answer: Result<T, Status>) -> Refusal {
    refusal(&answer.map(drop).expect_err("the call succeeded"))
}

/// What went wrong, with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
