//! What servers may take of memory, and what becomes of a dataset that needs more: at a limit (`maxmemory`) keys are evicted, and the process that needs more
//! than its machine has is killed while it loads. An evicted key is no write of any line: position and id stay what they were.
//!
//! Dice of their own throw all this, for some of the seeds: the others tell the stories that they told before. Operators give standbys too little; who serves
//! keeps what it has.

use crate::dice::Dice;
use crate::faults::Comeback;
use crate::promise::{Asked, Promise, SIGHT};
use crate::server::{Process, Saved, Server, leaves};
use crate::truth::{Point, Truth};
use crate::world::{Happening, World};
use rbuddy_core::control::drift::Settings;
use rbuddy_core::control::event::Probe;
use rbuddy_core::control::settings::{DriftGuard, FreezeMode};
use rbuddy_core::control::state::{DurableState, Role};
use rbuddy_core::control::status::Operation;
use rbuddy_core::types::{NodeAddress, Time};
use std::time::Duration;

/// What a server may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// `maxmemory`, where keys are evicted; none where there is none.
    pub limit: Option<u64>,
    /// `replica-ignore-maxmemory no`: it keeps to that as a replica too.
    pub is_kept_by_replica: bool,
    /// What the machine has; what needs more is killed.
    machine: Option<u64>,
    /// Since when all this is so.
    pub since: Time,
}

/// What a dataset lacks that its position says it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Evicted {
    /// So many keys.
    pub keys: u64,
    /// The limit that they fell to.
    pub under: u64,
    /// Since when they could be seen to fall, ...
    since: Time,
    /// ... and until when.
    until: Time,
}

impl Memory {
    /// What would be evicted of these keys.
    pub fn evicts(&self, keys: u64, is_detached: bool) -> Evicted {
        let limit = self.limit.filter(|_| is_detached || self.is_kept_by_replica);
        let under = limit.unwrap_or(u64::MAX);
        Evicted { keys: keys.saturating_sub(under / KEY), under, since: self.since, until: self.since }
    }

    fn has_room(&self, keys: u64) -> bool {
        self.machine.is_none_or(|bytes| keys * KEY <= bytes)
    }

    /// What `INFO` and, unless it loads, `CONFIG GET` tell of it.
    pub fn show(&self, probe: &mut Probe) {
        let policy = if self.limit.is_some() { "allkeys-lru" } else { "noeviction" };
        probe.info.max_memory = Some(self.limit.unwrap_or(0));
        probe.info.max_memory_policy = Some(policy.to_owned());
        probe.info.used_memory = Some(probe.info.keyspace.keys * KEY);
        let ignores_limit = Some(!self.is_kept_by_replica);
        probe.settings = (!probe.info.is_loading).then(|| Settings { ignores_limit, ..Settings::default() });
    }
}

impl Process {
    /// Keys that it holds.
    pub fn keys(&self, truth: &Truth) -> u64 {
        self.data.map_or(0, |data| truth.keys(data.line) - self.evicted.keys)
    }
}

impl World {
    /// Whether this run knows limits; if so, the first ones.
    pub fn begin_memory(&mut self, seed: u64) {
        let mut dice = Dice::new(seed ^ MEMORY);
        if seed % FAMILY < LIMITED_FROM || dice.one_in(2) {
            return;
        }
        if dice.one_in(6) {
            self.policy.guard.drift = DriftGuard::Warn;
        }
        // In some groups nobody spare has what it takes.
        let is_poor = dice.one_in(4);
        for server in self.servers.values_mut().filter(|server| server.process.as_ref().is_some_and(|process| process.data.is_none())) {
            if is_poor {
                server.memory = Memory { machine: Some(SMALL_MACHINE), since: self.now, ..Memory::default() };
            } else if dice.one_in(2) {
                server.memory = little(&mut dice, self.now);
            }
        }
        self.memory_dice = Some(dice);
    }

    /// What it holds is more than it may have.
    pub fn evict(&mut self, at: &NodeAddress) {
        let Some(Server { process: Some(process), memory, .. }) = self.servers.get_mut(at) else { return };
        let Some(data) = process.data.filter(|_| process.loading.is_none()) else { return };
        let lost = memory.evicts(self.truth.keys(data.line), process.master.is_none());
        let before = process.evicted;
        if lost.keys == 0 || lost.keys < before.keys {
            return;
        }
        // Nobody sees it who does not look.
        let is_seen =
            lost.keys == before.keys && self.now.since(before.until) < BREATHS && self.rbuddy.is_some() && !self.weather.disk_full;
        process.evicted = Evicted { since: if is_seen { before.since } else { self.now }, until: self.now, ..lost };
        process.evictions += lost.keys - before.keys;
        if lost.keys > before.keys {
            self.tell(format!("{at}: {} keys evicted, maxmemory is {}", lost.keys, lost.under));
        }
    }

