//! The controller of one group: `handle(now, event)`, then drain `poll_output()` until it gives a `Deadline`.
//!
//! It is level-triggered. Every event only updates what is seen ([`World`]); then one pass over the whole situation decides what is missing
//! between what is and what should be. A crash at any moment therefore needs no recovery of its own: the roles are on disk, the rest is
//! looked at again. Each step lives in a file of its own:
//!
//! | step | file |
//! | --- | --- |
//! | judge replicas that have no role, or came back as another process | `classify.rs` |
//! | begin with the primary | `start.rs` |
//! | see whether enough replicas serve | `serving.rs` |
//! | notice those that go in and out of service | `flap.rs` |
//! | give a standby the new dataset | `seeding.rs` |
//! | promote it, if nothing hinders that | `failover.rs`, `planned.rs`, `hindrance.rs` |
//! | leave the old active, empty it | `retire.rs` |
//! | let a server rest that an operator wants to stop | `maintenance.rs` |
//! | go where the primary has moved to | `following.rs` |
//! | bring servers' settings in line with their roles | `reconcile.rs` |
//! | tell relay, readers and people | `publish.rs`, `report.rs` |
//!
//! Order of outputs: the state file first (a barrier), then what follows from it.

use super::action::{Action, ActionId, Outcome, Output, ServerCommand, StoryLevel};
use super::assignment::{Assignment, Notification};
use super::event::{Event, Node};
use super::flap::Flaps;
use super::following::Candidate;
use super::invariant;
use super::relay::{RelayOrders, Start};
use super::settings::GroupPolicy;
use super::state::{DurableState, Reference, ReplicaRecord, Role};
use super::status::{OperationResult, Phase, Refusal};
use super::world::World;
use crate::types::{DatasetId, NodeAddress, Position, RunId, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

/// The controller of one group. All in it is plain data: written whole into a journal, it goes on from there when it is replayed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Controller {
    pub(super) policy: GroupPolicy,
    /// What must not be forgotten, as decided.
    pub(super) state: DurableState,
    /// The same, as it is on disk.
    persisted: Option<DurableState>,
    pub(super) world: World,
    /// Since when replicas could have been seen.
    pub(super) looking_since: Time,

    /// What was last published.
    pub(super) orders: RelayOrders,
    pub(super) assignment: Option<Assignment>,
    published_outbox: Option<Vec<Notification>>,

    /// How the relay was told to begin.
    pub(super) begin: Option<Start>,
    /// A server that is said to be the primary now.
    pub(super) candidate: Option<Candidate>,
    /// Replicas that call themselves masters, though rbuddy did not make them so, and since when.
    pub(super) masters_since: BTreeMap<NodeAddress, Time>,
    /// Number of the last request for a fresh snapshot.
    pub(super) snapshot_request: Option<u64>,
    /// The standbys that are being filled, and with what.
    pub(super) seeds: BTreeMap<NodeAddress, Seed>,
    /// Standbys that lacked keys and hold nothing now, or are given all: which processes.
    #[serde(default)]
    pub(super) refilled: BTreeMap<NodeAddress, RunId>,
    /// A switch that an operator asked for.
    pub(super) planned: Option<Planned>,
    /// The dataset that a guard rejects.
    pub(super) refusal: Option<Refusal>,
    /// Since when too few actives serve.
    pub(super) short_since: Option<Time>,
    /// Since when no active serves, though all were looked at.
    pub(super) unserved_since: Option<Time>,
    /// When readers must have left.
    pub(super) drain_until: BTreeMap<NodeAddress, Time>,
    /// Drained replicas whose clients were disconnected.
    pub(super) disconnected: BTreeSet<NodeAddress>,
    /// What actives hold, freshest; the state file has an older copy.
    pub(super) reference: Option<Reference>,
    /// Furthest position that was sent to each active.
    pub(super) served: BTreeMap<NodeAddress, Position>,
    /// What a reader must find at each active at least.
    pub(super) floors: BTreeMap<NodeAddress, Position>,
    /// How often each replica fell lately.
    #[serde(default)]
    pub(super) flaps: BTreeMap<NodeAddress, Flaps>,
    /// What was sent to actives before they dropped out of the assignment, also of those that are back.
    pub(super) dropped_out: BTreeMap<NodeAddress, Position>,
    /// The next snapshot request goes out then at the earliest.
    pub(super) snapshot_not_before: Option<Time>,
    /// The last request whose end was taken notice of, and how many failed in a row.
    pub(super) snapshot_answered: Option<u64>,
    pub(super) snapshot_failures: u32,

    pub(super) phase: Phase,
    pub(super) explanation: String,
    /// An invariant is broken: no automatic action any more.
    pub(super) alarm: Option<String>,

    in_flight: BTreeMap<NodeAddress, (ActionId, ServerCommand)>,
    retries: BTreeMap<NodeAddress, Retry>,
    next_action: u64,
    /// Decided in this pass.
    commands: Vec<(NodeAddress, ServerCommand)>,
    pub(super) looks: Vec<Action>,
    stories: Vec<Action>,
    replies: Vec<Action>,
    outputs: VecDeque<Action>,
    next_deadline: Time,
}

