//! The promises of the design as far as controller and relay's decisions keep them, by number, held against what really is. What the controller knows may be
//! a moment old, and nobody can act on what he cannot know: where that matters a check says for how long.
//!
//! | promise | where it is checked |
//! | --- | --- |
//! | P1 P9 P10 | at every read (`reader.rs`); P10 also: the generation never falls |
//! | P9 | after everything: what was emptied answers no reads |
//! | P1 | wherever a stream goes on: the bytes behind are those of the same dataset |
//! | P2 P3 | when a replica loses what it holds: [`World::check_loss`], [`World::check_emptying`] |
//! | P4 | when a replica becomes one to be read, and when a standby is promoted that lacks keys (`memory.rs`) |
//! | P5 P7 | when the relay asks for a full resync, when a replica is seeded |
//! | P6 | when the relay takes a snapshot over a second connection: none is there, and there is somebody to be filled who does not die of it |
//! | P7 | before every action: what it follows from is on disk |
//! | P8 | in the end (`run.rs`): without faults, everything comes to rest |

use crate::relay::Relay;
use crate::server::{Answer, Process};
use crate::truth::{LineId, Point};
use crate::world::World;
use rbuddy_core::control::action::{Action, ActionId, ServerCommand};
use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::control::event::{Node, ProbeResult};
use rbuddy_core::control::state::{DurableState, Role};
use rbuddy_core::control::status::{OperationResult, Phase};
use rbuddy_core::replication::history::Standing;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{Generation, NodeAddress, ReplId, RunId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// The promises that are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// A read gets a complete dataset or a clear error.
    P1,
    /// Nothing active and no last complete copy is emptied or resynced.
    P2,
    /// What is not proven rbuddy's own is not emptied.
    P3,
    /// Only a complete and plausible dataset is promoted.
    P4,
    /// What backlogs cover costs no full resync.
    P5,
    /// No snapshot is taken that is there already.
    P6,
    /// A crash costs nothing: what is acted on is on disk, and afterwards it goes on where it was.
    P7,
    /// Without faults everything comes to rest, soon.
    P8,
    /// Nothing that readers have takes writes; an emptied replica answers no reads.
    P9,
    /// No reader goes back, and the generation never falls.
    P10,
    /// Every notification is delivered at least once.
    Told,
    /// The controller finds nothing in itself that contradicts its own invariants.
    Sound,
}

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Which.
    pub promise: Promise,
    /// When.
    pub at: Time,
    /// How.
    pub how: String,
}

/// What promises need to know of the past.
#[derive(Debug, Default)]
pub struct Ledger {
    /// The line that is written to now.
    pub primary_line: Option<LineId>,
    /// What the relay keeps of a stream: for nobody, and for who needs it.
    pub relay_keeps: (u64, u64),
    /// The highest generation that was published.
    pub generation: Generation,
    /// Keys of what was served last: what the next dataset is measured by.
    pub yardstick: Option<u64>,
    /// What each process had when it was first to be read, by the line that it goes back to: it stays what it is while others are measured.
    pub measured: BTreeSet<(RunId, LineId)>,
    /// Lines that an operator approved, by the line that they go back to.
    pub approved: BTreeSet<LineId>,
    /// Replicas that an operator adopted.
    pub adopted: BTreeSet<NodeAddress>,
    /// What the operator asked for last: it counts as soon as it is said, unless the answer is no.
    pub asked: Option<Asked>,
    /// Notifications that were written down, and those that were delivered.
    pub owed: BTreeSet<u64>,
    /// The latter.
    pub delivered: BTreeSet<u64>,
    /// The latest command to each replica.
    pub under_way: BTreeMap<NodeAddress, (u32, ActionId)>,
    /// What line each id was seen with.
    pub lines: BTreeMap<ReplId, LineId>,
    /// When each replica last had a complete dataset.
    pub complete_at: BTreeMap<NodeAddress, Time>,
    /// Since when each process is well.
    pub well_since: BTreeMap<RunId, Time>,
    /// Replicas that answered when they were looked at last.
    pub answers: BTreeSet<NodeAddress>,
    /// How often loading has killed each replica in this life of rbuddy, and when it last did; those that have loaded since do not count.
    pub killed: BTreeMap<NodeAddress, (u32, Time)>,
    /// A former primary came back: which of two histories is the older one is anybody's word.
    pub has_flapped: bool,
}

