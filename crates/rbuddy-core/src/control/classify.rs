//! Judging replicas: those that have no role yet, those that came back as another process, those that were refused and have changed.

use super::action::StoryLevel;
use super::controller::Controller;
use super::guard;
use super::relay::SessionState;
use super::state::Role;
use crate::info::{Role as ServerRole, ServerInfo};
use crate::replication::psync::HoldReason;
use crate::types::{NodeAddress, Position, Time};

impl Controller {
    pub(super) fn classify(&mut self, now: Time) {
        for replica in self.policy.replicas.clone() {
            let Some(sight) = self.world.sight(&replica).filter(|sight| sight.is_answering()) else { continue };
            let Some(info) = sight.info().cloned() else { continue };
            match self.state.role(&replica).clone() {
                Role::Unknown => self.classify_unknown(&replica, &info),
                Role::Refused { .. } => self.look_again_at_refused(&replica, &info),
                Role::Active => self.classify_active(now, &replica, &info),
                Role::Standby => self.classify_standby(now, &replica, &info),
                Role::Draining => self.classify_draining(&replica, &info),
                Role::Emptying { .. } | Role::Drained => {}
            }
        }
    }

    /// First sight. What holds keys of the group's history serves; what holds nothing is a standby; what holds anything else is left alone.
    fn classify_unknown(&mut self, replica: &NodeAddress, info: &ServerInfo) {
        let Some(primary) = self.world.primary.info().cloned() else { return };
        if self.is_primary(replica, info) {
            return self.refuse(replica, "it is the primary itself: remove it from replicas".into());
        }
        if info.is_cluster {
            return self.refuse(replica, "it runs in cluster mode, which rbuddy does not support".into());
        }
        // While a dataset is on its way, what it will hold is not known.
        if info.is_loading || info.is_async_loading || info.is_sync_in_progress {
            return;
        }
        self.record(replica).run_id = info.run_id;
        if info.is_empty() {
            return self.set_role(replica, Role::Standby, "it holds nothing");
        }
        let id_is_ours = info
            .replid
            .is_some_and(|id| primary.replid == Some(id) || (primary.replid2 == Some(id) && !id.is_none()) || self.state.knows(id));
        match info.role {
            Some(ServerRole::Slave) if id_is_ours && self.is_older_than_actives(info, &primary) => {
                self.set_role(replica, Role::Standby, "it holds an older dataset of the group");
            }
            Some(ServerRole::Slave) if id_is_ours => {
                if let Some(position) = info.position() {
                    self.state.record(crate::replication::history::History::starting_at(position, None).ids());
                }
                self.set_role(replica, Role::Active, &format!("it holds {} keys of the primary's history", info.keyspace.keys));
                self.state.generation = self.state.generation.next();
            }
            Some(ServerRole::Slave | ServerRole::Master | ServerRole::Sentinel) | None => {
                let reason = match guard::owned(info, primary.run_id, &self.state, false) {
                    Err(reason) => reason,
                    Ok(()) => format!("it is no replica but holds {} keys: `rbuddy adopt` it if rbuddy may empty it", info.keyspace.keys),
                };
                self.refuse(replica, reason);
            }
        }
    }

    /// Of a history that the primary has left, while replicas serve that are on another one: readers must not go back to it (P10).
    fn is_older_than_actives(&self, info: &ServerInfo, primary: &ServerInfo) -> bool {
        let actives = self.having(|role| matches!(role, Role::Active));
        let is_shared = |active: &NodeAddress| self.world.info(active).is_some_and(|active| active.replid == info.replid);
        info.replid != primary.replid && info.replid != primary.replid2 && !actives.is_empty() && !actives.iter().any(is_shared)
    }

    pub(super) fn refuse(&mut self, replica: &NodeAddress, reason: String) {
        if !matches!(self.state.role(replica), Role::Refused { reason: known } if *known == reason) {
            self.record(replica).role = Role::Refused { reason: reason.clone() };
            self.story(StoryLevel::Warn, Some(replica), format!("refused, left alone: {reason}"));
        }
    }

    /// An operator may have emptied it, or started another server there.
    fn look_again_at_refused(&mut self, replica: &NodeAddress, info: &ServerInfo) {
        if info.is_empty() && !info.is_sync_in_progress && !self.is_primary(replica, info) && !info.is_cluster {
            self.record(replica).run_id = info.run_id;
            self.set_role(replica, Role::Standby, "it holds nothing any more");
        }
    }

    /// A standby that took foreign keys (it restarted as a primary and somebody wrote to it) is not ours to empty.
    fn classify_standby(&mut self, now: Time, replica: &NodeAddress, info: &ServerInfo) {
        if info.is_loading || info.is_sync_in_progress {
            return;
        }
        let adopted = self.state.replicas.get(replica).is_some_and(|record| record.adopted);
        if let Err(reason) = guard::owned(info, self.world.primary.run_id(), &self.state, adopted) {
            return self.refuse(replica, reason);
        }
        if self.record(replica).run_id != info.run_id {
            self.record(replica).run_id = info.run_id;
            self.story(StoryLevel::Info, Some(replica), "standby restarted".into());
            self.observe_own_load(now, replica, info);
        }
    }

