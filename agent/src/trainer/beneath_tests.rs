//! A hostile directory, tried with each trick of section 6 row 50 of the fault list.

use std::os::unix::fs::symlink;
use std::sync::Barrier;

use proptest::prelude::*;
use rustix::fs::{CWD, mknodat};

use super::*;

fn rel(text: &str) -> RelPath {
    text.parse().expect("a path")
}

fn setup() -> (tempfile::TempDir, Dir) {
    let temp = tempfile::tempdir().expect("a directory");
    let root = temp.path().join("root");
    std::fs::create_dir_all(root.join("sub")).expect("a directory");
    std::fs::write(root.join("plain"), "content").expect("written");
    std::fs::write(root.join("sub/deep"), "deep").expect("written");
    std::fs::write(temp.path().join("secret"), "secret").expect("written");
    let dir = Dir::open(&root).expect("opened");
    (temp, dir)
}

#[test]
fn plain_files_are_read_and_absent_ones_are_nothing() {
    let (_temp, dir) = setup();
    let file = dir.file(&rel("plain")).expect("plain").expect("present");
    assert_eq!(file.read_all(Bytes::new(7)).expect("read"), b"content");
    assert!(matches!(file.read_all(Bytes::new(6)), Err(FileError::TooLarge { .. })));
    assert_eq!(file.identity_now().expect("same"), file.identity());
    assert!(dir.file(&rel("sub/deep")).expect("plain").is_some());
    assert!(dir.file(&rel("absent")).expect("fine").is_none());
    assert!(dir.file(&rel("absent/below")).expect("fine").is_none());
    assert_eq!(dir.subdirectories(10).expect("listed"), [rel("sub")]);
    assert!(matches!(dir.subdirectories(1), Err(FileError::TooMany { .. })));
}

#[test]
fn a_growing_file_is_noticed() {
    let (temp, dir) = setup();
    let file = dir.file(&rel("plain")).expect("plain").expect("present");
    std::fs::write(temp.path().join("root/plain"), "content and more").expect("written");
    assert!(matches!(file.read_all(Bytes::new(7)), Err(FileError::TooLarge { .. })));
    assert_ne!(file.identity_now().expect("readable"), file.identity());
}

#[test]
fn nothing_but_a_plain_file_is_ever_opened() {
    let (temp, dir) = setup();
    let root = temp.path().join("root");
    symlink("/etc/passwd", root.join("absolute")).expect("linked");
    symlink("../secret", root.join("upward")).expect("linked");
    symlink("plain", root.join("sideways")).expect("linked");
    symlink("sub", root.join("linkdir")).expect("linked");
    symlink("/proc/self/root", root.join("magic")).expect("linked");
    std::fs::hard_link(temp.path().join("secret"), root.join("hard")).expect("linked");
    mknodat(CWD, root.join("pipe"), FileType::Fifo, Mode::RUSR, 0).expect("a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(root.join("socket")).expect("a socket");
    for name in [
        "absolute",
        "upward",
        "sideways",
        "linkdir/deep",
        "magic",
        "magic/etc/passwd",
        "hard",
        "pipe",
        "socket",
        "sub",
        "plain/below",
    ] {
        let opened = dir.file(&rel(name));
        assert!(matches!(opened, Err(FileError::NotPlain { .. })), "{name}: {opened:?}");
    }
    for name in ["linkdir", "magic", "plain", "pipe"] {
        let opened = dir.dir(&rel(name));
        assert!(matches!(opened, Err(FileError::NotPlain { .. })), "{name}: {opened:?}");
    }
    assert_eq!(dir.subdirectories(100).expect("listed"), [rel("sub")]);
    symlink(&root, temp.path().join("rootlink")).expect("linked");
    assert!(Dir::open(&temp.path().join("rootlink")).is_err());
}

/// Rounds of the race; each swaps the file for a link and back.
const ROUNDS: u32 = 1_000;

/// Opens and reads; a name that is just being swapped may be refused.
fn content(dir: &Dir) -> Option<Vec<u8>> {
    let file = dir.file(&rel("sub/deep")).ok().flatten()?;
    file.read_all(Bytes::new(64)).ok()
}

/// In each half of a round both sides leave the gate together: one swaps what the name stands for while the other opens
/// it. Behind the next gate the swap is over, and what is seen then must be what was put there. Thus every half is known
/// to have raced with a real swap, whoever was faster.
#[test]
fn a_swap_race_never_yields_the_secret() {
    let (temp, dir) = setup();
    let sub = temp.path().join("root/sub");
    let gate = Barrier::new(2);
    let (mut leaked, mut unseen) = (0, 0);
    // Nobody may leave early, also when something fails: the other side would wait at the gate for ever.
    let mut race = |expected: Option<&[u8]>| {
        gate.wait();
        leaked += u32::from(content(&dir).is_some_and(|content| content != b"deep"));
        gate.wait();
        unseen += u32::from(content(&dir).as_deref() != expected);
    };
    let swapped: io::Result<()> = std::thread::scope(|scope| {
        let swapper = scope.spawn(|| {
            let (mut all, link, good) = (Ok(()), sub.join("link"), sub.join("good"));
            for _ in 0..ROUNDS {
                let made = symlink("../../secret", &link);
                gate.wait();
                let moved = std::fs::rename(&link, sub.join("deep"));
                gate.wait();
                let written = std::fs::write(&good, "deep");
                gate.wait();
                let back = std::fs::rename(&good, sub.join("deep"));
                gate.wait();
                all = all.and(made).and(moved).and(written).and(back);
            }
            all
        });
        for _ in 0..ROUNDS {
            race(None);
            race(Some(b"deep"));
        }
        swapper.join().expect("the swapper ends")
    });
    swapped.expect("every swap was made");
    assert_eq!(leaked, 0, "something else than the file was read in the race");
    assert_eq!(unseen, 0, "a swap was not seen: these rounds proved nothing");
}

#[test]
fn paths_that_could_leave_are_not_paths() {
    for bad in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/..",
        "../a",
        "./a",
        "a\0",
        "a\nb",
        "a\\b",
        &"a/".repeat(20),
        &"a".repeat(256),
        &"a".repeat(2000),
    ] {
        assert!(bad.parse::<RelPath>().is_err(), "{bad:?} was accepted");
    }
    assert_eq!(rel("a/b").join(&rel("c")).expect("joined"), rel("a/b/c"));
}

proptest! {
    #[test]
    fn an_accepted_path_has_only_plain_components(text in "[a./\\\\\n-]{0,12}") {
        if let Ok(path) = text.parse::<RelPath>() {
            prop_assert!(Path::new(path.as_str())
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_))));
        }
    }
}