/// What an operator's yes means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// This line may be promoted.
    Approve(LineId),
    /// This replica may be emptied.
    Adopt(NodeAddress),
}

impl World {
    /// Notes a broken promise. The first one counts.
    pub fn broken(&mut self, promise: Promise, how: String) {
        self.tell(format!("BROKEN {promise}: {how}"));
        let at = self.now;
        self.verdict.get_or_insert(Broken { promise, at, how });
    }

    /// After everything that happens.
    pub fn check(&mut self) {
        for (at, server) in &self.servers {
            let Some(process) = &server.process else { continue };
            if process.hangs || process.loading.is_some() {
                self.ledger.well_since.remove(&process.run_id);
            } else {
                self.ledger.well_since.entry(process.run_id).or_insert(self.now);
                if let Some(data) = process.data {
                    self.ledger.lines.entry(process.replid).or_insert(data.line);
                    self.ledger.complete_at.insert(at.clone(), self.now);
                }
            }
        }
        let answers = self
            .servers
            .iter()
            .find(|(_, server)| server.process.as_ref().is_some_and(|process| process.is_emptied && process.answers_reads()));
        if let Some(at) = answers.map(|(at, _)| at.clone()) {
            self.broken(Promise::P9, format!("{at} was emptied and answers reads"));
        }
        let alarm = self.rbuddy.as_ref().filter(|rbuddy| rbuddy.controller.phase() == Phase::Alarm);
        if let Some(rbuddy) = alarm {
            let how = rbuddy.controller.status(self.now).explanation;
            self.broken(Promise::Sound, how);
        }
    }

    /// What an action follows from must be on disk.
    pub fn check_action(&mut self, action: &Action) {
        match action {
            Action::Assign(assignment) => {
                self.check_assignment(assignment);
            }
            Action::Server { replica, command: ServerCommand::Empty { run_id, .. }, .. } => {
                self.check_emptying_is_due(replica);
                let is_intended = self.role_on_disk(replica) == Role::Emptying { run_id: *run_id };
                if !is_intended {
                    self.broken(Promise::P7, format!("{replica} is to be emptied, and on disk it is {:?}", self.role_on_disk(replica)));
                }
            }
            Action::Orders(orders) => {
                let seeded = orders.permits.iter().filter(|(_, permit)| matches!(permit, Permit::Seed(_) | Permit::Auto));
                let wrong: Vec<_> = seeded
                    .map(|(replica, _)| (replica.clone(), self.role_on_disk(replica)))
                    .filter(|(_, role)| *role != Role::Standby)
                    .collect();
                for (replica, role) in wrong {
                    let promise = if role == Role::Active { Promise::P2 } else { Promise::P7 };
                    self.broken(promise, format!("{replica} may be seeded, and on disk it is {role:?}"));
                }
            }
            Action::Persist(state) => self.check_promotions(state),
            Action::Outbox(_) | Action::Server { .. } | Action::Look(_) | Action::Reply { .. } | Action::Story { .. } => {}
        }
    }

    /// What the state file says of it.
    pub fn role_on_disk(&self, replica: &NodeAddress) -> Role {
        self.disk.state.as_ref().map_or(Role::Unknown, |state| state.role(replica).clone())
    }