/// A standby on its way to become active.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Seed {
    /// With what.
    pub(super) dataset: DatasetId,
    /// The snapshot went out to it and it was lost before it followed: so many times.
    pub(super) attempts: u32,
    /// The snapshot is going out, or has.
    pub(super) has_begun: bool,
    /// Not before.
    pub(super) not_before: Time,
}

/// A switch that an operator asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Planned {
    /// When.
    pub(super) since: Time,
    /// Whom readers leave.
    pub(super) old: BTreeSet<NodeAddress>,
    /// Since when the old actives' streams stand still.
    pub(super) paused_since: Option<Time>,
    /// Streams may be stopped again then, after an attempt that took too long.
    pub(super) not_before: Time,
}

/// Back-off of commands to a replica that refuses them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Retry {
    failures: u32,
    not_before: Time,
    error: String,
}

impl Controller {
    /// A controller that starts now, with the state file of its last run if there was one.
    pub fn new(policy: GroupPolicy, state: Option<DurableState>, now: Time) -> Controller {
        let persisted = state.clone();
        let mut state = state.unwrap_or_else(|| DurableState::new(policy.group.clone()));
        // Replicas that left the configuration are forgotten: rbuddy has no business with them any more.
        state.replicas.retain(|address, _| policy.replicas.contains(address));
        state.outbox.iter_mut().for_each(|notification| notification.pending.retain(|url| policy.notify.contains(url)));
        state.outbox.retain(|notification| !notification.pending.is_empty());
        // An operator who changes the configured primary means it: what was found before counts no more.
        state.primary.take_if(|found| found.configured != policy.primary);
        for address in &policy.replicas {
            state.replicas.entry(address.clone()).or_default();
        }
        let served = state.replicas.iter().filter_map(|(address, record)| Some((address.clone(), record.served?))).collect();
        let reference = state.reference;
        let world = World::of(&policy.replicas);
        let mut controller = Controller {
            policy,
            state,
            persisted,
            world,
            looking_since: now,
            orders: RelayOrders::default(),
            assignment: None,
            published_outbox: None,
            begin: None,
            candidate: None,
            masters_since: BTreeMap::new(),
            snapshot_request: None,
            seeds: BTreeMap::new(),
            refilled: BTreeMap::new(),
            planned: None,
            refusal: None,
            short_since: None,
            unserved_since: None,
            drain_until: BTreeMap::new(),
            disconnected: BTreeSet::new(),
            reference,
            served,
            floors: BTreeMap::new(),
            flaps: BTreeMap::new(),
            dropped_out: BTreeMap::new(),
            snapshot_not_before: None,
            snapshot_answered: None,
            snapshot_failures: 0,
            phase: Phase::Starting,
            explanation: String::new(),
            alarm: None,
            in_flight: BTreeMap::new(),
            retries: BTreeMap::new(),
            next_action: 1,
            commands: Vec::new(),
            looks: Vec::new(),
            stories: Vec::new(),
            replies: Vec::new(),
            outputs: VecDeque::new(),
            next_deadline: now,
        };
        controller.decide(now);
        controller
    }

