//! What all tasks of a relay share: histories, snapshot, sessions, the upstream's state. One lock, held for moments and never across a wait.
//!
//! Promise: whatever changes is published ([`super::view`]). Not here: what is done with histories ([`super::histories`]) and sessions ([`super::connected`]), sockets, files'
//! content.

use super::RelayConfig;
use super::connected::Session;
use super::files::Spool;
use super::link::LinkError;
use super::log_writer::MUCH_BYTES;
use super::needs::{Away, DiskRoom, DiskTrouble};
use super::rest::Rest;
use super::stretch::{Course, Piece, Stretch, StretchKey};
use crate::settings::Endpoint;
use bytes::BytesMut;
use rbuddy_core::control::relay::{Previous, RelayView, SessionEnd, ToldToFollow, UpstreamState, UpstreamView};
use rbuddy_core::replication::prospect::Gap;
use rbuddy_core::types::{DatasetId, NodeAddress, Offset, Position, RdbVersion, ReplId, RunId, ServerVersion, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by all tasks of one relay.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) config: RelayConfig,
    /// Stable over restarts of the relay.
    pub(super) run_id: RunId,
    /// When this run of it began.
    pub(super) begun: Time,
    inner: Mutex<Inner>,
    /// A state has changed: publish at once.
    pub(super) changed: Notify,
    /// A counter has moved: publish soon.
    pub(super) moved: AtomicBool,
    /// The lowest required ACK may have moved.
    pub(super) acked: Notify,
    /// Much of a stream has yet to reach the disk.
    pub(super) unwritten: Notify,
    /// relay.json is to be written.
    pub(super) stale: Notify,
    /// Much arrives.
    pub(super) rest: Rest,
    /// Where on disk, and how much.
    pub(super) room: DiskRoom,
    /// What is published.
    pub(super) view: watch::Receiver<RelayView>,
    /// Cancelled when the relay is to end.
    pub(super) stopping: CancellationToken,
    /// Everything that the relay's parts start; awaited at the end.
    pub(super) tasks: TaskTracker,
    /// relay.json is written by one task at a time.
    pub(super) saving: tokio::sync::Mutex<()>,
}

/// Behind the lock.
#[derive(Debug)]
pub(super) struct Inner {
    /// In the order of their beginning; the live one is last.
    pub(super) stretches: Vec<Stretch>,
    /// Whose end the next PSYNC to the primary names.
    pub(super) candidate: Option<StretchKey>,
    /// The primary's process that was seen with less of this history than is kept, and how much less.
    pub(super) lost: Option<(StretchKey, RunId, Gap)>,
    pub(super) keys_given: u64,
    /// Last positions of ended histories that the controller has no use for.
    pub(super) discard_ended: BTreeSet<Position>,
    /// Last ACK sent upstream, in the live history.
    pub(super) acked: Option<(StretchKey, Offset)>,
    pub(super) upstream: UpstreamView,
    /// Where the primary is: as configured, or where the orders say it is now. `None`: nobody has said yet.
    pub(super) primary: Option<NodeAddress>,
    /// A Sentinel's word on that.
    pub(super) told_to_follow: Option<ToldToFollow>,
    /// The complete snapshot and its history.
    pub(super) spool: Option<(StretchKey, Arc<Spool>)>,
    /// The one that relay.json names: it goes only when that names another, or none.
    pub(super) named: Option<(StretchKey, Arc<Spool>)>,
    /// relay.json names a log that is no more.
    pub(super) is_state_stale: bool,
    /// How large the last snapshot was, as far as it came.
    pub(super) snapshot_bytes: u64,
    /// What is free there, as last seen.
    pub(super) disk_free_bytes: Option<u64>,
    /// The disk did not take what it was to keep.
    pub(super) disk_trouble: Option<DiskTrouble>,
    /// What replicas had when they were last here.
    pub(super) away: BTreeMap<NodeAddress, Away>,
    /// Bytes that arrived since it was last looked at what is needed on disk.
    unweighed_bytes: u64,
    /// One on its way, or the one that failed last.
    pub(super) arrival: Option<Arrival>,
    pub(super) resumable: Option<(DatasetId, Position)>,
    pub(super) previous: Option<Previous>,
    pub(super) request_done: Option<u64>,
    pub(super) request_error: Option<String>,
    pub(super) sessions: BTreeMap<NodeAddress, Session>,
    /// Addresses at which one that is connected came once more: how often lately, and when last.
    pub(super) contested: BTreeMap<NodeAddress, (u32, Time)>,
    pub(super) ended: BTreeMap<NodeAddress, SessionEnd>,
    /// Versions that replicas announced, also of those that are gone.
    pub(super) versions: BTreeMap<NodeAddress, ServerVersion>,
    pub(super) sessions_given: u64,
    /// Who was refused, so that the log says it once and not at every attempt.
    pub(super) strangers: BTreeSet<String>,
}

/// A snapshot on its way to disk.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// Its history.
    pub(super) key: StretchKey,
    pub(super) dataset: DatasetId,
    pub(super) progress: Arc<Progress>,
    /// Why it ended, if it did: it is lost, and taken anew unless somebody discards it.
    pub(super) failed: Option<String>,
    /// It is in place of one that was lost.
    pub(super) is_retry: bool,
}

/// Counted by whoever receives.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) bytes: AtomicU64,
    pub(super) total_bytes: OnceLock<u64>,
    pub(super) rdb: OnceLock<RdbVersion>,
}

