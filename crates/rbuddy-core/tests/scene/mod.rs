//! A small world for the controller: servers and a relay that behave as the real ones do in the points that decisions rest on, in steps of
//! 100 ms, without a socket. No faults of its own: tests break things by hand, or by the words of [`fault`] in a [`trial::Trial`], which holds every
//! step against the promises.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod fault;
pub mod fingerprint;
pub mod promises;
pub mod teller;
pub mod trial;

use rbuddy_core::control::Controller;
use rbuddy_core::control::action::{Action, Outcome, Output, ServerCommand};
use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::control::event::{Event, Node, Probe, ProbeResult};
use rbuddy_core::control::journal::{Beginning, Entry};
use rbuddy_core::control::primary::{PrimaryAt, SentinelView};
use rbuddy_core::control::relay::{
    FullResyncNeed, RelayOrders, RelayView, SessionState, SessionView, SnapshotState, SnapshotView, Start, ToldToFollow, UpstreamState,
};
use rbuddy_core::control::settings::{Consistency, FreezeMode, GroupPolicy, Guard, MaxLag, SnapshotFrom, StandbyMode};
use rbuddy_core::control::state::DurableState;
use rbuddy_core::control::status::{GroupStatus, Operation, OperationResult, Phase};
use rbuddy_core::info::{Keyspace, Role, ServerInfo};
use rbuddy_core::replication::history::{History, Standing};
use rbuddy_core::replication::prospect::Gap;
use rbuddy_core::replication::psync::{Asked, HoldReason, Permit, Verdict, decide};
use rbuddy_core::types::{DatasetId, Flavour, NodeAddress, Offset, Position, RdbVersion, ReplId, RunId, ServerVersion, Time};
use std::collections::BTreeMap;
use std::time::Duration;

pub const STEP: Duration = Duration::from_millis(100);

/// A server of the scene.
#[derive(Debug, Clone)]
pub struct Server {
    pub up: bool,
    pub run_id: RunId,
    pub master: Option<NodeAddress>,
    pub replid: ReplId,
    pub replid2: Option<ReplId>,
    pub offset: u64,
    /// First byte that its backlog covers, as a primary.
    pub backlog_from: u64,
    pub keys: u64,
    pub expires: u64,
    pub avg_ttl_ms: u64,
    pub serve_stale: bool,
    pub link_up: bool,
    /// Answers nothing, though it runs.
    pub hangs: bool,
    pub version: ServerVersion,
    /// Steps for which a new dataset still loads.
    pub loading_steps: u32,
}

/// How commands end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// As they should.
    Told,
    /// Carried out, but nobody learns it.
    DoneUnknown,
    /// Never arrived, and nobody learns that either.
    LostUnknown,
    /// The one or the other of emptying; all else is told.
    EmptyingDone,
    EmptyingLost,
}

#[derive(Clone)]
pub struct Scene {
    pub now: Time,
    pub controller: Controller,
    pub policy: GroupPolicy,
    /// Where the relay's primary is.
    pub primary_at: NodeAddress,
    pub primary: Server,
    /// Servers elsewhere, that may become the primary.
    pub others: BTreeMap<NodeAddress, Server>,
    pub replicas: BTreeMap<NodeAddress, Server>,
    pub view: RelayView,
    pub orders: RelayOrders,
    pub assignment: Option<Assignment>,
    pub disk: Option<DurableState>,
    pub story: Vec<String>,
    pub commands: Vec<(NodeAddress, ServerCommand)>,
    /// All that the controller wanted, where somebody keeps it.
    pub record: Option<Vec<(Time, Action)>>,
    pub link_cut: bool,
    /// Probes arrive a step after they were answered.
    pub late_probes: bool,
    /// The primary replicates, but its INFO cannot be had.
    pub primary_is_silent: bool,
    /// No snapshot can be stored.
    pub disk_is_full: bool,
    /// Changes what the controller wants before anybody hears of it: a wrong controller, to see that tests notice.
    pub tamper: Option<fn(&mut Action)>,
    /// What becomes of commands: carried out and told, or one of the doubtful ends.
    pub fate: Fate,
    pub sync_full: u32,
    /// Every snapshot that was ordered away, even for a moment: the relay may have been quick.
    pub discarded: Vec<DatasetId>,
    /// Keys, and keys with a TTL, of each snapshot.
    datasets: BTreeMap<DatasetId, (u64, u64)>,
    ids: u64,
    reply: Option<OperationResult>,
    /// What happened to the controller, where a test asks for it.
    pub journal: Option<Vec<Entry>>,
}

