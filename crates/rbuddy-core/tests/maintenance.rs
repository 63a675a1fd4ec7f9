//! An operator takes servers out and back in: what readers notice (nothing), what the controller leaves alone, and what `may-stop` says on the way.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::settings::FreezeMode;
use rbuddy_core::control::status::{Operation, Phase, RoleName};
use scene::situations::{SOON, normal, role};
use scene::{A, B, C, RELAY, Scene, address, replid};
use std::time::Duration;

fn drain(scene: &mut Scene, port: u16) -> Result<String, String> {
    scene.operate(Operation::Drain { replica: address(port) })
}

fn give_back(scene: &mut Scene, port: u16) -> Result<String, String> {
    scene.operate(Operation::Return { replica: address(port) })
}

fn may_stop(scene: &Scene, port: u16) -> bool {
    let status = scene.status();
    let replica = status.replicas.iter().find(|replica| replica.address.port == port).unwrap();
    assert!(!replica.may_stop.reason.is_empty());
    replica.may_stop.allowed
}

fn is_normal_with(actives: usize) -> impl Fn(&Scene) -> bool {
    move |scene| scene.phase() == Phase::Normal && scene.active().len() == actives
}

/// A and B serve, C is the empty standby.
fn two_and_one() -> Scene {
    let mut scene = Scene::with(&[A, B, C], |scene| {
        scene.policy.actives = 2;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "it begins", |scene| {
        is_normal_with(2)(scene) && [A, B].iter().all(|port| scene.replicas[&address(*port)].master == Some(address(RELAY)))
    });
    scene
}

/// Steps until it is so; somebody serves all the time.
fn served_until(scene: &mut Scene, what: &str, so: impl Fn(&Scene) -> bool) {
    let end = scene.now.after(SOON);
    while !so(scene) {
        assert!(scene.now < end, "not in time: {what}\n{}", scene.story.join("\n"));
        scene.step();
        assert!(!scene.active().is_empty(), "nobody serves: {what}");
    }
}

fn commands_to(scene: &Scene, port: u16) -> usize {
    scene.commands.iter().filter(|(replica, _)| replica.port == port).count()
}

#[test]
fn the_only_active_is_drained_by_a_switch_to_the_standby() {
    let mut scene = normal();
    assert!(!may_stop(&scene, A) && may_stop(&scene, B));
    drain(&mut scene, A).unwrap();
    served_until(&mut scene, "B serves", |scene| scene.active() == [B]);
    assert!(!may_stop(&scene, A), "readers are leaving it");
    served_until(&mut scene, "A is drained", |scene| role(scene, A) == RoleName::Drained);
    assert!(may_stop(&scene, A) && !may_stop(&scene, B));
    assert_eq!(scene.replicas[&address(A)].keys, 100_000, "it is not emptied");
    let told = commands_to(&scene, A);

    // Upgraded, with its data.
    scene.at(A).up = false;
    scene.run(Duration::from_secs(5));
    assert_eq!((scene.active(), scene.phase()), (vec![B], Phase::Normal));
    scene.restart(A, true);
    scene.at(A).up = true;
    scene.run(Duration::from_secs(5));
    assert_eq!((role(&scene, A), commands_to(&scene, A)), (RoleName::Drained, told), "left alone until it is returned");

    let snapshots = scene.sync_full;
    give_back(&mut scene, A).unwrap();
    served_until(&mut scene, "A is the standby", |scene| scene.replicas[&address(A)].keys == 0 && role(scene, A) == RoleName::Standby);
    assert_eq!((scene.active(), scene.sync_full), (vec![B], snapshots));
}

#[test]
fn one_of_two_actives_is_drained_and_comes_back_without_a_resync() {
    let mut scene = two_and_one();
    drain(&mut scene, A).unwrap();
    served_until(&mut scene, "A is drained", |scene| role(scene, A) == RoleName::Drained);
    // The standby takes its place: two are to serve.
    served_until(&mut scene, "B and C serve", is_normal_with(2));
    let snapshots = scene.sync_full;
    drain(&mut scene, B).unwrap();
    served_until(&mut scene, "B is drained", |scene| role(scene, B) == RoleName::Drained);
    assert_eq!(scene.active(), [C]);
    served_until(&mut scene, "one that is left is enough", is_normal_with(1));
    assert!(scene.status().explanation.contains("return"), "{}", scene.status().explanation);
    give_back(&mut scene, A).unwrap();
    served_until(&mut scene, "A serves again", |scene| is_normal_with(2)(scene) && scene.active().contains(&A));
    assert_eq!(scene.sync_full, snapshots, "it had followed all the time");
}

#[test]
fn the_only_active_without_a_standby_is_not_drained() {
    let mut scene = Scene::with(&[A], |scene| scene.follow_primary(A));
    scene.until(SOON, "it begins", is_normal_with(1));
    let refusal = drain(&mut scene, A).expect_err("nobody could take its readers");
    assert!(refusal.contains("standby"), "{refusal}");
    scene.run(Duration::from_secs(5));
    assert_eq!((role(&scene, A), may_stop(&scene, A)), (RoleName::Active, false));
}

#[test]
fn a_drained_standby_is_not_used_until_it_is_returned() {
    let mut scene = normal();
    drain(&mut scene, B).unwrap();
    assert!(may_stop(&scene, B));
    scene.replace_primary(100_000);
    scene.until(SOON, "a failover has nobody to switch to", |scene| scene.phase() == Phase::NoStandby);
    assert!(scene.status().explanation.contains("rbuddy return"), "{}", scene.status().explanation);
    scene.run(Duration::from_secs(5));
    assert_eq!((scene.active(), scene.replicas[&address(B)].keys), (vec![A], 0));
    give_back(&mut scene, B).unwrap();
    served_until(&mut scene, "B takes over", |scene| scene.active() == [B]);
}

#[test]
fn a_restart_of_rbuddy_forgets_no_drained_replica() {
    let mut scene = normal();
    drain(&mut scene, A).unwrap();
    served_until(&mut scene, "A is drained", |scene| role(scene, A) == RoleName::Drained);
    scene.restart_rbuddy();
    let told = commands_to(&scene, A);
    scene.until(SOON, "it goes on", is_normal_with(1));
    scene.run(Duration::from_secs(3));
    assert_eq!((role(&scene, A), scene.active(), commands_to(&scene, A)), (RoleName::Drained, vec![B], told));
}

#[test]
fn a_restart_of_rbuddy_in_the_middle_of_a_drain_goes_on_with_it() {
    let mut scene = normal();
    drain(&mut scene, A).unwrap();
    scene.step();
    assert_eq!(role(&scene, A), RoleName::Active, "the standby is yet to be filled");
    scene.restart_rbuddy();
    scene.until(SOON, "A is drained", |scene| role(scene, A) == RoleName::Drained && scene.active() == [B]);
    assert_eq!(scene.replicas[&address(A)].keys, 100_000);
}

#[test]
fn a_switch_that_is_given_up_takes_nobody_out() {
    let mut scene = normal();
    drain(&mut scene, A).unwrap();
    scene.at(B).up = false;
    scene.until(SOON, "the standby is dead", |scene| scene.story.iter().any(|line| line.contains("given up")));
    scene.at(B).up = true;
    scene.restart(B, false);
    scene.until(SOON, "all is as it was", |scene| is_normal_with(1)(scene) && role(scene, B) == RoleName::Standby);
    scene.run(Duration::from_secs(5));
    assert_eq!((scene.active(), role(&scene, A)), (vec![A], RoleName::Active));
    // A later failover empties A as always.
    scene.replace_primary(100_000);
    scene.until(SOON, "A is the standby", |scene| scene.active() == [B] && role(scene, A) == RoleName::Standby);
}

#[test]
fn an_operator_who_does_not_wait_gets_what_he_asked_for() {
    let mut scene = two_and_one();
    drain(&mut scene, A).unwrap();
    scene.step();
    assert_eq!(role(&scene, A), RoleName::Draining);
    scene.at(A).up = false;
    served_until(&mut scene, "A is drained, dead as it is", |scene| role(scene, A) == RoleName::Drained);
    let refusal = give_back(&mut scene, A).expect_err("it is down");
    assert!(refusal.contains("start it"), "{refusal}");
}

#[test]
fn the_wish_waits_while_nobody_else_serves() {
    let mut scene = normal();
    drain(&mut scene, A).unwrap();
    served_until(&mut scene, "B serves", |scene| scene.active() == [B]);
    scene.at(B).up = false;
    scene.until(SOON, "A takes back over", |scene| scene.active() == [A]);
    scene.run(Duration::from_secs(5));
    assert_eq!((role(&scene, A), may_stop(&scene, A)), (RoleName::Active, false));
}

/// Of what the primary has it gets nothing before another one is there: it would have to give up the last complete copy for that (P2).
#[test]
fn one_that_is_returned_while_nobody_serves_is_read_with_what_it_holds() {
    for upgraded in [false, true] {
        let mut scene = normal();
        drain(&mut scene, A).unwrap();
        served_until(&mut scene, "A is drained", |scene| role(scene, A) == RoleName::Drained);
        scene.replace_primary(90_000);
        scene.run(Duration::from_secs(3));
        scene.at(B).up = false;
        scene.until(SOON, "nobody serves", |scene| scene.active().is_empty());
        scene.run(Duration::from_secs(3));
        if upgraded {
            scene.restart(A, true);
            scene.run(Duration::from_secs(3));
        }
        give_back(&mut scene, A).unwrap();
        scene.until(Duration::from_secs(2), "A serves", |scene| scene.active() == [A]);
        scene.run(SOON);
        assert_eq!((scene.active(), scene.replicas[&address(A)].keys), (vec![A], 100_000), "upgraded: {upgraded}");

        scene.restart(B, false);
        scene.at(B).up = true;
        served_until(&mut scene, "B serves what the primary has", |scene| is_normal_with(1)(scene) && scene.active() == [B]);
        assert_eq!((scene.replicas[&address(B)].keys, scene.sync_full), (90_000, 2));
    }
}

/// Seeds 1008046, 1013193, 1013226: it had been detached, and its new process takes writes.
#[test]
fn one_that_is_returned_as_a_master_is_not_read() {
    let mut scene = normal();
    drain(&mut scene, A).unwrap();
    served_until(&mut scene, "A is drained", |scene| role(scene, A) == RoleName::Drained);
    scene.at(B).up = false;
    scene.until(SOON, "nobody serves", |scene| scene.active().is_empty());
    scene.policy.freeze = FreezeMode::Detach;
    scene.restart_rbuddy();
    scene.restart(A, true);
    let old = scene.replicas[&address(A)].replid;
    let server = scene.at(A);
    (server.master, server.replid, server.replid2) = (None, replid(0x77), Some(old));
    scene.run(Duration::from_secs(3));
    give_back(&mut scene, A).unwrap();
    let end = scene.now.after(Duration::from_secs(3));
    while scene.now < end {
        scene.step();
        let takes_writes = scene.replicas[&address(A)].master.is_none();
        assert!(!takes_writes || scene.active().is_empty(), "{}", scene.story.join("\n"));
    }
}

/// Seed 1006766: it had restarted with older data, under an id of its own.
#[test]
fn one_that_is_returned_with_less_than_it_served_is_not_read() {
    let mut scene = normal();
    drain(&mut scene, A).unwrap();
    scene.link_cut = true;
    scene.restart(A, true);
    let old = scene.replicas[&address(A)].replid;
    let server = scene.at(A);
    (server.offset, server.master, server.replid, server.replid2) = (server.offset - 50, None, replid(0x77), Some(old));
    scene.until(SOON, "A is drained", |scene| role(scene, A) == RoleName::Drained);
    give_back(&mut scene, A).unwrap();
    scene.run(Duration::from_secs(3));
    assert!(scene.active().is_empty(), "{}", scene.story.join("\n"));
}

#[test]
fn one_that_is_returned_without_what_was_read_elsewhere_is_filled() {
    let mut scene = normal();
    drain(&mut scene, A).unwrap();
    served_until(&mut scene, "A is drained", |scene| role(scene, A) == RoleName::Drained);
    scene.at(A).up = false;
    scene.run(Duration::from_secs(3));
    scene.replace_primary(90_000);
    scene.run(Duration::from_secs(3));
    scene.at(B).up = false;
    // The relay forgets the history that ended, so that nobody can go on with it.
    scene.restart_rbuddy();
    scene.restart(A, true);
    scene.at(A).up = true;
    scene.run(Duration::from_secs(1));
    give_back(&mut scene, A).unwrap();
    scene.until(SOON, "A is filled and serves", |scene| scene.active() == [A]);
    assert_eq!(scene.replicas[&address(A)].keys, 90_000, "readers of B would have found less at A (P10)");
}

#[test]
fn a_returned_replica_with_foreign_keys_is_refused() {
    let mut scene = normal();
    drain(&mut scene, B).unwrap();
    scene.restart(B, false);
    let foreign = scene.at(B);
    (foreign.keys, foreign.replid) = (7, replid(77));
    scene.run(Duration::from_secs(3));
    assert_eq!(role(&scene, B), RoleName::Drained);
    give_back(&mut scene, B).unwrap();
    scene.run(Duration::from_secs(3));
    assert_eq!((role(&scene, B), scene.replicas[&address(B)].keys), (RoleName::Refused, 7));
}

#[test]
fn what_cannot_be_is_said() {
    let mut scene = normal();
    assert!(drain(&mut scene, 9999).expect_err("a stranger").contains("replicas"));
    scene.operate(Operation::Pause).unwrap();
    assert!(drain(&mut scene, A).expect_err("paused").contains("resume"));
    scene.operate(Operation::Resume).unwrap();
    assert!(give_back(&mut scene, A).unwrap().contains("already"));
    drain(&mut scene, A).unwrap();
    assert!(drain(&mut scene, B).is_err(), "it is about to be switched to, or filled");
    give_back(&mut scene, A).unwrap();
    scene.run(Duration::from_secs(10));
    assert_eq!((scene.active(), role(&scene, A)), (vec![A], RoleName::Active), "returned before anything came of it");
    assert!(scene.operate(Operation::Adopt { replica: address(B) }).is_ok());
    drain(&mut scene, B).unwrap();
    assert!(scene.operate(Operation::Adopt { replica: address(B) }).expect_err("taken out").contains("return"));
}
