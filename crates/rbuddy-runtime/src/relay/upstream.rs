//! The one connection to the primary: dial, hand-shake, PSYNC, then read at once whatever comes, ACK every second, and begin again when it ends.
//!
//! ```text
//! Idle ──start──► Connecting ──► Handshake ──+CONTINUE──────────────────────────► Streaming
//!                     ▲              └──+FULLRESYNC──► ReceivingSnapshot ──whole──►   │
//!                     └──────────────────── back-off ◄─────────────── any end ◄───────┘
//! ```
//!
//! Promises: a refusal never becomes `PSYNC ? -1`; a snapshot that does not arrive whole leaves the old history as it was. Not here: snapshots on
//! demand ([`super::snapshotter`]), replicas.

use super::backoff::Backoff;
use super::files::Spool;
use super::found::{Left, StoredStream};
use super::hub::Hub;
use super::inquiry::{Inquiry, inquire};
use super::intake::take_in;
use super::link::{Link, LinkError};
use super::name::unless_renamed;
use super::resync_loop::ResyncLoop;
use super::spool::{self, OnDiskError};
use super::stretch::StretchKey;
use rbuddy_core::control::relay::{FullResync, RelayOrders, Start, UpstreamState};
use rbuddy_core::replication::answer::PsyncAnswer;
use rbuddy_core::replication::history::History;
use rbuddy_core::types::{DatasetId, NodeAddress, Offset, Position, ReplId};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// The upstream task's own state.
#[derive(Debug)]
pub(super) struct Upstream {
    hub: Arc<Hub>,
    orders: watch::Receiver<RelayOrders>,
    /// For a primary that is away or refuses.
    quick: Backoff,
    /// For a snapshot that did not arrive whole: each attempt costs the primary a fork.
    slow: Backoff,
    resync_loop: ResyncLoop,
}

/// How one connection ended.
#[derive(Debug)]
struct Ended {
    cause: LinkError,
    in_snapshot: bool,
}

impl Upstream {
    pub(super) fn new(hub: Arc<Hub>, orders: watch::Receiver<RelayOrders>) -> Upstream {
        // As often as a replica would at the most: a refused dial is cheap, and every wait is time without fresh data.
        let quick = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let slow = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        Upstream { hub, orders, quick, slow, resync_loop: ResyncLoop::new() }
    }

