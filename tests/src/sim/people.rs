//! The people who use the fleet: they submit, cancel, drain, resume, revoke and give nodes up; they ask again with the
//! same request id when no answer comes, ask twice, and ask for what they may not have.

use std::time::Duration;

use hone_controller::core::record::{OnDisconnect, Role, TokenPurpose, Wish};
use hone_controller::core::{Caller, Command, Effect, Input, Reply};
use hone_controller::placement::Demand;
use hone_proto::assignment::ImageRef;
use hone_proto::error::Refusal;
use hone_proto::id::{Digest, JobId, NodeId, ProjectName};
use hone_proto::quantity::{Bytes, MilliCpu};

use super::hub::Waits;
use super::link::nanos;
use super::world::{Happening, World};

/// A wish on its way.
#[derive(Debug, Clone)]
pub(super) struct Person {
    pub(super) caller: Caller,
    pub(super) command: Command,
    pub(super) tries: u32,
    pub(super) done: bool,
}

/// More memory than any machine has.
const ABSURD: Bytes = Bytes::gib(500);

const USERS: [&str; 3] = ["bob", "eve", "kim"];

impl World {
    /// A node joins before the run begins.
    pub(super) fn enrol(&mut self, node: usize) {
        let id = self.machines[node].id.clone();
        let now = self.hub_now();
        let token = format!("token-{id}");
        let made = Input::Request {
            ticket: self.ticket(),
            caller: caller("ada", Role::Admin),
            request: token.parse().expect("an id"),
            command: Box::new(Command::MakeToken {
                public_id: token.clone(),
                hash: "h".to_owned(),
                purpose: TokenPurpose::Node,
                role: None,
                expires: now.wall.plus(Duration::from_secs(900)),
            }),
        };
        let spent = Input::Spend {
            ticket: self.ticket(),
            public_id: token,
            fresh_node: id.clone(),
            display_name: id.to_string(),
            for_node: true,
        };
        for input in [made, spent] {
            let Some(fleet) = &mut self.hub.fleet else { return };
            for effect in fleet.handle(now, input) {
                match effect {
                    Effect::Put(key, value) => drop(self.hub.store.insert(key, value)),
                    Effect::Delete(key) => drop(self.hub.store.remove(&key)),
                    _ => {}
                }
            }
        }
    }

    pub(super) fn people_act(&mut self) {
        if self.calm {
            return;
        }
        let next = nanos(self.chance.span(5_000, 90_000));
        self.after(next, Happening::People);
        let user = self.chance.pick(&USERS).copied().unwrap_or("bob");
        let node = self.some_node();
        match self.chance.between(0, 19) {
            0..=8 => {
                let wish = self.wish();
                self.want(user, Role::Submitter, submit(wish));
            }
            9 | 10 => {
                if let Some(job) = self.some_job() {
                    let role = if self.chance.one_in(2) { Role::Operator } else { Role::Submitter };
                    self.want(user, role, Command::Cancel(job));
                }
            }
            11 | 12 => {
                let stop_jobs = self.chance.one_in(2);
                self.want("ada", Role::Admin, Command::Drain { node, stop_jobs });
            }
            13 | 14 => self.want("ada", Role::Admin, Command::Resume(node)),
            15 => self.want("ada", Role::Admin, Command::Lose(node)),
            16 if self.chance.one_in(6) => self.revoke(),
            17 => {
                let mut wish = self.wish();
                wish.demand.ram = ABSURD;
                self.want(user, Role::Submitter, submit(wish));
            }
            18 => self.want(user, Role::Operator, Command::Cancel(JobId::new(9_999))),
            _ => self.say_again(),
        }
    }

    fn revoke(&mut self) {
        // The first machine stays, so that every job can end somewhere.
        let last = self.machines.len() - 1;
        if last > 0 && !self.machines.iter().any(|machine| machine.revoked) {
            self.machines[last].revoked = true;
            let node = self.machines[last].id.clone();
            self.want("ada", Role::Admin, Command::RevokeNode(node));
        }
    }

    /// A commit that was called before arrives once more, or in the name of another node; a token is spent again.
    fn say_again(&mut self) {
        if self.chance.one_in(4) {
            self.count("token spent again");
            let node = self.some_node();
            let ticket = self.ticket();
            let spend = Input::Spend {
                ticket,
                public_id: format!("token-{node}"),
                fresh_node: "thief".parse().expect("an id"),
                display_name: "thief".to_owned(),
                for_node: true,
            };
            self.hub_tell(spend, Waits::Nobody);
            return;
        }
        let old = self.old_commits.clone();
        if let Some((node, commit)) = self.chance.pick(&old) {
            let foreign = self.chance.one_in(3);
            let node = if foreign { self.some_node() } else { self.machines[*node].id.clone() };
            let ticket = self.ticket();
            let mut commit = commit.clone();
            if self.chance.one_in(3) {
                // The same step with other bytes: a trainer that went back.
                self.count("commit of a step that is passed");
                commit.manifest = Digest::of(format!("back {}", commit.manifest).as_bytes());
                self.checker.uploads(&commit);
            } else {
                self.count(if foreign { "commit in a foreign name" } else { "commit said again" });
            }
            self.hub_tell(Input::Commit { ticket, node, commit }, Waits::Nobody);
        }
    }

