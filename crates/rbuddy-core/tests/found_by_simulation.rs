//! Situations that the simulator found, told by hand. Each names the seed that showed it.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::action::ServerCommand;
use rbuddy_core::control::event::{Event, Node, ProbeResult};
use rbuddy_core::control::relay::{SessionEnd, Start, UpstreamState};
use rbuddy_core::control::settings::{FreezeMode, StandbyMode};
use rbuddy_core::control::status::{Operation, Phase};
use rbuddy_core::replication::history::Place;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{Offset, Position, ReplId};
use scene::situations::{SOON, normal};
use scene::{A, B, C, Fate, RELAY, Scene, address};
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

/// A and B both serve, behind the relay.
fn two_actives() -> Scene {
    all_active(&[A, B])
}

fn all_active(ports: &[u16]) -> Scene {
    let mut scene = Scene::with(ports, |scene| {
        scene.policy.standby = StandbyMode::Warm;
        ports.iter().for_each(|port| scene.follow_primary(*port));
    });
    scene.until(SOON, "all serve behind the relay", |scene| {
        scene.active().len() == ports.len()
            && scene.replicas.values().all(|replica| replica.master == Some(address(RELAY)) && replica.link_up)
    });
    scene
}

fn offset(bytes: u64) -> Offset {
    Offset::new(bytes).unwrap()
}

/// What a reader must find at an active.
fn floor(scene: &Scene, port: u16) -> u64 {
    let actives = &scene.assignment.as_ref().unwrap().actives;
    actives.iter().find(|active| active.address.port == port).unwrap().offset_at_least.get()
}

/// A replica of the primary was promoted in its place, and the relay goes on with it under the new id.
fn rename(scene: &mut Scene) -> ReplId {
    scene.primary = scene.heir();
    scene.view.upstream.state = UpstreamState::Connecting;
    let replid = scene.primary.replid;
    scene.until(SOON, "the relay goes on", |scene| scene.view.live().is_some_and(|live| live.replid() == replid));
    replid
}

fn look(scene: &mut Scene, port: u16) {
    let probe = scene.probe(Node::Replica(address(port)));
    scene.send(probe);
}

/// A dies; the last bytes went out to it after the view that showed its session for the last time.
fn dies_ahead(scene: &mut Scene, replid: ReplId) -> u64 {
    let sent = scene.primary.offset + 40;
    let end = SessionEnd { at: scene.now, reason: "it died".into(), sent: Some(Position::new(replid, offset(sent))) };
    scene.view.ended.insert(address(A), end);
    scene.link_cut = true;
    scene.at(A).up = false;
    scene.until(SOON, "B serves alone", |scene| scene.active() == [B]);
    sent
}

/// Seeds 4177, 3259: readers of A came to B, which had less.
#[test]
fn what_went_out_just_before_a_session_ended_counts_as_served() {
    let mut scene = two_actives();
    let replid = scene.primary.replid;
    let sent = dies_ahead(&mut scene, replid);
    assert_eq!(floor(&scene, B), sent);
}

/// Seed 61718: the last look at A named the history by its older id, and took back what the relay had said.
#[test]
fn an_older_look_does_not_lower_what_was_served() {
    let mut scene = two_actives();
    scene.at(A).hangs = true;
    let replid = rename(&mut scene);
    let sent = dies_ahead(&mut scene, replid);
    assert_eq!(floor(&scene, B), sent);
}

/// Seed 5620: readers who waited for B, after A had dropped out, were let to B as soon as A was back.
#[test]
fn what_was_asked_of_an_active_is_still_asked_when_the_one_that_dropped_out_is_back() {
    let mut scene = two_actives();
    // B is cut off from the relay, and nobody can tell it anything.
    (scene.at(B).master, scene.fate) = (Some(address(6379)), Fate::LostUnknown);
    scene.run(Duration::from_secs(2));
    scene.at(A).up = false;
    scene.until(SOON, "B serves alone", |scene| scene.active() == [B]);
    let asked = floor(&scene, B);
    assert!(asked > scene.at(B).offset, "B has less than A was sent");
    scene.at(A).up = true;
    scene.until(SOON, "A is back", |scene| scene.active() == [A, B]);
    assert!(floor(&scene, B) >= asked);
}

