//! The active restarts by itself, with and without an RDB, while all is well and while it is held: no empty read, and reconciled. (Scenario 9.)
//!
//! With one active, reads may fail while it is away. They are never answered with nil or a wrong value.

use rbuddy_core::control::status::{GroupStatus, Phase, RoleName};
use rbuddy_lab::Data;
use rbuddy_testkit::{AllReaders, FAILOVER_WITHIN, SOON, World, WorldOptions};

const KEYS: u64 = 20_000;

async fn world_with_readers() -> (World, AllReaders) {
    let world = World::start(WorldOptions::of(KEYS)).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    (world, readers)
}

async fn restart_active(world: &mut World, data: Data<'_>) {
    let status = world.status().await;
    let active = world.number_of(RoleName::Active, &status);
    if matches!(data, Data::Own) {
        world.replicas[active].save().await.expect("save");
    }
    world.replicas[active].restart(data).await.expect("restart the active");
}

fn serves(status: &GroupStatus) -> bool {
    status.phase == Phase::Normal && status.active.len() == 1 && status.standby.len() == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn active_that_restarts_with_its_rdb_rejoins_without_an_empty_read() {
    let (mut world, readers) = world_with_readers().await;
    let mut writer = world.writer();
    let paid = world.primary.full_resyncs().await.expect("info");
    restart_active(&mut world, Data::Own).await;
    readers.go_on(1000, FAILOVER_WITHIN).await;
    world.rbuddy.wait_for("one active, one standby", FAILOVER_WITHIN, serves).await;
    writer.pause().await;
    world.actives_equal_the_primary().await;
    readers.got_nothing_wrong_through_the_endpoint().await;
    let paid_now = world.primary.full_resyncs().await.expect("info");
    assert!(paid_now <= paid + 1, "at most one snapshot for the standby that takes over: {paid_now} after {paid}");
}

#[tokio::test(flavor = "multi_thread")]
async fn active_that_restarts_empty_is_replaced_without_an_empty_read() {
    let (mut world, readers) = world_with_readers().await;
    let mut writer = world.writer();
    restart_active(&mut world, Data::Nothing).await;
    readers.go_on(1000, FAILOVER_WITHIN).await;
    world.rbuddy.wait_for("one active, one standby", FAILOVER_WITHIN, serves).await;
    writer.pause().await;
    world.actives_equal_the_primary().await;
    readers.got_nothing_wrong_through_the_endpoint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_active_that_is_lost_is_replaced_from_the_snapshot_that_is_there() {
    let (mut world, readers) = world_with_readers().await;
    let mut writer = world.writer();
    let generation = world.status().await.generation.0;
    restart_active(&mut world, Data::Nothing).await;
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
    let paid = world.primary.full_resyncs().await.expect("info");
    restart_active(&mut world, Data::Nothing).await;
    world.at_rest_in(generation + 2, FAILOVER_WITHIN).await;
    assert_eq!(world.primary.full_resyncs().await.expect("info"), paid);
    writer.pause().await;
    world.actives_equal_the_primary().await;
    readers.got_nothing_wrong_through_the_endpoint().await;
}

/// The primary came back empty and is refused, so the active is held with the only complete dataset.
async fn held_world_with_readers() -> (World, AllReaders) {
    let (mut world, readers) = world_with_readers().await;
    world.primary.restart(Data::Nothing).await.expect("restart the primary");
    world.phase(Phase::Refused, FAILOVER_WITHIN).await;
    readers.go_on(300, SOON).await;
    (world, readers)
}

#[tokio::test(flavor = "multi_thread")]
async fn held_active_that_restarts_with_its_rdb_serves_the_old_data_again() {
    let (mut world, readers) = held_world_with_readers().await;
    restart_active(&mut world, Data::Own).await;
    readers.go_on(1000, FAILOVER_WITHIN).await;
    let status = world.status().await;
    assert_eq!(status.active.len(), 1, "{}", status.explanation);
    assert_eq!(status.phase, Phase::Refused, "the empty dataset is still refused: {}", status.explanation);
    readers.got_nothing_wrong_through_the_endpoint().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn held_active_that_restarts_empty_gives_errors_until_the_primary_is_plausible() {
    let (mut world, readers) = held_world_with_readers().await;
    restart_active(&mut world, Data::Nothing).await;
    let lost = |status: &GroupStatus| status.active.is_empty() && !status.explanation.is_empty();
    world.rbuddy.wait_for("a word about the lost dataset", SOON, lost).await;
    world.data.newer().load(&world.primary).await.expect("load the primary again");
    readers.have_read(world.data.version + 1, FAILOVER_WITHIN).await;
    world.rbuddy.wait_for("one active, one standby", FAILOVER_WITHIN, serves).await;
    world.actives_equal_the_primary().await;
    readers.got_nothing_wrong_through_the_endpoint().await;
}
