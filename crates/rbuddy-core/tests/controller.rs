//! The controller in a small world: the failover of the design, its guards, restarts. Each test is a situation and what must come of it.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::settings::FreezeMode;
use rbuddy_core::control::status::{Operation, Phase, RoleName};
use rbuddy_core::replication::psync::Permit;
use scene::situations::{SOON, emptied, is_normal, normal};
use scene::{A, B, C, RELAY, Scene, address};
use std::time::Duration;

#[test]
fn a_running_pair_is_taken_over_with_its_data_in_place() {
    let scene = normal();
    assert_eq!(scene.sync_full, 0, "partial resync only");
    assert_eq!(scene.active(), [A]);
    assert_eq!(emptied(&scene), [0u16; 0]);
    assert_eq!(scene.replicas[&address(A)].keys, 100_000);
    assert!(!scene.replicas[&address(B)].serve_stale, "a standby answers no reads");
    assert_eq!(scene.permit(B), Some(Permit::Hold));
}

#[test]
fn a_short_break_costs_nothing() {
    let mut scene = normal();
    scene.link_cut = true;
    scene.until(SOON, "the break is seen", |scene| scene.phase() == Phase::Disconnected);
    assert_eq!(scene.active(), [A]);
    scene.link_cut = false;
    scene.until(SOON, "it goes on", is_normal);
    assert_eq!((scene.active(), scene.sync_full), (vec![A], 0));
}

#[test]
fn a_new_dataset_is_promoted_and_the_old_active_emptied() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    assert!(emptied(&scene).is_empty(), "readers still leave it");
    assert_eq!(scene.replicas[&address(A)].keys, 100_000, "the old one keeps its data while it drains");
    scene.until(SOON, "A is the standby", is_normal);
    assert_eq!((scene.active(), emptied(&scene), scene.sync_full), (vec![B], vec![A], 1));
    let status = scene.status();
    assert_eq!(status.generation.0, 2);
    scene.replace_primary(100_000);
    scene.until(SOON, "and back", |scene| is_normal(scene) && scene.active() == [A]);
    assert_eq!(scene.sync_full, 2);
}

