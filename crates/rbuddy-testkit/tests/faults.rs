//! Something else breaks in the middle of a failover: the active is untouched, the status is clear, retries are bounded, and it goes on when the
//! cause is gone. (Scenario 6.)

use rbuddy_core::control::relay::SnapshotState;
use rbuddy_core::control::status::{GroupStatus, Phase, RoleName};
use rbuddy_lab::webhook::Manners;
use rbuddy_lab::writer::write_bytes;
use rbuddy_lab::{Data, Dataset, Link, wait_until};
use rbuddy_testkit::scenario::rdb_of;
use rbuddy_testkit::{AllReaders, FAILOVER_WITHIN, SOON, SmallDisk, World, WorldOptions, skip};
use serde_json::json;
use std::process::Command;
use std::time::{Duration, Instant};

const KEYS: u64 = 20_000;
/// With [`KEYS`]: three seconds of loading.
const KEY_LOAD_MICROS: u32 = 150;

/// A primary that is back with another history, a standby that loads slowly, and is loading now. Gives the standby's number.
async fn standby_loads() -> (World, AllReaders, u64, usize) {
    let mut world = World::start(WorldOptions::of(KEYS).slow_to_load(KEY_LOAD_MICROS)).await;
    let status = world.status().await;
    let standby = world.number_of(RoleName::Standby, &status);
    let rdb = rdb_of(&world, &world.data.newer()).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let loads = |status: &GroupStatus| status.phase == Phase::SyncingStandby && status.replicas[standby].loading;
    world.rbuddy.wait_for("a loading standby", FAILOVER_WITHIN, loads).await;
    (world, readers, status.generation.0, standby)
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_that_dies_while_loading_is_filled_again_when_it_is_back() {
    let (mut world, readers, generation, standby) = standby_loads().await;
    world.replicas[standby].kill().await.expect("kill the standby");
    let gone = |status: &GroupStatus| !status.replicas[standby].reachable && status.replicas[standby].note.is_some();
    let status = world.rbuddy.wait_for("a word about the dead standby", SOON, gone).await;
    assert_eq!(status.generation.0, generation);
    readers.go_on(1000, SOON).await;
    world.replicas[standby].restart(Data::Nothing).await.expect("restart the standby");
    readers.have_read(world.data.version + 1, FAILOVER_WITHIN).await;
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
    assert_eq!(world.primary.full_resyncs().await.expect("info"), 1, "the spool is good for a second try");
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_that_hangs_while_loading_is_promoted_when_it_goes_on() {
    let (world, readers, generation, standby) = standby_loads().await;
    world.replicas[standby].freeze().await.expect("freeze the standby");
    let silent = |status: &GroupStatus| !status.replicas[standby].reachable;
    let status = world.rbuddy.wait_for("a word about the silent standby", SOON, silent).await;
    assert_eq!(status.generation.0, generation);
    readers.go_on(1000, SOON).await;
    world.replicas[standby].thaw().await.expect("thaw the standby");
    readers.have_read(world.data.version + 1, FAILOVER_WITHIN).await;
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhook_receiver_that_hangs_delays_nothing_and_is_told_later() {
    let mut world = World::start(WorldOptions::of(KEYS)).await;
    let generation = world.status().await.generation.0;
    let told_before = world.webhook.received().len();
    let rdb = rdb_of(&world, &world.data.newer()).await;
    world.webhook.set(Manners::Hangs);
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let status = world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;
    assert_eq!(status.undelivered.len(), 1, "{:?}", status.undelivered);
    assert_eq!(world.webhook.received().len(), told_before);
    world.webhook.set(Manners::Answers);
    world.rbuddy.wait_for("nothing undelivered", FAILOVER_WITHIN, |status| status.undelivered.is_empty()).await;
    let last = world.webhook.received().pop().expect("it was told");
    assert_eq!(last.active, status.active.first().map(ToString::to_string));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_link_is_noticed_and_costs_no_full_resync() {
    let options = WorldOptions { upstream_timeout: "3s", ..WorldOptions::of(KEYS) };
    let world = World::start(options).await;
    // The primary pings more often than the timeout, as an operator who lowers it must make it do.
    world.primary.command(&["CONFIG", "SET", "repl-ping-replica-period", "1"]).await.expect("config");
    let before = world.status().await;
    let paid = world.primary.full_resyncs().await.expect("info");
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    world.link.set(Link::Stalled);
    world.phase(Phase::Disconnected, SOON).await;
    readers.go_on(1000, SOON).await;
    world.link.set(Link::Pass);
    let after = world.at_rest_in(before.generation.0, SOON).await;
    assert!(after.upstream.partial_resyncs > before.upstream.partial_resyncs);
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
    assert_eq!(world.primary.full_resyncs().await.expect("info"), paid);
}

#[tokio::test(flavor = "multi_thread")]
async fn full_disk_keeps_the_old_data_served_until_there_is_room() {
    if !SmallDisk::can_be_mounted() {
        return skip("mounting a small tmpfs needs root");
    }
    let data = Dataset { value_bytes: 1000, ..Dataset::of(KEYS) };
    let mut world = World::start(WorldOptions { data, state_disk: Some(8), ..WorldOptions::of(KEYS) }).await;
    let before = world.status().await;
    let rdb = rdb_of(&world, &world.data.newer()).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let says_why = wait_until("the status to name the full disk", FAILOVER_WITHIN, async || {
        let status = world.rbuddy.status().await?;
        let text = format!("{} {:?} {:?}", status.explanation, status.snapshot, status.upstream.last_error).to_lowercase();
        if text.contains("no space") || text.contains("disk") { Ok(status) } else { Err(text) }
    });
    let status = says_why.await.expect("it says why");
    assert_eq!(status.active, before.active);
    // Twenty reads take much longer than a retry without a back-off would.
    readers.go_on(4000, SOON).await;
    let tries = world.primary.full_resyncs().await.expect("info");
    assert!(tries <= 6, "{tries} snapshots were taken without room for them");
    world.state_disk.as_ref().expect("it was asked for").grow(200);
    readers.have_read(world.data.version + 1, Duration::from_secs(90)).await;
    world.at_rest_in(before.generation.0 + 1, FAILOVER_WITHIN).await;
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
}

/// The primary is back with this dataset, and the standby serves it.
async fn failed_over_to(newer: Dataset, world: &mut World, readers: &AllReaders) -> GroupStatus {
    let generation = world.status().await.generation.0;
    let rdb = rdb_of(world, &newer).await;
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    readers.have_read(newer.version, FAILOVER_WITHIN).await;
    world.at_rest_in(generation + 1, FAILOVER_WITHIN).await
}

/// Two do not fit, and 61 MB are wanted before one of 40 MB is taken: the one that is kept for the next standby makes way.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_with_room_for_one_snapshot_has_room_for_the_next() {
    if !SmallDisk::can_be_mounted() {
        return skip("mounting a small tmpfs needs root");
    }
    let data = Dataset { value_bytes: 2000, ..Dataset::of(KEYS) };
    let mut world = World::start(WorldOptions { data, state_disk: Some(70), ..WorldOptions::of(KEYS) }).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    for newer in [data.newer(), data.newer().newer()] {
        let kept = failed_over_to(newer, &mut world, &readers).await.snapshot.expect("it is kept");
        assert!(kept.state == SnapshotState::Ready && kept.bytes > 38 << 20, "{kept:?}");
        assert_eq!(world.primary.full_resyncs().await.expect("info"), 1);
    }
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
}

/// What is kept for the next standby fills the disk: it goes, and the state file has room all the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_only_kept_costs_nobody_the_disk() {
    if !SmallDisk::can_be_mounted() {
        return skip("mounting a small tmpfs needs root");
    }
    let mut world = World::start(WorldOptions { state_disk: Some(40), ..WorldOptions::of(KEYS) }).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    let status = failed_over_to(world.data.newer(), &mut world, &readers).await;
    assert!(status.snapshot.is_some(), "it is kept");
    write_bytes(&world.primary, 60 << 20).await.expect("it takes them");
    let is_free = |status: &GroupStatus| status.snapshot.is_none() && status.backlog.disk_bytes == 0 && status.backlog.disk_error.is_none();
    world.rbuddy.wait_for("the disk to be free", FAILOVER_WITHIN, is_free).await;
    assert!(world.rbuddy.log().contains("the disk takes no more"), "{}", world.rbuddy.log());
    assert!(!world.rbuddy.log().contains("not written"), "{}", world.rbuddy.log());
    assert_eq!(world.primary.full_resyncs().await.expect("info"), 1);
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_could_not_be_written_down_is_done() {
    if !SmallDisk::can_be_mounted() {
        return skip("mounting a small tmpfs needs root");
    }
    let mut world = World::start(WorldOptions { state_disk: Some(64), ..WorldOptions::of(KEYS) }).await;
    let before = world.status().await;
    let rdb = rdb_of(&world, &world.data.newer()).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    let full = world.state_disk.as_ref().expect("it was asked for").fill();
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let says_why = |status: &GroupStatus| status.phase == Phase::StateNotWritten && status.explanation.contains("No space left on device");
    let status = world.rbuddy.wait_for("the status to name the full disk", FAILOVER_WITHIN, says_why).await;
    assert_eq!((status.generation, &status.active), (before.generation, &before.active));
    assert!(status.replicas.iter().all(|replica| !replica.may_stop.allowed), "{:?}", status.replicas);
    let (code, answer) = world.rbuddy.post("failover", json!({})).await;
    assert!(code == 409 && answer.contains("No space left on device"), "{code} {answer}");
    readers.go_on(1000, SOON).await;
    drop(full);
    readers.have_read(world.data.version + 1, FAILOVER_WITHIN).await;
    world.at_rest_in(before.generation.0 + 1, FAILOVER_WITHIN).await;
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rbuddy_ends_and_starts_on_a_full_disk() {
    if !SmallDisk::can_be_mounted() {
        return skip("mounting a small tmpfs needs root");
    }
    let mut world = World::start(WorldOptions { state_disk: Some(64), ..WorldOptions::of(KEYS) }).await;
    let before = world.status().await;
    let rdb = rdb_of(&world, &world.data.newer()).await;
    let full = world.state_disk.as_ref().expect("it was asked for").fill();
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let says_why = |status: &GroupStatus| status.phase == Phase::StateNotWritten;
    world.rbuddy.wait_for("the status to name the full disk", FAILOVER_WITHIN, says_why).await;
    ends_at_once(&mut world).await;
    world.rbuddy.launch().await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    assert_eq!(world.status().await.active, before.active);
    world.rbuddy.kill().await;
    world.rbuddy.launch().await;
    drop(readers);
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    drop(full);
    readers.have_read(world.data.version + 1, FAILOVER_WITHIN).await;
    world.at_rest_in(before.generation.0 + 1, FAILOVER_WITHIN).await;
    readers.noticed_nothing().await;
    world.actives_equal_the_primary().await;
}

/// Less than what a part of it is given that does not end.
const AT_ONCE: Duration = Duration::from_secs(6);

async fn ends_at_once(world: &mut World) {
    let asked = Instant::now();
    assert_eq!(world.rbuddy.terminate().await, Some(0));
    assert!(asked.elapsed() < AT_ONCE, "{:?}", asked.elapsed());
}

/// To open a FIFO that nobody reads takes as long as a disk that does not answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_hangs_is_told_and_keeps_nobody_from_reading_or_from_ending_rbuddy() {
    let mut world = World::start(WorldOptions::of(KEYS)).await;
    let before = world.status().await;
    let rdb = rdb_of(&world, &world.data.newer()).await;
    let readers = AllReaders::start(&world).await;
    readers.go_on(300, SOON).await;
    let hanging = world.folder().join("state/main/state.json.new");
    assert!(Command::new("mkfifo").arg(&hanging).status().expect("mkfifo runs").success());
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    let is_told = |status: &GroupStatus| status.phase == Phase::StateNotWritten && status.explanation.contains("takes long");
    let status = world.rbuddy.wait_for("the status to tell of the hanging disk", FAILOVER_WITHIN, is_told).await;
    assert_eq!(status.active, before.active);
    readers.go_on(1000, SOON).await;
    readers.noticed_nothing().await;
    ends_at_once(&mut world).await;
    std::fs::remove_file(&hanging).expect("the disk answers");
    world.rbuddy.launch().await;
    world.at_rest_in(before.generation.0 + 1, FAILOVER_WITHIN).await;
    world.actives_equal_the_primary().await;
}