pub fn address(port: u16) -> NodeAddress {
    NodeAddress::new("127.0.0.1", port)
}

pub const RELAY: u16 = 6382;
pub const A: u16 = 6380;
pub const B: u16 = 6381;
pub const C: u16 = 6383;

impl Scene {
    /// A primary with keys, A following it, B fresh and empty.
    pub fn one_and_one() -> Scene {
        Scene::with(&[A, B], |scene| {
            scene.follow_primary(A);
        })
    }

    pub fn with(ports: &[u16], arrange: impl FnOnce(&mut Scene)) -> Scene {
        let policy = GroupPolicy {
            group: "main".parse().expect("a name"),
            primary: PrimaryAt::Fixed(address(6379)),
            replicas: ports.iter().map(|port| address(*port)).collect(),
            actives: 1,
            relay: address(RELAY),
            standby: StandbyMode::Empty,
            consistency: Consistency::Rolling,
            max_unavailable: 1,
            freeze: FreezeMode::Hold,
            drain: Duration::from_secs(2),
            max_lag: MaxLag::default(),
            guard: Guard::default(),
            dead_after: Duration::from_secs(1),
            snapshot_from: SnapshotFrom::Primary,
            notify: vec!["http://one/".into()],
        };
        let now = Time::from_unix_ms(1_000_000);
        let mut scene = Scene {
            now,
            controller: Controller::new(policy.clone(), None, now),
            policy,
            primary_at: address(6379),
            primary: server(1, 100_000),
            others: BTreeMap::new(),
            replicas: ports.iter().enumerate().map(|(n, port)| (address(*port), server(10 + n as u64, 0))).collect(),
            view: RelayView::default(),
            orders: RelayOrders::default(),
            assignment: None,
            disk: None,
            story: Vec::new(),
            commands: Vec::new(),
            record: None,
            link_cut: false,
            late_probes: false,
            primary_is_silent: false,
            disk_is_full: false,
            tamper: None,
            fate: Fate::Told,
            sync_full: 0,
            discarded: Vec::new(),
            datasets: BTreeMap::new(),
            ids: 1000,
            reply: None,
            journal: None,
        };
        scene.primary.offset = 5_000;
        arrange(&mut scene);
        // A controller that already knows a changed policy.
        scene.begin(None);
        scene.drain_outputs();
        scene
    }

    pub fn follow_primary(&mut self, port: u16) {
        let primary = self.primary.clone();
        let replica = self.at(port);
        replica.master = Some(address(6379));
        (replica.replid, replica.offset, replica.keys, replica.expires) = (primary.replid, primary.offset, primary.keys, primary.expires);
        replica.link_up = true;
    }

    pub fn at(&mut self, port: u16) -> &mut Server {
        self.replicas.get_mut(&address(port)).expect("of the scene")
    }

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// The primary comes back with another history.
    pub fn replace_primary(&mut self, keys: u64) {
        let (run, id) = (self.next_id(), self.next_id());
        self.primary = Server { offset: 700, backlog_from: 701, ..server(run, keys) };
        self.primary.replid = replid(id);
        // Its old connection is gone.
        self.view.upstream.state = UpstreamState::Connecting;
    }

    /// A replica of the primary that was promoted in its place: the same data, a new id, the old one as its second.
    pub fn heir(&mut self) -> Server {
        let (run, id) = (self.next_id(), self.next_id());
        Server { run_id: run_id(run), replid: replid(id), replid2: Some(self.primary.replid), ..self.primary.clone() }
    }