#[test]
fn an_empty_primary_is_refused_until_it_is_plausible_again() {
    let mut scene = normal();
    scene.replace_primary(0);
    scene.until(SOON, "it is refused", |scene| scene.phase() == Phase::Refused);
    scene.run(Duration::from_secs(10));
    assert_eq!((scene.active(), scene.phase()), (vec![A], Phase::Refused));
    assert_eq!(scene.replicas[&address(B)].keys, 0, "the standby was not given it");
    assert!(emptied(&scene).is_empty());
    scene.primary.keys = 60_000;
    scene.until(SOON, "it goes on by itself", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn an_operator_approves_exactly_the_dataset_that_is_refused() {
    let mut scene = normal();
    scene.replace_primary(10_000);
    scene.until(SOON, "10 % is refused", |scene| scene.phase() == Phase::Refused);
    let dataset = scene.status().refusal.expect("refused").dataset;
    let other = format!("{}:1", "f".repeat(40)).parse().unwrap();
    assert!(scene.operate(Operation::Approve { dataset: other }).is_err());
    scene.operate(Operation::Approve { dataset }).expect("approved");
    scene.until(SOON, "it is promoted", |scene| is_normal(scene) && scene.active() == [B]);
    // An approval is for one dataset: the next one is judged again.
    scene.replace_primary(0);
    scene.until(SOON, "the next one is refused", |scene| scene.phase() == Phase::Refused);
}

#[test]
fn a_cache_that_expired_during_the_outage_is_not_refused() {
    let mut scene = Scene::with(&[A, B], |scene| {
        (scene.primary.expires, scene.primary.avg_ttl_ms) = (100_000, 3_000);
        scene.follow_primary(A);
    });
    scene.until(SOON, "normal", is_normal);
    scene.primary.up = false;
    scene.run(Duration::from_secs(5));
    scene.replace_primary(0);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    assert!(!scene.story.iter().any(|line| line.contains("refused")), "{}", scene.story.join("\n"));
}

#[test]
fn rbuddy_may_die_at_every_step_of_a_failover() {
    // The number of steps of an undisturbed failover, then a crash in each of them.
    let mut undisturbed = normal();
    undisturbed.replace_primary(100_000);
    let begin = undisturbed.now;
    undisturbed.until(SOON, "done", |scene| is_normal(scene) && scene.active() == [B]);
    let steps = undisturbed.now.since(begin).as_millis() / scene::STEP.as_millis();
    for step in 0..=steps {
        let mut scene = normal();
        scene.replace_primary(100_000);
        (0..step).for_each(|_| scene.step());
        scene.restart_rbuddy();
        scene.until(SOON, &format!("the failover ends after a crash in step {step}"), |scene| is_normal(scene) && scene.active() == [B]);
        assert!(scene.sync_full <= 2, "step {step}: {} full resyncs", scene.sync_full);
        assert_eq!(scene.replicas[&address(B)].keys, 100_000);
    }
}

#[test]
fn a_restart_of_rbuddy_costs_no_full_resync() {
    let mut scene = normal();
    for _ in 0..3 {
        scene.restart_rbuddy();
        scene.run(Duration::from_secs(3));
        assert!(is_normal(&scene));
    }
    assert_eq!((scene.sync_full, scene.active()), (0, vec![A]));
}

#[test]
fn two_full_replicas_stay_active_until_one_is_adopted() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.run(Duration::from_secs(5));
    assert_eq!(scene.active(), [A, B]);
    scene.replace_primary(100_000);
    scene.until(SOON, "nothing can take over", |scene| scene.phase() == Phase::NoStandby);
    assert_eq!(scene.active(), [A, B]);
    scene.operate(Operation::Adopt { replica: address(B) }).expect("adopted");
    scene.until(SOON, "B is seeded and promoted", |scene| scene.active() == [B]);
    scene.until(SOON, "A is the standby", is_normal);
}

#[test]
fn two_empty_replicas_are_filled() {
    let mut scene = Scene::with(&[A, B], |_| {});
    scene.until(SOON, "one is active", |scene| is_normal(scene) && scene.active() == [A]);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn foreign_keys_are_left_alone() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.follow_primary(A);
        scene.at(B).keys = 5;
    });
    scene.run(Duration::from_secs(5));
    scene.replace_primary(100_000);
    scene.run(Duration::from_secs(20));
    assert!(scene.commands.iter().all(|(replica, _)| replica.port != B), "{:?}", scene.commands);
    let status = scene.status();
    assert_eq!(status.replicas[1].role, RoleName::Refused);
    assert!(status.replicas[1].note.as_deref().unwrap().contains("adopt"));
    scene.operate(Operation::Adopt { replica: address(B) }).expect("adopted");
    scene.until(SOON, "B is seeded and promoted", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn the_primary_is_never_taken_for_a_replica() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.follow_primary(A);
        let primary = scene.primary.clone();
        *scene.at(B) = primary;
    });
    scene.run(Duration::from_secs(5));
    assert!(scene.operate(Operation::Adopt { replica: address(B) }).is_err());
    scene.run(Duration::from_secs(5));
    assert!(scene.commands.iter().all(|(replica, _)| replica.port != B));
}

#[test]
fn the_active_restarts_with_its_data_and_serves_again() {
    let mut scene = normal();
    scene.restart(A, true);
    scene.step();
    assert!(scene.active().is_empty() || scene.held(A).is_none(), "another process is not read before it is judged");
    scene.until(SOON, "it serves again", |scene| is_normal(scene) && scene.active() == [A]);
    assert_eq!(scene.sync_full, 0);
}

