//! What a plan says would happen is what happens: each test asks first, and then does it.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::event::Probe;
use rbuddy_core::control::plan::Plan;
use rbuddy_core::control::relay::SessionState;
use rbuddy_core::control::status::{Operation, Phase, RoleName};
use rbuddy_core::info::ServerInfo;
use scene::{A, B, C, Scene, address};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

fn at_rest() -> Scene {
    settled(Scene::one_and_one())
}

fn settled(mut scene: Scene) -> Scene {
    scene.until(SOON, "it begins well", |scene| scene.phase() == Phase::Normal);
    scene.run(Duration::from_secs(12));
    scene
}

fn plan(scene: &Scene) -> Plan {
    scene.controller.plan(scene.now)
}

#[test]
fn a_broken_link_costs_nothing_for_as_long_as_the_primarys_backlog_reaches() {
    let mut scene = at_rest();
    let plan = plan(&scene).link_breaks;
    assert_eq!((plan.bytes_per_second, plan.backlog_bytes), (Some(100), Some(1 << 20)), "ten bytes in each step of 100 ms");
    assert_eq!(plan.partial_for_s, Some((1 << 20) / 100));
    assert_eq!(plan.outlook.served_by, [address(A)]);

    scene.link_cut = true;
    scene.run(Duration::from_secs(1));
    assert_eq!((scene.phase(), scene.active()), (plan.outlook.phase, vec![A]));
    assert_eq!(plan.outlook.phase, Phase::Disconnected);
}

#[test]
fn a_new_primary_fills_the_standby_that_was_named_while_the_active_serves() {
    let mut scene = at_rest();
    let plan = plan(&scene).new_primary;
    assert!(plan.full_resync);
    assert_eq!((plan.filled, &plan.outlook.served_by[..]), (Some(address(B)), &[address(A)][..]));
    let room = plan.memory.unwrap();
    assert_eq!((room.needed_bytes, room.available_bytes, room.suffices), (10_000_000, 1 << 30, true));
    assert!(plan.outlook.story.iter().any(|line| line.contains("seeding the standby")), "{:#?}", plan.outlook.story);

    scene.replace_primary(100_000);
    scene.until(SOON, "the same phase", |scene| scene.phase() == plan.outlook.phase);
    assert_eq!(scene.active(), [A]);
    scene.until(SOON, "it is filled", |scene| scene.active() == [B]);
}

#[test]
fn a_dataset_that_does_not_fit_into_the_standby_is_told() {
    let mut scene = Scene::one_and_one();
    scene.primary.keys = 100_000_000;
    scene.follow_primary(A);
    let room = plan(&settled(scene)).new_primary.memory.unwrap();
    assert!(!room.suffices, "{room:?}");
}

#[test]
fn room_on_disk_is_reckoned_from_the_dataset_first_and_from_its_snapshot_later() {
    let mut scene = at_rest();
    assert_eq!(plan(&scene).new_primary.disk, None, "the relay has not told what is free");
    scene.view.disk_free_bytes = Some(8 << 20);
    scene.step();
    let room = plan(&scene).new_primary.disk.unwrap();
    assert_eq!(
        (room.needed_bytes, room.available_bytes, room.suffices),
        (11_250_000, 8 << 20, false),
        "what the primary uses, and an eighth"
    );

    scene.replace_primary(100_000);
    scene.until(SOON, "it is filled", |scene| scene.active() == [B]);
    let room = plan(&settled(scene)).new_primary.disk.unwrap();
    assert_eq!((room.needed_bytes, room.available_bytes), (1_125, (8 << 20) + 1000), "the last snapshot has 1000 bytes, and makes way");
}

#[test]
fn how_long_it_takes_is_what_it_took_the_last_time() {
    let mut scene = at_rest();
    let before = plan(&scene).new_primary;
    assert_eq!((before.storing_ms, before.filling_ms), (None, None));

    scene.replace_primary(100_000);
    scene.until(SOON, "a snapshot arrives", |scene| scene.phase() == Phase::ReceivingSnapshot);
    let arrives = scene.now;
    scene.until(SOON, "it is stored", |scene| scene.view.ready_snapshot().is_some());
    let stored = scene.now;
    let is = |scene: &Scene, wanted: fn(&SessionState) -> bool| {
        scene.view.sessions.get(&address(B)).is_some_and(|session| wanted(&session.state))
    };
    scene.until(SOON, "B loads", |scene| is(scene, |state| matches!(state, SessionState::Loading { .. })));
    let loads = scene.now;
    scene.until(SOON, "B follows", |scene| is(scene, |state| matches!(state, SessionState::Streaming { .. })));
    let took = plan(&scene).new_primary;
    let ms = |time: Duration| Some(u64::try_from(time.as_millis()).unwrap());
    assert_eq!((took.storing_ms, took.filling_ms), (ms(stored.since(arrives)), ms(scene.now.since(loads))));
    assert_eq!(took.filling_ms, Some(600), "five steps of loading, and one to follow");
}

#[test]
fn the_smaller_of_its_limit_and_its_machines_memory_counts() {
    let mut scene = at_rest();
    let info = ServerInfo { max_memory: Some(9_000_000), ..ServerInfo::default() };
    scene.at(B).says = Some(Box::new(Probe { info, ..Probe::default() }));
    scene.step();
    let room = plan(&scene).new_primary.memory.unwrap();
    assert_eq!((room.needed_bytes, room.available_bytes, room.suffices), (10_000_000, 9_000_000, false));
}

#[test]
fn a_pause_begins_nothing_then_either() {
    let mut scene = at_rest();
    scene.operate(Operation::Pause).unwrap();
    let plan = plan(&scene).new_primary;
    assert_eq!((plan.full_resync, plan.filled, plan.outlook.phase), (false, None, Phase::Paused));
    assert_eq!(plan.outlook.served_by, [address(A)]);
}

#[test]
fn who_serves_when_a_replica_has_died_is_who_was_named() {
    let two_actives = || {
        Scene::with(&[A, B, C], |scene| {
            scene.policy.actives = 2;
            scene.follow_primary(A);
            scene.follow_primary(B);
        })
    };
    for make in [Scene::one_and_one as fn() -> Scene, two_actives] {
        for dead in settled(make()).policy.replicas.clone() {
            let mut scene = settled(make());
            let outlook = plan(&scene).replica_dies.remove(&dead).unwrap();
            scene.at(dead.port).up = false;
            // A standby is filled by and by; before that is what the plan tells of.
            scene.run(scene.policy.dead_after + Duration::from_millis(500));
            let serving: Vec<_> = scene.active().into_iter().map(address).collect();
            assert_eq!(serving, outlook.served_by, "{dead}: {outlook:#?}\n{:#?}", scene.status());
        }
    }
}

/// However patient the group is.
#[test]
fn the_death_of_a_standby_leaves_the_active_serving() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.dead_after = Duration::from_secs(5);
        scene.follow_primary(A);
    });
    scene.until(SOON, "it begins well", |scene| scene.phase() == Phase::Normal);
    scene.run(Duration::from_secs(12));
    assert_eq!(plan(&scene).replica_dies[&address(B)].served_by, [address(A)]);
}

#[test]
fn asking_changes_nothing() {
    let scene = at_rest();
    let before = scene.controller.clone();
    assert_eq!(plan(&scene), plan(&scene));
    assert!(scene.controller == before);
    assert_eq!(scene.status().replicas[1].role, RoleName::Standby);
}
