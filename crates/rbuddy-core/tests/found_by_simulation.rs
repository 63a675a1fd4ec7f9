//! Situations that the simulator found, told by hand. Each names the seed that showed it.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::action::ServerCommand;
use rbuddy_core::control::relay::{SessionEnd, Start};
use rbuddy_core::control::settings::FreezeMode;
use rbuddy_core::control::status::{Operation, Phase};
use rbuddy_core::replication::history::Place;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{Position, ReplId};
use scene::situations::{SOON, normal, offset, rename, two_actives};
use scene::{A, B, Fate, RELAY, Scene, address};
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

/// What a reader must find at an active.
fn floor(scene: &Scene, port: u16) -> u64 {
    let actives = &scene.assignment.as_ref().unwrap().actives;
    actives.iter().find(|active| active.address.port == port).unwrap().offset_at_least.get()
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
