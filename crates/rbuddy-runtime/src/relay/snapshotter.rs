//! Snapshots on demand, over a second connection, while the stream goes on over the first (protocol fact 2.7).
//!
//! Taken when the controller asks ([`RelayOrders::snapshot_request`]), and by the relay itself when a wanted snapshot was lost (a full disk):
//! that with a back-off, since each costs the primary a fork, and only if the disk has room for it. Where the orders name a replica that follows the same
//! history, that one forks in the primary's place ([`RelayOrders::snapshot_source`]). Not here: the snapshot of a full resync on the main connection.

use super::backoff::Backoff;
use super::files::Spool;
use super::hub::Hub;
use super::link::{Link, LinkError, Purpose};
use super::spool::{self, OnDiskError, Received};
use super::stretch::StretchKey;
use crate::settings::Endpoint;
use rbuddy_core::control::relay::{RelayOrders, UpstreamState};
use rbuddy_core::replication::answer::PsyncAnswer;
use rbuddy_core::types::{DatasetId, NodeAddress, Position, ReplId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Why a snapshot is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reason {
    Asked(u64),
    Lost,
}

/// The task's own state.
#[derive(Debug)]
pub(super) struct Snapshotter {
    hub: Arc<Hub>,
    orders: watch::Receiver<RelayOrders>,
    backoff: Backoff,
    not_before: Instant,
    /// When an attempt failed, or what it gave was lost.
    troubled_at: Option<Instant>,
    /// A request that waits for the stream, and how many full resyncs there had been when it came: if one happens meanwhile, its snapshot is the answer.
    waiting: Option<(u64, u64)>,
    /// The snapshot that was last seen to be lost.
    seen_lost: Option<DatasetId>,
}

impl Snapshotter {
    pub(super) fn new(hub: Arc<Hub>, orders: watch::Receiver<RelayOrders>) -> Snapshotter {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        Snapshotter { hub, orders, backoff, not_before: Instant::now(), troubled_at: None, waiting: None, seen_lost: None }
    }

    /// Runs until cancelled.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let mut view = self.hub.view.clone();
        loop {
            if let Some(reason) = self.due() {
                tokio::select! {
                    () = self.take(reason) => {}
                    () = cancel.cancelled() => return,
                }
                continue;
            }
            let until = if self.not_before > Instant::now() { self.not_before } else { Instant::now() + IDLE };
            let changed = tokio::select! {
                changed = self.orders.changed() => changed,
                changed = view.changed() => changed,
                () = tokio::time::sleep_until(until) => Ok(()),
                () = cancel.cancelled() => return,
            };
            if changed.is_err() {
                // Whoever gives orders ends before the relay does.
                return cancel.cancelled().await;
            }
        }
    }

    /// Whether a snapshot is to be taken now.
    fn due(&mut self) -> Option<Reason> {
        let (request, discarded) = {
            let orders = self.orders.borrow_and_update();
            (orders.snapshot_request, orders.discard_snapshot)
        };
        let (lost, done, state, full_resyncs) = {
            let inner = self.hub.lock();
            let lost = inner.arrival.as_ref().filter(|arrival| arrival.failed.is_some()).map(|arrival| arrival.dataset);
            (lost, inner.request_done, inner.upstream.state, inner.upstream.full_resyncs)
        };
        // Each attempt costs the primary a fork: none for a snapshot that nobody wants any more.
        let lost = lost.filter(|lost| Some(*lost) != discarded);
        if lost.is_some() && lost != self.seen_lost && Instant::now() >= self.not_before {
            // Not at once: who gives orders may not want another, and what was lost so soon may be lost again.
            self.hesitate();
        }
        self.seen_lost = lost;
        let is_lost = lost.is_some();
        let request = request.filter(|request| done.is_none_or(|done| *request > done));
        // One that was withdrawn, and may come again under the same number, waits anew.
        self.waiting = self.waiting.filter(|(waits, _)| request == Some(*waits));
        match request {
            Some(request) => {
                let (_, before) = *self.waiting.get_or_insert((request, full_resyncs));
                // Also where it is asked for anew right after one that failed.
                if state != UpstreamState::Streaming || Instant::now() < self.not_before {
                    return None;
                }
                self.waiting = None;
                if full_resyncs != before && !is_lost {
                    self.done(request, None);
                    return None;
                }
                Some(Reason::Asked(request))
            }
            None if is_lost && state == UpstreamState::Streaming && Instant::now() >= self.not_before => Some(Reason::Lost),
            None => None,
        }
    }

    async fn take(&mut self, reason: Reason) {
        let hub = &self.hub;
        let source = self.orders.borrow().snapshot_source.clone();
        let result = take(hub, source, reason).await;
        let error = match result {
            Ok(dataset) => {
                info!(group = %hub.config.group, %dataset, "snapshot ready");
                None
            }
            // A look at the disk is cheap, and the primary is not asked.
            Err(error @ LinkError::NoRoom { .. }) => {
                self.not_before = Instant::now() + LOOK_FOR_ROOM_EVERY;
                debug!(group = %hub.config.group, %error, "snapshot not taken");
                Some(error.to_string())
            }
            Err(error) => {
                warn!(group = %hub.config.group, %error, "snapshot not taken");
                self.hesitate();
                Some(error.to_string())
            }
        };
        match reason {
            Reason::Asked(request) => self.done(request, error),
            Reason::Lost => {}
        }
    }

    /// The more often it was in vain lately, the longer until the next attempt.
    fn hesitate(&mut self) {
        let now = Instant::now();
        if self.troubled_at.is_none_or(|at| now.duration_since(at) >= FORGIVEN_AFTER) {
            self.backoff.reset();
        }
        self.troubled_at = Some(now);
        self.not_before = now + self.backoff.wait();
    }

    fn done(&self, request: u64, error: Option<String>) {
        self.hub.update(|inner| (inner.request_done, inner.request_error) = (Some(request), error));
    }
}