    /// The configured Sentinels name this address.
    pub fn sentinels_name(&mut self, at: u16) {
        self.send(Event::Sentinels(SentinelView { named: Some(address(at)), trouble: None }));
    }

    /// A Sentinel tells the relay to follow this address.
    pub fn relay_is_told(&mut self, at: u16) {
        let number = self.view.told_to_follow.as_ref().map_or(1, |told| told.number + 1);
        self.view.told_to_follow = Some(ToldToFollow { address: address(at), number });
    }

    /// A replica's process is another one now, with or without its data.
    pub fn restart(&mut self, port: u16, with_data: bool) {
        let (run, id) = (self.next_id(), self.next_id());
        let replica = self.at(port);
        replica.run_id = run_id(run);
        replica.link_up = false;
        if !with_data {
            (replica.keys, replica.expires, replica.offset, replica.replid, replica.master) = (0, 0, 0, replid(id), None);
            replica.replid2 = None;
        }
        self.view.sessions.remove(&address(port));
    }

    /// rbuddy dies and starts again with what is on disk.
    pub fn restart_rbuddy(&mut self) {
        let resumable = match (self.view.ready_snapshot(), self.view.live()) {
            (Some(snapshot), Some(live)) => Some((snapshot.dataset, live.end_position())),
            _ => None,
        };
        self.view = RelayView { resumable, ..RelayView::default() };
        self.orders = RelayOrders::default();
        self.assignment = None;
        self.begin(self.disk.clone());
        self.drain_outputs();
    }

    fn begin(&mut self, state: Option<DurableState>) {
        let (at, policy) = (self.now, self.policy.clone());
        self.note(|| Entry::Begin(Box::new(Beginning { at, policy, state: state.clone() })));
        self.controller = Controller::new(self.policy.clone(), state, self.now);
    }

    fn note(&mut self, entry: impl FnOnce() -> Entry) {
        if let Some(journal) = &mut self.journal {
            journal.push(entry());
        }
    }

    /// An order whose answer takes a look at a server.
    pub fn set_primary(&mut self, at: u16) -> OperationResult {
        self.operate(Operation::SetPrimary { address: address(at) })
    }

    pub fn operate(&mut self, operation: Operation) -> OperationResult {
        self.reply = None;
        self.send(Event::Operator { request: 1, operation });
        self.reply.take().expect("every operation is answered")
    }

    pub fn status(&self) -> GroupStatus {
        self.controller.status(self.now)
    }

    pub fn phase(&self) -> Phase {
        self.status().phase
    }

    pub fn active(&self) -> Vec<u16> {
        self.assignment.iter().flat_map(|assignment| assignment.actives.iter().map(|active| active.address.port)).collect()
    }

    /// Drops what is kept to be looked at by tests.
    pub fn forget(&mut self) {
        self.story.clear();
        self.commands.clear();
        self.discarded.clear();
    }

    /// Steps until it is so. Fails with the story after `limit`.
    pub fn until(&mut self, limit: Duration, what: &str, so: impl Fn(&Scene) -> bool) {
        let end = self.now.after(limit);
        while !so(self) {
            assert!(self.now < end, "not within {limit:?}: {what}\nstatus: {:#?}\nstory:\n{}", self.status(), self.story.join("\n"));
            self.step();
        }
    }

    pub fn run(&mut self, time: Duration) {
        let end = self.now.after(time);
        while self.now < end {
            self.step();
        }
    }

    pub fn step(&mut self) {
        let nodes: Vec<Node> = std::iter::once(Node::Primary(self.primary_at.clone()))
            .chain(self.policy.replicas.iter().cloned().map(Node::Replica))
            .collect();
        let late: Vec<Event> = nodes.iter().map(|node| self.probe(node.clone())).collect();
        self.now = self.now.after(STEP);
        if self.primary.up {
            self.primary.offset += 10;
        }
        self.move_upstream();
        self.move_sessions();
        self.send(Event::Relay(Box::new(self.view.clone())));
        if self.late_probes {
            late.into_iter().for_each(|probe| self.send(probe));
        } else {
            for node in nodes {
                let probe = self.probe(node);
                self.send(probe);
            }
        }
    }

