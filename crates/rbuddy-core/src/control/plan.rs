//! What would happen now, if: the link to the primary broke; the primary came back with another history; a replica died.
//!
//! Nothing is predicted by rules of its own: a copy of the controller is told what the relay and the probes would tell then, and what it decides is the answer.
//! So the answer holds for exactly this moment, with its pause, its refusals and its silent replicas. Beside it stand the numbers that the outcome hangs on, as far as they
//! were seen: the primary's backlog and the rate of its writes, the dataset's size, the room for it in memory and on disk, and how long it took the last time.

use super::action::{Action, Output};
use super::controller::Controller;
use super::event::{Event, Node, Probe, ProbeResult};
use super::measure::Pace;
use super::relay::{FullResyncNeed, RelayView, SessionState, SnapshotState, SnapshotView, UpstreamState};
use super::status::Phase;
use crate::info::ServerInfo;
use crate::replication::history::History;
use crate::replication::prospect::Gap;
use crate::replication::psync::HoldReason;
use crate::types::{DatasetId, GroupName, NodeAddress, Offset, Position, ReplId, RunId, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What would happen to a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its name.
    pub group: GroupName,
    /// The moment for which this holds.
    pub time: Time,
    /// If the link to the primary broke.
    pub link_breaks: LinkBreaks,
    /// If the primary came back with as many keys and another history.
    pub new_primary: NewPrimary,
    /// If a replica died.
    pub replica_dies: BTreeMap<NodeAddress, Outlook>,
}

/// How it would be then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outlook {
    /// The phase.
    pub phase: Phase,
    /// The phase in words.
    pub explanation: String,
    /// Who would serve.
    pub served_by: Vec<NodeAddress>,
    /// What would be decided on the way, with its reasons.
    pub story: Vec<String>,
}

/// If the link to the primary broke.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkBreaks {
    /// How it would be.
    pub outlook: Outlook,
    /// How fast the primary's stream grew in the last seconds; `None`: not measured.
    pub bytes_per_second: Option<u64>,
    /// Bytes that the primary keeps for those who come back; `None`: it was not seen.
    pub backlog_bytes: Option<u64>,
    /// For so many seconds a break costs a partial resync only, at that rate. `None`: not known, or no end while nothing is written.
    pub partial_for_s: Option<u64>,
}

/// If the primary came back with another history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewPrimary {
    /// How it would be once its snapshot is on the relay's disk.
    pub outlook: Outlook,
    /// Whether a full resync would be asked for at all.
    pub full_resync: bool,
    /// Who would be filled.
    pub filled: Option<NodeAddress>,
    /// Whether there is room for the dataset in its memory; `None`: not known, or nobody would be filled.
    pub memory: Option<Room>,
    /// Whether there is room for the snapshot on the relay's disk; `None`: not known.
    pub disk: Option<Room>,
    /// Milliseconds until the snapshot is on the relay's disk, at the pace of the last one; `None`: not measured since rbuddy started.
    pub storing_ms: Option<u64>,
    /// Milliseconds from there until it is loaded and its server follows, likewise.
    pub filling_ms: Option<u64>,
}

/// Room for a dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// In memory: what the primary or an active uses now, the larger of the two. On disk: the last snapshot, or what the primary uses, and an eighth more.
    pub needed_bytes: u64,
    /// In memory: `maxmemory` of the replica or what its machine has, the smaller of the two. On disk: what is free, and what a kept snapshot takes.
    pub available_bytes: u64,
    /// Whether that is enough.
    pub suffices: bool,
}

impl Controller {
    /// What would happen now, if.
    pub fn plan(&self, now: Time) -> Plan {
        Plan {
            group: self.policy.group.clone(),
            time: now,
            link_breaks: self.plan_broken_link(now),
            new_primary: self.plan_new_primary(now),
            replica_dies: self.policy.replicas.iter().map(|replica| (replica.clone(), self.plan_death(now, replica))).collect(),
        }
    }

