//! A server is taken out, stopped, started again and taken back in, with readers and a writer running: nobody notices.

use rbuddy_core::control::status::{GroupStatus, Phase, RoleName};
use rbuddy_lab::Data;
use rbuddy_testkit::{AllReaders, CliOutput, FAILOVER_WITHIN, SOON, World, WorldOptions, cli};
use std::time::Duration;

async fn rbuddy(world: &World, command: &str, replica: &str) -> CliOutput {
    let config = world.folder().join("rbuddy.toml").display().to_string();
    cli(&[command, replica, "--config", &config]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_server_is_restarted_in_turn_without_a_failed_read() {
    let mut world = World::start(WorldOptions::of(20_000)).await;
    let mut writer = world.writer();
    let readers = AllReaders::start(&world).await;
    readers.go_on(500, SOON).await;
    // The standby first, then the active: as one does with an upgrade.
    for role in [RoleName::Standby, RoleName::Active] {
        let before = world.status().await;
        let number = world.number_of(role, &before);
        let replica = before.replicas[number].address.clone();
        if role == RoleName::Active {
            let no = rbuddy(&world, "may-stop", &replica.to_string()).await;
            assert!(no.status == Some(4) && no.text.contains("drain"), "{}", no.text);
        }
        let drained = rbuddy(&world, "drain", &replica.to_string()).await;
        assert_eq!(drained.status, Some(0), "{}", drained.text);
        let is_drained =
            |status: &GroupStatus| status.replicas[number].may_stop.allowed && status.replicas[number].role == RoleName::Drained;
        world.rbuddy.wait_for("it may be stopped", FAILOVER_WITHIN, is_drained).await;
        let yes = rbuddy(&world, "may-stop", &replica.to_string()).await;
        assert_eq!(yes.status, Some(0), "{}", yes.text);
        let yes = world.rbuddy.get(&format!("replicas/{replica}/may-stop")).await;
        assert!(yes.0 == 200 && yes.1.contains("\"may_stop\":true"), "{yes:?}");
        let serving = world.status().await.active[0].clone();
        let no = world.rbuddy.get(&format!("replicas/{serving}/may-stop")).await;
        assert!(no.0 == 409 && no.1.contains("\"may_stop\":false"), "{no:?}");
        assert_eq!(world.rbuddy.get("replicas/127.0.0.1:1/may-stop").await.0, 404);

        world.replicas[number].restart(Data::Own).await.expect("restart it");
        readers.go_on(300, SOON).await;
        let returned = rbuddy(&world, "return", &replica.to_string()).await;
        assert_eq!(returned.status, Some(0), "{}", returned.text);
        let is_back = |status: &GroupStatus| {
            status.phase == Phase::Normal && status.active.len() == 1 && status.replicas[number].role == RoleName::Standby
        };
        world.rbuddy.wait_for("it is the standby", FAILOVER_WITHIN, is_back).await;
    }
    readers.go_on(500, SOON).await;
    readers.noticed_nothing().await;
    writer.pause().await;
    world.actives_equal_the_primary().await;
    world.logged_no_error();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_is_returned_without_having_been_stopped() {
    let world = World::start(WorldOptions::of(1_000)).await;
    let before = world.status().await;
    let number = world.number_of(RoleName::Active, &before);
    let replica = before.replicas[number].address.to_string();
    assert_eq!(rbuddy(&world, "drain", &replica).await.status, Some(0));
    let is_drained = |status: &GroupStatus| status.replicas[number].role == RoleName::Drained;
    let status = world.rbuddy.wait_for("it is drained", FAILOVER_WITHIN, is_drained).await;
    // Its clients' connections were closed, the probe's among them, and it runs all the same: the looks of this while say so.
    let is_seen = |later: &GroupStatus| {
        assert!(later.replicas[number].reachable, "{:?}", later.replicas[number]);
        later.time.since(status.time) >= Duration::from_millis(1500)
    };
    world.rbuddy.wait_for("looks at it", SOON, is_seen).await;
    let returned = rbuddy(&world, "return", &replica).await;
    assert_eq!(returned.status, Some(0), "{}", returned.text);
    let is_back = |status: &GroupStatus| status.phase == Phase::Normal && status.replicas[number].role == RoleName::Standby;
    world.rbuddy.wait_for("it is the standby", FAILOVER_WITHIN, is_back).await;
}
