//! Replicas that go in and out of service: readers stay with the steady one, and go to whoever is left.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::status::{Phase, RoleName};
use scene::{A, B, C, Scene};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A and B serve.
fn two_actives(others: &[u16]) -> Scene {
    let ports: Vec<u16> = [&[A, B], others].concat();
    let mut scene = Scene::with(&ports, |scene| {
        scene.policy.actives = 2;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "it begins well", |scene| scene.phase() == Phase::Normal && scene.active() == [A, B]);
    scene
}

/// Out of reach for longer than `dead_after`, and back. (A standby that could take its place would do so, if it were away for longer.)
fn falls(scene: &mut Scene, port: u16) {
    scene.at(port).hangs = true;
    scene.run(s(1) + Duration::from_millis(300));
    assert!(!scene.active().contains(&port), "it is out");
    scene.at(port).hangs = false;
    scene.run(Duration::from_millis(500));
}

/// For how long it stays unread.
fn proof(scene: &mut Scene, port: u16) -> Duration {
    let begin = scene.now;
    scene.until(s(600), "it is read again", |scene| scene.active().contains(&port));
    scene.now.since(begin)
}

#[test]
fn an_active_that_falls_again_and_again_is_read_once_it_has_been_steady_each_time_for_longer() {
    let mut scene = two_actives(&[]);
    for _ in 0..2 {
        falls(&mut scene, A);
        assert_eq!(scene.active(), [A, B], "twice may be chance");
    }
    falls(&mut scene, A);
    assert_eq!(scene.active(), [B]);
    let status = scene.status();
    let flapping = status.replicas[0].flapping.unwrap();
    assert_eq!((flapping.falls, flapping.steady_for_s, status.replicas[0].role), (3, 15, RoleName::Active), "it keeps its role");
    assert!(flapping.until.is_some_and(|until| until > scene.now));
    assert!(scene.story.iter().any(|line| line.contains("Warn") && line.contains("3 times within minutes")), "{:#?}", scene.story);
    assert!(status.explanation.contains("127.0.0.1:6380 went out of service 3 times"), "{}", status.explanation);

    let mut proofs = vec![proof(&mut scene, A)];
    assert!(scene.story.last().unwrap().contains("steady for 15s: counts again"), "{:?}", scene.story.last());
    for _ in 0..5 {
        falls(&mut scene, A);
        proofs.push(proof(&mut scene, A));
    }
    let seconds: Vec<u64> = proofs.iter().map(|proof| (proof.as_secs_f64() + 0.5).round() as u64).collect();
    assert_eq!(seconds, [15, 30, 60, 120, 120, 120]);

    scene.run(s(301));
    falls(&mut scene, A);
    assert_eq!(scene.active(), [A, B], "it has been steady for long, and begins anew");
}

#[test]
fn one_that_falls_while_it_proves_itself_begins_its_proof_again() {
    let mut scene = two_actives(&[]);
    (0..3).for_each(|_| falls(&mut scene, A));
    scene.run(s(10));
    falls(&mut scene, A);
    scene.run(s(28));
    assert_eq!(scene.active(), [B]);
    scene.run(s(2));
    assert_eq!(scene.active(), [A, B]);
}

#[test]
fn the_only_one_that_serves_is_read_however_often_it_fell() {
    let mut scene = two_actives(&[]);
    (0..3).for_each(|_| falls(&mut scene, A));
    assert_eq!(scene.active(), [B]);
    scene.at(B).up = false;
    scene.until(s(2), "A is read at once", |scene| scene.active() == [A]);
    scene.at(B).up = true;
    scene.until(s(5), "readers go back to the steady one", |scene| scene.active() == [B]);
}

#[test]
fn a_process_that_crashes_and_comes_back_at_once_falls_too() {
    let mut scene = two_actives(&[]);
    for _ in 0..3 {
        scene.restart(A, true);
        scene.run(s(3));
    }
    assert_eq!(scene.active(), [B], "{:#?}", scene.status());
}

/// P10: what it was sent while nobody read it holds up no reader elsewhere.
#[test]
fn readers_elsewhere_need_not_wait_for_what_it_gets_unread() {
    let mut scene = two_actives(&[]);
    (0..3).for_each(|_| falls(&mut scene, A));
    let before = scene.assignment.clone();
    scene.run(s(5));
    assert_eq!(scene.assignment, before, "nothing that concerns readers changes");
}

#[test]
fn a_standby_that_flaps_is_filled_last_but_is_filled() {
    let mut scene = Scene::with(&[A, B, C], |scene| scene.follow_primary(A));
    scene.until(SOON, "it begins well", |scene| scene.phase() == Phase::Normal);
    (0..3).for_each(|_| falls(&mut scene, B));
    let mut alone = scene.clone();
    scene.replace_primary(100_000);
    scene.until(SOON, "C is promoted", |scene| scene.active() == [C]);

    alone.at(C).up = false;
    alone.run(s(2));
    alone.replace_primary(100_000);
    alone.until(SOON, "B is promoted", |scene| scene.active() == [B]);
}

#[test]
fn one_that_an_operator_takes_out_and_restarts_is_not_held_to_it() {
    let mut scene = two_actives(&[]);
    (0..3).for_each(|_| falls(&mut scene, A));
    scene.operate(rbuddy_core::control::status::Operation::Drain { replica: scene::address(A) }).unwrap();
    scene.until(SOON, "it is drained", |scene| scene.status().replicas[0].role == RoleName::Drained);
    scene.restart(A, true);
    scene.run(s(1));
    assert_eq!(scene.status().replicas[0].flapping, None);
}
