//! Where the relay is to begin, and where else it may go on: what the simulator and reviews found, told by hand. A seed is named where one showed it.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::event::{Event, Node, ProbeResult};
use rbuddy_core::control::relay::{Start, UpstreamState};
use rbuddy_core::control::status::{Operation, Phase};
use rbuddy_core::replication::history::Place;
use rbuddy_core::types::Position;
use scene::situations::{SOON, all_active, is_normal, look, normal, offset, rename, two_actives};
use scene::{A, B, C, RELAY, Scene, address};
use std::time::Duration;

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

/// Seed 2497: the id had changed while the state file could not be written, so after a restart the one that was behind seemed to be newer.
#[test]
fn an_id_that_was_never_written_down_waits_for_the_primarys_word() {
    let mut scene = two_actives();
    let written_before = scene.disk.clone();
    scene.at(B).hangs = true;
    let renamed = rename(&mut scene);
    scene.run(SOON);
    scene.disk = written_before;
    scene.at(B).hangs = false;
    scene.restart_rbuddy();
    look(&mut scene, B);
    look(&mut scene, A);
    assert_eq!(scene.orders.start, None);
    let primary = scene.probe(Node::Primary(address(6379)));
    scene.send(primary);
    let Some(Start::At(Place { position, earlier })) = scene.orders.start.clone() else { panic!("{:?}", scene.orders.start) };
    assert_eq!(position.replid, renamed);
    assert_eq!(earlier.len(), 0, "the scene's primary does not say up to where its older id is right");
}

/// Seed 16016: of two replicas on one history the one under the older id was further, and the other was what was begun with, and alone.
#[test]
fn replicas_under_ids_of_one_history_are_places_on_it() {
    let mut scene = two_actives();
    rename(&mut scene);
    scene.until(SOON, "it is written down", |scene| scene.disk.as_ref().unwrap().ids.len() == 2);
    let old = scene.disk.as_ref().unwrap().ids[1];
    let until = old.until.unwrap().get();
    // B was behind when it heard of the new id, and A has not heard of it yet.
    (scene.at(A).replid, scene.at(A).offset, scene.at(B).offset) = (old.replid, until, until - 100);
    scene.link_cut = true;
    scene.restart_rbuddy();
    scene.until(SOON, "it begins", |scene| !scene.orders.places.is_empty());
    let Some(Start::At(Place { position, .. })) = &scene.orders.start else { panic!("{:?}", scene.orders.start) };
    assert_eq!((position.replid, position.offset), (scene.primary.replid, offset(until - 100)));
    assert_eq!(places(&scene), [until]);
}

fn places(scene: &Scene) -> Vec<u64> {
    scene.orders.places.iter().map(|place| place.position.offset.get()).collect()
}

/// Seeds 63374, 64349: rbuddy began where A was remembered to be, and A came back further before the primary did.
#[test]
fn a_replica_that_comes_back_before_the_primary_is_a_place_to_begin_at() {
    let mut scene = normal();
    scene.run(SOON);
    (scene.link_cut, scene.at(A).up) = (true, false);
    scene.restart_rbuddy();
    scene.until(SOON, "it begins with what it remembers", |scene| scene.orders.start.is_some());
    assert_eq!(places(&scene), []);
    scene.at(A).up = true;
    scene.run(Duration::from_secs(1));
    let found = scene.at(A).offset;
    assert_eq!(places(&scene), [found]);
}

/// Found by review: each look at an active came a moment before the relay's next view, and named a place.
#[test]
fn while_the_stream_flows_there_are_no_places() {
    let mut scene = normal();
    scene.at(A).offset += 50;
    look(&mut scene, A);
    assert_eq!(places(&scene), []);
    scene.link_cut = true;
    scene.until(SOON, "the link is down", |scene| scene.view.upstream.state == UpstreamState::Connecting);
    scene.at(A).offset = scene.view.live().unwrap().end.get() + 50;
    look(&mut scene, A);
    assert_eq!(places(&scene).len(), 1);
}

/// Seed 99523: the relay began on the old history, where the one active was that answered, and the other was on the primary's.
#[test]
fn an_active_on_another_history_is_a_place_to_go_on_at() {
    let mut scene = all_active(&[A, B, C]);
    scene.replace_primary(100_000);
    let new = scene.primary.replid;
    let on_new =
        |scene: &Scene| -> Vec<u16> { scene.active().into_iter().filter(|port| scene.replicas[&address(*port)].replid == new).collect() };
    scene.until(SOON, "one serves the new dataset", |scene| on_new(scene).len() == 1 && scene.active().len() == 2);
    let ahead = on_new(&scene)[0];
    (scene.link_cut, scene.at(ahead).hangs) = (true, true);
    scene.restart_rbuddy();
    scene.view.resumable = None;
    scene.until(SOON, "it begins where the other is", |scene| scene.view.live().is_some_and(|live| live.replid() != new));
    scene.at(ahead).hangs = false;
    scene.until(SOON, "it has answered", |scene| !scene.orders.places.is_empty());
    let stands = scene.at(ahead).offset;
    assert_eq!(scene.orders.places[0].position, Position::new(new, offset(stands)));
}

