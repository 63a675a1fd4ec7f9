//! The PSYNC decision in small worlds: a primary that writes, is replaced, promoted or set back, and a relay that follows it. The worlds keep each byte
//! and each name of each point by itself, so that what is right needs neither limits nor ranges: a replica is continued if every byte that it lacks
//! is kept, and they are the bytes that follow on those it has. All short stories are tried, and random long ones.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use proptest::prelude::*;
use rbuddy_core::replication::history::History;
use rbuddy_core::replication::psync::{Asked, FullResyncReason, HoldReason, Permit, Verdict, decide};
use rbuddy_core::types::{DatasetId, NextByte, Offset, Position, ReplId};
use std::collections::BTreeSet;

/// What happens next.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The primary writes, and the relay gets it; if it is more than the primary sends again, the relay was away meanwhile.
    Write(usize),
    /// Another server with the same data becomes primary: same bytes, new id.
    Promote,
    /// The primary begins anew, with this much.
    Replace(usize),
    /// The primary's machine is restored from an image: it has lost bytes, writes others, and keeps its id.
    Restore { lost: usize, written: usize },
    /// The relay keeps this many bytes fewer of its oldest history that has any.
    Trim(usize),
    /// Nobody needs the oldest ended history.
    Discard,
}

/// Any two bytes that were written are different.
type Byte = u32;

#[derive(Debug, Clone)]
struct World {
    primary: Primary,
    stretches: Vec<Stretch>,
    ids: Vec<ReplId>,
    written: Byte,
    story: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Primary {
    stream: Vec<Byte>,
    id: ReplId,
    /// The id before, and the first byte for which it is not right any more.
    second: Option<(ReplId, usize)>,
}

#[derive(Debug, Clone)]
struct Stretch {
    /// What is tested, told what the relay is told.
    history: History,
    /// The bytes from the first of the history on, also those that were in the snapshot.
    stream: Vec<Byte>,
    /// How many were in it.
    start: usize,
    /// Numbers of the bytes that can be sent.
    kept: BTreeSet<usize>,
    /// (id, how many bytes): who says so has the beginning of `stream`.
    names: BTreeSet<(ReplId, usize)>,
}

impl World {
    fn new() -> World {
        let primary = Primary { stream: Vec::new(), id: id(0), second: None };
        let mut world = World { primary, stretches: Vec::new(), ids: vec![id(0)], written: 0, story: Vec::new() };
        world.write(2);
        world.follow();
        world
    }

    fn after(mut self, step: Step) -> World {
        self.story.push(step);
        match step {
            Step::Write(count) => {
                self.write(count);
                self.follow();
            }
            Step::Promote => {
                self.primary.second = Some((self.primary.id, self.primary.stream.len() + 1));
                self.primary.id = self.next_id();
                self.follow();
            }
            Step::Replace(count) => {
                self.primary = Primary { stream: Vec::new(), id: self.next_id(), second: None };
                self.write(count);
                self.follow();
            }
            Step::Restore { lost, written } => {
                let before = self.clone();
                self.primary.stream.truncate(self.primary.stream.len().saturating_sub(lost));
                self.write(written);
                let end = self.live().stream.len();
                // A primary that is past us again before it is asked continues us: no relay can see it, and no replica either.
                if self.primary.stream.get(..end).is_some_and(|beginning| beginning != self.live().stream) {
                    return before;
                }
                self.follow();
            }
            Step::Trim(count) => {
                if let Some(stretch) = self.stretches.iter_mut().find(|stretch| !stretch.kept.is_empty()) {
                    stretch.kept = stretch.kept.iter().copied().skip(count).collect();
                    stretch.history.oldest = byte(stretch.oldest());
                }
            }
            Step::Discard => {
                if self.stretches.len() > 1 {
                    self.stretches.remove(0);
                }
            }
        }
        self
    }

    fn live(&self) -> &Stretch {
        self.stretches.last().unwrap()
    }

    fn next_id(&mut self) -> ReplId {
        self.ids.push(id(self.ids.len()));
        *self.ids.last().unwrap()
    }

    fn write(&mut self, count: usize) {
        for _ in 0..count {
            self.written += 1;
            self.primary.stream.push(self.written);
        }
    }

    /// The relay asks for the byte behind its last; the primary answers as primaries do (protocol fact 4.1).
    fn follow(&mut self) {
        let primary = &self.primary;
        let length = primary.stream.len();
        let first_kept = (length + 1).saturating_sub(PRIMARY_BACKLOG).max(1);
        let continued = self.stretches.last_mut().filter(|live| {
            let (id, next) = (live.history.replid(), live.stream.len() + 1);
            let is_known = id == primary.id || primary.second.is_some_and(|(second, limit)| id == second && next <= limit);
            is_known && next >= first_kept && next <= length + 1
        });
        if let Some(live) = continued {
            live.rename(primary.id);
            live.append(&primary.stream[live.stream.len()..]);
        } else {
            self.stretches.iter_mut().for_each(|stretch| stretch.history.live = false);
            self.stretches.push(Stretch::starting_at(primary));
            if self.stretches.len() > 3 {
                self.stretches.remove(0);
            }
        }
    }

