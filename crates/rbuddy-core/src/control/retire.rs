//! Readers leave a replica; then it is emptied and becomes the new standby. Or it takes back over, if the new active dies meanwhile.

use super::action::{ServerCommand, StoryLevel};
use super::assignment::NotificationEvent;
use super::controller::Controller;
use super::guard;
use super::settings::StandbyMode;
use super::state::Role;
use crate::info::Role as ServerRole;
use crate::types::{NodeAddress, Time};

impl Controller {
    /// Nothing serves any more, and a replica that readers have left only lately is still whole: it takes back over.
    pub(super) fn take_back(&mut self, now: Time) {
        let actives = self.having(|role| matches!(role, Role::Active));
        let is_dead = |active: &NodeAddress| self.world.sight(active).is_some_and(|sight| sight.is_dead(now, self.policy.dead_after));
        let is_seen = |active: &NodeAddress| self.world.sight(active).is_some_and(|sight| sight.is_answering());
        // One that was not looked at yet, just after a start of rbuddy, may be as well as ever.
        if !self.serving(now).is_empty() || !actives.iter().all(|active| is_dead(active) || is_seen(active)) {
            self.unserved_since = None;
            return;
        }
        // One that answers has restarted, and may be about to come back with all it had.
        let is_patient = actives.iter().any(is_seen);
        let since = *self.unserved_since.get_or_insert(now);
        if is_patient && now.since(since) < self.policy.dead_after {
            return;
        }
        let whole = |replica: &NodeAddress| {
            self.world.sight(replica).is_some_and(|sight| sight.is_answering())
                && self.can_serve(now, replica)
                && self.world.info(replica).is_some_and(|info| !info.is_sync_in_progress)
        };
        let mut whole: Vec<NodeAddress> = self.having(|role| matches!(role, Role::Draining)).into_iter().filter(whole).collect();
        // Readers of the new dataset do not go back to the old one where another has the new one as well (P10).
        whole.sort_by_key(|replica| !self.world.fits_live(replica));
        let Some(back) = whole.into_iter().next() else { return };
        let dead = actives;
        self.state.generation = self.state.generation.next();
        let generation = self.state.generation;
        let names = dead.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.story(StoryLevel::Warn, Some(&back), format!("taking back over, generation {generation}: lost during the drain: {names}"));
        // An operator's wish to stop it has to wait for better times.
        self.record(&back).is_to_rest = false;
        self.set_role(&back, Role::Active, "takes back over");
        for replica in &dead {
            self.set_role(replica, Role::Draining, "died during the drain");
        }
        self.notify(now, NotificationEvent::Failover, dead.first().cloned(), back);
    }

    /// Steps of replicas that readers leave, and of those that are being emptied. These first: the intent is on disk before anything follows from it,
    /// and by then the world may be another (P2).
    pub(super) fn drain(&mut self, now: Time) {
        for replica in self.having(|role| matches!(role, Role::Emptying { .. })) {
            self.empty(now, &replica);
        }
        for replica in self.having(|role| matches!(role, Role::Draining)) {
            if self.drain_until.get(&replica).is_some_and(|until| now >= *until) {
                self.end_drain(now, &replica);
            }
        }
    }

    /// Readers' time to leave begins when they have been told: the disk may have taken long to write that down.
    pub(super) fn begin_drains(&mut self, now: Time) {
        let told: Vec<NodeAddress> =
            self.assignment.iter().flat_map(|assignment| &assignment.draining).map(|draining| draining.address.clone()).collect();
        for replica in self.drains_to_begin().into_iter().filter(|replica| told.contains(replica)) {
            self.drain_until.insert(replica, now.after(self.policy.drain));
        }
    }

    pub(super) fn drains_to_begin(&self) -> Vec<NodeAddress> {
        let mut draining = self.having(|role| matches!(role, Role::Draining));
        draining.retain(|replica| !self.drain_until.contains_key(replica));
        draining
    }

