//! The part of a stream that is on disk: segments, each a file that is named after the offset at which it starts, so that what nobody needs any more can
//! go piece by piece. The end is not written down anywhere: it is the last byte of the last segment.
//!
//! Promises: what is told to be on disk has no gap and can be read; whoever holds a segment reads it to its end, removed or not. This is bookkeeping, for
//! under a lock; the one writer takes a [`Target`] from it, writes without the lock, and brings back what was [`Written`]. Not here: who needs it
//! ([`super::needs`]), when it is written ([`super::log_writer`]).

use super::files::{FileError, StoredFile, new_name};
use bytes::Bytes;
use rbuddy_core::types::Offset;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A stretch of a stream on disk.
#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    /// What its files' names begin with.
    name: String,
    segments: VecDeque<Segment>,
    /// The last byte that is on disk.
    end: Offset,
    segment_bytes: u64,
    /// Its files outlive the process.
    is_kept: bool,
    /// Counts cuts, so that a write which was under way during one is known.
    cuts: u64,
    /// The last file is longer than it should be.
    is_tail_stale: bool,
}

#[derive(Debug)]
struct Segment {
    start: Offset,
    file: Arc<StoredFile>,
}

/// Where the next bytes go.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) from: Offset,
    segment_start: Offset,
    /// `None`: to be created there.
    file: Option<Arc<StoredFile>>,
    path: PathBuf,
    cuts: u64,
    truncate: bool,
}

/// What became of it.
#[derive(Debug)]
pub(super) struct Written {
    from: Offset,
    bytes: u64,
    segment: Segment,
    cuts: u64,
}

/// Bytes of the log.
#[derive(Debug)]
pub(super) struct OnDisk {
    pub(super) file: Arc<StoredFile>,
    pub(super) at: u64,
    /// How many lie together there.
    pub(super) bytes: u64,
}

impl Log {
    /// Begins behind `start`. Nothing is on disk yet.
    pub(super) fn begin(dir: &Path, start: Offset, segment_bytes: u64) -> Log {
        Log::empty(dir, new_name(LOG_PREFIX), start, segment_bytes)
    }

    fn empty(dir: &Path, name: String, start: Offset, segment_bytes: u64) -> Log {
        let dir = dir.to_owned();
        Log { dir, name, segments: VecDeque::new(), end: start, segment_bytes, is_kept: false, cuts: 0, is_tail_stale: false }
    }

    /// What an earlier run left of the log with this name: as much as lies around `needed` without a gap, or where that is not said, as much as there is
    /// at its end. The files stay. Blocking.
    pub(super) fn open(dir: &Path, name: &str, needed: Option<Offset>, segment_bytes: u64) -> Result<Log, FileError> {
        // Where a cut left two that start at one place, the later counts.
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(FileError::at("list", dir))? {
            let file_name = entry.map_err(FileError::at("list", dir))?.file_name().to_string_lossy().into_owned();
            if let Some((start, cuts)) = file_name.strip_prefix(name).and_then(parse_rest) {
                let latest: &mut u64 = found.entry(start).or_default();
                *latest = cuts.max(*latest);
            }
        }
        let mut log = Log::empty(dir, name.to_owned(), needed.unwrap_or(Offset::ZERO), segment_bytes);
        log.is_kept = true;
        for (start, cuts) in found {
            // It was begun before a cut, and lay behind it.
            if cuts < log.cuts {
                continue;
            }
            if start != log.end || log.segments.is_empty() {
                if needed.is_some_and(|needed| start > needed) {
                    break;
                }
                log.segments.clear();
            }
            log.cuts = log.cuts.max(cuts);
            let file = StoredFile::open(log.path(start, cuts))?;
            log.end = start.advance(file.bytes()?);
            log.segments.push_back(Segment { start, file: Arc::new(file) });
        }
        if let Some(needed) = needed.filter(|needed| log.end < *needed) {
            log.segments.clear();
            log.end = needed;
        }
        Ok(log)
    }

