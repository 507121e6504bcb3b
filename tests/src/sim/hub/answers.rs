//! What the controller says after a turn: messages to nodes, answers to whoever waits, and answers that get lost.

use hone_controller::core::{Commit, Effect, Input, Reply, Session, Ticket, ToAgent};
use hone_proto::error::Refusal;
use hone_proto::id::NodeId;

use super::Waits;
use crate::sim::link::nanos;
use crate::sim::world::{Happening, Step, World};

impl World {
    pub(in crate::sim) fn act_all(&mut self, rest: Vec<Effect>, most: Option<usize>) -> Step {
        for effect in rest.into_iter().take(most.unwrap_or(usize::MAX)) {
            match effect {
                Effect::Send(node, session, message) => self.say(&node, session, message)?,
                Effect::Close(node, session, _) => self.close(&node, session),
                Effect::Reply(ticket, result) => self.reply(ticket, result)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn say(&mut self, node: &NodeId, session: Session, message: ToAgent) -> Step {
        if let Some((open, link)) = self.hub.open.get(node)
            && *open == session
        {
            let link = *link;
            self.checker.said(node, &message)?;
            self.send_down(link, message);
        }
        Ok(())
    }

    fn close(&mut self, node: &NodeId, session: Session) {
        if let Some((open, link)) = self.hub.open.get(node)
            && *open == session
        {
            let link = *link;
            self.hub.open.remove(node);
            self.break_link(link);
        }
        let life = self.hub.life;
        let replaced: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.session == Some((life, session)))
            .map(|(id, _)| *id)
            .collect();
        for link in replaced {
            self.break_link(link);
        }
    }

    fn reply(&mut self, ticket: Ticket, result: Result<Reply, Refusal>) -> Step {
        let Some(waits) = self.hub.waiting.remove(&ticket) else { return Ok(()) };
        if let Waits::Person(wish) = waits {
            self.checker.promised(wish, &result)?;
        }
        if !self.calm && self.chance.one_in(30) {
            self.count("answer lost");
            self.answer_lost(waits);
            return Ok(());
        }
        let delay = nanos(self.chance.span(2, 300));
        match waits {
            Waits::Person(wish) => {
                self.after(delay, Happening::Answered(wish, result));
            }
            Waits::Agent { node, life, call } => {
                self.after(delay, Happening::Committed { node, life, call, result });
            }
            Waits::Nobody => {}
        }
        Ok(())
    }

    /// The caller hears nothing, or only that the connection broke.
    pub(in crate::sim) fn answer_lost(&mut self, waits: Waits) {
        let delay = nanos(self.chance.span(100, 20_000));
        match waits {
            Waits::Person(wish) => self.after(delay, Happening::Unanswered(wish)),
            Waits::Agent { node, life, call } => {
                self.after(delay, Happening::CommitLost { node, life, call });
            }
            Waits::Nobody => {}
        }
    }

    pub(in crate::sim) fn hub_commit_call(
        &mut self,
        node: usize,
        life: u64,
        call: u64,
        commit: Commit,
    ) {
        let ticket = self.ticket();
        let id = self.machines[node].id.clone();
        self.hub_tell(
            Input::Commit { ticket, node: id, commit },
            Waits::Agent { node, life, call },
        );
    }
}
