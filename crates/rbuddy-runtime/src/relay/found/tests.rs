//! A relay that is killed at any moment, and goes on from what it finds: bytes that arrive, reach the disk, and are taken back by a promoted primary.

use super::*;
use crate::relay::stretch::{Stretch, StretchKey};
use bytes::BytesMut;
use proptest::prelude::*;
use rbuddy_core::types::ReplId;

const START: u64 = 1000;

#[derive(Debug, Clone)]
enum Step {
    /// So many bytes arrive.
    Append(usize),
    /// The disk gets up to so many of them.
    Write(u64),
    /// So many of them get there, and it is told that they did not.
    WriteFails(u64),
    /// relay.json is written.
    Save,
    /// A primary is promoted that has so many bytes fewer. Its id is in relay.json before anything else is done about it.
    Promote(u64),
    /// The same, and the relay is killed in between, while up to so many bytes are being written.
    KilledAtPromote(u64, u64),
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (1..500_usize).prop_map(Step::Append),
        6 => (1..800_u64).prop_map(Step::Write),
        2 => (1..800_u64).prop_map(Step::WriteFails),
        2 => Just(Step::Save),
        2 => (0..600_u64).prop_map(Step::Promote),
        1 => (0..600_u64, 1..800_u64).prop_map(|(fewer, bytes_max)| Step::KilledAtPromote(fewer, bytes_max)),
        2 => Just(Step::Kill),
    ]
}

struct World {
    room: DiskRoom,
    stretch: Stretch,
    /// What relay.json says.
    saved: String,
    /// What each id names, the newest last: all its bytes from the first on.
    truth: Vec<(ReplId, Vec<u8>)>,
    written: u8,
}

impl World {
    fn new(dir: &Path) -> World {
        let room = DiskRoom::new(dir.to_owned(), 64 << 20);
        let stretch = begun_at(Position::new(id(0), at(START)), dir);
        let mut world = World { room, stretch, saved: String::new(), truth: vec![(id(0), Vec::new())], written: 0 };
        world.save(None);
        world
    }

    fn save(&mut self, upcoming: Option<&History>) {
        let history = upcoming.unwrap_or(&self.stretch.history).clone();
        self.saved = serde_json::to_string(&SavedStream::of(&self.stretch, history, BTreeMap::new())).expect("plain data");
    }

