//! The journal of a group: everything that its controller was told and decided, as lines in files, for `rbuddy replay`.
//!
//! Promises: the controller never waits for it, and never fails because of it: what finds no room in the queue or on the disk is counted, and the journal goes on
//! from a checkpoint. Whatever happened can be replayed from the beginning of any file. No password is in it (core has none), and no URL of a webhook.
//!
//! | where | what |
//! | --- | --- |
//! | `writer` | the thread that writes |
//! | `files` | where to, and which file goes when there are too many |
//! | `line`, `delta` | an entry as a line, short |
//! | `read` | the way back |

mod delta;
mod files;
mod line;
mod read;
#[cfg(test)]
mod tests;
mod writer;

pub use files::journal_files;
pub use line::Heading;
pub use read::{Item, JournalError, JournalReader};

use crate::settings::JournalSettings;
use line::Encoder;
use rbuddy_core::control::Controller;
use rbuddy_core::control::journal::{Beginning, Checkpoint, Entry};
use rbuddy_core::types::Time;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::warn;
use writer::{State, Writer};

/// A journal that is written.
#[derive(Debug)]
pub(super) struct Journal {
    entries: SyncSender<Entry>,
    wanted: Arc<AtomicBool>,
    /// Entries that found no room since the last one that did.
    lost: u64,
    ended: oneshot::Receiver<()>,
}

impl Journal {
    /// Begins with what the controller is made of. `None`: no journal is wanted.
    pub(super) fn start(folder: PathBuf, settings: JournalSettings, beginning: Beginning) -> io::Result<Option<Journal>> {
        if settings.files == 0 {
            return Ok(None);
        }
        let group = &beginning.policy.group;
        let outbox = beginning.state.iter().flat_map(|state| &state.outbox);
        let urls = beginning.policy.notify.iter().chain(outbox.flat_map(|notification| &notification.pending));
        let wanted = Arc::new(AtomicBool::new(false));
        let writer = Writer {
            heading: Heading::new(group.clone()),
            folder,
            settings,
            encoder: Encoder::masking(urls.cloned()),
            wanted: wanted.clone(),
            retry: RETRY,
            state: State::BrokenOff { lost: 0, retry_at: None },
        };
        let (entries, queue) = sync_channel(QUEUE);
        let (end, ended) = oneshot::channel();
        std::thread::Builder::new().name(format!("journal {group}")).spawn(move || {
            writer.run(&queue);
            // Nobody may wait for it any more.
            let _ = end.send(());
        })?;
        let mut journal = Journal { entries, wanted, lost: 0, ended };
        journal.record(Entry::Begin(Box::new(beginning)));
        Ok(Some(journal))
    }

    /// The next entry. After one that was lost, nothing is of use before a checkpoint.
    pub(super) fn record(&mut self, entry: Entry) {
        if self.lost > 0 || self.entries.try_send(entry).is_err() {
            self.lost += 1;
        }
    }

    /// Between two events: writes a checkpoint where one is needed, to begin the next file or to go on after a gap.
    pub(super) fn rest(&mut self, at: Time, controller: &Controller) {
        if self.lost > 0 || self.wanted.load(Ordering::Acquire) {
            let checkpoint = Checkpoint { at, lost: self.lost, controller: controller.clone() };
            if self.entries.try_send(Entry::Checkpoint(Box::new(checkpoint))).is_ok() {
                self.lost = 0;
                self.wanted.store(false, Ordering::Release);
            }
        }
    }

    /// Waits until all is written, or a hanging disk has had its time.
    pub(super) async fn end(self) {
        let Journal { entries, ended, .. } = self;
        drop(entries);
        if tokio::time::timeout(END, ended).await.is_err() {
            warn!("the journal's last entries were not written in time");
        }
    }
}

/// Entries that wait for the disk: half a minute of a busy group. When full, entries are lost and counted.
const QUEUE: usize = 2048;
/// Between two attempts to write where that did not work.
const RETRY: Duration = Duration::from_secs(5);
/// For the rest of the queue at the end.
const END: Duration = Duration::from_secs(2);
