//! One history with its bytes: the newest in memory (the ring), and on disk (the log) what somebody needs and memory would lose.

use super::log::{Log, OnDisk, Target, Written};
use super::ring::Ring;
use bytes::{Bytes, BytesMut};
use rbuddy_core::replication::boundary::BoundaryScan;
use rbuddy_core::replication::history::History;
use rbuddy_core::types::{NextByte, Offset, ReplId};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Names a stretch for as long as the relay runs. The history's id would not do: it changes, and two stretches may share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StretchKey(pub(super) u64);

/// A history and what is kept of it.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) key: StretchKey,
    pub(super) history: History,
    ring: Ring,
    log: Option<Log>,
    /// The lowest offset that somebody needs and that only the disk has or will have.
    pub(super) needed_from: Option<Offset>,
    /// Why the last log was lost, if it was.
    log_lost: Option<String>,
    /// Follows where commands end, from a known boundary on. It lies behind, and is brought up only when it is asked or would lose bytes.
    scan: Option<BoundaryScan>,
    /// When a replica last told a boundary.
    noted_at: Option<Instant>,
    course: watch::Sender<Course>,
}

/// What those that follow a history need to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Course {
    pub(super) replid: ReplId,
    pub(super) end: Offset,
    pub(super) is_live: bool,
}

/// What lies behind an offset.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes, in order; none at the end of the stream, and of what may be read.
    Memory(Vec<Bytes>),
    /// They have left memory: read them there.
    Disk(OnDisk),
    /// They are gone.
    Overrun {
        /// First byte that is still kept.
        oldest: NextByte,
    },
}

impl Stretch {
    /// A stretch whose next byte to arrive is the one behind `history.end`, where no command is open.
    pub(super) fn new(key: StretchKey, history: History, backlog_bytes: u64) -> Stretch {
        let ring = Ring::new(history.end, backlog_bytes);
        let (course, _) = watch::channel(course_of(&history));
        let scan = Some(BoundaryScan::starting_at(history.end));
        Stretch { key, history, ring, log: None, needed_from: None, log_lost: None, scan, noted_at: None, course }
    }

    /// What an earlier run left on disk belongs to it: the log ends where the history does, in the middle of a command perhaps.
    pub(super) fn resume(&mut self, log: Log) {
        if log.end() > log.start() {
            self.scan = None;
        }
        self.log = Some(log);
        self.refresh_oldest();
    }

    /// Told of whatever changes, above all whenever bytes arrive.
    pub(super) fn subscribe(&self) -> watch::Receiver<Course> {
        self.course.subscribe()
    }

    fn tell_course(&self) {
        self.course.send_replace(course_of(&self.history));
    }

    /// The primary goes on with it behind `from`, under this id; the one before is right up to `common`.
    pub(super) fn go_on(&mut self, from: Offset, replid: ReplId, common: Offset) {
        self.cut_back(from);
        self.history.rename_within(replid, common);
        self.history.live = true;
        self.tell_course();
    }

    /// Another history is the live one now.
    pub(super) fn stand_still(&mut self) {
        self.history.live = false;
        self.tell_course();
    }

    /// Takes bytes from the primary. `false` if the log has a gap now, and is of no use any more: what is kept for the disk in memory is bounded.
    pub(super) fn append(&mut self, read: &mut BytesMut) -> bool {
        let Stretch { ring, scan, noted_at, log, .. } = self;
        let is_noted = noted_at.is_some_and(|at| at.elapsed() < NOTED_RECENTLY);
        ring.append(read, log.as_ref().map(Log::end), |start, piece| follow(scan, is_noted, start, piece));
        let is_overrun = self.log.as_ref().is_some_and(|log| log.end() < self.ring.start());
        self.history.end = self.ring.end();
        if is_overrun {
            self.end_log();
        }
        self.refresh_oldest();
        self.tell_course();
        !is_overrun
    }

