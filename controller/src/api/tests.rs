//! A fleet as the services see it, made by the core's own inputs.

use hone_proto::error::Reason;
use hone_proto::id::{Digest, Generation, JobId, NodeId, UserName};
use hone_proto::identity::Role;
use hone_proto::quantity::{Bytes, MilliCpu};
use hone_proto::time::Now;
use hone_proto::wire;

use super::submit;
use crate::core::record::TokenPurpose;
use crate::core::{
    Caller, Command, Effect, Fleet, Hello, Input, Reply, Session, Settings, Subject, Ticket,
};
use crate::driver::{Driver, Handle, Journal};
use crate::placement::Capacity;
use crate::store::MemoryStore;

/// What every node that says hello calls itself.
const HOST: &str = "gpu";

/// A fleet, and everything that has to be made durable of it.
pub(super) struct World {
    pub(super) fleet: Fleet,
    effects: Vec<Effect>,
    asked: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let id = "fleet-1".parse().expect("an id");
        let (fleet, effects) = Fleet::found(Settings::default(), id, ada(), Now::read());
        Self { fleet, effects, asked: 0 }
    }

    fn tell(&mut self, make: impl FnOnce(Ticket) -> Input) -> Reply {
        self.asked += 1;
        let ticket = Ticket(self.asked);
        let effects = self.fleet.handle(Now::read(), make(ticket));
        let answer = effects.iter().find_map(|effect| match effect {
            Effect::Reply(to, answer) if *to == ticket => Some(answer.clone()),
            _ => None,
        });
        self.effects.extend(effects);
        answer.expect("an answer").expect("it is admitted")
    }

    fn ask(&mut self, command: Command) -> Reply {
        let request = format!("request-{}", self.asked).parse().expect("an id");
        let caller = Caller { user: ada(), role: Role::Admin };
        self.tell(|ticket| Input::Request { ticket, caller, request, command: Box::new(command) })
    }

    /// Submits a job of this name.
    pub(super) fn submit(&mut self, name: &str) -> JobId {
        self.submit_request(request(name))
    }

    fn submit_request(&mut self, request: wire::SubmitRequest) -> JobId {
        for input in &request.inputs {
            let manifest = Digest::try_from(input.manifest.as_slice()).expect("a digest");
            let project = "default".parse().expect("a project");
            let bytes = Bytes::new(input.bytes);
            let user = ada();
            self.tell(|ticket| Input::CommitObject { ticket, user, project, manifest, bytes });
        }
        match self.ask(submit::command(request, String::new()).expect("a good spec")) {
            Reply::Job { job, .. } => job,
            other => panic!("{other:?}"),
        }
    }

    /// Enrols a machine of this id and host name.
    pub(super) fn join(&mut self, id: &str, host: &str) -> NodeId {
        let public_id = format!("token-{id}");
        let expires = Now::read().wall.plus(std::time::Duration::from_secs(900));
        self.ask(Command::MakeToken {
            public_id: public_id.clone(),
            hash: "00".to_owned(),
            purpose: TokenPurpose::Node,
            role: None,
            expires,
        });
        let (fresh_node, display_name) = (id.parse().expect("an id"), host.to_owned());
        let for_node = true;
        let spent = self.tell(|ticket| Input::Spend {
            ticket,
            public_id,
            fresh_node,
            display_name,
            for_node,
        });
        match spent {
            Reply::Spent(Subject::Node(node)) => node,
            other => panic!("{other:?}"),
        }
    }

    /// Places nothing more on a node: a line of history about it.
    pub(super) fn drain(&mut self, node: &NodeId) {
        self.ask(Command::Drain { node: node.clone(), stop_jobs: false });
    }

    /// Cancels a job.
    pub(super) fn cancel(&mut self, job: JobId) {
        self.ask(Command::Cancel(job));
    }

    /// Ends a node's certificate.
    pub(super) fn revoke(&mut self, node: &NodeId) {
        self.ask(Command::RevokeNode(node.clone()));
    }

    /// A node says hello, and what it offers: some cores and memory, and so much disk.
    pub(super) fn offers(&mut self, node: &NodeId, disk: u64) {
        let hello = hello(node.as_str(), disk);
        self.effects.extend(self.fleet.handle(Now::read(), Input::Hello(Box::new(hello))));
    }

    /// The fleet on a thread of its own.
    pub(super) fn start(self) -> (Driver, Handle, tempfile::TempDir) {
        let scratch = tempfile::tempdir().expect("a folder");
        let journal = Journal::open(scratch.path(), []).expect("an empty journal");
        let store = MemoryStore::default();
        let started = Driver::start(self.fleet, self.effects, store, journal, |_| {});
        let (driver, handle) = started.expect("a thread");
        (driver, handle, scratch)
    }
}

/// What a node says first: it offers some cores and memory, and so much disk.
pub(super) fn hello(node: &str, disk: u64) -> Hello {
    let capacity = Capacity {
        cpu: MilliCpu::new(4000),
        ram: Bytes::new(8 << 30),
        disk: Bytes::new(disk),
        ..Capacity::default()
    };
    Hello {
        node: node.parse().expect("an id"),
        session: Session(1),
        boot: "boot-1".parse().expect("an id"),
        said: None,
        spool: "spool-1".parse().expect("an id"),
        attempts: Vec::new(),
        highest_generation: Generation::new(0),
        capacity,
        inventory: Vec::new(),
        hostname: HOST.to_owned(),
        version: "0.1.0".to_owned(),
    }
}

fn ada() -> UserName {
    "ada".parse().expect("a name")
}

