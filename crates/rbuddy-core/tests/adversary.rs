//! The controller at bad moments: faults that meet one another, operators who press buttons, probes that come late. Each test is a situation in
//! which a promise was once broken, or could be.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::settings::FreezeMode;
use rbuddy_core::control::status::{Operation, Phase, RoleName};
use scene::situations::{LONG, SOON, emptied, is_normal, normal, role, told};
use scene::{A, B, C, Fate, RELAY, Scene, address};
use std::time::Duration;

#[test]
fn a_restart_of_rbuddy_during_the_drain_does_not_bring_the_older_dataset_back() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    scene.restart_rbuddy();
    let end = scene.now.after(SOON);
    while scene.now < end {
        scene.step();
        assert_ne!(scene.active(), [A], "readers are led back:\n{}", scene.story.join("\n"));
    }
    assert!(is_normal(&scene));
    assert_eq!((scene.active(), scene.sync_full), (vec![B], 1));
}

#[test]
fn a_replica_that_waits_to_be_emptied_takes_over_when_nobody_else_is_left() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    // Emptying A does not get through, and then B dies for good.
    scene.fate = Fate::EmptyingLost;
    scene.until(SOON, "A is to be emptied", |scene| role(scene, A) == RoleName::Retiring);
    scene.at(B).up = false;
    scene.fate = Fate::Told;
    scene.until(LONG, "A is filled and serves", |scene| scene.active() == [A]);
}

#[test]
fn a_drained_replica_that_restarted_takes_over_when_the_new_active_dies() {
    for with_data in [false, true] {
        let mut scene = normal();
        scene.replace_primary(100_000);
        scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
        scene.restart(A, with_data);
        scene.at(B).up = false;
        scene.until(LONG, "A is filled and serves", |scene| scene.active() == [A]);
        assert_eq!(scene.replicas[&address(A)].replid, scene.primary.replid);
    }
}

#[test]
fn a_foreign_server_at_the_address_of_a_draining_replica_is_left_alone() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    scene.restart(A, false);
    scene.at(A).keys = 9;
    let before = scene.commands.len();
    scene.run(SOON);
    assert_eq!(scene.replicas[&address(A)].keys, 9);
    assert_eq!(role(&scene, A), RoleName::Refused);
    assert!(scene.commands[before..].iter().all(|(replica, _)| replica.port != A), "{:?}", &scene.commands[before..]);
}

#[test]
fn a_primary_that_is_away_at_the_first_start_costs_no_full_resync() {
    let mut scene = Scene::one_and_one();
    scene.primary.up = false;
    scene.run(Duration::from_secs(200));
    scene.primary.up = true;
    scene.until(SOON, "A serves", |scene| is_normal(scene) && scene.active() == [A]);
    assert_eq!(scene.sync_full, 0);
}

#[test]
fn an_active_that_is_unreachable_when_rbuddy_starts_can_still_continue() {
    let mut scene = normal();
    scene.at(A).hangs = true;
    scene.restart_rbuddy();
    scene.until(SOON, "rbuddy begins without it", |scene| scene.orders.start.is_some());
    scene.at(A).hangs = false;
    scene.until(SOON, "A serves", |scene| scene.active() == [A]);
    scene.run(SOON);
    assert!(is_normal(&scene));
    assert!(scene.sync_full <= 1, "{}", scene.story.join("\n"));
}