    /// Runs until cancelled. `left` is what a previous run left on disk.
    pub(super) async fn run(mut self, left: Left, cancel: CancellationToken) {
        let start = tokio::select! {
            start = start(&mut self.orders) => start,
            () = cancel.cancelled() => return,
        };
        let Some(start) = start else { return };
        begin(&self.hub, start, left).await;
        // What the orders say already counts for the first dial.
        let ordered = ordered_elsewhere(&self.hub, &self.orders.borrow());
        if let Some(to) = ordered {
            self.move_to(to).await;
        }
        loop {
            self.hub.upstream(UpstreamState::Connecting);
            let ended = tokio::select! {
                ended = self.follow() => ended,
                () = cancel.cancelled() => return,
            };
            self.resync_loop.ended(Instant::now());
            if let LinkError::Moved(to) = ended.cause {
                self.move_to(to).await;
                continue;
            }
            let was = self.hub.lock().upstream.state;
            let wait = if ended.in_snapshot { self.slow.wait() } else { self.quick.wait() };
            self.hub.upstream(UpstreamState::Connecting);
            self.tell(was, ended.cause.to_string(), wait);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                to = primary_moved(&self.hub, self.orders.clone()) => self.move_to(to).await,
                () = cancel.cancelled() => return,
            }
        }
    }

    /// The primary is elsewhere now. The old connection, if any, is closed. On disk before it is dialled.
    async fn move_to(&mut self, to: NodeAddress) {
        let from = self.hub.update(|inner| inner.primary.replace(to.clone()));
        info!(group = %self.hub.config.group, from = from.map(tracing::field::display), %to, "following the primary to another address");
        if let Err(error) = self.hub.save().await {
            warn!(group = %self.hub.config.group, %error, "state of the relay not written");
        }
        self.quick.reset();
        self.slow.reset();
        self.resync_loop.primary_moved();
    }

    /// An end is news once: a primary that stays away is not told of at every attempt.
    fn tell(&self, was: UpstreamState, error: String, wait: Duration) {
        let (group, retry_ms) = (&self.hub.config.group, wait.as_millis());
        let primary = self.hub.lock().primary.clone().map(tracing::field::display);
        let is_known = self.hub.lock().upstream.last_error.as_ref() == Some(&error);
        match was {
            UpstreamState::Streaming | UpstreamState::ReceivingSnapshot => {
                warn!(%group, primary, ?was, %error, retry_ms, "upstream link lost")
            }
            _ if is_known => debug!(%group, primary, ?was, %error, retry_ms, "primary still not reached"),
            UpstreamState::Idle | UpstreamState::Connecting | UpstreamState::Handshake => {
                warn!(%group, primary, ?was, %error, retry_ms, "primary not reached");
            }
        }
        self.hub.update(|inner| inner.upstream.last_error = Some(error));
    }

    /// One connection from its beginning to its end.
    async fn follow(&mut self) -> Ended {
        let hub = Arc::clone(&self.hub);
        let inquiry = match unless_moved(primary_moved(&hub, self.orders.clone()), inquire(&hub, &self.orders, &self.resync_loop)).await {
            Ok(inquiry) => inquiry,
            Err(cause) => return Ended { cause, in_snapshot: false },
        };
        let Inquiry { mut link, answer, asked, gap, common } = inquiry;
        let key = match answer {
            PsyncAnswer::Continue(replid) => match self.go_on(asked, replid, common).await {
                Some(key) => key,
                None => return Ended { cause: unexpected("+CONTINUE though nothing was asked for"), in_snapshot: false },
            },
            PsyncAnswer::FullResync(given) => {
                let full = FullResync { asked: asked.map(|(_, at)| at), given: DatasetId(given), gap };
                match self.full_resync(&mut link, full).await {
                    Ok(key) => {
                        self.resync_loop.resynced(full.given.0.replid, Instant::now());
                        key
                    }
                    Err(cause) => return Ended { cause, in_snapshot: true },
                }
            }
            PsyncAnswer::Wait | PsyncAnswer::Refused(_) => return Ended { cause: unexpected("no answer"), in_snapshot: false },
        };
        self.quick.reset();
        self.slow.reset();
        self.hub.upstream(UpstreamState::Streaming);
        let (moved, peer, primary) = (primary_moved(&hub, self.orders.clone()), link.peer(), hub.primary());
        let reading = async {
            let primary = primary?;
            unless_renamed(&primary.address, peer, take_in(&hub, link, key, &self.orders)).await
        };
        match unless_moved(moved, reading).await {
            Ok(never) => match never {},
            Err(cause) => Ended { cause, in_snapshot: false },
        }
    }

    /// `+CONTINUE`. What the primary never had is cut off; a changed id is on disk before any replica can learn it.
    /// Replicas may be further than the relay, if it began at the lowest of them: what they have counts up to `common`.
    async fn go_on(&mut self, asked: Option<(StretchKey, Position)>, replid: Option<ReplId>, common: Option<Offset>) -> Option<StretchKey> {
        let ((key, at), hub) = (asked?, &self.hub);
        let mut history = hub.lock().stretch(key)?.history.clone();
        // It may have been asked for by an earlier id.
        let (before, had) = (history.replid(), history.end);
        history.cut_back(at.offset);
        let common = common.unwrap_or(history.end);
        history.rename_within(replid.unwrap_or(at.replid), common);
        let now_named = history.replid();
        if now_named != before {
            info!(group = %hub.config.group, from = before.short(), to = now_named.short(), offset = %at.offset, "the primary's history has a new id");
            if let Err(error) = hub.save_renamed(key, &history).await {
                warn!(group = %hub.config.group, %error, "state of the relay not written: what the disk has of the stream is given up");
                // It would be taken for the former id's by the next run.
                hub.update(|inner| inner.disk_failed(key, error.to_string()));
            }
        }
        if history.end < had {
            info!(group = %hub.config.group, %had, end = %history.end, "cut back to what the primary has");
        }
        hub.update(|inner| {
            inner.continue_history(key, history.end, now_named, common);
            inner.upstream.partial_resyncs += 1;
            // Should another writer have come in between.
            inner.is_state_stale |= now_named != before;
        });
        info!(group = %hub.config.group, asked = %at.offset.next_byte(), replid = now_named.short(), "partial resync from the primary");
        Some(key)
    }

    /// `+FULLRESYNC`. The live history has ended, unless the snapshot does not arrive whole: then it never did.
    async fn full_resync(&mut self, link: &mut Link, full: FullResync) -> Result<StretchKey, LinkError> {
        let (hub, dataset) = (&self.hub, full.given);
        let asked = full.asked.map(tracing::field::display);
        let reason = full.gap.map_or_else(|| "it did not say".to_owned(), |gap| gap.to_string());
        info!(group = %hub.config.group, asked, given = %dataset, reason, "full resync from the primary");
        let history = History::starting_at(dataset.0, Some(dataset));
        let key = hub.update(|inner| {
            inner.upstream.full_resyncs += 1;
            inner.upstream.last_full_resync = Some(full);
            let key = inner.begin_history(history, hub.config.settings.backlog_bytes);
            // In the same moment: a history that is live and has no snapshot on its way looks as if one had to be asked for.
            inner.expect_snapshot(key, dataset);
            key
        });
        hub.upstream(UpstreamState::ReceivingSnapshot);
        match unless_moved(primary_moved(hub, self.orders.clone()), self.store(link, key, dataset)).await {
            Ok(()) => Ok(key),
            Err(error) => {
                hub.update(|inner| inner.abandon_history(key));
                spool::failed(hub, dataset, &error);
                Err(error)
            }
        }
    }

    async fn store(&self, link: &mut Link, key: StretchKey, dataset: DatasetId) -> Result<(), LinkError> {
        // The primary has forked for it by now: room for one that has grown, as far as that can be had, and if it is less than the last one took, it may do.
        // Beside the reception: a disk that takes its time for that is not to keep the primary waiting.
        let hub = Arc::clone(&self.hub);
        self.hub.tasks.spawn(async move {
            if let Err(error) = spool::make_room(&hub, 2).await {
                warn!(group = %hub.config.group, %dataset, %error, "the snapshot may not fit on the disk");
            }
        });
        let received = spool::receive(&self.hub, link, key, dataset, OnDiskError::ReadOn).await?;
        spool::begin_with(&self.hub, key, dataset, received)
    }
}

