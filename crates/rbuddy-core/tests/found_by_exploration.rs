//! Situations that exploration found, told by hand: waits that were longer than they had to be, or for good, and snapshots that were taken twice.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::status::RoleName;
use rbuddy_core::types::{Flavour, ServerVersion};
use scene::situations::{SOON, is_normal, normal, role};
use scene::{A, B, Fate, STEP, Scene, address};
use std::time::Duration;

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

/// It may only be busy with one long command.
#[test]
fn an_active_that_hangs_is_waited_for_once_more() {
    let mut scene = normal();
    scene.until(SOON, "A follows", |scene| scene.replicas[&address(A)].link_up);
    scene.run(STEP);
    scene.at(A).hangs = true;
    scene.until(SOON, "A counts as dead", |scene| scene.active().is_empty());
    scene.run(scene.policy.dead_after - 2 * STEP);
    scene.at(A).hangs = false;
    scene.until(SOON, "A serves", |scene| is_normal(scene) && scene.active() == [A]);
    assert_eq!(scene.sync_full, 0);
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
    scene.until(SOON, "A is the standby", is_normal);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn an_active_that_dies_long_after_it_was_promoted_is_replaced_from_the_same_snapshot() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted, and A the standby", |scene| scene.active() == [B] && is_normal(scene));
    scene.run(Duration::from_secs(600));
    scene.at(B).up = false;
    scene.until(SOON, "A is filled and serves", |scene| scene.active() == [A]);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn a_snapshot_that_the_stream_has_outgrown_or_that_a_replica_cannot_load_is_not_kept() {
    let changes: [fn(&mut Scene); 4] = [
        |scene| scene.primary.offset += 300 << 20,
        |scene| scene.at(A).version = ServerVersion::parse(Flavour::Redis, "6.2.14").unwrap(),
        // It would be overrun while a replica loads.
        |scene| {
            scene.view.backlog.kept_bytes_max = Some(100 << 20);
            scene.primary.offset += 60 << 20;
        },
        |scene| scene.view.backlog.disk_error = Some("no space left".into()),
    ];
    for change in changes {
        let mut scene = normal();
        scene.replace_primary(100_000);
        scene.until(SOON, "B is promoted, and A the standby", |scene| scene.active() == [B] && is_normal(scene));
        scene.run(Duration::from_secs(5));
        assert!(scene.view.snapshot.is_some());
        change(&mut scene);
        scene.until(SOON, "it is removed", |scene| scene.view.snapshot.is_none());
        scene.run(Duration::from_secs(5));
        assert_eq!((scene.sync_full, scene.active()), (1, vec![B]), "and no other is taken before one is needed");
    }
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
fn a_dead_old_active_keeps_no_snapshot_on_disk_for_ever() {
    let mut scene = normal();
    scene.at(A).up = false;
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    scene.run(Duration::from_secs(1));
    assert_eq!(role(&scene, A), RoleName::Draining);
    scene.primary.offset += 300 << 20;
    scene.until(SOON, "the stream has outgrown it", |scene| scene.view.snapshot.is_none());
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
