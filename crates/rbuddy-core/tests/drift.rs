//! Standbys that are not set up like the active: what keeps them from being promoted or filled, what does not, and the ways out.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::drift::{Settings, User};
use rbuddy_core::control::event::Probe;
use rbuddy_core::control::settings::{DriftGuard, FreezeMode, StandbyMode};
use rbuddy_core::control::status::{Operation, Phase, Setting};
use rbuddy_core::info::ServerInfo;
use rbuddy_core::types::{Flavour, ServerVersion};
use scene::{A, B, C, Scene, Server};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
const LONG: Duration = Duration::from_secs(20);

fn at_rest(mut scene: Scene) -> Scene {
    scene.until(SOON, "it begins well", |scene| scene.phase() == Phase::Normal);
    scene
}

fn says(server: &mut Server, change: impl FnOnce(&mut ServerInfo, &mut Settings)) {
    let mut probe = server.says.take().map(|probe| *probe).unwrap_or_default();
    change(&mut probe.info, probe.settings.get_or_insert_default());
    server.says = Some(Box::new(probe));
}

/// Of the 100 000 keys that take 10 000 000 bytes here.
fn has_little_memory(server: &mut Server) {
    says(server, |info, _| info.max_memory = Some(1_000_000));
}

fn users(names: &[&str]) -> Option<BTreeMap<String, User>> {
    let user = User { is_on: true, is_open: false, passwords: BTreeSet::from([1]), rights: 1 };
    Some(names.iter().map(|name| ((*name).to_owned(), user.clone())).collect())
}

/// What the status says of B that hurts.
fn hurting(scene: &Scene) -> Vec<Setting> {
    let drift = &scene.status().replicas[1].drift;
    drift.iter().filter(|drift| drift.difference.hurts).map(|drift| drift.difference.setting).collect()
}

/// A new dataset comes, and B is filled with it and goes no further.
fn is_stopped_before_promotion(scene: &mut Scene) {
    scene.replace_primary(100_000);
    scene.until(SOON, "it is told", |scene| scene.phase() == Phase::NoStandby);
    scene.run(LONG);
    assert_eq!((scene.phase(), scene.active()), (Phase::NoStandby, vec![A]), "{:#?}", scene.status());
    assert_eq!(scene.at(B).keys, 100_000, "it is filled, so that it is there at once when it is mended");
}

#[test]
fn a_standby_with_less_memory_than_the_data_take_is_promoted_once_that_is_mended() {
    let mut scene = at_rest(Scene::one_and_one());
    has_little_memory(scene.at(B));
    is_stopped_before_promotion(&mut scene);
    assert_eq!(hurting(&scene), [Setting::Maxmemory]);
    let explanation = scene.status().explanation;
    for part in ["127.0.0.1:6381 is not promoted", "1000000 bytes", "10000000 bytes", "raise maxmemory", "rbuddy approve", "guard.drift"] {
        assert!(explanation.contains(part), "{part} is missing: {explanation}");
    }
    assert!(scene.story.iter().any(|line| line.contains("Error") && line.contains("1000000 bytes")), "{:#?}", scene.story);

    says(scene.at(B), |info, _| info.max_memory = Some(0));
    scene.until(SOON, "it is promoted", |scene| scene.active() == [B]);
}

#[test]
fn an_operators_word_allows_it_for_this_dataset() {
    let mut scene = at_rest(Scene::one_and_one());
    has_little_memory(scene.at(B));
    is_stopped_before_promotion(&mut scene);
    let explanation = scene.status().explanation;
    let dataset = explanation.split("rbuddy approve ").nth(1).unwrap().split('`').next().unwrap().parse().unwrap();
    scene.operate(Operation::Approve { dataset }).unwrap();
    scene.until(SOON, "it is promoted", |scene| scene.active() == [B]);
    let promoted = scene.story.iter().find(|line| line.contains("promoted at")).unwrap();
    assert!(promoted.contains("its maxmemory of 1000000 bytes"), "{promoted}");

    scene.until(SOON, "at rest", |scene| scene.phase() == Phase::Normal);
    says(scene.at(B), |info, _| info.max_memory = Some(0));
    has_little_memory(scene.at(A));
    scene.replace_primary(100_000);
    scene.until(SOON, "the next dataset waits again", |scene| scene.phase() == Phase::NoStandby);
}

