//! What readers have seen of each active, and so what they must find at the next one (P10).
//!
//! Promise: within a history nobody is sent to less than the active that is left was fed, and nobody waits for what the history that goes on will never
//! have. Not here: what one connection has read (`reader/trail.rs`).

use super::assignment::Assignment;
use super::controller::Controller;
use super::relay::{SessionEnd, SessionView};
use super::state::Role;
use super::world::stands_on;
use crate::info::ServerInfo;
use crate::replication::history::{History, Standing};
use crate::types::{NodeAddress, Offset, Position, ReplId};
use std::collections::BTreeMap;

impl Controller {
    /// What this active must have. The readers of one that dropped out come here, and may have seen all that it was sent, whatever has become of it since.
    pub(super) fn least(&self, replica: &NodeAddress, beside: &[NodeAddress]) -> Offset {
        let left = self.served.iter().filter(|(other, _)| !beside.contains(other));
        let left = left.chain(self.dropped_out.iter().filter(|(other, _)| *other != replica));
        let floors = left.map(|(_, served)| served).chain(self.floors.get(replica));
        let live = self.world.relay.live().filter(|_| self.world.fits_live(replica));
        let own = self.world.info(replica).and_then(ServerInfo::position);
        let on_it = |floor: &Position| match live {
            Some(live) => part_of(live, *floor),
            None => self.part_of_recorded(own?, *floor),
        };
        floors.filter(|floor| !self.is_of_other_stretch(replica, **floor)).filter_map(on_it).max().unwrap_or(Offset::ZERO)
    }

    /// How much of what somebody has up to there is of the history that this position is on, by the ids as they were recorded.
    fn part_of_recorded(&self, own: Position, floor: Position) -> Option<Offset> {
        if own.replid == floor.replid {
            return Some(floor.offset);
        }
        let until = |newer: ReplId, older: ReplId| self.state.earlier_ids(newer).into_iter().find(|id| id.replid == older)?.until;
        let renamed_since = || until(floor.replid, own.replid).filter(|until| own.offset <= *until).map(|_| floor.offset);
        let renamed_before = || until(own.replid, floor.replid).map(|until| floor.offset.min(until));
        renamed_since().or_else(renamed_before)
    }

    /// Readers of one that dropped out may wait still when it is back, and find another that has less beside it.
    pub(super) fn note_dropouts(&mut self, assignment: &Assignment) {
        let before = self.assignment.iter().flat_map(|before| &before.actives).map(|active| &active.address);
        let is_out = |replica: &&NodeAddress| assignment.actives.iter().all(|active| active.address != **replica);
        let out: Vec<NodeAddress> = before.chain(self.dropped_out.keys()).filter(is_out).cloned().collect();
        for replica in out {
            if let Some(served) = self.served.get(&replica) {
                self.dropped_out.insert(replica, *served);
            }
        }
    }

    /// One id names two stretches where the primary's backlog did not reach back, or where it began again below what had arrived. What was read on
    /// the one says nothing of the other, and a replica that had to wait for it would leave its readers with nobody: stranded on the first it never
    /// gets there, and on the second perhaps in days. Connections remember by themselves what they have read.
    fn is_of_other_stretch(&self, replica: &NodeAddress, floor: Position) -> bool {
        if self.world.fits_live(replica) {
            return self.is_of_ended(floor);
        }
        let is_before = self.world.position(replica).is_some_and(|position| self.is_of_ended(position));
        is_before && self.world.relay.live().is_some_and(|live| stands_on(live, floor)) && !self.is_of_ended(floor)
    }

    /// It is on a history that the primary does not add to any more.
    pub(super) fn is_of_ended(&self, position: Position) -> bool {
        self.world.relay.histories.iter().any(|history| !history.live && history.standing(position) == Standing::Covered)
    }

