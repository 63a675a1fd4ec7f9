//! What a replica's PSYNC is answered. Always with a typed reason that carries both sides' numbers.
//!
//! The relay differs from a primary in one point: where a primary would start a full resync, the relay asks its [`Permit`] first and
//! keeps the replica waiting (newlines) if there is none. No replica ever loses its dataset by asking.

use super::history::{self, History, Standing};
use crate::types::{DatasetId, Flavour, NextByte, Offset, Position, RdbVersion, ReplId, ServerVersion};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What the controller allows one replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permit {
    /// Nothing: its PSYNC is kept waiting.
    Hold,
    /// Partial resync from any history that covers it. At the end of a finished history it is held. Never a full resync.
    Keep,
    /// As `Keep` on the live history where that is certainly the one it stands on, and a full resync with exactly this dataset where it is not.
    Seed(DatasetId),
    /// What a primary would do: partial where possible, else full with the newest dataset. For `rbuddy relay`, which has no controller.
    Auto,
}

/// What a replica asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asked {
    /// `PSYNC ? -1`: it has nothing to continue from.
    Nothing,
    /// `PSYNC <replid> <offset>`.
    From(ReplId, NextByte),
}

/// What the relay does about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// `+CONTINUE <announce>`, then the bytes from `from` on.
    Continue {
        /// Which of the histories that were passed in.
        history: usize,
        /// The id that the replica learns.
        announce: ReplId,
        /// First byte to send.
        from: NextByte,
    },
    /// `+FULLRESYNC`, the snapshot, and the stream behind it.
    Full {
        /// What it gets.
        dataset: DatasetId,
        /// Why partial was not possible.
        reason: FullResyncReason,
    },
    /// Newlines.
    Hold(HoldReason),
}

/// Why a replica cannot continue where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FullResyncReason {
    /// It has nothing to continue from.
    NothingToContinue,
    /// Its id names no history that is kept here.
    UnknownHistory {
        /// The id.
        asked: ReplId,
    },
    /// Its id was replaced, or its history ended, before the byte it asks for.
    PastLimit {
        /// The byte.
        asked: NextByte,
        /// Last offset for which its id is right.
        limit: Offset,
    },
    /// The byte it asks for is no longer kept.
    BacklogTooShort {
        /// The byte.
        asked: NextByte,
        /// First byte that is kept.
        oldest: NextByte,
    },
    /// Two histories that differ have its id and reach over where it stands: the primary began again, under the same id, below what had arrived.
    Ambiguous {
        /// The byte.
        asked: NextByte,
    },
    /// It asks for byte 0, which no stream has.
    NoSuchByte,
}

/// Why a replica is kept waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldReason {
    /// The relay does not know yet where the primary stands.
    UpstreamUnknown,
    /// The controller has given it nothing.
    NotPermitted,
    /// It has all of a history that the primary no longer continues.
    EndOfHistory {
        /// The last byte of that history.
        end: Offset,
    },
    /// It has more than the relay: wait until the relay caught up.
    Ahead {
        /// What it asked for.
        asked: NextByte,
        /// What the relay has.
        end: Offset,
    },
    /// It needs a full resync and has no permit for one.
    NeedsFullResync(FullResyncReason),
    /// It may have a dataset that is not (or no longer) on disk.
    NoSnapshot {
        /// The dataset.
        dataset: DatasetId,
    },
    /// It may have a dataset, but the process that answers at its address, if any does, is not the one that this was decided of.
    AnotherProcess,
    /// Its version cannot load the snapshot: given it, it would empty itself or die (protocol fact 2.4).
    CannotLoad {
        /// The snapshot's format.
        rdb: RdbVersion,
        /// What is known of the replica.
        version: Option<ServerVersion>,
    },
}