#[test]
fn the_configuration_may_allow_it() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.guard.drift = DriftGuard::Warn;
        scene.follow_primary(A);
    });
    has_little_memory(scene.at(B));
    let mut scene = at_rest(scene);
    scene.replace_primary(100_000);
    scene.until(SOON, "it is promoted", |scene| scene.active() == [B]);
    assert!(scene.story.iter().any(|line| line.contains("promoted at") && line.contains("maxmemory")), "{:#?}", scene.story);
}

/// P8 stands behind what works for readers, and before nothing at all.
#[test]
fn with_nobody_serving_it_is_promoted_and_told() {
    let mut scene = at_rest(Scene::one_and_one());
    has_little_memory(scene.at(B));
    is_stopped_before_promotion(&mut scene);
    scene.at(A).up = false;
    scene.until(SOON, "it is promoted", |scene| scene.active() == [B]);
    assert!(scene.story.iter().any(|line| line.contains("promoted at") && line.contains("maxmemory")), "{:#?}", scene.story);
}

#[test]
fn another_standby_without_such_differences_comes_first() {
    let mut scene = at_rest(Scene::with(&[A, B, C], |scene| scene.follow_primary(A)));
    has_little_memory(scene.at(B));
    scene.replace_primary(100_000);
    scene.until(SOON, "C is promoted", |scene| scene.active() == [C]);
}

#[test]
fn a_planned_switch_to_it_is_refused_with_the_reason() {
    let mut scene = at_rest(Scene::one_and_one());
    says(scene.at(A), |_, settings| settings.users = users(&["default", "app"]));
    says(scene.at(B), |_, settings| settings.users = users(&["default"]));
    scene.run(Duration::from_secs(1));
    let note = scene.status().replicas[1].note.clone().unwrap();
    assert!(note.contains("is not promoted: it has no user app"), "it is told before anybody asks: {note}");
    let refused = scene.operate(Operation::Failover).unwrap_err();
    assert!(refused.contains("it has no user app") && refused.contains("ACL SETUSER"), "{refused}");
    says(scene.at(B), |_, settings| settings.users = users(&["default", "app", "another"]));
    scene.run(Duration::from_secs(1));
    scene.operate(Operation::Failover).unwrap();
    scene.until(SOON, "it is promoted", |scene| scene.active() == [B]);
}

/// Given up for the new dataset it could not come back, and the other would serve alone.
#[test]
fn a_warm_replica_that_would_be_held_back_serves_on() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.standby = StandbyMode::Warm;
        scene.follow_primary(A);
        scene.follow_primary(B);
    });
    scene.until(SOON, "both serve", |scene| scene.phase() == Phase::Normal && scene.active() == [A, B]);
    says(scene.at(A), |_, settings| settings.users = users(&["a"]));
    says(scene.at(B), |_, settings| settings.users = users(&["b"]));
    scene.replace_primary(100_000);
    scene.until(SOON, "it is told", |scene| scene.phase() == Phase::NoStandby);
    scene.run(LONG);
    assert_eq!(scene.active().len(), 2, "{:#?}", scene.status());
    assert!(scene.status().explanation.contains("it has no user"), "{}", scene.status().explanation);

    let generation = scene.controller.state().generation.0;
    says(scene.at(B), |_, settings| settings.users = users(&["a", "b"]));
    scene.until(SOON, "B takes the new dataset", |scene| scene.active().contains(&B) && scene.controller.state().generation.0 > generation);
    says(scene.at(A), |_, settings| settings.users = users(&["a", "b"]));
    scene.until(SOON, "both have it", |scene| scene.phase() == Phase::Normal && scene.active().len() == 2);
}

