//! The main job's three scenarios, so that they can be run with several server versions: what happens to the primary, and what must hold.

use crate::process::expect;
use crate::{AllReaders, FAILOVER_WITHIN, SOON, World};
use rbuddy_core::control::status::Phase;
use rbuddy_lab::server::make_rdb;
use rbuddy_lab::writer::write_bytes;
use rbuddy_lab::{Data, Dataset, Link};
use std::path::PathBuf;
use std::time::Duration;

/// Scenario 1: the primary is killed and comes back `away` later with another history and newer data. Reads go on without a failure; then they
/// are fresh, and the primary has paid for one full resync.
pub async fn primary_comes_back_with_another_history(world: &mut World, away: Duration) {
    let rdb = rdb_of(world, &world.data.newer()).await;
    let before = world.status().await.generation.0;
    let mut writer = world.writer();
    let readers = AllReaders::start(world).await;
    readers.go_on(1000, SOON).await;
    expect(world.primary.kill().await);
    // The length of the outage is part of the scenario.
    tokio::time::sleep(away).await;
    expect(world.primary.restart(Data::Rdb(&rdb)).await);
    readers.have_read(world.data.version + 1, FAILOVER_WITHIN).await;
    world.at_rest_in(before + 1, FAILOVER_WITHIN).await;
    readers.go_on(1000, SOON).await;
    readers.noticed_nothing().await;
    writer.pause().await;
    world.logged_no_error();
    world.actives_equal_the_primary().await;
    assert_eq!(expect(world.primary.full_resyncs().await), 1, "full resyncs that the primary paid for");
}

/// Scenario 2: the link is cut for two seconds under writes that the primary's backlog covers. Nobody notices, and nothing is resynced.
pub async fn short_cut_costs_nothing(world: &World) {
    let mut writer = world.writer();
    let readers = AllReaders::start(world).await;
    let before = world.status().await;
    let resyncs = expect(world.primary.full_resyncs().await);
    readers.go_on(500, SOON).await;
    world.link.set(Link::Cut);
    world.phase(Phase::Disconnected, SOON).await;
    // The length of the outage is part of the scenario.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.link.set(Link::Pass);
    let after = world.phase(Phase::Normal, SOON).await;
    readers.go_on(500, SOON).await;
    readers.noticed_nothing().await;
    writer.pause().await;
    world.logged_no_error();
    world.actives_equal_the_primary().await;
    assert_eq!(after.generation, before.generation, "no failover");
    assert_eq!(after.active, before.active);
    assert_eq!(after.upstream.full_resyncs, before.upstream.full_resyncs);
    assert!(after.upstream.partial_resyncs > before.upstream.partial_resyncs, "{:?}", after.upstream);
    assert_eq!(expect(world.primary.full_resyncs().await), resyncs, "full resyncs that the primary paid for");
}

/// Scenario 3: while the link is cut the writes exceed the primary's backlog (1 MB, Valkey 10 MB). Full resync, failover, no failed read.
pub async fn cut_that_overruns_the_backlog_is_a_failover(world: &World) {
    let readers = AllReaders::start(world).await;
    let before = world.status().await;
    let resyncs = expect(world.primary.full_resyncs().await);
    readers.go_on(500, SOON).await;
    world.link.set(Link::Cut);
    world.phase(Phase::Disconnected, SOON).await;
    expect(write_bytes(&world.primary, 24 << 20).await);
    world.link.set(Link::Pass);
    world.at_rest_in(before.generation.0 + 1, FAILOVER_WITHIN).await;
    readers.go_on(500, SOON).await;
    readers.noticed_nothing().await;
    world.logged_no_error();
    world.actives_equal_the_primary().await;
    assert_eq!(expect(world.primary.full_resyncs().await), resyncs + 1, "full resyncs that the primary paid for");
}

/// An RDB of another history with this dataset, made with the primary's binary.
pub async fn rdb_of(world: &World, data: &Dataset) -> PathBuf {
    let place = world.folder().join(format!("rdb-of-{}-keys-version-{}", data.keys, data.version));
    expect(make_rdb(world.primary.binary(), &place, data).await)
}
