//! The controller and a primary that moves: whose word counts, what is followed, and what never is.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::action::ServerCommand;
use rbuddy_core::control::primary::{PrimaryAt, PrimarySource};
use rbuddy_core::control::relay::UpstreamState;
use rbuddy_core::control::status::{Operation, Phase, RoleName};
use rbuddy_core::replication::history::KnownId;
use scene::{A, B, RELAY, Scene, Server, address};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(20);
const P: u16 = 6379;
const P2: u16 = 6479;
const P3: u16 = 6579;

fn is_normal(scene: &Scene) -> bool {
    scene.phase() == Phase::Normal && scene.active() == [A] && scene.replicas[&address(A)].master == Some(address(RELAY))
}

/// A serves behind the relay, and P2 could take over from the primary at any moment.
fn normal() -> Scene {
    let mut scene = Scene::one_and_one();
    scene.until(SOON, "A is moved behind the relay", is_normal);
    let heir = scene.heir();
    scene.others.insert(address(P2), heir);
    scene
}

/// The same, with a primary that Sentinels name.
fn with_sentinels() -> Scene {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.primary = PrimaryAt::Named("mymaster".into());
        scene.follow_primary(A);
    });
    scene.sentinels_name(P);
    scene.until(SOON, "A is moved behind the relay", is_normal);
    let heir = scene.heir();
    scene.others.insert(address(P2), heir);
    scene
}

/// P2 has all that P had and goes on from there.
fn promote(scene: &mut Scene) {
    let offset = scene.primary.offset;
    scene.primary.up = false;
    scene.others.get_mut(&address(P2)).unwrap().offset = offset;
}

fn at(scene: &Scene) -> Option<u16> {
    scene.status().primary.address.map(|address| address.port)
}

fn tells(scene: &Scene, words: &str) -> bool {
    scene.story.iter().any(|line| line.contains(words))
}

fn told(scene: &Scene, port: u16) -> usize {
    scene.commands.iter().filter(|(replica, _)| replica.port == port).count()
}

#[test]
fn sentinels_that_name_another_primary_are_followed_without_a_resync() {
    let mut scene = with_sentinels();
    promote(&mut scene);
    scene.sentinels_name(P2);
    assert_eq!((at(&scene), scene.orders.primary.clone()), (Some(P2), Some(address(P2))), "at once");
    scene.until(SOON, "it goes on", is_normal);
    assert_eq!(scene.sync_full, 0);
    assert!(tells(&scene, "following the primary from 127.0.0.1:6379 to 127.0.0.1:6479: the Sentinels name it"), "{:#?}", scene.story);
    assert_eq!(scene.status().primary.source, PrimarySource::Sentinels);
}

#[test]
fn what_moved_is_on_disk_before_the_relay_is_told_and_outlives_a_restart() {
    let mut scene = with_sentinels();
    promote(&mut scene);
    scene.sentinels_name(P2);
    assert_eq!(scene.disk.as_ref().unwrap().primary.as_ref().unwrap().address, address(P2));
    scene.restart_rbuddy();
    scene.until(SOON, "it goes on where it was, before any Sentinel has spoken", is_normal);
    assert_eq!((at(&scene), scene.sync_full), (Some(P2), 0));
}

#[test]
fn nothing_begins_until_a_sentinel_has_named_the_primary() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.primary = PrimaryAt::Named("mymaster".into());
        scene.follow_primary(A);
    });
    scene.primary_is_silent = true;
    scene.run(Duration::from_secs(200));
    assert_eq!((scene.orders.start.clone(), scene.phase(), at(&scene)), (None, Phase::Starting, None));
    assert!(scene.status().explanation.contains("no Sentinel has named the primary yet"), "{}", scene.status().explanation);
    scene.primary_is_silent = false;
    scene.sentinels_name(P);
    scene.until(SOON, "it begins", is_normal);
}