#[test]
fn what_would_hurt_hurts_and_what_would_not_is_only_told() {
    let version = |text: &str| ServerVersion::parse(Flavour::Redis, text).unwrap();
    let limits = |ours: u64, policy: &'static str, ignores: bool| {
        move |info: &mut ServerInfo, settings: &mut Settings| {
            (info.max_memory, info.max_memory_policy) = (Some(ours), Some(policy.into()));
            settings.ignores_limit = Some(ignores);
        }
    };
    type Change = Box<dyn Fn(&mut ServerInfo, &mut Settings)>;
    let user = |change: fn(&mut User)| -> Change {
        Box::new(move |_, settings| {
            settings.users = users(&["app"]);
            settings.users.as_mut().unwrap().values_mut().for_each(change);
        })
    };
    let with = |modules: &'static [&'static str]| -> Change {
        Box::new(move |info, _| info.modules = Some(modules.iter().map(|name| ((*name).to_owned(), 1)).collect()))
    };
    let databases = |number: u64, used: u64| -> Change {
        Box::new(move |info, settings| (info.highest_database, settings.databases) = (used.checked_sub(1), Some(number)))
    };
    let plain = || -> Change { Box::new(|_, _| {}) };
    // What the active is set to, what the standby, and whether it is told (`None`: not at all), and as hurting.
    let cases: Vec<(&str, Change, Change, Option<bool>)> = vec![
        ("nothing known", plain(), plain(), None),
        ("more memory", Box::new(limits(1 << 30, "noeviction", true)), Box::new(limits(1 << 31, "noeviction", true)), Some(false)),
        (
            "the same, though the data take more",
            Box::new(limits(1000, "noeviction", true)),
            Box::new(limits(1000, "noeviction", true)),
            None,
        ),
        (
            "more, though the data take more",
            Box::new(limits(1000, "noeviction", true)),
            Box::new(limits(2000, "noeviction", true)),
            Some(false),
        ),
        (
            "less, and it keeps to it",
            Box::new(limits(1 << 31, "allkeys-lru", false)),
            Box::new(limits(1 << 30, "allkeys-lru", false)),
            Some(true),
        ),
        (
            "less, and it ignores it",
            Box::new(limits(1 << 31, "allkeys-lru", true)),
            Box::new(limits(1 << 30, "allkeys-lru", true)),
            Some(false),
        ),
        ("it evicts", Box::new(limits(1 << 30, "noeviction", false)), Box::new(limits(1 << 30, "allkeys-lru", false)), Some(true)),
        ("it evicts nothing", Box::new(limits(1 << 30, "allkeys-lru", false)), Box::new(limits(1 << 30, "noeviction", false)), Some(true)),
        (
            "it would evict, but ignores it",
            Box::new(limits(1 << 30, "noeviction", true)),
            Box::new(limits(1 << 30, "allkeys-lru", true)),
            Some(false),
        ),
        (
            "another way to evict",
            Box::new(limits(1 << 30, "allkeys-lfu", false)),
            Box::new(limits(1 << 30, "allkeys-lru", false)),
            Some(false),
        ),
        ("a policy without a limit", Box::new(limits(0, "noeviction", false)), Box::new(limits(0, "allkeys-lru", false)), None),
        ("fewer databases than used", databases(32, 20), databases(16, 0), Some(true)),
        ("fewer databases, unused", databases(32, 16), databases(16, 0), Some(false)),
        ("other passwords", user(|_| {}), user(|user| user.passwords = BTreeSet::from([2])), Some(true)),
        ("one password more", user(|_| {}), user(|user| user.passwords = BTreeSet::from([1, 2])), None),
        ("no password needed", user(|_| {}), user(|user| user.is_open = true), None),
        ("a password needed", user(|user| user.is_open = true), user(|_| {}), Some(true)),
        ("a user that is off", user(|_| {}), user(|user| user.is_on = false), Some(true)),
        ("a user that is off there", user(|user| user.is_on = false), plain(), None),
        ("other rights", user(|_| {}), user(|user| user.rights = 2), Some(true)),
        ("a missing module", with(&["search"]), with(&[]), Some(true)),
        ("a module more", with(&[]), with(&["search"]), None),
        ("a language", with(&["lua"]), with(&[]), None),
    ];
    for (name, there, here, told) in cases {
        let mut scene = at_rest(Scene::one_and_one());
        says(scene.at(A), |info, settings| there(info, settings));
        says(scene.at(B), |info, settings| here(info, settings));
        scene.run(Duration::from_secs(1));
        let drift = scene.status().replicas[1].drift.clone();
        assert_eq!(drift.first().map(|drift| drift.difference.hurts), told, "{name}: {drift:#?}");
    }
    for (here, there, told) in
        [("7.0.15", "7.0.15", None), ("7.2.0", "7.0.15", Some(false)), ("7.0.9", "7.0.15", Some(false)), ("6.2.5", "7.0.15", Some(true))]
    {
        let mut scene = at_rest(Scene::one_and_one());
        scene.at(A).version = version(there);
        scene.at(B).version = version(here);
        scene.run(Duration::from_secs(1));
        let drift = scene.status().replicas[1].drift.clone();
        assert_eq!(drift.first().map(|drift| drift.difference.hurts), told, "{here} for {there}: {drift:#?}");
    }
}

