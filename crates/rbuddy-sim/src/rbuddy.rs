//! rbuddy's process around the real controller: the loop that takes events and carries out actions in order, as the runtime's driver does. `Persist` is a
//! barrier; the process may die between any two actions and within a write.
//!
//! Channels as they are: views and orders keep only the latest, events and outcomes come each once and in order, probes of one server one after another.

use crate::mutant::Mutant;
use crate::promise::WORD;
use crate::relay::{Relay, SavedSpool};
use crate::world::{Fate, Happening, Inside, World};
use rbuddy_core::control::Controller;
use rbuddy_core::control::action::{Action, ActionId, Outcome, Output, ServerCommand};
use rbuddy_core::control::assignment::{ActiveReplica, Assignment};
use rbuddy_core::control::event::{Event, Node, ProbeResult};
use rbuddy_core::control::primary::SentinelView;
use rbuddy_core::control::relay::RelayView;
use rbuddy_core::control::state::DurableState;
use rbuddy_core::control::status::{Operation, Phase};
use rbuddy_core::types::{NodeAddress, Offset, Time};
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// What outlives the process.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// The state file.
    pub state: Option<DurableState>,
    /// The relay's snapshot and stream.
    pub relay: Option<SavedSpool>,
}

/// A running rbuddy.
#[derive(Debug)]
pub struct Rbuddy {
    /// The real one.
    pub controller: Controller,
    /// The model relay; away while it acts.
    pub relay: Option<Relay>,
    /// Who may be read, as published.
    pub assignment: Option<Assignment>,
    /// Since when it runs.
    pub since: Time,
    mailbox: VecDeque<Letter>,
    pending: VecDeque<Action>,
    writing: Option<DurableState>,
    is_view_due: bool,
    shown: RelayView,
    probed_primary: Option<NodeAddress>,
    told: BTreeSet<u64>,
    ticks: u64,
    /// The process dies before it has carried out so many more actions.
    pub actions_left: Option<u64>,
}

#[derive(Debug)]
enum Letter {
    Event(Event),
    /// The newest view, whichever that is when the letter is opened.
    View,
}

impl World {
    /// A new life, with what is on disk.
    pub fn start_rbuddy(&mut self) {
        if self.rbuddy.is_some() {
            return;
        }
        self.lives += 1;
        self.ledger.killed.clear();
        let life = self.lives;
        self.tell(format!("rbuddy starts, life {life}"));
        let forgets = |mutant| self.mutant == Some(mutant);
        let mut state = self.disk.state.clone().filter(|_| !forgets(Mutant::ForgetsTheStateFile));
        if forgets(Mutant::ForgetsTheOutbox) {
            state.iter_mut().for_each(|state| state.outbox.clear());
        }
        let controller = Controller::new(self.policy.clone(), state, self.now);
        self.rbuddy = Some(Rbuddy {
            controller,
            relay: Some(Relay::new(self.disk.relay.take(), self.ledger.relay_keeps, self.now)),
            assignment: None,
            since: self.now,
            mailbox: VecDeque::new(),
            pending: VecDeque::new(),
            writing: None,
            is_view_due: false,
            shown: RelayView::default(),
            probed_primary: None,
            told: BTreeSet::new(),
            ticks: 0,
            actions_left: None,
        });
        for replica in self.policy.replicas.clone() {
            self.after(Duration::ZERO, Happening::Inside(life, Inside::ProbeBegins(Node::Replica(replica))));
        }
        self.after(Duration::from_millis(10), Happening::Inside(life, Inside::Upstream));
        self.after(Duration::from_millis(20), Happening::Inside(life, Inside::Snapshotter));
        self.after(Duration::from_millis(30), Happening::Sentinels);
        self.run_rbuddy();
    }

    /// It dies, wherever it is.
    pub fn kill_rbuddy(&mut self) {
        let Some(rbuddy) = self.rbuddy.take() else { return };
        if let Some(state) = rbuddy.writing
            && self.dice.one_in(2)
        {
            // The rename was the last thing it did.
            self.note_written(&state);
            self.disk.state = Some(state);
        }
        let lost = self.dice.below(60);
        self.disk.relay = rbuddy.relay.and_then(|relay| relay.remains(lost));
        self.ledger.asked = None;
        self.tell("rbuddy dies");
        let wait = self.dice.millis(100, 6000);
        self.after(wait, Happening::Start);
    }

