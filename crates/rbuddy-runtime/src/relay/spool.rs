//! Receives a snapshot: payload from a link to a file, checked on the way, offered as soon as it is complete. The disk may take it in its own time behind
//! that: until it has, `relay.json` does not name it; and if it cannot, the snapshot is given up.
//!
//! While bytes arrive and while the disk is slow the primary is sent a newline a second: it would cut a replica that is silent for `repl-timeout` (protocol
//! fact 11.10). Not here: when a snapshot is wanted, and what becomes of it.

use super::files::{FileError, Spool, StoredFile, free_bytes, new_name};
use super::hub::{Hub, Progress};
use super::link::{Link, LinkError};
use super::rest::Load;
use super::state::SNAPSHOT_PREFIX;
use super::stretch::StretchKey;
use bytes::Bytes;
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

/// What to do when the disk does not take a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDiskError {
    /// Read the rest and throw it away: the connection has the stream behind it, and losing that would have the primary fork again.
    ReadOn,
    /// The connection is for the snapshot only.
    Stop,
}

/// A payload that was read to its end.
#[derive(Debug)]
pub(super) enum Received {
    /// Checked, and in this file, which the disk is still taking.
    Whole(StoredFile, RdbFacts, Syncing),
    /// Not kept.
    NotStored(FileError),
}

/// The disk takes what was written, in the background; all that is left to take is told at the end.
type Syncing = JoinHandle<Result<(), FileError>>;

/// A payload in the middle of its reception.
struct Reception<'a> {
    link: &'a mut Link,
    progress: Arc<Progress>,
    on_disk_error: OnDiskError,
    signs_of_life: Interval,
    /// To the thread that writes. `None` once that gave up.
    pieces: Option<mpsc::Sender<Bytes>>,
    writer: JoinHandle<Result<(StoredFile, RdbFacts, Syncing), LinkError>>,
}

/// Receives what follows a `+FULLRESYNC` for `dataset`. What is whole is checked, and need not be on the disk itself yet.
pub(super) async fn receive(
    hub: &Hub,
    link: &mut Link,
    key: StretchKey,
    dataset: DatasetId,
    on_disk_error: OnDiskError,
) -> Result<Received, LinkError> {
    let progress = announce(hub, key, dataset);
    let (pieces, received) = mpsc::channel(PIECES_MAX);
    let path = hub.config.dir.join(new_name(SNAPSHOT_PREFIX));
    let writer = tokio::task::spawn_blocking({
        let progress = Arc::clone(&progress);
        move || write(path, received, dataset, &progress)
    });
    let mut signs_of_life = tokio::time::interval(SIGN_OF_LIFE_EVERY);
    signs_of_life.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let reception = Reception { link, progress: Arc::clone(&progress), on_disk_error, signs_of_life, pieces: Some(pieces), writer };
    let received = reception.run(hub).await;
    let seen = progress.total_bytes.get().copied().unwrap_or(0).max(progress.bytes.load(Ordering::Relaxed));
    let mut inner = hub.lock();
    // An attempt that was cut short says nothing against what is known from one that was not.
    inner.snapshot_bytes = if matches!(received, Ok(Received::Whole(..))) { seen } else { seen.max(inner.snapshot_bytes) };
    received
}