#[test]
fn a_sentinel_that_speaks_to_the_relay_is_followed_where_none_are_configured() {
    let mut scene = normal();
    promote(&mut scene);
    scene.relay_is_told(P2);
    scene.until(SOON, "it goes on", |scene| is_normal(scene) && at(scene) == Some(P2));
    assert_eq!((scene.sync_full, scene.status().primary.source), (0, PrimarySource::ToldRelay));
    scene.restart_rbuddy();
    scene.until(SOON, "also over a restart", is_normal);
    assert_eq!((at(&scene), scene.sync_full), (Some(P2), 0));
}

#[test]
fn configured_sentinels_are_asked_and_nobody_else_is_heard() {
    let mut scene = with_sentinels();
    scene.relay_is_told(P2);
    scene.run(SOON);
    assert_eq!(at(&scene), Some(P));
}

#[test]
fn the_name_of_a_server_that_is_not_promoted_yet_waits_until_it_is() {
    let mut scene = normal();
    scene.others.get_mut(&address(P2)).unwrap().master = Some(address(P));
    scene.relay_is_told(P2);
    scene.run(SOON);
    assert_eq!(at(&scene), Some(P));
    assert!(scene.status().primary.note.unwrap().contains("is itself a replica of 127.0.0.1:6379"));
    assert_eq!(scene.story.iter().filter(|line| line.contains("not followed yet")).count(), 1, "told once: {:#?}", scene.story);
    scene.others.get_mut(&address(P2)).unwrap().master = None;
    scene.until(SOON, "it is followed", |scene| at(scene) == Some(P2));
}

#[test]
fn an_operators_word_is_answered_after_a_look_at_the_server() {
    let mut scene = normal();
    promote(&mut scene);
    let answer = scene.set_primary(P2).unwrap();
    assert!(answer.contains("from 127.0.0.1:6379 to 127.0.0.1:6479"), "{answer}");
    scene.until(SOON, "it goes on", is_normal);
    assert_eq!((at(&scene), scene.sync_full), (Some(P2), 0));
}

#[test]
fn servers_that_cannot_be_the_primary_are_refused_with_the_reason() {
    let mut scene = normal();
    let heir = scene.heir();
    scene.others.insert(address(P3), scene::Server { master: Some(address(P)), ..heir });
    for (port, words) in [
        (RELAY, "the relay itself"),
        (A, "follows the relay"),
        (B, "follows the relay"),
        (P3, "itself a replica of 127.0.0.1:6379"),
        (9, "connection refused"),
    ] {
        let refused = scene.set_primary(port).unwrap_err();
        assert!(refused.contains(words), "{port}: {refused}");
    }
    scene.run(SOON);
    assert_eq!((at(&scene), scene.sync_full), (Some(P), 0));
    assert!(is_normal(&scene));
}

#[test]
fn an_operator_overrules_sentinels_until_they_name_something_else() {
    let mut scene = with_sentinels();
    promote(&mut scene);
    scene.set_primary(P2).unwrap();
    scene.run(SOON);
    assert_eq!(at(&scene), Some(P2), "they still name P");
    assert!(scene.status().primary.note.unwrap().contains("overruled"));
    scene.restart_rbuddy();
    scene.sentinels_name(P);
    scene.until(SOON, "it goes on", is_normal);
    assert_eq!(at(&scene), Some(P2), "nor is it news after a restart");
    scene.sentinels_name(P2);
    scene.run(SOON);
    scene.others.insert(address(P), scene.primary.clone());
    scene.sentinels_name(P);
    scene.run(SOON);
    assert_eq!(at(&scene), Some(P), "they had agreed, so this is news");
}

#[test]
fn a_sentinel_that_insists_on_the_configured_primary_does_not_undo_an_operators_word() {
    let mut scene = normal();
    promote(&mut scene);
    scene.set_primary(P2).unwrap();
    scene.primary.up = true;
    scene.relay_is_told(P);
    scene.run(SOON);
    assert_eq!(at(&scene), Some(P2));
}

