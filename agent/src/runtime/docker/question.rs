//! One question to an image: a command that runs in a closed container of its own, ends, and is removed. The
//! container has the fleet's label but no node's: it is nobody's attempt, and whoever clears up after a fleet finds it.

use std::time::Duration;

use bollard::query_parameters::{
    CreateContainerOptions, LogsOptions, RemoveContainerOptions, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt as _;

use crate::runtime::{ContainerSpec, RuntimeError};

use super::{Docker, body, fault, late};

/// Longest answer that is read.
const MAX_ANSWER: usize = 256 * 1024;

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The command's exit code.
    pub code: i64,
    /// What it printed to stdout, up to 256 KiB.
    pub output: Vec<u8>,
}

impl Docker {
    /// Runs the spec's command to its end, for `patience` at most, and tells what it printed. The container's name is
    /// the spec's; one that an earlier question left behind is removed first.
    ///
    /// # Errors
    /// When the engine cannot run it, or it takes too long.
    pub async fn question(
        &self,
        spec: &ContainerSpec,
        patience: Duration,
    ) -> Result<Answer, RuntimeError> {
        const CALL: &str = "ask an image";
        let facts = crate::runtime::Runtime::facts(self).await?;
        let volumes = self.image_volumes(&spec.image).await?;
        let mut body = body::create_body(spec, &self.shared.owner, facts.gpu, &volumes)?;
        body.labels = Some(self.shared.owner.labels_of_question());
        let name = spec.name.clone();
        let asked = self.call(CALL, patience, |client| async move {
            let gone = RemoveContainerOptions { v: true, force: true, link: false };
            let _ = client.remove_container(&name, Some(gone.clone())).await;
            let options =
                CreateContainerOptions { name: Some(name.clone()), platform: String::new() };
            client.create_container(Some(options), body).await?;
            client.start_container(&name, None::<StartContainerOptions>).await?;
            let mut ends = client.wait_container(&name, None::<WaitContainerOptions>);
            // A code other than 0 comes as an error of the library.
            let code = match ends.next().await {
                Some(Ok(end)) => end.status_code,
                Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
                Some(Err(error)) => return Err(error),
                None => -1,
            };
            let options = LogsOptions { stdout: true, ..Default::default() };
            let mut lines = client.logs(&name, Some(options));
            let mut output = Vec::new();
            while let Some(chunk) = lines.next().await {
                output.extend_from_slice(&chunk?.into_bytes());
                if output.len() > MAX_ANSWER {
                    output.truncate(MAX_ANSWER);
                    break;
                }
            }
            Ok(Answer { code, output })
        });
        let answer = asked.await;
        self.forget_question(&spec.name).await;
        match answer {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(fault::classify(CALL, &error)),
            Err(RuntimeError::Unavailable { .. }) => Err(late(CALL, patience)),
            Err(error) => Err(error),
        }
    }

    async fn forget_question(&self, name: &str) {
        let name = name.to_owned();
        let removed = self.act("remove a container", |client| async move {
            let gone = RemoveContainerOptions { v: true, force: true, link: false };
            client.remove_container(&name, Some(gone)).await
        });
        match removed.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if fault::status(&error) == Some(404) => {}
            Ok(Err(error)) => tracing::warn!("a question's container stays: {error}"),
            Err(error) => tracing::warn!("a question's container stays: {error}"),
        }
    }
}
