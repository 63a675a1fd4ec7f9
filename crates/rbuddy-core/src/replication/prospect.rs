//! What the primary would answer the relay's PSYNC, worked out from its INFO.
//!
//! Nobody can take back a PSYNC: where the answer is a full resync, the primary has forked by the time it is heard (protocol fact 4.4). So the relay
//! looks first: at which byte the primary would continue (a promoted one may have less than the relay: then exactly there), or why it would not.
//! A primary that may not be asked is asked by PSYNC alone. Not here: asking, and who permits a full resync.

use super::history::{History, Place, Standing};
use crate::info::ServerInfo;
use crate::types::{NextByte, Offset, Position, ReplId};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What a PSYNC would come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    /// The primary continues there.
    Continue(Joint),
    /// Only a full resync leads on.
    FullResync(Gap),
    /// It would refuse now, whatever is asked: it loads, or is itself cut off from its primary.
    NotNow(Obstacle),
    /// Its INFO does not tell enough.
    Unknown,
}

/// Where the primary's history and ours are one, by the newest of our ids that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joint {
    /// What to ask behind. Where it is before our end, what we have behind it the primary never had.
    pub at: Position,
    /// The last byte that both have, where the primary knows that id as an earlier one, or we do.
    pub common: Option<Offset>,
}

/// Why a primary cannot continue our history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gap {
    /// There is nothing to continue.
    NothingToContinue,
    /// It has another history.
    OtherHistory {
        /// Ours.
        ours: ReplId,
        /// The primary's.
        theirs: ReplId,
    },
    /// Its history left ours before the first byte that is kept here.
    SplitBeforeBacklog {
        /// The last byte that both have.
        common: Offset,
        /// First byte that is kept here.
        oldest: NextByte,
    },
    /// It has the same history, but fewer bytes of it than we have: an older image of it was brought back.
    AheadOfPrimary {
        /// What we have.
        ours: Offset,
        /// What the primary has.
        theirs: Offset,
    },
    /// The byte that would be asked for is no longer in its backlog.
    BacklogTooShort {
        /// The byte.
        asked: NextByte,
        /// First byte of its backlog.
        oldest: NextByte,
    },
    /// It has no backlog: no replica has been attached to it, or none for longer than `repl-backlog-ttl`.
    NoBacklog {
        /// The byte that would be asked for.
        asked: NextByte,
    },
}

/// Why a server gives nothing to replicas at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// It loads its dataset.
    Loading,
    /// It is a replica whose link is down.
    LinkDown,
}

/// Judges what the server that said `info` would answer, given the history that may go on.
pub fn prospect(history: Option<&History>, info: &ServerInfo) -> Prospect {
    if info.is_loading {
        return Prospect::NotNow(Obstacle::Loading);
    }
    if info.master.is_some() && !info.is_link_up {
        return Prospect::NotNow(Obstacle::LinkDown);
    }
    let Some(theirs) = info.replid else { return Prospect::Unknown };
    let Some(history) = history else { return Prospect::FullResync(Gap::NothingToContinue) };
    let Some(known) = history.ids().iter().find(|known| [Some(theirs), info.replid2].contains(&Some(known.replid))) else {
        return Prospect::FullResync(Gap::OtherHistory { ours: history.replid(), theirs });
    };
    let common = if known.replid == theirs {
        known.until
    } else {
        let Some(theirs) = common(info, known.replid) else { return Prospect::Unknown };
        Some(known.until.map_or(theirs, |ours| ours.min(theirs)))
    };
    let from = common.map_or(history.end, |common| common.min(history.end));
    if known.replid == theirs {
        match info.offset {
            None => return Prospect::Unknown,
            Some(theirs) if theirs < from => return Prospect::FullResync(Gap::AheadOfPrimary { ours: from, theirs }),
            Some(_) => {}
        }
    }
    if from.next_byte() < history.oldest {
        return Prospect::FullResync(Gap::SplitBeforeBacklog { common: from, oldest: history.oldest });
    }
    match backlog(info) {
        Backlog::Unknown => Prospect::Unknown,
        Backlog::None => Prospect::FullResync(Gap::NoBacklog { asked: from.next_byte() }),
        Backlog::From(oldest) if from.next_byte() < oldest => {
            Prospect::FullResync(Gap::BacklogTooShort { asked: from.next_byte(), oldest })
        }
        Backlog::From(_) => Prospect::Continue(Joint { at: Position::new(known.replid, from), common }),
    }
}

