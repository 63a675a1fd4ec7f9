//! The small world put to the trial: what each fault does to it, what heals it, when it has come to rest, and every step held against the promises.

use super::fault::{Contents, Fault, Image, Memory, Word};
use super::promises::{Before, Promises};
use super::{Fate, RELAY, STEP, Scene, Server, address};
use rbuddy_core::control::relay::UpstreamState;
use rbuddy_core::control::settings::StandbyMode;
use rbuddy_core::control::status::{Operation, OperationResult, Phase, RoleName};
use rbuddy_core::types::NodeAddress;
use std::time::Duration;

#[derive(Clone)]
pub struct Trial {
    pub scene: Scene,
    pub ports: Vec<u16>,
    pub promises: Promises,
    /// The primary before, which may come back as it was.
    pub former: Option<Server>,
    /// There are no faults any more: what an operator took out comes back in as soon as it answers.
    is_healed: bool,
}

impl Trial {
    pub fn new(scene: Scene) -> Trial {
        let promises = Promises::new(&scene.primary);
        let ports = scene.policy.replicas.iter().map(|replica| replica.port).collect();
        Trial { scene, ports, promises, former: None, is_healed: false }
    }

    /// A step, held against the promises.
    pub fn step(&mut self) -> Result<(), String> {
        let before = Before::of(&self.scene);
        self.scene.step();
        if self.is_healed {
            self.give_back();
        }
        self.promises.check(&self.scene, &before)
    }

    fn give_back(&mut self) {
        let replicas = self.scene.status().replicas;
        let drained = replicas.iter().filter(|replica| replica.role == RoleName::Drained && replica.reachable);
        drained.for_each(|replica| _ = self.hear(Word::Return(replica.address.port)));
    }

    /// Whether it would change anything, and the small world knows what.
    pub fn applies(&self, fault: Fault) -> bool {
        let scene = &self.scene;
        let server = |port: u16| &scene.replicas[&address(port)];
        match fault {
            Fault::Dies(port) => server(port).up,
            // What a half-loaded server restarts with is nothing.
            Fault::Restarts(port, Memory::All | Memory::Older) => server(port).loading_steps == 0 && server(port).keys > 0,
            Fault::Restarts(_, Memory::Nothing | Memory::NotItsPrimary) => true,
            Fault::Hangs(port) => server(port).up && !server(port).hangs,
            Fault::GoesOn(port) => server(port).up && server(port).hangs,
            Fault::PrimaryDies => scene.primary.up,
            Fault::PrimaryReturns | Fault::RbuddyRestarts => true,
            // A replica that follows the primary itself would resync by itself, which is not played here.
            Fault::AnotherPrimary(_) | Fault::PrimaryOverruns | Fault::PrimaryRestored(_) | Fault::PrimaryMoves => {
                scene.replicas.values().all(|server| server.master.as_ref() != Some(&scene.primary_at))
            }
            Fault::PrimaryBefore => self.former.is_some(),
            Fault::PrimaryIsSilent => !scene.primary_is_silent,
            Fault::PrimarySpeaks => scene.primary_is_silent,
            Fault::LinkBreaks => !scene.link_cut,
            Fault::LinkMends => scene.link_cut,
            Fault::Commands(fate) => scene.fate != fate,
            Fault::ProbesAreLate => !scene.late_probes,
            Fault::ProbesAreInTime => scene.late_probes,
            Fault::DiskIsFull => !scene.disk_is_full,
            Fault::DiskHasRoom => scene.disk_is_full,
            Fault::Says(Word::Failover | Word::Adopt(_) | Word::Drain(_) | Word::Return(_)) => true,
            Fault::Says(Word::Pause) => !scene.status().paused,
            Fault::Says(Word::Resume) => scene.status().paused,
            Fault::Says(Word::Approve) => scene.status().refusal.is_some(),
        }
    }

