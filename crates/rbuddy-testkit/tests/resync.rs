//! The main job: reads survive a full resync. (Scenarios 1, 2, 3, and the same with
//! `freeze = "detach"`, with `standby = "warm"`, and as a planned switch.)

use rbuddy_core::control::status::{GroupStatus, Phase};
use rbuddy_lab::{Data, Server, ServerOptions, wait_until};
use rbuddy_testkit::scenario::{
    cut_that_overruns_the_backlog_is_a_failover, primary_comes_back_with_another_history, rdb_of, short_cut_costs_nothing,
};
use rbuddy_testkit::{AllReaders, FAILOVER_WITHIN, Others, SOON, World, WorldOptions, cli};
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

#[tokio::test(flavor = "multi_thread")]
async fn detached_actives_serve_the_old_data_and_are_emptied_afterwards() {
    let options = WorldOptions { extra: vec!["freeze = \"detach\"".to_owned()], ..WorldOptions::of(20_000) };
    let mut world = World::start(options).await;
    primary_comes_back_with_another_history(&mut world, Duration::from_secs(1)).await;
    assert!(world.rbuddy.log().contains("told to leave its primary"), "it was detached, not held");
}

#[tokio::test(flavor = "multi_thread")]
async fn warm_replicas_take_a_new_dataset_one_after_another() {
    let options = WorldOptions { others: Others::TheDataset, extra: vec!["standby = \"warm\"".to_owned()], ..WorldOptions::of(20_000) };
    let both = |status: &GroupStatus| status.phase == Phase::Normal && status.active.len() == 2;
    let mut world = World::start_unsettled(options).await;
    world.rbuddy.wait_for("both replicas to serve", SOON, both).await;
    let rdb = rdb_of(&world, &world.data.newer()).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    readers.have_read(world.data.version + 1, FAILOVER_WITHIN).await;
    world.rbuddy.wait_for("both replicas to serve the new data", FAILOVER_WITHIN, both).await;
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
    assert_eq!(world.primary.full_resyncs().await.expect("info"), 1, "one snapshot for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_three_warm_replicas_two_serve_at_any_time() {
    let mut options = WorldOptions { others: Others::TheDataset, extra: vec!["standby = \"warm\"".to_owned()], ..WorldOptions::of(10_000) };
    options.replicas.push((None, ServerOptions::default()));
    // So long that the third would be missed if it left with the second.
    let mut world = World::start_unsettled(options.slow_to_load(100)).await;
    let all = |status: &GroupStatus| status.phase == Phase::Normal && status.active.len() == 3;
    world.rbuddy.wait_for("three replicas to serve", SOON, all).await;
    let rdb = rdb_of(&world, &world.data.newer()).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let generation = world.status().await.generation.0;
    let mut fewest = usize::MAX;
    let renewed = wait_until("three replicas to serve the new data", FAILOVER_WITHIN, async || {
        let status = world.rbuddy.status().await?;
        fewest = fewest.min(status.active.len());
        // One leaves, and with each of the three that comes back a change of roles.
        let is_renewed = all(&status) && status.generation.0 >= generation + 4;
        if is_renewed { Ok(()) } else { Err(status.explanation) }
    });
    renewed.await.expect("all are renewed");
    assert_eq!(fewest, 2);
    readers.have_read(world.data.version + 1, SOON).await;
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
    assert_eq!(world.primary.full_resyncs().await.expect("info"), 1, "one snapshot for all");
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_switch_under_writes_loses_no_position() {
    let world = World::start(WorldOptions::of(20_000)).await;
    let before = world.status().await;
    let mut writer = world.writer();
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    let config = world.folder().join("rbuddy.toml").display().to_string();
    let answer = cli(&["failover", "--config", &config]).await;
    assert_eq!(answer.status, Some(0), "{}", answer.text);
    world.at_rest_in(before.generation.0 + 1, FAILOVER_WITHIN).await;
    readers.go_on(500, SOON).await;
    readers.noticed_nothing().await;
    writer.pause().await;
    assert_ne!(world.status().await.active, before.active);
    world.actives_equal_the_primary().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_filled_from_the_active_costs_the_primary_no_fork() {
    let extra = vec!["snapshot_from = \"replica\"".to_owned()];
    let world = World::start(WorldOptions { extra, ..WorldOptions::of(20_000) }).await;
    let before = world.status().await;
    let active = world.server(&before.active[0]);
    let forks = async |server: &Server| server.full_resyncs().await.expect("info");
    let (of_primary, of_active) = (forks(&world.primary).await, forks(active).await);
    let config = world.folder().join("rbuddy.toml").display().to_string();
    let answer = cli(&["failover", "--config", &config]).await;
    assert_eq!(answer.status, Some(0), "{}", answer.text);
    world.at_rest_in(before.generation.0 + 1, FAILOVER_WITHIN).await;
    world.actives_equal_the_primary().await;
    assert_eq!((forks(&world.primary).await, forks(active).await), (of_primary, of_active + 1), "of the primary, of the active");
}
