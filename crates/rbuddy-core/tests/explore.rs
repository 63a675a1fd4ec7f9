//! The controller's small configurations, explored exhaustively: every fault at every step, and every second fault at every step while the first one
//! still has effects. Each state that comes of it is held against the promises of `scene::promises`, and from each end, with all faults healed, the
//! group must come to rest.
//!
//! A *moment* is a state from which a first fault is tried: every step of taking over a set-up on the first day, and the rest that comes of it. A
//! *state* is known by its [`fingerprint`]; one that was met before, with as much still to come, is not gone on from. Fingerprints cost more than steps,
//! so they are taken after each fault and every half second: two stories that meet in between go on apart until then, which wastes time and loses
//! nothing. That what comes of a state met again is what came of it before is tried for each: see `verify`.
//!
//! Not explored: a second fault later than `WINDOW` after the first; a primary that moves.
//!
//! Pairs begin at rest; while a set-up is taken over, faults come one at a time. `cargo test -p rbuddy-core --test explore -- --nocapture` shows the counts
//! and tries the second fault of a pair every 0.5 s (1+1) or 2 s (the others); `make explore` tries it at every step.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]
#![expect(clippy::print_stdout, reason = "the counts are what this is for")]

mod scene;

use rbuddy_core::control::action::{Action, ServerCommand};
use rbuddy_core::control::relay::RelayOrders;
use rbuddy_core::control::settings::{FreezeMode, StandbyMode};
use rbuddy_core::replication::psync::Permit;
use scene::fault::Fault;
use scene::trial::{Trial, steps};
use scene::{A, B, C, Scene, address, fingerprint, run_id};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// So long a fault goes on, and so long a second one may come.
const WINDOW: Duration = Duration::from_secs(6);
/// How long everything may take to come to rest once all is healed.
const REST: Duration = Duration::from_secs(45);
/// Who is at rest for so long stays so.
const QUIET: Duration = Duration::from_secs(1);
/// How long status may ask an operator for a word before it is said.
const OPERATOR: Duration = Duration::from_secs(30);
/// Steps between two fingerprints.
const LOOK: usize = 5;
/// Failures are told up to here.
const TOLD: usize = 10;

/// What is explored.
struct Configuration {
    name: &'static str,
    begin: fn() -> Scene,
}

const ONE_AND_ONE: Configuration = Configuration { name: "1+1", begin: Scene::one_and_one };
const TWO_AND_ONE: Configuration = Configuration {
    name: "2+1",
    begin: || {
        Scene::with(&[A, B, C], |scene| {
            scene.policy.actives = 2;
            scene.follow_primary(A);
            scene.follow_primary(B);
        })
    },
};
const WARM_TWO: Configuration = Configuration {
    name: "warm 2",
    begin: || {
        Scene::with(&[A, B], |scene| {
            scene.policy.standby = StandbyMode::Warm;
            scene.follow_primary(A);
            scene.follow_primary(B);
        })
    },
};
const DETACHED: Configuration = Configuration {
    name: "1+1 detach",
    begin: || {
        Scene::with(&[A, B], |scene| {
            scene.policy.freeze = FreezeMode::Detach;
            scene.follow_primary(A);
        })
    },
};

/// How far it goes.
#[derive(Clone, Copy)]
struct Depth {
    /// A second fault is tried at every so-manieth step after the first; `None`: one fault only.
    second_every: Option<usize>,
    /// First faults are tried while the set-up is taken over, too.
    first_day: bool,
}

/// A story: at which step after the beginning what happened.
type Path = Vec<(usize, Fault)>;

struct Explorer {
    begin: fn() -> Scene,
    faults: Vec<Fault>,
    second_every: usize,
    /// States that were gone on from, with how many faults and steps were still to come.
    seen: BTreeSet<(u128, usize, usize)>,
    /// Healed states, each with for how long it had been quiet, and in how many steps it came to rest.
    rested: BTreeMap<(u128, usize), usize>,
    states: BTreeSet<u128>,
    /// What became of a state within `LOOK` steps without a fault: the same must become of each that is taken for the same.
    futures: BTreeMap<u128, u128>,
    /// States that were met again and went on as before.
    verified: u64,
    transitions: u64,
    ends: u64,
    /// Ends that took an operator's word: a replica that was away on the first day came back full, and stays so until it is adopted (P3).
    adopted: u64,
    longest: (usize, Path),
    broken: Vec<(String, Path)>,
}

