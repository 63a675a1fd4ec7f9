//! A stretch of a history as the relay holds it: which ids name it, up to where each is valid, and which bytes are kept.
//!
//! The bytes themselves live in the backlog; this is what decisions need. After a full resync that keeps the id (the primary's backlog was
//! too short) the relay holds two stretches of one history with a gap between them: that is why a stretch, and not the id alone,
//! says whether a replica can go on.

use crate::types::{DatasetId, NextByte, Offset, Position, ReplId};
use serde::{Deserialize, Serialize};

/// An id of a history, and the last offset for which it is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownId {
    /// The id.
    pub replid: ReplId,
    /// Bytes up to here are the same under this id and the current one; `None` for the current id.
    pub until: Option<Offset>,
}

/// Where somebody stands on a history of which nothing else is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// There.
    pub position: Position,
    /// Older ids of the same history.
    #[serde(default)]
    pub earlier: Vec<KnownId>,
}

/// One unbroken stream of bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// The ids, current one first. Never empty.
    ids: Vec<KnownId>,
    /// The snapshot that it started from, where it started from one.
    pub dataset: Option<DatasetId>,
    /// First byte that is still kept.
    pub oldest: NextByte,
    /// Last byte that arrived.
    pub end: Offset,
    /// Whether the primary still adds to it. At most one history of a relay is live.
    pub live: bool,
}

/// Where a position stands in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its next byte is kept (or is the very next to arrive).
    Covered,
    /// The id is another history's.
    UnknownId,
    /// The id is right only up to `limit`.
    PastLimit {
        /// Last offset the id is right for.
        limit: Offset,
    },
    /// Its next byte is no longer kept.
    TooOld {
        /// First byte that is.
        oldest: NextByte,
    },
    /// It has more than has arrived here.
    Ahead {
        /// Last byte that arrived.
        end: Offset,
    },
}

impl Place {
    /// Of a history with no other ids.
    pub fn new(position: Position) -> Place {
        Place { position, earlier: Vec::new() }
    }
}

impl History {
    /// A history that begins after `position`: nothing is kept yet.
    pub fn starting_at(position: Position, dataset: Option<DatasetId>) -> History {
        History {
            ids: vec![KnownId { replid: position.replid, until: None }],
            dataset,
            oldest: position.offset.next_byte(),
            end: position.offset,
            live: true,
        }
    }

    /// One that starts after this place.
    pub fn starting_from(place: &Place) -> History {
        let mut history = History::starting_at(place.position, None);
        place.earlier.iter().for_each(|known| history.remember(*known));
        history
    }

    /// The current id.
    pub fn replid(&self) -> ReplId {
        self.ids[0].replid
    }

    /// All ids, current one first.
    pub fn ids(&self) -> &[KnownId] {
        &self.ids
    }

    /// Last position that arrived.
    pub fn end_position(&self) -> Position {
        Position::new(self.replid(), self.end)
    }

    /// The primary answered `+CONTINUE <replid>`: same bytes, new name from here on.
    pub fn rename(&mut self, replid: ReplId) {
        self.rename_within(replid, self.end);
    }

    /// The same, of a primary that says up to where the name before is right: replicas may have more than has arrived here, and all of it is the history's.
    pub fn rename_within(&mut self, replid: ReplId, common: Offset) {
        if replid == self.replid() {
            return;
        }
        let limit = self.end.max(common);
        for known in &mut self.ids {
            known.until = Some(known.until.map_or(limit, |until| until.min(limit)));
        }
        self.ids.retain(|known| known.replid != replid);
        self.ids.insert(0, KnownId { replid, until: None });
        self.ids.truncate(IDS_MAX);
    }

    /// The same history, kept from here on.
    pub fn begun_anew_at(&self, offset: Offset) -> History {
        let ids = self.ids.clone();
        History { ids, dataset: None, oldest: offset.next_byte(), end: offset, live: true }
    }

    /// The primary never had what lies behind `offset`: a promoted one has less than we got from the one before. Whoever has more of it stands past
    /// the limit of every id that is known here.
    pub fn cut_back(&mut self, offset: Offset) {
        if offset >= self.end {
            return;
        }
        self.end = offset;
        for known in &mut self.ids {
            known.until = known.until.map(|until| until.min(offset));
        }
        self.oldest = self.oldest.min(offset.next_byte());
    }

    /// Adds an earlier id that is known from elsewhere (the state file, the primary's `master_replid2`).
    pub fn remember(&mut self, known: KnownId) {
        if !known.replid.is_none() && self.ids.iter().all(|id| id.replid != known.replid) && self.ids.len() < IDS_MAX {
            self.ids.push(KnownId { until: Some(known.until.unwrap_or(self.end)), ..known });
        }
    }

    /// Where `position` stands. `Covered` at `position.offset == end` means: nothing is missing, the next byte to arrive is the one wanted.
    pub fn standing(&self, position: Position) -> Standing {
        let Some(known) = self.ids.iter().find(|id| id.replid == position.replid) else {
            return Standing::UnknownId;
        };
        // A primary accepts its second id up to second_repl_offset, which is one past the last common byte (protocol fact 4.1);
        // as offsets of what the asker has, that is "not more than the limit".
        if let Some(limit) = known.until
            && position.offset > limit
        {
            return Standing::PastLimit { limit };
        }
        if position.offset.next_byte() < self.oldest {
            return Standing::TooOld { oldest: self.oldest };
        }
        if position.offset > self.end {
            return Standing::Ahead { end: self.end };
        }
        Standing::Covered
    }
}