    /// Makes it happen. Says what an operator is answered.
    pub fn inflict(&mut self, fault: Fault) -> Option<OperationResult> {
        let scene = &mut self.scene;
        scene.story.push(format!("{} *** {fault}", scene.now));
        match fault {
            Fault::Dies(port) => scene.at(port).up = false,
            Fault::Restarts(port, memory) => self.revive(port, memory),
            Fault::Hangs(port) => scene.at(port).hangs = true,
            Fault::GoesOn(port) => scene.at(port).hangs = false,
            Fault::PrimaryDies => self.power_primary(false),
            Fault::PrimaryReturns => self.power_primary(true),
            Fault::AnotherPrimary(contents) => self.replace_primary(contents),
            Fault::PrimaryBefore => self.flap_back(),
            Fault::PrimaryOverruns => {
                scene.primary.offset += 1_000_000;
                scene.primary.backlog_from = scene.primary.offset - 10;
                self.promises.has_gap = true;
                self.power_primary(true);
            }
            Fault::PrimaryRestored(image) => {
                let lost = match image {
                    Image::Recent => 200,
                    Image::Old => 4_900,
                };
                scene.primary.offset = scene.primary.offset.saturating_sub(lost);
                self.promises.has_gap = true;
                self.power_primary(true);
            }
            Fault::PrimaryIsSilent => scene.primary_is_silent = true,
            Fault::PrimarySpeaks => scene.primary_is_silent = false,
            Fault::PrimaryMoves => self.move_primary(),
            Fault::LinkBreaks => scene.link_cut = true,
            Fault::LinkMends => scene.link_cut = false,
            Fault::RbuddyRestarts => {
                scene.restart_rbuddy();
                self.promises.forget_positions();
            }
            Fault::Commands(fate) => scene.fate = fate,
            Fault::ProbesAreLate => scene.late_probes = true,
            Fault::ProbesAreInTime => scene.late_probes = false,
            Fault::DiskIsFull => scene.disk_is_full = true,
            Fault::DiskHasRoom => scene.disk_is_full = false,
            Fault::Says(word) => return self.hear(word),
        }
        None
    }

    fn hear(&mut self, word: Word) -> Option<OperationResult> {
        let refused = self.scene.status().refusal.map(|refusal| refusal.dataset);
        let operation = match word {
            Word::Failover => Operation::Failover,
            Word::Pause => Operation::Pause,
            Word::Resume => Operation::Resume,
            Word::Adopt(port) => Operation::Adopt { replica: address(port) },
            Word::Drain(port) => Operation::Drain { replica: address(port) },
            Word::Return(port) => Operation::Return { replica: address(port) },
            Word::Approve => Operation::Approve { dataset: refused? },
        };
        let answer = self.scene.operate(operation);
        if let (Ok(_), Word::Adopt(port)) = (&answer, word) {
            self.promises.adopted.insert(port);
        }
        if let (Ok(_), Word::Approve, Some(dataset)) = (&answer, word, refused)
            && let Some((keys, _)) = self.scene.datasets.get(&dataset)
        {
            self.promises.allow(dataset.0.replid, *keys);
        }
        self.scene.story.push(format!("{} *** answer: {answer:?}", self.scene.now));
        Some(answer)
    }

    /// On or off. Whoever was connected to it has lost that connection.
    fn power_primary(&mut self, on: bool) {
        let scene = &mut self.scene;
        scene.primary.up = on;
        if scene.view.upstream.state != UpstreamState::Idle {
            scene.view.upstream.state = UpstreamState::Connecting;
        }
        let primary_at = Some(&scene.primary_at);
        scene.replicas.values_mut().filter(|server| server.master.as_ref() == primary_at).for_each(|server| server.link_up = on);
    }

    fn replace_primary(&mut self, contents: Contents) {
        // Each whole dataset has a count of its own, by which it is told from others.
        let whole = 100_000 + 10 * (1 + self.promises.age);
        let keys = match contents {
            Contents::Whole => whole,
            Contents::Shrunken => whole / 10,
            Contents::Nothing => 0,
        };
        self.former = Some(self.scene.primary.clone());
        self.scene.replace_primary(keys);
        self.promises.comes_of_age(&self.scene.primary);
        if contents == Contents::Whole {
            self.promises.allow(self.scene.primary.replid, keys);
        }
    }

    fn flap_back(&mut self) {
        let Some(former) = self.former.take() else { return };
        self.former = Some(std::mem::replace(&mut self.scene.primary, former));
        self.power_primary(true);
        self.promises.comes_of_age(&self.scene.primary);
        self.promises.has_flapped = true;
    }

