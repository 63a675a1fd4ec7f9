//! Situations that exploration found, told by hand: waits that were longer than they had to be, or for good, and snapshots that were taken twice.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::relay::UpstreamState;
use rbuddy_core::control::settings::StandbyMode;
use rbuddy_core::control::status::{Phase, RoleName};
use scene::{A, B, Fate, RELAY, STEP, Scene, address};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);

fn is_normal(scene: &Scene) -> bool {
    scene.phase() == Phase::Normal && scene.active().len() == 1 && scene.replicas.values().filter(|s| s.keys == 0).count() == 1
}

fn normal() -> Scene {
    let mut scene = Scene::one_and_one();
    scene
        .until(SOON, "A is moved behind the relay", |scene| is_normal(scene) && scene.replicas[&address(A)].master == Some(address(RELAY)));
    scene
}

fn role(scene: &Scene, port: u16) -> RoleName {
    scene.status().replicas.iter().find(|replica| replica.address.port == port).unwrap().role
}

/// Somebody restored an image of the primary's machine: the same id, far less of it.
fn restore_primary(scene: &mut Scene) {
    scene.primary.offset = 1_000_000;
    scene.view.upstream.state = UpstreamState::Connecting;
}

#[test]
fn a_standby_that_connects_anew_under_an_id_of_two_stretches_is_filled_again() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.primary.offset = 2_000_000;
        scene.follow_primary(A);
    });
    scene.until(SOON, "normal", is_normal);
    scene.run(Duration::from_secs(3));
    restore_primary(&mut scene);
    scene.until(SOON, "B has almost loaded", |scene| scene.replicas[&address(B)].loading_steps == 1);
    scene.step();
    // It may have followed the stretch that ended, for all that its position says.
    scene.view.sessions.remove(&address(B));
    scene.until(SOON, "B serves", |scene| is_normal(scene) && scene.active() == [B]);
    assert_eq!(scene.sync_full, 1, "the same snapshot does");
}

#[test]
fn a_replica_that_has_more_than_the_relay_of_a_stretch_that_ended_is_filled() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.standby = StandbyMode::Warm;
        scene.primary.offset = 2_000_000;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    let both_serve = |scene: &Scene| scene.active() == [A, B] && scene.phase() == Phase::Normal;
    scene.until(SOON, "both serve", both_serve);
    scene.run(Duration::from_secs(3));
    restore_primary(&mut scene);
    scene.run(Duration::from_secs(1));
    scene.until(SOON, "both serve what the primary has now", |scene| {
        both_serve(scene) && scene.replicas.values().all(|replica| replica.offset < 1_100_000)
    });
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn a_replica_that_has_more_than_the_primary_is_filled_though_nobody_remembers_what_ended() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.primary.offset = 2_000_000;
        scene.follow_primary(A);
    });
    scene.until(SOON, "normal", is_normal);
    scene.run(Duration::from_secs(3));
    restore_primary(&mut scene);
    scene.until(SOON, "B serves", |scene| scene.active() == [B]);
    scene.at(A).up = false;
    scene.restart_rbuddy();
    scene.until(SOON, "B serves on", |scene| scene.active() == [B] && scene.view.upstream.state == UpstreamState::Streaming);
    scene.at(B).up = false;
    scene.run(Duration::from_secs(5));
    scene.restart(A, true);
    scene.at(A).up = true;
    scene.until(SOON, "A is filled and serves", |scene| scene.active() == [A] && scene.replicas[&address(A)].offset < 1_100_000);
}

#[test]
fn a_standby_that_is_ahead_of_a_relay_that_goes_on_from_its_disk_is_not_filled_again() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B follows", |scene| scene.replicas[&address(B)].link_up);
    let replid = scene.primary.replid;
    // The relay's disk has not all that B was sent, and the primary is away for a moment.
    scene.restart_rbuddy();
    scene.at(B).offset += 50;
    scene.link_cut = true;
    scene.run(Duration::from_secs(3));
    let held = scene.held(B);
    assert!(matches!(held, Some(rbuddy_core::replication::psync::HoldReason::Ahead { .. })), "{held:?}");
    scene.link_cut = false;
    scene.until(SOON, "B serves", |scene| {
        assert_eq!(scene.replicas[&address(B)].loading_steps, 0, "filled anew");
        scene.active() == [B]
    });
    assert_eq!((scene.replicas[&address(B)].replid, scene.sync_full), (replid, 1));
}

#[test]
fn a_dead_active_is_waited_for_once() {
    let mut scene = normal();
    let died = scene.now;
    scene.at(A).up = false;
    scene.until(SOON, "a snapshot is asked for", |scene| scene.sync_full == 1);
    let waited = scene.now.since(died);
    assert!(waited >= scene.policy.dead_after && waited <= scene.policy.dead_after + 3 * STEP, "{waited:?}");
    scene.until(SOON, "B serves", |scene| scene.active() == [B]);
}

#[test]
fn an_active_that_is_back_before_it_counts_as_dead_costs_no_snapshot() {
    let mut scene = normal();
    scene.at(A).up = false;
    scene.run(scene.policy.dead_after - STEP);
    scene.restart(A, true);
    scene.at(A).up = true;
    scene.until(SOON, "A serves", |scene| is_normal(scene) && scene.active() == [A]);
    scene.run(SOON);
    assert_eq!((scene.active(), scene.sync_full), (vec![A], 0));
}

#[test]
fn a_new_active_that_dies_while_readers_leave_is_filled_again_from_the_same_snapshot() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    scene.run(Duration::from_millis(500));
    scene.at(B).up = false;
    scene.until(SOON, "A takes back over", |scene| scene.active() == [A]);
    // Not even the primary is needed.
    scene.link_cut = true;
    scene.restart(B, false);
    scene.at(B).up = true;
    scene.until(SOON, "B is promoted again", |scene| scene.active() == [B]);
    scene.link_cut = false;
    scene
        .until(SOON, "A is the standby, and nobody needs the snapshot any more", |scene| is_normal(scene) && scene.view.snapshot.is_none());
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn one_that_waits_to_be_emptied_is_filled_from_the_same_snapshot_when_the_new_active_dies() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.fate = Fate::EmptyingLost;
    scene.until(SOON, "A is to be emptied", |scene| role(scene, A) == RoleName::Retiring);
    scene.at(B).up = false;
    scene.until(SOON, "A is filled and serves", |scene| scene.active() == [A]);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn a_dead_old_active_keeps_no_snapshot_on_disk() {
    let mut scene = normal();
    scene.at(A).up = false;
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    scene.run(Duration::from_secs(1));
    assert_eq!(role(&scene, A), RoleName::Draining);
    assert!(scene.view.snapshot.is_none());
}

#[test]
fn a_command_whose_end_is_unknown_is_asked_again_soon() {
    for fate in [Fate::DoneUnknown, Fate::LostUnknown] {
        let mut scene = normal();
        scene.replace_primary(100_000);
        scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
        scene.fate = fate;
        scene.run(SOON);
        assert_eq!(role(&scene, A), RoleName::Draining, "its clients were not told to go, as far as is known");
        scene.fate = Fate::Told;
        scene.until(Duration::from_secs(2), "A is the standby", is_normal);
    }
}
