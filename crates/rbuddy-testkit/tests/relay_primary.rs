//! The primary behind the relay alone comes back and has lost its last writes: relay and replicas have bytes that it never had. Nobody may keep them, and
//! nobody may be given them.

use rbuddy_lab::writer::write_bytes;
use rbuddy_lab::{Binary, Data, Link, ServerOptions};
use rbuddy_testkit::{Follower, RelayOptions, RelayWorld, SOON, skip};

const TAIL_BYTES: u64 = 256 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn what_the_primary_lost_is_given_to_nobody() {
    let binary = Binary::find().expect("a server binary");
    if binary.version < (7, 0, 0) {
        return skip("before 7.0 a primary that loads its RDB does not go on with the history in it");
    }
    let mut world = RelayWorld::start(&binary, ServerOptions::default(), RelayOptions::default()).await;
    for _ in 0..2 {
        world.add_replica(&binary, ServerOptions::default()).await;
    }
    world.all_caught_up(SOON).await;
    world.stream(1 << 20).await;

    // The second replica stands where the primary saves; the first one and the relay get what the primary is going to lose.
    world.replicas[1].link.set(Link::Cut);
    world.primary.save().await.expect("save");
    write_bytes(&world.primary, TAIL_BYTES).await.expect("write");
    world.caught_up(0, SOON).await;
    world.primary.kill().await.expect("kill the primary");
    world.primary.restart(Data::Own).await.expect("restart the primary");
    world.primary.ready(SOON).await.expect("the primary loads");
    world.replicas[1].link.set(Link::Pass);
    same_to_the_last_byte(&world).await;
    world.stream(TAIL_BYTES).await;
    same_to_the_last_byte(&world).await;
    // It goes on with its old history up to where it saved, and so may whoever has no more than that (protocol facts 4.2 and 4.4).
    assert_eq!(world.replicas[1].full_resyncs(), 1, "the one that has nothing too much");
    assert_eq!(world.replicas[0].full_resyncs(), 2, "the one that has");

    // Neither from memory nor from disk.
    world.add_replica(&binary, ServerOptions::default()).await;
    same_to_the_last_byte(&world).await;
    world.relay.kill().await;
    world.relay.launch().await;
    world.add_replica(&binary, ServerOptions::default()).await;
    same_to_the_last_byte(&world).await;
    assert_eq!(world.replicas.iter().map(Follower::full_resyncs).collect::<Vec<_>>(), [2, 1, 1, 1]);
    assert!(world.paid().await <= 1, "a dataset for those that had too much, if the relay's own does not serve");
    world.relay.logged_no_error();
}

async fn same_to_the_last_byte(world: &RelayWorld) {
    world.all_caught_up(SOON).await;
    world.all_equal(SOON).await;
}
