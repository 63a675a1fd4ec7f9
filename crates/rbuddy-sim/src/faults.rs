//! What breaks, and what operators do at bad moments. Each fault is one throw of the dice; its end is another one, or the end of all faults.

use crate::memory::Evicted;
use crate::promise::Asked;
use crate::server::{Link, Loading, Process, Saved, leaves, offset};
use crate::truth::Point;
use crate::world::{Fate, Happening, OTHER_PRIMARY, PRIMARY, Weather, World, address};
use rbuddy_core::control::state::Role;
use rbuddy_core::control::status::Operation;
use rbuddy_core::types::{NodeAddress, Position};
use std::time::Duration;

/// How a server comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comeback {
    /// With all it had.
    Whole,
    /// Without its last writes.
    Older,
    /// With whatever it saved some time ago.
    Saved,
    /// With nothing.
    Empty,
    /// As somebody else's server.
    Foreign,
}

impl World {
    /// One fault, and the next one is due.
    pub fn break_something(&mut self) {
        if self.faults_left == 0 {
            return self.heal();
        }
        self.faults_left -= 1;
        let replica = self.any_replica();
        match self.dice.below(25) {
            0 | 1 => self.stop_server(&replica),
            2..=4 => {
                let how = [Comeback::Whole, Comeback::Whole, Comeback::Older, Comeback::Saved, Comeback::Empty, Comeback::Foreign];
                let how = self.dice.pick(&how);
                self.restart(&replica, how);
            }
            5 => self.toggle_hang(&replica),
            6 => self.save(&replica),
            7 => {
                let primary = self.primary_at.clone();
                self.toggle_hang(&primary);
            }
            8 | 9 => self.weather.upstream_cut ^= true,
            10 => {
                if !self.weather.downstream_cut.remove(&replica) {
                    self.weather.downstream_cut.insert(replica);
                }
            }
            11..=13 => self.change_primary(),
            14..=16 => {
                let actions = self.dice.below(12);
                self.rbuddy.iter_mut().for_each(|rbuddy| rbuddy.actions_left = Some(actions));
            }
            17 => self.kill_rbuddy(),
            18 => self.weather.fate = self.dice.pick(&[Fate::Told, Fate::DoneUnknown, Fate::LostUnknown, Fate::Late]),
            19 => self.weather.disk_full ^= true,
            20 => self.weather.slow ^= true,
            _ => self.press_a_button(),
        }
        let weather = format!("weather: {:?}", self.weather);
        self.tell(weather);
        let wait = if self.dice.one_in(4) { self.dice.millis(10, 300) } else { self.dice.millis(300, 7000) };
        self.after(wait, Happening::Fault);
    }

    fn any_replica(&mut self) -> NodeAddress {
        let replicas = self.policy.replicas.clone();
        self.dice.pick(&replicas)
    }

    fn stop_server(&mut self, at: &NodeAddress) {
        if let Some(server) = self.servers.get_mut(at)
            && let Some(process) = server.process.take()
        {
            server.saved = Some(leaves(&process));
            self.tell(format!("{at} dies"));
        }
    }

    fn save(&mut self, at: &NodeAddress) {
        if let Some(server) = self.servers.get_mut(at)
            && let Some(process) = server.process.as_ref().filter(|process| process.loading.is_none())
        {
            server.saved = Some(leaves(process));
        }
    }

    fn toggle_hang(&mut self, at: &NodeAddress) {
        let Some(process) = self.process_mut(at) else { return };
        process.hangs ^= true;
        let stuck = if process.hangs { Vec::new() } else { std::mem::take(&mut process.stuck) };
        let word = if process.hangs { "hangs" } else { "goes on" };
        self.tell(format!("{at} {word}"));
        for command in stuck {
            self.meet_command(at, &command);
        }
    }