    fn end_drain(&mut self, now: Time, replica: &NodeAddress) {
        let is_to_rest = self.state.replicas.get(replica).is_some_and(|record| record.is_to_rest);
        // Its operator did not wait.
        if is_to_rest && self.world.sight(replica).is_some_and(|sight| sight.is_dead(now, self.policy.dead_after)) {
            return self.rest(replica);
        }
        let Some(sight) = self.world.sight(replica).filter(|sight| sight.is_answering() && sight.asked_at.is_some()) else { return };
        let Some(info) = sight.info().cloned() else { return };
        // P2: it is the last complete copy until somebody else serves.
        if info.is_loading || !self.somebody_else_serves(now, replica) {
            return;
        }
        if !self.disconnected.contains(replica) {
            return self.command(now, replica, ServerCommand::DisconnectClients);
        }
        if is_to_rest {
            return self.rest(replica);
        }
        let seeded_next = self.is_short(now) || self.policy.standby == StandbyMode::Warm;
        match info.run_id {
            // Its held PSYNC gets the next snapshot: emptying it first would only cost time.
            _ if seeded_next && info.role == Some(ServerRole::Slave) => self.set_role(replica, Role::Standby, "drained, to be seeded next"),
            Some(run_id) => self.set_role(replica, Role::Emptying { run_id }, "drained, to be emptied"),
            None => {}
        }
    }

    fn somebody_else_serves(&self, now: Time, replica: &NodeAddress) -> bool {
        let serves = |other: &NodeAddress| other != replica && self.world.sight(other).is_some_and(|sight| sight.is_answering());
        self.serving(now).iter().any(serves)
    }

    fn empty(&mut self, now: Time, replica: &NodeAddress) {
        let Role::Emptying { run_id } = *self.state.role(replica) else { return };
        let Some(probe) = self.world.sight(replica).filter(|s| s.is_answering() && s.asked_at.is_some()).and_then(|s| s.probe.clone())
        else {
            return;
        };
        let info = &probe.info;
        if info.is_loading || self.is_busy(replica) {
            return;
        }
        if info.run_id != Some(run_id) {
            // Another process than the one that the intent names, and that an operator gave away: judge it anew, and write the new intent down first.
            self.record(replica).adopted = false;
            match (guard::owned(info, self.world.primary.run_id(), &self.state, false), info.run_id) {
                (Ok(()), Some(run_id)) => self.set_role(replica, Role::Emptying { run_id }, "restarted while it was being emptied"),
                (Ok(()), None) => {}
                (Err(reason), _) => self.set_role(replica, Role::Refused { reason }, "restarted while it was being emptied"),
            }
            return;
        }
        let is_at_rest = info.is_empty()
            && info.role == Some(ServerRole::Slave)
            && info.master.as_ref() == Some(&self.policy.relay)
            && probe.serve_stale != Some(true);
        if is_at_rest {
            // How far it served stays known: its readers are elsewhere now, and must not find less there (P10).
            let record = self.record(replica);
            (record.adopted, record.run_id) = (false, Some(run_id));
            return self.set_role(replica, Role::Standby, "emptied, waits as standby");
        }
        let adopted = self.state.replicas.get(replica).is_some_and(|record| record.adopted);
        // P3 once more, at the last moment; P2: not before somebody else serves, unless an operator released it.
        let owned = guard::owned(info, self.world.primary.run_id(), &self.state, adopted);
        if let Err(reason) = owned {
            return self.set_role(replica, Role::Refused { reason }, "is not rbuddy's to empty");
        }
        // What lacks so much is no complete copy, and the snapshot is one. (What is written down may be out of date: one that died as soon as it was filled
        // comes back with all of it.)
        let has_better = self.lacks_too_much(now, replica) && self.world.relay.ready_snapshot().is_some();
        if self.somebody_else_serves(now, replica) || adopted || has_better {
            self.command(now, replica, ServerCommand::Empty { run_id, detached: info.role == Some(ServerRole::Master) });
        } else if self.is_short(now) {
            // Who was to serve meanwhile is gone. Its data are no fallback any more, but it can be filled as well as any other.
            self.set_role(replica, Role::Standby, "nobody else serves: to be seeded as it is");
        }
    }
}
