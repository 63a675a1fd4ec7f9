//! The model relay: what the real one keeps, with core's own decisions on it (`History`, `prospect`, `decide`) and the controller's orders as they come. No
//! bytes: a stretch of a history knows which line its bytes are of.
//!
//! Not here: the way up (`upstream.rs`), replica sessions (`sessions.rs`), snapshots on demand (`snapshotter.rs`).

use crate::memory::Evicted;
use crate::server::offset;
use crate::truth::{LineId, Point};
use rbuddy_core::control::relay::{
    RelayOrders, RelayView, SessionEnd, SessionView, SnapshotState, SnapshotView, ToldToFollow, UpstreamState, UpstreamView,
};
use rbuddy_core::replication::history::{History, Standing};
use rbuddy_core::types::{DatasetId, Flavour, NodeAddress, Offset, RdbVersion, ReplId, RunId, Time};
use std::collections::{BTreeMap, BTreeSet};

/// The relay of one life of rbuddy.
#[derive(Debug, Clone, Default)]
pub struct Relay {
    /// The latest orders.
    pub orders: RelayOrders,
    /// Where its primary is.
    pub primary: Option<NodeAddress>,
    /// The orders to start were followed.
    pub has_begun: bool,
    /// What is kept, the live one last.
    pub stretches: Vec<Stretch>,
    /// The stretch that a reconnect asks for.
    pub candidate: Option<u64>,
    /// As published.
    pub upstream: UpstreamView,
    /// The process that the link leads to.
    pub peer: Option<RunId>,
    /// The next dial.
    pub dial_at: Time,
    /// Looks at the primary while a full resync waits for permission.
    pub looks: u32,
    /// A snapshot on its way.
    pub arrival: Option<Arrival>,
    /// The snapshot that is offered.
    pub spool: Option<Spool>,
    /// The one that a crash leaves.
    pub named: Option<Spool>,
    /// That is the one that is offered then: the disk takes its time.
    pub named_at: Time,
    /// The snapshot was found at start and is not yet used.
    pub resumable: Option<SavedSpool>,
    /// The request that waits for the stream, and how many full resyncs there were when it came.
    pub request_waits: Option<(u64, u64)>,
    /// Requests for a snapshot.
    pub request_done: Option<u64>,
    /// Why the last one failed.
    pub request_error: Option<String>,
    /// Snapshots on demand begin then at the earliest.
    pub snapshot_at: Time,
    /// The connected replicas.
    pub sessions: BTreeMap<NodeAddress, Session>,
    /// How their last sessions ended.
    pub ended: BTreeMap<NodeAddress, SessionEnd>,
    /// What a Sentinel said.
    pub told_to_follow: Option<ToldToFollow>,
    /// How much of a stream is kept: for nobody, and for who needs it.
    pub keeps: (u64, u64),
    keys_given: u64,
}

/// A stretch of a history.
#[derive(Debug, Clone)]
pub struct Stretch {
    /// Its number.
    pub key: u64,
    /// As decisions see it.
    pub history: History,
    /// Whose bytes it has.
    pub line: LineId,
}

/// A snapshot on its way.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Its stretch.
    pub key: u64,
    /// Its name.
    pub dataset: DatasetId,
    /// What it holds.
    pub data: Point,
    /// What that lacks.
    pub evicted: Evicted,
    /// All of it is there then.
    pub until: Time,
    /// It came to nothing.
    pub failed: Option<String>,
    /// Over a second connection, to this process; for this request.
    pub on_demand: Option<(RunId, Option<u64>)>,
}

/// A whole snapshot.
#[derive(Debug, Clone, Copy)]
pub struct Spool {
    /// Its stretch.
    pub key: u64,
    /// Its name.
    pub dataset: DatasetId,
    /// What it holds.
    pub data: Point,
    /// What that lacks.
    pub evicted: Evicted,
}

/// A snapshot and the stream behind it, as a crash leaves them.
#[derive(Debug, Clone)]
pub struct SavedSpool {
    /// The snapshot.
    pub spool: Spool,
    /// Its stream.
    pub history: History,
    /// Whose bytes it has.
    pub line: LineId,
}

/// A connected replica.
#[derive(Debug, Clone)]
pub struct Session {
    /// As published.
    pub view: SessionView,
    /// The process at the other end, and which of its connections this is.
    pub peer: (RunId, u64),
    /// How far it is.
    pub stage: Stage,
    /// When it last said something.
    pub heard: Time,
}

