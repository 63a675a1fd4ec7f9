//! Situations that the simulator found, told by hand. Each names the seed that showed it.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::action::ServerCommand;
use rbuddy_core::control::relay::Start;
use rbuddy_core::control::status::{Operation, Phase};
use rbuddy_core::replication::psync::Permit;
use scene::situations::{SOON, normal};
use scene::{A, B, RELAY, address};
use std::time::Duration;

/// Seeds 2505, 3160, 8629: its connection broke in the moment of its promotion, and the relay seeded it again.
#[test]
fn a_standby_is_promoted_only_after_its_permit_to_be_seeded_was_withdrawn() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    let mut permits = Vec::new();
    while scene.active() != [B] {
        permits.push(scene.permit(B).expect("it is of the group"));
        scene.step();
    }
    assert!(permits.iter().any(|permit| matches!(permit, Permit::Seed(_))), "{permits:?}");
    assert_eq!(permits.last(), Some(&Permit::Keep));
}

/// Seed 9019: the disk was full for ten seconds, the new active died meanwhile, and the old one was emptied.
#[test]
fn what_was_seen_before_a_long_stop_is_not_acted_on() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    scene.at(B).up = false;
    scene.now = scene.now.after(Duration::from_secs(10));
    scene.run(SOON);
    let is_emptying = |command: &&(_, ServerCommand)| matches!(command.1, ServerCommand::Empty { .. });
    assert!(scene.commands.iter().find(is_emptying).is_none(), "{:?}", scene.commands);
    assert_eq!(scene.active(), [A], "it takes back over");
}

/// Seed 962: the primary was asked to continue the history that an empty server had given itself.
#[test]
fn an_active_that_came_back_empty_during_a_pause_does_not_say_where_to_begin() {
    let mut scene = normal();
    scene.operate(Operation::Pause).expect("paused");
    scene.restart(A, false);
    scene.at(A).master = Some(address(RELAY));
    scene.restart_rbuddy();
    scene.run(SOON);
    assert_eq!(scene.orders.start, Some(Start::Fresh));
}

/// Seeds 1582, 1000543: the disk was full for long just after a start. What had been seen was dropped, and the first that answered was taken for all.
#[test]
fn after_a_long_stop_the_silent_are_waited_for_anew() {
    let mut scene = normal();
    scene.restart_rbuddy();
    assert_eq!(scene.orders.start, None);
    scene.now = scene.now.after(Duration::from_secs(10));
    scene.at(A).hangs = true;
    scene.run(Duration::from_secs(1));
    assert_eq!(scene.orders.start, None);
    scene.at(A).hangs = false;
    scene.until(SOON, "A serves on", |scene| scene.phase() == Phase::Normal && scene.active() == [A]);
}
