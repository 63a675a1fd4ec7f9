//! Several actives come to a new dataset: filled side by side from one snapshot, one after another or all at once.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::settings::Consistency;
use rbuddy_core::control::status::{Operation, Phase};
use scene::{A, B, C, RELAY, Scene, address};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const D: u16 = 6384;

/// A and B serve, C and D are empty standbys.
fn two_and_two(consistency: Consistency) -> Scene {
    let mut scene = Scene::with(&[A, B, C, D], |scene| {
        (scene.policy.actives, scene.policy.consistency) = (2, consistency);
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "it begins", |scene| {
        scene.phase() == Phase::Normal && [A, B].iter().all(|port| scene.replicas[&address(*port)].master == Some(address(RELAY)))
    });
    scene
}

fn is_filled(scene: &Scene, port: u16) -> bool {
    scene.replicas[&address(port)].keys > 0
}

/// Everybody who served, in the order of the changes.
fn served_until(scene: &mut Scene, what: &str, so: impl Fn(&Scene) -> bool) -> Vec<Vec<u16>> {
    let end = scene.now.after(SOON);
    let mut served = vec![scene.active()];
    while !so(scene) {
        assert!(scene.now < end, "not in time: {what}\n{}", scene.story.join("\n"));
        scene.step();
        if served.last() != Some(&scene.active()) {
            served.push(scene.active());
        }
    }
    served
}

fn is_normal(scene: &Scene) -> bool {
    scene.phase() == Phase::Normal && scene.active().len() == 2
}

#[test]
fn standbys_are_filled_side_by_side_from_one_snapshot() {
    let mut scene = two_and_two(Consistency::Rolling);
    scene.replace_primary(100_000);
    scene.until(SOON, "both are being filled", |scene| is_filled(scene, C) && is_filled(scene, D));
    assert_eq!(scene.active(), [A, B]);
    served_until(&mut scene, "they serve", |scene| scene.active() == [C, D]);
    scene.until(SOON, "the others are the standbys", |scene| is_normal(scene) && !is_filled(scene, A) && !is_filled(scene, B));
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn rolling_readers_move_as_soon_as_one_has_it() {
    let mut scene = two_and_two(Consistency::Rolling);
    scene.replace_primary(100_000);
    scene.until(SOON, "both are being filled", |scene| is_filled(scene, C) && is_filled(scene, D));
    scene.at(D).loading_steps = 50;
    let served = served_until(&mut scene, "both serve", |scene| scene.active() == [C, D]);
    assert_eq!(served, [vec![A, B], vec![C], vec![C, D]]);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn atomic_readers_move_all_at_once() {
    let mut scene = two_and_two(Consistency::Atomic);
    scene.replace_primary(100_000);
    scene.until(SOON, "both are being filled", |scene| is_filled(scene, C) && is_filled(scene, D));
    scene.at(D).loading_steps = 50;
    let served = served_until(&mut scene, "both serve", |scene| scene.active() == [C, D]);
    assert_eq!(served, [vec![A, B], vec![C, D]]);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn an_atomic_switch_waits_for_a_standby_that_is_missing_and_says_so() {
    let mut scene = two_and_two(Consistency::Atomic);
    scene.at(D).up = false;
    scene.replace_primary(100_000);
    scene.until(SOON, "C has it", |scene| scene.status().explanation.contains("rolling"));
    scene.run(Duration::from_secs(5));
    assert_eq!(scene.active(), [A, B]);
    scene.restart(D, false);
    scene.at(D).up = true;
    let served = served_until(&mut scene, "both serve", |scene| scene.active() == [C, D]);
    assert_eq!(served, [vec![A, B], vec![C, D]]);
}

#[test]
fn an_atomic_group_that_serves_nothing_waits_for_nobody() {
    let mut scene = two_and_two(Consistency::Atomic);
    for port in [A, B, D] {
        scene.at(port).up = false;
    }
    scene.until(SOON, "C takes over alone", |scene| scene.active() == [C]);
}

#[test]
fn a_planned_switch_leaves_one_of_several() {
    let mut scene = two_and_two(Consistency::Atomic);
    scene.operate(Operation::Failover).unwrap();
    let served = served_until(&mut scene, "C serves", |scene| scene.active().contains(&C) && is_normal(scene));
    assert!(served.iter().all(|active| active.len() == 2), "{served:?}");
    assert!(!is_filled(&scene, D), "nobody asked for it");
}

#[test]
fn a_lost_standby_makes_room_for_the_next_while_the_other_goes_on() {
    let mut scene = Scene::with(&[A, B, C, D, 6385], |scene| {
        scene.policy.actives = 2;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "it begins", is_normal);
    scene.replace_primary(100_000);
    scene.until(SOON, "two are being filled", |scene| is_filled(scene, C) && is_filled(scene, D));
    scene.at(D).up = false;
    scene.until(SOON, "the third standby takes its place", |scene| scene.active() == [C, 6385]);
}

/// C has the new dataset and dies; D, which has it too, was just given up by an operator; A drains with the old one.
#[test]
fn what_takes_back_over_is_the_newest_that_is_whole() {
    let mut scene = two_and_two(Consistency::Rolling);
    scene.replace_primary(100_000);
    scene.until(SOON, "both serve the new dataset", |scene| scene.active() == [C, D]);
    scene.at(C).up = false;
    scene.operate(Operation::Adopt { replica: address(D) }).unwrap();
    scene.until(SOON, "somebody serves again", |scene| !scene.active().is_empty() && !scene.active().contains(&C));
    assert_eq!(scene.active(), [D]);
}
