//! Core's decision on a PSYNC, joined with what carries it out: the history's bytes, the snapshot's file.

use super::files::Spool;
use super::hub::{Hub, Inner};
use super::stretch::StretchKey;
use rbuddy_core::replication::handshake::Identity;
use rbuddy_core::replication::history::{History, Standing};
use rbuddy_core::replication::psync::{Asked, FullResyncReason, HoldReason, Permit, Verdict, decide, may_load};
use rbuddy_core::types::{NodeAddress, Offset, Position, ReplId};
use std::sync::Arc;

/// What a session does about its PSYNC.
#[derive(Debug)]
pub(super) enum Plan {
    /// `+CONTINUE <announce>`, then what lies behind `from`.
    Continue { key: StretchKey, announce: ReplId, from: Offset },
    /// `+FULLRESYNC <announce>` and this snapshot.
    Full { key: StretchKey, announce: ReplId, spool: Arc<Spool>, reason: FullResyncReason },
    /// Newlines.
    Hold(HoldReason),
}

impl Hub {
    /// Decides, and ties the session to its history in the same moment, so that nobody drops that in between.
    pub(super) fn plan(
        &self,
        address: &NodeAddress,
        serial: u64,
        asked: Asked,
        permit: Permit,
        identity: &Identity,
        is_another_process: bool,
    ) -> Plan {
        let mut inner = self.lock();
        if let (Asked::From(replid, next), true) = (asked, identity.has_psync2)
            && let Some(offset) = next.have()
        {
            inner.learn_boundary(Position::new(replid, offset));
        }
        let version = identity.version.or_else(|| inner.versions.get(address).copied());
        let histories: Vec<History> = inner.stretches.iter().map(|stretch| stretch.history.clone()).collect();
        let live = inner.live().map(|stretch| stretch.key);
        let ready = inner.spool.clone().filter(|(key, spool)| Some(*key) == live && is_followed(&inner, live, spool));
        let verdict = decide(asked, permit, &histories, ready.as_ref().map(|(_, spool)| spool.dataset));
        let plan = match (verdict, ready) {
            (Verdict::Continue { history, announce, from }, _) => match from.have() {
                Some(from) => Plan::Continue { key: inner.stretches[history].key, announce, from },
                None => Plan::Hold(HoldReason::NeedsFullResync(FullResyncReason::NoSuchByte)),
            },
            (Verdict::Full { .. }, Some((_, spool))) if !may_load(version, spool.facts.version) => {
                Plan::Hold(HoldReason::CannotLoad { rdb: spool.facts.version, version })
            }
            (Verdict::Full { .. }, Some(_)) if is_another_process => Plan::Hold(HoldReason::AnotherProcess),
            (Verdict::Full { reason, .. }, Some((key, spool))) => {
                // The history may have been renamed since the snapshot: same bytes, and the id that goes on is the one to learn.
                let announce = inner.stretch(key).map_or(spool.dataset.0.replid, |stretch| stretch.history.replid());
                Plan::Full { key, announce, spool, reason }
            }
            (Verdict::Full { dataset, .. }, None) => Plan::Hold(HoldReason::NoSnapshot { dataset }),
            (Verdict::Hold(reason), _) => Plan::Hold(reason),
        };
        let follows = match &plan {
            Plan::Continue { key, from, .. } => Some((*key, *from)),
            Plan::Full { key, spool, .. } => Some((*key, spool.dataset.0.offset)),
            Plan::Hold(_) => None,
        };
        if let Some(session) = inner.session_mut(address, serial) {
            session.follows = follows;
        }
        plan
    }
}

impl Inner {
    /// Since 4.0 a replica asks behind what it has executed. After a restart of the relay that may be the first place where a command is known to end,
    /// and a history that has ended in the middle of the next one ends there.
    fn learn_boundary(&mut self, position: Position) {
        for stretch in self.stretches.iter_mut().filter(|stretch| stretch.history.standing(position) == Standing::Covered) {
            stretch.note_boundary(position.offset);
            if !stretch.history.live {
                stretch.end();
            }
        }
    }
}

/// Whether every byte behind the snapshot is kept.
fn is_followed(inner: &Inner, live: Option<StretchKey>, spool: &Spool) -> bool {
    let live = live.and_then(|key| inner.stretch(key));
    live.is_some_and(|live| live.history.standing(spool.dataset.0) == Standing::Covered)
}