/// What somebody was fed up to there, by each id of the first of these histories that it is a position of: by an earlier id no more than that one is right
/// for. Empty: one that comes before has begun again, under the same id, below what had arrived, and says nothing of it.
pub fn by_every_id<'a>(newest_first: impl Iterator<Item = &'a History>, position: Position) -> Vec<Position> {
    let by = |known: &KnownId| Position::new(known.replid, known.until.map_or(position.offset, |until| until.min(position.offset)));
    for history in newest_first {
        match history.standing(position) {
            Standing::Covered | Standing::TooOld { .. } => return history.ids().iter().map(by).collect(),
            Standing::Ahead { .. } => return Vec::new(),
            Standing::UnknownId | Standing::PastLimit { .. } => {}
        }
    }
    vec![position]
}

/// Whether a replica that stands at `position` of one history may have followed `other` instead, where the bytes are not the same: the primary began
/// again, under the same id, below what had arrived (somebody restored an image of its machine). What follows in the one is wrong for the other's.
/// Also where one ends and the other starts: a primary that goes on from its own past may be at any byte when it is seen again.
pub fn may_be_of_another(other: &History, position: Position) -> bool {
    let start = other.dataset.map_or(Offset::ZERO, |dataset| dataset.0.offset);
    start <= position.offset && matches!(other.standing(position), Standing::Covered | Standing::TooOld { .. })
}

/// How many ids of one history are remembered. Each costs a line in the state file; a replica that slept through this many changes of the id takes
/// a full resync.
const IDS_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ReplId {
        digit.to_string().repeat(40).parse().expect("an id")
    }

    fn at(digit: char, offset: u64) -> Position {
        Position::new(id(digit), Offset::new(offset).expect("in range"))
    }

    #[test]
    fn a_position_is_covered_from_the_oldest_byte_to_one_past_the_end() {
        let mut history = History::starting_at(at('a', 100), None);
        history.end = history.end.advance(50);
        assert_eq!(history.standing(at('a', 99)), Standing::TooOld { oldest: at('a', 100).offset.next_byte() });
        assert_eq!(history.standing(at('a', 100)), Standing::Covered);
        assert_eq!(history.standing(at('a', 150)), Standing::Covered);
        assert_eq!(history.standing(at('a', 151)), Standing::Ahead { end: at('a', 150).offset });
        assert_eq!(history.standing(at('b', 120)), Standing::UnknownId);
    }

    #[test]
    fn an_earlier_id_is_right_up_to_the_change_only() {
        let mut history = History::starting_at(at('a', 100), None);
        history.end = history.end.advance(50);
        history.rename(id('b'));
        history.end = history.end.advance(10);
        assert_eq!(history.standing(at('a', 150)), Standing::Covered);
        assert_eq!(history.standing(at('a', 151)), Standing::PastLimit { limit: at('a', 150).offset });
        assert_eq!(history.standing(at('b', 160)), Standing::Covered);
        history.rename(id('c'));
        assert_eq!(history.standing(at('a', 120)), Standing::Covered, "an id of two changes ago still serves");
    }

    #[test]
    fn an_earlier_id_is_right_for_whoever_has_more_than_arrived_here_up_to_what_the_primary_says() {
        let mut history = History::starting_at(at('a', 100), None);
        history.rename_within(id('b'), at('a', 130).offset);
        assert_eq!(history.standing(at('a', 120)), Standing::Ahead { end: at('a', 100).offset });
        history.end = at('a', 125).offset;
        assert_eq!(history.standing(at('a', 120)), Standing::Covered);
        assert_eq!(history.standing(at('a', 131)), Standing::PastLimit { limit: at('a', 130).offset });
    }

    #[test]
    fn what_somebody_has_is_told_by_every_id_of_the_history() {
        let mut history = History::starting_at(at('a', 100), None);
        history.end = at('a', 150).offset;
        history.rename(id('b'));
        history.end = at('b', 200).offset;
        let other = History::starting_at(at('c', 10), None);
        let told = |position| by_every_id([&other, &history].into_iter(), position);
        assert_eq!(told(at('b', 180)), [at('b', 180), at('a', 150)]);
        assert_eq!(told(at('a', 120)), [at('b', 120), at('a', 120)]);
        assert_eq!(told(at('a', 160)), [at('a', 160)], "past that id's limit: of another history, which is not known");
        let before = History { end: at('c', 90).offset, live: false, ..other.clone() };
        assert_eq!(by_every_id([&other, &before].into_iter(), at('c', 80)), [], "a primary was brought back from an image");
    }

    #[test]
    fn what_a_promoted_primary_never_had_is_cut_off_and_whoever_has_it_is_past_the_limit() {
        let mut history = History::starting_at(at('a', 100), None);
        history.end = at('a', 150).offset;
        history.cut_back(at('a', 140).offset);
        history.rename(id('b'));
        history.end = at('b', 200).offset;
        assert_eq!(history.standing(at('a', 140)), Standing::Covered);
        assert_eq!(history.standing(at('a', 141)), Standing::PastLimit { limit: at('a', 140).offset });
        history.cut_back(at('b', 130).offset);
        assert_eq!(history.standing(at('a', 131)), Standing::PastLimit { limit: at('a', 130).offset }, "earlier ids are cut too");
    }
}