    /// Something happens within the life that runs.
    pub fn live(&mut self, life: u32, what: Inside) {
        match what {
            Inside::Upstream => {
                self.breathe_upstream();
                let wait = self.dice.millis(40, 120);
                self.after(wait, Happening::Inside(life, Inside::Upstream));
            }
            Inside::Snapshotter => {
                self.breathe_snapshotter();
                let wait = self.dice.millis(100, 300);
                self.after(wait, Happening::Inside(life, Inside::Snapshotter));
            }
            Inside::View => self.post(Letter::View),
            Inside::ProbeBegins(node) => {
                let (wait, asked_at) = (self.travel(), self.now);
                self.after(wait, Happening::Inside(life, Inside::ProbeMeets(node, asked_at)));
            }
            Inside::ProbeMeets(node, asked_at) => self.meet_probe(life, node, asked_at),
            Inside::ProbeArrives(node, asked_at, result) => {
                self.note_answer(&node, &result);
                self.post_event(Event::Probe { node: node.clone(), asked_at, result });
                self.probe_again(life, node, asked_at);
            }
            Inside::Outcome(..) if self.mutant == Some(Mutant::LosesOutcomes) => {}
            Inside::Outcome(id, outcome) => self.post_event(Event::Outcome { id, outcome }),
            Inside::Written => self.written(life),
            // It was woken by something else meanwhile.
            Inside::Tick(number) if self.rbuddy.as_ref().is_some_and(|rbuddy| rbuddy.ticks != number) => {}
            Inside::Tick(_) => self.post_event(Event::Tick),
        }
    }

    /// A receiver took a notification; only the life that sent it hears that.
    pub fn delivered(&mut self, life: u32, id: u64) {
        self.ledger.delivered.insert(id);
        if self.rbuddy.is_some() && self.lives == life {
            for url in self.policy.notify.clone() {
                self.post_event(Event::Delivered { id, url });
            }
        }
    }

    /// How long a message takes.
    pub fn travel(&mut self) -> Duration {
        if self.weather.slow { self.dice.millis(5, 900) } else { self.dice.millis(1, 20) }
    }

    /// An operator presses a button.
    pub fn operate(&mut self, operation: Operation) {
        self.tell(format!("operator: {operation:?}"));
        let request = if matches!(operation, Operation::Adopt { .. } | Operation::Approve { .. }) { WORD } else { 1 };
        self.post_event(Event::Operator { request, operation });
    }

    /// Sentinels say where the primary is, to whoever asks them.
    pub fn sentinels_speak(&mut self) {
        if self.policy.primary.fixed().is_none() {
            let named = Some(self.primary_at.clone());
            self.post_event(Event::Sentinels(SentinelView { named, trouble: None }));
        }
    }

    /// The relay may have something new to show.
    pub fn publish_view(&mut self) {
        let (life, wait) = (self.lives, if self.weather.slow { self.dice.millis(50, 600) } else { self.dice.millis(20, 150) });
        let is_due = self.rbuddy.as_mut().is_some_and(|rbuddy| !std::mem::replace(&mut rbuddy.is_view_due, true));
        if is_due {
            self.after(wait, Happening::Inside(life, Inside::View));
        }
    }

    fn meet_probe(&mut self, life: u32, node: Node, asked_at: Time) {
        let (Node::Primary(at) | Node::Candidate(at) | Node::Replica(at)) = &node;
        let back = self.travel();
        let (result, back) = match self.server_at(at) {
            Some(process) if !process.hangs => {
                let mut probe = process.probe(&self.truth);
                self.servers.get(at).into_iter().for_each(|server| server.memory.show(&mut probe));
                if let Some(mutant) = self.mutant {
                    mutant.distort_probe(&node, &mut probe, self.rbuddy.as_ref());
                }
                (ProbeResult::Answered(Box::new(probe)), back)
            }
            Some(_) => (ProbeResult::Failed("no answer within 1.5 s".into()), PROBE_DEADLINE),
            None => (ProbeResult::Failed("connection refused".into()), back),
        };
        let is_late = self.now.after(back).since(asked_at) > PROBE_DEADLINE;
        let result = if is_late { ProbeResult::Failed("no answer within 1.5 s".into()) } else { result };
        self.after(back, Happening::Inside(life, Inside::ProbeArrives(node, asked_at, result)));
    }

    fn probe_again(&mut self, life: u32, node: Node, asked_at: Time) {
        let Some(rbuddy) = &self.rbuddy else { return };
        let is_current = match &node {
            Node::Primary(at) => rbuddy.probed_primary.as_ref() == Some(at),
            Node::Candidate(_) => false,
            Node::Replica(_) => true,
        };
        let is_calm = matches!(rbuddy.controller.phase(), Phase::Normal | Phase::Disconnected | Phase::Paused);
        if is_current {
            let every = Duration::from_millis(if is_calm { 500 } else { 200 });
            let wait = every.saturating_sub(self.now.since(asked_at)).max(Duration::from_millis(1));
            self.after(wait, Happening::Inside(life, Inside::ProbeBegins(node)));
        }
    }

