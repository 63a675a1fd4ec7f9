//! Replicas come to the relay alone in numbers: one snapshot from the primary serves them all, whenever they come.

use rbuddy_lab::{Binary, Dataset, Link, ServerOptions, wait_until};
use rbuddy_testkit::{Follower, RelayOptions, RelayWorld, SOON};

const KEYS: u64 = 20_000;
/// The race that this is about is not lost every time.
const TRIES: usize = 5;

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_wait_for_the_first_snapshot_share_it() {
    let binary = Binary::find().expect("a server binary");
    for attempt in 1..=TRIES {
        let mut world = RelayWorld::start_with(Link::Stalled, &binary, ServerOptions::default(), RelayOptions::default()).await;
        Dataset::of(KEYS).load(&world.primary).await.expect("load");
        for _ in 0..3 {
            world.add_replica(&binary, ServerOptions::default()).await;
        }
        let waiting = wait_until("three replicas to ask", SOON, async || {
            let questions: Vec<u64> = world.replicas.iter().map(Follower::questions).collect();
            if questions.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{questions:?}")) }
        });
        waiting.await.expect("they ask and wait");
        world.upstream.set(Link::Pass);
        world.all_caught_up(SOON).await;
        assert_eq!(world.paid().await, 1, "attempt {attempt}: full resyncs that the primary paid for");
        assert_eq!(world.replicas.iter().map(Follower::full_resyncs).collect::<Vec<_>>(), [1, 1, 1]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_come_later_are_given_the_same_snapshot() {
    let binary = Binary::find().expect("a server binary");
    let mut world = RelayWorld::start(&binary, ServerOptions::default(), RelayOptions::default()).await;
    for number in 0..4 {
        Dataset { version: number + 1, ..Dataset::of(KEYS) }.load(&world.primary).await.expect("load");
        world.add_replica(&binary, ServerOptions::default()).await;
        world.all_caught_up(SOON).await;
    }
    world.all_equal(SOON).await;
    assert_eq!(world.paid().await, 1, "full resyncs that the primary paid for");
}