impl Reception<'_> {
    async fn run(mut self, hub: &Hub) -> Result<Received, LinkError> {
        let taken = self.take_payload(hub).await;
        // Without a sender the writer comes to its end, whatever it has.
        let Reception { link, mut signs_of_life, pieces, mut writer, progress, on_disk_error } = self;
        drop(pieces);
        let written = loop {
            tokio::select! {
                written = &mut writer => break written,
                _ = signs_of_life.tick(), if taken.is_ok() => link.outgoing.send(b"\n").await?,
            }
        };
        let written = written.map_err(|join| LinkError::Broken(std::io::Error::other(join)));
        match (taken, written?) {
            (Ok(()), Ok((file, facts, syncing))) => match failed_already(syncing).await {
                Ok(syncing) => Ok(Received::Whole(file, facts, syncing)),
                Err(error) if on_disk_error == OnDiskError::ReadOn => Ok(Received::NotStored(error)),
                Err(error) => Err(error.into()),
            },
            (Ok(()), Err(LinkError::Disk(error))) if on_disk_error == OnDiskError::ReadOn => Ok(Received::NotStored(error)),
            (Ok(()), Err(error)) => Err(error),
            // A disk that fails may make the reception fail too; the disk is the cause then, and what the link says is not.
            (Err(_), Err(disk @ LinkError::Disk(_))) if on_disk_error == OnDiskError::Stop => Err(disk),
            (Err(LinkError::Closed), _) => Err(LinkError::SnapshotCutShort(progress.bytes.load(Ordering::Relaxed))),
            (Err(cause), _) => Err(cause),
        }
    }

    async fn take_payload(&mut self, hub: &Hub) -> Result<(), LinkError> {
        let mut reader = PayloadReader::new();
        let mut last_byte = Instant::now();
        let mut load = Load::new(last_byte);
        loop {
            let input = self.link.incoming.buffer.split().freeze();
            let mut pieces = Vec::new();
            let used = reader.feed(&input, |piece| pieces.push(shared(&input, piece)))?;
            // What is left belongs to the stream.
            self.link.incoming.buffer.extend_from_slice(&input[used..]);
            drop(input);
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
                read = self.link.incoming.read() => read?,
                _ = self.signs_of_life.tick() => {
                    self.link.outgoing.send(b"\n").await?;
                    if last_byte.elapsed() > self.link.patience {
                        return Err(LinkError::Silent(self.link.patience));
                    }
                    continue;
                }
            }
            last_byte = Instant::now();
            // Each piece wakes the writing thread: better few that are large.
            if load.is_much(self.link.incoming.buffer.len(), last_byte) && !self.link.incoming.is_full() {
                hub.rest.order();
            }
            let now = hub.now();
            hub.count(|inner| inner.upstream.last_byte_at = Some(now));
        }
    }

    /// Hands bytes to the writer; while the disk is slower than the primary this waits.
    async fn pass_on(&mut self, piece: Bytes) -> Result<(), LinkError> {
        self.progress.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        let Some(pieces) = self.pieces.clone() else { return Ok(()) };
        loop {
            tokio::select! {
                permit = pieces.reserve() => {
                    match permit {
                        Ok(permit) => permit.send(piece),
                        Err(_) if self.on_disk_error == OnDiskError::ReadOn => self.pieces = None,
                        Err(_) => return Err(LinkError::Closed),
                    }
                    return Ok(());
                }
                _ = self.signs_of_life.tick() => self.link.outgoing.send(b"\n").await?,
            }
        }
    }
}

/// Nothing is waited for. What the disk is known not to have taken is not offered.
async fn failed_already(syncing: Syncing) -> Result<Syncing, FileError> {
    if !syncing.is_finished() {
        return Ok(syncing);
    }
    match syncing.await {
        Ok(Err(error)) => Err(error),
        done @ (Ok(Ok(())) | Err(_)) => Ok(tokio::spawn(async { done.unwrap_or(Ok(())) })),
    }
}

/// A part of what was read, without a copy where it lies in there. (What the reader held back is given out from its own memory.)
fn shared(input: &Bytes, piece: &[u8]) -> Bytes {
    let (whole, part) = (input.as_ptr_range(), piece.as_ptr_range());
    if whole.start <= part.start && part.end <= whole.end { input.slice_ref(piece) } else { Bytes::copy_from_slice(piece) }
}

