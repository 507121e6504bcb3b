//! A second agent on this machine, on a link of its own: what happens to it leaves the first one alone.

use anyhow::{Context as _, Result, ensure};

use super::process::Process;
use super::proxy::Proxy;
use super::{Cluster, PATIENCE, agent_command, wait_until};

/// Where it keeps its state, below the fleet's folder.
const STATE: &str = "agent-2";

/// The second agent.
#[derive(Debug)]
pub struct Second {
    /// Its way to the controller.
    pub link: Proxy,
    /// The id of its node.
    pub node: String,
    _agent: Process,
}

impl Cluster {
    /// Joins a second agent and starts it. Call it once in a fleet's life.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn second_agent(&self) -> Result<Second> {
        let before = self.view.nodes()?;
        let link = self.another_way()?;
        self.join(STATE, &link)?;
        let mut agent = Process::new(STATE, &self.dir, agent_command(&self.dir, STATE)?);
        agent.start()?;
        let node = wait_until("the second node is ready", PATIENCE, || {
            let nodes = self.view.nodes()?.into_iter();
            let mut new = nodes.filter(|node| before.iter().all(|known| known.id != node.id));
            Ok(new.find(|node| node.state == "ready").map(|node| node.id))
        })?;
        Ok(Second { link, node, _agent: agent })
    }

    /// Submits a job that is placed on the second agent, which gets no other.
    ///
    /// # Errors
    /// When it is refused, or placed elsewhere.
    pub fn submit_to(&self, second: &Second, name: &str, seed: u32) -> Result<u64> {
        let nodes = self.view.nodes()?;
        let first = nodes.iter().find(|node| node.id != second.node).context("a first node")?;
        self.run(&["node", "drain", &first.id])?;
        let placed = self.submit(name, seed).and_then(|job| {
            let node = wait_until("the job is placed", PATIENCE, || {
                Ok(self.job(job)?.attempts.last().map(|attempt| attempt.node.clone()))
            })?;
            Ok((job, node))
        });
        // Whatever came of it, the other cases want the first node.
        self.run(&["node", "drain", &second.node])?;
        self.run(&["node", "resume", &first.id])?;
        let (job, node) = placed?;
        ensure!(node == second.node, "job {job} is on {node}");
        Ok(job)
    }
}