    /// What lies behind `from`, for one that knows the history as `known_as`. Nothing beyond what that id is right for: a replica that went on under
    /// an old id could not come back (protocol fact 4.3). One that has more than arrived (the stream was cut back) waits.
    pub(super) fn read(&self, from: Offset, known_as: Option<ReplId>) -> Piece {
        let known = self.history.ids().iter().find(|known| Some(known.replid) == known_as);
        let mut bytes_max = known.and_then(|known| known.until).map_or(u64::MAX, |limit| from.bytes_behind(limit).unwrap_or(0));
        if from >= self.history.end || bytes_max == 0 {
            return Piece::Memory(Vec::new());
        }
        if self.ring.start() <= from {
            bytes_max = bytes_max.min(READ_BYTES_MAX);
            return Piece::Memory(self.in_memory(from, bytes_max));
        }
        match self.log.as_ref().and_then(|log| log.read(from)) {
            Some(found) => Piece::Disk(OnDisk { bytes: found.bytes.min(bytes_max), ..found }),
            None => Piece::Overrun { oldest: self.history.oldest },
        }
    }

    /// Up to `bytes_max` bytes behind `from`, which are in memory.
    fn in_memory(&self, mut from: Offset, bytes_max: u64) -> Vec<Bytes> {
        let (mut pieces, mut left) = (Vec::new(), bytes_max);
        while left > 0 && pieces.len() < PIECES_MAX {
            let Some(piece) = self.ring.read(from).filter(|piece| !piece.is_empty()) else { break };
            let piece = piece.slice(..usize::try_from(left).unwrap_or(usize::MAX).min(piece.len()));
            from = from.advance(piece.len() as u64);
            left -= piece.len() as u64;
            pieces.push(piece);
        }
        pieces
    }

    /// The primary that is followed from now on never had what lies behind `offset`, a boundary. Whoever reads there waits until it is reached again.
    pub(super) fn cut_back(&mut self, offset: Offset) {
        if offset >= self.history.end {
            return;
        }
        self.history.cut_back(offset);
        self.ring.cut_back(offset);
        if let Some(log) = &mut self.log {
            log.cut_back(offset);
        }
        if self.scan.as_ref().is_none_or(|scan| scan.position() > offset) {
            self.scan = Some(BoundaryScan::starting_at(offset));
        }
        self.refresh_oldest();
        self.tell_course();
    }

    /// The primary adds nothing to it any more. Half a command at its end is of no use to anybody, and a replica never gets past the last whole one:
    /// so that is where it ends. (Should the primary go on with it after all, it sends the rest anew.)
    pub(super) fn end(&mut self) {
        self.stand_still();
        if let Some(boundary) = self.boundary() {
            self.cut_back(boundary);
        }
    }

    /// A replica has executed everything up to `offset`: no command is open there.
    pub(super) fn note_boundary(&mut self, offset: Offset) {
        if offset > self.history.end || offset < self.ring.start() || self.scan.as_ref().is_some_and(|scan| offset < scan.position()) {
            return;
        }
        (self.scan, self.noted_at) = (Some(BoundaryScan::starting_at(offset)), Some(Instant::now()));
    }

    /// The last place where no command and no transaction is open, if one is known.
    pub(super) fn boundary(&mut self) -> Option<Offset> {
        let scan = self.scan.as_mut()?;
        while let Some(piece) = self.ring.read(scan.position()).filter(|piece| !piece.is_empty()) {
            scan.feed(&piece);
        }
        Some(scan.boundary())
    }