    /// Something happened. Outputs of the event before must have been drained.
    pub fn handle(&mut self, now: Time, event: Event) {
        debug_assert!(self.outputs.is_empty(), "outputs must be drained before the next event");
        if now.since(self.next_deadline) >= STALL {
            self.world.lose_sight(now);
            // Who has not answered yet has not been silent: nobody listened.
            self.looking_since = now;
        }
        match event {
            Event::Relay(view) => {
                let before = std::mem::take(&mut self.world.relay.ended);
                self.world.take_relay(now, *view);
                self.observe_ends(&before);
            }
            Event::Probe { node: Node::Primary(address), asked_at, result } => {
                if Some(&address) == self.primary_address() {
                    self.world.primary.take(now, asked_at, result);
                }
            }
            Event::Probe { node: Node::Candidate(address), asked_at, result } => self.take_look(now, asked_at, &address, result),
            Event::Probe { node: Node::Replica(address), asked_at, result } => {
                if let Some(sight) = self.world.replicas.get_mut(&address) {
                    sight.take(now, asked_at, result);
                }
            }
            Event::Outcome { id, outcome } => self.take_outcome(now, id, outcome),
            Event::Operator { request, operation } => {
                if let Some(result) = self.operate(now, request, &operation) {
                    self.reply(request, result);
                }
            }
            Event::Sentinels(view) => self.world.sentinels = view,
            Event::Delivered { id, url } => {
                for notification in self.state.outbox.iter_mut().filter(|notification| notification.id == id) {
                    notification.pending.retain(|pending| *pending != url);
                }
                self.state.outbox.retain(|notification| !notification.pending.is_empty());
            }
            Event::Tick => {}
        }
        self.decide(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Output {
        match self.outputs.pop_front() {
            Some(action) => Output::Action(action),
            None => Output::Deadline(self.next_deadline),
        }
    }

    /// What is going on, in one word.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// What must not be forgotten, as decided so far.
    pub fn state(&self) -> &DurableState {
        &self.state
    }

    /// One pass over the whole situation.
    fn decide(&mut self, now: Time) {
        self.begin_drains(now);
        self.observe_served();
        self.observe_lacking(now);
        self.observe_flaps(now);
        if self.alarm.is_none() {
            self.follow_primary(now);
        }
        if self.alarm.is_none() && !self.state.paused {
            self.classify(now);
            self.go_on_taking_out(now);
            self.start(now);
            self.watch_planned(now);
            self.observe_shortage(now);
            self.record_ids(now);
            self.take_back(now);
            self.seed_and_promote(now);
            self.drain(now);
            self.reconcile(now);
        } else {
            self.start(now);
            self.record_ids(now);
        }
        self.forget_ended();
        self.observe_reference(now);
        self.describe(now);
        self.publish(now);
    }

    /// Queues everything that this pass decided, in the order that promises need: the state file is on disk before anyone acts on it.
    fn publish(&mut self, now: Time) {
        let orders = self.make_orders(now);
        let assignment = self.make_assignment(now);
        if let Err(broken) = invariant::check(&self.state, &orders, &assignment, &self.commands, self.assignment.as_ref()) {
            if self.alarm.is_none() {
                self.story(StoryLevel::Error, None, format!("invariant broken, no automatic action any more: {broken}"));
                self.alarm = Some(broken);
                self.describe(now);
            }
            // What serves goes on serving; nothing that was decided in this pass is carried out.
            self.commands.clear();
            self.looks.clear();
            self.outputs.extend(self.stories.drain(..).chain(self.replies.drain(..)));
            self.next_deadline = now.after(TICK);
            return;
        }
        if self.persisted.as_ref() != Some(&self.state) {
            self.outputs.push_back(Action::Persist(Box::new(self.state.clone())));
            self.persisted = Some(self.state.clone());
        }
        self.outputs.append(&mut self.stories.drain(..).collect());
        self.note_dropouts(&assignment);
        if self.assignment.as_ref() != Some(&assignment) {
            self.outputs.push_back(Action::Assign(assignment.clone()));
            self.assignment = Some(assignment);
        }
        if self.published_outbox.as_ref() != Some(&self.state.outbox) {
            self.outputs.push_back(Action::Outbox(self.state.outbox.clone()));
            self.published_outbox = Some(self.state.outbox.clone());
        }
        if self.orders != orders {
            self.outputs.push_back(Action::Orders(Box::new(orders.clone())));
            self.orders = orders;
        }
        self.outputs.extend(self.looks.drain(..));
        for (replica, command) in std::mem::take(&mut self.commands) {
            let id = ActionId(self.next_action);
            self.next_action += 1;
            self.in_flight.insert(replica.clone(), (id, command.clone()));
            self.outputs.push_back(Action::Server { id, generation: self.state.generation, replica, command });
        }
        self.outputs.append(&mut self.replies.drain(..).collect());
        self.next_deadline = if self.drains_to_begin().is_empty() { now.after(TICK) } else { now };
    }

    /// Decides a command to a replica, unless one is under way or its back-off runs.
    pub(super) fn command(&mut self, now: Time, replica: &NodeAddress, command: ServerCommand) {
        let waiting = self.retries.get(replica).is_some_and(|retry| now < retry.not_before);
        if !waiting && !self.is_busy(replica) {
            self.commands.push((replica.clone(), command));
        }
    }

    /// A command to it is under way.
    pub(super) fn is_busy(&self, replica: &NodeAddress) -> bool {
        self.in_flight.contains_key(replica) || self.commands.iter().any(|(address, _)| address == replica)
    }

    /// Why its last command failed.
    pub(super) fn last_error(&self, replica: &NodeAddress) -> Option<&str> {
        self.retries.get(replica).map(|retry| retry.error.as_str())
    }

    fn take_outcome(&mut self, now: Time, id: ActionId, outcome: Outcome) {
        let Some(replica) = self.in_flight.iter().find(|(_, (known, _))| *known == id).map(|(replica, _)| replica.clone()) else { return };
        let Some((_, command)) = self.in_flight.remove(&replica) else { return };
        // What was seen before says nothing any more about what the command changed, or may have changed.
        if !matches!(outcome, Outcome::Refused(_))
            && let Some(sight) = self.world.replicas.get_mut(&replica)
        {
            sight.expire(now);
        }
        let (error, longest) = match outcome {
            Outcome::Done => {
                self.retries.remove(&replica);
                if command == ServerCommand::DisconnectClients {
                    self.disconnected.insert(replica.clone());
                }
                return;
            }
            Outcome::Refused(error) => (error, RETRY_LAST),
            Outcome::Unknown(error) => (format!("unknown outcome: {error}"), RETRY_UNKNOWN),
        };
        let retry = self.retries.entry(replica.clone()).or_default();
        retry.failures += 1;
        retry.not_before = now.after(RETRY_FIRST.saturating_mul(1 << retry.failures.min(6)).min(longest));
        let is_first = retry.error != error;
        retry.error.clone_from(&error);
        if is_first {
            self.story(StoryLevel::Warn, Some(&replica), format!("could not be told to {command}: {error}"));
        }
    }

    /// Answers an operator.
    pub(super) fn reply(&mut self, request: u64, result: OperationResult) {
        self.replies.push(Action::Reply { request, result });
    }

    /// Adds a line to the story.
    pub(super) fn story(&mut self, level: StoryLevel, replica: Option<&NodeAddress>, text: String) {
        self.stories.push(Action::Story { level, replica: replica.cloned(), text });
    }

    /// Its record. Every configured replica has one.
    pub(super) fn record(&mut self, replica: &NodeAddress) -> &mut ReplicaRecord {
        self.state.replicas.entry(replica.clone()).or_default()
    }

    /// Commits a role, in the story as well.
    pub(super) fn set_role(&mut self, replica: &NodeAddress, role: Role, why: &str) {
        if *self.state.role(replica) == role {
            return;
        }
        let name = super::report::role_name(&role);
        self.record(replica).role = role;
        self.drain_until.remove(replica);
        self.disconnected.remove(replica);
        self.story(StoryLevel::Info, Some(replica), format!("{name}: {why}"));
    }

    /// Replicas in the order of the configuration that have such a role.
    pub(super) fn having(&self, which: impl Fn(&Role) -> bool) -> Vec<NodeAddress> {
        self.policy.replicas.iter().filter(|address| which(self.state.role(address))).cloned().collect()
    }
}

/// So late for its deadline, it did not run: what it has seen is too old to act on. Longer than a probe may take.
const STALL: Duration = Duration::from_secs(2);
/// How often the situation is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(250);
/// Back-off after a command that a server refused: first and longest wait.
const RETRY_FIRST: Duration = Duration::from_millis(250);
const RETRY_LAST: Duration = Duration::from_secs(15);
/// The longest after one whose end is unknown: a look at the server says what is still missing, and nothing speaks against asking again.
const RETRY_UNKNOWN: Duration = Duration::from_secs(1);
