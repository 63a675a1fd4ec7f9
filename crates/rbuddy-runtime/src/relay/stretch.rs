//! One history with its bytes: in memory (the ring), and on disk where a snapshot's stream is kept.

use super::files::StreamFile;
use super::ring::Ring;
use bytes::Bytes;
use rbuddy_core::replication::history::History;
use rbuddy_core::types::{NextByte, Offset, ReplId};
use std::sync::{Arc, Weak};
use tokio::sync::watch;

/// Names a stretch for as long as the relay runs. The history's id would not do: it changes, and two stretches may share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct StretchKey(pub(super) u64);

/// A history and what is kept of it.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) key: StretchKey,
    pub(super) history: History,
    /// Where it began: the first thing to ACK.
    pub(super) begun: Offset,
    ring: Ring,
    files: Vec<Weak<StreamFile>>,
    end: watch::Sender<Offset>,
}

/// What lies behind an offset.
#[derive(Debug)]
pub(super) enum Piece {
    /// Bytes; empty at the end of the stream, and of what may be read.
    Memory(Bytes),
    /// It has left memory: read it from this file.
    Disk {
        /// The file.
        file: Arc<StreamFile>,
        /// Not more than this: behind it the asker's id is wrong.
        bytes_max: u64,
    },
    /// It is gone.
    Overrun {
        /// First byte that is still kept.
        oldest: NextByte,
    },
}

impl Stretch {
    /// A stretch whose next byte to arrive is the one behind `history.end`.
    pub(super) fn new(key: StretchKey, history: History, backlog_bytes: u64) -> Stretch {
        let ring = Ring::new(history.end, backlog_bytes);
        let (end, _) = watch::channel(history.end);
        let begun = history.dataset.map_or(history.end, |dataset| dataset.0.offset);
        Stretch { key, history, begun, ring, files: Vec::new(), end }
    }

    /// Told whenever bytes arrive.
    pub(super) fn subscribe(&self) -> watch::Receiver<Offset> {
        self.end.subscribe()
    }

    /// Bytes from the primary.
    pub(super) fn append(&mut self, bytes: &[u8]) {
        self.ring.append(bytes, self.written());
        self.history.end = self.ring.end();
        self.refresh_oldest();
        self.end.send_replace(self.history.end);
    }

    /// Up to where every file has the stream; `None` without any.
    fn written(&self) -> Option<Offset> {
        self.files.iter().filter_map(Weak::upgrade).map(|file| file.written()).min()
    }

    /// The primary never had what lies behind `offset`.
    pub(super) fn cut_back(&mut self, offset: Offset) {
        debug_assert!(offset <= self.history.end);
        self.history.cut_back(offset);
    }

    /// It begins here instead; nothing has arrived yet.
    pub(super) fn begin_at(&mut self, offset: Offset) {
        self.history.begin_at(offset);
        self.ring.begin_at(offset);
        self.begun = offset;
        self.end.send_replace(offset);
    }

    /// The last place where no command is open, as far as known.
    pub(super) fn boundary(&mut self) -> Option<Offset> {
        None
    }

    /// What the slowest file does not have yet.
    pub(super) fn unwritten_bytes(&self) -> u64 {
        self.written().and_then(|written| written.bytes_behind(self.history.end)).unwrap_or(0)
    }

    /// A file that will carry on the stream.
    pub(super) fn attach(&mut self, file: &Arc<StreamFile>) {
        self.files.push(Arc::downgrade(file));
        self.refresh_oldest();
    }

    /// A file that does not grow any more.
    pub(super) fn detach(&mut self, file: &Arc<StreamFile>) {
        self.files.retain(|known| !std::ptr::eq(known.as_ptr(), Arc::as_ptr(file)));
        self.refresh_oldest();
    }

    /// Works out anew what the first kept byte is.
    pub(super) fn refresh_oldest(&mut self) {
        self.files.retain(|file| file.strong_count() > 0);
        let ring_start = self.ring.start();
        // A file counts only if it reaches up to the ring: what lies before a gap leads nowhere.
        let starts = self.files.iter().filter_map(Weak::upgrade).filter(|file| file.written() >= ring_start).map(|file| file.start());
        self.history.oldest = starts.chain([ring_start]).min().unwrap_or(ring_start).next_byte();
    }

    /// What lies behind `from`, for one that knows the history as `known_as`. Nothing beyond what that id is right for: a replica that went on under
    /// an old id could not come back (protocol fact 4.3).
    pub(super) fn read(&self, from: Offset, known_as: Option<ReplId>) -> Piece {
        let known = self.history.ids().iter().find(|known| Some(known.replid) == known_as);
        let bytes_max = known.and_then(|known| known.until).map_or(u64::MAX, |limit| from.bytes_behind(limit).unwrap_or(0));
        if let Some(bytes) = self.ring.read(from) {
            let count = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(bytes.len());
            return Piece::Memory(bytes.slice(..count));
        }
        let holds = |file: &Arc<StreamFile>| file.start() <= from && from < file.written();
        match self.files.iter().filter_map(Weak::upgrade).find(holds) {
            Some(file) => Piece::Disk { file, bytes_max },
            None => Piece::Overrun { oldest: self.history.oldest },
        }
    }

    /// Bytes behind `from` that are in memory; `None` if they are not there any more.
    pub(super) fn in_memory(&self, from: Offset) -> Option<Bytes> {
        self.ring.read(from)
    }
}