    /// An active that is another process now serves again only when it stands at or past where it was.
    fn classify_active(&mut self, now: Time, replica: &NodeAddress, info: &ServerInfo) {
        let known = self.state.replicas.get(replica).and_then(|record| record.run_id);
        if self.is_detached(replica)
            && let (Some(own), Some(of)) = (info.replid, info.replid2)
        {
            // Should it restart or be detached once more, this is the id by which it is known as the group's.
            self.state.record_branch(own, of);
        }
        if info.run_id == known || info.is_loading {
            return;
        }
        if let Err(reason) = guard::owned(info, self.world.primary.run_id(), &self.state, false) {
            return self.refuse(replica, reason);
        }
        match self.comeback(now, replica, info) {
            Comeback::Whole => {
                self.record(replica).run_id = info.run_id;
                self.story(StoryLevel::Info, Some(replica), "restarted, and has all that it served before: serves again".into());
            }
            Comeback::Lost(why) => {
                self.record(replica).run_id = info.run_id;
                self.set_role(replica, Role::Standby, &format!("restarted without what it served before ({why})"));
            }
            Comeback::Undecided => {}
        }
    }

    /// Another process is no way back: whoever read the old one has lost the connection. What it is now is judged as of any standby.
    fn classify_draining(&mut self, replica: &NodeAddress, info: &ServerInfo) {
        if self.record(replica).run_id == info.run_id || info.is_loading {
            return;
        }
        match guard::owned(info, self.world.primary.run_id(), &self.state, false) {
            Err(reason) => self.refuse(replica, reason),
            Ok(()) => {
                self.record(replica).run_id = info.run_id;
                self.set_role(replica, Role::Standby, "restarted while readers left it");
            }
        }
    }

    fn comeback(&self, now: Time, replica: &NodeAddress, info: &ServerInfo) -> Comeback {
        if info.is_empty() && self.reference.is_some_and(|reference| reference.keyspace.keys > 0) {
            return Comeback::Lost("it is empty");
        }
        // A master is not at the other end of the session that is seen: that was the process before. Detached or not, it takes writes until it is fenced.
        let is_behind_relay = info.role == Some(ServerRole::Slave) && info.master.as_ref() == Some(&self.policy.relay);
        let Some(session) = self.world.session(replica).filter(|_| is_behind_relay) else {
            // Its configuration file may lead it elsewhere, or nowhere: `reconcile` brings it back behind the relay.
            return Comeback::Undecided;
        };
        let position = self.world.position(replica);
        let reached = match (self.served.get(replica), position) {
            (None, Some(_)) => true,
            (Some(served), Some(position)) => self.is_at_or_past(position, *served),
            (_, None) => false,
        };
        match &session.state {
            SessionState::Streaming { .. } if reached && self.has_fresh_sight(replica, session.since) => Comeback::Whole,
            // At the end of its history, with all of it.
            SessionState::Held(HoldReason::EndOfHistory { .. }) if reached => Comeback::Whole,
            // The relay may have forgotten the history that it stands on, over a restart of rbuddy; it is whole all the same (P2).
            SessionState::Held(HoldReason::NeedsFullResync(_)) if reached && self.fitting(now).is_empty() => Comeback::Whole,
            SessionState::Held(HoldReason::NeedsFullResync(_)) => Comeback::Lost("it is too far behind to continue"),
            SessionState::Held(HoldReason::EndOfHistory { .. }) => Comeback::Lost("its history ended before where it was"),
            SessionState::Held(
                HoldReason::NotPermitted
                | HoldReason::NoSnapshot { .. }
                | HoldReason::CannotLoad { .. }
                | HoldReason::AnotherProcess
                | HoldReason::UpstreamUnknown
                | HoldReason::Ahead { .. },
            )
            | SessionState::Streaming { .. }
            | SessionState::Seeding { .. }
            | SessionState::Loading { .. } => Comeback::Undecided,
        }
    }

    /// Whether `position` is on the history of `served`, and not before it.
    pub(super) fn is_at_or_past(&self, position: Position, served: Position) -> bool {
        let same_history = position.replid == served.replid
            || self.world.relay.histories.iter().any(|history| {
                let has = |id| history.ids().iter().any(|known| known.replid == id);
                has(position.replid) && has(served.replid)
            });
        same_history && position.offset >= served.offset
    }

    /// It was looked at after `since`.
    pub(super) fn has_fresh_sight(&self, replica: &NodeAddress, since: Time) -> bool {
        self.world.sight(replica).is_some_and(|sight| sight.is_answering() && sight.asked_at.is_some_and(|at| at >= since))
    }
}

enum Comeback {
    /// It has all that it served before.
    Whole,
    /// It has not, and will not get it by itself.
    Lost(&'static str),
    /// Not known yet.
    Undecided,
}