    fn after(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Append(count) => {
                self.written = self.written.wrapping_add(1);
                let bytes = vec![self.written; *count];
                self.truth.last_mut().expect("never empty").1.extend(&bytes);
                prop_assert!(self.stretch.append(&mut BytesMut::from(&bytes[..])));
            }
            Step::Write(bytes_max) => {
                if let Some((target, pieces)) = self.stretch.to_write(*bytes_max) {
                    self.stretch.wrote(target.write(&pieces).expect("the disk takes it"));
                }
            }
            Step::WriteFails(bytes_max) => {
                if let Some((target, pieces)) = self.stretch.to_write(*bytes_max) {
                    drop(target.write(&pieces).expect("the disk takes it"));
                    self.stretch.write_failed();
                }
            }
            Step::Save => self.save(None),
            Step::Promote(fewer) => {
                let (from, replid) = self.promoted(*fewer);
                self.stretch.go_on(from, replid, from);
            }
            Step::KilledAtPromote(fewer, bytes_max) => {
                self.promoted(*fewer);
                if let Some((target, pieces)) = self.stretch.to_write(*bytes_max) {
                    // Nobody is left to remove a file that was begun.
                    std::mem::forget(target.write(&pieces).expect("the disk takes it"));
                }
                self.killed()?;
            }
            Step::Kill => self.killed()?,
        }
        Ok(())
    }

    /// relay.json says so.
    fn promoted(&mut self, fewer: u64) -> (Offset, ReplId) {
        let end = self.stretch.history.end.get().saturating_sub(fewer).max(START);
        let replid = id(self.truth.len());
        let mut stream = self.truth.last().expect("never empty").1.clone();
        stream.truncate((end - START) as usize);
        self.truth.push((replid, stream));
        let mut upcoming = self.stretch.history.clone();
        upcoming.cut_back(at(end));
        upcoming.rename(replid);
        self.save(Some(&upcoming));
        (at(end), replid)
    }

    /// Killed and started again. The primary sends the rest, as it has it under the id that is asked for.
    fn killed(&mut self) -> Result<(), TestCaseError> {
        let saved: SavedStream = serde_json::from_str(&self.saved).expect("as it was written");
        let until = saved.log_until;
        let Ok(StoredStream { log, history, .. }) = reopen_stream(&self.room, saved, None) else {
            let log = self.stretch.log().expect("it was begun");
            prop_assert!(log.bytes() == 0 || until.is_some_and(|until| until <= log.start()), "it was on disk");
            let (replid, stream) = self.truth.last().expect("never empty");
            self.stretch = begun_at(Position::new(*replid, at(START + stream.len() as u64)), &self.room.dir);
            self.save(None);
            return Ok(());
        };
        let log = log.expect("it is named");
        let stream = self.truth.iter().find(|(replid, _)| *replid == history.replid()).expect("a known id").1.clone();
        let (start, end) = ((log.start().get() - START) as usize, (log.end().get() - START) as usize);
        prop_assert!(end <= stream.len(), "{end} bytes of {}, which has {}", history.replid(), stream.len());
        let mut from = log.start();
        while let Some(piece) = log.read(from) {
            let bytes = piece.file.read_at(piece.at, piece.bytes as usize).expect("it is there");
            let place = (from.get() - START) as usize;
            prop_assert!(stream[place..].starts_with(&bytes), "other bytes behind {from} than {} has", history.replid());
            from = from.advance(piece.bytes);
        }
        prop_assert_eq!(from, log.end());
        prop_assert!(start <= end);
        self.stretch = Stretch::new(StretchKey(1), history, 1 << 20);
        self.stretch.resume(log);
        self.stretch.append(&mut BytesMut::from(&stream[end..]));
        // A primary that was promoted later than relay.json knows is another story: this one goes on.
        let last = self.truth.iter().position(|(replid, _)| *replid == self.stretch.history.replid()).expect("just seen");
        self.truth.truncate(last + 1);
        Ok(())
    }
}

/// With a log that relay.json is to name.
fn begun_at(position: Position, dir: &Path) -> Stretch {
    let mut stretch = Stretch::new(StretchKey(1), History::starting_at(position, None), 1 << 20);
    stretch.begin_log(dir, SEGMENT_BYTES);
    stretch.keep_log(true);
    stretch
}

fn at(offset: u64) -> Offset {
    Offset::new(offset).expect("in range")
}

fn id(number: usize) -> ReplId {
    format!("{number:040x}").parse().expect("an id")
}

const SEGMENT_BYTES: u64 = 300;

/// It was taken over a second connection, while the disk took no more of the stream.
#[test]
fn a_snapshot_is_of_use_though_what_the_disk_has_of_the_stream_ends_before_it() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut world = World::new(dir.path());
    for step in [Step::Append(100), Step::Write(50), Step::WriteFails(50)] {
        world.after(&step).expect("nothing is found");
    }
    let found = |world: &mut World, end: u64| {
        let mut history = world.stretch.history.clone();
        history.cut_back(at(end));
        world.save(Some(&history));
        let saved = serde_json::from_str(&world.saved).expect("as it was written");
        reopen_stream(&world.room, saved, Some(at(START + 80)))
    };
    let stream = found(&mut world, START + 100).expect("it leads on");
    let log = stream.log.expect("it is named");
    assert_eq!((log.start(), log.end(), stream.history.end), (at(START + 80), at(START + 80), at(START + 80)));
    assert!(found(&mut world, START + 60).is_err(), "the primary never had it");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_found_after_a_kill_is_what_the_primary_has(steps in prop::collection::vec(step(), 1..60)) {
        let dir = tempfile::tempdir().expect("a folder");
        let mut world = World::new(dir.path());
        for step in &steps {
            world.after(step)?;
        }
    }
}
