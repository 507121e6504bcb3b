//! `hone-agent join`: takes the state directory for itself, looks whose it is, and only then spends a token.

use std::fs::File;

use hone_proto::enrol::{Invitation, is_spent, join};
use hone_proto::identity::{IdentityDir, IdentityRecord};

use super::{RunError, prepare};
use crate::layout::Layout;

/// A state directory in which no agent runs and that no node that works calls its own.
#[derive(Debug)]
pub struct Vacant {
    dir: IdentityDir,
    _alone: File,
}

impl Vacant {
    /// Takes it. A node that is there makes room when `again` says so, when its certificate has expired, or when its
    /// controller refuses it.
    pub async fn take(layout: &Layout, again: bool) -> Result<Self, RunError> {
        let alone = prepare(layout)?;
        let dir = IdentityDir::new(layout.identity());
        if dir.exists() && !again {
            let (held, record) = dir.load()?;
            // A controller that is not there says nothing of its node.
            if !is_spent(&held, &record.controller).await.unwrap_or(false) {
                let (path, node) = (layout.root().to_owned(), held.certificate().id.to_string());
                return Err(RunError::Joined { path, node });
            }
        }
        Ok(Self { dir, _alone: alone })
    }

    /// Spends a token for an identity, and keeps it.
    pub async fn join(self, invitation: Invitation) -> Result<IdentityRecord, RunError> {
        let (_, record) = join(&self.dir, invitation).await.map_err(RunError::Join)?;
        Ok(record)
    }
}