/// Of the places where one may go on as well, without what lies between or on another history, the first at which this primary continues.
pub fn beginning(ours: Option<&History>, places: &[Place], info: &ServerInfo) -> Option<(History, Joint)> {
    let begun_at = |place: &Place| match ours.map(|ours| (ours, ours.standing(place.position))) {
        Some((ours, Standing::Ahead { .. })) => Some(ours.begun_anew_at(place.position.offset)),
        Some((_, Standing::UnknownId)) | None => Some(History::starting_from(place)),
        Some((_, Standing::Covered | Standing::PastLimit { .. } | Standing::TooOld { .. })) => None,
    };
    places.iter().filter_map(begun_at).find_map(|begun| match prospect(Some(&begun), info) {
        Prospect::Continue(joint) => Some((begun, joint)),
        Prospect::FullResync(_) | Prospect::NotNow(_) | Prospect::Unknown => None,
    })
}

/// The last byte that the primary's history has in common with the one that `before`, its second id, names.
pub fn common(info: &ServerInfo, before: ReplId) -> Option<Offset> {
    // `second_repl_offset` is one past it.
    let limit = info.second_offset.filter(|_| info.replid2 == Some(before));
    limit.and_then(NextByte::new).and_then(NextByte::have)
}

enum Backlog {
    Unknown,
    None,
    From(NextByte),
}