    /// A look at a server, for tests that want answers in an order of their own.
    pub fn probe(&self, node: Node) -> Event {
        let result = match &node {
            Node::Primary(_) if self.primary_is_silent => ProbeResult::Failed("no answer".into()),
            Node::Primary(at) | Node::Candidate(at) if *at == self.primary_at => self.look(&self.primary),
            Node::Primary(at) | Node::Candidate(at) => match self.others.get(at).or(self.replicas.get(at)) {
                Some(server) => self.look(server),
                None => ProbeResult::Failed("connection refused".into()),
            },
            Node::Replica(replica) => self.look(&self.replicas[replica]),
        };
        Event::Probe { node, asked_at: self.now, result }
    }

    pub fn send(&mut self, event: Event) {
        let at = self.now;
        self.note(|| Entry::Event { at, event: event.clone() });
        self.controller.handle(self.now, event);
        self.drain_outputs();
    }

    fn drain_outputs(&mut self) {
        let mut outcomes = Vec::new();
        while let Output::Action(mut action) = self.controller.poll_output() {
            self.note(|| Entry::Action(action.clone()));
            if let Some(tamper) = self.tamper {
                tamper(&mut action);
            }
            if let Some(record) = &mut self.record {
                record.push((self.now, action.clone()));
            }
            match action {
                Action::Persist(state) => self.disk = Some(*state),
                Action::Assign(assignment) => self.assignment = Some(assignment),
                Action::Orders(orders) => {
                    self.discarded.extend(orders.discard_snapshot);
                    self.orders = *orders;
                }
                Action::Outbox(_) => {}
                Action::Look(at) => outcomes.push(self.probe(Node::Candidate(at))),
                Action::Reply { result, .. } => self.reply = Some(result),
                Action::Story { level, replica, text } => {
                    self.story.push(format!("{} {level:?} {} {text}", self.now, replica.map_or(String::new(), |r| r.to_string())));
                }
                Action::Server { id, replica, command, .. } => {
                    self.story.push(format!("{} -> {replica} {command:?}", self.now));
                    let is_emptying = matches!(command, ServerCommand::Empty { .. });
                    let (is_done, is_told) = match self.fate {
                        Fate::Told => (true, true),
                        Fate::DoneUnknown => (true, false),
                        Fate::LostUnknown => (false, false),
                        Fate::EmptyingDone => (true, !is_emptying),
                        Fate::EmptyingLost => (!is_emptying, !is_emptying),
                    };
                    let outcome = if is_done { self.carry_out(&replica, &command) } else { Outcome::Done };
                    let outcome = if is_told { outcome } else { Outcome::Unknown("no answer".into()) };
                    self.commands.push((replica, command));
                    outcomes.push(Event::Outcome { id, outcome });
                }
            }
        }
        outcomes.into_iter().for_each(|outcome| self.send(outcome));
    }

    fn carry_out(&mut self, replica: &NodeAddress, command: &ServerCommand) -> Outcome {
        let id = self.next_id();
        let server = self.replicas.get_mut(replica).expect("of the scene");
        if !server.up || server.hangs {
            return Outcome::Refused("does not answer".into());
        }
        match command {
            ServerCommand::Follow { serve_stale } => {
                server.serve_stale = *serve_stale;
                if server.master != Some(address(RELAY)) {
                    (server.master, server.link_up) = (Some(address(RELAY)), false);
                }
            }
            ServerCommand::ServeStale(on) => server.serve_stale = *on,
            ServerCommand::Detach => {
                (server.replid2, server.replid, server.master, server.link_up) = (Some(server.replid), replid(id), None, false);
                self.view.sessions.remove(replica);
            }
            ServerCommand::DisconnectClients => {}
            ServerCommand::Empty { run_id, .. } => {
                if server.run_id != *run_id {
                    return Outcome::Refused("another process".into());
                }
                let old = server.replid;
                (server.keys, server.expires, server.replid, server.replid2) = (0, 0, replid(id), Some(old));
                (server.serve_stale, server.master, server.link_up) = (false, Some(address(RELAY)), false);
                self.view.sessions.remove(replica);
            }
        }
        Outcome::Done
    }