/// Waits for the controller's word; `None` if there is no controller any more.
async fn start(orders: &mut watch::Receiver<RelayOrders>) -> Option<Start> {
    orders.wait_for(|orders| orders.start.is_some()).await.ok()?.start.clone()
}

/// Sets up the history to ask for.
async fn begin(hub: &Arc<Hub>, start: Start, mut left: Left) {
    let group = &hub.config.group;
    let found = match &start {
        Start::Resume => left.take_spooled(),
        // With all that lies around it: the primary may keep less.
        Start::At(place) => left.take_around(place),
        Start::Fresh => None,
    };
    left.discard();
    hub.update(|inner| inner.resumable = None);
    let begun = match (found, start) {
        (Some((spool, stream)), _) => {
            let end = stream.history.end_position();
            info!(%group, dataset = spool.as_ref().map(|spool| tracing::field::display(spool.dataset)), %end, "going on from what is on disk");
            return resume(hub, spool, stream);
        }
        (None, Start::At(place)) => {
            info!(%group, position = %place.position, "going on from where the replicas are");
            Some(History::starting_from(&place))
        }
        (None, Start::Resume) => {
            warn!(%group, "nothing on disk to go on from: a full resync it is");
            None
        }
        (None, Start::Fresh) => None,
    };
    if let Some(history) = begun {
        hub.update(|inner| inner.candidate = Some(inner.begin_history(history, hub.config.settings.backlog_bytes)));
    }
    if let Err(error) = hub.save().await {
        warn!(%group, %error, "state of the relay not written");
    }
}

/// relay.json already names it.
fn resume(hub: &Hub, spool: Option<Spool>, stream: StoredStream) {
    let (StoredStream { log, mut history, stands }, now) = (stream, hub.now());
    history.live = true;
    hub.update(|inner| {
        let key = inner.begin_history(history, hub.config.settings.backlog_bytes);
        inner.candidate = Some(key);
        if let Some(spool) = spool.map(Arc::new) {
            inner.snapshot_bytes = spool.facts.bytes;
            (inner.spool, inner.named) = (Some((key, Arc::clone(&spool))), Some((key, spool)));
        }
        if let (Some(log), Some(stretch)) = (log, inner.stretch_mut(key)) {
            stretch.resume(log);
        }
        inner.expect_back(key, stands, now);
    });
}

fn ordered_elsewhere(hub: &Hub, orders: &RelayOrders) -> Option<NodeAddress> {
    let current = hub.lock().primary.clone();
    orders.primary.clone().filter(|primary| Some(primary) != current.as_ref())
}

/// Ready when the orders name another address than the one that is followed.
async fn primary_moved(hub: &Hub, mut orders: watch::Receiver<RelayOrders>) -> NodeAddress {
    loop {
        if let Some(to) = ordered_elsewhere(hub, &orders.borrow_and_update()) {
            return to;
        }
        if orders.changed().await.is_err() {
            // Whoever gives orders is gone: the relay is about to end.
            return std::future::pending().await;
        }
    }
}

/// What is done with one primary is of no use any more when the primary is elsewhere.
async fn unless_moved<T>(
    moved: impl Future<Output = NodeAddress>,
    work: impl Future<Output = Result<T, LinkError>>,
) -> Result<T, LinkError> {
    tokio::select! {
        done = work => done,
        to = moved => Err(LinkError::Moved(to)),
    }
}

fn unexpected(answer: &str) -> LinkError {
    LinkError::Refused { command: "PSYNC", answer: answer.to_owned() }
}
