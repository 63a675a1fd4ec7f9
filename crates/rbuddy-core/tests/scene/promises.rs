//! The promises of the design, held against the small world after each step: by what servers really hold and who is really read, not by what the
//! controller thinks. One place for chaos and exploration. A broken one is named in words.

use super::{Scene, Server, address};
use rbuddy_core::control::action::ServerCommand;
use rbuddy_core::control::status::Phase;
use rbuddy_core::types::{Generation, ReplId, RunId};
use std::collections::{BTreeMap, BTreeSet};

/// What must be remembered of the past to tell whether a promise is kept.
#[derive(Debug, Clone)]
pub struct Promises {
    /// How many keys whole datasets hold. By this they are known, whatever ids a detached replica gives itself.
    whole: BTreeSet<u64>,
    /// Histories of an empty dataset that an operator approved.
    empty: BTreeSet<ReplId>,
    /// When each history began, or came back, as a number.
    ages: BTreeMap<ReplId, u64>,
    /// The number of the last one.
    pub age: u64,
    /// Two histories took turns: which of them is the older one is anybody's word.
    pub has_flapped: bool,
    /// Other bytes followed under the same id: offsets of before and after say nothing of one another.
    pub has_gap: bool,
    generation: Generation,
    /// The newest dataset that was served, and the processes that served it and have been well ever since.
    newest: (u64, BTreeSet<(u16, RunId)>),
    /// How far each active's readers have read, while it is one.
    read: BTreeMap<u16, (ReplId, u64)>,
    /// How far readers have read each history at replicas that they leave, or had to.
    left: BTreeMap<ReplId, u64>,
    /// Replicas that an operator released.
    pub adopted: BTreeSet<u16>,
}

/// What a step began with.
pub struct Before {
    actives: Vec<u16>,
    loading: BTreeSet<u16>,
    commands: usize,
}

impl Before {
    pub fn of(scene: &Scene) -> Before {
        Before { actives: scene.active(), loading: loading(scene), commands: scene.commands.len() }
    }
}

impl Promises {
    /// What the primary holds when it begins is whole.
    pub fn new(primary: &Server) -> Promises {
        Promises {
            whole: BTreeSet::from([primary.keys]),
            empty: BTreeSet::new(),
            ages: BTreeMap::from([(primary.replid, 0)]),
            age: 0,
            has_flapped: false,
            has_gap: false,
            generation: Generation::default(),
            newest: (0, BTreeSet::new()),
            read: BTreeMap::new(),
            left: BTreeMap::new(),
            adopted: BTreeSet::new(),
        }
    }

    /// The primary's history is the newest from here on.
    pub fn comes_of_age(&mut self, primary: &Server) {
        self.age += 1;
        self.ages.insert(primary.replid, self.age);
    }

    /// No connection of a reader lasts longer than this: rbuddy died.
    pub fn forget_positions(&mut self) {
        self.read.clear();
        self.left.clear();
    }

    /// Readers may have this: the primary of the story really holds it, or an operator said so.
    pub fn allow(&mut self, replid: ReplId, keys: u64) {
        match keys {
            0 => self.empty.insert(replid),
            keys => self.whole.insert(keys),
        };
    }

    /// Whether readers may have what this server holds.
    pub fn is_whole(&self, server: &Server) -> bool {
        match server.keys {
            0 => self.empty.contains(&server.replid),
            keys => self.whole.contains(&keys),
        }
    }

    /// Holds a step against the promises. `Err` names the broken one.
    pub fn check(&mut self, scene: &Scene, before: &Before) -> Result<(), String> {
        if scene.phase() == Phase::Alarm {
            return Err(scene.status().explanation);
        }
        self.nothing_that_serves_is_lost(scene, before)?;
        self.generations_rise(scene)?;
        let served = self.only_whole_datasets_are_read(scene)?;
        self.readers_go_forward(scene, &served)?;
        self.positions_go_forward(scene)
    }

    /// P2.
    fn nothing_that_serves_is_lost(&self, scene: &Scene, before: &Before) -> Result<(), String> {
        let after = scene.active();
        for (replica, command) in &scene.commands[before.commands..] {
            if matches!(command, ServerCommand::Empty { .. }) && !self.adopted.contains(&replica.port) {
                let another = before.actives.iter().chain(&after).any(|active| *active != replica.port);
                ensure(another, || format!("P2: {replica} is emptied while nobody else serves"))?;
            }
        }
        let resynced = loading(scene).into_iter().find(|port| !before.loading.contains(port) && before.actives.contains(port));
        resynced.map_or(Ok(()), |port| Err(format!("P2: {port} is resynced while it serves")))
    }

