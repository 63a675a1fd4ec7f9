//! The task that owns a group's controller. Takes events one at a time, carries out actions in order, publishes what others follow.
//!
//! Promises: the state file is on disk before anything that follows from it happens; a slow server or receiver never stops the loop (commands run in
//! tasks of their own, one per replica at a time), nor does the journal. What is in the journal is there before it is carried out.

use super::executor::Executor;
use super::journal::Journal;
use super::state_file::{StateError, StateFile};
use crate::clock::Clock;
use crate::handle::{OperationRequest, PlanRequest};
use crate::settings::{GroupSettings, JournalSettings};
use crate::webhook::Delivered;
use rbuddy_core::control::Controller;
use rbuddy_core::control::action::{Action, ActionId, Outcome, Output, ServerCommand, StoryLevel};
use rbuddy_core::control::assignment::{Assignment, Notification};
use rbuddy_core::control::event::{Event, Node};
use rbuddy_core::control::journal::{Beginning, Entry};
use rbuddy_core::control::primary::SentinelView;
use rbuddy_core::control::relay::{RelayOrders, RelayView, UpstreamState};
use rbuddy_core::control::state::DurableState;
use rbuddy_core::control::status::{GroupStatus, OperationResult, Phase};
use rbuddy_core::types::{NodeAddress, Time};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

/// What a driver needs.
pub struct DriverConfig {
    /// The group.
    pub settings: GroupSettings,
    /// Where its state is.
    pub file: StateFile,
    /// What is kept of its story, and where.
    pub journal: (JournalSettings, PathBuf),
    /// The time.
    pub clock: Clock,
    /// What the relay publishes.
    pub relay: watch::Receiver<RelayView>,
    /// What the Sentinels say, where they are asked for the primary.
    pub sentinels: watch::Receiver<SentinelView>,
    /// What operators ask.
    pub operations: mpsc::Receiver<OperationRequest>,
    /// Who asks what would happen now.
    pub plans: mpsc::Receiver<PlanRequest>,
    /// What receivers took.
    pub delivered: mpsc::Receiver<Delivered>,
}

/// What a driver publishes.
pub struct Faces {
    /// For the relay.
    pub orders: watch::Receiver<RelayOrders>,
    /// For readers and the API.
    pub assignment: watch::Receiver<Arc<Assignment>>,
    /// For the API.
    pub status: watch::Receiver<Arc<GroupStatus>>,
    /// For webhooks.
    pub outbox: watch::Receiver<Arc<Vec<Notification>>>,
}

/// A group's controller with its surroundings.
pub struct Driver {
    controller: Controller,
    config: DriverConfig,
    orders: watch::Sender<RelayOrders>,
    assignment: watch::Sender<Arc<Assignment>>,
    status: watch::Sender<Arc<GroupStatus>>,
    outbox: watch::Sender<Arc<Vec<Notification>>>,
    executors: BTreeMap<NodeAddress, Arc<Mutex<Executor>>>,
    events: (mpsc::Sender<Event>, mpsc::Receiver<Event>),
    replies: BTreeMap<u64, oneshot::Sender<OperationResult>>,
    next_request: u64,
    hurry: BTreeMap<NodeAddress, Arc<Notify>>,
    hurry_primary: Arc<Notify>,
    /// Who is probed as the primary, and what ends that.
    primary: Option<(NodeAddress, CancellationToken)>,
    /// The link to the primary at the last view.
    upstream: UpstreamState,
    journal: Option<Journal>,
    tasks: TaskTracker,
}

