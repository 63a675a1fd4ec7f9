//! Publishes what is: [`RelayView`] for the controller. States at once, counters at most 20 times a second.

use super::files::free_bytes;
use super::hub::{Arrival, Hub, Inner};
use rbuddy_core::control::relay::{RelayView, SnapshotState, SnapshotView};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// Runs until cancelled.
pub(super) async fn publish(hub: Arc<Hub>, view: watch::Sender<RelayView>, cancel: CancellationToken) {
    let mut ticks = tokio::time::interval(COUNTERS_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = hub.changed.notified() => {}
            _ = ticks.tick() => if !hub.moved.swap(false, Ordering::Relaxed) { continue },
        }
        let new = compose(&hub, &hub.lock());
        view.send_if_modified(|old| {
            let modified = *old != new;
            *old = new;
            modified
        });
    }
}

/// Looks at the disk now and then. Apart from the publisher: a disk that hangs holds up nobody.
pub(super) async fn watch_disk(hub: Arc<Hub>, cancel: CancellationToken) {
    loop {
        let dir = hub.config.dir.clone();
        let free = tokio::select! {
            () = cancel.cancelled() => return,
            free = tokio::task::spawn_blocking(move || free_bytes(&dir)) => free,
        };
        let free = free.ok().and_then(Result::ok).map(|bytes| bytes & !(MIB - 1));
        hub.count(|inner| inner.disk_free_bytes = free);
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(DISK_EVERY) => {}
        }
    }
}

/// The whole state as others see it.
pub(super) fn compose(hub: &Hub, inner: &Inner) -> RelayView {
    let kept_bytes_max = hub.room.kept_bytes_max(hub.config.settings.backlog_bytes);
    RelayView {
        resumable: inner.resumable,
        previous: inner.previous.clone(),
        upstream: inner.upstream.clone(),
        told_to_follow: inner.told_to_follow.clone(),
        histories: inner.stretches.iter().map(|stretch| stretch.history.clone()).collect(),
        backlog: inner.backlog(kept_bytes_max),
        snapshot: snapshot(inner),
        snapshot_request_done: inner.request_done,
        snapshot_request_error: inner.request_error.clone(),
        sessions: inner.sessions.iter().map(|(address, session)| (address.clone(), session.view.clone())).collect(),
        ended: inner.ended.clone(),
        disk_free_bytes: inner.disk_free_bytes,
    }
}

/// The one on its way (or failed) goes before the one that is there: it is the news.
fn snapshot(inner: &Inner) -> Option<SnapshotView> {
    if let Some(Arrival { dataset, progress, failed, .. }) = &inner.arrival {
        return Some(SnapshotView {
            dataset: *dataset,
            state: failed.clone().map_or(SnapshotState::Receiving, SnapshotState::Failed),
            bytes: progress.bytes.load(Ordering::Relaxed),
            total_bytes: progress.total_bytes.get().copied(),
            rdb: progress.rdb.get().copied(),
            keys_hint: None,
        });
    }
    // A snapshot of an ended history is followed by nothing: it is no offer to anybody, but may become one again.
    let (key, spool) = inner.spool.as_ref()?;
    inner.live().filter(|live| live.key == *key)?;
    Some(SnapshotView {
        dataset: spool.dataset,
        state: SnapshotState::Ready,
        bytes: spool.facts.bytes,
        total_bytes: Some(spool.facts.bytes),
        rdb: Some(spool.facts.version),
        keys_hint: spool.facts.keys_hint,
    })
}

const DISK_EVERY: Duration = Duration::from_secs(10);
/// A disk that others write to as well would be news all the time.
const MIB: u64 = 1 << 20;
const COUNTERS_EVERY: Duration = Duration::from_millis(50);
