//! Which histories the relay keeps: the live one, the one whose end the primary is asked about, and those on which replicas stand.
//!
//! Promise: while there are few, a history that somebody needs is not dropped; where there are more than memory is to hold, those go first on which nobody
//! stands. (A replica whose history was dropped keeps its data, and is held.) Not here: their bytes ([`super::stretch`]), what the primary answers ([`super::inquiry`]).

use super::connected::{Session, Why};
use super::hub::Inner;
use super::stretch::{Stretch, StretchKey};
use rbuddy_core::control::relay::SessionState;
use rbuddy_core::replication::history::History;
use rbuddy_core::types::{Offset, Position, ReplId};
use std::collections::BTreeSet;

impl Inner {
    pub(super) fn stretch(&self, key: StretchKey) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.key == key)
    }

    pub(super) fn stretch_mut(&mut self, key: StretchKey) -> Option<&mut Stretch> {
        self.stretches.iter_mut().find(|stretch| stretch.key == key)
    }

    pub(super) fn live(&self) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.history.live)
    }

    /// A new live history. The one before has ended, as far as is known.
    pub(super) fn begin_history(&mut self, history: History, backlog_bytes: u64) -> StretchKey {
        for stretch in self.stretches.iter_mut().filter(|stretch| stretch.history.live) {
            stretch.end();
        }
        self.keys_given += 1;
        let key = StretchKey(self.keys_given);
        self.stretches.push(Stretch::new(key, history, backlog_bytes));
        self.prune();
        key
    }

    /// The snapshot that was to begin this history did not come: it never was.
    pub(super) fn abandon_history(&mut self, key: StretchKey) {
        if let Some(index) = self.stretches.iter().position(|stretch| stretch.key == key) {
            self.stretches.remove(index).end_log();
        }
    }

    /// The primary goes on with this history behind `from`, under this id: it is the live one (again), and the next PSYNC names its end.
    pub(super) fn continue_history(&mut self, key: StretchKey, from: Offset, replid: ReplId, common: Offset) {
        // Under the same id it is the same bytes that come again.
        if self.stretch(key).is_some_and(|stretch| stretch.history.replid() != replid && stretch.history.end > from) {
            self.forget_behind(key, from);
        }
        for stretch in &mut self.stretches {
            if stretch.key == key { stretch.go_on(from, replid, common) } else { stretch.stand_still() }
        }
        self.stretches.sort_by_key(|stretch| (stretch.history.live, stretch.key));
        self.candidate = Some(key);
        self.prune();
    }

    /// What lies behind `from` never was: nobody has it, and what replicas said of it counts no more. Whoever is fed from this history may have been sent it,
    /// or be about to be: those sessions end, and come back with what they have. (What is still given a snapshot has nothing of the stream yet.)
    fn forget_behind(&mut self, key: StretchKey, from: Offset) {
        self.acked = self.acked.map(|(of, offset)| (of, if of == key { offset.min(from) } else { offset }));
        self.forget_away_behind(key, from);
        let is_fed = |session: &&Session| match session.view.state {
            SessionState::Loading { .. } | SessionState::Streaming { .. } => session.is_on(key),
            SessionState::Held(_) | SessionState::Seeding { .. } => false,
        };
        for session in self.sessions.values().filter(is_fed) {
            session.dismissal.send(Why::CutBack);
        }
    }

    /// The primary does not go on at the end of what was followed, but where this history begins, at a replica. Whoever follows what was kept before goes
    /// on with it to its end.
    pub(super) fn begin_anew(&mut self, history: History, backlog_bytes: u64) -> StretchKey {
        let is_empty = |stretch: &Stretch| stretch.history.end.next_byte() == stretch.history.oldest;
        if let Some(empty) = self.candidate.filter(|key| self.stretch(*key).is_some_and(is_empty)) {
            self.abandon_history(empty);
        }
        let begun = self.begin_history(history, backlog_bytes);
        self.candidate = Some(begun);
        begun
    }

    /// Behind which position a primary is asked to go on that does not say what it has: a promoted one has whole commands only, so an
    /// unfinished one here would make the relay ask for more than it can give (protocol fact 4.4).
    pub(super) fn last_whole_command(&mut self) -> Option<(StretchKey, Position)> {
        let key = self.candidate?;
        let stretch = self.stretch_mut(key)?;
        let end = stretch.boundary().unwrap_or(stretch.history.end);
        Some((key, Position::new(stretch.history.replid(), end)))
    }

    /// Drops ended histories that nobody needs.
    pub(super) fn prune(&mut self) {
        let stood_on: BTreeSet<StretchKey> = self.sessions.values().filter_map(|session| session.follows).map(|(key, _)| key).collect();
        let (discard, candidate) = (&self.discard_ended, self.candidate);
        self.stretches.retain_mut(|stretch| {
            let is_used = stretch.history.live || candidate == Some(stretch.key) || stood_on.contains(&stretch.key);
            let is_kept = is_used || !discard.contains(&stretch.history.end_position());
            if !is_kept {
                stretch.end_log();
            }
            is_kept
        });
        while self.stretches.len() > HISTORIES_MAX {
            let may_go = |stretch: &&Stretch| !stretch.history.live && candidate != Some(stretch.key);
            let oldest = self.stretches.iter().filter(may_go).min_by_key(|stretch| (stood_on.contains(&stretch.key), stretch.key));
            let Some(oldest) = oldest.map(|stretch| stretch.key) else { break };
            self.abandon_history(oldest);
        }
        self.mark_logs();
    }
}

/// Each may hold a whole backlog in memory.
const HISTORIES_MAX: usize = 3;
