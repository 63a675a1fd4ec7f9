//! Receives a snapshot: payload from a link to a file, checked on the way, fsynced before anybody is offered it.
//!
//! While bytes arrive, while the disk is slow and while it is fsynced, the primary is sent a newline a second: it would cut a replica that is
//! silent for `repl-timeout` (protocol fact 11.10). Not here: when a snapshot is wanted, and what becomes of it.

use super::files::{FileError, Spool, StoredFile, StreamFile};
use super::hub::{Arrival, Hub, Progress};
use super::link::{Link, LinkError};
use super::state::{SNAPSHOT_PREFIX, STREAM_PREFIX, new_name};
use super::stream_writer;
use super::stretch::StretchKey;
use bytes::{Buf, Bytes};
use rbuddy_core::replication::history::Standing;
use rbuddy_core::replication::payload::PayloadReader;
use rbuddy_core::replication::rdb::{RdbCheck, RdbFacts};
use rbuddy_core::types::DatasetId;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior};

/// A payload in the middle of its reception.
struct Reception<'a> {
    link: &'a mut Link,
    progress: Arc<Progress>,
    signs_of_life: Interval,
    /// To the thread that writes.
    pieces: mpsc::Sender<Bytes>,
    writer: JoinHandle<Result<(StoredFile, RdbFacts), LinkError>>,
}

/// Receives what follows a `+FULLRESYNC` for `dataset`. The file is complete, checked and on disk when this returns.
pub(super) async fn receive(hub: &Hub, link: &mut Link, dataset: DatasetId) -> Result<(StoredFile, RdbFacts), LinkError> {
    let progress = announce(hub, dataset);
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    let path = hub.config.dir.join(new_name(SNAPSHOT_PREFIX));
    let writer = tokio::task::spawn_blocking({
        let progress = Arc::clone(&progress);
        move || write(path, received, dataset, &progress)
    });
    let mut signs_of_life = tokio::time::interval(SIGN_OF_LIFE_EVERY);
    signs_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    Reception { link, progress, signs_of_life, pieces, writer }.run(hub).await
}

impl Reception<'_> {
    async fn run(mut self, hub: &Hub) -> Result<(StoredFile, RdbFacts), LinkError> {
        let taken = self.take_payload(hub).await;
        // Without a sender the writer comes to its end, whatever it has.
        let Reception { link, mut signs_of_life, pieces, mut writer, progress } = self;
        drop(pieces);
        let written = loop {
            tokio::select! {
                written = &mut writer => break written,
                _ = signs_of_life.tick(), if taken.is_ok() => link.send(b"\n").await?,
            }
        };
        let written = written.map_err(|join| LinkError::Broken(std::io::Error::other(join)));
        // A disk that fails makes the reception fail too; the disk is the cause then, and what the link says is not.
        match (taken, written?) {
            (Ok(()), written) => written,
            (Err(_), Err(disk @ LinkError::Disk(_))) => Err(disk),
            (Err(LinkError::Closed), _) => Err(LinkError::SnapshotCutShort(progress.bytes.load(Ordering::Relaxed))),
            (Err(cause), _) => Err(cause),
        }
    }

    async fn take_payload(&mut self, hub: &Hub) -> Result<(), LinkError> {
        let mut reader = PayloadReader::new();
        let mut last_byte = Instant::now();
        loop {
            let mut pieces = Vec::new();
            let used = reader.feed(&self.link.buffer, |bytes| pieces.push(Bytes::copy_from_slice(bytes)))?;
            self.link.buffer.advance(used);
            if let Some(total) = reader.announced_bytes() {
                self.progress.total_bytes.get_or_init(|| total);
            }
            for piece in pieces {
                self.pass_on(piece).await?;
                last_byte = Instant::now();
            }
            if reader.is_done() {
                return Ok(());
            }
            tokio::select! {
                read = self.link.read() => read?,
                _ = self.signs_of_life.tick() => {
                    self.link.send(b"\n").await?;
                    if last_byte.elapsed() > self.link.patience() {
                        return Err(LinkError::Silent(self.link.patience()));
                    }
                    continue;
                }
            }
            last_byte = Instant::now();
            let now = hub.now();
            hub.count(|inner| inner.upstream.last_byte_at = Some(now));
        }
    }

    /// Hands bytes to the writer; while the disk is slower than the primary this waits.
    async fn pass_on(&mut self, piece: Bytes) -> Result<(), LinkError> {
        loop {
            tokio::select! {
                permit = self.pieces.reserve() => {
                    let permit = permit.map_err(|_| LinkError::Closed)?;
                    permit.send(piece);
                    return Ok(());
                }
                _ = self.signs_of_life.tick() => self.link.send(b"\n").await?,
            }
        }
    }
}