    /// All of a dataset is to be in memory, and does not fit: the process is killed, and started again a while later.
    pub fn is_killed_by_loading(&mut self, at: &NodeAddress) -> bool {
        let Some(server) = self.servers.get_mut(at) else { return false };
        let Some(process) = &server.process else { return false };
        let Some(data) = process.loading.and_then(|loading| loading.data) else { return false };
        if server.memory.has_room(self.truth.keys(data.line)) {
            return false;
        }
        let Some(dice) = &mut self.memory_dice else { return false };
        // What arrived was written to its dump file, or only ever to its memory.
        let left = leaves(process);
        server.saved = if dice.one_in(2) { Some(left) } else { server.saved };
        server.process = None;
        let wait = dice.millis(200, 3000);
        let killed = self.ledger.killed.entry(at.clone()).or_default();
        *killed = (killed.0 + 1, self.now);
        self.tell(format!("{at}: killed, its machine has not the memory for what it loads"));
        self.after(wait, Happening::Respawn(at.clone()));
        true
    }

    /// Whoever starts processes there does so again.
    pub fn respawn(&mut self, at: &NodeAddress) {
        if self.servers.get(at).is_some_and(|server| server.process.is_none()) {
            self.restart(at, Comeback::Saved);
        }
    }

    /// What is left of a dump that a process could not load: somebody takes it away.
    pub fn loadable(&self, at: &NodeAddress, saved: Saved) -> Option<Saved> {
        let has_room = |data: Point| self.servers.get(at).is_none_or(|server| server.memory.has_room(self.truth.keys(data.line)));
        Some(saved).filter(|saved| saved.data.is_none_or(has_room))
    }

    /// An operator changes what a standby may take, and the next change is due.
    pub fn change_memory(&mut self) {
        if self.healed_at.is_some() {
            return;
        }
        let Some(mut dice) = self.memory_dice.take() else { return };
        let replicas = self.policy.replicas.clone();
        let at = dice.pick(&replicas);
        let is_standby = self.disk.state.as_ref().is_some_and(|state| *state.role(&at) == Role::Standby);
        match dice.below(8) {
            0..=3 if is_standby => {
                let how = dice.pick(&[Comeback::Whole, Comeback::Saved, Comeback::Empty]);
                self.set_memory(&at, little(&mut dice, self.now));
                self.restart(&at, how);
            }
            4 if is_standby => {
                // What its machine has no command changes.
                let machine = self.servers.get(&at).and_then(|server| server.memory.machine);
                self.set_memory(&at, Memory { machine, ..little(&mut dice, self.now) });
            }
            5 | 6 => self.set_memory(&at, Memory { since: self.now, ..Memory::default() }),
            7 => self.approve_hindered(),
            _ => {}
        }
        let wait = dice.millis(500, 5000);
        self.memory_dice = Some(dice);
        self.after(wait, Happening::Memory);
    }

    fn set_memory(&mut self, at: &NodeAddress, memory: Memory) {
        self.servers.get_mut(at).into_iter().for_each(|server| server.memory = memory);
        self.tell(format!("{at}: {memory:?}"));
    }

    fn approve_hindered(&mut self) {
        // A dataset that a guard refuses is another matter.
        let rbuddy = self.rbuddy.as_ref().filter(|rbuddy| rbuddy.controller.status(self.now).refusal.is_none());
        let live = rbuddy.and_then(|rbuddy| rbuddy.relay.as_ref()?.live().cloned());
        if let (Some(live), None) = (live, &self.ledger.asked)
            && let Some(dataset) = live.history.dataset
            && !self.ledger.approved.contains(&self.truth.root(live.line))
        {
            self.note_word(Asked::Approve(self.truth.root(live.line)));
            self.operate(Operation::Approve { dataset });
        }
    }