impl Driver {
    /// Reads the state file and makes the controller. Nothing is sent to any server yet.
    pub fn new(config: DriverConfig) -> Result<(Driver, Faces), StateError> {
        let policy = config.settings.policy.clone();
        let state = config.file.load(&policy.group)?;
        let now = config.clock.now();
        let journal = begin_journal(&config, Beginning { at: now, policy: policy.clone(), state: state.clone() });
        let controller = Controller::new(policy.clone(), state, now);
        let nobody = Assignment {
            group: policy.group.clone(),
            generation: controller.state().generation,
            actives: Vec::new(),
            standby: None,
            draining: Vec::new(),
            reason: Some("rbuddy is starting".into()),
        };
        let orders = watch::channel(RelayOrders::default());
        let assignment = watch::channel(Arc::new(nobody));
        let status = watch::channel(Arc::new(controller.status(now)));
        let outbox = watch::channel(Arc::new(Vec::new()));
        let auth = config.settings.relay.login(&config.settings.primary);
        let executor = |endpoint: &crate::settings::Endpoint| {
            let executor = Executor::new(endpoint.clone(), policy.relay.clone(), auth.clone());
            (endpoint.address.clone(), Arc::new(Mutex::new(executor)))
        };
        let executors = config.settings.replicas.iter().map(executor).collect();
        let hurry = policy.replicas.iter().map(|replica| (replica.clone(), Arc::new(Notify::new()))).collect();
        let faces = Faces { orders: orders.1, assignment: assignment.1, status: status.1, outbox: outbox.1 };
        let driver = Driver {
            controller,
            config,
            orders: orders.0,
            assignment: assignment.0,
            status: status.0,
            outbox: outbox.0,
            executors,
            events: mpsc::channel(EVENTS),
            replies: BTreeMap::new(),
            next_request: 1,
            hurry,
            hurry_primary: Arc::default(),
            primary: None,
            upstream: UpstreamState::default(),
            journal,
            tasks: TaskTracker::new(),
        };
        Ok((driver, faces))
    }

    /// Runs until cancelled. What serves goes on serving afterwards.
    pub async fn run(mut self, cancel: CancellationToken) {
        self.start_probes(&cancel);
        let mut next = self.carry_out_all(&cancel).await;
        while let Some(deadline) = next {
            let event = tokio::select! {
                biased;
                () = cancel.cancelled() => break,
                event = self.next_event() => event,
                () = tokio::time::sleep_until(deadline) => Event::Tick,
            };
            let is_outcome = matches!(event, Event::Outcome { .. });
            self.tell_controller(event);
            if is_outcome {
                // What was asked before says nothing any more: look again.
                self.hurry.values().for_each(|hurry| hurry.notify_one());
            }
            next = self.carry_out_all(&cancel).await;
        }
        self.tasks.close();
        if tokio::time::timeout(SHUTDOWN, self.tasks.wait()).await.is_err() {
            warn!("commands to servers were still under way at the end");
        }
        if let Some(journal) = self.journal {
            journal.end().await;
        }
    }

    fn tell_controller(&mut self, event: Event) {
        let now = self.config.clock.now();
        if let Some(journal) = &mut self.journal {
            journal.rest(now, &self.controller);
            // Before it is handled: should that panic, this is the event to look at.
            journal.record(Entry::Event { at: now, event: event.clone() });
        }
        self.controller.handle(now, event);
    }

    fn start_probes(&self, cancel: &CancellationToken) {
        for endpoint in &self.config.settings.replicas {
            let hurry = self.hurry.get(&endpoint.address).cloned().unwrap_or_default();
            self.probe(Node::Replica(endpoint.address.clone()), endpoint.clone(), hurry, cancel.clone());
        }
    }

    fn probe(&self, node: Node, endpoint: crate::settings::Endpoint, hurry: Arc<Notify>, cancel: CancellationToken) {
        self.tasks.spawn(super::probe::run(node, endpoint, self.config.clock, self.events.0.clone(), hurry, cancel));
    }

    /// The probes of the primary go where the relay goes.
    fn probe_primary(&mut self, address: Option<&NodeAddress>, cancel: &CancellationToken) {
        let Some(address) = address.filter(|address| self.primary.as_ref().is_none_or(|(probed, _)| probed != *address)) else { return };
        let token = cancel.child_token();
        if let Some((_, former)) = self.primary.replace((address.clone(), token.clone())) {
            former.cancel();
        }
        let endpoint = self.config.settings.primary.endpoint(address.clone());
        self.probe(Node::Primary(address.clone()), endpoint, self.hurry_primary.clone(), token);
    }