    /// What the relay knows by name, and a name that nobody knows.
    fn asked(&self) -> Vec<Asked> {
        let offsets = 0..=self.stretches.iter().map(|stretch| stretch.stream.len()).max().unwrap_or(0) + 2;
        let ids = self.ids.iter().copied().chain([id(200)]);
        ids.flat_map(|id| offsets.clone().map(move |offset| Asked::From(id, byte(offset)))).chain([Asked::Nothing]).collect()
    }

    fn check_all(&self) {
        let histories: Vec<History> = self.stretches.iter().map(|stretch| stretch.history.clone()).collect();
        let datasets: BTreeSet<DatasetId> = histories.iter().filter_map(|history| history.dataset).collect();
        let permits = [Permit::Hold, Permit::Keep, Permit::Auto].into_iter().chain(datasets.iter().map(|dataset| Permit::Seed(*dataset)));
        let permits: Vec<Permit> = permits.collect();
        let snapshots = [None, self.live().history.dataset];
        for asked in self.asked() {
            for permit in &permits {
                for snapshot in snapshots {
                    let verdict = decide(asked, *permit, &histories, snapshot);
                    let case = || {
                        format!(
                            "{asked:?} with {permit:?} and snapshot {snapshot:?} got {verdict:?}\nafter {:?}\nof {histories:?}",
                            self.story
                        )
                    };
                    self.check(asked, *permit, snapshot, &verdict).unwrap_or_else(|wrong| panic!("not so: {wrong}: {}", case()));
                }
            }
        }
    }

    fn check(&self, asked: Asked, permit: Permit, snapshot: Option<DatasetId>, verdict: &Verdict) -> Result<(), &'static str> {
        let is_to_be_filled = matches!(permit, Permit::Seed(_));
        let question = Question {
            asked,
            all: self.stretches.iter().collect(),
            stretches: self.stretches.iter().filter(|stretch| stretch.history.live || !is_to_be_filled).collect(),
            waits: !is_to_be_filled,
        };
        match verdict {
            Verdict::Continue { history, announce, from } => {
                let stretch = &self.stretches[*history];
                let Asked::From(id, next) = asked else { return Err("a replica that has nothing is never continued") };
                let have = number(next).checked_sub(1).ok_or("no stream has byte 0")?;
                ensure(permit != Permit::Hold, "nothing without a permit")?;
                ensure(*from == next && *announce == stretch.history.replid(), "it continues where it asked, under the current id")?;
                ensure(stretch.names.contains(&(id, have)), "its id is right there")?;
                ensure(stretch.can_continue(have), "every byte that it lacks is kept, and something follows")?;
                ensure(stretch.history.live || !is_to_be_filled, "an ended history leads a seeded one nowhere")?;
                let has = question.all.iter().filter(|one| one.may_have(id, have)).map(|one| &one.stream[..have]);
                ensure(has.into_iter().all(|has| *has == stretch.stream[..have]), "they are the bytes that follow on those it has")?;
            }
            Verdict::Full { dataset, reason } => {
                ensure(snapshot == Some(*dataset), "only a snapshot that is there")?;
                ensure(permit == Permit::Auto || permit == Permit::Seed(*dataset), "only with a permit that allows exactly it")?;
                question.check_reason(*reason)?;
            }
            Verdict::Hold(HoldReason::NotPermitted) => ensure(permit == Permit::Hold, "it has no permit")?,
            Verdict::Hold(HoldReason::UpstreamUnknown) => ensure(self.stretches.is_empty(), "there is no history")?,
            Verdict::Hold(HoldReason::EndOfHistory { end }) => {
                ensure(permit == Permit::Keep && question.ended_at(*end), "it has all of an ended history")?;
            }
            Verdict::Hold(HoldReason::Ahead { asked, end }) => {
                ensure(question.waits && question.is_ahead(*asked, *end), "it has more than the relay, and nothing else is there for it")?;
            }
            Verdict::Hold(HoldReason::CannotLoad { .. } | HoldReason::AnotherProcess) => {
                return Err("which formats it loads, and who it is, is judged by others");
            }
            Verdict::Hold(HoldReason::NeedsFullResync(reason)) => {
                ensure(
                    permit == Permit::Keep || (permit == Permit::Auto && snapshot.is_none()),
                    "its permit allows none, or no snapshot is there",
                )?;
                question.check_reason(*reason)?;
            }
            Verdict::Hold(HoldReason::NoSnapshot { dataset }) => {
                ensure(permit == Permit::Seed(*dataset) && snapshot != Some(*dataset), "its snapshot is not there")?;
            }
        }
        let best = question.kind();
        let best = if best == Kind::End && permit != Permit::Keep { Kind::Full } else { best };
        ensure(permit == Permit::Hold || question.is_double() || best == Kind::of(verdict), "it gets the best that is safe")
    }
}

