//! Nothing that readers are sent to takes a write, and a standby answers neither reads nor writes, in every phase. An independent client (the
//! `redis` crate) asks. (Scenario 8.)

use rbuddy_core::control::status::{GroupStatus, Phase, RoleName};
use rbuddy_lab::{Data, Dataset, Link};
use rbuddy_testkit::scenario::rdb_of;
use rbuddy_testkit::{FAILOVER_WITHIN, SOON, World, WorldOptions};
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, RedisResult, Value};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

const KEYS: u64 = 20_000;

async fn connect(address: &str) -> RedisResult<MultiplexedConnection> {
    redis::Client::open(format!("redis://{address}"))?.get_multiplexed_async_connection().await
}

/// Tries every way of writing; each must be refused.
async fn takes_no_write(address: &str, whose: &str) {
    let mut connection = match connect(address).await {
        Ok(connection) => connection,
        Err(error) => return assert!(is_refusal(&error), "{whose}: {error:?}"),
    };
    let script = "return redis.call('SET', KEYS[1], 'written')";
    for command in [
        vec!["SET", "key:1", "written"],
        vec!["DEL", "key:1"],
        vec!["EVAL", script, "1", "key:1"],
        vec!["FLUSHALL"],
        vec!["EXPIRE", "key:1", "1"],
    ] {
        let (name, arguments) = command.split_first().expect("a command has a name");
        let answer: RedisResult<Value> = redis::cmd(name).arg(arguments).query_async(&mut connection).await;
        match answer {
            Ok(value) => panic!("{whose} ({address}) took {command:?}: {value:?}"),
            Err(error) => assert!(is_refusal(&error), "{whose} ({address}), {command:?}: {error:?}"),
        }
    }
}

/// An error that a client understands: the server's own word, or a closed connection.
fn is_refusal(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped() || error.code().is_some() || error.kind() == ErrorKind::Client
}

/// A read from a standby is refused or right, never nil.
async fn never_answers_nil(address: &str, data: &Dataset) {
    let Ok(mut connection) = connect(address).await else { return };
    let answer: RedisResult<Option<String>> = redis::cmd("GET").arg("key:7").query_async(&mut connection).await;
    match answer {
        Ok(None) => panic!("the standby {address} answered nil"),
        Ok(Some(value)) => assert!([data.value(7), data.newer().value(7)].contains(&value), "{address}: {value}"),
        Err(error) => assert!(is_refusal(&error), "{address}: {error:?}"),
    }
}

/// Looks at every replica as long as its role stays what it is, over and over until the failover ends. Gives the phases seen.
async fn refuses_until(world: &World, ended: impl Fn(&GroupStatus) -> bool, within: Duration) -> BTreeSet<Phase> {
    let (started, mut phases) = (Instant::now(), BTreeSet::new());
    loop {
        let status = world.status().await;
        phases.insert(status.phase);
        takes_no_write(&world.reader, "the reader endpoint").await;
        for replica in &status.replicas {
            match replica.role {
                RoleName::Active | RoleName::Draining => takes_no_write(&replica.address.to_string(), "an active").await,
                RoleName::Standby => {
                    takes_no_write(&replica.address.to_string(), "the standby").await;
                    never_answers_nil(&replica.address.to_string(), &world.data).await;
                }
                // Being emptied, or not used: nobody is sent there, and it is a master for the blink of an eye.
                RoleName::Retiring | RoleName::Drained | RoleName::Unknown | RoleName::Refused => {}
            }
        }
        if ended(&status) {
            return phases;
        }
        assert!(started.elapsed() < within, "it never ended: {} — {}", status.phase, status.explanation);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_refused_and_a_standby_never_answers_nil_in_every_phase() {
    let data = Dataset { value_bytes: 300, ..Dataset::of(KEYS) };
    let options = WorldOptions { data, drain: "2s", ..WorldOptions::of(KEYS) }.slow_to_load(100);
    let mut world = World::start(options).await;
    let generation = world.status().await.generation.0;
    let mut seen = refuses_until(&world, |_| true, SOON).await;

    let rdb = rdb_of(&world, &data.newer()).await;
    world.link.set(Link::Cut);
    seen.extend(refuses_until(&world, |status| status.phase == Phase::Disconnected, SOON).await);
    world.link.throttle(Some(2 << 20));
    world.primary.restart(Data::Rdb(&rdb)).await.expect("restart the primary");
    world.primary.ready(SOON).await.expect("the primary");
    world.link.set(Link::Pass);
    let ended = |status: &GroupStatus| status.phase == Phase::Normal && status.generation.0 == generation + 1;
    seen.extend(refuses_until(&world, ended, FAILOVER_WITHIN).await);

    for phase in [Phase::Normal, Phase::Disconnected, Phase::ReceivingSnapshot, Phase::SyncingStandby, Phase::Draining] {
        assert!(seen.contains(&phase), "{phase} was not seen: {seen:?}");
    }
    world.link.throttle(None);
    world.actives_equal_the_primary().await;
}
