//! Replicas that are not set up alike, with what real servers say of their settings: named by `check`, shown in the status, in the way of a promotion while
//! another serves, and promoted as soon as they are mended.

use rbuddy_core::control::status::{GroupStatus, Phase, Setting};
use rbuddy_lab::{Binary, Data, ServerOptions};
use rbuddy_testkit::scenario::rdb_of;
use rbuddy_testkit::{FAILOVER_WITHIN, SOON, World, WorldOptions, cli, skip};
use serde_json::json;

const KEYS: u64 = 20_000;
/// A user that the active has and the standby has not.
const USER: &str = "app on >hunter2 ~* +@read";
/// How its password begins in `ACL LIST`.
const SHA256: &str = "f52fbd32b2b3b86f";

/// What the status says of the second replica that would hurt.
fn hurting(status: &GroupStatus) -> Vec<Setting> {
    let drift = status.replicas.get(1).into_iter().flat_map(|replica| &replica.drift);
    drift.filter(|drift| drift.difference.hurts).map(|drift| drift.difference.setting).collect()
}

async fn a_standby_that_is_set_up_otherwise(binary: &Binary) {
    let plain = ServerOptions::default();
    let replicas = vec![(Some(binary.clone()), plain.clone().with("user", USER)), (Some(binary.clone()), plain.with("maxmemory", "1mb"))];
    let options = WorldOptions { replicas, ..WorldOptions::of(KEYS) };
    let mut world = World::start(WorldOptions { primary: Some(binary.clone()), ..options }).await;
    let (active, standby) = (world.replicas[0].address(), world.replicas[1].address());
    let expected = [Setting::Maxmemory, Setting::Users];
    world.rbuddy.wait_for("the differences", SOON, |status| hurting(status) == expected).await;
    let checked = cli(&["check", "--config", &world.folder().join("rbuddy.toml").display().to_string()]).await;
    for part in ["it has no user app", "its maxmemory of 1048576 bytes is less than the"] {
        assert!(checked.text.contains(&format!("would not be promoted in the place of {active}: {part}")), "{}", checked.text);
    }
    let (status, text) = world.rbuddy.post("failover", json!({})).await;
    assert_eq!(status, 409, "{text}");
    assert!(text.contains("it has no user app") && text.contains("1048576"), "{text}");

    let rdb = rdb_of(&world, &world.data.newer()).await;
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let stuck = world.rbuddy.wait_for("a promotion that waits", FAILOVER_WITHIN, |status| {
        status.phase == Phase::NoStandby && status.explanation.contains("is not promoted") && status.replicas[1].keys == Some(KEYS)
    });
    let stuck = stuck.await;
    assert_eq!(stuck.active.iter().map(ToString::to_string).collect::<Vec<_>>(), [active], "{}", stuck.explanation);
    assert!(world.rbuddy.log().contains("it has no user app"), "the log says it too");

    // One after the other: the second is as much in the way as the first.
    let standby_server = &world.replicas[1];
    standby_server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.expect("mend maxmemory");
    world.rbuddy.wait_for("one difference less", SOON, |status| hurting(status) == [Setting::Users]).await;
    let words: Vec<&str> = ["ACL", "SETUSER"].into_iter().chain(USER.split(' ')).collect();
    standby_server.command(&words).await.expect("mend the users");
    let moved = |status: &GroupStatus| status.active.iter().any(|active| active.to_string() == standby);
    world.rbuddy.wait_for("the promotion", FAILOVER_WITHIN, moved).await;

    let journal = std::fs::read_dir(world.folder().join("state/main/journal")).expect("a journal");
    let files: Vec<_> = journal.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("text")).collect();
    assert!(files.iter().any(|text| text.contains("\"app\"")), "the users are in the journal, without their secrets");
    assert!(!files.iter().chain([&world.rbuddy.log()]).any(|text| text.contains(SHA256) || text.contains("hunter2")));
}

macro_rules! servers {
    ($($name:ident: $family:literal, $major:literal, $minor:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                match Binary::of($family, $major, $minor) {
                    Some(binary) => a_standby_that_is_set_up_otherwise(&binary).await,
                    None => skip(concat!("no ", $family, " ", $major, ".", $minor, " here: scripts/test-servers fetches it")),
                }
            }
        )*
    };
}

servers! {
    redis_6_2_is_asked_and_compared: "redis", 6, 2;
    redis_7_0_is_asked_and_compared: "redis", 7, 0;
    redis_7_4_is_asked_and_compared: "redis", 7, 4;
    valkey_9_1_is_asked_and_compared: "valkey", 9, 1;
}

/// Rights are worded otherwise by each version, and Valkey's Lua is a module: none of that is a difference that hurts.
#[tokio::test(flavor = "multi_thread")]
async fn other_versions_with_the_same_users_do_not_differ_in_a_way_that_hurts() {
    let (Some(old), Some(new)) = (Binary::of("redis", 7, 0), Binary::of("valkey", 9, 1)) else {
        return skip("no redis 7.0 or valkey 9.1 here: scripts/test-servers fetches them");
    };
    let user = ServerOptions::default().with("user", "app on >hunter2 ~a:* &b +@read -@dangerous -sort_ro +config|get");
    let options = WorldOptions { replicas: vec![(Some(old.clone()), user.clone()), (Some(new), user)], ..WorldOptions::of(KEYS) };
    let world = World::start(WorldOptions { primary: Some(old), ..options }).await;
    let told = |status: &GroupStatus| status.replicas[1].drift.iter().any(|drift| drift.difference.setting == Setting::Version);
    let status = world.rbuddy.wait_for("the versions are told", SOON, told).await;
    assert_eq!(hurting(&status), [], "{:#?}", status.replicas[1].drift);
    let generation = status.generation.0;
    world.rbuddy.order("failover", json!({})).await;
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
}