impl Explorer {
    /// Explores all of a configuration.
    fn explore(configuration: &Configuration, depth: Depth, tamper: Option<fn(&mut Action)>) -> Explorer {
        let mut trial = Trial::new((configuration.begin)());
        trial.scene.tamper = tamper;
        let mut explorer = Explorer {
            begin: configuration.begin,
            faults: Fault::all(&trial.ports).into_iter().filter(|fault| *fault != Fault::PrimaryMoves).collect(),
            second_every: depth.second_every.unwrap_or(1),
            seen: BTreeSet::new(),
            rested: BTreeMap::new(),
            states: BTreeSet::new(),
            futures: BTreeMap::new(),
            verified: 0,
            transitions: 0,
            ends: 0,
            adopted: 0,
            longest: (0, Path::new()),
            broken: Vec::new(),
        };
        let count = if depth.second_every.is_some() { 2 } else { 1 };
        // Ten seconds of rest: what was done last is over.
        let mut at_rest = 0;
        let mut at = 0;
        while at_rest < steps(Duration::from_secs(10)) {
            if depth.first_day && at_rest == 0 {
                explorer.branch(&trial, at, 1, &Path::new());
            }
            at += 1;
            at_rest = if trial.is_at_rest() { at_rest + 1 } else { 0 };
            if !explorer.step(&mut trial, &Path::new()) {
                return explorer;
            }
            assert!(at < steps(REST), "does not come to rest undisturbed: {}", trial.scene.story.join("\n"));
        }
        explorer.branch(&trial, at, count, &Path::new());
        explorer
    }

    /// Every fault here, and what comes of it.
    fn branch(&mut self, trial: &Trial, at: usize, left: usize, path: &Path) {
        for fault in self.faults.clone() {
            if !trial.applies(fault) || self.broken.len() >= TOLD {
                continue;
            }
            let mut next = trial.clone();
            next.inflict(fault);
            self.transitions += 1;
            let path = path.iter().copied().chain([(at, fault)]).collect();
            self.follow(next, at, left - 1, &path);
        }
    }

    /// Lets time pass, with more faults where some are left, and heals all in the end.
    fn follow(&mut self, mut trial: Trial, mut at: usize, left: usize, path: &Path) {
        let (mut quiet, mut last) = (0, None);
        for step in 0..steps(WINDOW) {
            if step % LOOK == 0 {
                let print = fingerprint::of(&trial);
                self.states.insert(print);
                last.replace(print).into_iter().for_each(|last| _ = self.futures.insert(last, print));
                if !self.seen.insert((print, left, steps(WINDOW) - step)) {
                    return self.verify(trial, print, path);
                }
            }
            if left > 0 && step % self.second_every == 0 {
                self.branch(&trial, at, left, path);
            }
            if !self.step(&mut trial, path) {
                return;
            }
            at += 1;
            quiet = if trial.is_at_rest() && trial.is_undisturbed() { quiet + 1 } else { 0 };
            if quiet == steps(QUIET) {
                break;
            }
        }
        self.settle(trial, path);
    }

    /// All is healed: everything must come to rest.
    fn settle(&mut self, mut trial: Trial, path: &Path) {
        trial.heal();
        self.transitions += 1;
        let mut passed = Vec::new();
        let (mut taken, mut quiet) = (0, 0);
        while quiet < steps(QUIET) {
            if taken % LOOK == 0 {
                let print = fingerprint::of(&trial);
                if let Some(rest) = self.rested.get(&(print, quiet)) {
                    taken += rest;
                    break;
                }
                self.states.insert(print);
                passed.push(((print, quiet), taken));
            }
            if taken == steps(OPERATOR) && trial.adopt_surplus() {
                self.adopted += 1;
            }
            if taken >= steps(REST) {
                return self.broken.push((format!("P8: does not come to rest: {}", trial.scene.status().explanation), path.clone()));
            }
            if !self.step(&mut trial, path) {
                return;
            }
            taken += 1;
            quiet = if trial.is_at_rest() { quiet + 1 } else { 0 };
        }
        self.ends += 1;
        self.rested.extend(passed.into_iter().map(|(state, at)| (state, taken - at)));
        if taken > self.longest.0 {
            self.longest = (taken, path.clone());
        }
    }

    /// It was met before and is not gone on from. That is right only if the same comes of it.
    fn verify(&mut self, mut trial: Trial, print: u128, path: &Path) {
        let Some(future) = self.futures.get(&print) else { return };
        let kept = (0..LOOK).try_for_each(|_| trial.step());
        if kept.is_err() || fingerprint::of(&trial) != *future {
            self.broken.push((format!("two states were taken for one, and are not: {kept:?}"), path.clone()));
        }
        self.verified += 1;
    }

    /// `false`: a promise is broken.
    fn step(&mut self, trial: &mut Trial, path: &Path) -> bool {
        let kept = trial.step();
        self.transitions += 1;
        // A failed story is told by doing it again.
        trial.scene.forget();
        if let Err(broken) = kept {
            self.broken.push((broken, path.clone()));
            return false;
        }
        true
    }

    /// What happened on this path, as the controller tells it.
    fn retell(&self, path: &Path) -> String {
        let mut trial = Trial::new((self.begin)());
        let mut at = 0;
        let mut result = Ok(());
        for (when, fault) in path {
            while at < *when && result.is_ok() {
                result = trial.step();
                at += 1;
            }
            trial.inflict(*fault);
        }
        for _ in 0..steps(WINDOW) {
            result = result.and_then(|()| trial.step());
        }
        if result.is_ok() {
            trial.heal();
            _ = trial.rest(Duration::from_secs(20));
        }
        trial.scene.story.join("\n")
    }