    /// Bytes in memory and on disk.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.ring.bytes(), self.log.as_ref().map_or(0, Log::bytes))
    }

    /// How far behind one may be before the disk is to carry what memory will lose: as far as leaves time to begin, and memory for what waits in a socket.
    /// Writing takes the processor from a replica that only has to catch up. Once the disk carries it, it goes on for longer, so that it is not begun and
    /// dropped by turns.
    pub(super) fn lag_bytes_max(&self) -> u64 {
        let capacity = self.ring.capacity();
        let late = (capacity / 4 * 3).min(capacity.saturating_sub(ROOM_BYTES)).max(capacity / 2);
        if self.log.is_some() { capacity / 8 } else { late }
    }

    /// Bytes before the first one in memory.
    pub(super) fn memory_start(&self) -> Offset {
        self.ring.start()
    }

    pub(super) fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    /// Everything that is in memory, and what arrives, is to reach the disk too.
    pub(super) fn begin_log(&mut self, dir: &Path, segment_bytes: u64) {
        (self.log, self.log_lost) = (Some(Log::begin(dir, self.ring.start(), segment_bytes)), None);
    }

    /// Nobody needs anything on disk.
    pub(super) fn end_log(&mut self) {
        if let Some(log) = self.log.take() {
            log.discard();
        }
        self.refresh_oldest();
    }

    /// The disk cannot have it.
    pub(super) fn lose_log(&mut self, reason: String) {
        self.end_log();
        self.log_lost = Some(reason);
    }

    /// Why there is no log though one was needed.
    pub(super) fn log_lost(&self) -> Option<&str> {
        self.log_lost.as_deref()
    }

    /// What lies before `needed_from` may go from the disk.
    pub(super) fn trim_log(&mut self, needed_from: Offset) {
        if let Some(log) = &mut self.log {
            log.trim(needed_from);
            self.refresh_oldest();
        }
    }

    /// The disk is to be spared: the oldest of it goes, needed or not.
    pub(super) fn drop_oldest_on_disk(&mut self) {
        if !self.log.as_mut().is_some_and(Log::drop_oldest) {
            self.end_log();
        }
        self.refresh_oldest();
    }

    /// Whether the files outlive the process.
    pub(super) fn keep_log(&mut self, keep: bool) {
        if let Some(log) = &mut self.log {
            log.keep(keep);
        }
    }

    /// What memory has and the disk is yet to get.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        self.log.as_ref().and_then(|log| log.end().bytes_behind(self.history.end)).unwrap_or(0)
    }

    /// What to write next, and where.
    pub(super) fn to_write(&self, bytes_max: u64) -> Option<(Target, Vec<Bytes>)> {
        let log = self.log.as_ref().filter(|log| log.is_tail_stale() || log.end() < self.history.end)?;
        let target = log.target();
        let pieces = self.in_memory(target.from, bytes_max);
        Some((target, pieces))
    }

    /// The writer is back. Whether files that were too long are cut now.
    pub(super) fn wrote(&mut self, written: Written) -> bool {
        let Some(log) = self.log.as_mut().filter(|log| log.is_of(&written)) else { return false };
        let was_stale = log.is_tail_stale();
        log.wrote(written);
        was_stale && !log.is_tail_stale()
    }

    /// The writer is back without success.
    pub(super) fn write_failed(&mut self) {
        if let Some(log) = &mut self.log {
            log.write_failed();
        }
    }

    /// Works out anew what the first kept byte is. The log reaches up to the ring, always.
    fn refresh_oldest(&mut self) {
        let start = self.log.as_ref().map(Log::start).into_iter().chain([self.ring.start()]).min();
        self.history.oldest = start.unwrap_or(self.history.end).next_byte();
    }
}

fn course_of(history: &History) -> Course {
    Course { replid: history.replid(), end: history.end, is_live: history.live }
}

/// These bytes leave memory. Where replicas tell boundaries anyway, the next one tells the next; else they are looked at now or never.
fn follow(scan: &mut Option<BoundaryScan>, is_noted: bool, start: Offset, piece: &Bytes) {
    let Some(position) = scan.as_ref().map(BoundaryScan::position) else { return };
    let followed = start.bytes_behind(position).unwrap_or(0);
    let Some(rest) = usize::try_from(followed).ok().and_then(|followed| piece.get(followed..)).filter(|rest| !rest.is_empty()) else {
        return;
    };
    if is_noted {
        *scan = None;
    } else if let Some(scan) = scan {
        scan.feed(rest);
    }
}

/// Replicas ACK every second.
const NOTED_RECENTLY: Duration = Duration::from_secs(3);
/// What is given out at a time: enough for one write to a socket, little enough that nobody holds much of what memory has dropped.
const READ_BYTES_MAX: u64 = 1 << 20;
const PIECES_MAX: usize = 64;
/// What arrives until it is looked again, and what a replica has in its socket.
const ROOM_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests;
