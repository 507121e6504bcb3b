//! On whose behalf bulk data moves.

use std::fmt;

use crate::convert::WireError;
use crate::id::{AttemptId, ProjectName};
use crate::wire;

/// On whose behalf: a node names the attempt, a user the project.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Scope {
    /// The job's project, for as long as the attempt is the node's.
    Attempt(AttemptId),
    /// A project that the user works in.
    Project(ProjectName),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attempt(attempt) => attempt.fmt(f),
            Self::Project(project) => write!(f, "project {project}"),
        }
    }
}

impl From<&Scope> for wire::Scope {
    fn from(scope: &Scope) -> Self {
        let scope = match scope {
            Scope::Attempt(attempt) => wire::scope::Scope::Attempt((*attempt).into()),
            Scope::Project(project) => wire::scope::Scope::Project(project.to_string()),
        };
        Self { scope: Some(scope) }
    }
}

impl TryFrom<Option<wire::Scope>> for Scope {
    type Error = WireError;
    fn try_from(scope: Option<wire::Scope>) -> Result<Self, WireError> {
        match scope.and_then(|scope| scope.scope).ok_or_else(|| WireError::missing("scope"))? {
            wire::scope::Scope::Attempt(attempt) => Ok(Self::Attempt(attempt.into())),
            wire::scope::Scope::Project(project) => {
                project.parse().map(Self::Project).map_err(WireError::id("scope.project"))
            }
        }
    }
}