    /// What was read on an ended stretch says nothing of the live one that has the same id: once the replica that it was read from has left that stretch,
    /// nobody is asked for it any more. Later they could not be told apart, as the relay forgets what nobody stands on.
    pub(super) fn forget_ended(&mut self) {
        let is_over = |(replica, served): (&NodeAddress, &Position)| {
            let has_left = !matches!(self.state.role(replica), Role::Active | Role::Draining);
            let is_ahead = self.world.relay.live().is_some_and(|live| matches!(live.standing(*served), Standing::Ahead { .. }));
            has_left && is_ahead && (self.is_of_ended(*served) || self.primary_never_had(replica, *served))
        };
        let over = |known: &BTreeMap<NodeAddress, Position>| -> Vec<NodeAddress> {
            known.iter().filter(|known| is_over(*known)).map(|(replica, _)| replica.clone()).collect()
        };
        let (served, dropped_out) = (over(&self.served), over(&self.dropped_out));
        self.dropped_out.retain(|replica, _| !dropped_out.contains(replica));
        for replica in served {
            self.served.remove(&replica);
            self.record(&replica).served = None;
        }
    }

    /// The primary has been looked at since the replica came back, and has less: after a restart of rbuddy nobody remembers what ended.
    fn primary_never_had(&self, replica: &NodeAddress, served: Position) -> bool {
        let primary = &self.world.primary;
        let is_fresh = self.world.session(replica).is_some_and(|session| primary.asked_at.is_some_and(|at| at >= session.since));
        let has_less = |info: &ServerInfo| {
            let is_live = self.world.relay.live().is_some_and(|live| info.replid == Some(live.replid()));
            is_live && info.offset.is_some_and(|offset| offset < served.offset)
        };
        is_fresh && primary.is_answering() && primary.info().is_some_and(has_less)
    }

    /// How far each active was fed: what its readers may have seen (P10).
    pub(super) fn observe_served(&mut self) {
        // One that readers leave follows on, and those that are still there see more.
        for replica in self.having(|role| matches!(role, Role::Active | Role::Draining)) {
            // What it gets meanwhile nobody sees.
            if self.is_out_and_not_read(&replica) {
                continue;
            }
            let streaming = self.world.session(&replica).and_then(SessionView::sent);
            let is_same_process = self.state.replicas.get(&replica).is_some_and(|record| {
                record.run_id.is_some() && record.run_id == self.world.sight(&replica).and_then(|sight| sight.run_id())
            });
            let probed = self.world.info(&replica).filter(|_| is_same_process).and_then(|info| info.position());
            for position in [probed, streaming.filter(|_| is_same_process)].into_iter().flatten() {
                // A look may be older than what the relay says, and name the history by an older id.
                if self.served.get(&replica).is_none_or(|known| self.is_further(position, *known) != Some(false)) {
                    self.served.insert(replica.clone(), position);
                }
            }
        }
    }

    /// What went out before a session ended, and was in no view before. Taken in once: later it may be of a process that came after, or of a stretch of
    /// the history that the primary has left.
    pub(super) fn observe_ends(&mut self, before: &BTreeMap<NodeAddress, SessionEnd>) {
        for replica in self.having(|role| matches!(role, Role::Active | Role::Draining)) {
            let end = self.world.relay.ended.get(&replica).filter(|end| before.get(&replica) != Some(end));
            if let (Some(sent), Some(known)) = (end.and_then(|end| end.sent), self.served.get(&replica))
                && self.is_further(sent, *known) == Some(true)
            {
                self.served.insert(replica, sent);
            }
        }
    }

    /// `None`: they are of different histories.
    fn is_further(&self, position: Position, known: Position) -> Option<bool> {
        let parts = |history: &History| Some((part_of(history, position)?, part_of(history, known)?));
        let of_one_id = || (position.replid == known.replid).then_some((position.offset, known.offset));
        // The live history is the last.
        let (position, known) = self.world.relay.histories.iter().rev().find_map(parts).or_else(of_one_id)?;
        Some(position > known)
    }
}

/// How much of what somebody has up to there is this history's. What a primary lost with its failover is on none any more, and nobody can wait for it.
pub(super) fn part_of(history: &History, position: Position) -> Option<Offset> {
    match history.standing(position) {
        Standing::UnknownId => None,
        Standing::PastLimit { limit } => Some(limit),
        Standing::Covered | Standing::TooOld { .. } | Standing::Ahead { .. } => Some(position.offset),
    }
}