/// Versions word the same rights differently.
#[test]
fn rights_are_compared_within_a_version_only() {
    let mut scene = at_rest(Scene::one_and_one());
    for (port, rights) in [(A, 1), (B, 2)] {
        says(scene.at(port), |_, settings| {
            settings.users = users(&["app"]);
            settings.users.as_mut().unwrap().values_mut().for_each(|user| user.rights = rights);
        });
    }
    scene.at(B).version = ServerVersion::parse(Flavour::Redis, "7.2.0").unwrap();
    scene.run(Duration::from_secs(1));
    assert_eq!(hurting(&scene), []);
}

/// A detached replica is its own master, and evicts.
#[test]
fn where_actives_are_detached_a_replica_keeps_to_its_limit() {
    let mut scene = Scene::with(&[A, B], |scene| {
        scene.policy.freeze = FreezeMode::Detach;
        scene.follow_primary(A);
    });
    for (port, policy) in [(A, "noeviction"), (B, "allkeys-lru")] {
        says(scene.at(port), |info, settings| {
            (info.max_memory, info.max_memory_policy) = (Some(1 << 30), Some(policy.into()));
            settings.ignores_limit = Some(true);
        });
    }
    let scene = at_rest(scene);
    assert_eq!(hurting(&scene), [Setting::MaxmemoryPolicy]);
}

/// It is asked rarely, so most looks bring nothing of it; another process is another server.
#[test]
fn what_a_process_said_counts_until_it_says_otherwise_or_is_another() {
    let mut scene = at_rest(Scene::one_and_one());
    says(scene.at(A), |_, settings| settings.users = users(&["app"]));
    says(scene.at(B), |_, settings| settings.users = users(&[]));
    scene.run(Duration::from_secs(1));
    scene.at(A).says = None;
    scene.at(B).says = None;
    scene.run(Duration::from_secs(1));
    assert_eq!(hurting(&scene), [Setting::Users]);
    scene.restart(B, false);
    scene.run(Duration::from_secs(1));
    assert_eq!(hurting(&scene), []);
}

fn primary_has(scene: &mut Scene, module: &str) {
    let modules = Some(BTreeMap::from([(module.to_owned(), 1)]));
    scene.primary.says = Some(Box::new(Probe { info: ServerInfo { modules, ..ServerInfo::default() }, ..Probe::default() }));
}

#[test]
fn a_standby_without_a_module_of_the_primary_is_never_given_its_snapshot() {
    let mut scene = at_rest(Scene::one_and_one());
    says(scene.at(B), |info, _| info.modules = Some(BTreeMap::new()));
    scene.replace_primary(100_000);
    primary_has(&mut scene, "search");
    scene.until(SOON, "it is told", |scene| scene.phase() == Phase::NoStandby);
    scene.run(LONG);
    let explanation = scene.status().explanation;
    assert!(explanation.contains("it lacks the module search") && explanation.contains("loadmodule"), "{explanation}");
    assert_eq!((scene.active(), scene.at(B).keys), (vec![A], 0));

    // Not even while nobody serves: it would die of it.
    scene.at(A).up = false;
    scene.run(LONG);
    assert_eq!((scene.active(), scene.at(B).keys), (vec![], 0));

    let dataset = scene.view.live().unwrap().dataset.unwrap();
    scene.operate(Operation::Approve { dataset }).unwrap();
    scene.until(SOON, "an operator knows that it has no types", |scene| scene.active() == [B]);
}

#[test]
fn a_standby_with_fewer_databases_than_the_primary_uses_is_never_given_its_snapshot() {
    let mut scene = at_rest(Scene::one_and_one());
    says(scene.at(B), |_, settings| settings.databases = Some(16));
    scene.replace_primary(100_000);
    says(&mut scene.primary, |info, _| info.highest_database = Some(16));
    scene.until(SOON, "it is told", |scene| scene.phase() == Phase::NoStandby);
    scene.run(LONG);
    let explanation = scene.status().explanation;
    assert!(explanation.contains("it has 16 databases, and 17 are in use"), "{explanation}");
    assert!(!explanation.contains("approve"), "no word helps against this: {explanation}");
    assert_eq!((scene.active(), scene.at(B).keys), (vec![A], 0));
}