    fn plan_broken_link(&self, now: Time) -> LinkBreaks {
        let mut then = Imagined::of(self, now);
        then.relay(|view| break_link(view, now));
        let bytes_per_second = self.world.stream_rate(now);
        let backlog_bytes = self.world.primary.info().and_then(|info| info.backlog_size);
        let partial_for_s = backlog_bytes.zip(bytes_per_second).and_then(|(backlog, rate)| backlog.checked_div(rate));
        LinkBreaks { outlook: then.outlook(), bytes_per_second, backlog_bytes, partial_for_s }
    }

    fn plan_new_primary(&self, now: Time) -> NewPrimary {
        let mut then = Imagined::of(self, now);
        then.relay(|view| break_link(view, now));
        let Some((address, info)) = self.primary_address().zip(self.world.primary.info()) else {
            return NewPrimary {
                outlook: then.outlook(),
                full_resync: false,
                filled: None,
                memory: None,
                disk: None,
                storing_ms: None,
                filling_ms: None,
            };
        };
        let dataset = DatasetId(Position::new(imagined_id(), Offset::ZERO));
        then.probe(Node::Primary(address.clone()), ProbeResult::Answered(Box::new(reborn(info, dataset))));
        let ours = self.world.relay.live().map(History::replid);
        let gap = ours.map_or(Gap::NothingToContinue, |ours| Gap::OtherHistory { ours, theirs: dataset.0.replid });
        then.relay(|view| {
            view.upstream.state = UpstreamState::Handshake;
            view.upstream.full_resync_needed = Some(FullResyncNeed { replid: dataset.0.replid, gap });
        });
        let full_resync = then.controller.orders.full_resync == Some(dataset.0.replid);
        if full_resync {
            then.relay(|view| take_snapshot(view, dataset));
        }
        // Where several are filled side by side: the first of them. They all hold the same.
        let filled = then.controller.seeds.keys().next().cloned();
        let memory = filled.as_ref().and_then(|replica| self.room_in_memory(now, info, replica));
        let measured = &self.world.measured;
        let bytes = measured.storing.map(|pace| pace.bytes);
        let ms = |pace: Option<Pace>| pace.zip(bytes.or(pace.map(|pace| pace.bytes))).and_then(|(pace, bytes)| pace.ms_for(bytes));
        let (storing_ms, filling_ms) = (ms(measured.storing), ms(measured.filling));
        NewPrimary { outlook: then.outlook(), full_resync, filled, memory, disk: self.room_on_disk(info), storing_ms, filling_ms }
    }

    fn room_in_memory(&self, now: Time, primary: &ServerInfo, replica: &NodeAddress) -> Option<Room> {
        let replica = self.world.info(replica)?;
        let used = self.serving(now).iter().filter_map(|active| self.world.info(active)?.used_memory).max();
        let limits = [replica.max_memory.filter(|limit| *limit > 0), replica.system_memory];
        Some(Room::of(primary.used_memory.max(used)?, limits.into_iter().flatten().min()?))
    }

    /// Much as the relay itself reckons before it asks for a snapshot. A snapshot is smaller than the dataset in memory, as a rule by far. The one that is there
    /// makes way for another history's.
    fn room_on_disk(&self, primary: &ServerInfo) -> Option<Room> {
        let relay = &self.world.relay;
        let last = relay.snapshot.as_ref().map(|snapshot| snapshot.bytes);
        let bytes = self.world.measured.storing.map(|pace| pace.bytes).max(last).or(primary.used_memory)?;
        let makes_way = relay.ready_snapshot().map_or(0, |snapshot| snapshot.bytes);
        Some(Room::of(bytes.saturating_add(bytes / 8), relay.disk_free_bytes?.saturating_add(makes_way)))
    }

    fn plan_death(&self, now: Time, replica: &NodeAddress) -> Outlook {
        let mut then = Imagined::of(self, now);
        then.relay(|view| {
            view.sessions.remove(replica);
        });
        // Long enough for whatever waits whether it comes back.
        let end = now.after(self.policy.dead_after.saturating_mul(DEATH_LASTS));
        while then.now < end {
            then.probe(Node::Replica(replica.clone()), ProbeResult::Failed("it died".into()));
            then.now = then.now.after(DEATH_LOOKED_AT_EVERY);
        }
        then.outlook()
    }
}