/// The writing thread. Dropping the file on an error removes it.
///
/// Another one has the disk take what was written so far, over and over: all of it at the end would keep the disk busy just when replicas store their copies.
/// It is not waited for: meanwhile nobody would read the stream that follows, and no replica would be given anything.
fn write(
    path: PathBuf,
    mut pieces: mpsc::Receiver<Bytes>,
    dataset: DatasetId,
    progress: &Progress,
) -> Result<(StoredFile, RdbFacts, Syncing), LinkError> {
    let file = StoredFile::create(path)?;
    let mut check = RdbCheck::new();
    let (mut written, mut synced) = (0, 0);
    let (due, dues) = std::sync::mpsc::sync_channel(1);
    let same_file = file.again()?;
    let syncing = tokio::task::spawn_blocking(move || dues.into_iter().try_for_each(|()| same_file.sync()));
    while let Some(piece) = pieces.blocking_recv() {
        file.write_at(&piece, written)?;
        check.feed(&piece);
        written += piece.len() as u64;
        if let Some(version) = check.version() {
            progress.rdb.get_or_init(|| version);
        }
        // One that is still at it takes this along the next time. One that gave up has the error.
        if written - synced >= SYNC_EVERY_BYTES && due.try_send(()).is_ok() {
            synced = written;
        }
    }
    Ok((file, check.finish(dataset.0)?, syncing))
}

/// Tells that a snapshot is on its way. From now on the stream behind it is kept.
fn announce(hub: &Hub, key: StretchKey, dataset: DatasetId) -> Arc<Progress> {
    hub.update(|inner| {
        let progress = inner.expect_snapshot(key, dataset);
        inner.weigh(&hub.room);
        progress
    })
}

/// An arrival did not come to its end. Where the fault is ours or in the snapshot it is lost, and that is said; else the next connection brings what is
/// wanted, and its trace is removed. One in place of a lost one is lost as well.
pub(super) fn failed(hub: &Hub, dataset: DatasetId, error: &LinkError) {
    let is_our_fault = matches!(error, LinkError::Disk(_) | LinkError::Snapshot(_));
    hub.update(|inner| match &mut inner.arrival {
        Some(arrival) if arrival.dataset != dataset => {}
        Some(arrival) if is_our_fault || arrival.is_retry => arrival.failed = Some(error.to_string()),
        Some(_) | None => inner.arrival = None,
    });
}

/// The snapshot that begins this history is offered to all; or it could not be stored, and the history goes on without until there is room for another.
pub(super) fn begin_with(hub: &Arc<Hub>, key: StretchKey, dataset: DatasetId, received: Received) -> Result<(), LinkError> {
    match received {
        Received::Whole(snapshot, facts, syncing) => {
            tracing::info!(group = %hub.config.group, %dataset, bytes = facts.bytes, rdb = %facts.version, checksum = ?facts.checksum, "snapshot ready");
            install(hub, key, Spool { dataset, facts, snapshot }, syncing)
        }
        Received::NotStored(error) => {
            tracing::warn!(group = %hub.config.group, %dataset, %error, "snapshot not stored: the stream goes on without it");
            hub.update(|inner| inner.candidate = Some(key));
            failed(hub, dataset, &LinkError::Disk(error));
            Ok(())
        }
    }
}

/// Makes a received snapshot the one that is offered. It reaches the disk behind that.
pub(super) fn install(hub: &Arc<Hub>, key: StretchKey, spool: Spool, syncing: Syncing) -> Result<(), LinkError> {
    let spool = Arc::new(spool);
    hub.update(|inner| {
        if inner.live().is_none_or(|live| live.key != key) {
            return Err(LinkError::HistoryEnded);
        }
        // The id may have changed before the main connection had brought all that the snapshot has: then what follows is not its stream.
        match inner.stretch(key).map(|stretch| stretch.history.standing(spool.dataset.0)) {
            Some(Standing::Covered) => {}
            Some(Standing::TooOld { .. }) => return Err(LinkError::StreamGivenUp),
            Some(Standing::UnknownId | Standing::PastLimit { .. } | Standing::Ahead { .. }) | None => return Err(LinkError::HistoryEnded),
        }
        if inner.arrival.as_ref().is_some_and(|arrival| arrival.dataset == spool.dataset) {
            inner.arrival = None;
        }
        inner.candidate = Some(key);
        inner.spool = Some((key, Arc::clone(&spool)));
        inner.weigh(&hub.room);
        inner.prune();
        Ok(())
    })?;
    hub.tasks.spawn(settle(Arc::clone(hub), key, spool, syncing));
    Ok(())
}