    fn post_event(&mut self, event: Event) {
        self.post(Letter::Event(event));
    }

    fn post(&mut self, letter: Letter) {
        if let Some(rbuddy) = &mut self.rbuddy {
            rbuddy.mailbox.push_back(letter);
        }
        self.run_rbuddy();
    }

    fn written(&mut self, life: u32) {
        if self.weather.disk_full {
            return self.after(Duration::from_millis(400), Happening::Inside(life, Inside::Written));
        }
        let state = self.rbuddy.as_mut().and_then(|rbuddy| rbuddy.writing.take());
        if let Some(state) = &state {
            self.note_written(state);
        }
        self.disk.state = state.or(self.disk.state.take());
        self.run_rbuddy();
    }

    /// The driver's loop, until it waits for something.
    fn run_rbuddy(&mut self) {
        let (now, life) = (self.now, self.lives);
        loop {
            let Some(rbuddy) = self.rbuddy.as_mut().filter(|rbuddy| rbuddy.writing.is_none()) else { return };
            if let Some(action) = rbuddy.pending.pop_front() {
                if rbuddy.actions_left == Some(0) {
                    rbuddy.pending.push_front(action);
                    return self.kill_rbuddy();
                }
                rbuddy.actions_left.iter_mut().for_each(|left| *left -= 1);
                self.carry_out(life, action);
                continue;
            }
            let mut actions = Vec::new();
            let deadline = loop {
                match rbuddy.controller.poll_output() {
                    Output::Action(action) => actions.push(action),
                    Output::Deadline(at) => break at,
                }
            };
            if !actions.is_empty() {
                if let Some(mutant) = self.mutant {
                    mutant.distort(&mut actions, rbuddy);
                }
                rbuddy.pending.extend(actions);
                continue;
            }
            // What the relay shows comes before whatever else waits.
            let view = rbuddy.mailbox.iter().position(|letter| matches!(letter, Letter::View)).unwrap_or(0);
            let event = match rbuddy.mailbox.remove(view) {
                Some(Letter::Event(event)) => event,
                Some(Letter::View) => {
                    rbuddy.is_view_due = false;
                    let Some(view) = rbuddy.relay.as_ref().map(Relay::view).filter(|view| *view != rbuddy.shown) else { continue };
                    rbuddy.shown = view.clone();
                    Event::Relay(Box::new(view))
                }
                None => {
                    rbuddy.ticks += 1;
                    let number = rbuddy.ticks;
                    return self.after(deadline.since(now), Happening::Inside(life, Inside::Tick(number)));
                }
            };
            rbuddy.controller.handle(now, event);
        }
    }

    fn carry_out(&mut self, life: u32, action: Action) {
        self.check_action(&action);
        match action {
            Action::Persist(state) => {
                let wait = if self.weather.slow { self.dice.millis(1, 800) } else { self.dice.millis(1, 15) };
                self.rbuddy.iter_mut().for_each(|rbuddy| rbuddy.writing = Some((*state).clone()));
                self.after(wait, Happening::Inside(life, Inside::Written));
            }
            Action::Assign(assignment) => {
                self.tell(format!("assignment {}: {}", assignment.generation, actives(&assignment)));
                self.rbuddy.iter_mut().for_each(|rbuddy| rbuddy.assignment = Some(assignment.clone()));
            }
            Action::Orders(orders) => {
                let Some(rbuddy) = &mut self.rbuddy else { return };
                let is_new = orders.primary.is_some() && orders.primary != rbuddy.probed_primary;
                rbuddy.probed_primary = orders.primary.clone().or(rbuddy.probed_primary.take());
                let primary = rbuddy.probed_primary.clone();
                if let Some(relay) = &mut rbuddy.relay {
                    if let Some(request) = orders.snapshot_request.filter(|request| relay.orders.snapshot_request != Some(*request)) {
                        relay.request_waits = Some((request, relay.upstream.full_resyncs));
                    }
                    relay.orders = (*orders).clone();
                }
                if let Some(primary) = primary.filter(|_| is_new) {
                    self.after(Duration::ZERO, Happening::Inside(life, Inside::ProbeBegins(Node::Primary(primary))));
                }
            }
            Action::Outbox(outbox) => {
                for notification in outbox {
                    if self.rbuddy.as_mut().is_some_and(|rbuddy| rbuddy.told.insert(notification.id)) {
                        let wait = self.dice.millis(10, 1500);
                        self.after(wait, Happening::Delivered(life, notification.id));
                    }
                }
            }
            Action::Server { id, replica, command, .. } => {
                self.tell(format!("-> {replica}: {command:?}"));
                let wait = match self.weather.fate {
                    Fate::Late => self.dice.millis(3000, 8000),
                    Fate::Told | Fate::DoneUnknown | Fate::LostUnknown => self.travel(),
                };
                if wait > COMMAND_DEADLINE {
                    self.after(
                        COMMAND_DEADLINE,
                        Happening::Inside(life, Inside::Outcome(id, Outcome::Unknown("no answer within 5 s".into()))),
                    );
                }
                // One command at a time: the connection of a doubtful one is killed first.
                self.ledger.under_way.insert(replica.clone(), (life, id));
                self.after(wait, Happening::Command(life, id, replica, command));
            }
            Action::Look(at) => self.after(Duration::ZERO, Happening::Inside(life, Inside::ProbeBegins(Node::Candidate(at)))),
            Action::Reply { request, result } => self.answered(request, &result),
            Action::Story { replica, text, .. } => {
                self.tell(format!("   {} {text}", replica.map_or_else(String::new, |replica| replica.to_string())));
            }
        }
    }