#[test]
fn a_refusal_is_told_once_while_the_primary_is_away() {
    let mut scene = normal();
    scene.primary_is_silent = true;
    scene.replace_primary(10_000);
    scene.until(SOON, "it is refused by what the standby loaded", |scene| scene.phase() == Phase::Refused);
    scene.run(SOON);
    assert_eq!((scene.phase(), scene.active()), (Phase::Refused, vec![A]));
    assert_eq!(told(&scene, "refused, the old one stays served"), 1, "{}", scene.story.join("\n"));
    scene.primary_is_silent = false;
    scene.primary.keys = 90_000;
    scene.until(SOON, "it goes on by itself", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn an_active_that_misses_one_probe_keeps_its_role_when_another_is_added() {
    let mut scene = Scene::with(&[A, B, C], |scene| {
        scene.policy.actives = 2;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "two serve", |scene| scene.active() == [A, B] && scene.phase() == Phase::Normal);
    scene.at(A).up = false;
    scene.until(SOON, "C loads", |scene| scene.replicas[&address(C)].loading_steps == 1);
    // B does not answer just when C is promoted, for less than dead_after.
    scene.at(B).hangs = true;
    scene.until(Duration::from_millis(900), "C is promoted", |scene| role(scene, C) == RoleName::Active);
    scene.at(B).hangs = false;
    scene.until(SOON, "B and C serve", |scene| scene.active() == [B, C]);
    assert_eq!(role(&scene, B), RoleName::Active);
    scene.at(A).up = true;
    scene.until(SOON, "A is the standby", |scene| role(scene, A) == RoleName::Standby && scene.phase() == Phase::Normal);
    assert_eq!((scene.active(), scene.sync_full), (vec![B, C], 1));
}

#[test]
fn the_last_copy_restarts_while_the_new_dataset_is_refused_and_rbuddy_was_restarted() {
    let mut scene = normal();
    scene.replace_primary(0);
    scene.until(SOON, "it is refused", |scene| scene.phase() == Phase::Refused);
    scene.restart_rbuddy();
    scene.until(SOON, "it is refused again", |scene| scene.phase() == Phase::Refused);
    assert_eq!(scene.active(), [A]);
    scene.restart(A, true);
    scene.until(SOON, "A, which is whole, serves again", |scene| scene.active() == [A]);
    scene.run(SOON);
    assert_eq!((scene.active(), scene.replicas[&address(A)].keys), (vec![A], 100_000));
    scene.primary.keys = 80_000;
    scene.until(LONG, "B takes over once it is plausible", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn the_active_dies_while_the_new_dataset_is_refused() {
    let mut scene = normal();
    scene.replace_primary(0);
    scene.until(SOON, "it is refused", |scene| scene.phase() == Phase::Refused);
    scene.at(A).up = false;
    scene.run(SOON);
    assert!(scene.active().is_empty());
    assert!(scene.status().explanation.contains("no replica can be read"), "{}", scene.status().explanation);
    assert_eq!(scene.replicas[&address(A)].keys, 100_000);
    scene.at(A).up = true;
    scene.until(SOON, "A serves again", |scene| scene.active() == [A]);
}

#[test]
fn adopting_the_only_replica_with_the_new_dataset_is_refused() {
    // Two full replicas, one of which falls behind what the primary keeps.
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "both serve", |scene| scene.active() == [A, B] && scene.phase() == Phase::Normal);
    scene.replace_primary(100_000);
    scene.until(SOON, "nothing can take over", |scene| scene.phase() == Phase::NoStandby);
    scene.operate(Operation::Adopt { replica: address(B) }).expect("adopted");
    scene.until(LONG, "B serves, A is the standby", |scene| is_normal(scene) && scene.active() == [B]);
    assert!(scene.operate(Operation::Adopt { replica: address(B) }).is_err());
}

#[test]
fn a_dataset_that_is_superseded_while_it_loads_is_not_promoted_and_no_attempt_of_the_next() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B loads the first", |scene| scene.replicas[&address(B)].loading_steps > 2);
    scene.replace_primary(90_000);
    scene.until(SOON, "B serves", |scene| scene.active() == [B]);
    assert_eq!(scene.replicas[&address(B)].keys, 90_000);
    assert_eq!(told(&scene, "was lost while it was seeded"), 0, "{}", scene.story.join("\n"));
    scene.until(SOON, "A is the standby", is_normal);
    assert_eq!((scene.sync_full, scene.status().generation.0), (2, 2));
}

#[test]
fn a_standby_that_was_killed_while_it_loaded_makes_room_for_another_at_once() {
    let mut scene = Scene::with(&[A, B, C], |scene| scene.follow_primary(A));
    scene.run(Duration::from_secs(3));
    scene.replace_primary(100_000);
    scene.until(SOON, "B loads", |scene| scene.replicas[&address(B)].loading_steps > 0);
    scene.at(B).up = false;
    scene.until(SOON, "C serves", |scene| scene.active() == [C]);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn a_standby_that_fails_again_and_again_makes_room_for_another() {
    let mut scene = Scene::with(&[A, B, C], |scene| scene.follow_primary(A));
    scene.run(Duration::from_secs(3));
    scene.replace_primary(100_000);
    let end = scene.now.after(LONG);
    while scene.active() != [C] {
        assert!(scene.now < end, "{}", scene.story.join("\n"));
        scene.step();
        if scene.replicas[&address(B)].loading_steps == 3 {
            scene.restart(B, false);
            scene.at(B).loading_steps = 0;
        }
    }
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn a_replica_with_an_older_dataset_that_is_added_again_is_never_read() {
    let mut scene = normal();
    let mut old = scene.replicas[&address(A)].clone();
    old.master = None;
    old.link_up = false;
    scene.replace_primary(100_000);
    scene.until(SOON, "B serves, A is the standby", |scene| is_normal(scene) && scene.active() == [B]);
    scene.policy.replicas = vec![address(B), address(C)];
    old.master = Some(address(RELAY));
    scene.replicas.remove(&address(A));
    scene.replicas.insert(address(C), old);
    scene.restart_rbuddy();
    let end = scene.now.after(SOON);
    while scene.now < end {
        scene.step();
        assert!(!scene.active().contains(&C), "{}", scene.story.join("\n"));
    }
    assert_eq!((scene.active(), scene.phase()), (vec![B], Phase::Normal));
}

/// A is dead, which is not known yet, and has less than B's readers have read: back with its data it is not read before it has that.
#[test]
fn what_was_read_at_an_active_that_restarts_empty_is_not_forgotten() {
    let mut scene = Scene::with(&[A, B, C], |scene| {
        scene.policy.actives = 2;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "two serve", |scene| scene.active() == [A, B] && scene.phase() == Phase::Normal);
    scene.run(Duration::from_secs(3));
    scene.at(A).up = false;
    scene.run(Duration::from_millis(500));
    let read_at_b = scene.replicas[&address(B)].offset;
    scene.restart(B, false);
    scene.until(SOON, "B is not read any more", |scene| scene.active() == [A]);
    assert!(scene.assignment.as_ref().unwrap().actives[0].offset_at_least.get() >= read_at_b);
}

#[test]
fn commands_whose_end_is_unknown_are_looked_after() {
    for fate in [Fate::DoneUnknown, Fate::LostUnknown] {
        let mut scene = normal();
        scene.fate = fate;
        scene.replace_primary(100_000);
        scene.run(Duration::from_secs(6));
        scene.fate = Fate::Told;
        scene.until(LONG, "the failover ends", |scene| is_normal(scene) && scene.active() == [B]);
        assert_eq!(scene.sync_full, 1);
    }
}

#[test]
fn late_probes_do_not_change_what_comes_of_a_failover() {
    let mut scene = normal();
    scene.late_probes = true;
    scene.replace_primary(100_000);
    scene.until(LONG, "the failover ends", |scene| is_normal(scene) && scene.active() == [B]);
    scene.replace_primary(100_000);
    scene.until(LONG, "and back", |scene| is_normal(scene) && scene.active() == [A]);
    assert_eq!((scene.sync_full, emptied(&scene).len(), scene.status().generation.0), (2, 2, 3));
}

#[test]
fn a_primary_that_dies_on_the_first_day_leaves_the_data_where_it_is() {
    let mut scene = Scene::one_and_one();
    for _ in 0..2 {
        scene.step();
    }
    scene.primary.up = false;
    scene.at(A).link_up = false;
    scene.run(SOON);
    assert_eq!((scene.active(), scene.replicas[&address(A)].keys), (vec![A], 100_000));
    scene.replace_primary(100_000);
    scene.until(LONG, "the failover ends", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn a_detached_active_that_restarts_is_known_again() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.freeze = FreezeMode::Detach;
        scene.follow_primary(A);
    });
    scene.until(SOON, "normal", is_normal);
    scene.replace_primary(0);
    scene.until(SOON, "A is detached, the dataset refused", |scene| {
        scene.phase() == Phase::Refused && scene.replicas[&address(A)].master.is_none()
    });
    scene.restart(A, true);
    scene.until(SOON, "A serves again", |scene| scene.active() == [A]);
    scene.run(Duration::from_secs(3));
    let before = scene.commands.len();
    scene.run(SOON);
    assert_eq!((scene.active(), scene.commands.len()), (vec![A], before), "it is at rest");
    scene.primary.keys = 100_000;
    scene.until(SOON, "B serves, A is the standby", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn a_refusal_ends_with_the_dataset_that_it_names() {
    let mut scene = normal();
    scene.replace_primary(0);
    scene.until(SOON, "it is refused", |scene| scene.phase() == Phase::Refused);
    scene.at(B).up = false;
    scene.run(Duration::from_secs(3));
    scene.replace_primary(100_000);
    scene.run(Duration::from_secs(3));
    assert_ne!(scene.phase(), Phase::Refused, "{}", scene.status().explanation);
    scene.restart(B, false);
    scene.at(B).up = true;
    scene.until(SOON, "B serves", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn a_spare_replica_of_a_fleet_takes_over_for_two_stranded_actives() {
    let ports = [A, B, C, 6384, 6385];
    let mut scene = Scene::with(&ports, |scene| {
        scene.policy.actives = 2;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "two serve", |scene| scene.active() == [A, B] && scene.phase() == Phase::Normal);
    for round in 1..=3 {
        scene.replace_primary(100_000);
        scene.until(LONG, "two others serve", |scene| {
            scene.active().len() == 2 && scene.phase() == Phase::Normal && scene.sync_full == round
        });
        scene.run(SOON);
        assert_eq!(scene.sync_full, round);
        assert_eq!(scene.replicas.values().filter(|server| server.keys > 0).count(), 2, "spares are empty");
    }
}
