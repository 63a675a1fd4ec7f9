//! Every pair of primary and replica through the relay alone: where the replica can load what the primary writes, it takes a full resync, follows the
//! stream and goes on after a cut; where it cannot, it is never given the snapshot and keeps its data and its life.

use rbuddy_core::types::{Flavour, ServerVersion};
use rbuddy_lab::resp::Value;
use rbuddy_lab::{Binary, Dataset, Link, Server, ServerOptions, wait_until};
use rbuddy_testkit::contents::{contents, difference};
use rbuddy_testkit::{Follower, RelayOptions, RelayWorld, SOON, skip};
use std::time::Duration;

/// The binary, or a word why the test is left out.
fn binary((family, major, minor): (&str, u16, u16)) -> Option<Binary> {
    let found = Binary::of(family, major, minor);
    if found.is_none() {
        skip(&format!("no {family} {major}.{minor} here: scripts/test-servers fetches it"));
    }
    found
}

const REDIS_6_2: (&str, u16, u16) = ("redis", 6, 2);
const REDIS_7_0: (&str, u16, u16) = ("redis", 7, 0);
const REDIS_7_4: (&str, u16, u16) = ("redis", 7, 4);
const VALKEY_9_1: (&str, u16, u16) = ("valkey", 9, 1);

macro_rules! pairs {
    ($($name:ident: $primary:ident, $replica:ident, $outcome:ident;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let (Some(primary), Some(replica)) = (binary($primary), binary($replica)) else { return };
                assert_eq!(core_says_it_loads(&primary, &replica), stringify!($outcome) == "works", "core and this table differ");
                $outcome(&primary, &replica).await;
            }
        )*
    };
}

pairs! {
    redis_6_2_feeds_redis_6_2: REDIS_6_2, REDIS_6_2, works;
    redis_6_2_feeds_redis_7_0: REDIS_6_2, REDIS_7_0, works;
    redis_6_2_feeds_redis_7_4: REDIS_6_2, REDIS_7_4, works;
    redis_6_2_feeds_valkey_9_1: REDIS_6_2, VALKEY_9_1, works;
    redis_7_0_is_never_loaded_into_redis_6_2: REDIS_7_0, REDIS_6_2, is_refused;
    redis_7_0_feeds_redis_7_0: REDIS_7_0, REDIS_7_0, works;
    redis_7_0_feeds_redis_7_4: REDIS_7_0, REDIS_7_4, works;
    redis_7_0_feeds_valkey_9_1: REDIS_7_0, VALKEY_9_1, works;
    redis_7_4_is_never_loaded_into_redis_6_2: REDIS_7_4, REDIS_6_2, is_refused;
    redis_7_4_is_never_loaded_into_redis_7_0: REDIS_7_4, REDIS_7_0, is_refused;
    redis_7_4_feeds_redis_7_4: REDIS_7_4, REDIS_7_4, works;
    redis_7_4_is_never_loaded_into_valkey_9_1: REDIS_7_4, VALKEY_9_1, is_refused;
    valkey_9_1_is_never_loaded_into_redis_6_2: VALKEY_9_1, REDIS_6_2, is_refused;
    valkey_9_1_is_never_loaded_into_redis_7_0: VALKEY_9_1, REDIS_7_0, is_refused;
    valkey_9_1_feeds_redis_7_4: VALKEY_9_1, REDIS_7_4, works;
    valkey_9_1_feeds_valkey_9_1: VALKEY_9_1, VALKEY_9_1, works;
}

/// What `check` tells an operator must be what happens.
fn core_says_it_loads(primary: &Binary, replica: &Binary) -> bool {
    let version = |binary: &Binary| {
        let flavour = if binary.family == "valkey" { Flavour::Valkey } else { Flavour::Redis };
        let (major, minor, patch) = binary.version;
        ServerVersion { flavour, major, minor, patch }
    };
    let (primary, replica) = (version(primary), version(replica));
    replica.loads(primary.writes_for(replica))
}

