//! Other servers than the default one. (Scenario 10.)

use rbuddy_core::control::relay::SessionState;
use rbuddy_core::control::status::Phase;
use rbuddy_lab::{Binary, Data, ServerOptions, wait_until};
use rbuddy_testkit::scenario::{
    cut_that_overruns_the_backlog_is_a_failover, primary_comes_back_with_another_history, rdb_of, short_cut_costs_nothing,
};
use rbuddy_testkit::{SOON, World, WorldOptions, cli, skip};
use std::time::Duration;

const KEYS: u64 = 30_000;
const AWAY: Duration = Duration::from_secs(1);

/// The binary, or a word why the test is left out.
fn binary(family: &str, major: u16, minor: u16) -> Option<Binary> {
    let found = Binary::of(family, major, minor);
    if found.is_none() {
        skip(&format!("no {family} {major}.{minor} here: scripts/test-servers fetches it"));
    }
    found
}

async fn world_of(binary: &Binary) -> World {
    World::start(WorldOptions::of(KEYS).all(binary)).await
}

macro_rules! scenarios_with {
    ($module:ident, $family:literal, $major:literal, $minor:literal) => {
        mod $module {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn primary_with_another_history_is_a_failover() {
                let Some(binary) = binary($family, $major, $minor) else { return };
                primary_comes_back_with_another_history(&mut world_of(&binary).await, AWAY).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn short_cut_is_noticed_by_nobody() {
                let Some(binary) = binary($family, $major, $minor) else { return };
                short_cut_costs_nothing(&world_of(&binary).await).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn writes_beyond_the_backlog_are_a_failover() {
                let Some(binary) = binary($family, $major, $minor) else { return };
                cut_that_overruns_the_backlog_is_a_failover(&world_of(&binary).await).await;
            }
        }
    };
}

scenarios_with!(all_redis_7_0, "redis", 7, 0);
scenarios_with!(all_valkey_9_1, "valkey", 9, 1);

/// A primary of one version, the first replica of `active`, the second of `standby`.
fn mixed(primary: &Binary, active: &Binary, standby: &Binary) -> WorldOptions {
    let plain = |binary: &Binary| (Some(binary.clone()), ServerOptions::default());
    WorldOptions { primary: Some(primary.clone()), replicas: vec![plain(active), plain(standby)], ..WorldOptions::of(KEYS) }
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_7_0_primary_feeds_a_valkey_9_1_standby() {
    let (Some(redis), Some(valkey)) = (binary("redis", 7, 0), binary("valkey", 9, 1)) else { return };
    let mut world = World::start(mixed(&redis, &redis, &valkey)).await;
    primary_comes_back_with_another_history(&mut world, AWAY).await;
    let active = world.status().await.active;
    assert_eq!(active.iter().map(ToString::to_string).collect::<Vec<_>>(), [world.replicas[1].address()], "the Valkey replica serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_9_1_snapshot_is_never_offered_to_redis_7_0() {
    let (Some(redis), Some(valkey)) = (binary("redis", 7, 0), binary("valkey", 9, 1)) else { return };
    let mut world = World::start_unsettled(mixed(&valkey, &valkey, &redis)).await;
    let config = world.folder().join("rbuddy.toml");
    let check = cli(&["check", "--config", &config.display().to_string()]).await;
    assert_ne!(check.status, Some(0), "{}", check.text);
    assert!(check.text.contains(&world.replicas[1].address()), "check names the replica: {}", check.text);
    assert!(check.text.contains("7.0"), "check names the version: {}", check.text);

    let process = world.replicas[1].info("server").await.expect("info")["run_id"].clone();
    let rdb = rdb_of(&world, &world.data.newer()).await;
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let stuck = world.phase(Phase::NoStandby, SOON).await;
    assert!(!stuck.explanation.is_empty());
    // Long enough for a relay that would try after all: until the snapshot lies ready and some more.
    let offered = wait_until("a seeding that must not be", Duration::from_secs(5), async || {
        let status = world.rbuddy.status().await?;
        match &status.replicas[1].session {
            Some(SessionState::Seeding { .. } | SessionState::Loading { .. }) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(offered.await.is_err(), "it was offered a snapshot that it cannot load");
    assert_eq!(world.replicas[1].info("server").await.expect("info")["run_id"], process, "it still lives");
}