    /// A replica is another process from now on.
    pub fn restart(&mut self, at: &NodeAddress, how: Comeback) {
        let (new_run, new_id, lost) = (self.new_run_id(), self.new_replid(), 1 + self.dice.below(80));
        let forgets = self.dice.one_in(4);
        let loads = self.dice.millis(50, 2000);
        let foreign = if how == Comeback::Foreign { Some(self.truth.begin(5_000, true)) } else { None };
        let until = self.now.after(loads);
        let Some(server) = self.servers.get(at) else { return };
        let at_death = server.process.as_ref().map(leaves).or(server.saved);
        let nothing = Saved { data: None, evicted: Evicted::default(), position: Position::new(new_id, offset(0)) };
        let found = match how {
            Comeback::Whole => at_death.unwrap_or(nothing),
            Comeback::Saved => server.saved.unwrap_or(nothing),
            Comeback::Older => at_death.map_or(nothing, |saved| older(saved, lost)),
            Comeback::Empty => nothing,
            Comeback::Foreign => {
                Saved { data: foreign.map(|line| Point { line, offset: 100 }), position: Position::new(new_id, offset(100)), ..nothing }
            }
        };
        let found = self.loadable(at, found).unwrap_or(nothing);
        let Some(server) = self.servers.get_mut(at) else { return };
        let is_replica = server.file.0.is_some() && !(forgets || how == Comeback::Foreign);
        let mut process = Process::new(new_run, found.position, found.data);
        process.evicted = found.evicted;
        if is_replica {
            (process.master, process.serves_stale) = server.file.clone();
            process.data = None;
            process.loading = Some(Loading { until, data: found.data, evicted: found.evicted, position: found.position });
        } else if found.data.is_some() {
            process.take_id(new_id);
        }
        server.process = Some(process);
        self.with_relay(|world, relay| relay.end_session(world.now, at, "the replica closed the connection"));
        self.tell(format!("{at} restarts, {how:?}, as replica: {is_replica}"));
    }

    fn change_primary(&mut self) {
        match self.dice.below(8) {
            0 | 1 => self.replace_primary(100_000),
            2 => self.replace_primary(10_000),
            3 => self.replace_primary(0),
            4 => self.fork_primary(0),
            5 => {
                let lost = 1 + self.dice.below(80);
                self.fork_primary(lost);
            }
            6 => self.move_primary(),
            _ => self.bring_former_back(),
        }
    }

    /// Another history begins at the primary's address.
    pub fn replace_primary(&mut self, keys: u64) {
        let line = self.truth.begin(keys, false);
        let begin = self.dice.below(3000);
        let process = self.new_process(Some(Point { line, offset: begin }));
        let at = self.primary_at.clone();
        self.install_primary(&at, process);
        self.tell(format!("{at}: another primary with {keys} keys"));
    }

    /// The primary restarts with what it had, or without the last of it: a new id, the old one as its second.
    fn fork_primary(&mut self, lost: u64) {
        let at = self.primary_at.clone();
        if let Some(process) = self.heir(lost) {
            self.install_primary(&at, process);
            self.tell(format!("{at}: the primary restarts without its last {lost} bytes"));
        }
    }

    /// What a replica of the primary would be after its promotion.
    fn heir(&mut self, lost: u64) -> Option<Process> {
        let old = self.server_at(&self.primary_at)?.clone();
        let end = old.offset.saturating_sub(lost).max(old.backlog_from);
        let fork = Point { line: old.line(), offset: end };
        let line = self.truth.fork(fork);
        let mut process = self.new_process(Some(Point { line, offset: end }));
        process.replid2 = Some((old.replid, end));
        process.backlog_from = if self.dice.one_in(3) { end } else { old.backlog_from };
        Some(process)
    }

    /// A failover of the primary: its heir is elsewhere, and its Sentinels or an operator say so a while later.
    fn move_primary(&mut self) {
        let lost = self.dice.below(60);
        let Some(process) = self.heir(lost) else { return };
        self.servers.get_mut(&self.primary_at.clone()).into_iter().for_each(|server| server.process = None);
        let to = if self.primary_at == address(PRIMARY) { address(OTHER_PRIMARY) } else { address(PRIMARY) };
        self.install_primary(&to, process);
        self.tell(format!("the primary moves to {to}, without its last {lost} bytes"));
        let wait = self.dice.millis(100, 3000);
        self.after(wait, Happening::Sentinels);
    }

    fn bring_former_back(&mut self) {
        if let Some(former) = self.former.take() {
            let at = self.primary_at.clone();
            self.install_primary(&at, former);
            self.ledger.has_flapped = true;
            self.tell(format!("{at}: the primary before is back"));
        }
    }