    fn generations_rise(&mut self, scene: &Scene) -> Result<(), String> {
        let Some(assignment) = &scene.assignment else { return Ok(()) };
        let before = std::mem::replace(&mut self.generation, assignment.generation);
        ensure(assignment.generation >= before, || format!("P10: generation {before} fell to {}", assignment.generation))
    }

    /// P1. Tells who serves which dataset.
    fn only_whole_datasets_are_read(&self, scene: &Scene) -> Result<Vec<(u64, u16, RunId)>, String> {
        let mut served = Vec::new();
        for active in scene.assignment.iter().flat_map(|assignment| &assignment.actives) {
            let server = &scene.replicas[&active.address];
            // A reader's connection is checked for the process before it is used.
            if !server.up || server.run_id != active.run_id {
                continue;
            }
            ensure(server.loading_steps == 0, || format!("P1: {} loads and is read", active.address))?;
            ensure(self.is_whole(server), || format!("P1: {} with {} keys is read", active.address, server.keys))?;
            let age = self.ages.get(&server.replid).or_else(|| server.replid2.and_then(|id| self.ages.get(&id))).copied();
            served.push((age.unwrap_or(0), active.address.port, server.run_id));
        }
        Ok(served)
    }

    /// P10: readers go back to an older dataset only if nobody who served a newer one has been well all the time.
    fn readers_go_forward(&mut self, scene: &Scene, served: &[(u64, u16, RunId)]) -> Result<(), String> {
        let replicas = &scene.replicas;
        self.newest.1.retain(|(port, run)| {
            let server = &replicas[&address(*port)];
            server.up && !server.hangs && server.run_id == *run
        });
        let Some(newest) = served.iter().map(|(age, ..)| *age).max().filter(|_| !self.has_flapped) else { return Ok(()) };
        let (known, well) = &self.newest;
        ensure(newest >= *known || well.is_empty(), || format!("P10: back to dataset {newest} though {well:?} has {known}"))?;
        if newest != self.newest.0 {
            self.newest = (newest, BTreeSet::new());
        }
        let well = served.iter().filter(|(age, port, _)| *age == newest && !replicas[&address(*port)].hangs);
        self.newest.1.extend(well.map(|(_, port, run)| (*port, *run)));
        Ok(())
    }

    /// P10: within a history, readers who leave a replica find at others what they have read, or wait there until it has come.
    fn positions_go_forward(&mut self, scene: &Scene) -> Result<(), String> {
        let Some(assignment) = scene.assignment.as_ref().filter(|_| !self.has_flapped && !self.has_gap) else { return Ok(()) };
        let before = self.read.clone();
        let is_active = |port: &u16| assignment.actives.iter().any(|active| active.address.port == *port);
        self.read.retain(|port, _| is_active(port));
        let position = |server: &Server| (server.replid, server.offset);
        for active in &assignment.actives {
            let server = &scene.replicas[&active.address];
            if server.up && server.run_id == active.run_id {
                self.read.insert(active.address.port, position(server));
            }
        }
        let gone = before.into_iter().filter(|(port, _)| !self.read.contains_key(port)).map(|(_, position)| position);
        let draining = assignment.draining.iter().map(|draining| &scene.replicas[&draining.address]);
        let draining = draining.filter(|server| server.up && server.keys > 0).map(position);
        for (replid, offset) in gone.chain(draining).collect::<Vec<_>>() {
            let furthest = self.left.entry(replid).or_insert(0);
            *furthest = offset.max(*furthest);
        }
        for active in &assignment.actives {
            // Nobody reads a dead or hung one, though it is not known to be that yet.
            let is_well = scene.replicas.get(&active.address).is_some_and(|server| server.up && !server.hangs);
            let Some((replid, offset)) = self.read.get(&active.address.port).filter(|_| is_well) else { continue };
            let left = self.left.get(replid).copied().unwrap_or(0);
            let least = active.offset_at_least.get().max(*offset);
            ensure(least >= left, || format!("P10: {} may be read from {least} on, where others were read up to {left}", active.address))?;
        }
        Ok(())
    }
}

fn loading(scene: &Scene) -> BTreeSet<u16> {
    scene.replicas.iter().filter(|(_, server)| server.loading_steps > 0).map(|(replica, _)| replica.port).collect()
}

fn ensure(holds: bool, broken: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(broken()) }
}