/// Has it survive the process, once the disk has it. What the disk could not take may be lost at any moment, though it can still be read now.
async fn settle(hub: Arc<Hub>, key: StretchKey, spool: Arc<Spool>, syncing: Syncing) {
    let is_broken = |join| FileError::at("fsync", &hub.config.dir)(std::io::Error::other(join));
    let rest = Arc::clone(&spool);
    let synced = match syncing.await.map_err(is_broken) {
        Ok(Ok(())) => tokio::task::spawn_blocking(move || rest.snapshot.sync()).await.map_err(is_broken).and_then(|synced| synced),
        Ok(Err(error)) | Err(error) => Err(error),
    };
    if let Err(error) = synced {
        tracing::warn!(group = %hub.config.group, dataset = %spool.dataset, %error, "snapshot removed: the disk did not take it");
        return give_up(&hub, key, &spool, error.to_string()).await;
    }
    if let Err(error) = hub.name_spool(key, &spool).await {
        tracing::warn!(group = %hub.config.group, dataset = %spool.dataset, %error, "a restart will not find this snapshot");
    }
}

/// The snapshot is lost. What is read of it from now on may be anything, so nobody is given the rest.
async fn give_up(hub: &Hub, key: StretchKey, spool: &Arc<Spool>, reason: String) {
    hub.update(|inner| {
        if inner.spool.take_if(|(_, offered)| Arc::ptr_eq(offered, spool)).is_some() {
            inner.note_lost(key, spool.dataset, reason);
        }
        inner.end_seeding(key, spool.dataset);
    });
    hub.unname(spool).await;
}

/// Gives up the snapshot of this dataset, if it is the one that is offered. Sessions that still send it hold its file until they are through.
pub(super) async fn remove(hub: &Hub, dataset: DatasetId) {
    let removed = hub.update(|inner| inner.spool.take_if(|(_, spool)| spool.dataset == dataset));
    let Some((_, spool)) = removed else { return };
    tracing::info!(group = %hub.config.group, dataset = %spool.dataset, "snapshot removed: it is not wanted any more");
    hub.unname(&spool).await;
}

/// Sees to it that there is room for a snapshot that is so many times as large as the last one, as far as that is known. One that nobody is offered makes
/// way: it leads into a history that the primary has left, or could not be replaced. (Should the primary go back, it would have spared a fork.) Whether one
/// as large as the last fits then.
pub(super) async fn make_room(hub: &Hub, times: u64) -> Result<(), LinkError> {
    if let Err(LinkError::NoRoom { .. }) = find_room(hub, times).await {
        make_way(hub).await;
    }
    find_room(hub, 1).await
}

/// What sessions still send goes with the last of them.
async fn make_way(hub: &Hub) {
    let old = hub.update(|inner| {
        let live = inner.live()?.key;
        let left = inner.spool.take_if(|(of, _)| *of != live);
        left.or_else(|| inner.named.clone().filter(|_| inner.spool.is_none()))
    });
    let Some((_, spool)) = old else { return };
    tracing::info!(group = %hub.config.group, dataset = %spool.dataset, "snapshot removed: the next one wants its room");
    hub.unname(&spool).await;
    if let Some(spool) = Arc::into_inner(spool) {
        // Failed or not: what is free then is looked at.
        let _ = tokio::task::spawn_blocking(|| spool.snapshot.remove()).await;
    }
}

async fn find_room(hub: &Hub, times: u64) -> Result<(), LinkError> {
    let seen = hub.lock().snapshot_bytes;
    let dir = hub.config.dir.clone();
    let free = tokio::task::spawn_blocking(move || free_bytes(&dir)).await;
    let free = free.unwrap_or_else(|join| Err(FileError::at("look at", &hub.config.dir)(std::io::Error::other(join))))?;
    // It may have grown, and its stream wants some too.
    let needed = (seen + seen / 8).saturating_mul(times) + ROOM_BYTES;
    if free < needed { Err(LinkError::NoRoom { needed, free }) } else { Ok(()) }
}

const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(1);
/// Of at most one read each; when it is full the primary's bytes wait in the socket for the disk.
const PIECES_MAX: usize = 32;
/// A fraction of a second's work for a disk, and few enough waits.
const SYNC_EVERY_BYTES: u64 = 32 << 20;
const ROOM_BYTES: u64 = 16 << 20;