    fn check_assignment(&mut self, assignment: &Assignment) {
        let on_disk = self.disk.state.as_ref().map_or(Generation::default(), |state| state.generation);
        if assignment.generation < self.ledger.generation {
            self.broken(Promise::P10, format!("generation {} after {}", assignment.generation, self.ledger.generation));
        }
        self.ledger.generation = self.ledger.generation.max(assignment.generation);
        let unwritten = assignment.actives.iter().find(|active| self.role_on_disk(&active.address) != Role::Active);
        if let Some(active) = unwritten {
            self.broken(
                Promise::P7,
                format!("{} is to be read, and on disk it is {:?}", active.address, self.role_on_disk(&active.address)),
            );
        } else if assignment.generation != on_disk {
            self.broken(Promise::P7, format!("generation {} is published, on disk it is {on_disk}", assignment.generation));
        }
        // Old and new are read beside one another, those with the newest dataset first.
        let mut newest = None;
        for active in &assignment.actives {
            let process = self
                .server_at(&active.address)
                .filter(|process| process.run_id == active.run_id && process.master.as_ref() == Some(&self.policy.relay));
            let Some((data, run_id, keys)) = process.map(|process| (process.data, process.run_id, process.keys(&self.truth))) else {
                continue;
            };
            match data {
                None => self.broken(Promise::P4, format!("{} is to be read and holds nothing", active.address)),
                Some(data) => {
                    newest.get_or_insert(keys);
                    if self.ledger.measured.insert((run_id, self.truth.root(data.line))) {
                        self.check_plausible(&active.address, data);
                    }
                }
            }
        }
        self.ledger.yardstick = newest.or(self.ledger.yardstick);
    }

    fn check_plausible(&mut self, replica: &NodeAddress, data: Point) {
        let keys = self.truth.keys(data.line);
        let old = self.ledger.yardstick.unwrap_or(0);
        let is_shrunken = (old >= self.policy.guard.min_keys && keys * 2 < old) || (keys == 0 && old > 0);
        let root = self.truth.root(data.line);
        if is_shrunken && !self.ledger.approved.contains(&root) {
            self.broken(Promise::P4, format!("{replica} is to be read with {keys} keys, {old} were served before"));
        }
    }

    /// A replica loses what it holds: by a snapshot of the relay's, or emptied.
    pub fn check_loss(&mut self, at: &NodeAddress, how: &str) {
        let Some(process) = self.server_at(at).cloned() else { return };
        self.check_owned(at, &process, how);
        if self.role(at) == Role::Active {
            self.broken(Promise::P2, format!("{at} is active and {how}"));
        }
    }

    /// A replica is told to empty itself. Checked now: a command on its way cannot be called back.
    fn check_emptying_is_due(&mut self, at: &NodeAddress) {
        let is_complete = |other: &NodeAddress| self.ledger.complete_at.get(other).is_some_and(|seen| self.now.since(*seen) <= SIGHT);
        let others = self.policy.replicas.iter().filter(|other| *other != at && self.role(other) == Role::Active);
        // What lacks keys is no complete copy, if one is at hand.
        let is_spooled = self.rbuddy.as_ref().and_then(|rbuddy| rbuddy.relay.as_ref()).is_some_and(|relay| relay.spool.is_some());
        let holds_data = self.server_at(at).is_some_and(|process| process.data.is_some() && !(process.evicted.keys > 0 && is_spooled));
        if holds_data && !self.ledger.adopted.contains(at) && !others.clone().any(is_complete) {
            self.broken(Promise::P2, format!("{at} is to be emptied, and nobody else who serves has a complete dataset"));
        }
    }

    /// A replica was emptied by command.
    pub fn check_emptying(&mut self, at: &NodeAddress, before: Option<&Process>) {
        let Some(before) = before else { return };
        self.check_owned(at, before, "is emptied");
        if self.role(at) == Role::Active {
            self.broken(Promise::P2, format!("{at} is active and is emptied"));
        }
        // From here on it is an ordinary standby.
        self.ledger.adopted.remove(at);
    }

    /// P3: somebody else's data, and the primary itself, are nobody's to empty.
    fn check_owned(&mut self, at: &NodeAddress, process: &Process, how: &str) {
        let is_foreign = process.data.is_some_and(|data| self.truth.is_foreign(data.line));
        if is_foreign && !self.ledger.adopted.contains(at) {
            self.broken(Promise::P3, format!("{at} holds foreign data and {how}"));
        }
        if *at == self.primary_at {
            self.broken(Promise::P3, format!("{at} is the primary and {how}"));
        }
    }

    fn role(&self, replica: &NodeAddress) -> Role {
        let state = self.rbuddy.as_ref().map(|rbuddy| rbuddy.controller.state()).or(self.disk.state.as_ref());
        state.map_or(Role::Unknown, |state| state.role(replica).clone())
    }

