//! What `WAIT` on the primary means with a whole rbuddy before its replicas: that all actives have it.

use rbuddy_lab::resp::{Connection, Value};
use rbuddy_lab::wait_until;
use rbuddy_testkit::{FAILOVER_WITHIN, Others, SOON, World, WorldOptions};
use std::time::Duration;

const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Writes, and has `WAIT` count the replicas that have it: rbuddy is one.
async fn written_and_waited_for(world: &World, patience_ms: u32) -> i64 {
    let mut connection = Connection::open(&world.primary.address(), ANSWER_WITHIN).await.expect("the primary is there");
    connection.command(&["INCR", "waited for"], ANSWER_WITHIN).await.expect("it takes writes");
    match connection.command(&["WAIT", "1", &patience_ms.to_string()], ANSWER_WITHIN).await.expect("it answers") {
        Value::Integer(count) => count,
        other @ (Value::Simple(_) | Value::Error(_) | Value::Bulk(_) | Value::Nil | Value::Array(_)) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_counts_what_every_active_has() {
    // One that hangs stays an active for as long as the test takes.
    let extra = vec!["dead_after = \"60s\"".to_owned()];
    let world = World::start_unsettled(WorldOptions { others: Others::TheDataset, extra, ..WorldOptions::of(5_000) }).await;
    let both = world.rbuddy.wait_for("both to be active", FAILOVER_WITHIN, |status| status.active.len() == 2).await;
    // Until then they follow the primary itself, and count there.
    let moved = wait_until("both to be behind the relay", SOON, async || {
        let info = world.primary.info("replication").await.map_err(|error| error.to_string())?;
        if info.get("connected_slaves").is_some_and(|count| count == "1") { Ok(()) } else { Err(format!("{info:?}")) }
    });
    moved.await.expect("they are moved");
    world.actives_equal_the_primary().await;
    assert_eq!(written_and_waited_for(&world, 10_000).await, 1);
    for replica in &both.active {
        let server = world.server(replica);
        server.freeze().await.expect("freeze");
        assert_eq!(written_and_waited_for(&world, 1500).await, 0, "{replica} stands still");
        server.thaw().await.expect("thaw");
        assert_eq!(written_and_waited_for(&world, 10_000).await, 1, "{replica} is back");
    }
    world.actives_equal_the_primary().await;
    world.logged_no_error();
}