/// Seed 56484: both dropped out, and were back at once.
#[test]
fn what_one_of_two_was_sent_is_asked_of_the_other_after_both_dropped_out() {
    let mut scene = two_actives();
    (scene.at(B).master, scene.fate) = (Some(address(6379)), Fate::LostUnknown);
    scene.run(Duration::from_secs(2));
    let sent = scene.at(A).offset;
    (scene.at(A).hangs, scene.at(B).hangs) = (true, true);
    scene.until(SOON, "nobody serves", |scene| scene.active().is_empty());
    (scene.at(A).hangs, scene.at(B).hangs) = (false, false);
    scene.until(SOON, "both are back", |scene| scene.active() == [A, B]);
    assert!(floor(&scene, B) >= sent);
}

/// Seed 53566: an operator gave one server's data away, and another server that came in its place was emptied as well.
#[test]
fn an_operators_word_is_of_the_process_that_was_there() {
    let mut scene = normal();
    replace_with_foreign(&mut scene);
    scene.at(B).master = None;
    scene.until(SOON, "B is refused", |scene| scene.status().replicas[1].role.to_string() == "refused");
    scene.fate = Fate::EmptyingLost;
    scene.operate(Operation::Adopt { replica: address(B) }).expect("adopted");
    replace_with_foreign(&mut scene);
    scene.at(B).master = None;
    scene.fate = Fate::Told;
    scene.run(SOON);
    assert_eq!(scene.at(B).keys, 5_000);
}

