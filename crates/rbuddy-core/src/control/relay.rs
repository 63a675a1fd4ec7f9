//! What passes between the controller and the relay. Both directions are whole states, not messages: the controller publishes what
//! it wants ([`RelayOrders`]), the relay publishes what is ([`RelayView`]). Nothing is lost when one side is slow, and a restart
//! of either needs no replay.

use crate::replication::history::{History, KnownId, Place, Standing, by_every_id};
use crate::replication::prospect::Gap;
use crate::replication::psync::{FullResyncReason, HoldReason, Permit};
use crate::types::{DatasetId, NextByte, NodeAddress, Offset, Position, RdbVersion, ReplId, RunId, ServerVersion, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What the controller wants of the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RelayOrders {
    /// How to begin with the primary. The relay dials nobody before this is given, and later changes are of no account: see `places`.
    pub start: Option<Start>,
    /// Where else it may go on, in this order, if the primary cannot where the relay is: where replicas are that have more, or are on another history.
    /// Better that one of them needs a full resync than all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub places: Vec<Place>,
    /// Where the primary is now; `None`: where it was configured. A connection to another address is given up.
    pub primary: Option<NodeAddress>,
    /// The relay may ask the primary whose history this is for a full resync. It says by itself when it would have to
    /// ([`UpstreamView::full_resync_needed`]), and waits for this word wherever the primary lets it look first.
    pub full_resync: Option<ReplId>,
    /// Nothing is to be begun: where the primary does not let the relay look first (INFO), it asks for nothing, since that may come to a full resync. Only
    /// after a short break it asks to go on where it was: to leave the replicas without their stream for as long as a pause lasts would be worse.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub must_look: bool,
    /// What each replica may have. One that is not listed is refused (it is not of this group).
    pub permits: BTreeMap<NodeAddress, Permit>,
    /// The processes that were found to be replicas which may be filled: a snapshot goes to no other one at the same address (P3).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub judged: BTreeMap<NodeAddress, RunId>,
    /// Replicas whose stream stands still, though they stay attached: a planned switch stops the old active here.
    pub paused_streams: BTreeSet<NodeAddress>,
    /// Replicas whose ACKs count upstream (the actives).
    pub required: BTreeSet<NodeAddress>,
    /// The replicas' versions as they told them to the controller: most do not tell the relay.
    pub versions: BTreeMap<NodeAddress, ServerVersion>,
    /// Take a fresh snapshot of the primary over a second connection. Each new number is one request.
    pub snapshot_request: Option<u64>,
    /// Take it from this replica, which follows the live history, in place of the primary.
    pub snapshot_source: Option<NodeAddress>,
    /// This snapshot, and the stream kept beside it, is of no use any more. Named, so that an order that was given before the next snapshot began
    /// cannot remove that one.
    pub discard_snapshot: Option<DatasetId>,
    /// The ended histories with these last positions: no replica stands on them any more.
    pub discard_ended: BTreeSet<Position>,
}

/// How the relay begins with the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// Ask for a partial resync from here: the lowest position of the replicas that serve.
    At(Place),
    /// Go on from the snapshot and stream on disk ([`RelayView::resumable`]).
    Resume,
    /// Nobody has anything: ask for a full resync.
    Fresh,
}

/// What is, as the relay sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RelayView {
    /// The snapshot with its stream that a previous run left on disk, complete and checked, and where its stream ends.
    pub resumable: Option<(DatasetId, Position)>,
    /// What the previous run followed.
    pub previous: Option<Previous>,
    /// The one connection up.
    pub upstream: UpstreamView,
    /// A Sentinel told the relay to follow another primary.
    pub told_to_follow: Option<ToldToFollow>,
    /// What is kept, the live one last.
    pub histories: Vec<History>,
    /// How much is kept of them.
    pub backlog: BacklogView,
    /// The snapshot on disk or on its way there.
    pub snapshot: Option<SnapshotView>,
    /// Last `snapshot_request` that was carried out or given up.
    pub snapshot_request_done: Option<u64>,
    /// Why the last one was given up.
    pub snapshot_request_error: Option<String>,
    /// Replicas that are connected, by the configured address.
    pub sessions: BTreeMap<NodeAddress, SessionView>,
    /// Why the last session of a replica ended.
    pub ended: BTreeMap<NodeAddress, SessionEnd>,
    /// Bytes that may still be written to its disk, in whole MiB, as it was a few seconds ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_free_bytes: Option<u64>,
}