/// The writing thread. Dropping the file on an error removes it.
fn write(
    path: PathBuf,
    mut pieces: mpsc::Receiver<Bytes>,
    dataset: DatasetId,
    progress: &Progress,
) -> Result<(StoredFile, RdbFacts), LinkError> {
    let file = StoredFile::create(path)?;
    let mut check = RdbCheck::new();
    let (mut written, mut synced) = (0, 0);
    while let Some(piece) = pieces.blocking_recv() {
        file.write_at(&piece, written)?;
        check.feed(&piece);
        written += piece.len() as u64;
        progress.bytes.store(written, Ordering::Relaxed);
        if let Some(version) = check.version() {
            progress.rdb.get_or_init(|| version);
        }
        // Little by little, so that the fsync at the end, for which everybody waits, is short.
        if written - synced >= SYNC_EVERY_BYTES {
            file.sync()?;
            synced = written;
        }
    }
    let facts = check.finish(dataset.0)?;
    file.sync()?;
    Ok((file, facts))
}

/// Tells that a snapshot is on its way.
pub(super) fn announce(hub: &Hub, dataset: DatasetId) -> Arc<Progress> {
    let progress = Arc::new(Progress::default());
    hub.update(|inner| inner.arrival = Some(Arrival { dataset, progress: Arc::clone(&progress), failed: None }));
    progress
}

/// Removes the trace of an arrival that did not come to its end; where the fault is ours or in the snapshot, says so.
pub(super) fn failed(hub: &Hub, dataset: DatasetId, error: &LinkError) {
    let is_worth_saying = matches!(error, LinkError::Disk(_) | LinkError::Snapshot(_));
    hub.update(|inner| match &mut inner.arrival {
        Some(arrival) if arrival.dataset != dataset => {}
        Some(arrival) if is_worth_saying => arrival.failed = Some(error.to_string()),
        Some(_) | None => inner.arrival = None,
    });
}

/// Opens the file for the stream behind `dataset` and has it written from now on.
pub(super) fn start_stream(hub: &Arc<Hub>, key: StretchKey, dataset: DatasetId) -> Result<Arc<StreamFile>, FileError> {
    let stored = StoredFile::create(hub.config.dir.join(new_name(STREAM_PREFIX)))?;
    let file = Arc::new(StreamFile::new(stored, dataset.0.offset)?);
    carry_on_stream(hub, key, &file);
    Ok(file)
}

/// Has the stream written to `file` as long as anybody holds it.
pub(super) fn carry_on_stream(hub: &Arc<Hub>, key: StretchKey, file: &Arc<StreamFile>) {
    hub.update(|inner| {
        if let Some(stretch) = inner.stretch_mut(key) {
            stretch.attach(file);
        }
    });
    hub.tasks.spawn(stream_writer::run(Arc::clone(hub), key, Arc::downgrade(file)));
}

/// Makes a received snapshot the one that is offered: on disk first, then for all to see.
pub(super) async fn install(hub: &Hub, key: StretchKey, spool: Spool) -> Result<(), LinkError> {
    let spool = Arc::new(spool);
    let saving = hub.saving.lock().await;
    // Before the write: should we be stopped in it, a file that is named must be there. One that is not is swept at the next start.
    spool.keep(true);
    if let Err(error) = hub.write_state(&saving, Some((key, Arc::clone(&spool))), None).await {
        spool.keep(false);
        return Err(error.into());
    }
    let replaced = hub.update(|inner| {
        if inner.live().is_none_or(|live| live.key != key) {
            return Err(LinkError::HistoryEnded);
        }
        // The id may have changed before the main connection had brought all that the snapshot has: then what follows is not its stream.
        let standing = inner.stretch(key).map(|stretch| stretch.history.standing(spool.dataset.0));
        if standing != Some(Standing::Covered) {
            return Err(LinkError::HistoryEnded);
        }
        if spool.stream.is_given_up() {
            return Err(LinkError::StreamGivenUp);
        }
        if inner.arrival.as_ref().is_some_and(|arrival| arrival.dataset == spool.dataset) {
            inner.arrival = None;
        }
        inner.candidate = Some(key);
        let replaced = inner.spool.replace((key, Arc::clone(&spool)));
        inner.prune();
        Ok(replaced)
    });
    match replaced {
        Ok(replaced) => {
            // Sessions that still read the old one hold it; its files go with the last of them.
            if let Some((_, older)) = replaced {
                older.keep(false);
            }
            Ok(())
        }
        Err(error) => {
            spool.keep(false);
            let current = hub.lock().spool.clone();
            hub.write_state(&saving, current, None).await?;
            Err(error)
        }
    }
}

/// Gives up the snapshot of this dataset, if it is the one that is offered. Sessions that still send it, or read the stream beside it, hold
/// the files until they are through.
pub(super) async fn remove(hub: &Hub, dataset: DatasetId) {
    let removed = hub.update(|inner| {
        let (_, spool) = inner.spool.take_if(|(_, spool)| spool.dataset == dataset)?;
        spool.keep(false);
        Some(spool)
    });
    let Some(spool) = removed else { return };
    tracing::info!(group = %hub.config.group, dataset = %spool.dataset, "snapshot removed: it is not wanted any more");
    if let Err(error) = hub.save().await {
        tracing::warn!(group = %hub.config.group, %error, "state of the relay not written");
    }
}

const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);
/// Of at most one read each; when it is full the primary's bytes wait in the socket for the disk.
const PIECES_MAX: usize = 32;
const SYNC_EVERY_BYTES: u64 = 256 << 20;