    fn look(&self, server: &Server) -> ProbeResult {
        if !server.up || server.hangs {
            return ProbeResult::Failed("no answer".into());
        }
        let info = ServerInfo {
            version: Some(server.version),
            run_id: Some(server.run_id),
            role: Some(if server.master.is_some() { Role::Slave } else { Role::Master }),
            master: server.master.clone(),
            is_link_up: server.link_up && server.loading_steps == 0,
            is_loading: server.loading_steps > 0,
            replid: Some(server.replid),
            replid2: server.replid2,
            offset: Offset::new(server.offset),
            keyspace: Keyspace { keys: server.keys, expires: server.expires, avg_ttl_ms: server.avg_ttl_ms },
            backlog_size: Some(1 << 20),
            used_memory: Some(100 * server.keys),
            system_memory: Some(1 << 30),
            ..ServerInfo::default()
        };
        ProbeResult::Answered(Box::new(Probe { info, serve_stale: server.master.as_ref().map(|_| server.serve_stale) }))
    }

    /// The relay gives up the old primary at once.
    fn go_where_ordered(&mut self) {
        let Some(to) = self.orders.primary.clone().filter(|to| *to != self.primary_at) else { return };
        let server = self.others.remove(&to).or(self.replicas.get(&to).cloned()).unwrap_or_else(|| Server { up: false, ..server(0, 0) });
        let old = std::mem::replace(&mut self.primary, server);
        self.others.insert(std::mem::replace(&mut self.primary_at, to), old);
        self.view.upstream.state = UpstreamState::Connecting;
    }

    fn move_upstream(&mut self) {
        self.go_where_ordered();
        let Some(start) = self.orders.start.clone() else { return };
        if self.view.histories.is_empty() {
            match start {
                Start::At { position, or_at: _, earlier } => {
                    let mut history = History::starting_at(position, None);
                    earlier.into_iter().for_each(|id| history.remember(id));
                    self.view.histories.push(history);
                }
                Start::Resume => {
                    let (dataset, end) = self.view.resumable.expect("ordered only if there");
                    let mut history = History::starting_at(dataset.0, Some(dataset));
                    history.end = end.offset;
                    self.view.histories.push(history);
                    self.view.snapshot = Some(snapshot(dataset, SnapshotState::Ready));
                }
                Start::Fresh => {}
            }
        }
        if !self.primary.up || self.link_cut {
            if self.view.upstream.state != UpstreamState::Connecting {
                self.view.upstream.state = UpstreamState::Connecting;
                self.view.upstream.down_since = Some(self.now);
                self.view.upstream.last_error = Some("the link is cut".into());
            }
            return;
        }
        if self.disk_is_full && self.has_no_room() {
            return;
        }
        if self.view.upstream.state == UpstreamState::ReceivingSnapshot {
            self.view.upstream.state = UpstreamState::Streaming;
            if let Some(snapshot) = &mut self.view.snapshot {
                snapshot.state = SnapshotState::Ready;
            }
        } else if self.view.upstream.state != UpstreamState::Streaming {
            self.dial();
            if self.view.upstream.state == UpstreamState::Handshake {
                // It waits for permission: nothing arrives.
                return;
            }
        }
        let end = Offset::new(self.primary.offset).expect("small");
        if let Some(live) = self.view.histories.iter_mut().find(|history| history.live) {
            live.end = end;
        }
        if let Some(number) = self.orders.snapshot_request.filter(|number| Some(*number) > self.view.snapshot_request_done) {
            self.view.snapshot_request_done = Some(number);
            self.view.snapshot_request_error = self.disk_is_full.then(|| "no room on the disk".into());
            if !self.disk_is_full {
                self.sync_full += 1;
                let dataset = DatasetId(Position::new(self.primary.replid, end));
                self.datasets.insert(dataset, (self.primary.keys, self.primary.expires));
                self.view.snapshot = Some(snapshot(dataset, SnapshotState::Ready));
            }
        }
        let discarded = self.orders.discard_snapshot;
        self.view.snapshot = self.view.snapshot.take().filter(|snapshot| Some(snapshot.dataset) != discarded);
        self.view.histories.retain(|history| history.live || !self.orders.discard_ended.contains(&history.end_position()));
    }

