//! What the bulk service asks of the fleet, answered by the core.

use std::sync::Arc;

use hone_proto::error::{Reason, Refusal};
use hone_proto::id::{Digest, ProjectName};
use hone_proto::identity::{Peer, Role};
use hone_proto::manifest::Kind;
use hone_proto::telemetry;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::bulk::{CommitCall, Fleet};
use crate::core::record::SavedKind;
use crate::core::{Commit, Input, Reply};
use crate::driver::Handle;
use hone_proto::bulk::Scope;

/// The fleet as the bulk service sees it.
#[derive(Clone)]
pub struct BulkFleet(Arc<Handle>);

impl BulkFleet {
    /// The fleet behind this handle.
    #[must_use]
    pub fn new(fleet: Handle) -> Self {
        Self(Arc::new(fleet))
    }

    /// The core's word on a commit; durable when it comes.
    async fn decide(&self, call: CommitCall) -> Result<(), Refusal> {
        let manifest = call.manifest.manifest();
        let digest = call.manifest.digest();
        let bytes = manifest.total_size();
        let kind = manifest.kind;
        let reply = match (call.caller, call.scope, kind) {
            (
                Peer::Node(node),
                Scope::Attempt(attempt),
                Kind::Checkpoint { .. } | Kind::Package { .. },
            ) => {
                let saved = match kind {
                    Kind::Package { .. } => SavedKind::Package,
                    _ => SavedKind::Checkpoint,
                };
                let commit = Commit {
                    attempt,
                    kind: saved,
                    step: kind.step().unwrap_or_default(),
                    manifest: digest,
                    bytes,
                    files: u64::try_from(manifest.files.len()).unwrap_or(u64::MAX),
                };
                self.0.call(move |ticket| Input::Commit { ticket, node, commit }).await?
            }
            (Peer::User(user), Scope::Project(project), Kind::Input | Kind::Image) => {
                let commit = move |ticket| Input::CommitObject {
                    ticket,
                    user,
                    project,
                    manifest: digest,
                    bytes,
                };
                self.0.call(commit).await?
            }
            (Peer::Node(_) | Peer::User(_) | Peer::Controller, ..) => return Err(denied()),
        };
        match reply {
            Reply::Done | Reply::Job { .. } | Reply::Spent(_) => Ok(()),
        }
    }
}

fn denied() -> Refusal {
    Refusal::new(Reason::NotPermitted, "this scope is not the caller's")
}

impl Fleet for BulkFleet {
    async fn authorise_scope(&self, caller: &Peer, scope: &Scope) -> Result<ProjectName, Refusal> {
        match (caller, scope) {
            (Peer::Node(node), Scope::Attempt(attempt)) => {
                let (node, attempt) = (node.clone(), *attempt);
                self.0.read(move |fleet| fleet.holds(&node, attempt)).await?
            }
            (Peer::User(user), Scope::Project(project)) => {
                let access = self.0.access();
                let known = access.borrow().users.contains_key(user);
                if known { Ok(project.clone()) } else { Err(denied()) }
            }
            (Peer::Node(_) | Peer::User(_) | Peer::Controller, _) => Err(denied()),
        }
    }

    async fn scope_of_commit(&self, caller: &Peer, scope: &Scope) -> Result<ProjectName, Refusal> {
        match (caller, scope) {
            (Peer::Node(node), Scope::Attempt(attempt)) => {
                let (node, attempt) = (node.clone(), *attempt);
                self.0.read(move |fleet| fleet.owns(&node, attempt)).await?
            }
            (Peer::Node(_) | Peer::User(_) | Peer::Controller, _) => {
                self.authorise_scope(caller, scope).await
            }
        }
    }

    async fn commit(&self, call: CommitCall) -> Result<(), Refusal> {
        let span = tracing::info_span!("commit", scope = %call.scope, otel.status_code = Empty);
        let committed = self.decide(call).instrument(span.clone()).await;
        if committed.is_err() {
            telemetry::failed(&span);
        }
        committed
    }

    async fn readable(
        &self,
        caller: &Peer,
        scope: &Scope,
        project: &ProjectName,
        manifest: Digest,
    ) -> Result<(), Refusal> {
        let found = match (caller, scope) {
            (Peer::Node(_), Scope::Attempt(attempt)) => {
                let attempt = *attempt;
                self.0.read(move |fleet| fleet.node_reads(attempt, &manifest)).await?
            }
            (Peer::User(user), Scope::Project(_)) => {
                let role = self.0.access().borrow().users.get(user).copied();
                let project = project.clone();
                role >= Some(Role::Viewer)
                    && self.0.read(move |fleet| fleet.project_has(&project, &manifest)).await?
            }
            (Peer::Node(_) | Peer::User(_) | Peer::Controller, _) => false,
        };
        let missing = || Refusal::new(Reason::NotFound, format!("{manifest} is not stored"));
        found.then_some(()).ok_or_else(missing)
    }
}
