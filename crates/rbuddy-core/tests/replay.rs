//! A run of the scene, replayed from its journal: the same decisions from the beginning and from any checkpoint, and a word at the right step about a
//! journal that somebody changed.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::Controller;
use rbuddy_core::control::action::{Action, Output, ServerCommand};
use rbuddy_core::control::journal::{Checkpoint, Entry};
use rbuddy_core::control::replay::{Difference, Replay, Step};
use rbuddy_core::control::settings::FreezeMode;
use rbuddy_core::control::status::{Operation, Phase};
use rbuddy_core::types::Time;
use scene::{A, B, Scene};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

/// A day in the life: a failover, a pause, an end of rbuddy, a planned switch, a replica that dies.
fn recorded(freeze: FreezeMode) -> Vec<Entry> {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.journal = Some(Vec::new());
        scene.policy.freeze = freeze;
        scene.follow_primary(A);
    });
    let at_rest = |scene: &Scene| scene.phase() == Phase::Normal && scene.active().len() == 1;
    scene.until(SOON, "it begins well", at_rest);
    scene.replace_primary(100_010);
    scene.until(SOON, "the new dataset is served", |scene| scene.active() == [B] && scene.phase() == Phase::Normal);
    scene.operate(Operation::Pause).unwrap();
    scene.run(Duration::from_secs(2));
    scene.operate(Operation::Resume).unwrap();
    scene.restart_rbuddy();
    scene.until(SOON, "it goes on", at_rest);
    scene.operate(Operation::Failover).unwrap();
    scene.until(SOON, "the planned switch", |scene| scene.active() == [A] && scene.phase() == Phase::Normal);
    scene.at(A).up = false;
    scene.until(SOON, "the other one takes over", |scene| scene.active() == [B]);
    scene.journal.take().unwrap()
}

fn replay(entries: impl IntoIterator<Item = Entry>) -> Vec<Step> {
    let mut replay = Replay::default();
    let mut steps: Vec<Step> = entries.into_iter().filter_map(|entry| replay.take(entry)).collect();
    steps.extend(replay.finish());
    steps
}

fn differing(steps: &[Step]) -> Vec<&Step> {
    steps.iter().filter(|step| step.difference.is_some()).collect()
}

/// As a file would keep it.
fn written_and_read(entry: &Entry) -> Entry {
    serde_json::from_str(&serde_json::to_string(entry).unwrap()).unwrap()
}

/// The controller as it is after so many entries, which end a step.
fn controller_after(entries: &[Entry]) -> (Time, Controller) {
    let mut known = None;
    for entry in entries {
        let (at, mut controller) = match (entry, known.take()) {
            (Entry::Begin(begin), _) => (begin.at, Controller::new(begin.policy.clone(), begin.state.clone(), begin.at)),
            (Entry::Event { at, event }, Some((_, mut controller))) => {
                Controller::handle(&mut controller, *at, event.clone());
                (*at, controller)
            }
            (_, same) => same.unwrap(),
        };
        while let Output::Action(_) = controller.poll_output() {}
        known = Some((at, controller));
    }
    known.unwrap()
}

#[test]
fn a_recorded_run_is_decided_once_more_in_the_same_way() {
    for freeze in [FreezeMode::Hold, FreezeMode::Detach] {
        let entries = recorded(freeze);
        let steps = replay(entries.iter().map(written_and_read));
        assert_eq!(differing(&steps), Vec::<&Step>::new());
        let begun = entries.iter().filter(|entry| !matches!(entry, Entry::Action(_))).count();
        assert_eq!(steps.len(), begun, "one step for each thing that happened");
        let told: Vec<&String> = steps.iter().flat_map(|step| &step.changes).collect();
        for word in
            ["generation 1 → 2", "127.0.0.1:6381: standby → active", "phase normal → paused", "order permit of 127.0.0.1:6381: hold → seed"]
        {
            assert!(told.iter().any(|line| line.contains(word)), "{freeze:?}: nothing tells of {word:?}: {told:#?}");
        }
        let names_the_process = |line: &str| line.contains("hold → seed with") && line.contains(", process ");
        assert!(told.iter().any(|line| names_the_process(line)), "{freeze:?}: whom a snapshot is for: {told:#?}");
        let quiet = steps.iter().filter(|step| step.is_quiet()).count();
        assert!(quiet * 2 > steps.len(), "most of the time nothing is decided: {quiet} of {}", steps.len());
    }
}