/// What a previous run of the relay followed when it last wrote that down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Previous {
    /// The history's ids, current one first.
    pub ids: Vec<KnownId>,
    /// Where the relay was.
    pub end: Position,
    /// Who followed it.
    pub replicas: BTreeSet<NodeAddress>,
}

/// The connection to the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct UpstreamView {
    /// What it is doing.
    pub state: UpstreamState,
    /// Since when it does that.
    pub since: Time,
    /// Since when the stream has been down; `None` while it flows.
    pub down_since: Option<Time>,
    /// Why the last connection or attempt ended.
    pub last_error: Option<String>,
    /// `+FULLRESYNC` answers since start.
    pub full_resyncs: u64,
    /// `+CONTINUE` answers since start.
    pub partial_resyncs: u64,
    /// The last `+FULLRESYNC`.
    pub last_full_resync: Option<FullResync>,
    /// Nothing but a full resync leads on, as far as the primary's INFO tells. The relay waits for [`RelayOrders::full_resync`].
    pub full_resync_needed: Option<FullResyncNeed>,
    /// The last byte from the primary, ACKed or not, arrived then.
    pub last_byte_at: Option<Time>,
}

impl UpstreamView {
    /// Whether the primary has given anything since start: what is kept from before may be of another history than its own.
    pub fn has_answered(&self) -> bool {
        self.partial_resyncs + self.full_resyncs > 0
    }
}

/// A `+FULLRESYNC` of the primary: both sides' numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullResync {
    /// What was asked for; `None`: there was nothing to continue.
    pub asked: Option<Position>,
    /// What was given.
    pub given: DatasetId,
    /// Why, as far as the primary let the relay look.
    pub gap: Option<Gap>,
}

/// What is kept of the streams. (What of each: [`History::oldest`].)
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct BacklogView {
    /// In memory.
    pub memory_bytes: u64,
    /// On disk, for replicas and snapshots that need more than memory has.
    pub disk_bytes: u64,
    /// The first byte of the live history that one of those needs.
    pub oldest_needed: Option<NextByte>,
    /// Why the disk does not take the stream now. It is tried again; until then memory keeps what is needed, and more of it than else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_error: Option<String>,
    /// How much of a stream can be kept at the most, on disk or, where none is used, in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_bytes_max: Option<u64>,
}

/// A full resync that the relay has not asked for yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FullResyncNeed {
    /// The primary's history.
    pub replid: ReplId,
    /// Why nothing else is possible, with both sides' numbers.
    pub gap: Gap,
}

/// `SLAVEOF host port`, as a Sentinel says it to a replica after a failover of the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToldToFollow {
    /// The new primary.
    pub address: NodeAddress,
    /// Counts such words: the same address may be said twice.
    pub number: u64,
}

/// What the relay tells the primary with its ACKs, and so what `WAIT` there means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum AckPolicy {
    /// All required replicas have executed it.
    #[default]
    Replicated,
    /// The relay has received it.
    Received,
}

/// What the connection to the primary is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum UpstreamState {
    /// Waiting for the controller's [`Start`].
    #[default]
    Idle,
    /// Dialling, or waiting to dial again.
    Connecting,
    /// Handshake up to the answer to PSYNC.
    Handshake,
    /// A snapshot arrives (main connection).
    ReceivingSnapshot,
    /// The stream flows.
    Streaming,
}

/// A snapshot on disk or on its way there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotView {
    /// Which dataset.
    pub dataset: DatasetId,
    /// How far.
    pub state: SnapshotState,
    /// Bytes on disk.
    pub bytes: u64,
    /// Whole length, where announced or complete.
    pub total_bytes: Option<u64>,
    /// Its format, once the header was read.
    pub rdb: Option<RdbVersion>,
    /// Keys and keys with a TTL as its RESIZEDB opcodes announce them, where they are easily found. A hint.
    pub keys_hint: Option<(u64, u64)>,
}

/// How far a snapshot is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotState {
    /// Bytes arrive.
    Receiving,
    /// Complete and checked; every later byte of its history is kept.
    Ready,
    /// It could not be stored or is broken; the relay tries again by itself after a back-off.
    Failed(String),
}