    /// The relay is given a full resync on its main connection: no replica that serves could have gone on instead. Where most of them could not, as the
    /// primary has lost what they have, they need the new dataset in either case, and the primary pays for it once.
    pub fn check_full_resync(&mut self, relay: &Relay, primary: &Process) {
        let is_first = self.lives > 1 && relay.upstream.full_resyncs + relay.upstream.partial_resyncs == 0;
        let is_settled = |at: &NodeAddress| {
            let process = self.server_at(at)?;
            let since = self.ledger.well_since.get(&process.run_id)?;
            (self.now.since(*since) >= SIGHT && self.role(at) == Role::Active && process.master.is_some()).then_some(process)
        };
        let goes_on = |process: &Process| process.data.is_some() && matches!(primary.psync(Some(process.position())), Answer::Continue(_));
        let settled = self.policy.replicas.iter().filter_map(|at| Some((at, goes_on(is_settled(at)?))));
        let (could, could_not): (Vec<_>, Vec<_>) = settled.partition(|(_, goes_on)| *goes_on);
        let could_go_on = could.first().filter(|_| could.len() >= could_not.len()).map(|(at, _)| *at);
        if let Some(at) = could_go_on.filter(|_| !self.ledger.has_flapped).cloned() {
            let promise = if is_first { Promise::P7 } else { Promise::P5 };
            self.broken(promise, format!("the primary gives a full resync, and would have continued where {at} is"));
        }
    }

    /// A replica is about to be seeded: it could not have gone on.
    pub fn check_seeding(&mut self, relay: &Relay, at: &NodeAddress, process: &Process) {
        let Some((live, data)) = relay.live().zip(process.data) else { return };
        let is_covered = live.history.standing(process.position()) == Standing::Covered;
        if is_covered && self.truth.are_same(data, Point { line: live.line, offset: process.offset }) {
            self.broken(Promise::P5, format!("{at} is seeded, and could have gone on at {}", process.offset));
        }
    }

    /// The primary is about to fork for a snapshot over a second connection.
    pub fn check_snapshot(&mut self, relay: &Relay) {
        self.check_fork_is_worth_it();
        let Some((live, spool)) = relay.live().zip(relay.spool) else { return };
        if spool.key == live.key && live.history.standing(spool.dataset.0) == Standing::Covered {
            self.broken(Promise::P6, format!("a snapshot is taken, and {} is there", spool.dataset));
        }
    }

    /// A look at a server is back.
    pub fn note_answer(&mut self, node: &Node, result: &ProbeResult) {
        if let Node::Replica(at) = node {
            match result {
                ProbeResult::Answered(_) => self.ledger.answers.insert(at.clone()),
                ProbeResult::Failed(_) => self.ledger.answers.remove(at),
            };
        }
    }

    /// A state file is on disk.
    pub fn note_written(&mut self, state: &DurableState) {
        self.ledger.owed.extend(state.outbox.iter().map(|notification| notification.id));
    }

    /// An operator says a word that counts from here on.
    pub fn note_word(&mut self, word: Asked) {
        match word.clone() {
            Asked::Approve(line) => drop(self.ledger.approved.insert(line)),
            Asked::Adopt(replica) => drop(self.ledger.adopted.insert(replica)),
        }
        self.ledger.asked = Some(word);
    }

    /// An operator has an answer.
    pub fn answered(&mut self, request: u64, result: &OperationResult) {
        self.tell(format!("operator is told {result:?}"));
        if request != WORD {
            return;
        }
        match (self.ledger.asked.take(), result) {
            (Some(Asked::Approve(line)), Err(_)) => drop(self.ledger.approved.remove(&line)),
            (Some(Asked::Adopt(replica)), Err(_)) => drop(self.ledger.adopted.remove(&replica)),
            (Some(_), Ok(_)) | (None, _) => {}
        }
    }
}

impl fmt::Display for Promise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} broken at {}: {}", self.promise, self.at, self.how)
    }
}

/// Requests with this number are words that count; see [`Asked`].
pub const WORD: u64 = 2;
/// How old the controller's sight of a server may be: `dead_after`, and a probe that waited for its deadline.
pub const SIGHT: Duration = Duration::from_secs(4);
