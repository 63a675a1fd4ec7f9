//! The thread that writes a journal. It may wait for a disk for as long as that takes: nobody waits for it.
//!
//! ```text
//!               cannot be written                     a checkpoint could be written
//! Writing ────────────────────────► Broken off ──────────────────────────────────► Writing
//!    │ ▲   warns once, counts          │ asks for a checkpoint every few seconds
//!    └─┘ file is full: asks for a checkpoint, which begins the next one
//! ```

use super::files::Current;
use super::line::{Encoder, Heading};
use crate::settings::JournalSettings;
use rbuddy_core::control::journal::Entry;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};
use tracing::{info, warn};

pub(super) struct Writer {
    pub(super) heading: Heading,
    pub(super) folder: PathBuf,
    pub(super) settings: JournalSettings,
    pub(super) encoder: Encoder,
    /// The controller is asked for a checkpoint.
    pub(super) wanted: Arc<AtomicBool>,
    /// Between two attempts to go on.
    pub(super) retry: Duration,
    pub(super) state: State,
}

pub(super) enum State {
    Writing(Current),
    BrokenOff {
        /// Entries that were not written.
        lost: u64,
        /// The next attempt. `None`: at the first part, before which nothing was tried.
        retry_at: Option<Instant>,
    },
}

impl Writer {
    /// Until the last sender is gone.
    pub(super) fn run(mut self, entries: &Receiver<Entry>) {
        for entry in entries {
            self.take(entry);
        }
    }

    pub(super) fn take(&mut self, mut entry: Entry) {
        let was_broken = match &mut self.state {
            State::Writing(_) => false,
            State::BrokenOff { lost, .. } => {
                if let Entry::Checkpoint(checkpoint) = &mut entry {
                    checkpoint.lost += *lost;
                }
                *lost > 0
            }
        };
        let begins = matches!(entry, Entry::Begin(_) | Entry::Checkpoint(_));
        let written = if begins { self.begin_part(&entry) } else { self.go_on(&entry) };
        match written {
            Ok(()) if begins && was_broken => info!(group = %self.heading.group, "the journal is written again"),
            Ok(()) => {}
            Err(error) => self.break_off(&error),
        }
    }

    fn begin_part(&mut self, entry: &Entry) -> io::Result<()> {
        self.encoder.begin_part();
        let mut current = Current::open(&self.folder, &self.settings)?;
        current.write(&serde_json::to_string(&self.heading)?)?;
        current.write(&self.encoder.line(entry)?)?;
        self.state = State::Writing(current);
        Ok(())
    }

    fn go_on(&mut self, entry: &Entry) -> io::Result<()> {
        match &mut self.state {
            State::Writing(current) => {
                let was_full = current.bytes >= self.settings.size_bytes;
                current.write(&self.encoder.line(entry)?)?;
                if current.bytes >= self.settings.size_bytes && !was_full {
                    self.wanted.store(true, Ordering::Release);
                }
            }
            State::BrokenOff { lost, retry_at } => {
                *lost += 1;
                if retry_at.take_if(|at| Instant::now() >= *at).is_some() {
                    self.wanted.store(true, Ordering::Release);
                }
            }
        }
        Ok(())
    }

    fn break_off(&mut self, error: &io::Error) {
        let known = match &self.state {
            State::Writing(_) => 0,
            State::BrokenOff { lost, .. } => *lost,
        };
        if known == 0 {
            let folder = self.folder.display();
            warn!(group = %self.heading.group, %folder, %error, "the journal cannot be written; all else goes on, and the journal when it can");
        }
        self.state = State::BrokenOff { lost: known + 1, retry_at: Some(Instant::now() + self.retry) };
    }
}
