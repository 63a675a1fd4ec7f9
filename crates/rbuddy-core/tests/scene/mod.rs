//! A small world for the controller: servers and a relay that behave as the real ones do in the points that decisions rest on, in steps of
//! 100 ms, without a socket. No faults of its own: tests break things by hand, or by the words of [`fault`] in a [`trial::Trial`], which holds every
//! step against the promises.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

pub mod fault;
pub mod fingerprint;
pub mod promises;
mod relay;
mod server;
pub mod situations;
pub mod teller;
pub mod trial;

pub use server::Server;

use rbuddy_core::control::Controller;
use rbuddy_core::control::action::{Action, Outcome, Output, ServerCommand};
use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::control::event::{Event, Node, ProbeResult};
use rbuddy_core::control::journal::{Beginning, Entry};
use rbuddy_core::control::primary::{PrimaryAt, SentinelView};
use rbuddy_core::control::relay::{RelayOrders, RelayView, ToldToFollow};
use rbuddy_core::control::settings::{Consistency, FreezeMode, GroupPolicy, Guard, MaxLag, SnapshotFrom, StandbyMode};
use rbuddy_core::control::state::DurableState;
use rbuddy_core::control::status::{GroupStatus, Operation, OperationResult, Phase};
use rbuddy_core::types::{DatasetId, NodeAddress, ReplId, RunId, Time};
use server::server;
use std::collections::BTreeMap;
use std::time::Duration;

pub const STEP: Duration = Duration::from_millis(100);

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
    /// So long it takes to write the state file. Nothing else happens meanwhile.
    pub writing_takes: Duration,
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
            writing_takes: Duration::ZERO,
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

    fn next_id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
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
                Action::Persist(state) => {
                    self.now = self.now.after(self.writing_takes);
                    self.disk = Some(*state);
                }
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
}

pub fn run_id(number: u64) -> RunId {
    format!("{number:08x}{number:032x}").parse().expect("an id")
}

/// Names a history. Like a process's, its id differs from others in the eight digits that are shown.
pub fn replid(number: u64) -> ReplId {
    run_id(number + 0xa000_0000).as_str().parse().expect("an id")
}