/// Decides what one PSYNC is answered. `histories` in any order; `snapshot` is the one that is complete, checked and still followed by
/// every byte of the live history.
pub fn decide(asked: Asked, permit: Permit, histories: &[History], snapshot: Option<DatasetId>) -> Verdict {
    let live = histories.iter().position(|history| history.live);
    if permit == Permit::Hold {
        return Verdict::Hold(HoldReason::NotPermitted);
    }
    if live.is_none() && histories.is_empty() {
        return Verdict::Hold(HoldReason::UpstreamUnknown);
    }
    let (position, from) = match asked {
        Asked::Nothing => return full(FullResyncReason::NothingToContinue, permit, snapshot),
        Asked::From(replid, next) => match next.have() {
            Some(offset) => (Position::new(replid, offset), next),
            None => return full(FullResyncReason::NoSuchByte, permit, snapshot),
        },
    };
    // The live history first: a replica at the end of a finished one may be covered by the live one too, after a release.
    let only_live = matches!(permit, Permit::Seed(_));
    let is_ambiguous = |this: usize| {
        let mut others = histories.iter().enumerate().filter(|(index, _)| *index != this);
        others.any(|(_, other)| history::may_be_of_another(other, position))
    };
    let candidates = live.into_iter().chain((0..histories.len()).filter(|index| Some(*index) != live && !only_live));
    // Of the live history where that knows the id: it is the one that the replica is to follow.
    let mut refusal = None;
    for index in candidates {
        let history = &histories[index];
        let has_more = history.live || position.offset < history.end;
        let reason = match history.standing(position) {
            Standing::Covered if has_more && is_ambiguous(index) => FullResyncReason::Ambiguous { asked: from },
            Standing::Covered if has_more => return Verdict::Continue { history: index, announce: history.replid(), from },
            Standing::Covered if permit == Permit::Keep => return Verdict::Hold(HoldReason::EndOfHistory { end: history.end }),
            // It has what only the other can have.
            Standing::Ahead { .. } if history.live && !only_live && is_ambiguous(index) => continue,
            // One that may be given the dataset does not wait: what it has more may be of a stretch that the primary has left.
            Standing::Ahead { end } if history.live && !only_live => return Verdict::Hold(HoldReason::Ahead { asked: from, end }),
            Standing::UnknownId => continue,
            Standing::Covered => FullResyncReason::PastLimit { asked: from, limit: history.end },
            Standing::Ahead { end: limit } | Standing::PastLimit { limit } => FullResyncReason::PastLimit { asked: from, limit },
            Standing::TooOld { oldest } => FullResyncReason::BacklogTooShort { asked: from, oldest },
        };
        refusal.get_or_insert(reason);
    }
    full(refusal.unwrap_or(FullResyncReason::UnknownHistory { asked: position.replid }), permit, snapshot)
}

/// Whether a snapshot may be offered. A replica of unknown version gets what a primary would give it, but for the format that only Valkey 9 loads:
/// that one always says its version.
pub fn may_load(version: Option<ServerVersion>, rdb: RdbVersion) -> bool {
    version.map_or(rdb.flavour == Flavour::Redis, |version| version.loads(rdb))
}

fn full(reason: FullResyncReason, permit: Permit, snapshot: Option<DatasetId>) -> Verdict {
    match (permit, snapshot) {
        (Permit::Seed(dataset), Some(ready)) if ready == dataset => Verdict::Full { dataset, reason },
        (Permit::Seed(dataset), _) => Verdict::Hold(HoldReason::NoSnapshot { dataset }),
        (Permit::Auto, Some(dataset)) => Verdict::Full { dataset, reason },
        (Permit::Auto | Permit::Hold | Permit::Keep, _) => Verdict::Hold(HoldReason::NeedsFullResync(reason)),
    }
}

impl fmt::Display for FullResyncReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FullResyncReason::NothingToContinue => write!(f, "it has nothing to continue from"),
            FullResyncReason::UnknownHistory { asked } => write!(f, "its history {} is not known here", asked.short()),
            FullResyncReason::PastLimit { asked, limit } => write!(f, "asked {asked}, its id is right up to {limit}"),
            FullResyncReason::BacklogTooShort { asked, oldest } => write!(f, "asked {asked}, backlog starts at {oldest}"),
            FullResyncReason::Ambiguous { asked } => write!(f, "asked {asked}, and two histories with its id differ there"),
            FullResyncReason::NoSuchByte => write!(f, "asked byte 0"),
        }
    }
}