/// A copy of the controller in a world that may come.
struct Imagined {
    controller: Controller,
    now: Time,
    story: Vec<String>,
}

impl Imagined {
    fn of(controller: &Controller, now: Time) -> Imagined {
        Imagined { controller: controller.clone(), now, story: Vec::new() }
    }

    fn relay(&mut self, change: impl FnOnce(&mut RelayView)) {
        let mut view = self.controller.world.relay.clone();
        change(&mut view);
        self.tell(Event::Relay(Box::new(view)));
    }

    fn probe(&mut self, node: Node, result: ProbeResult) {
        self.tell(Event::Probe { node, asked_at: self.now, result });
    }

    fn tell(&mut self, event: Event) {
        self.controller.handle(self.now, event);
        while let Output::Action(action) = self.controller.poll_output() {
            if let Action::Story { replica, text, .. } = action {
                self.story.push(replica.map_or(text.clone(), |replica| format!("{replica}: {text}")));
            }
        }
    }

    fn outlook(self) -> Outlook {
        let Imagined { controller, story, .. } = self;
        let actives = controller.assignment.iter().flat_map(|assignment| &assignment.actives);
        let served_by = actives.map(|active| active.address.clone()).collect();
        Outlook { phase: controller.phase, explanation: controller.explanation, served_by, story }
    }
}

fn break_link(view: &mut RelayView, now: Time) {
    view.upstream.state = UpstreamState::Connecting;
    view.upstream.down_since.get_or_insert(now);
    view.upstream.last_error = Some("the link is broken".into());
}

/// As the relay would show it: what was live has ended, and whoever followed it stands at its end.
fn take_snapshot(view: &mut RelayView, dataset: DatasetId) {
    view.upstream.state = UpstreamState::Streaming;
    (view.upstream.full_resync_needed, view.upstream.down_since) = (None, None);
    let end = view.live().map(|live| live.end);
    view.histories.iter_mut().for_each(|history| history.live = false);
    view.histories.push(History::starting_at(dataset.0, Some(dataset)));
    let ended = view.sessions.values_mut().filter(|session| matches!(session.state, SessionState::Streaming { .. }));
    for (session, end) in ended.zip(end.into_iter().cycle()) {
        if let SessionState::Streaming { replid, .. } = session.state {
            (session.asked, session.state) = (Some(Position::new(replid, end)), SessionState::Held(HoldReason::EndOfHistory { end }));
        }
    }
    let (rdb, bytes) = view.snapshot.as_ref().map_or((None, 0), |snapshot| (snapshot.rdb, snapshot.bytes));
    view.snapshot = Some(SnapshotView { dataset, state: SnapshotState::Ready, bytes, total_bytes: None, rdb, keys_hint: None });
}

/// The same keys in another process, with another history.
fn reborn(info: &ServerInfo, dataset: DatasetId) -> Probe {
    let run_id = IMAGINED.parse::<RunId>().ok();
    let info = ServerInfo { run_id, replid: Some(dataset.0.replid), replid2: None, offset: Some(dataset.0.offset), ..info.clone() };
    Probe { info, serve_stale: None, settings: None }
}

fn imagined_id() -> ReplId {
    IMAGINED.parse().expect("forty hexadecimal digits")
}

/// No server gives itself this id: it draws them at random.
const IMAGINED: &str = "ffffffffffffffffffffffffffffffffffffffff";

impl Room {
    fn of(needed_bytes: u64, available_bytes: u64) -> Room {
        Room { needed_bytes, available_bytes, suffices: needed_bytes <= available_bytes }
    }
}

/// So many times `dead_after`.
const DEATH_LASTS: u32 = 4;
/// In shorter steps than those after which nothing counts that was seen before.
const DEATH_LOOKED_AT_EVERY: Duration = Duration::from_millis(500);
