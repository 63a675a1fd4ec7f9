//! One run: a group and its faults from a seed, a quiet beginning, faults, and then everything must come to rest by itself.

use crate::dice::Dice;
use crate::faults::{HELP_EVERY, follows};
use crate::memory::Memory;
use crate::mutant::Mutant;
use crate::promise::{Broken, Promise};
use crate::reader::Reader;
use crate::server::{Link, Process, Server};
use crate::truth::Point;
use crate::world::{Happening, OTHER_PRIMARY, PRIMARY, RELAY, World, address};
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::settings::{Consistency, FreezeMode, GroupPolicy, Guard, MaxLag, SnapshotFrom, StandbyMode};
use rbuddy_core::control::status::Phase;
use rbuddy_core::types::NodeAddress;
use std::time::Duration;

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// The first promise that was broken.
    pub broken: Option<Broken>,
    /// What happened, if that was wanted.
    pub trace: Vec<String>,
}

/// Runs a seed.
pub fn run(seed: u64, mutant: Option<Mutant>, with_trace: bool) -> Report {
    let mut world = begin(seed, mutant);
    world.trace = with_trace.then(Vec::new);
    let group = format!("seed {seed}: {:?}", world.policy);
    world.tell(group);
    world.after(Duration::ZERO, Happening::Start);
    let end = world.now.after(QUIET_MAX);
    let is_begun = |world: &World| world.is_at_rest();
    while world.verdict.is_none() && !is_begun(&world) && world.step() {
        if world.now > end {
            world.broken(Promise::P8, format!("does not begin: {}", world.explain()));
        }
    }
    world.after(Duration::ZERO, Happening::Fault);
    if world.memory_dice.is_some() {
        world.after(Duration::from_millis(1), Happening::Memory);
    }
    while world.verdict.is_none() && world.healed_at.is_none() && world.step() {}
    converge(&mut world);
    Report { broken: world.verdict, trace: world.trace.unwrap_or_default() }
}

/// From this seed on operators take servers out and back in, and groups may switch at once. (Seeds below tell the stories that they told before.)
pub const MAINTAINED_FROM: u64 = 1_000_000;

/// Without faults: rest, and rest that lasts.
fn converge(world: &mut World) {
    let (end, mut help_at, mut rests_since) = (world.now.after(REST_MAX), world.now, None);
    while world.verdict.is_none() && world.step() {
        if world.now >= help_at {
            help_at = world.now.after(HELP_EVERY);
            world.help();
        }
        if world.is_at_rest() && world.ledger.owed.is_subset(&world.ledger.delivered) {
            let since = *rests_since.get_or_insert(world.now);
            if world.now.since(since) >= REST_LASTS {
                return;
            }
        } else {
            rests_since = None;
        }
        if world.now > end {
            let is_told = world.ledger.owed.is_subset(&world.ledger.delivered);
            let (promise, what) = match (world.is_at_rest(), is_told) {
                (true, false) => (Promise::Told, "a notification was never delivered".to_owned()),
                _ => (Promise::P8, world.explain()),
            };
            world.broken(promise, what);
        }
    }
}

fn begin(seed: u64, mutant: Option<Mutant>) -> World {
    let mut dice = Dice::new(seed);
    let mut policy = policy(&mut dice);
    let is_maintained = seed >= MAINTAINED_FROM;
    if is_maintained && policy.standby == StandbyMode::Empty && policy.replicas.len() >= 2 * policy.actives && dice.one_in(2) {
        policy.consistency = Consistency::Atomic;
    }
    policy.max_unavailable = if seed.is_multiple_of(2) { 1 } else { 2 };
    let full = match policy.standby {
        StandbyMode::Warm => policy.replicas.len(),
        StandbyMode::Empty => policy.actives,
    };
    let mut world = World::new(dice, policy, mutant);
    world.is_maintained = is_maintained;
    world.faults_left = 3 + world.dice.below(12);
    world.ledger.relay_keeps = world.dice.pick(&[(300, 1200), (800, 3000), (100_000, 100_000)]);
    let line = world.truth.begin(100_000, false);
    let primary = world.new_process(Some(Point { line, offset: 1000 }));
    world.ledger.primary_line = Some(line);
    let replicas = world.policy.replicas.clone();
    for (number, at) in replicas.iter().enumerate() {
        let mut process = world.new_process(None);
        let mut file = (None, true);
        if number < full {
            (process.replid, process.offset, process.data) = (primary.replid, primary.offset, primary.data);
            (process.backlog_from, process.link, process.master) = (primary.offset, Link::Up, Some(address(PRIMARY)));
            file.0 = Some(address(PRIMARY));
        }
        world.servers.insert(at.clone(), Server { process: Some(process), file, saved: None, memory: Memory::default() });
    }
    world.servers.insert(address(PRIMARY), Server { process: Some(primary), file: (None, true), saved: None, memory: Memory::default() });
    world.servers.insert(address(OTHER_PRIMARY), Server { process: None, file: (None, true), saved: None, memory: Memory::default() });
    world.begin_memory(seed);
    for at in world.servers.keys().cloned().collect::<Vec<NodeAddress>>() {
        world.after(Duration::from_millis(1), Happening::Server(at));
    }
    for (index, (is_direct, is_pinned)) in [(false, false), (false, false), (false, true), (true, false)].into_iter().enumerate() {
        world.readers.push(Reader::new(is_direct, is_pinned, Dice::new(seed ^ (index as u64 + 1))));
        world.after(Duration::from_millis(5), Happening::Read(index));
    }
    world
}