#[test]
fn the_active_restarts_empty_and_the_standby_is_filled() {
    let mut scene = normal();
    scene.restart(A, false);
    scene.step();
    assert!(scene.active().is_empty(), "an empty one is not read");
    scene.until(SOON, "one of them is filled and serves", is_normal);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn the_active_dies_while_held_and_the_new_dataset_takes_over() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "the standby is seeded", |scene| scene.phase() == Phase::SyncingStandby);
    scene.restart(A, false);
    scene.until(SOON, "B serves", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn a_hung_active_is_replaced_and_later_reused() {
    let mut scene = normal();
    scene.at(A).hangs = true;
    scene.until(SOON, "B serves", |scene| scene.active() == [B]);
    scene.at(A).hangs = false;
    scene.until(SOON, "A is the standby", is_normal);
}

#[test]
fn the_old_active_takes_back_over_when_the_new_one_dies_during_the_drain() {
    let mut scene = normal();
    scene.policy.drain = Duration::from_secs(2);
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    scene.at(B).up = false;
    scene.until(SOON, "A takes back over", |scene| scene.active() == [A]);
    assert_eq!(scene.replicas[&address(A)].keys, 100_000);
    scene.at(B).up = true;
    scene.restart(B, true);
    scene.until(Duration::from_secs(60), "the new dataset is served again", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn a_standby_that_dies_while_it_loads_leaves_the_active_untouched() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B loads", |scene| scene.replicas[&address(B)].loading_steps > 0);
    scene.at(B).up = false;
    scene.run(Duration::from_secs(10));
    assert_eq!(scene.active(), [A]);
    assert_eq!(scene.replicas[&address(A)].keys, 100_000);
    scene.restart(B, false);
    (scene.at(B).up, scene.at(B).loading_steps) = (true, 0);
    scene.until(SOON, "B is promoted all the same", |scene| is_normal(scene) && scene.active() == [B]);
    assert_eq!(scene.sync_full, 1, "the snapshot on disk serves again");
}

#[test]
fn a_paused_group_changes_nothing() {
    let mut scene = normal();
    scene.operate(Operation::Pause).expect("paused");
    let before = scene.commands.len();
    scene.replace_primary(100_000);
    scene.run(Duration::from_secs(10));
    assert_eq!((scene.active(), scene.commands.len()), (vec![A], before));
    assert_eq!(scene.sync_full, 0, "not even the primary is asked for a full resync");
    assert!(scene.orders.must_look, "nor for what may come to one where it cannot be looked at");
    assert!(scene.status().explanation.contains("a full resync from the primary waits"), "{}", scene.status().explanation);
    assert!(scene.operate(Operation::Failover).is_err());
    scene.operate(Operation::Resume).expect("resumed");
    scene.until(SOON, "it goes on", |scene| is_normal(scene) && scene.active() == [B]);
    assert!(!scene.orders.must_look);
}

#[test]
fn a_paused_group_says_why_the_primary_is_away() {
    let mut scene = normal();
    scene.operate(Operation::Pause).expect("paused");
    scene.link_cut = true;
    scene.run(Duration::from_secs(2));
    assert!(scene.status().explanation.contains("the primary is away (the link is cut)"), "{}", scene.status().explanation);
}

#[test]
fn a_standby_that_took_foreign_keys_is_not_overwritten() {
    let mut scene = normal();
    scene.restart(B, false);
    scene.at(B).keys = 7;
    scene.replace_primary(100_000);
    scene.run(Duration::from_secs(10));
    assert_eq!((scene.replicas[&address(B)].keys, scene.active()), (7, vec![A]));
    assert_eq!(scene.status().replicas[1].role, RoleName::Refused);
}

#[test]
fn detach_freezes_the_old_active_and_empties_it_afterwards() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.freeze = FreezeMode::Detach;
        scene.follow_primary(A);
    });
    scene.until(SOON, "normal", is_normal);
    scene.replace_primary(100_000);
    scene.until(SOON, "A is detached", |scene| scene.replicas[&address(A)].master.is_none());
    assert_eq!(scene.active(), [A]);
    scene.until(SOON, "B serves, A is the standby", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn a_spare_standby_stays_empty() {
    let mut scene = Scene::with(&[A, B, C], |scene| scene.follow_primary(A));
    scene.run(Duration::from_secs(3));
    scene.replace_primary(100_000);
    scene.until(SOON, "B serves", |scene| scene.active() == [B] && scene.phase() == Phase::Normal);
    assert_eq!(scene.replicas[&address(C)].keys, 0);
    assert_eq!(emptied(&scene), [A]);
}

#[test]
fn readers_of_a_dead_active_find_at_the_other_one_all_that_it_was_sent() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "both serve, behind the relay", |scene| {
        scene.active() == [A, B] && scene.replicas.values().all(|replica| replica.master == Some(address(RELAY)))
    });
    scene.run(Duration::from_secs(1));
    let sent_to_a = scene.replicas[&address(A)].offset;
    scene.at(A).up = false;
    scene.until(SOON, "A is not read any more", |scene| scene.active() == [B]);
    let floor = scene.assignment.as_ref().unwrap().actives[0].offset_at_least.get();
    assert!(floor >= sent_to_a, "A was sent {sent_to_a}, B must have {floor}");
    scene.run(Duration::from_secs(1));
    assert_eq!(scene.assignment.as_ref().unwrap().actives[0].offset_at_least.get(), floor, "the floor stands still");
}
