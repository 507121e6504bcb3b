//! Makes and starts the container of an attempt: closed by default, each relaxation by its name.

use std::path::PathBuf;

use hone_proto::assignment::{Assignment, Relaxation};
use hone_proto::id::AttemptId;
use hone_proto::quantity::Bytes;

use super::contract::{environment, make_folders, mounts};
use super::tool::Tool;
use super::{Performer, image_name, never, of_runtime};
use crate::core::input::StepError;
use crate::layout::{self, AttemptDirs};
use crate::runtime::{
    ContainerSpec, ContainerState, LogLimit, Network, Observed, Runtime as _, RuntimeError, Tmpfs,
    User,
};

/// Processes of one container. A data loader per core and a few helpers each stay far below.
const PIDS: u32 = 1024;

/// Scratch in memory of one container.
const TMP: Bytes = Bytes::mib(512);

/// Least shared memory: what engines give by default.
const LEAST_SHM: Bytes = Bytes::mib(64);

impl Performer {
    pub(super) async fn launch(
        &self,
        assignment: &Assignment,
        place: u32,
    ) -> Result<String, StepError> {
        self.admit(assignment)?;
        // An earlier answer may have got lost, with the engine's or with the agent's last life: what runs is left alone.
        if let Some(own) = self.own(assignment.attempt).await? {
            return Ok(own);
        }
        let uid = self.policy.uid(place);
        let dirs = self.layout.attempt(assignment.attempt);
        let owner = if user_of(assignment, uid) == User::Image { 0 } else { uid };
        let spec_json = assignment.trainer_spec.clone();
        let made = tokio::task::spawn_blocking({
            let dirs = dirs.clone();
            move || make_folders(&dirs, owner, &spec_json)
        });
        made.await.map_err(|error| never("agent_fault", error.to_string()))??;
        let tool = self.tool(assignment, uid).await?;
        if let Some(tool) = &tool {
            tool.write(&dirs, owner)?;
            self.tell_rendered(assignment, tool).await;
        }
        let spec = self.container(assignment, &dirs, uid, tool.as_ref())?;
        let id = match self.runtime.create(&spec).await {
            Ok(id) => id,
            Err(taken @ RuntimeError::NameTaken { .. }) => {
                let own = self.own(assignment.attempt).await?;
                return own.ok_or_else(|| of_runtime(&taken));
            }
            Err(error) => return Err(of_runtime(&error)),
        };
        self.runtime.start(&id).await.map_err(|e| of_runtime(&e))?;
        Ok(id.as_str().to_owned())
    }

    /// The attempt's own container, when it was started.
    async fn own(&self, attempt: AttemptId) -> Result<Option<String>, StepError> {
        let all = self.runtime.list().await.map_err(|e| of_runtime(&e))?;
        let started = |seen: &Observed| {
            use ContainerState::{Exited, Running};
            seen.attempt == Some(attempt) && matches!(seen.state, Running { .. } | Exited { .. })
        };
        Ok(all.into_iter().find(started).map(|own| own.id.as_str().to_owned()))
    }

    fn container(
        &self,
        assignment: &Assignment,
        dirs: &AttemptDirs,
        uid: u32,
        tool: Option<&Tool>,
    ) -> Result<ContainerSpec, StepError> {
        let gpus = assignment
            .promise
            .gpus
            .iter()
            .map(|gpu| gpu.parse().map_err(|error| never("bad_gpu", format!("{gpu}: {error}"))))
            .collect::<Result<Vec<_>, _>>()?;
        // Memory file systems count against the container's memory; a small one gets small ones.
        let quarter = Bytes::new(assignment.promise.ram.get() / 4);
        let egress = assignment.relaxations.contains(&Relaxation::NetworkEgress);
        // A command of the user's own replaces the image's entry point: it is the whole command line.
        let given = tool.map_or(&assignment.command[..], Tool::command);
        let (entrypoint, command) = match given.split_first() {
            None => (None, None),
            Some((program, rest)) => (Some(vec![program.clone()]), Some(rest.to_vec())),
        };
        Ok(ContainerSpec {
            attempt: assignment.attempt,
            name: format!("{}-{}", self.prefix, layout::name(assignment.attempt)),
            image: image_name(&assignment.image.reference)?,
            entrypoint,
            command,
            workdir: None,
            user_env: tool.map(Tool::user_environment).unwrap_or_default(),
            env: environment(assignment)
                .into_iter()
                .chain(tool.map(Tool::environment).unwrap_or_default())
                .collect(),
            mounts: mounts(assignment, dirs, &self.layout),
            tmpfs: vec![Tmpfs {
                target: PathBuf::from("/tmp"),
                size: TMP.min(quarter),
                exec: false,
            }],
            user: user_of(assignment, uid),
            memory: assignment.promise.ram,
            cpus: assignment.promise.cpu,
            cpuset: None,
            pids: PIDS,
            shm: assignment.promise.shm.max(LEAST_SHM.min(quarter)),
            open_files: None,
            gpus,
            network: if egress { Network::Bridge } else { Network::None },
            stop_grace: assignment.grace,
            log: LogLimit::default(),
        })
    }
}

pub(super) fn user_of(assignment: &Assignment, uid: u32) -> User {
    if assignment.relaxations.contains(&Relaxation::UserImage) {
        User::Image
    } else {
        User::Attempt(uid)
    }
}