#[test]
fn a_replay_may_begin_at_any_checkpoint() {
    let entries = recorded(FreezeMode::Hold);
    let ends: Vec<usize> = (1..entries.len()).filter(|at| !matches!(entries[*at], Entry::Action(_))).collect();
    for &end in ends.iter().step_by(7) {
        let (at, controller) = controller_after(&entries[..end]);
        let checkpoint = written_and_read(&Entry::Checkpoint(Box::new(Checkpoint { at, lost: 0, controller })));
        let rest = std::iter::once(checkpoint).chain(entries[end..].iter().cloned());
        assert_eq!(differing(&replay(rest)), Vec::<&Step>::new(), "from entry {end}");
    }
}

#[test]
fn a_checkpoint_that_is_not_what_the_replay_comes_to_is_a_difference() {
    let mut entries = recorded(FreezeMode::Hold);
    let end = (entries.len() / 2..).find(|at| !matches!(entries[*at], Entry::Action(_))).unwrap();
    let (at, controller) = controller_after(&entries[..end]);
    entries.insert(end, Entry::Checkpoint(Box::new(Checkpoint { at, lost: 0, controller })));
    assert_eq!(differing(&replay(entries.clone())), Vec::<&Step>::new(), "in its place it is none");
    let moved = entries.remove(end);
    let later = (end + 40..).find(|at| !matches!(entries[*at], Entry::Action(_))).unwrap();
    entries.insert(later, moved);
    assert_eq!(differing(&replay(entries))[0].difference, Some(Difference::Checkpoint));
}

#[test]
fn a_tampered_journal_is_reported_at_the_very_step() {
    let entries = recorded(FreezeMode::Hold);
    let is_emptying = |entry: &Entry| matches!(entry, Entry::Action(Action::Server { command: ServerCommand::Empty { .. }, .. }));
    let at = entries.iter().position(is_emptying).unwrap();
    let step = entries[..at].iter().filter(|entry| !matches!(entry, Entry::Action(_))).count() - 1;

    let mut forged = entries.clone();
    let Entry::Action(Action::Server { replica, .. }) = &mut forged[at] else { unreachable!() };
    replica.port += 1;
    let mut hidden = entries.clone();
    hidden.remove(at);
    let mut invented = entries.clone();
    invented.insert(at, entries[at].clone());
    for (what, tampered) in [("another replica", forged), ("left out", hidden), ("put in", invented)] {
        let steps = replay(tampered);
        assert_eq!(steps.iter().position(|step| step.difference.is_some()), Some(step), "{what}");
        assert!(matches!(steps[step].difference, Some(Difference::Action { .. })), "{what}");
    }
}

#[test]
fn a_record_that_breaks_off_is_no_difference() {
    let entries = recorded(FreezeMode::Hold);
    let second = entries.iter().rposition(|entry| matches!(entry, Entry::Begin(_))).unwrap();
    for cut in (1..second).step_by(11) {
        let broken: Vec<Entry> = entries[..cut].iter().chain(&entries[second..]).cloned().collect();
        assert_eq!(differing(&replay(broken)), Vec::<&Step>::new(), "cut after {cut} entries");
        assert_eq!(differing(&replay(entries[..cut].to_vec())), Vec::<&Step>::new(), "ends after {cut} entries");
    }
    let steps = replay(entries[1..].to_vec());
    assert_eq!(steps[0].difference, Some(Difference::NoBeginning), "without its beginning it cannot be replayed");
}