/// One attempt; where a replica cannot give it, the primary is asked.
async fn take(hub: &Arc<Hub>, source: Option<NodeAddress>, reason: Reason) -> Result<DatasetId, LinkError> {
    let live = hub.lock().live().map(|stretch| (stretch.key, stretch.history.replid()));
    let Some((key, replid)) = live else { return Err(LinkError::HistoryEnded) };
    spool::make_room(hub, 1).await?;
    let from = |server: Endpoint| async move {
        info!(group = %hub.config.group, server = %server.address, ?reason, "taking a snapshot over a second connection");
        tokio::select! {
            taken = take_from(hub, &server, key, replid) => taken,
            () = until_ended(hub, key) => {
                hub.update(|inner| inner.arrival.take_if(|arrival| arrival.key == key && arrival.failed.is_none()));
                Err(LinkError::HistoryEnded)
            }
        }
    };
    if let Some(replica) = source.and_then(|source| hub.config.replicas.iter().find(|replica| replica.address == source)) {
        match from(replica.clone()).await {
            // Another server would not make room.
            taken @ (Ok(_) | Err(LinkError::Disk(_) | LinkError::HistoryEnded)) => return taken,
            Err(error) => {
                warn!(group = %hub.config.group, replica = %replica.address, %error, "no snapshot from the replica: asking the primary")
            }
        }
    }
    from(hub.primary()?).await
}

async fn take_from(hub: &Arc<Hub>, server: &Endpoint, key: StretchKey, replid: ReplId) -> Result<DatasetId, LinkError> {
    let mut link = Link::dial(&server.address, hub.config.settings.upstream_timeout).await?;
    link.shake_hands(&hub.config, server, Purpose::SnapshotOnly, hub.version_to_announce()).await?;
    let position = match link.psync(None).await? {
        PsyncAnswer::FullResync(position) => position,
        PsyncAnswer::Continue(_) | PsyncAnswer::Wait | PsyncAnswer::Refused(_) => {
            return Err(LinkError::Refused { command: "PSYNC", answer: "+CONTINUE though nothing was asked for".to_owned() });
        }
    };
    if position.replid != replid {
        return Err(LinkError::OtherHistory { found: position.replid.to_string(), expected: replid.to_string() });
    }
    let dataset = DatasetId(position);
    let stored = store(hub, &mut link, key, position).await;
    if let Err(error) = &stored {
        spool::failed(hub, dataset, error);
    }
    stored.map(|()| dataset)
}

/// From its announcement on the stream behind it is kept: by the time it is whole, memory may have lost the first bytes of that.
async fn store(hub: &Arc<Hub>, link: &mut Link, key: StretchKey, position: Position) -> Result<(), LinkError> {
    let dataset = DatasetId(position);
    let (snapshot, facts, syncing) = match spool::receive(hub, link, key, dataset, OnDiskError::Stop).await? {
        Received::Whole(snapshot, facts, syncing) => (snapshot, facts, syncing),
        Received::NotStored(error) => return Err(error.into()),
    };
    // The primary had more than had reached us over the main connection: that is on its way.
    let mut course = hub.subscribe(key).ok_or(LinkError::HistoryEnded)?;
    let reached = tokio::time::timeout(REACH_PATIENCE, course.wait_for(|course| course.end >= position.offset)).await;
    reached.map_err(|_| LinkError::NotReached)?.map_err(|_| LinkError::HistoryEnded)?;
    spool::install(hub, key, Spool { dataset, facts, snapshot }, syncing)
}

async fn until_ended(hub: &Hub, key: StretchKey) {
    let Some(mut course) = hub.subscribe(key) else { return };
    // Dropped is ended too.
    drop(course.wait_for(|course| !course.is_live).await);
}

/// How long the main connection may take to bring what the snapshot already has.
pub(super) const REACH_PATIENCE: Duration = Duration::from_secs(60);
/// Longer than the longest wait.
const FORGIVEN_AFTER: Duration = Duration::from_secs(120);
const LOOK_FOR_ROOM_EVERY: Duration = Duration::from_secs(1);
/// Everything that matters wakes the task; this only bounds the wait.
const IDLE: Duration = Duration::from_secs(30);
