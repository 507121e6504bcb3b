//! Every way in which a node's past can be missing, and what is done about it.

use hone_proto::event::Stream;
use hone_proto::id::Revision;
use hone_proto::wire;

use super::*;

const NODE: &str = "spiffe://fleet-1/node/n1";

struct Bench {
    _scratch: tempfile::TempDir,
    layout: Layout,
}

impl Bench {
    fn new() -> Self {
        let scratch = tempfile::tempdir().expect("a folder");
        let layout = Layout::new(scratch.path().to_owned());
        fs::create_dir_all(layout.attempts()).expect("made");
        Self { _scratch: scratch, layout }
    }

    fn begin_as(&self, node: &str) -> Result<Begun, InstanceError> {
        begin(&self.layout, &node.parse().expect("an id"), Bounds::default())
    }

    fn begin(&self) -> Result<Begun, InstanceError> {
        self.begin_as(NODE)
    }

    /// A node that ran: it has worked on a desired set and spooled an event.
    fn ran() -> (Self, SpoolId) {
        let bench = Self::new();
        let Begun { mut spool, file, state } = bench.begin().expect("a first start");
        file.save(&AgentState { revision: Revision::new(7), ..state }).expect("kept");
        spool
            .append(Stream::State, vec![wire::Event::default()], Default::default())
            .expect("appended");
        let id = spool.id().clone();
        (bench, id)
    }

    fn accept(&self) -> Loss {
        accept_loss(&self.layout, &NODE.parse().expect("an id"), 41).expect("accepted")
    }

    /// Everything below the folder, with what it holds: a refused start must change nothing.
    fn content(&self) -> Vec<(PathBuf, Option<Vec<u8>>)> {
        let mut found = Vec::new();
        let mut folders = vec![self.layout.root().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a listing") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    folders.push(path.clone());
                    found.push((path, None));
                } else {
                    let bytes = fs::read(&path).expect("bytes");
                    found.push((path, Some(bytes)));
                }
            }
        }
        found.sort();
        found
    }
}

fn refused(bench: &Bench) -> InstanceError {
    let before = bench.content();
    let Err(error) = bench.begin() else { panic!("it began with nothing") };
    assert_eq!(bench.content(), before, "a refused start changes nothing");
    error
}

#[test]
fn a_node_begins_once_with_nothing_and_then_with_what_it_kept() {
    let (bench, spool) = Bench::ran();
    let again = bench.begin().expect("it starts again");
    assert_eq!((again.state.revision, again.spool.id()), (Revision::new(7), &spool));
    assert_eq!(again.spool.last(Stream::State).get(), 1);
    drop(again);
    let nothing = Loss { state: false, spool: false, kept_in: None };
    assert_eq!(bench.accept(), nothing, "there is nothing to accept");
    assert_eq!(bench.begin().expect("it starts again").state.revision, Revision::new(7));
}

#[test]
fn a_lost_or_damaged_state_is_not_an_empty_one() {
    for damage in [None, Some(""), Some("hone-agent-state 1 00000000\n{}")] {
        let (bench, spool) = Bench::ran();
        match damage {
            None => fs::remove_file(bench.layout.state()).expect("removed"),
            Some(text) => fs::write(bench.layout.state(), text).expect("damaged"),
        }
        let error = refused(&bench);
        let hint = error.hint().expect("it says what to do");
        assert!(hint.contains("accept-loss") && hint.contains("containers"), "{error}: {hint}");
        let loss = bench.accept();
        assert_eq!(
            (loss.state, loss.spool, loss.kept_in.is_some()),
            (true, false, damage.is_some())
        );
        let begun = bench.begin().expect("the loss is accepted");
        assert_eq!(begun.state, AgentState { next_uid: 41, ..AgentState::default() });
        assert_eq!(begun.spool.id(), &spool, "what is whole stays");
        assert_eq!(begun.spool.last(Stream::State).get(), 1);
    }
}

#[test]
fn a_lost_spool_is_not_an_empty_one() {
    let spool = |bench: &Bench| bench.layout.spool();
    type Harm = fn(&Path);
    let harms: [Harm; 4] = [
        |spool| fs::remove_dir_all(spool).expect("removed"),
        |spool| fs::remove_file(spool.join("id")).expect("removed"),
        |spool| fs::remove_dir_all(spool.join("series")).expect("removed"),
        |spool| fs::write(spool.join("id"), "s-somebody-elses\n").expect("replaced"),
    ];
    for harm in harms {
        let (bench, old) = Bench::ran();
        harm(&spool(&bench));
        let hint = refused(&bench).hint().expect("it says what to do");
        assert!(hint.contains("accept-loss") && hint.contains("running jobs go on"), "{hint}");
        let loss = bench.accept();
        assert_eq!((loss.state, loss.spool), (false, true));
        let begun = bench.begin().expect("the loss is accepted");
        assert_eq!(begun.state.revision, Revision::new(7), "what is whole stays");
        assert_ne!(begun.spool.id(), &old, "a new spool is a new stream");
        assert_eq!(begun.spool.last(Stream::State).get(), 0);
    }
}

#[test]
fn a_damaged_marker_is_no_first_start() {
    let (bench, _) = Bench::ran();
    fs::write(bench.layout.marker(), "version = 2\n").expect("damaged");
    assert!(matches!(refused(&bench), InstanceError::Marker { .. }));
}

#[test]
fn a_machine_that_joined_again_begins_clean_and_nothing_is_deleted() {
    let (bench, old) = Bench::ran();
    fs::create_dir(bench.layout.attempts().join("1-1-1")).expect("an attempt");
    let begun = bench.begin_as("spiffe://fleet-1/node/n2").expect("a first start");
    assert_eq!(begun.state, AgentState::default());
    assert_ne!(begun.spool.id(), &old);
    let aside = bench.layout.former().join("n1-1");
    for left in ["state", "spool/id", "attempts/1-1-1"] {
        assert!(aside.join(left).exists(), "{left} is gone");
    }
    assert_eq!(fs::read_dir(bench.layout.attempts()).expect("a listing").count(), 0);
    drop(begun);
    assert!(bench.begin_as("spiffe://fleet-1/node/n2").is_ok(), "and goes on as that node");
}

#[test]
fn a_first_start_that_was_cut_short_is_still_a_first_start() {
    let (bench, _) = Bench::ran();
    fs::remove_file(bench.layout.marker()).expect("removed");
    fs::remove_file(bench.layout.state()).expect("removed");
    assert_eq!(bench.begin().expect("it starts").state, AgentState::default());
}