    /// It is removed.
    pub(super) fn discard(mut self) {
        self.keep(false);
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The names of its files.
    pub(super) fn file_names(&self) -> Vec<String> {
        self.segments.iter().map(|segment| segment.file.name()).collect()
    }

    /// Bytes before the first one that is on disk.
    pub(super) fn start(&self) -> Offset {
        self.segments.front().map_or(self.end, |segment| segment.start)
    }

    /// The last byte that is on disk.
    pub(super) fn end(&self) -> Offset {
        self.end
    }

    /// How much of the disk it takes.
    pub(super) fn bytes(&self) -> u64 {
        self.start().bytes_behind(self.end).unwrap_or(0)
    }

    /// What lies behind `from`; `None` if it is not on disk.
    pub(super) fn read(&self, from: Offset) -> Option<OnDisk> {
        if from >= self.end {
            return None;
        }
        let next = self.segments.partition_point(|segment| segment.start <= from);
        let segment = self.segments.get(next.checked_sub(1)?)?;
        let end = self.segments.get(next).map_or(self.end, |next| next.start);
        Some(OnDisk { file: Arc::clone(&segment.file), at: segment.start.bytes_behind(from)?, bytes: from.bytes_behind(end)? })
    }

    /// Where the next bytes go.
    pub(super) fn target(&self) -> Target {
        // One that is too long is cut to its length first, full or not.
        let has_room = |last: &&Segment| last.start.bytes_behind(self.end) < Some(self.segment_bytes);
        let open = self.segments.back().filter(|last| self.is_tail_stale || has_room(last));
        let segment_start = open.map_or(self.end, |open| open.start);
        let file = open.map(|open| Arc::clone(&open.file));
        let path = self.path(segment_start, self.cuts);
        Target { from: self.end, segment_start, file, path, cuts: self.cuts, truncate: self.is_tail_stale }
    }

    /// Whether there is something to do on disk even without new bytes.
    pub(super) fn is_tail_stale(&self) -> bool {
        self.is_tail_stale
    }

    /// Whether this was written for this log, and not for one that was there before.
    pub(super) fn is_of(&self, written: &Written) -> bool {
        written.segment.file.name().starts_with(&self.name)
    }

    /// The writer is back. What it wrote does not count if the stream was cut back meanwhile.
    pub(super) fn wrote(&mut self, written: Written) {
        let Written { from, bytes, segment, cuts } = written;
        if cuts != self.cuts || from != self.end {
            return;
        }
        self.is_tail_stale = false;
        if self.segments.back().is_none_or(|last| last.start != segment.start) {
            segment.file.keep(self.is_kept);
            self.segments.push_back(segment);
        }
        self.end = from.advance(bytes);
    }

    /// Nothing of it counts; what follows comes behind `start`.
    pub(super) fn begin_anew(&mut self, start: Offset) {
        self.cut_back(Offset::ZERO);
        self.end = start;
    }

    /// The writer is back without success: its file may have a part of what it was to get.
    pub(super) fn write_failed(&mut self) {
        self.is_tail_stale = !self.segments.is_empty();
    }

    /// Nobody needs what lies before `needed_from`.
    pub(super) fn trim(&mut self, needed_from: Offset) {
        while self.segments.get(1).is_some_and(|second| second.start <= needed_from) {
            self.drop_oldest();
        }
    }

    /// Gives up the oldest segment, needed or not. `false` if that was all.
    pub(super) fn drop_oldest(&mut self) -> bool {
        if let Some(oldest) = self.segments.pop_front() {
            oldest.file.keep(false);
        }
        !self.segments.is_empty()
    }

    /// Whatever lies behind `offset` never was. Not even what is being written just now.
    pub(super) fn cut_back(&mut self, offset: Offset) {
        while let Some(last) = self.segments.pop_back_if(|last| last.start >= offset) {
            last.file.keep(false);
        }
        (self.end, self.cuts) = (self.end.min(offset), self.cuts + 1);
        self.is_tail_stale = !self.segments.is_empty();
    }

    /// Whether the files outlive the process.
    pub(super) fn keep(&mut self, keep: bool) {
        self.is_kept = keep;
        self.segments.iter().for_each(|segment| segment.file.keep(keep));
    }

    /// The number of cuts is part of it: the file that was at the same place before one may be removed only later.
    fn path(&self, start: Offset, cuts: u64) -> PathBuf {
        self.dir.join(format!("{}-{:020}-{cuts}", self.name, start.get()))
    }
}

/// What follows the log's name in that of a segment.
fn parse_rest(rest: &str) -> Option<(Offset, u64)> {
    let (start, cuts) = rest.strip_prefix('-')?.split_once('-')?;
    Some((start.parse().ok()?, cuts.parse().ok()?))
}

impl Target {
    /// Blocking. A file that was begun is removed if this fails.
    pub(super) fn write(self, pieces: &[Bytes]) -> Result<Written, FileError> {
        let Target { from, segment_start, file, path, cuts, truncate } = self;
        let file = file.map_or_else(|| StoredFile::create(path).map(Arc::new), Ok)?;
        let mut at = from.get() - segment_start.get();
        if truncate {
            file.truncate(at)?;
        }
        let before = at;
        for piece in pieces {
            file.write_at(piece, at)?;
            at += piece.len() as u64;
        }
        Ok(Written { from, bytes: at - before, segment: Segment { start: segment_start, file }, cuts })
    }
}

/// What every log's files begin with.
pub(super) const LOG_PREFIX: &str = "log-";