    /// A command meets its server.
    pub fn command_arrives(&mut self, life: u32, id: ActionId, replica: &NodeAddress, command: ServerCommand) {
        // With a process its connections go: what has not arrived when the next one runs does not.
        if life != self.lives {
            return;
        }
        // After a doubtful command its connection is killed before the next one.
        if self.ledger.under_way.get(replica).is_some_and(|(latest_life, latest)| *latest_life == life && *latest != id) {
            return;
        }
        let wait = self.travel();
        let deadline = |why: &str| Outcome::Unknown(why.to_owned());
        let outcome = match (self.server_at(replica).map(|process| process.hangs), self.weather.fate) {
            (None, _) => Outcome::Refused("connection refused".into()),
            (Some(true), _) => {
                self.process_mut(replica).into_iter().for_each(|process| process.stuck.push(command.clone()));
                return self.after(COMMAND_DEADLINE, Happening::Inside(life, Inside::Outcome(id, deadline("no answer within 5 s"))));
            }
            (Some(false), Fate::LostUnknown) => deadline("the connection broke"),
            (Some(false), Fate::DoneUnknown) => {
                self.meet_command(replica, &command);
                deadline("the connection broke")
            }
            (Some(false), Fate::Told | Fate::Late) => self.meet_command(replica, &command),
        };
        self.after(wait, Happening::Inside(life, Inside::Outcome(id, outcome)));
    }

    /// A server carries out a command.
    pub fn meet_command(&mut self, replica: &NodeAddress, command: &ServerCommand) -> Outcome {
        let is_emptying = matches!(command, ServerCommand::Empty { .. });
        let process_before = self.server_at(replica).cloned();
        let (new_id, relay) = (self.new_replid(), self.policy.relay.clone());
        let Some(server) = self.servers.get_mut(replica) else { return Outcome::Refused("nobody is there".into()) };
        let Some(process) = &mut server.process else { return Outcome::Refused("connection refused".into()) };
        let outcome = process.carry_out(command, &relay, new_id, &mut server.file);
        if self.mutant == Some(Mutant::EmptiedAnswersReads) && is_emptying {
            process.serves_stale = true;
        }
        if is_emptying && outcome == Outcome::Done {
            self.check_emptying(replica, process_before.as_ref());
        }
        if *command == ServerCommand::DisconnectClients {
            self.readers.iter_mut().for_each(|reader| reader.cut(replica));
        }
        self.tell(format!("{replica} carried out {command:?}: {outcome:?}"));
        outcome
    }
}

fn actives(assignment: &Assignment) -> String {
    let name = |active: &ActiveReplica| match active.offset_at_least {
        Offset::ZERO => active.address.port.to_string(),
        least => format!("{} from {least}", active.address.port),
    };
    let names: Vec<String> = assignment.actives.iter().map(name).collect();
    let draining: Vec<String> = assignment.draining.iter().map(|draining| draining.address.port.to_string()).collect();
    format!("active {names:?}, draining {draining:?}")
}

/// A look at a server is given up.
const PROBE_DEADLINE: Duration = Duration::from_millis(1500);
/// A command is given up.
const COMMAND_DEADLINE: Duration = Duration::from_secs(5);
