//! Scenarios of the reconciler, told without a runtime, an engine or a clock. Longer ones, with lossy networks and
//! crashes at every point, are in the simulation (`tests/`).

mod disk;
mod ends;
mod life;
mod saves;

use std::time::Duration;

use hone_proto::assignment::{Assignment, DesiredSet, ImageRef, Intent, Promise};
use hone_proto::event::{Outcome, OutcomeKind, Payload, Phase};
use hone_proto::id::{Attempt, AttemptId, Generation, JobId, ProjectName, Revision, Step, Token};
use hone_proto::quantity::Bytes;
use hone_proto::time::{BootNanos, Now, WallNanos};

use super::input::{Drained, Found, StepError, TrainerWord, Upload, UploadError};
use super::state::{AgentState, Stage};
use super::{Agent, Effect, Input, Seen, SeenState, Settings};

const GRACE: Duration = Duration::from_secs(60);
const SECOND: Duration = Duration::from_secs(1);
/// The trace that the attempts of these tests belong to.
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// One agent with what it keeps and what it spooled.
struct World {
    agent: Agent,
    kept: AgentState,
    spool: Vec<Payload>,
    now: Now,
    revision: u64,
}

impl World {
    fn new() -> Self {
        let now = Now { wall: WallNanos::new(1 << 60), boot: BootNanos::new(1 << 40) };
        let mut world = Self {
            agent: Agent::new(Settings::default(), AgentState::default(), boot("one")),
            kept: AgentState::default(),
            spool: Vec::new(),
            now,
            revision: 0,
        };
        assert_eq!(world.observe(vec![]), vec![]);
        world
    }

    /// One turn by the driver's rule: what was reported is spooled, then the state is kept, then the rest is returned.
    fn tell(&mut self, input: Input) -> Vec<Effect> {
        let effects = self.agent.handle(self.now, input);
        let mut rest = Vec::new();
        for (place, effect) in effects.into_iter().enumerate() {
            match effect {
                Effect::Keep => {
                    assert_eq!(place, 0, "the state is kept first");
                    self.kept = self.agent.state().clone();
                }
                Effect::Report(payload) => self.spool.push(payload),
                other => rest.push(other),
            }
        }
        rest
    }

    /// The agent is killed and starts again with what it kept.
    fn restart(&mut self) {
        self.agent = Agent::new(Settings::default(), self.kept.clone(), boot("one"));
    }

    fn pass(&mut self, span: Duration) -> Vec<Effect> {
        self.now = Now { wall: self.now.wall.plus(span), boot: self.now.boot.plus(span) };
        self.tell(Input::Tick)
    }

    fn want(&mut self, assignments: Vec<Assignment>) -> Vec<Effect> {
        self.revision += 1;
        self.tell(Input::Desired(DesiredSet {
            revision: Revision::new(self.revision),
            generation: Generation::new(1),
            assignments,
        }))
    }

    fn observe(&mut self, containers: Vec<Seen>) -> Vec<Effect> {
        self.now.boot = self.now.boot.plus(SECOND);
        self.now.wall = self.now.wall.plus(SECOND);
        let asked = self.now.boot;
        self.tell(Input::Observed { containers, asked })
    }

    fn staged(&mut self, attempt: AttemptId) -> Vec<Effect> {
        self.tell(Input::Staged { attempt, result: Ok(()) })
    }

    fn launched(&mut self, attempt: AttemptId) -> Vec<Effect> {
        self.tell(Input::Launched { attempt, result: Ok("c1".to_owned()) })
    }

    /// An attempt whose container runs.
    fn running(&mut self, assignment: Assignment) -> AttemptId {
        let attempt = assignment.attempt;
        self.want(vec![assignment]);
        self.staged(attempt);
        self.launched(attempt);
        assert_eq!(self.observe(vec![seen(attempt, SeenState::Running)]), vec![]);
        assert_eq!(self.stage(attempt), Some(Stage::Running));
        attempt
    }

    fn found(&mut self, attempt: AttemptId, steps: &[u64]) -> Vec<Effect> {
        let step = steps.last().map(|step| Step::new(*step));
        let checkpoints = steps.iter().map(|step| checkpoint(*step)).collect();
        self.tell(Input::Progress { attempt, step, checkpoints })
    }