/// Seed 63283: a replica on an older history of the group was fed the newer one's bytes.
#[test]
fn the_ids_of_one_history_are_not_earlier_ids_of_another() {
    let mut scene = normal();
    rename(&mut scene);
    scene.run(SOON);
    scene.replace_primary(100_000);
    scene.until(SOON, "B serves the new history", |scene| scene.active() == [B] && scene.phase() == Phase::Normal);
    assert_eq!(scene.disk.as_ref().unwrap().ids.len(), 3);
    scene.restart_rbuddy();
    scene.view.resumable = None;
    scene.run(SOON);
    let Some(Start::At(Place { position, earlier })) = &scene.orders.start else { panic!("{:?}", scene.orders.start) };
    assert_eq!((position.replid, earlier.as_slice()), (scene.primary.replid, [].as_slice()));
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
        assert_eq!(scene.orders.full_resync, None);
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

/// Seed 56369: while A was away the history's id changed, and readers of the others saw more under the new one. Then A was back, and alone.
#[test]
fn what_was_read_under_a_newer_id_is_asked_of_one_that_never_heard_of_that_id() {
    let mut scene = two_actives();
    scene.at(A).up = false;
    scene.until(SOON, "B serves alone", |scene| scene.active() == [B]);
    rename(&mut scene);
    scene.run(SOON);
    let read = scene.at(B).offset;
    assert!(read > scene.at(A).offset);
    scene.link_cut = true;
    scene.at(B).up = false;
    scene.until(SOON, "nobody serves", |scene| scene.active().is_empty());
    // What A lacks is kept no more.
    let mut ended = scene.view.live().unwrap().begun_anew_at(offset(read));
    ended.live = false;
    scene.view.histories = vec![ended];
    scene.at(A).up = true;
    scene.until(SOON, "A is back", |scene| scene.active() == [A]);
    assert!(floor(&scene, A) >= read);
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

/// Another server, with keys of its own, runs where B was.
fn replace_with_foreign(scene: &mut Scene) {
    scene.restart(B, false);
    (scene.at(B).keys, scene.at(B).offset, scene.at(B).master) = (5_000, 100, Some(address(RELAY)));
}

fn may_be_seeded(scene: &Scene) -> bool {
    matches!(scene.permit(B), Some(Permit::Seed(_)))
}

/// Seeds 36831, 69099: a full disk kept rbuddy from speaking while another server came in the place of one that had a permit.
#[test]
fn a_permit_is_of_the_process_that_was_looked_at() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B may be seeded", may_be_seeded);
    let judged = scene.at(B).run_id;
    assert_eq!(scene.orders.judged, [(address(B), judged)].into());
    replace_with_foreign(&mut scene);
    scene.step();
    let is_left_alone = |scene: &Scene| scene.replicas[&address(B)].keys == 5_000;
    assert!(is_left_alone(&scene) && scene.held(B).is_some(), "{:?}", scene.view.sessions);
    scene.run(SOON);
    assert!(is_left_alone(&scene));
}

/// Seed 12005: a permit from before a pause was still in force for whatever server came next.
#[test]
fn a_pause_leaves_no_permit_to_be_seeded_but_to_one_that_loads() {
    let mut scene = normal();
    scene.replace_primary(100_000);
    scene.until(SOON, "B loads", |scene| scene.replicas[&address(B)].loading_steps > 0 && may_be_seeded(scene));
    scene.step();
    scene.operate(Operation::Pause).expect("paused");
    assert!(may_be_seeded(&scene), "it cannot be called back");
    replace_with_foreign(&mut scene);
    scene.at(B).loading_steps = 20;
    scene.step();
    assert!(!may_be_seeded(&scene));
}

/// Seed 17604: a standby had restarted with somebody else's data, and was to be seeded before anybody could see what it was loading.
#[test]
fn a_standby_that_loads_its_own_data_is_looked_at_before_it_may_be_seeded() {
    let mut scene = normal();
    replace_with_foreign(&mut scene);
    scene.at(B).loading_steps = 30;
    scene.replace_primary(100_000);
    for _ in 0..20 {
        scene.step();
        assert!(!may_be_seeded(&scene));
    }
    scene.run(SOON);
    assert_eq!((scene.at(B).keys, scene.active()), (5_000, vec![A]), "it is refused");
}

/// Seeds 6803, 52874: readers of one detached replica were led back to another of the same dataset, having read the next one meanwhile.
#[test]
fn all_that_were_detached_from_a_history_are_known_by_its_id() {
    let mut scene = Scene::with(&[A, B, scene::C], |scene| {
        (scene.policy.freeze, scene.policy.actives) = (FreezeMode::Detach, 2);
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "both serve", |scene| scene.active() == [A, B] && scene.phase() == Phase::Normal);
    let left = scene.primary.replid;
    scene.run(Duration::from_secs(2));
    (scene.disk_is_full, scene.primary_is_silent) = (true, true);
    scene.replace_primary(100_000);
    let are_detached = |scene: &Scene| scene.assignment.as_ref().unwrap().actives.iter().filter(|active| active.detached).count() == 2;
    scene.until(SOON, "both are detached", are_detached);
    for active in &scene.assignment.as_ref().unwrap().actives {
        assert_eq!((active.replids.len(), active.replids[0]), (2, left));
    }
}

/// Seed 84510: nobody that served had the new id yet when the relay got it, so that it was not known to be the newest.
#[test]
fn a_new_id_of_a_known_history_is_written_down_though_nobody_serves_it() {
    let mut scene = Scene::with(&[A], |scene| scene.follow_primary(A));
    scene.until(SOON, "A serves behind the relay", |scene| scene.replicas[&address(A)].link_up && scene.view.live().is_some());
    scene.run(Duration::from_secs(2));
    scene.at(A).up = false;
    scene.run(Duration::from_secs(3));
    let renamed = rename(&mut scene);
    scene.step();
    assert!(scene.disk.as_ref().unwrap().knows(renamed));
}
