//! The relay alone on a disk that does not take what is written to it, though it can be read.

use rbuddy_core::info::ServerInfo;
use rbuddy_core::types::ReplId;
use rbuddy_lab::{Binary, Dataset, Link, ServerOptions, wait_until};
use rbuddy_testkit::{RelayOptions, RelayWorld, SOON};
use std::time::Duration;

const KEYS: u64 = 20_000;
/// With [`KEYS`]: 20 MB, for which the replica's link takes ten seconds.
const VALUE_BYTES: usize = 1000;
const LINK_BYTES_PER_SECOND: u64 = 2_000_000;

async fn on_a_bad_disk() -> RelayWorld {
    let binary = Binary::find().expect("a server binary");
    let options = RelayOptions { disk_can_fail: true, ..RelayOptions::default() };
    let mut world = RelayWorld::start_with(Link::Stalled, &binary, ServerOptions::default(), options).await;
    Dataset { value_bytes: VALUE_BYTES, ..Dataset::of(KEYS) }.load(&world.primary).await.expect("load");
    world.add_replica(&binary, ServerOptions::default()).await;
    world
}

async fn replid(world: &RelayWorld) -> Option<ReplId> {
    let info = world.primary.command(&["INFO"]).await.expect("it answers").text().unwrap_or_default();
    ServerInfo::parse(&info).replid
}

/// What is read of it from then on may be anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_the_disk_does_not_take_is_given_to_nobody_to_its_end() {
    let world = on_a_bad_disk().await;
    world.relay.disk().fail_for("/snapshot-", Duration::from_secs(1)).expect("the disk breaks");
    world.replicas[0].link.throttle(Some(LINK_BYTES_PER_SECOND));
    world.upstream.set(Link::Pass);
    // Each costs the primary a fork, so it takes its time.
    let lost_twice = wait_until("two snapshots to be lost", SOON, async || {
        let lost = world.relay.log().matches("snapshot removed: the disk did not take it").count();
        if lost >= 2 { Ok(()) } else { Err(format!("{lost} were lost")) }
    });
    lost_twice.await.expect("it is noticed");
    let info = world.replicas[0].info().await.expect("it answers");
    assert!(!info.is_link_up && info.keyspace.keys == 0, "{info:?}");
    assert!(world.relay.log().contains("the snapshot that it was given is lost"), "{}", world.relay.log());
    assert!(world.paid().await <= 4, "{} snapshots were taken for a disk that is broken", world.paid().await);

    world.relay.disk().mend().expect("it is mended");
    world.replicas[0].link.throttle(None);
    world.all_caught_up(SOON).await;
    world.all_equal(SOON).await;
}

/// A kill would otherwise have the next run take the bytes behind the change for the former id's.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_id_that_cannot_be_written_down_leads_to_nothing_wrong() {
    let mut world = on_a_bad_disk().await;
    world.upstream.set(Link::Pass);
    world.all_caught_up(SOON).await;
    let paid = world.paid().await;
    world.relay.disk().fail_for("/relay.json", Duration::ZERO).expect("the disk breaks");
    // The same bytes go on under another id.
    let before = replid(&world).await;
    world.primary.command(&["REPLICAOF", "127.0.0.1", "1"]).await.expect("it obeys");
    world.primary.command(&["REPLICAOF", "NO", "ONE"]).await.expect("it obeys");
    assert_ne!(before, replid(&world).await);
    world.all_caught_up(SOON).await;
    world.stream(1 << 20).await;
    assert!(world.relay.log().contains("what the disk has of the stream is given up"), "{}", world.relay.log());

    world.relay.kill().await;
    world.relay.disk().mend().expect("it is mended");
    world.relay.launch().await;
    world.all_caught_up(SOON).await;
    world.all_equal(SOON).await;
    assert_eq!((world.paid().await, world.replicas[0].full_resyncs()), (paid, 1), "the primary's backlog covers it");
}
