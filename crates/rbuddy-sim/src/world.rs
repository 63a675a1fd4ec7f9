//! The world of one run: a clock, a queue of what happens next, servers, one rbuddy, readers. Everything happens at a moment and in an order that the seed
//! fixes; every promise is checked after everything that happens.
//!
//! What has an inside of its own acts when it *breathes*, every now and then; messages between them take time of their own.

use crate::dice::Dice;
use crate::mutant::Mutant;
use crate::promise::{Broken, Ledger};
use crate::rbuddy::{Disk, Rbuddy};
use crate::reader::Reader;
use crate::relay::Relay;
use crate::server::{Process, Server, offset};
use crate::truth::{LineId, Point, Truth};
use rbuddy_core::control::action::{ActionId, Outcome, ServerCommand};
use rbuddy_core::control::event::{Node, ProbeResult};
use rbuddy_core::control::settings::GroupPolicy;
use rbuddy_core::types::{NodeAddress, Position, ReplId, RunId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One run.
#[derive(Debug)]
pub struct World {
    /// The clock.
    pub now: Time,
    queue: BTreeMap<(Time, u64), Happening>,
    queued: u64,
    /// Chance.
    pub dice: Dice,
    /// Chance in matters of memory; none in runs where everybody has enough.
    pub memory_dice: Option<Dice>,
    /// A deliberate break of rbuddy.
    pub mutant: Option<Mutant>,
    /// What datasets really hold.
    pub truth: Truth,
    /// The group.
    pub policy: GroupPolicy,
    /// Its operator takes servers out and back in.
    pub is_maintained: bool,
    /// All servers: primaries and replicas.
    pub servers: BTreeMap<NodeAddress, Server>,
    /// Who takes the writes.
    pub primary_at: NodeAddress,
    /// A primary that was replaced, and may come back as it was.
    pub former: Option<Process>,
    /// What does not work at the moment.
    pub weather: Weather,
    /// rbuddy, while it runs.
    pub rbuddy: Option<Rbuddy>,
    /// How often it was started.
    pub lives: u32,
    /// What outlives it.
    pub disk: Disk,
    /// Applications.
    pub readers: Vec<Reader>,
    /// What promises need to know of the past.
    pub ledger: Ledger,
    /// The first broken promise.
    pub verdict: Option<Broken>,
    /// What happened, in words.
    pub trace: Option<Vec<String>>,
    /// So many things break still.
    pub faults_left: u64,
    /// Since when nothing breaks any more.
    pub healed_at: Option<Time>,
    ids: u64,
}

/// What does not work at the moment.
#[derive(Debug, Clone, Default)]
pub struct Weather {
    /// No connection from the relay to the primary.
    pub upstream_cut: bool,
    /// No connection from these replicas to the relay.
    pub downstream_cut: BTreeSet<NodeAddress>,
    /// Snapshots and the state file cannot be written.
    pub disk_full: bool,
    /// Everything takes its time.
    pub slow: bool,
    /// How commands end.
    pub fate: Fate,
    /// Nobody writes.
    pub quiet: bool,
}

/// How commands end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    /// As they should.
    #[default]
    Told,
    /// Carried out, and nobody learns it.
    DoneUnknown,
    /// Lost, and nobody learns it.
    LostUnknown,
    /// Carried out long after everybody has given up waiting.
    Late,
}

/// What can happen.
#[derive(Debug, Clone)]
pub enum Happening {
    /// A server acts.
    Server(NodeAddress),
    /// A command of this life of rbuddy reaches its server.
    Command(u32, ActionId, NodeAddress, ServerCommand),
    /// A receiver took a notification from this life.
    Delivered(u32, u64),
    /// Sentinels say where the primary is.
    Sentinels,
    /// An application reads.
    Read(usize),
    /// Something breaks, or an operator does something.
    Fault,
    /// An operator changes what a server may take of memory.
    Memory,
    /// A process that was killed is started again.
    Respawn(NodeAddress),
    /// rbuddy is started.
    Start,
    /// Something within this life; when that is over it does not happen.
    Inside(u32, Inside),
}

/// What can happen within a life of rbuddy.
#[derive(Debug, Clone)]
pub enum Inside {
    /// The relay's upstream link acts.
    Upstream,
    /// The relay's snapshots on demand.
    Snapshotter,
    /// The controller hears that there is a newer view of the relay.
    View,
    /// A look at a server sets out, ...
    ProbeBegins(Node),
    /// ... is answered there, ...
    ProbeMeets(Node, Time),
    /// ... and is back.
    ProbeArrives(Node, Time, ProbeResult),
    /// The outcome of a command is known.
    Outcome(ActionId, Outcome),
    /// The state file is on disk.
    Written,
    /// The controller asked to be woken.
    Tick(u64),
}