/// A submit as the command line sends it.
pub(super) fn request(name: &str) -> wire::SubmitRequest {
    let input = |channel: &str| wire::SubmittedInput {
        channel: channel.to_owned(),
        manifest: Digest::of(channel.as_bytes()).as_bytes().to_vec(),
        bytes: 1000,
    };
    wire::SubmitRequest {
        spec_yaml: format!(
            "name: {name}
model: {{path: ./model}}
data:
  train: {{path: ./rows.jsonl, format: text}}
method: {{type: full}}
train: {{max_steps: 3, seq_len: 16, batch: 1}}
resources: {{cpu: 1, memory: 1 GiB, disk: 1 GiB}}
"
        ),
        inputs: vec![input("model"), input("data/train")],
        image_reference: format!("sha256:{}", "ab".repeat(32)),
        image_labels: [("hone.torch".to_owned(), "2.9.0".to_owned())].into(),
        ..wire::SubmitRequest::default()
    }
}

#[test]
fn what_cannot_be_satisfied_is_refused_before_anything_is_uploaded_and_changes_nothing() {
    let mut world = World::new();
    let node = world.join("n-1", "gpu-1");
    world.offers(&node, 1 << 40);
    let before = world.fleet.clone();
    let check = |request: wire::SubmitRequest| {
        let (wish, text) = submit::foreseen(request)?;
        before.could_take(&"bob".parse().expect("a name"), &wish, &text)
    };
    let mut asked = request("tune");
    for input in &mut asked.inputs {
        input.manifest.clear();
    }
    assert_eq!(check(asked.clone()), Ok(()));
    asked.inputs[0].bytes = 2 << 40;
    let refused = check(asked.clone()).expect_err("its input fills the disk");
    assert_eq!(refused.reason, Reason::FitsNowhere);
    asked.inputs[0].bytes = 0;
    asked.spec_yaml.push_str(&format!("# {}\n", "x".repeat(crate::spec::MAX_TEXT)));
    let refused = check(asked).expect_err("it cannot be kept");
    assert_eq!(refused.reason, Reason::BadSpec);
    assert_eq!(world.fleet, before);
}

#[test]
fn the_text_of_a_tools_configuration_comes_with_the_submit_and_is_checked_again() {
    let mut asked = request("tune");
    let trainer = |spec: &str, text: &str| {
        let mut asked = request("tune");
        asked.spec_yaml.push_str(spec);
        text.clone_into(&mut asked.tool_config);
        submit::foreseen(asked).map(|(wish, _)| wish.trainer_spec).map_err(|e| e.reason)
    };
    let trl = "trainer: {kind: trl, image: i, config: ./my.yaml}\n";
    let told = trainer(trl, "learning_rate: 1.0e-4\n").expect("a mapping");
    assert!(told.contains(r#""text":"learning_rate: 1.0e-4\n""#), "{told}");
    assert_eq!(trainer(trl, ""), Err(Reason::BadRequest));
    assert_eq!(trainer(trl, "- no mapping"), Err(Reason::BadSpec));
    assert_eq!(trainer(trl, &"x".repeat(crate::spec::MAX_CONFIG + 1)), Err(Reason::BadSpec));
    assert_eq!(trainer("", "a: 1"), Err(Reason::BadRequest));
    let mut world = World::new();
    asked.spec_yaml.push_str(trl);
    "a: 1".clone_into(&mut asked.tool_config);
    let job = world.submit_request(asked);
    let view = super::views::job(&world.fleet, &world.fleet.jobs()[&job]);
    assert_eq!((view.trainer_kind.as_str(), view.contract_level.as_str()), ("trl", "steered"));
    assert!(view.lacks.iter().any(|lack| lack == "no checkpoint on demand"), "{:?}", view.lacks);
}

#[test]
fn a_host_name_means_the_machine_that_joined_again_and_not_its_revoked_predecessor() {
    let mut world = World::new();
    let first = world.join("n-1", "gpu");
    let found = |world: &World| super::find_node(&world.fleet, "gpu").map_err(|e| e.reason);
    world.revoke(&first);
    assert_eq!(found(&world), Ok(first), "nothing else is called so");
    let second = world.join("n-2", "gpu");
    assert_eq!(found(&world), Ok(second.clone()));
    let third = world.join("n-3", "gpu");
    assert_eq!(found(&world), Err(Reason::Conflict));
    world.revoke(&second);
    assert_eq!(found(&world), Ok(third.clone()));
    world.revoke(&third);
    assert_eq!(found(&world), Err(Reason::Conflict), "all three are revoked");
}

#[test]
fn people_read_host_names_and_the_relaxations_of_a_job() {
    let mut world = World::new();
    let node = world.join("n-1", "gpu-1");
    world.offers(&node, 1 << 40);
    let mut asked = request("tune");
    asked.spec_yaml.push_str("container: {user: image}\n");
    let job = world.submit_request(asked);
    let fleet = &world.fleet;
    let shown = |id| super::views::job(fleet, fleet.jobs().get(&id).expect("the job"));
    let view = shown(job);
    assert_eq!(view.relaxations, ["container.user: image"]);
    let attempt = view.attempts.first().expect("it was placed");
    assert_eq!((attempt.node.as_str(), attempt.node_host.as_str()), ("n-1", HOST));
    let reply = super::views::explain(fleet, &fleet.jobs()[&job]);
    assert!(reply.reasons[0].contains(&format!("is on node {HOST}")), "{:?}", reply.reasons);
    world.drain(&node);
    let waits = world.submit("later");
    let fleet = &world.fleet;
    let reply = super::views::explain(fleet, &fleet.jobs()[&waits]);
    assert!(reply.reasons[0].starts_with(&format!("node {HOST} ")), "{:?}", reply.reasons);
    assert_eq!(reply.nodes[0].node_host, HOST);
}