    /// A snapshot that arrives is given up, with the history that began with it, and not asked for again before there is room.
    fn has_no_room(&mut self) -> bool {
        if self.view.upstream.state == UpstreamState::ReceivingSnapshot {
            self.view.histories.retain(|history| !history.live);
            self.view.upstream.state = UpstreamState::Connecting;
            self.view.snapshot.iter_mut().for_each(|snapshot| snapshot.state = SnapshotState::Failed("no room on the disk".into()));
        }
        self.view.snapshot.as_ref().is_some_and(|snapshot| matches!(snapshot.state, SnapshotState::Failed(_)))
    }

    fn dial(&mut self) {
        // A snapshot that broke off is of no use, and neither is its history.
        if self.view.snapshot.as_ref().is_some_and(|snapshot| snapshot.state == SnapshotState::Receiving) {
            self.view.snapshot = None;
            self.view.histories.retain(|history| !history.live);
        }
        let asked = self.view.live().map(History::end_position);
        let accepted = asked.is_some_and(|position| {
            (position.replid == self.primary.replid || Some(position.replid) == self.primary.replid2)
                && position.offset.get() <= self.primary.offset
                && position.offset.get() + 1 >= self.primary.backlog_from
        });
        if accepted {
            let replid = self.primary.replid;
            let live = self.view.histories.iter_mut().filter(|history| history.live);
            live.for_each(|live| live.rename(replid));
            (self.view.upstream.state, self.view.upstream.down_since) = (UpstreamState::Streaming, None);
            return;
        }
        // The real relay looks at the primary's INFO and waits for the word.
        let replid = self.primary.replid;
        if self.orders.full_resync != Some(replid) {
            let gap = asked.map_or(Gap::NothingToContinue, |ours| Gap::OtherHistory { ours: ours.replid, theirs: replid });
            self.view.upstream.full_resync_needed = Some(FullResyncNeed { replid, gap });
            self.view.upstream.state = UpstreamState::Handshake;
            return;
        }
        (self.view.upstream.full_resync_needed, self.view.upstream.down_since) = (None, None);
        self.view.upstream.state = UpstreamState::ReceivingSnapshot;
        self.sync_full += 1;
        self.view.histories.iter_mut().for_each(|history| history.live = false);
        let position = Position::new(self.primary.replid, Offset::new(self.primary.offset).expect("small"));
        let dataset = DatasetId(position);
        self.datasets.insert(dataset, (self.primary.keys, self.primary.expires));
        self.view.histories.push(History::starting_at(position, Some(dataset)));
        self.view.snapshot = Some(snapshot(dataset, SnapshotState::Receiving));
    }

