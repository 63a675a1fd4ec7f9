//! Standbys with too little memory, as the simulator found them: what they have evicted, and what loading kills. Each names the seeds that showed it.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::drift::Settings;
use rbuddy_core::control::event::Probe;
use rbuddy_core::control::status::{Operation, Phase};
use rbuddy_core::info::ServerInfo;
use scene::situations::{SOON, normal};
use scene::{A, B, C, Scene, address};
use std::time::Duration;

fn is_filled(scene: &Scene) -> bool {
    let server = &scene.replicas[&address(B)];
    server.keys == 100_000 && server.loading_steps == 0
}

/// B keeps to a limit, and holds no more than so many keys.
fn evicts(scene: &mut Scene, keys: u64) {
    let settings = Some(Settings { ignores_limit: Some(false), ..Settings::default() });
    let info = ServerInfo { max_memory: Some(100 * keys.max(1)), max_memory_policy: Some("allkeys-lru".into()), ..ServerInfo::default() };
    let server = scene.at(B);
    (server.evicted, server.keys) = (server.keys.saturating_sub(keys), server.keys.min(keys));
    server.says = Some(Box::new(Probe { info, settings, ..Probe::default() }));
}

/// Seeds 201023, 200360: it was promoted without these keys as soon as its limit was raised; or, with less than the guard allows, never any more.
#[test]
fn a_standby_that_has_evicted_keys_is_filled_anew_before_it_is_promoted() {
    for keys in [95_000, 20_000] {
        let mut scene = normal();
        evicts(&mut scene, keys);
        scene.replace_primary(100_000);
        scene.until(SOON, "B is filled", is_filled);
        evicts(&mut scene, keys);
        scene.run(SOON);
        assert_eq!((scene.active(), scene.at(B).keys, scene.phase()), (vec![A], keys, Phase::NoStandby), "{:#?}", scene.status());

        let before = scene.sync_full;
        scene.restart_rbuddy();
        has_all_that_it_needs(&mut scene);
        scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
        assert_eq!(scene.at(B).keys, 100_000);
        assert!(scene.sync_full <= before + 1, "one snapshot for it, where none is kept");
    }
}

fn has_all_that_it_needs(scene: &mut Scene) {
    let said = scene.at(B).says.as_mut().unwrap();
    (said.info.max_memory, said.info.max_memory_policy) = (None, None);
}

/// Seed 104796: nobody looked for as long as the group was paused, and then its limit had been raised.
#[test]
fn what_a_standby_evicts_while_the_group_is_paused_is_known_afterwards() {
    let mut scene = normal();
    evicts(&mut scene, 95_000);
    scene.replace_primary(100_000);
    scene.until(SOON, "B loads", |scene| scene.replicas[&address(B)].loading_steps > 0);
    scene.operate(Operation::Pause).unwrap();
    scene.until(SOON, "B is filled", is_filled);
    evicts(&mut scene, 95_000);
    scene.run(SOON);
    scene.restart_rbuddy();
    has_all_that_it_needs(&mut scene);
    scene.operate(Operation::Resume).unwrap();
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    assert_eq!(scene.at(B).keys, 100_000);
}

/// Seed 103348: it had loaded and evicted, and was restarted before anybody looked. Its next process has evicted nothing.
#[test]
fn a_standby_that_comes_back_with_what_it_kept_of_a_dataset_is_filled_anew_before_it_is_promoted() {
    let mut scene = normal();
    evicts(&mut scene, 95_000);
    scene.replace_primary(100_000);
    scene.until(SOON, "B is filled", is_filled);
    evicts(&mut scene, 95_000);
    scene.restart(B, true);
    scene.run(SOON);
    has_all_that_it_needs(&mut scene);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    assert_eq!(scene.at(B).keys, 100_000);
}

#[test]
fn a_standby_that_dies_while_it_is_filled_and_loads_what_it_had_saved_lacks_the_same_keys() {
    let mut scene = normal();
    evicts(&mut scene, 95_000);
    scene.replace_primary(100_000);
    scene.until(SOON, "B is filled", is_filled);
    evicts(&mut scene, 95_000);
    scene.run(SOON);
    let saved = scene.at(B).clone();
    has_all_that_it_needs(&mut scene);
    scene.until(SOON, "B loads", |scene| scene.replicas[&address(B)].loading_steps > 0);
    scene.restart(B, true);
    let back = scene.at(B);
    (back.keys, back.evicted_before, back.loading_steps) = (saved.keys, saved.evicted, 0);
    (back.replid, back.offset) = (saved.replid, saved.offset);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    assert_eq!(scene.at(B).keys, 100_000);
}

/// Seeds 200859, 201661: the dataset seemed refused, and the standby that had evicted most of it was looked at for ever.
#[test]
fn a_standby_that_has_evicted_most_keys_does_not_keep_another_from_being_filled() {
    let mut scene = Scene::with(&[A, B, C], |scene| scene.follow_primary(A));
    scene.until(SOON, "it begins well", |scene| scene.phase() == Phase::Normal);
    scene.at(C).up = false;
    evicts(&mut scene, 1_000);
    scene.replace_primary(100_000);
    scene.until(SOON, "B is filled", is_filled);
    evicts(&mut scene, 1_000);
    scene.at(A).up = false;
    scene.run(SOON);
    assert_eq!(scene.active(), [], "nothing else is left, and this is next to nothing");
    scene.at(C).up = true;
    scene.until(SOON, "C is promoted", |scene| scene.active() == [C]);
    assert_eq!(scene.status().refusal, None);
}

/// Seed 514610: each time it came back the primary forked for it, as the stream behind the snapshot was not kept for so long.
#[test]
fn the_primary_does_not_fork_for_each_attempt_of_a_standby_that_dies_of_loading() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    for _ in 0..3 {
        scene.until(SOON, "B loads", |scene| scene.replicas[&address(B)].loading_steps > 0);
        scene.at(B).up = false;
        scene.run(Duration::from_secs(2));
        scene.view.snapshot = None;
        scene.restart(B, false);
        (scene.at(B).up, scene.at(B).loading_steps) = (true, 0);
    }
    let before = scene.orders.snapshot_request;
    scene.run(Duration::from_secs(10));
    assert_eq!(scene.orders.snapshot_request, before, "it has only just died");
    assert!(scene.status().explanation.contains("steady"), "{}", scene.status().explanation);
    scene.until(SOON, "it has been steady, and is tried again", |scene| scene.active() == [B]);
}