/// A connected replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// What it asked for with PSYNC; `None` for `? -1`.
    pub asked: Option<Position>,
    /// Its version, if it announced it (Valkey 8 and newer do) or was looked at.
    #[serde(alias = "announced_version")]
    pub version: Option<ServerVersion>,
    /// What happens with it.
    pub state: SessionState,
    /// Since when.
    pub since: Time,
}

/// What happens with a connected replica.
///
/// ```text
/// Held ──► Seeding ──► Loading ──► Streaming ──► (connection ends; it comes back as Held or Streaming)
///   └──────────────────────────────────▲
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// Its PSYNC is kept waiting.
    Held(HoldReason),
    /// The snapshot goes out.
    Seeding {
        /// Which.
        dataset: DatasetId,
        /// Why it was needed.
        reason: FullResyncReason,
        /// Bytes sent.
        sent_bytes: u64,
        /// Bytes in all.
        total_bytes: u64,
    },
    /// The whole snapshot is sent; no ACK yet.
    Loading {
        /// Which.
        dataset: DatasetId,
    },
    /// It follows.
    Streaming {
        /// Id of the history that it follows, as announced to it.
        replid: ReplId,
        /// Last ACK (or what it asked for, before the first).
        acked: Offset,
        /// Last byte written to its socket.
        sent: Offset,
        /// It was seeded with this dataset in this session; `None` after a partial resync.
        seeded: Option<DatasetId>,
    },
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionEnd {
    /// When.
    pub at: Time,
    /// Why, in words.
    pub reason: String,
    /// How far it was fed, in this session or, where this one was not, in those before. What went out last was in no view while the session stood.
    #[serde(default)]
    pub sent: Option<Position>,
}

impl SessionView {
    /// How far it is fed.
    pub fn sent(&self) -> Option<Position> {
        match self.state {
            SessionState::Streaming { replid, sent, .. } => Some(Position::new(replid, sent)),
            SessionState::Held(_) | SessionState::Seeding { .. } | SessionState::Loading { .. } => None,
        }
    }

    /// Its end.
    pub fn end(&self, at: Time, reason: String, before: Option<&SessionEnd>) -> SessionEnd {
        SessionEnd { at, reason, sent: self.sent().or(before.and_then(|before| before.sent)) }
    }
}

/// How far a replica was fed, in this session or the last one, by each id of that history. The live history is the last of `histories`.
pub fn fed<'a>(
    session: Option<&SessionView>,
    ended: Option<&SessionEnd>,
    histories: impl DoubleEndedIterator<Item = &'a History>,
) -> Vec<Position> {
    let sent = session.and_then(SessionView::sent).or_else(|| ended?.sent);
    sent.map_or_else(Vec::new, |sent| by_every_id(histories.rev(), sent))
}

impl RelayView {
    /// How far the replica at this address was fed: [`fed`].
    pub fn fed(&self, replica: &NodeAddress) -> Vec<Position> {
        fed(self.sessions.get(replica), self.ended.get(replica), self.histories.iter())
    }

    /// The history that the primary adds to.
    pub fn live(&self) -> Option<&History> {
        self.histories.iter().find(|history| history.live)
    }

    /// The snapshot, if it is complete, checked and followed by every later byte.
    pub fn ready_snapshot(&self) -> Option<&SnapshotView> {
        self.snapshot.as_ref().filter(|snapshot| snapshot.state == SnapshotState::Ready)
    }

    /// Whether there is a snapshot that leads on, and the stream behind it has not outgrown it: then a new one costs more than to keep it. Much of what may be
    /// kept must be left: the stream grows while a replica loads.
    pub fn is_snapshot_cheap(&self) -> bool {
        let (Some(snapshot), Some(live)) = (self.ready_snapshot(), self.live()) else { return false };
        let behind = snapshot.dataset.0.offset.bytes_behind(live.end).unwrap_or(0);
        let has_room = self.backlog.kept_bytes_max.is_none_or(|most| behind <= most / 2);
        live.standing(snapshot.dataset.0) == Standing::Covered && behind <= STREAM_BYTES_MIN.max(snapshot.bytes) && has_room
    }
}

/// So much stream behind a snapshot is little, however small that is.
const STREAM_BYTES_MIN: u64 = 256 << 20;