    fn some_node(&mut self) -> NodeId {
        let all: Vec<_> = self.machines.iter().map(|m| m.id.clone()).collect();
        self.chance.pick(&all).cloned().unwrap_or_else(|| "n0".parse().expect("an id"))
    }

    fn some_job(&mut self) -> Option<JobId> {
        let all: Vec<_> = self.checker.jobs().collect();
        self.chance.pick(&all).copied()
    }

    fn wish(&mut self) -> Wish {
        let gpus = [0, 0, 1, 1, 2][usize::try_from(self.chance.between(0, 4)).unwrap_or(0)];
        let total = self.chance.between(4, 45);
        let every = self.chance.between(3, 10);
        let wait = match self.chance.between(0, 3) {
            0 => OnDisconnect::Forever,
            1 | 2 => OnDisconnect::Wait(self.chance.span(20_000, 300_000)),
            _ => OnDisconnect::Auto,
        };
        Wish {
            name: "tune".parse().expect("a name"),
            project: ProjectName::default_project(),
            demand: Demand {
                gpus,
                vram: Bytes::gib(if gpus > 0 { 20 } else { 0 }),
                cpu: MilliCpu::cores(u32::try_from(self.chance.between(1, 6)).unwrap_or(1)),
                ram: Bytes::gib(self.chance.between(2, 16)),
                disk: Bytes::gib(self.chance.between(1, 40)),
                shm: Bytes::ZERO,
            },
            image: ImageRef { reference: "sha256:ab".to_owned(), manifest: None },
            image_labels: Default::default(),
            command: vec![],
            inputs: vec![],
            trainer_spec: format!(
                r#"{{"version":1,"total":{total},"every":{every},"job":{{"id":"0","attempt":0}}}}"#
            ),
            relaxations: vec![],
            keep_checkpoints: u32::try_from(self.chance.between(1, 3)).unwrap_or(1),
            grace: self.chance.span(5_000, 40_000),
            on_disconnect: wait,
            max_attempts: u32::try_from(self.chance.between(1, 5)).unwrap_or(1),
            max_time: self.chance.one_in(6).then(|| Duration::from_secs(200)),
            exports: !self.chance.one_in(5),
            traceparent: String::new(),
        }
    }

    pub(super) fn want(&mut self, user: &str, role: Role, command: Command) {
        self.next_wish += 1;
        let wish = self.next_wish;
        let person = Person { caller: caller(user, role), command, tries: 0, done: false };
        self.people.insert(wish, person);
        self.after(0, Happening::Asks(wish));
        if self.chance.one_in(10) {
            // A proxy that sends twice.
            self.count("request said twice");
            let late = nanos(self.chance.span(0, 60_000));
            self.after(late, Happening::Asks(wish));
        }
    }

    pub(super) fn asks(&mut self, wish: u64) {
        let ticket = self.ticket();
        let Some(person) = self.people.get_mut(&wish) else { return };
        person.tries += 1;
        let input = Input::Request {
            ticket,
            caller: person.caller.clone(),
            request: format!("wish-{wish}").parse().expect("an id"),
            command: Box::new(person.command.clone()),
        };
        self.hub_tell(input, Waits::Person(wish));
    }

    pub(super) fn answered(&mut self, wish: u64, result: Result<Reply, Refusal>) {
        self.count(if result.is_ok() { "wishes granted" } else { "wishes refused" });
        let Some(person) = self.people.get_mut(&wish) else { return };
        person.done = true;
        if self.calm
            && let (Command::Drain { node, .. }, Ok(_)) = (&person.command, &result)
        {
            // It arrived late, perhaps after what was drained had been resumed.
            let node = node.clone();
            self.want("ada", Role::Admin, Command::Resume(node));
            return;
        }
        // A fleet whose nodes were not seen yet takes anything. Whoever asked for the absurd takes it back.
        if let (Command::Submit { wish, .. }, Ok(Reply::Job { job, .. })) =
            (&person.command, result)
            && wish.demand.ram >= ABSURD
        {
            self.count("absurd wish taken back");
            self.want("ada", Role::Admin, Command::Cancel(job));
        }
    }

    pub(super) fn unanswered(&mut self, wish: u64) {
        let Some(person) = self.people.get(&wish).filter(|person| !person.done) else { return };
        if person.tries < 60 {
            let pause = nanos(self.chance.span(1_000, 30_000));
            self.after(pause, Happening::Asks(wish));
        }
    }
}

fn caller(user: &str, role: Role) -> Caller {
    Caller { user: user.parse().expect("a name"), role }
}

fn submit(wish: Wish) -> Command {
    Command::Submit { wish: Box::new(wish), spec_yaml: "version: 1".to_owned() }
}