/// Seeds 53959, 1008780: the primary kept nothing from before where A was remembered to be, and a full resync was permitted before A had answered.
#[test]
fn a_full_resync_waits_for_an_active_that_may_be_where_none_is_needed() {
    let begun = |answers: bool, loads_for: u32| {
        let mut scene = normal();
        scene.run(SOON);
        (scene.at(A).hangs, scene.at(A).loading_steps) = (true, loads_for);
        scene.at(A).offset += 50;
        scene.primary.offset += 200;
        scene.primary.backlog_from = scene.at(A).offset;
        scene.restart_rbuddy();
        scene.until(SOON, "a full resync is needed", |scene| scene.view.upstream.full_resync_needed.is_some());
        assert_eq!((scene.orders.full_resync, scene.orders.must_look), (None, true));
        scene.at(A).hangs = !answers;
        scene.until(Duration::from_secs(12), "it is permitted", |scene| scene.orders.full_resync.is_some());
        scene
    };
    let mut scene = begun(true, 0);
    let place = scene.at(A).offset;
    assert_eq!(places(&scene), [place], "where the relay looks first");
    assert_eq!(places(&begun(false, 0)), []);
    // It answers at once, that it loads what it saved.
    let mut scene = begun(true, 30);
    let place = scene.at(A).offset;
    assert_eq!(places(&scene), [place]);
}

/// Seeds 13265, 51311: the last of the stream on disk was lost in a crash, and the primary kept nothing from before where A was.
#[test]
fn what_is_on_disk_is_not_gone_on_with_where_only_a_replica_leads_on() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", |scene| scene.active() == [B]);
    let dataset = scene.view.live().unwrap().dataset.unwrap();
    scene.restart_rbuddy();
    let (replid, end) = (scene.primary.replid, scene.at(B).offset);
    scene.view.resumable = Some((dataset, Position::new(replid, offset(end - 30))));
    scene.send(Event::Relay(Box::new(scene.view.clone())));
    let mut primary = scene.probe(Node::Primary(address(6379)));
    let Event::Probe { result: ProbeResult::Answered(probe), .. } = &mut primary else { panic!("it answers") };
    (probe.info.backlog_first_byte, probe.info.backlog_histlen) = (Some(end - 9), Some(10));
    scene.send(primary);
    look(&mut scene, A);
    look(&mut scene, B);
    let begun = scene.orders.start.clone();
    assert!(matches!(begun, Some(Start::At(Place { position, .. })) if position == Position::new(replid, offset(end))), "{begun:?}");
}

/// The standby got the newest dataset, and the relay was killed before it had written that down: what is on disk is the one before.
fn killed_with_an_old_snapshot() -> Scene {
    let mut scene = normal();
    let promoted = |port: u16| move |scene: &Scene| scene.active() == [port] && is_normal(scene);
    scene.replace_primary(100_000);
    scene.until(SOON, "B is promoted", promoted(B));
    let old = scene.view.live().map(|live| (live.dataset.unwrap(), live.end_position()));
    scene.replace_primary(100_000);
    scene.until(SOON, "A is promoted", promoted(A));
    scene.link_cut = true;
    scene.restart_rbuddy();
    scene.view.resumable = old;
    scene
}

/// Found by thinking: the relay went on with the old history, and the active stood on one that nobody followed.
#[test]
fn what_is_on_disk_is_not_gone_on_with_where_replicas_are_further() {
    let mut scene = killed_with_an_old_snapshot();
    scene.until(SOON, "it begins", |scene| scene.orders.start.is_some());
    let (start, newest) = (scene.orders.start.clone(), scene.primary.replid);
    assert!(matches!(&start, Some(Start::At(place)) if place.position.replid == newest), "{start:?}");
    scene.link_cut = false;
    scene.until(SOON, "A serves on", |scene| scene.phase() == Phase::Normal && scene.active() == [A]);
    assert_eq!(scene.sync_full, 2);
}

/// It would be there for readers to fall back to, and the primary is away.
#[test]
fn nobody_is_filled_from_a_history_that_may_be_an_old_one() {
    let mut scene = killed_with_an_old_snapshot();
    scene.at(A).up = false;
    // Nobody knows where it was.
    scene.disk.as_mut().unwrap().replicas.get_mut(&address(A)).unwrap().served = None;
    let old = scene.view.resumable;
    scene.restart_rbuddy();
    scene.view.resumable = old;
    scene.until(SOON, "it goes on with what is there", |scene| scene.orders.start == Some(Start::Resume));
    scene.run(SOON);
    assert_eq!((scene.at(B).keys, scene.active()), (0, vec![]));
    assert!(scene.status().explanation.contains("once the primary has said"), "{}", scene.status().explanation);
    scene.link_cut = false;
    scene.until(SOON, "B is filled from the primary", |scene| scene.active() == [B]);
    assert_eq!(scene.replicas[&address(B)].replid, scene.primary.replid);
}