async fn works(primary: &Binary, replica: &Binary) {
    let mut world = world_of(primary).await;
    write_every_type(&world.primary, "snapshot").await;
    world.add_replica(replica, ServerOptions::default()).await;
    world.all_caught_up(SOON).await;
    write_every_type(&world.primary, "stream").await;
    world.all_caught_up(SOON).await;
    assert_eq!(world.paid().await, 1, "full resyncs that the primary paid for");
    goes_on_after_a_cut(&world).await;
    is_the_same(&world).await;
}

async fn is_refused(primary: &Binary, replica: &Binary) {
    let mut world = world_of(primary).await;
    write_every_type(&world.primary, "snapshot").await;
    // One that can load it shows that the relay has a snapshot and gives it.
    world.add_replica(primary, ServerOptions::default()).await;
    world.caught_up(0, SOON).await;
    world.add_server(replica, ServerOptions::default()).await;
    let foreign = &world.replicas[1];
    Dataset::of(100).load(&foreign.server).await.expect("data of its own");
    let process = process_of(foreign).await;
    foreign.follow().await;
    let asks = wait_until("the replica to connect to the relay", SOON, async || {
        if foreign.logged("REPLICA sync started") > 0 { Ok(()) } else { Err(foreign.server.log_tail(5)) }
    });
    asks.await.expect("it connects");
    // Long enough for several attempts of a relay that would try after all.
    let given = wait_until("a snapshot that must not be given", Duration::from_secs(4), async || {
        let keys = foreign.server.keys().await.map_err(|error| error.to_string());
        if foreign.full_resyncs() > 0 || keys != Ok(100) { Ok(keys) } else { Err("refused so far".to_owned()) }
    });
    if let Ok(keys) = given.await {
        panic!("it was given a snapshot that it cannot load; its keys: {keys:?}\n{}", foreign.server.log_tail(15));
    }
    assert_eq!(process_of(foreign).await, process, "the same process lives");
    let questions = foreign.questions();
    assert!(questions <= 10, "it was sent away {questions} times in a few seconds instead of being kept waiting");
    world.relay.logged_no_error();
    write_every_type(&world.primary, "stream").await;
    world.caught_up(0, SOON).await;
    assert_eq!(world.paid().await, 1, "full resyncs that the primary paid for");
}