    fn uploaded(
        &mut self,
        attempt: AttemptId,
        upload: Upload,
        result: Result<(), UploadError>,
    ) -> Vec<Effect> {
        self.tell(Input::Uploaded { attempt, upload, took: SECOND, result })
    }

    fn exited(&mut self, attempt: AttemptId, code: i64) -> Vec<Effect> {
        self.observe(vec![seen(attempt, SeenState::Exited { code, oom: false })])
    }

    fn stage(&self, attempt: AttemptId) -> Option<Stage> {
        self.agent.state().attempts.get(&attempt).map(|record| record.stage)
    }

    fn phases(&self) -> Vec<Phase> {
        let phase = |payload: &Payload| match payload {
            Payload::Phase { phase, .. } => Some(*phase),
            _ => None,
        };
        self.spool.iter().filter_map(phase).collect()
    }

    fn outcomes(&self) -> Vec<&Outcome> {
        let outcomes = self.spool.iter().filter_map(|payload| match payload {
            Payload::Outcome(outcome) => Some(outcome),
            _ => None,
        });
        outcomes.collect()
    }

    /// The only outcome.
    fn ended(&self) -> (OutcomeKind, &str) {
        match self.outcomes()[..] {
            [one] => (one.kind, &one.cause),
            ref others => panic!("one outcome was expected: {others:?}"),
        }
    }
}

fn boot(name: &str) -> hone_proto::id::BootId {
    name.parse().expect("an id")
}

fn id(job: u64) -> AttemptId {
    let token = Token { generation: Generation::new(1), attempt: Attempt::new(1) };
    AttemptId { job: JobId::new(job), token }
}

fn assignment(job: u64) -> Assignment {
    Assignment {
        attempt: id(job),
        job_name: "tune".parse().expect("a name"),
        project: ProjectName::default_project(),
        owner: "ada".parse().expect("a name"),
        intent: Intent::Run,
        image: ImageRef { reference: "sha256:ab".to_owned(), manifest: None },
        command: vec![],
        trainer_spec: String::new(),
        inputs: vec![],
        resume: None,
        promise: Promise { ram: Bytes::gib(4), ..Promise::default() },
        relaxations: vec![],
        keep_checkpoints: 2,
        grace: GRACE,
        disconnect_wait: None,
        checkpoint_requests: 0,
        traceparent: TRACE.to_owned(),
        max_time: None,
    }
}

fn stopping(job: u64) -> Assignment {
    Assignment { intent: Intent::Stop { reason: "cancelled by ada".to_owned() }, ..assignment(job) }
}

fn seen(attempt: AttemptId, state: SeenState) -> Seen {
    Seen { id: "c1".to_owned(), attempt: Some(attempt), state }
}

fn checkpoint(step: u64) -> Found {
    Found { step: Step::new(step), path: format!("checkpoint-{step}") }
}

fn save(step: u64) -> Upload {
    Upload::Checkpoint(checkpoint(step))
}

fn package(step: u64) -> Upload {
    Upload::Package(Found { step: Step::new(step), path: "package".to_owned() })
}

fn upload(attempt: AttemptId, upload: Upload) -> Vec<Effect> {
    vec![Effect::Upload { attempt, upload, traceparent: TRACE.to_owned() }]
}

fn word(status: &str, code: i32) -> TrainerWord {
    TrainerWord {
        status: status.to_owned(),
        code,
        message: "a word".to_owned(),
        step: None,
        json: "{}".to_owned(),
    }
}

fn drained(attempt: AttemptId, steps: &[u64], result: Option<TrainerWord>) -> Input {
    let package = result.as_ref().filter(|word| word.status == "completed");
    let package = package.map(|_| "package".to_owned());
    let drained = Drained {
        step: steps.last().map(|step| Step::new(*step)),
        checkpoints: steps.iter().map(|step| checkpoint(*step)).collect(),
        package,
        result,
        oom_kills: 0,
    };
    Input::Drained { attempt, drained: Box::new(drained) }
}

fn failed(retryable: bool, elsewhere: bool) -> StepError {
    StepError {
        retryable,
        cause: "engine_unavailable".to_owned(),
        message: "it does not answer".to_owned(),
        elsewhere,
    }
}

fn remove(attempt: AttemptId, container: Option<&str>) -> Vec<Effect> {
    vec![Effect::Remove { attempt, container: container.map(str::to_owned) }]
}