    /// P4, and P1 for those that are read: no standby is promoted that lacks keys, or soon will, while another serves that has the room for them. Nobody else:
    /// with nobody serving there is nothing to protect, where all have the same limit that is how the operator wants it, and an operator may say so
    /// (`docs/decisions/0013`).
    pub fn check_promotions(&mut self, state: &DurableState) {
        let is_promoted = |at: &&NodeAddress| *state.role(at) == Role::Active && self.role_on_disk(at) == Role::Standby;
        let promoted: Vec<NodeAddress> = self.policy.replicas.iter().filter(is_promoted).cloned().collect();
        for at in promoted {
            let Some(lacks) = self.lacks(&at).filter(|_| self.policy.guard.drift == DriftGuard::Refuse) else { continue };
            let serves = self.policy.replicas.iter().find(|other| **other != at && self.serves_more(other, state, lacks)).cloned();
            if let Some(other) = serves {
                let Evicted { keys, under, .. } = lacks;
                self.broken(Promise::P4, format!("{at} is promoted without {keys} keys, as it had {under} bytes, and {other} serves"));
            }
        }
    }

    /// What this replica has lost, or would lose, for long enough to be seen. Nothing where an operator has approved it.
    fn lacks(&self, at: &NodeAddress) -> Option<Evicted> {
        let Server { process: Some(process), memory, .. } = self.servers.get(at)? else { return None };
        let line = process.data.filter(|data| !self.ledger.approved.contains(&self.truth.root(data.line)))?.line;
        let to_come = memory.evicts(self.truth.keys(line), self.policy.freeze == FreezeMode::Detach);
        let is_seen = |lacks: &Evicted| lacks.keys > 0 && lacks.until.since(lacks.since) >= SIGHT;
        [Evicted { until: self.now, ..to_come }, process.evicted].into_iter().find(is_seen)
    }

    /// It is read, whole, and may hold more than fits under that limit.
    fn serves_more(&self, at: &NodeAddress, state: &DurableState, lacks: Evicted) -> bool {
        let Some(Server { process: Some(process), memory, .. }) = self.servers.get(at) else { return false };
        let is_judged = state.replicas.get(at).is_some_and(|record| record.run_id == Some(process.run_id));
        let is_well = self.ledger.well_since.get(&process.run_id).is_some_and(|since| self.now.since(*since) >= SIGHT);
        let is_whole = process.data.is_some() && process.evicted.keys == 0;
        let is_read =
            self.role_on_disk(at) == Role::Active && process.master.as_ref() == Some(&self.policy.relay) && process.answers_reads();
        let is_seen = self.ledger.answers.contains(at);
        is_judged && is_well && is_seen && is_whole && is_read && memory.limit.is_none_or(|limit| limit > lacks.under)
    }

    /// P6: no fork for those alone whom loading has killed again and again, and only just now.
    pub fn check_fork_is_worth_it(&mut self) {
        let is_in_vain = |at: &NodeAddress| {
            self.ledger.killed.get(at).is_some_and(|(times, last)| *times >= KILLED_OFTEN && self.now.since(*last) < KILLED_LATELY)
        };
        let mut standbys = self.policy.replicas.iter().filter(|at| self.role_on_disk(at) == Role::Standby && self.server_at(at).is_some());
        let Some(first) = standbys.next().filter(|first| is_in_vain(first)).cloned() else { return };
        if standbys.all(is_in_vain) {
            self.broken(Promise::P6, format!("a snapshot is taken for {first}, which loading has killed {KILLED_OFTEN} times"));
        }
    }

    /// Operators have mended everything.
    pub fn mend_memory(&mut self) {
        let now = self.now;
        self.servers.values_mut().for_each(|server| server.memory = Memory { since: now, ..Memory::default() });
    }
}

/// Too little for some of the datasets, mostly.
fn little(dice: &mut Dice, since: Time) -> Memory {
    let limit = Some(KEY * dice.pick(&[1_000, 20_000, 60_000, 95_000, 200_000]));
    match dice.below(4) {
        0 => Memory { limit: None, is_kept_by_replica: false, machine: Some(dice.pick(&[SMALL_MACHINE, KEY * 50_000])), since },
        1 => Memory { limit, is_kept_by_replica: false, machine: None, since },
        _ => Memory { limit, is_kept_by_replica: true, machine: None, since },
    }
}

/// A server that breathes does so more often.
const BREATHS: Duration = Duration::from_secs(1);
/// So many deaths of loading are no accident.
const KILLED_OFTEN: u32 = 3;
/// Who died before that may have been given what it needs.
const KILLED_LATELY: Duration = Duration::from_secs(10);
/// What a key takes, in bytes.
const KEY: u64 = 100;
/// No dataset fits there.
const SMALL_MACHINE: u64 = KEY * 8_000;
/// Of each million of seeds those from here on know limits.
pub const LIMITED_FROM: u64 = 100_000;
const FAMILY: u64 = 1_000_000;
/// Makes other dice of a seed than it is for everything else.
const MEMORY: u64 = 0x6d65_6d6f_7279;