    fn report(&self, configuration: &Configuration, depth: Depth) {
        let faults = self.faults.len();
        let kinds = match depth.second_every {
            None => format!("1 of {faults} faults"),
            Some(1) => format!("2 of {faults} faults, at every step"),
            Some(every) => format!("2 of {faults} faults, the second at every {every}th step"),
        };
        let seconds = scene::STEP * u32::try_from(self.longest.0.saturating_sub(steps(QUIET))).unwrap();
        println!(
            "{}: {kinds}: {} states, {} met again, {} transitions, {} ends ({} after an adopt), at rest within {seconds:?}{}",
            configuration.name,
            self.states.len(),
            self.verified,
            self.transitions,
            self.ends,
            self.adopted,
            tell(&self.longest.1)
        );
    }
}

fn tell(path: &Path) -> String {
    let faults: Vec<String> = path.iter().map(|(at, fault)| format!("step {at}: {fault}")).collect();
    format!(" ({})", faults.join("; "))
}

/// Explores it, and fails with the story of what broke a promise.
fn explore(configuration: &Configuration, depth: Depth) {
    let explorer = Explorer::explore(configuration, depth, None);
    explorer.report(configuration, depth);
    if let Some((_, shortest)) = explorer.broken.iter().min_by_key(|(_, path)| path.len()) {
        let all: Vec<String> = explorer.broken.iter().map(|(broken, path)| format!("{broken}{}", tell(path))).collect();
        panic!("{}\nthe first of them:\n{}", all.join("\n"), explorer.retell(shortest));
    }
}

/// As deep as there is time for, and to the ground if that was asked for.
fn depth(second_every: Option<usize>) -> Depth {
    #[expect(clippy::disallowed_methods, reason = "how far to go is not a matter of the code under test")]
    let is_asked = std::env::var("EXPLORE").is_ok_and(|depth| depth == "all");
    Depth { second_every: if is_asked { Some(1) } else { second_every }, first_day: true }
}

#[test]
fn one_active_and_one_standby() {
    explore(&ONE_AND_ONE, depth(Some(5)));
}

#[test]
fn two_actives_and_one_standby() {
    explore(&TWO_AND_ONE, depth(Some(20)));
}

#[test]
fn two_warm_replicas() {
    explore(&WARM_TWO, depth(Some(20)));
}

#[test]
fn one_active_and_one_standby_with_detach() {
    explore(&DETACHED, depth(Some(20)));
}

/// A broken controller, and the promise that must be found broken.
fn must_be_caught(tamper: fn(&mut Action), promise: &str) {
    let explorer = Explorer::explore(&ONE_AND_ONE, Depth { second_every: None, first_day: true }, Some(tamper));
    let broken: Vec<&str> = explorer.broken.iter().map(|(broken, _)| broken.as_str()).collect();
    assert!(broken.iter().any(|broken| broken.starts_with(promise)), "{promise} was not found broken, but: {broken:#?}");
}

#[test]
fn a_controller_that_lets_an_active_be_resynced_is_caught() {
    let seed_everybody = |action: &mut Action| {
        let Action::Orders(orders) = action else { return };
        let RelayOrders { permits, judged, .. } = &mut **orders;
        if let Some(seed) = permits.values().copied().find(|permit| matches!(permit, Permit::Seed(_))) {
            permits.values_mut().for_each(|permit| *permit = seed);
            // As the scene begins with them.
            for (port, process) in [(A, 10), (B, 11)] {
                judged.entry(address(port)).or_insert(run_id(process));
            }
        }
    };
    must_be_caught(seed_everybody, "P2");
}

#[test]
fn a_controller_that_lets_the_standby_be_read_is_caught() {
    let promote_unjudged = |action: &mut Action| {
        let Action::Assign(assignment) = action else { return };
        if let (Some(standby), Some(mut active)) = (assignment.standby.take(), assignment.actives.first().cloned()) {
            (active.address, active.run_id) = (standby, scene::run_id(11));
            assignment.actives = vec![active];
        }
    };
    must_be_caught(promote_unjudged, "P1");
}

#[test]
fn a_controller_that_empties_the_only_active_is_caught() {
    let empty_active = |action: &mut Action| {
        if let Action::Server { command, replica, .. } = action
            && replica.port == A
        {
            *command = ServerCommand::Empty { run_id: scene::run_id(10), detached: false };
        }
    };
    must_be_caught(empty_active, "P2");
}

#[test]
fn a_controller_that_leads_readers_back_is_caught() {
    let forget_generations = |action: &mut Action| {
        if let Action::Assign(assignment) = action {
            assignment.generation.0 %= 2;
        }
    };
    must_be_caught(forget_generations, "P10");
}

#[test]
fn a_controller_that_never_empties_is_caught() {
    let keep_all = |action: &mut Action| {
        if let Action::Server { command: command @ ServerCommand::Empty { .. }, .. } = action {
            *command = ServerCommand::DisconnectClients;
        }
    };
    must_be_caught(keep_all, "P8");
}