    fn move_sessions(&mut self) {
        let ready = self.view.ready_snapshot().map(|snapshot| snapshot.dataset);
        for (replica, server) in &mut self.replicas {
            if !server.up || server.master != Some(address(RELAY)) {
                self.view.sessions.remove(replica);
                continue;
            }
            if server.hangs {
                // Its connection stays, and says nothing any more.
                continue;
            }
            if server.loading_steps > 0 {
                server.loading_steps -= 1;
                continue;
            }
            let position = Position::new(server.replid, Offset::new(server.offset).expect("small"));
            let asked = Asked::From(position.replid, position.offset.next_byte());
            let Some(permit) = self.orders.permits.get(replica).copied() else { continue };
            let known = self.view.sessions.get(replica).cloned();
            // One that was seeded in this session is known to be on the live history, whatever other history has its id.
            let seeded = known.as_ref().and_then(|known| seeded_with(&self.view, known));
            let permit = seeded.filter(|_| permit == Permit::Keep).map_or(permit, Permit::Seed);
            let verdict = decide(asked, permit, &self.view.histories, ready);
            let state = match verdict {
                Verdict::Hold(reason) => {
                    server.link_up = false;
                    SessionState::Held(reason)
                }
                Verdict::Continue { history, announce, .. } => {
                    let history = &self.view.histories[history];
                    let is_paused = self.orders.paused_streams.contains(replica);
                    if !is_paused {
                        server.offset = history.end.get();
                        if history.live && self.view.upstream.state == UpstreamState::Streaming {
                            (server.keys, server.expires) = (self.primary.keys, self.primary.expires);
                        }
                    }
                    server.replid = announce;
                    server.link_up = true;
                    let offset = Offset::new(server.offset).expect("small");
                    SessionState::Streaming { replid: announce, acked: offset, sent: offset, seeded }
                }
                Verdict::Full { dataset, .. } => {
                    (server.replid, server.offset) = (dataset.0.replid, dataset.0.offset.get());
                    (server.keys, server.expires) = self.datasets[&dataset];
                    server.loading_steps = 5;
                    server.link_up = false;
                    SessionState::Loading { dataset }
                }
            };
            let since = match &known {
                Some(known) if std::mem::discriminant(&known.state) == std::mem::discriminant(&state) => known.since,
                _ => self.now,
            };
            let asked = matches!(state, SessionState::Held(_)).then_some(position);
            self.view.sessions.insert(replica.clone(), SessionView { asked, announced_version: None, state, since });
        }
    }

    /// What the relay's hold looks like from here.
    pub fn held(&self, port: u16) -> Option<HoldReason> {
        match self.view.sessions.get(&address(port))?.state {
            SessionState::Held(reason) => Some(reason),
            _ => None,
        }
    }

    pub fn permit(&self, port: u16) -> Option<Permit> {
        self.orders.permits.get(&address(port)).copied()
    }
}

/// The dataset of the live history that it was given since it connected.
fn seeded_with(view: &RelayView, session: &SessionView) -> Option<DatasetId> {
    let dataset = match session.state {
        SessionState::Loading { dataset } => Some(dataset),
        SessionState::Streaming { seeded, .. } => seeded,
        SessionState::Held(_) | SessionState::Seeding { .. } => None,
    };
    dataset.filter(|dataset| view.live().is_some_and(|live| live.standing(dataset.0) == Standing::Covered))
}

fn snapshot(dataset: DatasetId, state: SnapshotState) -> SnapshotView {
    let rdb = RdbVersion { flavour: Flavour::Redis, number: 10 };
    SnapshotView { dataset, state, bytes: 1000, total_bytes: Some(1000), rdb: Some(rdb), keys_hint: None }
}

fn server(id: u64, keys: u64) -> Server {
    Server {
        up: true,
        run_id: run_id(id),
        master: None,
        replid: replid(id),
        replid2: None,
        offset: 0,
        backlog_from: 1,
        keys,
        expires: 0,
        avg_ttl_ms: 0,
        serve_stale: true,
        link_up: false,
        hangs: false,
        version: ServerVersion::parse(Flavour::Redis, "7.0.15").expect("a version"),
        loading_steps: 0,
    }
}

pub fn run_id(number: u64) -> RunId {
    format!("{number:08x}{number:032x}").parse().expect("an id")
}

/// Names a history. Like a process's, its id differs from others in the eight digits that are shown.
pub fn replid(number: u64) -> ReplId {
    run_id(number + 0xa000_0000).as_str().parse().expect("an id")
}
