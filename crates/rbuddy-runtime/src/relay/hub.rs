//! What all tasks of a relay share: histories, snapshot, sessions, the upstream's state. One lock, held for moments and never across a wait.
//!
//! Promises: whatever changes is published ([`super::view`]); a history that somebody needs is not dropped. Not here: sockets and files' content.

use super::RelayConfig;
use super::files::Spool;
use super::link::LinkError;
use super::log_writer::MUCH_BYTES;
use super::needs::{Away, DISK_RETRY, DiskRoom};
use super::rest::Rest;
use super::stretch::{Course, Piece, Stretch, StretchKey};
use crate::settings::Endpoint;
use bytes::BytesMut;
use rbuddy_core::control::relay::{
    AckPolicy, Previous, RelayView, SessionEnd, SessionState, SessionView, ToldToFollow, UpstreamState, UpstreamView,
};
use rbuddy_core::replication::history::History;
use rbuddy_core::replication::prospect::Gap;
use rbuddy_core::types::{DatasetId, Flavour, NodeAddress, Offset, Position, RdbVersion, ReplId, RunId, ServerVersion, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Shared by all tasks of one relay.
#[derive(Debug)]
pub(super) struct Hub {
    pub(super) config: RelayConfig,
    /// Stable over restarts of the relay.
    pub(super) run_id: RunId,
    inner: Mutex<Inner>,
    /// A state has changed: publish at once.
    pub(super) changed: Notify,
    /// A counter has moved: publish soon.
    pub(super) moved: AtomicBool,
    /// The lowest required ACK may have moved.
    pub(super) acked: Notify,
    /// Much of a stream has yet to reach the disk.
    pub(super) unwritten: Notify,
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
    keys_given: u64,
    /// Last positions of ended histories that the controller has no use for.
    pub(super) discard_ended: BTreeSet<Position>,
    /// Last ACK sent upstream, in the live history.
    acked: Option<(StretchKey, Offset)>,
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
    /// The disk did not take what it was to keep: until then it is left alone.
    pub(super) disk_trouble: Option<Instant>,
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
    pub(super) ended: BTreeMap<NodeAddress, SessionEnd>,
    /// Versions that replicas announced, also of those that are gone.
    pub(super) versions: BTreeMap<NodeAddress, ServerVersion>,
    sessions_given: u64,
    /// Who was refused, so that the log says it once and not at every attempt.
    strangers: BTreeSet<String>,
}

/// A snapshot on its way to disk.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// Its history.
    pub(super) key: StretchKey,
    pub(super) dataset: DatasetId,
    pub(super) progress: Arc<Progress>,
    /// Why it ended, if it did.
    pub(super) failed: Option<String>,
}

/// Counted by whoever receives.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) bytes: AtomicU64,
    pub(super) total_bytes: OnceLock<u64>,
    pub(super) rdb: OnceLock<RdbVersion>,
}

/// A connected replica.
#[derive(Debug)]
pub(super) struct Session {
    serial: u64,
    pub(super) view: SessionView,
    /// The history that it follows, and the last byte of it that was given to its socket.
    pub(super) follows: Option<(StretchKey, Offset)>,
    replaced: CancellationToken,
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
        let inner = Inner { resumable, previous, ..Inner::new(primary, config.clock.now()) };
        let room = DiskRoom::new(config.dir.clone(), config.settings.backlog_disk_bytes);
        Hub {
            config,
            run_id,
            inner: Mutex::new(inner),
            changed: Notify::new(),
            moved: AtomicBool::new(false),
            acked: Notify::new(),
            unwritten: Notify::new(),
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
                inner.disk_trouble = Some(Instant::now() + DISK_RETRY);
            }
            if inner.unweighed_bytes >= UNWEIGHED_BYTES_MAX.min(self.config.settings.backlog_bytes / 8) {
                inner.unweighed_bytes = 0;
                inner.weigh(&self.room);
            }
            inner.stretch(key).map_or(0, Stretch::unwritten_bytes)
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

