//! rbuddy is killed in every phase of a failover and started again under load: replicas keep serving, the failover ends, and the primary pays for
//! a second full resync only where nothing complete was on disk yet. (Scenario 5.)

use rbuddy_core::control::relay::SnapshotState;
use rbuddy_core::control::status::{GroupStatus, Phase};
use rbuddy_lab::{Data, Dataset, Link, Writer};
use rbuddy_testkit::scenario::rdb_of;
use rbuddy_testkit::{AllReaders, FAILOVER_WITHIN, SOON, World, WorldOptions};
use std::time::Duration;

const KEYS: u64 = 20_000;
/// With [`KEYS`]: two seconds of loading.
const KEY_LOAD_MICROS: u32 = 100;
/// The snapshot (6 MB) arrives within three seconds.
const SLOW_LINK: u64 = 2 << 20;

struct Story {
    world: World,
    readers: AllReaders,
    writer: Writer,
    generation: u64,
}

impl Story {
    /// A failover has begun: the primary is back with another history and newer data, over a slow link to replicas that load slowly.
    async fn begin() -> Story {
        let mut story = Story::prepare().await;
        let rdb = rdb_of(&story.world, &story.world.data.newer()).await;
        story.world.link.throttle(Some(SLOW_LINK));
        story.world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
        story
    }

    async fn prepare() -> Story {
        let data = Dataset { value_bytes: 300, ..Dataset::of(KEYS) };
        let options = WorldOptions { data, drain: "3s", ..WorldOptions::of(KEYS) }.slow_to_load(KEY_LOAD_MICROS);
        let world = World::start(options).await;
        let generation = world.status().await.generation.0;
        let (writer, readers) = (world.writer(), AllReaders::start(&world).await);
        readers.go_on(300, SOON).await;
        Story { world, readers, writer, generation }
    }

    async fn until(&self, what: &str, holds: impl Fn(&GroupStatus) -> bool) {
        self.world.rbuddy.wait_for(what, FAILOVER_WITHIN, holds).await;
    }

    /// Kill, and start again after a moment in which a primary with the default settings keeps its backlog.
    async fn kill_and_launch(&mut self) {
        self.world.rbuddy.kill().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        self.world.rbuddy.launch().await;
    }

    /// The failover ends as if nothing had happened.
    async fn ends_well(mut self, full_resyncs_max: u64) {
        self.world.link.throttle(None);
        self.readers.have_read(self.world.data.version + 1, FAILOVER_WITHIN).await;
        let end = self.world.at_rest_in(self.generation + 1, FAILOVER_WITHIN).await;
        assert_eq!(end.active.len(), 1, "{end:?}");
        self.readers.direct_ones_noticed_nothing().await;
        self.writer.pause().await;
        self.world.actives_equal_the_primary().await;
        let paid = self.world.primary.full_resyncs().await.expect("info");
        assert!((1..=full_resyncs_max).contains(&paid), "the primary paid for {paid} full resyncs instead of at most {full_resyncs_max}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_normal_it_continues_without_a_full_resync() {
    let mut story = Story::prepare().await;
    let paid = story.world.primary.full_resyncs().await.expect("info");
    story.kill_and_launch().await;
    story.world.at_rest_in(story.generation, FAILOVER_WITHIN).await;
    story.readers.go_on(300, SOON).await;
    story.readers.direct_ones_noticed_nothing().await;
    story.writer.pause().await;
    story.world.actives_equal_the_primary().await;
    assert_eq!(story.world.primary.full_resyncs().await.expect("info"), paid);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_primary_is_away() {
    let mut story = Story::prepare().await;
    let rdb = rdb_of(&story.world, &story.world.data.newer()).await;
    story.world.link.set(Link::Cut);
    story.world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    story.world.phase(Phase::Disconnected, SOON).await;
    story.kill_and_launch().await;
    story.world.link.set(Link::Pass);
    story.ends_well(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_snapshot_arrives() {
    let mut story = Story::begin().await;
    let arrives = |status: &GroupStatus| status.snapshot.as_ref().is_some_and(|s| s.state == SnapshotState::Receiving && s.bytes > 1 << 20);
    story.until("half a snapshot", arrives).await;
    story.kill_and_launch().await;
    // Half a snapshot is worth nothing, so it is taken again.
    story.ends_well(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_standby_loads() {
    let mut story = Story::begin().await;
    let loads = |status: &GroupStatus| status.phase == Phase::SyncingStandby && status.replicas.iter().any(|replica| replica.loading);
    story.until("a loading standby", loads).await;
    story.kill_and_launch().await;
    story.ends_well(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_readers_drain() {
    let mut story = Story::begin().await;
    story.until("the drain", |status| status.phase == Phase::Draining).await;
    story.kill_and_launch().await;
    story.ends_well(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_while_the_old_active_is_being_retired() {
    let mut story = Story::begin().await;
    // It takes a tenth of a second, several looks at the status.
    story.until("the old active to be retired", |status| status.phase == Phase::Retiring).await;
    story.kill_and_launch().await;
    story.ends_well(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ended_by_sigterm_it_says_so_with_status_zero_and_continues_later() {
    let mut story = Story::prepare().await;
    let paid = story.world.primary.full_resyncs().await.expect("info");
    assert_eq!(story.world.rbuddy.terminate().await, Some(0));
    story.world.rbuddy.launch().await;
    story.world.at_rest_in(story.generation, FAILOVER_WITHIN).await;
    story.readers.direct_ones_noticed_nothing().await;
    assert_eq!(story.world.primary.full_resyncs().await.expect("info"), paid);
}