impl Hub {
    pub(super) fn new(
        config: RelayConfig,
        run_id: RunId,
        primary: Option<NodeAddress>,
        resumable: Option<(DatasetId, Position)>,
        previous: Option<Previous>,
        view: watch::Receiver<RelayView>,
    ) -> Hub {
        let begun = config.clock.now();
        let inner = Inner { resumable, previous, ..Inner::new(primary, begun) };
        let room = DiskRoom::new(config.dir.clone(), config.settings.backlog_disk_bytes);
        Hub {
            config,
            run_id,
            begun,
            inner: Mutex::new(inner),
            changed: Notify::new(),
            moved: AtomicBool::new(false),
            acked: Notify::new(),
            unwritten: Notify::new(),
            stale: Notify::new(),
            rest: Rest::default(),
            room,
            view,
            stopping: CancellationToken::new(),
            tasks: TaskTracker::new(),
            saving: tokio::sync::Mutex::new(()),
        }
    }

    /// Where the primary is, and how to log in there.
    pub(super) fn primary(&self) -> Result<Endpoint, LinkError> {
        let address = self.lock().primary.clone();
        address.map(|address| self.config.primary.endpoint(address)).ok_or(LinkError::NoPrimary)
    }

    pub(super) fn now(&self) -> Time {
        self.config.clock.now()
    }

    /// Looks, or changes what nobody is told of.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        // A task that panicked while it held the lock left counters at worst; the data plane goes on.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes a state: published at once.
    pub(super) fn update<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.notify_one();
        result
    }

    /// Moves a counter: published soon.
    pub(super) fn count<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.moved.store(true, Ordering::Relaxed);
        result
    }

    /// Takes bytes from the primary. A session or writer that waits for them wakes up.
    pub(super) fn append(&self, key: StretchKey, read: &mut BytesMut) {
        let now = self.now();
        let unwritten_bytes = self.count(|inner| {
            inner.upstream.last_byte_at = Some(now);
            inner.unweighed_bytes += read.len() as u64;
            let Some(stretch) = inner.stretch_mut(key) else { return 0 };
            if !stretch.append(read) {
                inner.log_overrun(key);
            }
            if inner.unweighed_bytes >= UNWEIGHED_BYTES_MAX.min(self.config.settings.backlog_bytes / 8) {
                inner.unweighed_bytes = 0;
                inner.weigh(&self.room);
            }
            let is_written = inner.disk_trouble.is_none();
            inner.stretch(key).filter(|_| is_written).map_or(0, Stretch::unwritten_bytes)
        });
        if unwritten_bytes >= MUCH_BYTES {
            self.unwritten.notify_one();
        }
    }

    /// What lies behind `from` for one that knows the history as `known_as`; `None` if the history was dropped.
    pub(super) fn read(&self, key: StretchKey, from: Offset, known_as: Option<ReplId>) -> Option<Piece> {
        self.lock().stretch(key).map(|stretch| stretch.read(from, known_as))
    }

    /// How a history stands, from now until it is dropped; `None` if that was before.
    pub(super) fn subscribe(&self, key: StretchKey) -> Option<watch::Receiver<Course>> {
        self.lock().stretch(key).map(Stretch::subscribe)
    }

    /// The upstream connection does something else now.
    pub(super) fn upstream(&self, state: UpstreamState) {
        let now = self.now();
        self.update(|inner| {
            let upstream = &mut inner.upstream;
            if upstream.state != state {
                (upstream.state, upstream.since) = (state, now);
            }
            if state == UpstreamState::Streaming {
                (upstream.down_since, upstream.last_error) = (None, None);
            } else if upstream.down_since.is_none() {
                upstream.down_since = Some(now);
            }
        });
    }
}

impl Arrival {
    pub(super) fn new(key: StretchKey, dataset: DatasetId) -> Arrival {
        Arrival { key, dataset, progress: Arc::default(), failed: None, is_retry: false }
    }
}

impl Inner {
    /// A snapshot is on its way.
    pub(super) fn expect_snapshot(&mut self, key: StretchKey, dataset: DatasetId) -> Arc<Progress> {
        let is_retry = self.arrival.as_ref().is_some_and(|before| before.is_retry || before.failed.is_some());
        let arrival = self.arrival.insert(Arrival { is_retry, ..Arrival::new(key, dataset) });
        Arc::clone(&arrival.progress)
    }

    /// A snapshot that was here is gone, by the disk's fault: it is taken anew unless somebody discards it. One that is on its way is in its place.
    pub(super) fn note_lost(&mut self, key: StretchKey, dataset: DatasetId, reason: String) {
        self.arrival.get_or_insert_with(|| Arrival { failed: Some(reason), ..Arrival::new(key, dataset) });
    }

    fn new(primary: Option<NodeAddress>, now: Time) -> Inner {
        Inner {
            stretches: Vec::new(),
            candidate: None,
            lost: None,
            keys_given: 0,
            discard_ended: BTreeSet::new(),
            acked: None,
            upstream: UpstreamView { since: now, ..UpstreamView::default() },
            primary,
            told_to_follow: None,
            spool: None,
            named: None,
            is_state_stale: false,
            snapshot_bytes: 0,
            disk_free_bytes: None,
            disk_trouble: None,
            away: BTreeMap::new(),
            unweighed_bytes: 0,
            arrival: None,
            resumable: None,
            previous: None,
            request_done: None,
            request_error: None,
            sessions: BTreeMap::new(),
            contested: BTreeMap::new(),
            ended: BTreeMap::new(),
            versions: BTreeMap::new(),
            sessions_given: 0,
            strangers: BTreeSet::new(),
        }
    }
}

/// A fraction of what may arrive before memory loses anything that somebody still needs.
const UNWEIGHED_BYTES_MAX: u64 = 1 << 20;