fn backlog(info: &ServerInfo) -> Backlog {
    match (info.backlog_first_byte, info.backlog_histlen) {
        // Without a backlog servers tell 0 for both.
        (Some(0), Some(0)) => Backlog::None,
        // Bytes are counted from 1.
        (Some(0), Some(_)) => Backlog::Unknown,
        (Some(first), Some(_)) => NextByte::new(first).map_or(Backlog::Unknown, Backlog::From),
        (_, None) | (None, _) => Backlog::Unknown,
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gap::NothingToContinue => write!(f, "there is nothing to continue from"),
            Gap::OtherHistory { ours, theirs } => write!(f, "the primary has history {}, not {}", theirs.short(), ours.short()),
            Gap::SplitBeforeBacklog { common, oldest } => {
                write!(f, "the primary's history left this one at {common}, the backlog here starts at {oldest}")
            }
            Gap::AheadOfPrimary { ours, theirs } => write!(f, "the primary has only {theirs} bytes of a history of which {ours} are here"),
            Gap::BacklogTooShort { asked, oldest } => write!(f, "would ask {asked}, the primary's backlog starts at {oldest}"),
            Gap::NoBacklog { asked } => write!(f, "would ask {asked}, the primary has no backlog"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::Loading => write!(f, "the primary loads its dataset"),
            Obstacle::LinkDown => write!(f, "the primary is a replica whose own link is down"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ReplId {
        digit.to_string().repeat(40).parse().expect("an id")
    }

    fn at(offset: u64) -> Offset {
        Offset::new(offset).expect("in range")
    }

    fn byte(number: u64) -> NextByte {
        NextByte::new(number).expect("in range")
    }

    /// Ours: `a`, bytes 51 to 100 kept.
    fn history() -> History {
        let mut history = History::starting_at(Position::new(id('a'), at(50)), None);
        history.end = at(100);
        history
    }

    /// A primary with history `a` at 200 and a backlog from byte 61.
    fn primary() -> ServerInfo {
        ServerInfo {
            replid: Some(id('a')),
            offset: Some(at(200)),
            backlog_first_byte: Some(61),
            backlog_histlen: Some(140),
            ..ServerInfo::default()
        }
    }

    fn promoted(second_offset: u64) -> ServerInfo {
        ServerInfo { replid: Some(id('b')), replid2: Some(id('a')), second_offset: Some(second_offset), ..primary() }
    }

    fn judge(info: &ServerInfo) -> Prospect {
        prospect(Some(&history()), info)
    }

    fn on(digit: char, offset: u64, common: Option<u64>) -> Prospect {
        Prospect::Continue(Joint { at: Position::new(id(digit), at(offset)), common: common.map(at) })
    }

    #[test]
    fn the_same_primary_continues_at_our_end_or_tells_why_not() {
        let end = on('a', 100, None);
        assert_eq!(judge(&primary()), end);
        assert_eq!(judge(&ServerInfo { backlog_first_byte: Some(101), ..primary() }), end, "the very next byte is the first it keeps");
        let trimmed = ServerInfo { backlog_first_byte: Some(102), ..primary() };
        assert_eq!(judge(&trimmed), Prospect::FullResync(Gap::BacklogTooShort { asked: byte(101), oldest: byte(102) }));
        let restored = ServerInfo { offset: Some(at(99)), ..primary() };
        assert_eq!(judge(&restored), Prospect::FullResync(Gap::AheadOfPrimary { ours: at(100), theirs: at(99) }));
        let alone = ServerInfo { backlog_first_byte: Some(0), backlog_histlen: Some(0), ..primary() };
        assert_eq!(judge(&alone), Prospect::FullResync(Gap::NoBacklog { asked: byte(101) }));
    }

    #[test]
    fn a_promoted_primary_continues_at_the_last_byte_that_both_have() {
        for (second, expected) in [(150, 100), (101, 100), (100, 99), (61, 60)] {
            assert_eq!(judge(&promoted(second)), on('a', expected, Some(second - 1)), "{second}");
        }
        let short = Gap::BacklogTooShort { asked: byte(60), oldest: byte(61) };
        assert_eq!(judge(&promoted(60)), Prospect::FullResync(short));
        let before = Gap::SplitBeforeBacklog { common: at(49), oldest: byte(51) };
        assert_eq!(judge(&promoted(50)), Prospect::FullResync(before));
    }

    /// Ours went on as `c`, up to 120; the primary with `a` goes on without us, or another one was promoted from there.
    #[test]
    fn a_primary_that_knows_an_earlier_id_only_continues_where_that_was_left() {
        let mut ours = history();
        ours.rename(id('c'));
        ours.end = at(120);
        let judge = |info: &ServerInfo| prospect(Some(&ours), info);
        assert_eq!(judge(&primary()), on('a', 100, Some(100)));
        for (second, common) in [(150, 100), (101, 100), (100, 99), (61, 60)] {
            assert_eq!(judge(&promoted(second)), on('a', common, Some(common)), "{second}");
        }
        let both = ServerInfo { replid2: Some(id('c')), second_offset: Some(111), ..primary() };
        assert_eq!(judge(&both), on('c', 110, Some(110)), "the newest that it knows");
        let restored = ServerInfo { offset: Some(at(99)), ..primary() };
        assert_eq!(judge(&restored), Prospect::FullResync(Gap::AheadOfPrimary { ours: at(100), theirs: at(99) }));
        ours.oldest = byte(102);
        let before = Gap::SplitBeforeBacklog { common: at(100), oldest: byte(102) };
        assert_eq!(prospect(Some(&ours), &primary()), Prospect::FullResync(before));
    }

    #[test]
    fn a_history_goes_on_at_the_lowest_place_behind_its_end_that_the_primary_covers() {
        let fresh = History::starting_at(Position::new(id('a'), at(10)), None);
        let on = |digit, offsets: &[u64]| -> Vec<Place> {
            offsets.iter().map(|offset| Place::new(Position::new(id(digit), at(*offset)))).collect()
        };
        let begun = |ours: Option<&History>, places: &[Place]| beginning(ours, places, &primary()).map(|(_, joint)| joint.at);
        let expected = Some(Position::new(id('a'), at(70)));
        assert_eq!(begun(Some(&fresh), &on('a', &[10, 59, 70, 80])), expected);
        assert_eq!(begun(Some(&fresh), &on('a', &[59])), None);
        assert_eq!(begun(Some(&history()), &on('a', &[60])), None, "bytes that have arrived are not given up");
        let other = History::starting_at(Position::new(id('c'), at(90)), None);
        assert_eq!(begun(Some(&other), &on('a', &[59, 70])), expected, "another history, which is the primary's");
        assert_eq!((begun(Some(&other), &on('b', &[70])), begun(None, &on('a', &[70]))), (None, expected));
    }

    #[test]
    fn what_would_be_refused_is_not_asked() {
        assert_eq!(judge(&ServerInfo { is_loading: true, ..primary() }), Prospect::NotNow(Obstacle::Loading));
        let cut_off = ServerInfo { master: "127.0.0.1:1".parse().ok(), is_link_up: false, ..primary() };
        assert_eq!(judge(&cut_off), Prospect::NotNow(Obstacle::LinkDown));
        assert_eq!(judge(&ServerInfo { is_link_up: true, ..cut_off }), on('a', 100, None), "a chain is fine");
    }

    #[test]
    fn another_history_and_an_empty_start_need_everything() {
        let other = ServerInfo { replid: Some(id('c')), replid2: Some(ReplId::NONE), ..primary() };
        assert_eq!(judge(&other), Prospect::FullResync(Gap::OtherHistory { ours: id('a'), theirs: id('c') }));
        assert_eq!(prospect(None, &primary()), Prospect::FullResync(Gap::NothingToContinue));
        assert_eq!(judge(&ServerInfo::default()), Prospect::Unknown);
        assert_eq!(judge(&ServerInfo { backlog_first_byte: None, ..primary() }), Prospect::Unknown);
    }
}
