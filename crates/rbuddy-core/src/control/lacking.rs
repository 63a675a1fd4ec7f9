//! Standbys that have evicted keys under a limit that those who serve have not: they follow, at the position of a complete dataset, and are none. To raise the
//! limit brings nothing back, so such a one is filled anew before it is promoted (P4).
//!
//! Its process counts what it evicts; where the actives have the same limit that is how the operator wants it, and counts for nothing here. It is written
//! down until a process that was emptied has loaded what it was given: what was saved before lacks the same, and it may die while it is filled. Not here:
//! limits that do not fit (`drift.rs`), and when they are of no account (`hindrance.rs`).

use super::action::StoryLevel;
use super::controller::Controller;
use super::relay::SessionState;
use super::state::Role;
use super::status::Setting;
use super::world::Sight;
use crate::info::ServerInfo;
use crate::types::{DatasetId, NodeAddress, RunId, Time};

impl Controller {
    /// Takes in who has evicted, and who begins with a whole dataset again.
    pub(super) fn observe_lacking(&mut self, now: Time) {
        for replica in self.policy.replicas.clone() {
            let Some(info) = self.world.sight(&replica).filter(|sight| sight.is_answering()).and_then(|sight| sight.info()) else {
                continue;
            };
            let (run_id, is_empty, is_loading) = (info.run_id, info.is_empty(), info.is_loading);
            let has_evicted = !is_empty && info.evicted_keys.is_some_and(|keys| keys > 0);
            let state = self.world.session(&replica).map(|session| &session.state);
            let is_given = matches!(state, Some(SessionState::Seeding { .. } | SessionState::Loading { .. }));
            // The relay hears a moment later than we that it has loaded.
            let is_filled = matches!(state, Some(SessionState::Seeding { .. })) || (is_given && (is_loading || is_empty));
            if self.is_known_to_lack(&replica) {
                self.observe_refill(&replica, run_id, is_empty, is_given, is_loading);
            } else if has_evicted && !is_filled && *self.state.role(&replica) == Role::Standby && self.has_too_little_memory(now, &replica)
            {
                self.note_lacking(&replica);
            }
        }
    }

    /// What a process had is gone, and what it is given is whole. Another one has loaded what was saved before.
    fn observe_refill(&mut self, replica: &NodeAddress, process: Option<RunId>, is_empty: bool, is_given: bool, is_loading: bool) {
        let Some(process) = process else { return };
        match self.refilled.get(replica) {
            _ if is_empty => _ = self.refilled.insert(replica.clone(), process),
            Some(known) if *known != process => _ = self.refilled.remove(replica),
            None if is_given && is_loading => _ = self.refilled.insert(replica.clone(), process),
            Some(_) if !(is_given || is_loading) => {
                self.refilled.remove(replica);
                self.record(replica).lacks_keys = false;
            }
            Some(_) | None => {}
        }
    }

    /// Another process, with what it has loaded by itself, under such a limit: what the one before has evicted nobody counts any more.
    pub(super) fn observe_own_load(&mut self, now: Time, standby: &NodeAddress, info: &ServerInfo) {
        if !info.is_empty() && !self.lacks_keys(standby) && self.has_too_little_memory(now, standby) {
            self.note_lacking(standby);
        }
    }

    fn note_lacking(&mut self, replica: &NodeAddress) {
        self.record(replica).lacks_keys = true;
        let text =
            "lacks keys that others have, evicted under a lower maxmemory: once that is raised it is filled anew, before it is promoted";
        self.story(StoryLevel::Warn, Some(replica), text.to_owned());
    }

    /// What it holds is not plausible. Whether that is its own loss and not the dataset's: the limit may have been raised before anybody looked, and another
    /// process may have loaded what was left.
    pub(super) fn is_to_blame(&mut self, now: Time, standby: &NodeAddress, dataset: DatasetId) -> bool {
        let is_its_own = matches!(self.judge_primary(now, dataset), Some(Ok(())));
        if is_its_own {
            self.note_lacking(standby);
        }
        is_its_own
    }

    /// What it holds now is not whole.
    pub(super) fn lacks_keys(&self, replica: &NodeAddress) -> bool {
        self.is_known_to_lack(replica) && !self.refilled.contains_key(replica)
    }

    fn is_known_to_lack(&self, replica: &NodeAddress) -> bool {
        self.state.replicas.get(replica).is_some_and(|record| record.lacks_keys)
    }

    fn has_too_little_memory(&self, now: Time, replica: &NodeAddress) -> bool {
        let others = self.compared_with(now, replica);
        let mut others: Vec<&Sight> =
            others.iter().filter_map(|other| self.world.sight(other)).filter(|sight| sight.probe.is_some()).collect();
        if others.is_empty() {
            // No replica is left to tell what is usual here. The primary has all of the dataset.
            others.push(&self.world.primary);
        }
        let is_of_memory = |setting| matches!(setting, Setting::Maxmemory | Setting::MaxmemoryPolicy);
        let mut differences = others.into_iter().flat_map(|other| self.differences(replica, other));
        differences.any(|difference| difference.hurts && is_of_memory(difference.setting))
    }

    /// The others have it all, and no operator allows it.
    pub(super) fn is_held_back_for_keys(&self, now: Time, standby: &NodeAddress) -> bool {
        self.lacks_keys(standby) && !self.is_drift_allowed(standby) && !self.serving(now).is_empty()
    }

    /// So much that the guard would not have it promoted, whoever serves. That says nothing of the dataset: another standby may hold all of it.
    pub(super) fn lacks_too_much(&self, now: Time, standby: &NodeAddress) -> bool {
        let is_approved = || self.dataset_for(standby).is_some_and(|dataset| self.is_approved(dataset));
        let is_implausible = || self.world.info(standby).is_some_and(|info| self.judge(now, info.keyspace).is_err());
        self.lacks_keys(standby) && !is_approved() && is_implausible()
    }

    /// It has the memory now, and the snapshot is there: it is emptied, to be filled as any other. Whether that was begun.
    pub(super) fn fill_anew(&mut self, now: Time, standby: &NodeAddress) -> bool {
        let is_of_use = self.is_held_back_for_keys(now, standby) || self.lacks_too_much(now, standby);
        if !is_of_use || self.has_too_little_memory(now, standby) {
            return false;
        }
        let run_id = self.world.sight(standby).and_then(|sight| sight.run_id());
        if let (Some(_), Some(run_id)) = (self.usable_snapshot(now), run_id) {
            self.set_role(standby, Role::Emptying { run_id }, "lacks keys, and has the memory for all of them now: to be filled anew");
        }
        true
    }
}