#[tokio::test(flavor = "multi_thread")]
async fn hash_fields_that_expire_reach_a_valkey_9_1_replica() {
    let Some(valkey) = binary(VALKEY_9_1) else { return };
    let mut world = world_of(&valkey).await;
    world.primary.command(&["HSET", "hash", "lasting", "1", "passing", "2"]).await.expect("hset");
    // Such a hash is not in the snapshot format that a Valkey 9 gives to a replica of unknown version: its snapshots fail (protocol fact 1.3).
    world.primary.command(&["HEXPIRE", "hash", "10000", "FIELDS", "1", "passing"]).await.expect("hexpire");
    write_every_type(&world.primary, "snapshot").await;
    world.add_replica(&valkey, ServerOptions::default()).await;
    // The relay learns the version with the first replica; by then a failed snapshot or two may lie behind it, and a pause before it.
    world.all_caught_up(Duration::from_secs(60)).await;
    goes_on_after_a_cut(&world).await;
    is_the_same(&world).await;
    let ttl = world.replicas[0].server.command(&["HTTL", "hash", "FIELDS", "2", "lasting", "passing"]).await.expect("httl");
    let Value::Array(ttl) = ttl else { panic!("{ttl:?}") };
    assert_eq!(ttl[0], Value::Integer(-1));
    assert!(matches!(ttl[1], Value::Integer(1..=10_000)), "{ttl:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn valkey_9_1_feeds_a_valkey_and_a_redis_with_what_both_can_load() {
    let (Some(valkey), Some(redis)) = (binary(VALKEY_9_1), binary(REDIS_7_4)) else { return };
    let mut world = RelayWorld::start_with(Link::Cut, &valkey, ServerOptions::default(), RelayOptions::default()).await;
    write_every_type(&world.primary, "snapshot").await;
    // Both ask before the primary is reached. One announces 9.1, which would bring a snapshot that the other cannot load.
    world.add_replica(&valkey, ServerOptions::default()).await;
    world.add_replica(&redis, ServerOptions::default()).await;
    let both = wait_until("both replicas to ask", SOON, async || {
        let questions: Vec<u64> = world.replicas.iter().map(Follower::questions).collect();
        if questions.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{questions:?}")) }
    });
    both.await.expect("they ask and wait");
    let process = process_of(&world.replicas[1]).await;
    world.upstream.set(Link::Pass);
    world.all_caught_up(SOON).await;
    write_every_type(&world.primary, "stream").await;
    world.all_caught_up(SOON).await;
    is_the_same(&world).await;
    assert_eq!(process_of(&world.replicas[1]).await, process, "the same process lives");
}

async fn world_of(primary: &Binary) -> RelayWorld {
    RelayWorld::start(primary, ServerOptions::default(), RelayOptions::default()).await
}

/// The stream goes on where it was cut, with what was written meanwhile, and neither side pays for a full resync.
async fn goes_on_after_a_cut(world: &RelayWorld) {
    let paid = world.paid().await;
    let given: Vec<u64> = world.replicas.iter().map(Follower::full_resyncs).collect();
    let partial = world.primary.info_number("stats", "sync_partial_ok").await.expect("info");
    world.upstream.set(Link::Cut);
    world.replicas.iter().for_each(|replica| replica.link.set(Link::Cut));
    write_every_type(&world.primary, "cut").await;
    world.upstream.set(Link::Pass);
    world.replicas.iter().for_each(|replica| replica.link.set(Link::Pass));
    world.all_caught_up(SOON).await;
    assert_eq!(world.paid().await, paid, "full resyncs that the primary paid for");
    assert!(world.primary.info_number("stats", "sync_partial_ok").await.expect("info") > partial, "it was a partial resync");
    assert_eq!(world.replicas.iter().map(Follower::full_resyncs).collect::<Vec<_>>(), given, "full resyncs of the replicas");
}

async fn is_the_same(world: &RelayWorld) {
    let wanted = contents(&world.primary).await.expect("the primary's data");
    assert!(wanted.len() > 20, "there is something to compare: {}", wanted.len());
    for replica in &world.replicas {
        let found = contents(&replica.server).await.expect("the replica's data");
        assert_eq!(difference(&found, &wanted), None, "the replica's and the primary's");
    }
}

/// Small keys of every type that all versions have, in two databases, one of them in a transaction.
async fn write_every_type(primary: &Server, name: &str) {
    let mut connection = primary.connect().await.expect("connect");
    let long = "v".repeat(20_000);
    let key = |kind: &str| format!("{name}:{kind}");
    let commands: [&[&str]; 16] = [
        &["SET", &key("string"), "value"],
        &["SET", &key("long"), &long],
        &["SET", &key("passing"), "value", "EX", "10000"],
        &["INCR", "counter"],
        &["SELECT", "3"],
        &["MULTI"],
        &["RPUSH", &key("list"), "a", "b", "c"],
        &["SADD", &key("set"), "a", "b", "c"],
        &["SADD", &key("numbers"), "1", "2", "3"],
        &["EXEC"],
        &["HSET", &key("hash"), "a", "1", "b", "2"],
        &["ZADD", &key("zset"), "1", "a", "2.5", "b"],
        &["SELECT", "0"],
        &["XADD", &key("stream"), "*", "field", "value"],
        &["PFADD", &key("pf"), "a", "b"],
        &["SETBIT", &key("bits"), "1000", "1"],
    ];
    for command in commands {
        let answer = connection.command(command, SOON).await.expect("an answer");
        assert!(!matches!(answer, Value::Error(_)), "{command:?}: {answer:?}");
    }
}

async fn process_of(replica: &Follower) -> String {
    replica.server.info("server").await.expect("it lives").remove("run_id").expect("a run id")
}