/// What kind of answer it is, where only one history can be meant.
#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Continue,
    Ahead,
    /// Nothing more follows in its history: it stays as it is.
    End,
    /// Nothing but a snapshot helps, whether it may have one or not.
    Full,
}

impl Kind {
    fn of(verdict: &Verdict) -> Kind {
        match verdict {
            Verdict::Continue { .. } => Kind::Continue,
            Verdict::Hold(HoldReason::Ahead { .. }) => Kind::Ahead,
            Verdict::Hold(HoldReason::EndOfHistory { .. }) => Kind::End,
            Verdict::Hold(_) | Verdict::Full { .. } => Kind::Full,
        }
    }
}

/// What was asked, the stretches that it may mean, and those of them that may answer it.
struct Question<'a> {
    asked: Asked,
    all: Vec<&'a Stretch>,
    stretches: Vec<&'a Stretch>,
    /// For the relay to get what it has.
    waits: bool,
}

impl Question<'_> {
    /// The id, and how many bytes the asker has.
    fn position(&self) -> Option<(ReplId, usize)> {
        match self.asked {
            Asked::Nothing => None,
            Asked::From(id, next) => Some((id, number(next).checked_sub(1)?)),
        }
    }

    fn named(&self) -> impl Iterator<Item = &Stretch> {
        self.stretches.iter().copied().filter(|stretch| self.position().is_some_and(|position| stretch.names.contains(&position)))
    }

    /// Replicas of two stretches may say this: what the asker has cannot be told from it.
    fn is_double(&self) -> bool {
        let Some((id, have)) = self.position() else { return false };
        self.all.iter().filter(|stretch| stretch.may_have(id, have)).count() > 1
    }

    fn kind(&self) -> Kind {
        let Some((id, have)) = self.position() else { return Kind::Full };
        let is_ahead = |stretch: &&Stretch| stretch.history.live && stretch.history.replid() == id && have > stretch.stream.len();
        if self.named().any(|stretch| stretch.can_continue(have)) {
            Kind::Continue
        } else if self.ended_at(offset(have)) {
            Kind::End
        } else if self.waits && self.stretches.iter().any(is_ahead) && !self.stretches.iter().any(|stretch| stretch.may_have(id, have)) {
            Kind::Ahead
        } else {
            Kind::Full
        }
    }

    fn ended_at(&self, end: Offset) -> bool {
        let end = end.get() as usize;
        self.named().any(|stretch| !stretch.history.live && stretch.stream.len() == end && self.position().unwrap().1 == end)
    }

    fn is_ahead(&self, asked: NextByte, end: Offset) -> bool {
        let Some((id, have)) = self.position() else { return false };
        let has_less = |stretch: &&Stretch| {
            stretch.history.replid() == id && stretch.stream.len() == end.get() as usize && have > stretch.stream.len()
        };
        number(asked) == have + 1 && self.stretches.iter().any(|stretch| stretch.history.live && has_less(stretch))
    }

    /// Its numbers are those of both sides.
    fn check_reason(&self, reason: FullResyncReason) -> Result<(), &'static str> {
        let Some((id, have)) = self.position() else {
            let expected = if self.asked == Asked::Nothing { FullResyncReason::NothingToContinue } else { FullResyncReason::NoSuchByte };
            return ensure(reason == expected, "there is no position");
        };
        let is_asked = |asked: NextByte| ensure(number(asked) == have + 1, "that is what it asked");
        match reason {
            FullResyncReason::NothingToContinue | FullResyncReason::NoSuchByte => Err("it named no byte"),
            FullResyncReason::Ambiguous { asked } => {
                is_asked(asked)?;
                ensure(self.is_double(), "two histories can be meant")
            }
            FullResyncReason::UnknownHistory { asked } => {
                ensure(asked == id && !self.stretches.iter().any(|stretch| stretch.knows(id)), "its history is not known")
            }
            FullResyncReason::PastLimit { asked, limit } => {
                is_asked(asked)?;
                let limit = limit.get() as usize;
                let is_limit = |stretch: &&Stretch| {
                    stretch.names.iter().filter(|(name, _)| *name == id).map(|(_, offset)| *offset).max() == Some(limit)
                };
                ensure(limit <= have && self.stretches.iter().any(is_limit), "that is the limit of its id")
            }
            FullResyncReason::BacklogTooShort { asked, oldest } => {
                is_asked(asked)?;
                ensure(
                    have + 1 < number(oldest) && self.named().any(|stretch| stretch.oldest() == number(oldest)),
                    "that is the oldest byte, and it asks for less",
                )
            }
        }
    }
}

