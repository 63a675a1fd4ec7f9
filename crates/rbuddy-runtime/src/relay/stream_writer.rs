//! Writes the stream behind a snapshot to its file, for as long as anybody holds the file.
//!
//! It reads the memory ring through its own cursor, as a session does, so a slow disk slows nobody. If the disk fails or falls behind the ring, the
//! snapshot is given up (it leads nowhere without its stream) and the relay goes on without.

use super::files::{FileError, StreamFile};
use super::hub::{Arrival, Hub, Progress};
use super::stretch::StretchKey;
use bytes::Bytes;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Runs until the file is not held any more, cannot be written, or the relay ends; then the file has all that arrived.
pub(super) async fn run(hub: Arc<Hub>, key: StretchKey, file: Weak<StreamFile>) {
    let Some(mut end) = hub.subscribe(key) else { return };
    loop {
        let is_last = hub.stopping.is_cancelled();
        let Some(file) = file.upgrade() else { return };
        if let Err(reason) = catch_up(&hub, key, &file).await {
            give_up(&hub, key, &file, reason).await;
            return;
        }
        let written = file.written();
        drop(file);
        if is_last {
            return;
        }
        // Small pieces are gathered for a moment (what a kill loses of them the primary still has); a burst is not, as memory may overrun.
        let gathered = async {
            end.changed().await?;
            let much = tokio::time::timeout(GATHER_MAX, end.wait_for(|end| written.bytes_behind(*end) >= Some(MUCH_BYTES))).await;
            much.map_or(Ok(()), |reached| reached.map(drop))
        };
        tokio::select! {
            // The history was dropped: nothing more will come of it.
            gathered = gathered => if gathered.is_err() { return },
            () = hub.stopping.cancelled() => {}
        }
    }
}

async fn catch_up(hub: &Hub, key: StretchKey, file: &Arc<StreamFile>) -> Result<(), String> {
    loop {
        let pieces = match hub.lock().stretch(key) {
            // The history was dropped: nothing more will come of it.
            None => return Ok(()),
            Some(stretch) if stretch.history.end <= file.written() => return Ok(()),
            Some(stretch) => {
                let mut pieces: Vec<Bytes> = Vec::new();
                let mut from = file.written();
                while pieces.len() < PIECES_MAX {
                    let piece = stretch.in_memory(from).ok_or("the disk is slower than the stream: the backlog in memory overran it")?;
                    if piece.is_empty() {
                        break;
                    }
                    from = from.advance(piece.len() as u64);
                    pieces.push(piece);
                }
                pieces
            }
        };
        let writing = Arc::clone(file);
        let written = tokio::task::spawn_blocking(move || pieces.iter().try_for_each(|piece| writing.append(piece))).await;
        written.unwrap_or_else(|join| Err(panicked(join))).map_err(|error| error.to_string())?;
        hub.count(|inner| {
            if let Some(stretch) = inner.stretch_mut(key) {
                stretch.refresh_oldest();
            }
        });
        hub.written.notify_one();
    }
}

/// The snapshot is of no use without its stream: it is removed, and the state says why.
async fn give_up(hub: &Hub, key: StretchKey, file: &Arc<StreamFile>, reason: String) {
    tracing::warn!(group = %hub.config.group, reason, "snapshot given up: its stream cannot be kept");
    let was_current = hub.update(|inner| {
        // Told under the lock: a snapshot is installed under it too, and only if its stream still grows.
        file.give_up();
        if let Some(stretch) = inner.stretch_mut(key) {
            stretch.detach(file);
        }
        let Some((_, spool)) = inner.spool.take_if(|(_, spool)| Arc::ptr_eq(&spool.stream, file)) else { return false };
        spool.keep(false);
        let progress = Arc::new(Progress::default());
        inner.arrival = Some(Arrival { dataset: spool.dataset, progress, failed: Some(reason) });
        true
    });
    hub.written.notify_one();
    if was_current && let Err(error) = hub.save().await {
        tracing::warn!(group = %hub.config.group, %error, "state of the relay not written");
    }
}

fn panicked(join: tokio::task::JoinError) -> FileError {
    FileError { verb: "write", path: std::path::PathBuf::new(), source: std::io::Error::other(join) }
}

const GATHER_MAX: Duration = Duration::from_millis(20);
const MUCH_BYTES: u64 = 1 << 20;
/// Blocks of the ring written at a time.
const PIECES_MAX: usize = 64;
