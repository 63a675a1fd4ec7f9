//! One id that names two stretches of bytes: the primary's backlog was too short for a break, or its machine was restored from an image and it went on from
//! below what had arrived. Nobody gets the other's bytes, and nobody waits for good.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::relay::UpstreamState;
use rbuddy_core::control::settings::StandbyMode;
use rbuddy_core::control::status::Phase;
use rbuddy_core::replication::psync::HoldReason;
use scene::situations::{SOON, is_normal, normal, settled};
use scene::{A, B, Scene, address};
use std::time::Duration;

/// A serves, and B is empty; the primary has come far.
fn far_on() -> Scene {
    let mut scene = settled(Scene::with(&[A, B], |scene| {
        scene.primary.offset = 2_000_000;
        scene.follow_primary(A);
    }));
    scene.run(Duration::from_secs(3));
    scene
}

/// Somebody restored an image of the primary's machine: the same id, far less of it.
fn restore_primary(scene: &mut Scene) {
    scene.primary.offset = 1_000_000;
    scene.view.upstream.state = UpstreamState::Connecting;
}

#[test]
fn a_gap_in_the_same_history_is_a_failover_too() {
    let mut scene = normal();
    scene.link_cut = true;
    scene.run(Duration::from_secs(2));
    scene.primary.offset += 1_000_000;
    scene.primary.backlog_from = scene.primary.offset - 10;
    scene.link_cut = false;
    scene.until(SOON, "B is promoted", |scene| is_normal(scene) && scene.active() == [B]);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn a_primary_restored_from_an_image_does_not_feed_the_active_other_bytes() {
    let mut scene = normal();
    scene.run(Duration::from_secs(3));
    let served = scene.replicas[&address(A)].offset;
    // Same id, less of it: the bytes that follow are not those that A has.
    scene.primary.offset = served - 200;
    scene.primary.keys = 90_000;
    scene.view.upstream.state = UpstreamState::Connecting;
    let end = scene.now.after(SOON);
    while scene.active() != [B] {
        scene.step();
        assert!(!scene.replicas[&address(A)].link_up || scene.sync_full == 0, "A was fed: {}", scene.story.join("\n"));
        assert!(scene.now < end, "{}", scene.story.join("\n"));
    }
    scene.until(SOON, "A is the standby", is_normal);
}

#[test]
fn the_old_active_can_be_read_again_when_the_new_one_dies_though_both_have_one_id() {
    let mut scene = normal();
    scene.run(Duration::from_secs(3));
    // Too long a break for the primary's backlog: a new dataset under the same id.
    scene.primary.offset += 1_000_000;
    scene.primary.backlog_from = scene.primary.offset - 10;
    scene.view.upstream.state = UpstreamState::Connecting;
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    scene.at(B).up = false;
    scene.until(SOON, "A takes back over", |scene| scene.active() == [A]);
    let least = scene.assignment.as_ref().unwrap().actives[0].offset_at_least.get();
    assert!(
        least <= scene.replicas[&address(A)].offset,
        "nobody can read it: it is at {}, and must be at {least}",
        scene.replicas[&address(A)].offset
    );
}

#[test]
fn a_primary_that_began_again_far_below_need_not_get_to_where_it_was() {
    let mut scene = far_on();
    restore_primary(&mut scene);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    let least = scene.assignment.as_ref().unwrap().actives[0].offset_at_least.get();
    assert!(least < 1_100_000, "nobody can read it before it is at {least}");
    scene.until(SOON, "A is the standby", is_normal);
}

#[test]
fn a_standby_that_connects_anew_under_an_id_of_two_stretches_is_filled_again() {
    let mut scene = far_on();
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
    let mut scene = far_on();
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
    assert!(matches!(held, Some(HoldReason::Ahead { .. })), "{held:?}");
    scene.link_cut = false;
    scene.until(SOON, "B serves", |scene| {
        assert_eq!(scene.replicas[&address(B)].loading_steps, 0, "filled anew");
        scene.active() == [B]
    });
    assert_eq!((scene.replicas[&address(B)].replid, scene.sync_full), (replid, 1));
}