fn policy(dice: &mut Dice) -> GroupPolicy {
    let standby = if dice.one_in(4) { StandbyMode::Warm } else { StandbyMode::Empty };
    let replicas = 2 + dice.below(if standby == StandbyMode::Warm { 3 } else { 4 });
    let ports = [6380, 6381, 6383, 6384, 6385];
    GroupPolicy {
        group: "main".parse().expect("a name"),
        primary: if dice.one_in(3) { PrimaryAt::Named("mymaster".into()) } else { PrimaryAt::Fixed(address(PRIMARY)) },
        replicas: ports.into_iter().map(address).take(usize::try_from(replicas).expect("a few")).collect(),
        actives: if replicas > 3 { 2 + usize::try_from(dice.below(2)).expect("one or two") } else { 1 },
        relay: address(RELAY),
        standby,
        consistency: Consistency::Rolling,
        max_unavailable: 1,
        freeze: if standby == StandbyMode::Empty && dice.one_in(4) { FreezeMode::Detach } else { FreezeMode::Hold },
        drain: Duration::from_secs(2),
        max_lag: MaxLag::default(),
        guard: Guard::default(),
        dead_after: Duration::from_secs(1),
        snapshot_from: if dice.one_in(4) { SnapshotFrom::Replica } else { SnapshotFrom::Primary },
        notify: vec!["http://one/".into()],
    }
}

impl World {
    /// At least as many replicas as should serve do so with the primary's dataset (nobody empties more than an operator says), and the others are empty.
    pub fn is_at_rest(&self) -> bool {
        let Some(rbuddy) = &self.rbuddy else { return false };
        let Some(assignment) = rbuddy.assignment.as_ref().filter(|_| rbuddy.controller.phase() == Phase::Normal) else { return false };
        let Some(primary) = self.server_at(&self.primary_at) else { return false };
        let wanted = match self.policy.standby {
            StandbyMode::Warm => self.policy.replicas.len(),
            StandbyMode::Empty => self.policy.actives,
        };
        let is_active = |at: &NodeAddress| assignment.actives.iter().any(|active| active.address == *at);
        assignment.actives.len() >= wanted
            && self.policy.replicas.iter().all(|at| {
                let behind_relay = self.server_at(at).filter(|process| process.master.as_ref() == Some(&self.policy.relay));
                behind_relay.is_some_and(|process| {
                    if is_active(at) { follows(process, primary) } else { self.is_empty(process) && !process.answers_reads() }
                })
            })
    }

    fn is_empty(&self, process: &Process) -> bool {
        process.data.is_none_or(|data| self.truth.keys(data.line) == 0)
    }

    fn explain(&self) -> String {
        let Some(rbuddy) = &self.rbuddy else { return "rbuddy does not run".to_owned() };
        let status = rbuddy.controller.status(self.now);
        let shape = |at: &NodeAddress| {
            self.server_at(at).map(|process| (process.data, process.link, process.replid, process.serves_stale, process.master.is_some()))
        };
        let roles: Vec<String> = status
            .replicas
            .iter()
            .map(|replica| format!("{} {} {:?}", replica.address.port, replica.role, shape(&replica.address)))
            .collect();
        format!("{}: {} ({})", status.phase, status.explanation, roles.join(", "))
    }
}

/// How long a healthy group may take to begin.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// How long everything may take to come to rest when nothing breaks any more.
const REST_MAX: Duration = Duration::from_secs(240);
/// How long rest must last to be believed.
const REST_LASTS: Duration = Duration::from_secs(2);
