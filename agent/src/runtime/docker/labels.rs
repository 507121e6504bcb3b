//! The labels by which an agent knows its own containers. Only what carries both of fleet and node is ever touched.

use std::collections::HashMap;

use hone_proto::id::{Attempt, AttemptId, FleetId, Generation, JobId, NodeId, Token};

const FLEET: &str = "hone.fleet";
const NODE: &str = "hone.node";
const JOB: &str = "hone.job";
const GENERATION: &str = "hone.generation";
const ATTEMPT: &str = "hone.attempt";

/// Whose containers these are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owner {
    fleet: FleetId,
    node: NodeId,
}

impl Owner {
    pub(super) const fn new(fleet: FleetId, node: NodeId) -> Self {
        Self { fleet, node }
    }

    /// The labels of a container that runs `attempt`.
    pub(super) fn labels_of(&self, attempt: AttemptId) -> HashMap<String, String> {
        HashMap::from([
            (FLEET.to_owned(), self.fleet.to_string()),
            (NODE.to_owned(), self.node.to_string()),
            (JOB.to_owned(), attempt.job.to_string()),
            (GENERATION.to_owned(), attempt.token.generation.to_string()),
            (ATTEMPT.to_owned(), attempt.token.attempt.to_string()),
        ])
    }

    /// The label of a container that answers a question: this fleet's, and no node's.
    pub(super) fn labels_of_question(&self) -> HashMap<String, String> {
        HashMap::from([(FLEET.to_owned(), self.fleet.to_string())])
    }

    /// The engine's filter for exactly these containers.
    pub(super) fn filter(&self) -> HashMap<String, Vec<String>> {
        let labels = vec![format!("{FLEET}={}", self.fleet), format!("{NODE}={}", self.node)];
        HashMap::from([("label".to_owned(), labels)])
    }

    /// Whether a container with these labels is ours. Checked again on every answer: a filter that an engine ignores
    /// must not hand us other people's containers.
    pub(super) fn owns(&self, labels: &HashMap<String, String>) -> bool {
        labels.get(FLEET).map(String::as_str) == Some(self.fleet.as_str())
            && labels.get(NODE).map(String::as_str) == Some(self.node.as_str())
    }
}

/// The attempt that labels name, if they name one in the only way in which we write it.
pub(super) fn attempt_of(labels: &HashMap<String, String>) -> Option<AttemptId> {
    let number = |name: &str| {
        let text = labels.get(name)?;
        let value: u64 = text.parse().ok()?;
        (value.to_string() == *text).then_some(value)
    };
    Some(AttemptId {
        job: JobId::new(number(JOB)?),
        token: Token {
            generation: Generation::new(number(GENERATION)?),
            attempt: Attempt::new(u32::try_from(number(ATTEMPT)?).ok()?),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(fleet: &str, node: &str) -> Owner {
        Owner::new(fleet.parse().expect("a fleet"), node.parse().expect("a node"))
    }

    fn attempt() -> AttemptId {
        let token = Token { generation: Generation::new(3), attempt: Attempt::new(4) };
        AttemptId { job: JobId::new(u64::MAX), token }
    }

    #[test]
    fn labels_come_back_as_the_attempt_they_were_made_from() {
        let labels = owner("f", "n").labels_of(attempt());
        assert_eq!(attempt_of(&labels), Some(attempt()));
        assert!(owner("f", "n").owns(&labels));
        assert!(!owner("f", "other").owns(&labels) && !owner("other", "n").owns(&labels));
        assert!(!owner("f", "n").owns(&HashMap::new()));
    }

    #[test]
    fn labels_that_we_would_not_write_name_no_attempt() {
        for (name, value) in [
            (JOB, ""),
            (JOB, "07"),
            (JOB, "+7"),
            (JOB, "-1"),
            (GENERATION, "x"),
            (ATTEMPT, "4294967296"),
            (ATTEMPT, " 1"),
        ] {
            let mut labels = owner("f", "n").labels_of(attempt());
            labels.insert(name.to_owned(), value.to_owned());
            assert_eq!(attempt_of(&labels), None, "{name}={value:?} was accepted");
            labels.remove(name);
            assert_eq!(attempt_of(&labels), None, "no {name} was accepted");
        }
    }
}
