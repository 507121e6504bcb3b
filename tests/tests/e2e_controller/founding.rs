//! `hone init` and the first `hone restore` of a new machine: what they refuse leaves nothing behind.

use anyhow::{Result, ensure};

use super::joining::{ended, paste};

#[test]
fn an_init_that_is_refused_leaves_nothing_behind_and_one_that_is_not_goes_where_it_was_told()
-> Result<()> {
    let scratch = tempfile::tempdir()?;
    let (data, config) = (scratch.path().join("data"), scratch.path().join("config"));
    let init = |options: &str| {
        paste(&format!("HONE_CONTROLLER_DIR={} hone {options}", data.display()), &config)
    };
    ended(&init("init --address 127.0.0.1:27650")?, 2, &["no port belongs to it", "hint:"])?;
    ended(&init("init --address http://x")?, 2, &["no scheme belongs to it"])?;
    ended(&init("init --address 127.0.0.1 --port 0")?, 2, &["1..=65533"])?;
    std::fs::write(scratch.path().join("file"), "")?;
    let below = format!("init --address ::1 --dir {}/file/data", scratch.path().display());
    ended(&init(&below)?, 2, &["hint:"])?;
    let left: Vec<_> = std::fs::read_dir(config.join("contexts"))?.collect();
    ensure!(left.is_empty() && !data.exists(), "{left:?}");

    ended(&init("init --address ::1 --context lab")?, 0, &[])?;
    ensure!(data.join("address.toml").exists(), "the variable did not count");
    ensure!(config.join("contexts/lab/identity.toml").exists(), "--context did not count");
    ended(&init("init --address ::1 --name other")?, 8, &["holds a controller already"])?;
    ensure!(!config.join("contexts/other").exists(), "a context without a controller");

    // A new machine: what the old one had is put back, not made anew.
    let empty = format!("restore x --dir {}/empty", scratch.path().display());
    ended(&init(&empty)?, 7, &["hint: put your copy of `authority/` and `address.toml`"])
}