    fn move_primary(&mut self) {
        let heir = self.scene.heir();
        self.promises.comes_of_age(&heir);
        self.promises.allow(heir.replid, heir.keys);
        self.scene.primary.up = false;
        self.scene.others.insert(address(MOVED_TO), heir);
        self.scene.relay_is_told(MOVED_TO);
    }

    /// Another process at a replica's place.
    fn revive(&mut self, port: u16, memory: Memory) {
        let server = self.scene.at(port);
        let (master, is_half_loaded) = (server.master.clone(), server.loading_steps > 0);
        let with_data = matches!(memory, Memory::All | Memory::Older) && !is_half_loaded;
        self.scene.restart(port, with_data);
        let server = self.scene.at(port);
        (server.up, server.hangs, server.loading_steps) = (true, false, 0);
        if memory == Memory::Older {
            server.offset = server.offset.saturating_sub(50);
        }
        server.master = master.filter(|_| memory != Memory::NotItsPrimary);
    }

    /// No more faults, and a primary that deserves to be followed.
    pub fn heal(&mut self) {
        self.scene.story.push(format!("{} *** no more faults", self.scene.now));
        self.scene.fate = Fate::Told;
        (self.scene.late_probes, self.scene.primary_is_silent) = (false, false);
        (self.scene.link_cut, self.scene.disk_is_full) = (false, false);
        for port in self.ports.clone() {
            if !self.scene.replicas[&address(port)].up {
                self.revive(port, Memory::All);
            }
            self.scene.at(port).hangs = false;
        }
        if !self.promises.is_whole(&self.scene.primary) {
            self.replace_primary(Contents::Whole);
        }
        if !self.scene.primary.up {
            self.power_primary(true);
        }
        self.hear(Word::Resume);
        self.is_healed = true;
    }

    /// More replicas hold data than should serve, and status asks for an operator's word: says it, as status names it.
    pub fn adopt_surplus(&mut self) -> bool {
        let status = self.scene.status();
        let read = self.scene.active();
        let actives = status.replicas.iter().filter(|replica| replica.role == RoleName::Active).map(|replica| replica.address.port);
        let is_asked = status.explanation.contains("rbuddy adopt") && actives.clone().count() > self.scene.policy.actives;
        // One that is not read, though it is active, before one that is.
        let surplus = actives.max_by_key(|port| !read.contains(port)).filter(|_| is_asked);
        surplus.is_some_and(|port| self.hear(Word::Adopt(port)).is_some_and(|answer| answer.is_ok()))
    }

    /// As many as should serve what the primary has, all else is empty, and everything is behind the relay.
    pub fn is_at_rest(&self) -> bool {
        let scene = &self.scene;
        let wanted = if scene.policy.standby == StandbyMode::Warm { self.ports.len() } else { scene.policy.actives };
        let is_filled = |server: &&Server| server.keys > 0 || scene.primary.keys == 0;
        let is_fresh = |replica: &NodeAddress| scene.replicas[replica].replid == scene.primary.replid;
        scene.phase() == Phase::Normal
            && scene.active().len() == wanted
            && scene.active().iter().all(|port| is_fresh(&address(*port)))
            && (scene.primary.keys == 0 || scene.replicas.values().filter(is_filled).count() == wanted)
            && scene.replicas.values().all(|server| server.master == Some(address(RELAY)))
    }

    /// Nothing that a fault began goes on.
    pub fn is_undisturbed(&self) -> bool {
        let scene = &self.scene;
        let is_well = scene.fate == Fate::Told && !scene.late_probes && !scene.primary_is_silent && !scene.link_cut && !scene.disk_is_full;
        is_well && scene.primary.up && !scene.status().paused && scene.replicas.values().all(|server| server.up && !server.hangs)
    }

    /// Steps until it is at rest, for so long at most. Says how long it took.
    pub fn rest(&mut self, limit: Duration) -> Result<Duration, String> {
        let begin = self.scene.now;
        while !self.is_at_rest() {
            if self.scene.now.since(begin) >= limit {
                return Err(format!("P8: does not come to rest within {limit:?}: {}", self.scene.status().explanation));
            }
            self.step()?;
        }
        Ok(self.scene.now.since(begin))
    }
}

/// Steps in so much time.
pub fn steps(time: Duration) -> usize {
    (time.as_millis() / STEP.as_millis()) as usize
}

/// Where a primary is that has moved.
pub const MOVED_TO: u16 = 7000;
