//! Several actives come to a new dataset: filled side by side from one snapshot, one after another or all at once; and warm ones, of which none is spare.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::settings::{Consistency, StandbyMode};
use rbuddy_core::control::status::{Operation, Phase};
use rbuddy_core::reader::trail::Trail;
use rbuddy_core::replication::psync::Permit;
use scene::situations::{LONG, SOON, emptied, told};
use scene::{A, B, C, RELAY, Scene, address};
use std::time::Duration;

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

/// A and B serve, and nothing is spare.
fn warm_pair() -> Scene {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.standby = StandbyMode::Warm;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "both serve", is_normal);
    scene
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
    assert_eq!(served, [vec![A, B], vec![C, A], vec![C, D]]);
    assert_eq!(scene.sync_full, 1);
}

/// All serve, none is spare.
fn warm(ports: &[u16], max_unavailable: usize) -> Scene {
    let mut scene = Scene::with(ports, |scene| {
        (scene.policy.standby, scene.policy.max_unavailable) = (StandbyMode::Warm, max_unavailable);
        ports.iter().for_each(|port| scene.follow_primary(*port));
    });
    scene.until(SOON, "it begins", |scene| scene.phase() == Phase::Normal && scene.active() == ports);
    scene
}

#[test]
fn warm_replicas_take_turns_and_the_others_serve_on() {
    for (max_unavailable, at_a_time) in [(1, 3), (2, 2), (3, 1)] {
        let ports = [A, B, C, D];
        let mut scene = warm(&ports, max_unavailable);
        scene.replace_primary(150_000);
        let is_new = |scene: &Scene, port: u16| scene.replicas[&address(port)].keys == 150_000 && scene.active().contains(&port);
        let served = served_until(&mut scene, "all have the new dataset", |scene| ports.iter().all(|port| is_new(scene, *port)));
        let fewest = served.iter().map(Vec::len).min();
        assert_eq!(fewest, Some(at_a_time), "max_unavailable {max_unavailable}: {served:?}");
        assert_eq!(scene.sync_full, 1);
    }
}

#[test]
fn the_last_that_serves_is_not_given_up_however_many_may_be() {
    let mut scene = warm(&[A, B], 2);
    scene.replace_primary(150_000);
    let served = served_until(&mut scene, "both have it", |scene| {
        scene.active().len() == 2 && [A, B].iter().all(|port| scene.replicas[&address(*port)].keys == 150_000)
    });
    assert!(served.iter().all(|active| !active.is_empty()), "{served:?}");
}

/// C has a dataset that is old already, A a still older one, which C's readers must not be sent to.
#[test]
fn one_that_alone_has_the_newer_of_two_old_datasets_is_not_given_up() {
    let mut scene = two_and_two(Consistency::Rolling);
    scene.at(D).up = false;
    scene.replace_primary(150_000);
    scene.until(SOON, "old and new are read", |scene| scene.active() == [C, A]);
    scene.replace_primary(200_000);
    scene.until(SOON, "both are old", |scene| scene.active() == [C, A]);
    scene.run(Duration::from_secs(1));
    assert_eq!(scene.active(), [C, A]);
    assert!(scene.operate(Operation::Adopt { replica: address(C) }).is_err());
    assert!(scene.operate(Operation::Drain { replica: address(C) }).is_err());
    scene.operate(Operation::Adopt { replica: address(A) }).unwrap();
}

/// What a connection may do that has read the new dataset, and one that has read nothing.
#[test]
fn who_has_read_the_new_dataset_is_not_sent_back_to_the_old_one() {
    let mut scene = two_and_two(Consistency::Rolling);
    scene.replace_primary(100_000);
    scene.until(SOON, "both are being filled", |scene| is_filled(scene, C) && is_filled(scene, D));
    scene.at(D).loading_steps = 50;
    served_until(&mut scene, "old and new are read", |scene| scene.active() == [C, A]);
    let assignment = scene.assignment.clone().unwrap();
    let [new, old] = &assignment.actives[..] else { panic!("{assignment:?}") };
    let mut trail = Trail::default();
    assert!(!trail.goes_back_to(old));
    trail.served(assignment.generation, new, None);
    assert!(trail.goes_back_to(old));
    assert!(!trail.goes_back_to(new));
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

#[test]
fn warm_replicas_share_one_snapshot() {
    let mut scene = warm_pair();
    scene.run(Duration::from_secs(1));
    scene.replace_primary(100_000);
    let new = scene.primary.replid;
    let both_new = |scene: &Scene| scene.active() == [A, B] && scene.replicas.values().all(|replica| replica.replid == new);
    let one_new = |scene: &Scene| scene.replicas.values().filter(|replica| replica.replid == new && replica.link_up).count() == 1;
    scene.until(SOON, "one has the new dataset", one_new);
    scene.until(SOON, "the other one is to get it", |scene| matches!(scene.permit(B), Some(Permit::Seed(_))));
    assert!(scene.discarded.is_empty(), "the snapshot is still needed: {}", scene.story.join("\n"));
    scene.until(SOON, "both serve the new dataset", both_new);
    assert_eq!(scene.sync_full, 1, "{}", scene.story.join("\n"));
}

#[test]
fn warm_replicas_are_resynced_one_after_another() {
    let mut scene = warm_pair();
    scene.replace_primary(100_000);
    let end = scene.now.after(LONG);
    while !(scene.sync_full == 1 && scene.phase() == Phase::Normal && scene.active() == [A, B]) {
        assert!(scene.now < end, "{:#?}\n{}", scene.status(), scene.story.join("\n"));
        scene.step();
        assert!(!scene.active().is_empty(), "{}", scene.story.join("\n"));
    }
    assert_eq!(scene.sync_full, 1);
    assert!(emptied(&scene).is_empty());
    assert_eq!(told(&scene, "Error"), 0, "an operator is called for nothing:\n{}", scene.story.join("\n"));
}

#[test]
fn the_warm_replica_that_is_furthest_behind_is_resynced_first() {
    let mut scene = warm_pair();
    // B misses what A gets before the primary's history ends, and the relay forgets that history.
    scene.at(B).hangs = true;
    scene.run(Duration::from_secs(3));
    scene.primary.up = false;
    scene.run(Duration::from_secs(1));
    scene.at(B).hangs = false;
    scene.restart_rbuddy();
    scene.replace_primary(100_000);
    scene.until(SOON, "one of them is left", |scene| scene.active().len() == 1);
    assert_eq!(scene.active(), [A], "readers of A would find less at B:\n{}", scene.story.join("\n"));
}
