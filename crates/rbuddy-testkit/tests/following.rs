//! The primary moves: a Sentinel's failover, `FAILOVER`, a restart of rbuddy afterwards. Readers notice nothing, and nobody is resynced in full.

#![allow(missing_docs, reason = "a test")]

use rbuddy_core::control::primary::PrimarySource;
use rbuddy_core::control::status::{GroupStatus, Phase, RoleName};
use rbuddy_lab::{Sentinel, Server, wait_until};
use rbuddy_testkit::{AllReaders, FAILOVER_WITHIN, SOON, World, WorldOptions, cli};

const NOBODY: &str = "the world has an heir";

fn heir(world: &World) -> &Server {
    world.heir.as_ref().expect(NOBODY)
}

fn is_at(status: &GroupStatus, server: &Server) -> bool {
    status.primary.address.as_ref().is_some_and(|address| address.port == server.port())
}

async fn goes_on_at_the_heir(world: &World) -> GroupStatus {
    let at_heir = |status: &GroupStatus| is_at(status, heir(world)) && status.phase == Phase::Normal && status.primary.reachable;
    world.rbuddy.wait_for("the group to go on at the new primary", FAILOVER_WITHIN, at_heir).await
}

/// A write on the new primary reaches the active.
async fn writes_arrive(world: &World) {
    heir(world).command(&["SET", "after", "the move"]).await.expect("it takes writes");
    let arrived = wait_until("the write to arrive at the active", SOON, async || {
        let status = world.rbuddy.status().await?;
        let active = status.active.first().ok_or("no active")?;
        let found = world.server(active).command(&["GET", "after"]).await.map_err(|error| error.to_string())?;
        if found.text().as_deref() == Some("the move") { Ok(()) } else { Err(format!("{found:?}")) }
    });
    arrived.await.expect("it arrives");
}

async fn with_a_sentinel() -> World {
    let world = World::start(WorldOptions { heir: true, sentinels: 1, ..WorldOptions::of(20_000) }).await;
    // It has seen the active behind the primary, and would bring it back there.
    world.sentinels[0].command(&["SENTINEL", "RESET", "*"]).await.expect("reset");
    knows_heir_and_relay(&world.sentinels[0]).await;
    world
}

async fn knows_heir_and_relay(sentinel: &Sentinel) {
    let known = wait_until("the Sentinel to know heir and relay", SOON, async || match sentinel.replicas().await {
        Ok(2) => Ok(()),
        Ok(count) => Err(format!("{count} replicas")),
        Err(error) => Err(error.to_string()),
    });
    known.await.expect("it looks around");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_by_sentinel_is_followed_and_readers_notice_nothing() {
    let mut world = with_a_sentinel().await;
    let before = world.status().await;
    let mut writer = world.writer();
    let readers = AllReaders::start(&world).await;
    readers.go_on(1000, SOON).await;
    writer.pause().await;
    world.actives_equal_the_primary().await;
    world.primary.kill().await.expect("kill the primary");
    let after = goes_on_at_the_heir(&world).await;
    writes_arrive(&world).await;
    readers.go_on(1000, SOON).await;
    readers.noticed_nothing().await;
    assert_eq!((after.generation, after.primary.source), (before.generation, PrimarySource::Sentinels));
    assert_eq!(heir(&world).full_resyncs().await.expect("info"), 0, "full resyncs of the new primary");
}

/// To that one the relay is a replica of its primary like others: it says `SLAVEOF` to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_that_rbuddy_does_not_know_leads_it_to_the_new_primary() {
    let mut world = World::start(WorldOptions { heir: true, ..WorldOptions::of(20_000) }).await;
    let place = world.folder().join("sentinel");
    let sentinel = Sentinel::start(world.primary.binary(), place, world.primary.port(), 1).await.expect("a Sentinel");
    knows_heir_and_relay(&sentinel).await;
    let before = world.status().await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(1000, SOON).await;
    world.primary.kill().await.expect("kill the primary");
    let after = goes_on_at_the_heir(&world).await;
    writes_arrive(&world).await;
    readers.go_on(1000, SOON).await;
    readers.noticed_nothing().await;
    assert_eq!((after.generation, after.primary.source), (before.generation, PrimarySource::ToldRelay));
    assert_eq!(heir(&world).full_resyncs().await.expect("info"), 0, "full resyncs of the new primary");
}