    fn look_at(&self, address: NodeAddress) {
        let endpoint = self.config.settings.primary.endpoint(address.clone());
        self.tasks.spawn(super::probe::once(Node::Candidate(address), endpoint, self.config.clock, self.events.0.clone()));
    }

    /// # Cancel safety
    /// Each branch is cancel safe; a view or request is taken only when this returns.
    async fn next_event(&mut self) -> Event {
        loop {
            return tokio::select! {
                biased;
                // After a wait for the disk nothing is decided on what the relay showed before it.
                Ok(()) = self.config.relay.changed() => {
                    let view = self.config.relay.borrow_and_update().clone();
                    self.hurry_probes(view.upstream.state);
                    Event::Relay(Box::new(view))
                }
                Some(event) = self.events.1.recv() => event,
                Ok(()) = self.config.sentinels.changed() => Event::Sentinels(self.config.sentinels.borrow_and_update().clone()),
                Some(OperationRequest { operation, reply }) = self.config.operations.recv() => {
                    let request = self.next_request;
                    self.next_request += 1;
                    self.replies.insert(request, reply);
                    Event::Operator { request, operation }
                }
                Some(Delivered { id, url }) = self.config.delivered.recv() => Event::Delivered { id, url },
                Some(asker) = self.config.plans.recv() => {
                    self.tell_plan(asker);
                    continue;
                }
                else => std::future::pending().await,
            };
        }
    }

    /// What would happen now, by the controller as it is. Nothing changes by that.
    fn tell_plan(&self, asker: PlanRequest) {
        // Whoever asked may have gone.
        let _ = asker.send(Box::new(self.controller.plan(self.config.clock.now())));
    }

    /// A server is looked at once more as soon as what the relay saw makes the last look old. At rest, positions move all the time and say nothing
    /// new; the primary is asked only when the link to it has changed.
    fn hurry_probes(&mut self, upstream: UpstreamState) {
        if self.upstream != upstream {
            self.upstream = upstream;
            self.hurry_primary.notify_one();
            self.hurry.values().for_each(|hurry| hurry.notify_one());
        }
        if !matches!(self.controller.phase(), Phase::Normal | Phase::Disconnected | Phase::Paused) {
            self.hurry.values().for_each(|hurry| hurry.notify_one());
        }
    }

    /// Until the controller has nothing more to do; gives the time of its next tick. `None`: cancelled before all was done.
    async fn carry_out_all(&mut self, cancel: &CancellationToken) -> Option<Instant> {
        let (actions, deadline) = self.drain_outputs();
        if let Some(journal) = &mut self.journal {
            actions.iter().for_each(|action| journal.record(Entry::Action(action.clone())));
        }
        for action in actions {
            // The rest follows from what is not written: the next run decides anew.
            self.carry_out(action, cancel).await?;
        }
        let now = self.config.clock.now();
        self.status.send_replace(Arc::new(self.controller.status(now)));
        Some(Instant::now() + deadline.since(now))
    }

    fn drain_outputs(&mut self) -> (Vec<Action>, Time) {
        let mut actions = Vec::new();
        loop {
            match self.controller.poll_output() {
                Output::Action(action) => actions.push(action),
                Output::Deadline(at) => return (actions, at),
            }
        }
    }

    /// `None`: cancelled before it could be done.
    async fn carry_out(&mut self, action: Action, cancel: &CancellationToken) -> Option<()> {
        match action {
            Action::Persist(state) => self.persist(*state, cancel).await?,
            Action::Assign(assignment) => {
                self.assignment.send_replace(Arc::new(assignment));
            }
            Action::Orders(orders) => {
                self.probe_primary(orders.primary.as_ref(), cancel);
                self.orders.send_replace(*orders);
            }
            Action::Outbox(outbox) => {
                self.outbox.send_replace(Arc::new(outbox));
            }
            Action::Server { id, generation: _, replica, command } => self.send(id, replica, command),
            Action::Look(address) => self.look_at(address),
            Action::Reply { request, result } => {
                if let Some(reply) = self.replies.remove(&request) {
                    // The asker may have gone away; the operation stands all the same.
                    let _ = reply.send(result);
                }
            }
            Action::Story { level, replica, text } => self.tell(level, replica.as_ref(), &text),
        }
        Some(())
    }