impl World {
    /// A world at its first moment, without servers.
    pub fn new(dice: Dice, policy: GroupPolicy, mutant: Option<Mutant>) -> World {
        World {
            now: Time::from_unix_ms(1_000_000),
            queue: BTreeMap::new(),
            queued: 0,
            dice,
            memory_dice: None,
            mutant,
            truth: Truth::default(),
            policy,
            is_maintained: false,
            servers: BTreeMap::new(),
            primary_at: address(PRIMARY),
            former: None,
            weather: Weather::default(),
            rbuddy: None,
            lives: 0,
            disk: Disk::default(),
            readers: Vec::new(),
            ledger: Ledger::default(),
            verdict: None,
            trace: None,
            faults_left: 0,
            healed_at: None,
            ids: 0,
        }
    }

    /// Something is to happen later.
    pub fn after(&mut self, wait: Duration, what: Happening) {
        self.queued += 1;
        self.queue.insert((self.now.after(wait), self.queued), what);
    }

    /// The next thing happens. False: nothing ever will.
    pub fn step(&mut self) -> bool {
        let Some(((at, _), what)) = self.queue.pop_first() else { return false };
        self.now = at;
        self.happen(what);
        self.check();
        true
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Server(at) => {
                self.breathe_server(&at);
                let wait = self.dice.millis(60, 140);
                self.after(wait, Happening::Server(at));
            }
            Happening::Command(life, id, replica, command) => self.command_arrives(life, id, &replica, command),
            Happening::Sentinels => self.sentinels_speak(),
            Happening::Read(reader) => {
                self.read(reader);
                let wait = self.dice.millis(100, 400);
                self.after(wait, Happening::Read(reader));
            }
            Happening::Fault => self.break_something(),
            Happening::Memory => self.change_memory(),
            Happening::Respawn(at) => self.respawn(&at),
            Happening::Start => self.start_rbuddy(),
            Happening::Delivered(life, id) => self.delivered(life, id),
            Happening::Inside(life, what) if self.rbuddy.is_some() && self.lives == life => self.live(life, what),
            Happening::Inside(..) => {}
        }
    }

    /// A line of the trace.
    pub fn tell(&mut self, text: impl Into<String>) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{now} {}", text.into()));
        }
    }

    /// A server's process, if it runs.
    pub fn server_at(&self, at: &NodeAddress) -> Option<&Process> {
        self.servers.get(at)?.process.as_ref()
    }

    /// The same, to change it.
    pub fn process_mut(&mut self, at: &NodeAddress) -> Option<&mut Process> {
        self.servers.get_mut(at)?.process.as_mut()
    }

    /// The relay acts: it is out of rbuddy's hands for that long.
    pub fn take_relay(&mut self) -> Option<Relay> {
        self.rbuddy.as_mut()?.relay.take()
    }

    /// It is back, and may have changed.
    pub fn put_relay(&mut self, relay: Relay) {
        if let Some(rbuddy) = &mut self.rbuddy {
            rbuddy.relay = Some(relay);
        }
        self.publish_view();
    }

    /// Does something with the relay, if there is one.
    pub fn with_relay(&mut self, act: impl FnOnce(&mut World, &mut Relay)) {
        if let Some(mut relay) = self.take_relay() {
            act(self, &mut relay);
            self.put_relay(relay);
        }
    }

    /// The line that is written to now.
    pub fn primary_line(&self) -> LineId {
        self.ledger.primary_line.expect("a run begins with a primary")
    }

    /// An id that nobody had before. It differs from others in the eight digits that are shown.
    pub fn new_replid(&mut self) -> ReplId {
        self.ids += 1;
        format!("{:08x}{:032x}", 0xa000_0000_u64 + self.ids, 0).parse().expect("40 digits")
    }

    /// A process id that nobody had before.
    pub fn new_run_id(&mut self) -> RunId {
        self.ids += 1;
        format!("{:08x}{:032x}", self.ids, 0).parse().expect("40 digits")
    }

    /// A process with the first write of a line.
    pub fn new_process(&mut self, data: Option<Point>) -> Process {
        let (run_id, replid) = (self.new_run_id(), self.new_replid());
        Process::new(run_id, Position::new(replid, offset(data.map_or(0, |data| data.offset))), data)
    }
}

/// A server of the model.
pub fn address(port: u16) -> NodeAddress {
    NodeAddress::new("127.0.0.1", port)
}

/// Where the primary is at first.
pub const PRIMARY: u16 = 6379;
/// Where it may move to.
pub const OTHER_PRIMARY: u16 = 6378;
/// The relay.
pub const RELAY: u16 = 6382;
