//! What is implausible is not promoted; what is not proven ours is not touched. (Scenarios 4 and 7.)

use rbuddy_core::control::status::{GroupStatus, Phase, RoleName};
use rbuddy_lab::{Binary, Data, Dataset, Server, ServerOptions};
use rbuddy_testkit::scenario::rdb_of;
use rbuddy_testkit::{AllReaders, FAILOVER_WITHIN, SOON, World, WorldOptions, cli};
use serde_json::json;
use std::time::{Duration, Instant};

const KEYS: u64 = 20_000;
/// How the log tells of a refusal. (`Connection refused (os error 111)` is something else.)
const REFUSED: &str = " refused, the old one stays served";

/// The primary comes back with `data`; rbuddy must refuse it and say so. Gives the refused status.
async fn refused_after_restart(world: &mut World, data: Option<Dataset>) -> GroupStatus {
    match data {
        None => world.primary.restart(Data::Nothing).await.expect("restart the primary"),
        Some(data) => {
            let rdb = rdb_of(world, &data).await;
            world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
        }
    }
    let status = world.phase(Phase::Refused, FAILOVER_WITHIN).await;
    let refusal = status.refusal.clone().expect("a refused phase names what it refuses");
    assert!(refusal.reason.contains(&KEYS.to_string()), "both sides' numbers: {}", refusal.reason);
    assert!(refusal.remedy.contains("approve"), "what to do: {}", refusal.remedy);
    assert!(world.rbuddy.log().contains(REFUSED), "the log says it too");
    status
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_primary_is_refused_until_it_is_approved() {
    let mut world = World::start(WorldOptions::of(KEYS)).await;
    let generation = world.status().await.generation.0;
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    let status = refused_after_restart(&mut world, None).await;
    assert_eq!(status.generation.0, generation);
    readers.go_on(2000, SOON).await;
    readers.noticed_nothing().await;
    let refusal = world.status().await.refusal.expect("it is still refused");
    world.rbuddy.order("approve", json!({ "dataset": refusal.dataset })).await;
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
    world.actives_equal_the_primary().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_with_a_tenth_of_the_keys_is_refused_until_it_is_approved() {
    let mut world = World::start(WorldOptions::of(KEYS)).await;
    let generation = world.status().await.generation.0;
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    let shrunken = Dataset { keys: KEYS / 10, ..world.data.newer() };
    refused_after_restart(&mut world, Some(shrunken)).await;
    readers.go_on(2000, SOON).await;
    readers.noticed_nothing().await;
    let refusal = world.status().await.refusal.expect("it is still refused");
    world.rbuddy.order("approve", json!({ "dataset": refusal.dataset })).await;
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
    world.actives_equal_the_primary().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approval_of_another_dataset_changes_nothing() {
    let mut world = World::start(WorldOptions::of(KEYS)).await;
    let generation = world.status().await.generation;
    refused_after_restart(&mut world, None).await;
    let other = format!("{}:0", "0f".repeat(20));
    let (status, text) = world.rbuddy.post("approve", json!({ "dataset": other })).await;
    assert_ne!(status, 200, "{text}");
    let after = world.phase(Phase::Refused, SOON).await;
    assert_eq!(after.generation, generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_primary_that_is_filled_again_is_served_without_a_word() {
    let mut world = World::start(WorldOptions::of(KEYS)).await;
    let generation = world.status().await.generation.0;
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    refused_after_restart(&mut world, None).await;
    world.data.newer().load(&world.primary).await.expect("load the primary again");
    readers.have_read(world.data.version + 1, FAILOVER_WITHIN).await;
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cache_that_expired_during_the_outage_is_not_refused() {
    let ttl = Duration::from_secs(12);
    let loaded = Instant::now();
    let cache = Dataset { ttl: Some(ttl), ..Dataset::of(KEYS) };
    let mut world = World::start(WorldOptions { data: cache, ..WorldOptions::of(KEYS) }).await;
    let generation = world.status().await.generation.0;
    world.primary.save().await.expect("save");
    // What was replicated after the save is not in the RDB, so the primary cannot go on with the old history.
    let mut client = world.primary.connect().await.expect("connect");
    client.command(&["SET", "after-the-save", "1", "PX", "5000"], SOON).await.expect("set");
    client.command(&["WAIT", "1", "10000"], SOON).await.expect("wait");
    world.primary.kill().await.expect("kill the primary");
    // The outage lasts until every key has expired; loading began at `loaded` and took less than two seconds.
    tokio::time::sleep_until((loaded + ttl + Duration::from_secs(2)).into()).await;
    world.primary.restart(Data::Own).await.expect("restart the primary");
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
    assert!(!world.rbuddy.log().contains(REFUSED), "it was never refused");
}

/// Runs `check` and `run` on the configuration of a sound world, changed by `change`; both must refuse and name all of `words`.
async fn is_refused(change: impl Fn(&World, String) -> String, words: &[&str]) {
    let world = World::start(WorldOptions::of(1000)).await;
    let digest = world.primary.digest().await.expect("digest");
    let sound = std::fs::read_to_string(world.folder().join("rbuddy.toml")).expect("read the configuration");
    let other_state = world.folder().join("other-state").display().to_string();
    let changed = change(&world, sound.replace(&world.folder().join("state").display().to_string(), &other_state));
    let path = world.folder().join("changed.toml");
    std::fs::write(&path, &changed).expect("write the configuration");
    for command in ["check", "run"] {
        let output = cli(&[command, "--config", &path.display().to_string()]).await;
        assert!(output.status.is_some_and(|status| status != 0), "{command} went on with it: {}", output.text);
        for word in words {
            assert!(output.text.contains(word), "{command} does not say {word:?}: {}", output.text);
        }
    }
    assert_eq!(world.primary.digest().await.expect("digest"), digest);
    assert_eq!(world.replicas[0].digest().await.expect("digest"), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_named_as_a_replica_is_refused_with_its_line() {
    let change = |world: &World, text: String| text.replace(&world.replicas[1].url(), &format!("redis://{}", world.link.address()));
    is_refused(change, &["changed.toml:6", "primary"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn same_replica_twice_is_refused_with_its_line() {
    let change = |world: &World, text: String| text.replace(&world.replicas[1].url(), &world.replicas[0].url());
    is_refused(change, &["changed.toml:6", "once"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_port_and_unknown_key_are_both_named_at_once() {
    let change = |world: &World, text: String| {
        let bad_port = text.replace(&world.replicas[1].url(), "redis://127.0.0.1:99999");
        format!("{bad_port}standbye = \"empty\"\n")
    };
    is_refused(change, &["99999", "standbye"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn primary_under_another_address_is_never_made_a_replica() {
    // The configuration cannot know it: the primary answers behind the link, and under its own address as a "replica".
    let world = World::start(WorldOptions::of(1000)).await;
    let digest = world.primary.digest().await.expect("digest");
    let sound = std::fs::read_to_string(world.folder().join("rbuddy.toml")).expect("read the configuration");
    let path = world.folder().join("changed.toml");
    std::fs::write(&path, sound.replace(&world.replicas[1].url(), &world.primary.url())).expect("write the configuration");
    let output = cli(&["check", "--config", &path.display().to_string()]).await;
    assert_ne!(output.status, Some(0), "{}", output.text);
    assert!(output.text.contains(&world.primary.address()), "{}", output.text);
    assert_eq!(world.primary.info("replication").await.expect("info")["role"], "master");
    assert_eq!(world.primary.digest().await.expect("digest"), digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn cluster_mode_is_refused_by_check() {
    let folder = tempfile::tempdir().expect("a folder");
    let binary = Binary::find().expect("a server");
    let clustered = ServerOptions::default().with("cluster-enabled", "yes");
    let clustered = Server::start(&binary, folder.path().join("clustered"), clustered).await.expect("a server");
    let world = World::start(WorldOptions::of(1000)).await;
    let sound = std::fs::read_to_string(world.folder().join("rbuddy.toml")).expect("read the configuration");
    let path = world.folder().join("changed.toml");
    std::fs::write(&path, sound.replace(&world.replicas[1].url(), &clustered.url())).expect("write the configuration");
    let output = cli(&["check", "--config", &path.display().to_string()]).await;
    assert_ne!(output.status, Some(0), "{}", output.text);
    assert!(output.text.to_lowercase().contains("cluster"), "{}", output.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_with_foreign_keys_is_left_alone_until_it_is_adopted() {
    let options = WorldOptions { others: rbuddy_testkit::Others::ForeignKeys, ..WorldOptions::of(KEYS) };
    let world = World::start_unsettled(options).await;
    let digest = world.replicas[1].digest().await.expect("digest");
    let is_refused = |status: &GroupStatus| status.replicas[1].role == RoleName::Refused;
    let status = world.rbuddy.wait_for("the foreign replica to be refused", SOON, is_refused).await;
    assert!(status.replicas[1].note.as_ref().is_some_and(|note| note.contains("adopt")), "{:?}", status.replicas[1]);
    assert_eq!(world.replicas[1].digest().await.expect("digest"), digest, "it still has its keys");
    world.rbuddy.order("adopt", json!({ "replica": world.replicas[1].address() })).await;
    let is_standby = |status: &GroupStatus| status.replicas[1].role == RoleName::Standby && status.phase == Phase::Normal;
    world.rbuddy.wait_for("the adopted replica to be the standby", SOON, is_standby).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_full_replicas_both_serve_until_one_is_adopted() {
    let options = WorldOptions { others: rbuddy_testkit::Others::TheDataset, ..WorldOptions::of(KEYS) };
    let world = World::start_unsettled(options).await;
    let status = world.rbuddy.wait_for("both to serve", SOON, |status| status.active.len() == 2).await;
    assert!(status.standby.is_empty());
    world.actives_equal_the_primary().await;
    assert_eq!(world.primary.full_resyncs().await.expect("info"), 2, "only those that the test itself made");
    world.rbuddy.order("adopt", json!({ "replica": world.replicas[1].address() })).await;
    let one_each = |status: &GroupStatus| status.phase == Phase::Normal && status.active.len() == 1 && status.standby.len() == 1;
    let status = world.rbuddy.wait_for("one of each", FAILOVER_WITHIN, one_each).await;
    assert_eq!(status.replicas[1].role, RoleName::Standby);
    world.actives_equal_the_primary().await;
}
