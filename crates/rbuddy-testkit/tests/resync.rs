//! The main job: reads survive a full resync. (Scenarios 1, 2, 3.)

use rbuddy_testkit::scenario::{
    cut_that_overruns_the_backlog_is_a_failover, primary_comes_back_with_another_history, short_cut_costs_nothing,
};
use rbuddy_testkit::{World, WorldOptions};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn million_keys_survive_a_killed_primary_that_comes_back_with_another_history() {
    let mut world = World::start(WorldOptions::of(1_000_000)).await;
    primary_comes_back_with_another_history(&mut world, Duration::from_secs(5)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_cut_is_noticed_by_nobody() {
    short_cut_costs_nothing(&World::start(WorldOptions::of(50_000)).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_beyond_the_backlog_are_a_failover_without_a_failed_read() {
    cut_that_overruns_the_backlog_is_a_failover(&World::start(WorldOptions::of(50_000)).await).await;
}