    /// A barrier: nothing that follows from a state happens before it is on disk. While the disk refuses, readers stay where they are. `None`: cancelled
    /// before.
    async fn persist(&mut self, state: DurableState, cancel: &CancellationToken) -> Option<()> {
        let (state, before) = (Arc::new(state), self.status.borrow().clone());
        let mut wait = PERSIST_RETRY;
        loop {
            let (file, copy) = (self.config.file.clone(), state.clone());
            let storing = tokio::task::spawn_blocking(move || file.store(&copy));
            let error = match self
                .meanwhile(storing, PERSIST_SLOW, &before, "writing the state file takes long: look at its disk", cancel)
                .await?
            {
                Ok(Ok(())) => return Some(()),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            error!(group = %self.config.settings.policy.group, %error, "the state file cannot be written; nothing is changed until it can");
            self.meanwhile(tokio::time::sleep(wait), Duration::ZERO, &before, &error, cancel).await?;
            wait = (wait * 2).min(PERSIST_RETRY_MAX);
        }
    }

    /// Waits for something without which nothing goes on; after `patience` says so to all who ask. `None`: cancelled.
    async fn meanwhile<T>(
        &mut self,
        waited_for: impl Future<Output = T>,
        patience: Duration,
        before: &GroupStatus,
        why: &str,
        cancel: &CancellationToken,
    ) -> Option<T> {
        let mut waited_for = std::pin::pin!(waited_for);
        tokio::select! {
            biased;
            done = &mut waited_for => return Some(done),
            () = cancel.cancelled() => return None,
            () = tokio::time::sleep(patience) => {}
        }
        self.status.send_replace(Arc::new(before.clone().not_written(why)));
        loop {
            tokio::select! {
                done = &mut waited_for => return Some(done),
                () = cancel.cancelled() => return None,
                Some(OperationRequest { reply, .. }) = self.config.operations.recv() => {
                    // Whoever asked may have gone.
                    let _ = reply.send(Err(why.to_owned()));
                }
                Some(asker) = self.config.plans.recv() => self.tell_plan(asker),
            }
        }
    }

    fn send(&self, id: ActionId, replica: NodeAddress, command: ServerCommand) {
        info!(group = %self.config.settings.policy.group, %replica, "told to {command}");
        let executor = self.executors.get(&replica).cloned();
        let events = self.events.0.clone();
        self.tasks.spawn(async move {
            let outcome = match executor {
                Some(executor) => executor.lock().await.carry_out(&command).await,
                None => Outcome::Refused(format!("{replica} is not in replicas")),
            };
            // The loop may have ended; then nobody waits for it.
            let _ = events.send(Event::Outcome { id, outcome }).await;
        });
    }

    fn tell(&self, level: StoryLevel, replica: Option<&NodeAddress>, text: &str) {
        let group = &self.config.settings.policy.group;
        let replica = replica.map(tracing::field::display);
        match level {
            StoryLevel::Info => info!(%group, replica, "{text}"),
            StoryLevel::Warn => warn!(%group, replica, "{text}"),
            StoryLevel::Error => error!(%group, replica, "{text}"),
        }
    }
}

/// Without a journal everything else goes on.
fn begin_journal(config: &DriverConfig, beginning: Beginning) -> Option<Journal> {
    let (settings, folder) = config.journal.clone();
    let group = &config.settings.policy.group;
    Journal::start(folder, settings, beginning).unwrap_or_else(|error| {
        warn!(%group, %error, "no journal: its thread cannot be started");
        None
    })
}

/// Events that wait while the state file is written. When full, probes and outcomes wait in their own tasks.
const EVENTS: usize = 256;
/// When people are told that it takes long to write the state file.
const PERSIST_SLOW: Duration = Duration::from_secs(2);
/// Between two attempts to write the state file: first and longest.
const PERSIST_RETRY: Duration = Duration::from_millis(100);
const PERSIST_RETRY_MAX: Duration = Duration::from_secs(5);
/// How long commands under way may take at the end.
const SHUTDOWN: Duration = Duration::from_secs(6);