#[tokio::test(flavor = "multi_thread")]
async fn rbuddy_goes_on_where_the_primary_moved_to_after_its_own_restart() {
    let mut world = with_a_sentinel().await;
    world.primary.kill().await.expect("kill the primary");
    goes_on_at_the_heir(&world).await;
    let resyncs = heir(&world).full_resyncs().await.expect("info");
    world.rbuddy.kill().await;
    // Nobody is left to ask: it must remember.
    world.sentinels[0].kill().await.expect("kill the Sentinel");
    world.rbuddy.launch().await;
    goes_on_at_the_heir(&world).await;
    writes_arrive(&world).await;
    assert_eq!(heir(&world).full_resyncs().await.expect("info"), resyncs, "full resyncs because of the restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_leads_to_the_new_primary_after_a_planned_failover() {
    let world = World::start(WorldOptions { heir: true, ..WorldOptions::of(20_000) }).await;
    let config = world.folder().join("rbuddy.toml").display().to_string();
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    let (address, port) = (heir(&world).address(), heir(&world).port().to_string());
    let early = cli(&["set-primary", &address, "--config", &config]).await;
    assert_eq!((early.status, early.text.contains("is itself a replica of")), (Some(4), true), "{}", early.text);
    world.primary.command(&["FAILOVER", "TO", "127.0.0.1", &port]).await.expect("it hands over");
    let promoted = wait_until("the heir to be promoted", SOON, async || {
        let info = heir(&world).info("replication").await.map_err(|error| error.to_string())?;
        if info.get("role").is_some_and(|role| role == "master") { Ok(()) } else { Err(format!("{info:?}")) }
    });
    promoted.await.expect("promoted");
    let answer = cli(&["set-primary", &address, "--config", &config]).await;
    assert_eq!(answer.status, Some(0), "{}", answer.text);
    assert!(answer.text.contains(&address), "{}", answer.text);
    goes_on_at_the_heir(&world).await;
    writes_arrive(&world).await;
    readers.go_on(500, SOON).await;
    readers.noticed_nothing().await;
    // The former primary is a replica of the heir now, without a full resync as well.
    assert_eq!(heir(&world).full_resyncs().await.expect("info"), 0, "full resyncs of the new primary");
    world.logged_no_error();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_of_ours_that_sentinel_promotes_is_the_primary_and_left_alone() {
    // Nobody told the Sentinel to forget the active, which it has seen behind the primary.
    let mut world = World::start(WorldOptions { sentinels: 1, ..WorldOptions::of(20_000) }).await;
    let (sentinel, before) = (&world.sentinels[0], world.status().await);
    let promoted = before.active[0].clone();
    let known = wait_until("the Sentinel to know the active", SOON, async || match sentinel.replicas().await {
        Ok(0) => Err("nobody".to_owned()),
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    });
    known.await.expect("it looks around");
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    world.primary.kill().await.expect("kill the primary");
    let is_left = |status: &GroupStatus| {
        let shown = status.replicas.iter().find(|replica| replica.address == promoted);
        let is_primary = status.primary.address.as_ref() == Some(&promoted) && shown.is_some_and(|shown| shown.role == RoleName::Refused);
        is_primary && status.active.len() == 1 && status.active[0] != promoted && status.phase == Phase::Normal
    };
    world.rbuddy.wait_for("the other replica to serve", FAILOVER_WITHIN, is_left).await;
    readers.got_nothing_wrong_through_the_endpoint().await;
    world.rbuddy.kill().await;
    world.rbuddy.launch().await;
    let status = world.rbuddy.wait_for("the same after a restart", FAILOVER_WITHIN, is_left).await;
    let primary = world.server(&promoted);
    assert_eq!(primary.keys().await.expect("keys"), 20_000);
    let info = primary.info("replication").await.expect("info");
    assert_eq!(info.get("role").map(String::as_str), Some("master"), "nobody told it otherwise");
    primary.command(&["SET", "after", "the move"]).await.expect("it takes writes");
    let arrived = wait_until("the write to arrive", SOON, async || {
        let found = world.server(&status.active[0]).command(&["GET", "after"]).await.map_err(|error| error.to_string())?;
        if found.text().is_some() { Ok(()) } else { Err("not there".to_owned()) }
    });
    arrived.await.expect("it arrives");
}