/// How far a session is.
#[derive(Debug, Clone)]
pub enum Stage {
    /// Its PSYNC waits.
    Held,
    /// The snapshot goes out until then.
    Seeding { spool: Spool, announced: ReplId, until: Time },
    /// It loads.
    Loading { spool: Spool, announced: ReplId },
    /// It follows; `sent` is on its way to it.
    Streaming { key: u64, announced: ReplId, sent: Point, seeded: Option<DatasetId> },
}

impl Relay {
    /// What a life finds on disk.
    pub fn new(resumable: Option<SavedSpool>, keeps: (u64, u64), now: Time) -> Relay {
        let upstream = UpstreamView { since: now, ..UpstreamView::default() };
        Relay { resumable, keeps, upstream, dial_at: now, snapshot_at: now, ..Relay::default() }
    }

    /// What the controller is shown.
    pub fn view(&self) -> RelayView {
        RelayView {
            resumable: self.resumable.as_ref().map(|saved| (saved.spool.dataset, saved.history.end_position())),
            upstream: self.upstream.clone(),
            told_to_follow: self.told_to_follow.clone(),
            histories: self.histories(),
            snapshot: self.snapshot_view(),
            snapshot_request_done: self.request_done,
            snapshot_request_error: self.request_error.clone(),
            sessions: self.sessions.iter().map(|(address, session)| (address.clone(), session.view.clone())).collect(),
            ended: self.ended.clone(),
            ..RelayView::default()
        }
    }

    fn snapshot_view(&self) -> Option<SnapshotView> {
        let (dataset, state) = match (&self.arrival, self.spool) {
            (Some(arrival), _) => (arrival.dataset, arrival.failed.clone().map_or(SnapshotState::Receiving, SnapshotState::Failed)),
            (None, Some(spool)) if self.live().is_some_and(|live| live.key == spool.key) => (spool.dataset, SnapshotState::Ready),
            (None, _) => return None,
        };
        let rdb = Some(RdbVersion { flavour: Flavour::Redis, number: 11 });
        Some(SnapshotView { dataset, state, bytes: 1000, total_bytes: Some(1000), rdb, keys_hint: None })
    }

    /// What decisions see of the stretches.
    pub fn histories(&self) -> Vec<History> {
        self.stretches.iter().map(|stretch| stretch.history.clone()).collect()
    }

