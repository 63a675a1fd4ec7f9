//! The wall clock of the primary, of the active and of rbuddy is set while everything runs: readers notice nothing, and nobody pays for a full resync.

use rbuddy_core::control::status::{GroupStatus, RoleName};
use rbuddy_lab::resp::Value;
use rbuddy_lab::{Jump, Server, WallClock, wait_until};
use rbuddy_testkit::{AllReaders, SOON, World, WorldOptions};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const HOUR: Duration = Duration::from_secs(3600);

async fn world() -> World {
    World::start(WorldOptions { own_clocks: true, ..WorldOptions::of(5_000) }).await
}

/// A write arrives at the active, through whatever the clock has made of the links.
async fn writes_arrive(world: &World, key: &str) {
    world.primary.command(&["SET", key, "x"]).await.expect("written");
    let status = world.status().await;
    let active = world.server(status.active.first().expect("an active"));
    let arrived = wait_until("the write at the active", SOON, async || {
        let value = active.command(&["GET", key]).await.map_err(|error| error.to_string())?;
        if value.text().as_deref() == Some("x") { Ok(()) } else { Err("not there".to_owned()) }
    });
    arrived.await.unwrap_or_else(|error| panic!("{key}: {error}"));
}

async fn goes_on_when_set(whose: impl Fn(&World) -> WallClock) {
    let world = world().await;
    let (before, paid) = (world.status().await, world.primary.full_resyncs().await.expect("info"));
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    let clock = whose(&world);
    for (number, jump) in [Jump::Ahead(HOUR), Jump::Back(HOUR), Jump::Ahead(Duration::from_secs(5))].into_iter().enumerate() {
        clock.set(jump).expect("set");
        readers.go_on(500, SOON).await;
        writes_arrive(&world, &format!("{number} {jump:?}")).await;
    }
    clock.set_right().expect("set");
    writes_arrive(&world, "right again").await;
    let at_rest = |status: &GroupStatus| status.replicas.iter().all(|replica| replica.reachable) && status.active == before.active;
    let after = world.rbuddy.wait_for("rest", SOON, at_rest).await;
    assert_eq!(after.generation, before.generation);
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
    assert_eq!(world.primary.full_resyncs().await.expect("info"), paid);
    world.logged_no_error();
}

/// Seconds since 1970, as the server counts them.
async fn told_by(server: &Server) -> u64 {
    let Value::Array(parts) = server.command(&["TIME"]).await.expect("TIME") else { panic!("two numbers") };
    parts[0].clone().text().and_then(|seconds| seconds.parse().ok()).expect("seconds")
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_server_is_what_it_lives_by() {
    let world = world().await;
    world.replicas[0].clock().expect("its own").set(Jump::Ahead(HOUR)).expect("set");
    let (primary, replica) = (told_by(&world.primary).await, told_by(&world.replicas[0]).await);
    assert!((3590..3610).contains(&replica.saturating_sub(primary)), "{primary} {replica}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_primary() {
    goes_on_when_set(|world| world.primary.clock().expect("its own").clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_active() {
    goes_on_when_set(|world| world.replicas[0].clock().expect("its own").clone()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_rbuddy() {
    goes_on_when_set(|world| world.rbuddy.clock().expect("its own").clone()).await;
}

/// rbuddy dies, its machine's clock goes back by a day, and what it wrote down is of the future.
#[tokio::test(flavor = "multi_thread")]
async fn of_rbuddy_between_its_lives() {
    let mut world = world().await;
    let paid = world.primary.full_resyncs().await.expect("info");
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    for jump in [Jump::Back(24 * HOUR), Jump::Ahead(24 * HOUR)] {
        world.rbuddy.kill().await;
        world.rbuddy.clock().expect("its own").set(jump).expect("set");
        world.rbuddy.launch().await;
        let serves = |status: &GroupStatus| status.active.len() == 1 && status.replicas.iter().all(|replica| replica.reachable);
        let status = world.rbuddy.wait_for("an active", SOON, serves).await;
        let (told, now) = (status.time.unix_ms() / 1000, SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs());
        assert!(told.abs_diff(now).abs_diff(24 * HOUR.as_secs()) < 60, "it does not live by its clock: {told} at {now}");
        writes_arrive(&world, &format!("{jump:?}")).await;
        assert_eq!(world.status().await.replicas[0].role, RoleName::Active);
    }
    world.actives_equal_the_primary().await;
    assert_eq!(world.primary.full_resyncs().await.expect("info"), paid, "what it wrote down in the future is of use all the same");
}