    fn install_primary(&mut self, at: &NodeAddress, process: Process) {
        self.ledger.primary_line = Some(process.line());
        let old = self.servers.get_mut(at).and_then(|server| server.process.replace(process));
        self.former = old.or(self.former.take());
        self.primary_at = at.clone();
    }

    fn press_a_button(&mut self) {
        let replica = self.any_replica();
        if self.is_maintained && self.dice.one_in(2) {
            let operation = if self.dice.one_in(2) { Operation::Drain { replica } } else { Operation::Return { replica } };
            return self.operate(operation);
        }
        match self.dice.below(6) {
            0 => self.operate(Operation::Pause),
            1 => self.operate(Operation::Resume),
            2 => self.adopt(replica),
            3 => self.approve(),
            4 => self.name_primary(),
            _ => self.operate(Operation::Failover),
        }
    }

    fn adopt(&mut self, replica: NodeAddress) {
        if self.ledger.asked.is_some() || self.rbuddy.is_none() {
            // One word at a time, and to somebody who hears it.
            return;
        }
        self.note_word(Asked::Adopt(replica.clone()));
        self.operate(Operation::Adopt { replica });
    }

    fn approve(&mut self) {
        let refusal = self.rbuddy.as_ref().and_then(|rbuddy| rbuddy.controller.status(self.now).refusal);
        let line = self.rbuddy.as_ref().and_then(|rbuddy| Some(rbuddy.relay.as_ref()?.live()?.line));
        if let (Some(refusal), Some(line), None) = (refusal, line, &self.ledger.asked) {
            self.note_word(Asked::Approve(self.truth.root(line)));
            self.operate(Operation::Approve { dataset: refusal.dataset });
        }
    }

    fn name_primary(&mut self) {
        let address = self.primary_at.clone();
        self.operate(Operation::SetPrimary { address });
    }

    /// No more faults.
    fn heal(&mut self) {
        self.tell("no more faults".to_owned());
        self.weather = Weather::default();
        self.mend_memory();
        self.healed_at = Some(self.now);
        for at in self.servers.keys().cloned().collect::<Vec<_>>() {
            let is_replica = self.policy.replicas.contains(&at);
            match self.server_at(&at) {
                Some(process) if process.hangs => self.toggle_hang(&at),
                None if is_replica => self.restart(&at, Comeback::Whole),
                Some(_) | None => {}
            }
        }
        let is_whole = self.server_at(&self.primary_at).is_some_and(|primary| self.truth.keys(primary.line()) >= 100_000);
        if !is_whole {
            self.replace_primary(100_000);
        }
        self.help();
    }

    /// What a sensible operator does when everything runs again.
    pub fn help(&mut self) {
        let Some(rbuddy) = &self.rbuddy else { return };
        let (state, replicas) = (rbuddy.controller.state().clone(), self.policy.replicas.clone());
        if state.paused {
            self.operate(Operation::Resume);
        }
        let knows_primary = state.primary.as_ref().map(|found| &found.address).or(self.policy.primary.fixed()) == Some(&self.primary_at);
        if !knows_primary {
            self.name_primary();
        }
        for replica in replicas {
            match state.role(&replica) {
                Role::Refused { .. } => self.adopt(replica),
                Role::Drained => self.operate(Operation::Return { replica }),
                Role::Unknown | Role::Active | Role::Standby | Role::Draining | Role::Emptying { .. } => {}
            }
        }
    }
}

fn older(saved: Saved, lost: u64) -> Saved {
    let end = saved.position.offset.get().saturating_sub(lost);
    let position = Position::new(saved.position.replid, offset(end));
    Saved { data: saved.data.map(|data| Point { offset: end, ..data }), position, ..saved }
}

/// How often the operator looks when everything runs again.
pub const HELP_EVERY: Duration = Duration::from_secs(3);

/// Whether a replica follows what the primary has now.
pub fn follows(process: &Process, primary: &Process) -> bool {
    process.link == Link::Up && process.replid == primary.replid && process.data.is_some_and(|data| data.line == primary.line())
}
