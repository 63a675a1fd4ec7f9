//! The switch that an operator asks for: what it loses (nothing), and what becomes of it when something else happens meanwhile.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::status::{Operation, Phase};
use scene::situations::{LONG, SOON, is_normal, normal};
use scene::{A, B, Scene, address};
use std::time::Duration;

#[test]
fn a_planned_switch_takes_a_fresh_snapshot_and_loses_no_position() {
    let mut scene = normal();
    scene.operate(Operation::Failover).expect("planned");
    let mut sent_to_old = 0;
    let end = scene.now.after(SOON);
    while scene.active() != [B] {
        sent_to_old = scene.replicas[&address(A)].offset;
        scene.step();
        assert!(scene.now < end, "{}", scene.story.join("\n"));
    }
    assert!(scene.replicas[&address(B)].offset >= sent_to_old);
    scene.until(SOON, "A is the standby", is_normal);
    assert_eq!(scene.sync_full, 1);
}

#[test]
fn a_planned_switch_whose_standby_dies_lets_the_active_follow_on() {
    let mut scene = normal();
    scene.operate(Operation::Failover).expect("planned");
    scene.until(SOON, "A's stream stands still", |scene| !scene.orders.paused_streams.is_empty());
    scene.at(B).up = false;
    scene.until(SOON, "A follows on", |scene| scene.orders.paused_streams.is_empty());
    scene.until(LONG, "status is normal again", |scene| scene.phase() == Phase::Normal);
    assert_eq!(scene.active(), [A]);
}

#[test]
fn a_pause_during_a_planned_switch_lets_the_active_follow_on() {
    let mut scene = normal();
    scene.operate(Operation::Failover).expect("planned");
    scene.until(SOON, "A's stream stands still", |scene| !scene.orders.paused_streams.is_empty());
    scene.operate(Operation::Pause).expect("paused");
    scene.run(Duration::from_secs(1));
    assert!(scene.orders.paused_streams.is_empty(), "{:?}", scene.orders.paused_streams);
}

#[test]
fn a_planned_switch_survives_a_break_of_the_link() {
    let mut scene = normal();
    scene.operate(Operation::Failover).expect("planned");
    scene.run(Duration::from_millis(300));
    scene.link_cut = true;
    scene.run(Duration::from_secs(8));
    assert!(scene.orders.paused_streams.is_empty());
    scene.link_cut = false;
    scene.until(LONG, "it ends", |scene| is_normal(scene) && scene.active() == [B]);
}

#[test]
fn a_planned_switch_meets_a_new_dataset() {
    let mut scene = normal();
    scene.operate(Operation::Failover).expect("planned");
    scene.until(SOON, "A's stream stands still", |scene| !scene.orders.paused_streams.is_empty());
    scene.replace_primary(100_000);
    scene.until(LONG, "it ends", |scene| is_normal(scene) && scene.active() == [B]);
}

/// Chaos seed 3009: while the disk was full the time in which readers could have left passed by, and they were cut off.
#[test]
fn readers_have_their_time_to_leave_from_when_they_are_told() {
    let mut scene = normal();
    scene.operate(Operation::Failover).expect("planned");
    scene.until(SOON, "B loads", |scene| scene.replicas[&address(B)].loading_steps > 0);
    scene.writing_takes = 2 * scene.policy.drain;
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    let told = scene.now;
    scene.writing_takes = Duration::ZERO;
    let leave_until = |scene: &Scene| scene.assignment.as_ref().and_then(|assignment| assignment.draining.first()?.until);
    scene.until(SOON, "it is said until when readers may stay", |scene| leave_until(scene).is_some());
    assert!(leave_until(&scene) >= Some(told.after(scene.policy.drain)), "{:?} after {told}", scene.assignment);
    scene.until(LONG, "A is the standby", is_normal);
}
