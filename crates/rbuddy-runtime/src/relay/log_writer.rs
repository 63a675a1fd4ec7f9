//! Writes to disk what memory would lose and somebody needs ([`super::needs`]). One task for all histories.
//!
//! It reads the memory ring through its own cursor, as a session does, so a slow disk slows nobody. A full one is tried again, and what it has is read
//! meanwhile; it is never filled to the last byte, since the state file is there too. If the disk falls behind what memory keeps for it, or fails, what it has
//! is given up: who stood there is overrun, a snapshot that needed it is removed, and the relay goes on from memory.

use super::files::{FileError, free_bytes};
use super::hub::Hub;
use super::needs::DISK_RETRY;
use super::stretch::{Stretch, StretchKey};
use bytes::Bytes;
use std::future::pending;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

/// Runs until the relay ends; then the disk has all that arrived and is needed.
pub(super) async fn run(hub: Arc<Hub>) {
    let mut view = hub.view.clone();
    loop {
        let is_last = hub.stopping.is_cancelled();
        // Small pieces are gathered until the next counters are published: what a kill loses of them the primary still has.
        view.borrow_and_update();
        weigh(&hub, is_last);
        let mut bytes_min = 1;
        while let Some(key) = due(&hub, bytes_min) {
            write(&hub, key).await;
            hub.name_logs();
            bytes_min = MUCH_BYTES;
        }
        bury_dead_spool(&hub).await;
        hub.name_logs();
        if is_last {
            // Nobody listens for that any more.
            if std::mem::take(&mut hub.lock().is_state_stale)
                && let Err(error) = hub.save().await
            {
                warn!(group = %hub.config.group, %error, "state of the relay not written: the next run may find less of the stream");
            }
            return;
        }
        let trouble = hub.lock().disk_trouble.as_ref().map(|trouble| trouble.retry_at);
        tokio::select! {
            () = hub.unwritten.notified() => {}
            // Nothing is published any more once the relay stops: then there is a last round.
            changed = view.changed() => if changed.is_err() { hub.stopping.cancelled().await },
            () = until(trouble) => look_at_disk(&hub).await,
            () = hub.stopping.cancelled() => {}
        }
    }
}

/// What is needed by now. The last round tries whatever was in trouble.
fn weigh(hub: &Hub, is_last: bool) {
    let mut inner = hub.lock();
    if is_last {
        inner.disk_trouble = None;
    }
    inner.weigh(&hub.room);
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => pending().await,
    }
}

/// A history of which at least so much is to be written.
fn due(hub: &Hub, bytes_min: u64) -> Option<StretchKey> {
    let inner = hub.lock();
    if inner.disk_trouble.is_some() {
        return None;
    }
    let is_due = |stretch: &&Stretch| stretch.unwritten_bytes() >= bytes_min || stretch.log().is_some_and(super::log::Log::is_tail_stale);
    inner.stretches.iter().find(is_due).map(|stretch| stretch.key)
}

async fn write(hub: &Hub, key: StretchKey) {
    let Some((target, pieces)) = hub.lock().stretch(key).and_then(|stretch| stretch.to_write(WRITE_BYTES_MAX.min(hub.room.segment_bytes)))
    else {
        return;
    };
    let dir = hub.room.dir.clone();
    let written = tokio::task::spawn_blocking(move || leave_room(&dir, &pieces).and_then(|()| target.write(&pieces))).await;
    let written =
        written.unwrap_or_else(|join| Err(FileError { verb: "write", path: PathBuf::new(), source: std::io::Error::other(join) }));
    hub.count(|inner| {
        match written {
            Ok(written) => {
                // relay.json may say that it is yet to be cut.
                let is_cut = inner.stretch_mut(key).is_some_and(|stretch| stretch.wrote(written));
                inner.is_state_stale |= is_cut;
            }
            Err(error) if is_for_now(&error) => {
                warn!(group = %hub.config.group, %error, "the disk takes no more: it is tried again while memory keeps what is needed");
                inner.disk_refused(error.to_string());
                if let Some(stretch) = inner.stretch_mut(key) {
                    stretch.write_failed();
                }
            }
            // What it took before may be lost as well.
            Err(error) => {
                warn!(group = %hub.config.group, %error, "the disk fails: what it has of the stream is given up");
                inner.disk_failed(key, error.to_string());
            }
        }
        inner.weigh(&hub.room);
    });
}

/// Nothing says that what it took before is lost: there is no room, or a file could not be begun.
fn is_for_now(error: &FileError) -> bool {
    matches!(error.source.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) || error.verb == "create"
}

/// Whoever else writes there finds some room. Blocking.
fn leave_room(dir: &Path, pieces: &[Bytes]) -> Result<(), FileError> {
    let wanted: usize = pieces.iter().map(Bytes::len).sum();
    // To cut a file takes none.
    if wanted > 0 && free_bytes(dir).is_ok_and(|free| free < wanted as u64 + ROOM_BYTES) {
        let left = format!("no space left but {} MiB for others", ROOM_BYTES >> 20);
        return Err(FileError::at("keep the stream in", dir)(std::io::Error::new(ErrorKind::StorageFull, left)));
    }
    Ok(())
}

/// A snapshot without its stream is of no use.
async fn bury_dead_spool(hub: &Hub) {
    let Some((key, spool, reason)) = hub.lock().take_dead_spool() else { return };
    match &reason {
        Some(reason) => {
            warn!(group = %hub.config.group, dataset = %spool.dataset, %reason, "snapshot removed: its stream could not be kept")
        }
        None => info!(group = %hub.config.group, dataset = %spool.dataset, "snapshot removed: its stream has outgrown what may be kept"),
    }
    hub.update(|inner| {
        if let Some(reason) = reason {
            inner.note_lost(key, spool.dataset, reason);
        }
    });
    hub.unname(&spool).await;
}

/// Nothing is tried while there is no room for what waits.
async fn look_at_disk(hub: &Hub) {
    let dir = hub.room.dir.clone();
    let free = tokio::task::spawn_blocking(move || free_bytes(&dir)).await;
    let mut inner = hub.lock();
    let unwritten: u64 = inner.stretches.iter().map(Stretch::unwritten_bytes).sum();
    let is_needed = inner.stretches.iter().any(|stretch| stretch.needed_from.is_some());
    if !is_needed || matches!(free, Ok(Ok(free)) if free >= unwritten + ROOM_BYTES) {
        inner.disk_trouble = None;
    } else if let Some(trouble) = &mut inner.disk_trouble {
        trouble.retry_at = Instant::now() + DISK_RETRY;
    }
}

/// From here on a write is worth its call.
pub(super) const MUCH_BYTES: u64 = 1 << 20;
const WRITE_BYTES_MAX: u64 = 8 << 20;
const ROOM_BYTES: u64 = 16 << 20;