#[test]
fn a_changed_configuration_wins_over_what_was_found() {
    let mut scene = normal();
    promote(&mut scene);
    scene.set_primary(P2).unwrap();
    scene.until(SOON, "it goes on", |scene| scene.primary_at == address(P2) && is_normal(scene));
    let heir = scene.primary.clone();
    scene.others.insert(address(P3), heir);
    scene.policy.primary = PrimaryAt::Fixed(address(P3));
    scene.restart_rbuddy();
    scene.until(SOON, "it goes on", is_normal);
    assert_eq!((at(&scene), scene.sync_full), (Some(P3), 0));
    assert_eq!(scene.disk.as_ref().unwrap().primary, None);
}

#[test]
fn a_replica_that_sentinels_made_the_primary_is_followed_and_left_alone() {
    let mut scene = with_sentinels();
    scene.others.clear();
    scene.primary.up = false;
    let heir = scene.heir();
    let (replica, replid, replid2) = (address(A), heir.replid, heir.replid2);
    let promoted = scene.at(A);
    (promoted.master, promoted.link_up, promoted.replid, promoted.replid2) = (None, false, replid, replid2);
    scene.view.sessions.remove(&replica);
    let before = told(&scene, A);
    scene.run(Duration::from_secs(2));
    assert_eq!(told(&scene, A), before, "it is not pulled back before the Sentinels have spoken");
    scene.sentinels_name(A);
    scene.until(SOON, "it is followed", |scene| at(scene) == Some(A));
    let status = scene.status();
    let shown = status.replicas.iter().find(|shown| shown.address == replica).unwrap();
    assert_eq!(shown.role, RoleName::Refused);
    assert!(shown.note.as_ref().unwrap().contains("it is the primary now"));
    scene.until(SOON, "B has its data and serves", |scene| scene.active() == [B]);
    scene.run(SOON);
    assert_eq!(told(&scene, A), before, "nothing was sent to it");
    scene.restart(A, false);
    scene.run(SOON);
    assert_eq!(told(&scene, A), before, "nor when it comes back as another process, with nothing");
    let refused = scene.operate(Operation::Adopt { replica }).unwrap_err();
    assert!(refused.contains("never emptied"), "{refused}");
    assert!(!scene.commands.iter().any(|(to, command)| to.port == A && matches!(command, ServerCommand::Empty { .. })));
}

#[test]
fn a_pause_waits_with_what_sentinels_say_and_not_with_what_an_operator_says() {
    let mut scene = with_sentinels();
    scene.operate(Operation::Pause).unwrap();
    scene.sentinels_name(P2);
    scene.run(SOON);
    assert_eq!(at(&scene), Some(P));
    scene.set_primary(P2).unwrap();
    assert_eq!(at(&scene), Some(P2));
}

#[test]
fn answers_of_the_former_primary_say_nothing_of_the_new_one() {
    let mut scene = with_sentinels();
    promote(&mut scene);
    scene.late_probes = true;
    let run_id = scene.others[&address(P2)].run_id;
    scene.primary.up = true;
    scene.sentinels_name(P2);
    for _ in 0..3 {
        assert_eq!(scene.status().primary.run_id, Some(run_id));
        scene.step();
    }
}

/// The relay is sent back to the primary that it had left: after a restart of rbuddy that one's id is the newest again.
#[test]
fn an_id_that_the_primary_goes_back_to_is_the_newest_again() {
    let mut scene = normal();
    let left = scene.primary.clone();
    let follows = |scene: &mut Scene| {
        scene.view.upstream.state = UpstreamState::Connecting;
        let replid = scene.primary.replid;
        let is_written = |scene: &Scene| scene.disk.as_ref().is_some_and(|disk| disk.ids[0] == KnownId { replid, until: None });
        scene.until(SOON, "it is followed, and written down", is_written);
    };
    scene.primary = scene.heir();
    follows(&mut scene);
    // What the relay asks for is an earlier id of its own; the scene's primaries know but two.
    scene.primary = Server { replid2: Some(scene.primary.replid), ..left };
    follows(&mut scene);
    assert_eq!(scene.disk.as_ref().expect("written").ids.iter().filter(|known| known.until.is_none()).count(), 1, "one history");
}
