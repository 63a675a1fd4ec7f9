//! A server that an operator wants to stop, upgrade or move: readers leave it without a failed read, it comes to rest as `Drained`, and takes part again
//! when the operator says so. And the answer to "may I stop this one now?".
//!
//! Promises: readers leave only where another replica takes them; one that is drained is neither read, nor resynced, nor emptied, nor told anything, until
//! it is returned, and is then judged by what it holds, as any other. Not here: the switch itself (`planned.rs`) and the drain (`retire.rs`).

use super::action::StoryLevel;
use super::controller::Controller;
use super::guard;
use super::state::Role;
use super::status::{MayStop, OperationResult};
use crate::info::Role as ServerRole;
use crate::types::{NodeAddress, Position, Time};
use std::collections::BTreeSet;

impl Controller {
    /// `rbuddy drain`: what is to happen with it from now on.
    pub(super) fn take_out(&mut self, now: Time, replica: &NodeAddress) -> OperationResult {
        if !self.policy.replicas.contains(replica) {
            return Err(format!("{replica} is not in replicas"));
        }
        if self.state.paused {
            return Err("the group is paused: `rbuddy resume` it first".into());
        }
        match self.state.role(replica) {
            Role::Drained => Ok(format!("{replica} is drained: it may be stopped")),
            Role::Refused { .. } => Ok(format!("{replica} is refused: rbuddy does nothing with it, and it may be stopped")),
            Role::Unknown => Err(format!("{replica} is not judged yet: ask again in a moment")),
            Role::Standby => {
                let MayStop { allowed, reason } = self.may_stop(now, replica);
                if !allowed {
                    return Err(format!("{replica} is needed: {reason}. Ask again when that is over"));
                }
                self.record(replica).is_to_rest = true;
                self.rest(replica);
                Ok(format!("{replica} is drained: it may be stopped"))
            }
            Role::Draining | Role::Emptying { .. } => {
                self.record(replica).is_to_rest = true;
                Ok(format!("{replica} is being left already, and comes to rest as drained: see `rbuddy may-stop`"))
            }
            Role::Active => self.take_out_active(now, replica),
        }
    }

    fn take_out_active(&mut self, now: Time, replica: &NodeAddress) -> OperationResult {
        let then = "then it is drained: see `rbuddy may-stop`";
        if let Some(planned) = &self.planned {
            if !planned.old.contains(replica) {
                return Err("another switch is under way: ask again when it is done".into());
            }
            self.record(replica).is_to_rest = true;
            return Ok(format!("a switch away from {replica} is under way; {then}"));
        }
        if let Some(other) = self.who_else_serves(now, replica) {
            self.record(replica).is_to_rest = true;
            self.leave(now, replica, "taken out by an operator", Some(other));
            return Ok(format!("readers have {:?} to leave {replica}; {then}", self.policy.drain));
        }
        let switching = self.plan_switch(now, BTreeSet::from([replica.clone()]))?;
        if self.planned.is_none() {
            return Err(format!("{switching}: ask again when it is done"));
        }
        self.record(replica).is_to_rest = true;
        Ok(format!("{switching}; {then}"))
    }

    /// `rbuddy return`: it takes part again.
    pub(super) fn take_back_in(&mut self, now: Time, replica: &NodeAddress) -> OperationResult {
        if !self.policy.replicas.contains(replica) {
            return Err(format!("{replica} is not in replicas"));
        }
        let is_answering = self.world.sight(replica).is_some_and(|sight| sight.is_answering());
        let run_id = self.world.sight(replica).and_then(|sight| sight.run_id());
        match self.state.role(replica) {
            Role::Drained if self.state.paused => Err("the group is paused: `rbuddy resume` it first".into()),
            Role::Drained if !is_answering => Err(format!("{replica} does not answer: start it first")),
            Role::Drained => {
                let record = self.record(replica);
                (record.is_to_rest, record.run_id) = (false, run_id);
                if self.may_serve_as_it_is(now, replica) {
                    // As any that readers have left: it takes back over where nobody else serves (P2), and is emptied or filled otherwise.
                    self.set_role(replica, Role::Draining, "returned by an operator, with a whole dataset");
                    self.drain_until.insert(replica.clone(), now);
                    self.disconnected.insert(replica.clone());
                } else {
                    self.set_role(replica, Role::Standby, "returned by an operator; judged by what it holds");
                }
                Ok(format!("{replica} takes part again: it serves if it is needed and has all that it must have, else it is the standby"))
            }
            Role::Active | Role::Draining | Role::Emptying { .. } if self.state.replicas.get(replica).is_some_and(|r| r.is_to_rest) => {
                self.record(replica).is_to_rest = false;
                if self.planned.as_ref().is_some_and(|planned| planned.old.contains(replica)) {
                    self.give_up_planned("returned by an operator");
                }
                Ok(format!("{replica} is not taken out after all"))
            }
            Role::Unknown | Role::Active | Role::Standby | Role::Draining | Role::Emptying { .. } => {
                Ok(format!("{replica} takes part already"))
            }
            Role::Refused { reason } => Err(format!("{replica} is refused: {reason}")),
        }
    }