    /// The one that the primary adds to.
    pub fn live(&self) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.history.live)
    }

    /// By its number.
    pub fn stretch(&self, key: u64) -> Option<&Stretch> {
        self.stretches.iter().find(|stretch| stretch.key == key)
    }

    /// A state of the upstream link, and why it is that.
    pub fn turn(&mut self, now: Time, state: UpstreamState, error: Option<String>) {
        let upstream = &mut self.upstream;
        if upstream.state != state {
            (upstream.state, upstream.since) = (state, now);
        }
        if state == UpstreamState::Streaming {
            (upstream.down_since, upstream.last_error) = (None, None);
        } else {
            upstream.down_since.get_or_insert(now);
            upstream.last_error = error.or(upstream.last_error.take());
        }
    }

    /// A history begins, and the live one ends.
    pub fn begin_history(&mut self, history: History, line: LineId) -> u64 {
        self.stretches.iter_mut().for_each(|stretch| stretch.history.live = false);
        self.keys_given += 1;
        self.stretches.push(Stretch { key: self.keys_given, history, line });
        self.prune();
        self.keys_given
    }

    /// As the real one: what was kept before serves those that need it still.
    pub fn begin_anew(&mut self, history: History, line: LineId) -> u64 {
        let candidate = self.candidate;
        self.stretches.retain(|stretch| Some(stretch.key) != candidate || stretch.history.end.next_byte() != stretch.history.oldest);
        let begun = self.begin_history(history, line);
        self.candidate = Some(begun);
        begun
    }

    /// The primary goes on with this stretch.
    pub fn continue_history(&mut self, key: u64, at: Offset, replid: ReplId, common: Offset, line: LineId) {
        for stretch in &mut self.stretches {
            stretch.history.live = stretch.key == key;
            if stretch.key == key {
                stretch.history.cut_back(at);
                stretch.history.rename_within(replid, common);
                stretch.line = line;
            }
        }
        self.candidate = Some(key);
        self.stretches.sort_by_key(|stretch| (stretch.history.live, stretch.key));
        self.prune();
    }

    /// Drops ended histories that nobody needs.
    pub fn prune(&mut self) {
        let stood_on: BTreeSet<u64> = self.sessions.values().filter_map(|session| session.stage.key()).collect();
        let (discard, candidate) = (&self.orders.discard_ended, self.candidate);
        self.stretches.retain(|stretch| {
            let is_used = stretch.history.live || candidate == Some(stretch.key) || stood_on.contains(&stretch.key);
            is_used || !discard.contains(&stretch.history.end_position())
        });
        while self.stretches.len() > HISTORIES_MAX {
            let Some(oldest) = self.stretches.iter().position(|stretch| !stretch.history.live && candidate != Some(stretch.key)) else {
                return;
            };
            self.stretches.remove(oldest);
        }
    }

    /// The live stretch has all up to here; what is too much is dropped.
    pub fn append(&mut self, end: u64) {
        let (short, long) = self.keeps;
        let spooled = self.spool.map(|spool| spool.key);
        let is_needed = !self.sessions.is_empty();
        let Some(live) = self.stretches.iter_mut().find(|stretch| stretch.history.live) else { return };
        live.history.end = offset(end);
        let keep = if is_needed || spooled == Some(live.key) { long } else { short };
        live.history.oldest = live.history.oldest.max(offset(end.saturating_sub(keep)).next_byte());
        let oldest = live.history.oldest;
        let key = live.key;
        let is_outgrown = |spool: &mut Spool| spool.key == key && spool.dataset.0.offset.next_byte() < oldest;
        self.named.take_if(is_outgrown);
        self.spool.take_if(is_outgrown);
    }

    /// A snapshot that came whole, unless the stream behind it is not its own. The disk has it at `named_at`.
    pub fn install(&mut self, spool: Spool, named_at: Time) -> Result<(), String> {
        let live = self.live().filter(|live| live.key == spool.key).ok_or("its history ended")?;
        if live.history.standing(spool.dataset.0) != Standing::Covered {
            return Err("the stream behind it is not kept".to_owned());
        }
        self.arrival.take_if(|arrival| arrival.dataset == spool.dataset);
        (self.candidate, self.spool, self.named_at) = (Some(spool.key), Some(spool), named_at);
        self.prune();
        Ok(())
    }

    /// Carries out the orders to discard.
    pub fn discard(&mut self) {
        let discarded = self.orders.discard_snapshot;
        self.arrival.take_if(|arrival| arrival.failed.is_some() && Some(arrival.dataset) == discarded);
        let is_discarded = |spool: &mut Spool| Some(spool.dataset) == discarded;
        if self.spool.take_if(is_discarded).is_some() {
            self.named.take_if(is_discarded);
        }
        self.prune();
    }

    /// The disk has what is offered, if it had the time.
    pub fn name_spool(&mut self, now: Time) {
        if self.spool.is_some() && now >= self.named_at {
            self.named = self.spool;
        }
    }

    /// What a crash leaves on disk: of the stream behind the snapshot, all but the last `lost` bytes, or nothing where that is kept no more.
    pub fn remains(&self, lost: u64) -> Option<SavedSpool> {
        let Some(spool) = self.named else { return self.resumable.clone() };
        let Some(stretch) = self.stretch(spool.key) else {
            let history = History::starting_at(spool.dataset.0, Some(spool.dataset));
            return Some(SavedSpool { spool, history, line: spool.data.line });
        };
        let mut history = stretch.history.clone();
        history.end = offset(history.end.get().saturating_sub(lost).max(spool.dataset.0.offset.get()));
        (history.dataset, history.oldest) = (Some(spool.dataset), spool.dataset.0.offset.next_byte());
        Some(SavedSpool { spool, history, line: stretch.line })
    }

    /// A session is over.
    pub fn end_session(&mut self, now: Time, address: &NodeAddress, reason: &str) {
        if let Some(session) = self.sessions.remove(address) {
            let end = session.view.end(now, reason.to_owned(), self.ended.get(address));
            self.ended.insert(address.clone(), end);
        }
        self.prune();
    }
}

impl Stage {
    /// The stretch that it stands on.
    pub fn key(&self) -> Option<u64> {
        match self {
            Stage::Held => None,
            Stage::Seeding { spool, .. } | Stage::Loading { spool, .. } => Some(spool.key),
            Stage::Streaming { key, .. } => Some(*key),
        }
    }
}

/// Histories that are kept at most.
const HISTORIES_MAX: usize = 3;
