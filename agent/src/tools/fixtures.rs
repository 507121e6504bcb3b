//! What real runs left behind, for the tests.

use std::path::PathBuf;

/// Where a fixture lies.
pub(super) fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/trainer").join(name)
}

/// The content of a fixture.
pub(super) fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The content of a fixture that is text.
pub(super) fn text(name: &str) -> String {
    String::from_utf8(bytes(name)).expect("the fixture is text")
}