impl Stretch {
    fn starting_at(primary: &Primary) -> Stretch {
        let start = primary.stream.len();
        let at = Position::new(primary.id, offset(start));
        Stretch {
            history: History::starting_at(at, Some(DatasetId(at))),
            stream: primary.stream.clone(),
            start,
            kept: BTreeSet::new(),
            names: (0..=start).map(|offset| (primary.id, offset)).collect(),
        }
    }

    fn rename(&mut self, id: ReplId) {
        self.history.rename(id);
        self.names.extend((0..=self.stream.len()).map(|offset| (id, offset)));
    }

    fn append(&mut self, bytes: &[Byte]) {
        self.history.end = self.history.end.advance(bytes.len() as u64);
        for byte in bytes {
            self.stream.push(*byte);
            self.kept.insert(self.stream.len());
            self.names.insert((self.history.replid(), self.stream.len()));
        }
    }

    fn oldest(&self) -> usize {
        self.kept.first().copied().unwrap_or(self.stream.len() + 1)
    }

    fn knows(&self, id: ReplId) -> bool {
        self.names.iter().any(|(name, _)| *name == id)
    }

    /// Whether some replica that follows or followed this can say so.
    fn may_have(&self, id: ReplId, have: usize) -> bool {
        have >= self.start && self.names.contains(&(id, have))
    }

    fn can_continue(&self, have: usize) -> bool {
        let is_there = (have + 1..=self.stream.len()).all(|byte| self.kept.contains(&byte));
        is_there && have <= self.stream.len() && (self.history.live || have < self.stream.len())
    }
}

fn ensure(holds: bool, or_else: &'static str) -> Result<(), &'static str> {
    if holds { Ok(()) } else { Err(or_else) }
}

fn id(number: usize) -> ReplId {
    format!("{:02x}", number + 1).repeat(20).parse().unwrap()
}

fn offset(bytes: usize) -> Offset {
    Offset::new(bytes as u64).unwrap()
}

fn byte(number: usize) -> NextByte {
    number.to_string().parse().unwrap()
}

fn number(byte: NextByte) -> usize {
    byte.get() as usize
}

/// So much is sent again by the primary.
const PRIMARY_BACKLOG: usize = 3;

#[test]
fn every_answer_is_right_after_every_short_story() {
    fn tell(world: &World, steps_left: usize) {
        world.check_all();
        if steps_left > 0 {
            STEPS.into_iter().for_each(|step| tell(&world.clone().after(step), steps_left - 1));
        }
    }
    const STEPS: [Step; 8] = [
        Step::Write(2),
        Step::Write(PRIMARY_BACKLOG + 1),
        Step::Promote,
        Step::Replace(1),
        Step::Restore { lost: 2, written: 0 },
        Step::Restore { lost: 3, written: 1 },
        Step::Trim(1),
        Step::Discard,
    ];
    tell(&World::new(), 4);
}

#[test]
fn a_relay_that_knows_no_history_holds_everybody() {
    for asked in [Asked::Nothing, Asked::From(id(1), byte(0)), Asked::From(id(1), byte(7))] {
        for permit in [Permit::Keep, Permit::Auto, Permit::Seed(DatasetId(Position::new(id(1), offset(6))))] {
            assert_eq!(decide(asked, permit, &[], None), Verdict::Hold(HoldReason::UpstreamUnknown), "{asked:?} {permit:?}");
        }
        assert_eq!(decide(asked, Permit::Hold, &[], None), Verdict::Hold(HoldReason::NotPermitted), "{asked:?}");
    }
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1..=2 * PRIMARY_BACKLOG).prop_map(Step::Write),
        2 => Just(Step::Promote),
        1 => (0usize..9).prop_map(Step::Replace),
        2 => (0usize..9, 0usize..5).prop_map(|(lost, written)| Step::Restore { lost, written }),
        2 => (1usize..6).prop_map(Step::Trim),
        1 => Just(Step::Discard),
    ]
}

proptest! {
    #[test]
    fn every_answer_is_right_after_random_long_stories(steps in proptest::collection::vec(step(), 0..14)) {
        let mut world = World::new();
        for step in steps {
            world = world.after(step);
            world.check_all();
        }
    }
}