impl fmt::Display for HoldReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HoldReason::UpstreamUnknown => write!(f, "the primary's position is not known yet"),
            HoldReason::NotPermitted => write!(f, "it is to wait"),
            HoldReason::EndOfHistory { end } => write!(f, "it has all of a history that ended at {end}"),
            HoldReason::Ahead { asked, end } => write!(f, "asked {asked}, the relay has {end} so far"),
            HoldReason::NeedsFullResync(reason) => write!(f, "it needs a full resync: {reason}"),
            HoldReason::NoSnapshot { dataset } => write!(f, "snapshot {dataset} is not ready"),
            HoldReason::AnotherProcess => write!(f, "what answers at its address is not the process that may be filled"),
            HoldReason::CannotLoad { rdb, version: Some(version) } => write!(f, "{version} cannot load the snapshot's format {rdb}"),
            HoldReason::CannotLoad { rdb, version: None } => {
                write!(f, "it does not say which version it is, and not every one can load the snapshot's format {rdb}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ReplId {
        digit.to_string().repeat(40).parse().expect("an id")
    }
    fn at(digit: char, offset: u64) -> Position {
        Position::new(id(digit), Offset::new(offset).expect("in range"))
    }
    fn from(digit: char, next: u64) -> Asked {
        Asked::From(id(digit), next.to_string().parse().expect("a byte"))
    }
    fn history(digit: char, first: u64, end: u64, live: bool) -> History {
        let mut history = History::starting_at(at(digit, first), None);
        (history.end, history.live) = (at(digit, end).offset, live);
        history
    }

    #[test]
    fn an_active_replica_is_held_at_the_end_of_its_history_and_never_resynced() {
        let histories = [history('a', 0, 100, false), history('b', 500, 600, true)];
        let snapshot = Some(DatasetId(at('b', 500)));
        let ask = |asked| decide(asked, Permit::Keep, &histories, snapshot);
        assert!(matches!(ask(from('a', 51)), Verdict::Continue { history: 0, .. }), "first what the old history still has");
        assert_eq!(ask(from('a', 101)), Verdict::Hold(HoldReason::EndOfHistory { end: at('a', 100).offset }));
        for asked in [Asked::Nothing, from('c', 5), from('a', 0), from('a', 103)] {
            assert!(matches!(ask(asked), Verdict::Hold(_)), "{asked:?}");
        }
    }

    #[test]
    fn behind_the_end_of_a_history_that_is_known_the_reason_is_its_end() {
        let histories = [history('a', 0, 100, false), history('b', 500, 600, true)];
        for next in [101, 103] {
            let Asked::From(_, asked) = from('a', next) else { panic!("a byte") };
            let reason = FullResyncReason::PastLimit { asked, limit: at('a', 100).offset };
            let auto = decide(from('a', next), Permit::Auto, &histories, None);
            assert_eq!(auto, Verdict::Hold(HoldReason::NeedsFullResync(reason)), "{next}");
        }
        let histories = [history('a', 0, 100, false), history('a', 500, 600, true)];
        let Asked::From(_, asked) = from('a', 201) else { panic!("a byte") };
        let reason = FullResyncReason::BacklogTooShort { asked, oldest: at('a', 500).offset.next_byte() };
        let keep = decide(from('a', 201), Permit::Keep, &histories, None);
        assert_eq!(keep, Verdict::Hold(HoldReason::NeedsFullResync(reason)), "the live history's reason comes first");
    }

    #[test]
    fn a_standby_gets_exactly_the_dataset_it_may_have() {
        let histories = [history('a', 0, 100, false), history('b', 500, 600, true)];
        let dataset = DatasetId(at('b', 500));
        let seed = |asked, snapshot| decide(asked, Permit::Seed(dataset), &histories, snapshot);
        assert!(matches!(seed(Asked::Nothing, Some(dataset)), Verdict::Full { .. }));
        assert!(matches!(seed(from('a', 51), Some(dataset)), Verdict::Full { .. }), "a finished history leads nowhere");
        assert!(matches!(seed(from('b', 551), Some(dataset)), Verdict::Continue { history: 1, .. }));
        let other = DatasetId(at('b', 400));
        assert_eq!(seed(Asked::Nothing, Some(other)), Verdict::Hold(HoldReason::NoSnapshot { dataset }));
        assert_eq!(seed(Asked::Nothing, None), Verdict::Hold(HoldReason::NoSnapshot { dataset }));
    }

    #[test]
    fn a_replica_ahead_of_the_relay_waits_for_it() {
        let histories = [history('a', 0, 100, true)];
        let verdict = decide(from('a', 120), Permit::Keep, &histories, None);
        assert!(matches!(verdict, Verdict::Hold(HoldReason::Ahead { .. })), "{verdict:?}");
        let dataset = DatasetId(at('a', 50));
        let verdict = decide(from('a', 120), Permit::Seed(dataset), &histories, Some(dataset));
        assert!(matches!(verdict, Verdict::Full { .. }), "unless it may be filled: {verdict:?}");
    }

    #[test]
    fn continue_is_never_the_answer_to_a_replica_that_has_nothing() {
        // Every server version crashes on it (protocol fact 1.4).
        let histories = [history('a', 0, 100, true)];
        for permit in [Permit::Hold, Permit::Keep, Permit::Auto, Permit::Seed(DatasetId(at('a', 0)))] {
            for snapshot in [None, Some(DatasetId(at('a', 0)))] {
                let verdict = decide(Asked::Nothing, permit, &histories, snapshot);
                assert!(!matches!(verdict, Verdict::Continue { .. }), "{permit:?} {snapshot:?}");
            }
        }
    }

    #[test]
    fn a_primary_that_began_again_below_under_the_same_id_gives_nobody_the_wrong_bytes() {
        let mut live = history('a', 60, 130, true);
        live.dataset = Some(DatasetId(at('a', 60)));
        let histories = [history('a', 0, 100, false), live];
        let keep = |asked| decide(asked, Permit::Keep, &histories, None);
        assert!(matches!(keep(from('a', 101)), Verdict::Hold(HoldReason::EndOfHistory { .. })), "it has the other bytes 61 to 100");
        assert!(matches!(keep(from('a', 81)), Verdict::Hold(HoldReason::NeedsFullResync(FullResyncReason::Ambiguous { .. }))), "either's");
        assert!(matches!(keep(from('a', 121)), Verdict::Continue { history: 1, .. }), "nothing else ever had byte 120");
        let dataset = DatasetId(at('a', 60));
        let seed = |asked| decide(asked, Permit::Seed(dataset), &histories, Some(dataset));
        assert!(
            matches!(seed(from('a', 81)), Verdict::Full { reason: FullResyncReason::Ambiguous { .. }, .. }),
            "either's, and it may be filled"
        );
        assert!(matches!(seed(from('a', 121)), Verdict::Continue { history: 1, .. }));
        let mut histories = histories;
        histories[1].end = at('a', 70).offset;
        let keep = |asked| decide(asked, Permit::Keep, &histories, None);
        assert!(matches!(keep(from('a', 81)), Verdict::Continue { history: 0, .. }), "nobody else has so much yet");
        assert!(matches!(keep(from('a', 61)), Verdict::Hold(_)), "the primary may have gone on from below what it was then seen at");
    }

    #[test]
    fn a_gap_in_one_history_is_seen() {
        // The primary's backlog was too short: same id, the new stretch starts later.
        let histories = [history('a', 0, 100, false), history('a', 5000, 5100, true)];
        assert!(matches!(decide(from('a', 101), Permit::Keep, &histories, None), Verdict::Hold(HoldReason::EndOfHistory { .. })));
        assert!(matches!(decide(from('a', 5051), Permit::Keep, &histories, None), Verdict::Continue { history: 1, .. }));
    }
}