    /// It is whole and the group's own, and readers have seen nothing newer elsewhere (P10).
    fn may_serve_as_it_is(&self, now: Time, replica: &NodeAddress) -> bool {
        let (Some(info), Some(position)) = (self.world.info(replica), self.world.position(replica)) else { return false };
        let is_ours = !info.is_empty() && guard::owned(info, self.world.primary.run_id(), &self.state, false).is_ok();
        let age = |replid| self.state.ids.iter().position(|known| known.replid == replid);
        // An id that is not known may be its own, given when it restarted with less.
        let is_newer = |served: &Position| age(position.replid).zip(age(served.replid)).is_some_and(|(own, served)| own < served);
        let has = |served: &Position| self.is_at_or_past(position, *served) || is_newer(served);
        // One that was detached, and another process since, takes writes until it is fenced (P9).
        let is_read_only = info.role == Some(ServerRole::Slave);
        is_ours && is_read_only && !info.is_sync_in_progress && self.can_serve(now, replica) && self.served.values().all(has)
    }

    /// What an operator wished goes on, also after a restart of rbuddy: readers leave who is to be taken out, and who was left by everybody comes to rest.
    pub(super) fn go_on_taking_out(&mut self, now: Time) {
        let wished = |replica: &NodeAddress| self.state.replicas.get(replica).is_some_and(|record| record.is_to_rest);
        let read = self.having(|role| matches!(role, Role::Active)).into_iter().find(wished);
        if let Some(replica) = read.filter(|_| self.planned.is_none() && self.begin.is_some() && !self.is_short(now)) {
            // What stands in the way is looked at again in the next pass.
            let _ = self.take_out_active(now, &replica);
        }
        for replica in self.having(|role| matches!(role, Role::Standby)) {
            if self.state.replicas.get(&replica).is_some_and(|record| record.is_to_rest) && !self.is_silently_loading(&replica) {
                self.rest(&replica);
            }
        }
    }

    pub(super) fn rest(&mut self, replica: &NodeAddress) {
        self.seeds.remove(replica);
        self.set_role(replica, Role::Drained, "nobody reads it: it may be stopped");
    }

    /// Readers leave an active whose data others have as well.
    pub(super) fn leave(&mut self, now: Time, replica: &NodeAddress, why: &str, other: Option<NodeAddress>) {
        self.state.generation = self.state.generation.next();
        let drain = self.policy.drain;
        self.set_role(replica, Role::Draining, &format!("{why}; readers have {drain:?} to leave"));
        self.tell_leavers(now, replica.clone(), other);
    }

    /// Another active that is as good: readers never go back to an older dataset (P10).
    pub(super) fn who_else_serves(&self, now: Time, replica: &NodeAddress) -> Option<NodeAddress> {
        let newness = |replica: &NodeAddress| self.progress(replica).map(|(newness, _)| newness);
        let is_as_good =
            |other: &NodeAddress| self.world.fits_live(other) || (!self.world.fits_live(replica) && newness(other) >= newness(replica));
        self.serving(now).into_iter().find(|other| other != replica && is_as_good(other))
    }

    /// Whether stopping it now would be noticed by anybody.
    pub(super) fn may_stop(&self, now: Time, replica: &NodeAddress) -> MayStop {
        let no = |reason: String| MayStop { allowed: false, reason };
        let yes = |reason: &str| MayStop { allowed: true, reason: reason.into() };
        match self.state.role(replica) {
            Role::Drained => yes("it is drained: nobody reads it"),
            Role::Refused { .. } => yes("it is refused: rbuddy sends nobody there"),
            Role::Unknown => no("it is not judged yet".into()),
            Role::Active if self.who_else_serves(now, replica).is_some() => no("it is read: `rbuddy drain` it first".into()),
            Role::Active if self.choose_candidate(now).is_some() => {
                no("it is read, and the only one that serves: `rbuddy drain` switches to a standby first".into())
            }
            Role::Active => no("it is the only one that serves, and nothing could take over: add a standby first".into()),
            Role::Draining => no("readers are leaving it".into()),
            Role::Emptying { .. } => no("it is being emptied".into()),
            Role::Standby if self.is_silently_loading(replica) => no("it is being filled".into()),
            Role::Standby if self.is_short(now) => no("a failover is under way and may need it".into()),
            Role::Standby => yes("it is a standby: nobody reads it, and nothing needs it just now"),
        }
    }

    /// A planned switch comes to nothing; the one that was to be left goes on.
    pub(super) fn give_up_planned(&mut self, why: &str) {
        let Some(planned) = self.planned.take() else { return };
        for replica in planned.old {
            self.record(&replica).is_to_rest = false;
        }
        self.story(StoryLevel::Warn, None, format!("planned switch given up: {why}"));
    }
}