    /// What to ACK upstream, never above our own end and never less than before (a primary keeps the largest it was told).
    ///
    /// `replicated`: the lowest ACK of the required replicas that follow the live history; where there is none, what was ACKed last.
    pub(super) fn upstream_ack(&self, key: StretchKey, required: &BTreeSet<NodeAddress>) -> Option<Offset> {
        let mut inner = self.lock();
        let stretch = inner.stretch(key)?;
        let before = inner.acked.filter(|(of, _)| *of == key).map_or(stretch.begun, |(_, offset)| offset);
        let end = stretch.history.end;
        let is_required = |address: &NodeAddress| self.config.open || required.contains(address);
        let following = inner.sessions.iter().filter(|(address, session)| is_required(address) && session.is_on(key));
        let acks = following.filter_map(|(_, session)| match session.view.state {
            SessionState::Streaming { acked, .. } => Some(acked),
            SessionState::Held(_) | SessionState::Seeding { .. } | SessionState::Loading { .. } => None,
        });
        let ack = match self.config.settings.ack {
            AckPolicy::Replicated => acks.min().unwrap_or(before).max(before).min(end),
            AckPolicy::Received => end,
        };
        inner.acked = Some((key, ack));
        Some(ack)
    }

    /// What a Valkey primary is told of the replicas behind the relay: it picks the snapshot's format by it, and only the lowest version of all is safe.
    /// Nothing is said while one of them is unknown, or is a Redis, which loads none of Valkey's own formats (protocol fact 1.3).
    pub(super) fn version_to_announce(&self) -> Option<ServerVersion> {
        let inner = self.lock();
        let expected: BTreeSet<&NodeAddress> = match self.config.open {
            true => inner.sessions.keys().collect(),
            false => self.config.replicas.iter().map(|replica| &replica.address).collect(),
        };
        let versions: Option<Vec<ServerVersion>> = expected.into_iter().map(|address| inner.versions.get(address).copied()).collect();
        versions?.into_iter().min().filter(|lowest| lowest.flavour == Flavour::Valkey)
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

    /// A replica said PSYNC. One that is already connected under this address is sent away: a replica has one connection, the newest.
    pub(super) fn admit(&self, address: &NodeAddress, view: SessionView, replaced: CancellationToken) -> u64 {
        let at = self.now();
        self.update(|inner| {
            inner.sessions_given += 1;
            let serial = inner.sessions_given;
            // What it has now is what it asks for.
            inner.away.remove(address);
            if let Some(version) = view.announced_version {
                inner.versions.insert(address.clone(), version);
            }
            if let Some(older) = inner.end_session(address, at, "the replica came again on another connection".to_owned()) {
                older.replaced.cancel();
            }
            inner.sessions.insert(address.clone(), Session { serial, view, follows: None, replaced });
            serial
        })
    }

    /// Somebody was refused; whether that is news.
    pub(super) fn is_new_stranger(&self, shown: &str) -> bool {
        let strangers = &mut self.lock().strangers;
        if strangers.len() >= STRANGERS_MAX {
            strangers.clear();
        }
        strangers.insert(shown.to_owned())
    }

    /// A session changes its state.
    pub(super) fn session_state(&self, address: &NodeAddress, serial: u64, state: SessionState) {
        let now = self.now();
        self.update(|inner| {
            if let Some(session) = inner.session_mut(address, serial)
                && session.view.state != state
            {
                (session.view.state, session.view.since) = (state, now);
            }
        });
    }

    /// A session is over.
    pub(super) fn dismiss(&self, address: &NodeAddress, serial: u64, reason: String) {
        let at = self.now();
        self.update(|inner| {
            if inner.session_mut(address, serial).is_some() {
                inner.remember_away(address, at);
                inner.end_session(address, at, reason);
            }
            inner.prune();
        });
    }
}

impl Arrival {
    pub(super) fn new(key: StretchKey, dataset: DatasetId) -> Arrival {
        Arrival { key, dataset, progress: Arc::default(), failed: None }
    }
}

impl Session {
    fn is_on(&self, key: StretchKey) -> bool {
        self.follows.is_some_and(|(follows, _)| follows == key)
    }
}

impl Inner {
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
            ended: BTreeMap::new(),
            versions: BTreeMap::new(),
            sessions_given: 0,
            strangers: BTreeSet::new(),
        }
    }

    pub(super) fn stretch(&self, key: StretchKey) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.key == key)
    }

    pub(super) fn stretch_mut(&mut self, key: StretchKey) -> Option<&mut Stretch> {
        self.stretches.iter_mut().find(|stretch| stretch.key == key)
    }

    pub(super) fn live(&self) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.history.live)
    }

    pub(super) fn session_mut(&mut self, address: &NodeAddress, serial: u64) -> Option<&mut Session> {
        self.sessions.get_mut(address).filter(|session| session.serial == serial)
    }

    /// A replica's connection is gone: why, and how far it was fed, goes on being told.
    fn end_session(&mut self, address: &NodeAddress, at: Time, reason: String) -> Option<Session> {
        let session = self.sessions.remove(address)?;
        let end = session.view.end(at, reason, self.ended.get(address));
        self.ended.insert(address.clone(), end);
        Some(session)
    }

    /// A new live history. The one before has ended, as far as is known.
    pub(super) fn begin_history(&mut self, history: History, backlog_bytes: u64) -> StretchKey {
        for stretch in self.stretches.iter_mut().filter(|stretch| stretch.history.live) {
            stretch.end();
        }
        self.keys_given += 1;
        let key = StretchKey(self.keys_given);
        self.stretches.push(Stretch::new(key, history, backlog_bytes));
        self.prune();
        key
    }

    /// The snapshot that was to begin this history did not come: it never was.
    pub(super) fn abandon_history(&mut self, key: StretchKey) {
        if let Some(index) = self.stretches.iter().position(|stretch| stretch.key == key) {
            self.stretches.remove(index).end_log();
        }
    }

    /// The primary goes on with this history behind `from`, under this id: it is the live one (again), and the next PSYNC names its end.
    pub(super) fn continue_history(&mut self, key: StretchKey, from: Offset, replid: ReplId, common: Offset) {
        for stretch in &mut self.stretches {
            if stretch.key == key { stretch.go_on(from, replid, common) } else { stretch.stand_still() }
        }
        self.stretches.sort_by_key(|stretch| (stretch.history.live, stretch.key));
        self.candidate = Some(key);
        self.prune();
    }

    /// The primary does not go on at the end of what was followed, but where this history begins, at a replica. Whoever follows what was kept before goes
    /// on with it to its end.
    pub(super) fn begin_anew(&mut self, history: History, backlog_bytes: u64) -> StretchKey {
        let is_empty = |stretch: &Stretch| stretch.history.end.next_byte() == stretch.history.oldest;
        if let Some(empty) = self.candidate.filter(|key| self.stretch(*key).is_some_and(is_empty)) {
            self.abandon_history(empty);
        }
        let begun = self.begin_history(history, backlog_bytes);
        self.candidate = Some(begun);
        begun
    }

    /// Behind which position a primary is asked to go on that does not say what it has: a promoted one has whole commands only, so an
    /// unfinished one here would make the relay ask for more than it can give (protocol fact 4.4).
    pub(super) fn last_whole_command(&mut self) -> Option<(StretchKey, Position)> {
        let key = self.candidate?;
        let stretch = self.stretch_mut(key)?;
        let end = stretch.boundary().unwrap_or(stretch.history.end);
        Some((key, Position::new(stretch.history.replid(), end)))
    }

    /// Drops ended histories that nobody needs.
    pub(super) fn prune(&mut self) {
        let stood_on: BTreeSet<StretchKey> = self.sessions.values().filter_map(|session| session.follows).map(|(key, _)| key).collect();
        let (discard, candidate) = (&self.discard_ended, self.candidate);
        self.stretches.retain_mut(|stretch| {
            let is_used = stretch.history.live || candidate == Some(stretch.key) || stood_on.contains(&stretch.key);
            let is_kept = is_used || !discard.contains(&stretch.history.end_position());
            if !is_kept {
                stretch.end_log();
            }
            is_kept
        });
        while self.stretches.len() > HISTORIES_MAX {
            let Some(oldest) = self.stretches.iter().position(|stretch| !stretch.history.live && candidate != Some(stretch.key)) else {
                return;
            };
            self.stretches.remove(oldest).end_log();
        }
    }
}

/// More than a misconfigured group has; then the log says it again.
const STRANGERS_MAX: usize = 64;
/// A fraction of what may arrive before memory loses anything that somebody still needs.
const UNWEIGHED_BYTES_MAX: u64 = 1 << 20;
/// Each may hold a whole backlog in memory.
const HISTORIES_MAX: usize = 3;
