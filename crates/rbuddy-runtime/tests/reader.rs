//! The reader endpoint between raw clients and real servers.

mod reader_world;

use rbuddy_core::control::assignment::ActiveReplica;
use rbuddy_core::resp::encode;
use rbuddy_core::types::Position;
use reader_world::{PATIENCE, Server, Wire, World, wait_for};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn reads_pass_and_writes_and_administration_do_not() {
    let server = Server::replica(None, &[("a", "1")]).await;
    let world = World::new(&[&server]).await;
    world.assign(vec![server.active().await], None);
    let mut client = world.client().await;
    assert_eq!(client.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
    let requests: [(&[&str], &str); 8] = [
        (&["GET", "a"], "$1\r\n1\r\n"),
        (&["set", "a", "2"], "-READONLY You can't write against a read only replica.\r\n"),
        (&["GET", "a"], "$1\r\n1\r\n"),
        (&["CONFIG", "SET", "maxmemory", "1"], "-ERR rbuddy: CONFIG is not offered through the reader endpoint\r\n"),
        (&["CONFIG", "GET", "port"], &format!("*2\r\n$4\r\nport\r\n${}\r\n{}\r\n", server.port.to_string().len(), server.port)),
        (&["REPLICAOF", "NO", "ONE"], "-ERR rbuddy: REPLICAOF is not offered through the reader endpoint\r\n"),
        (&["MGET", "a", "b"], "*2\r\n$1\r\n1\r\n$-1\r\n"),
        (&["QUIT"], "+OK\r\n"),
    ];
    let pipeline: Vec<u8> = requests.iter().flat_map(|(words, _)| encode::request(words)).collect();
    client.send(&pipeline).await;
    for (words, expected) in requests {
        let reply = client.reply().await.expect("one reply per request");
        assert_eq!(String::from_utf8_lossy(&reply), expected, "{words:?}");
    }
    assert_eq!(client.reply().await, None, "QUIT closes");

    let mut client = world.client().await;
    let reply = client.ask(&["EVAL", "return redis.call('SET', 'a', '2')", "0"]).await;
    assert!(reply.contains("READONLY") || reply.contains("read only replica"), "{reply}");
    let mut detached = server.active().await;
    detached.detached = true;
    assert_eq!(server.wire().await.ask(&["REPLICAOF", "NO", "ONE"]).await, "+OK\r\n");
    detached.replids = server.active().await.replids;
    world.assign(vec![detached], None);
    let reply = client.ask(&["EVAL", "return redis.call('SET', 'a', '2')", "0"]).await;
    assert!(reply.starts_with("-READONLY"), "a detached server would have done it: {reply}");
    assert_eq!(client.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
}

/// Reads without a pause until told to stop: every reply must be the old value, and from some moment on the new one.
async fn reader(mut wire: Wire, stop: Arc<AtomicBool>, on_new: Arc<AtomicU64>) -> u64 {
    let pipeline = encode::request(&["GET", "who"]).repeat(10);
    let (mut reads, mut is_new) = (0, false);
    while !stop.load(Ordering::Relaxed) {
        wire.send(&pipeline).await;
        for _ in 0..10 {
            let reply = wire.reply().await.expect("the connection lives");
            match (reply.as_slice(), is_new) {
                (b"$3\r\nold\r\n", false) | (b"$3\r\nnew\r\n", true) => {}
                (b"$3\r\nnew\r\n", false) => {
                    is_new = true;
                    on_new.fetch_add(1, Ordering::Relaxed);
                }
                (reply, _) => panic!("after {reads} reads, on new: {is_new}: {:?}", String::from_utf8_lossy(reply)),
            }
            reads += 1;
        }
    }
    reads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_pipelining_clients_move_and_none_sees_an_error_or_an_old_value_again() {
    let old = Server::replica(None, &[("who", "old")]).await;
    let new = Server::replica(None, &[("who", "new")]).await;
    let mut world = World::new(&[&old, &new]).await;
    world.assign(vec![old.active().await], None);
    let (stop, on_new) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut readers = Vec::new();
    for _ in 0..20 {
        readers.push(tokio::spawn(reader(world.client().await, Arc::clone(&stop), Arc::clone(&on_new))));
    }
    world.view_shows("all read", |view| view.connections.get(&old.address()) == Some(&20) && view.requests > 10_000).await;
    world.assign(vec![new.active().await], Some((&old, LONG)));
    wait_for("all are on the new one", async || (on_new.load(Ordering::Relaxed) == 20).then_some(())).await;
    world.view_shows("nobody is left on the old one", |view| !view.connections.contains_key(&old.address())).await;
    let so_far = world.view.borrow().requests;
    let view = world.view_shows("they go on", |view| view.requests > so_far + 10_000).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.expect("no reader fails") > 0);
    }
    assert_eq!((view.errors, view.moves), (0, 20));
}

#[tokio::test]
async fn the_session_moves_with_the_connection() {
    let old = Server::replica(Some("secret"), &[("who", "old")]).await;
    let new = Server::replica(Some("secret"), &[("who", "new")]).await;
    let world = World::new(&[&old, &new]).await;
    world.assign(vec![old.active().await], None);
    let mut client = world.client().await;
    assert!(client.ask(&["GET", "who"]).await.starts_with("-NOAUTH"), "the client has its own rights, not rbuddy's");
    assert!(client.ask(&["AUTH", "wrong"]).await.starts_with("-WRONGPASS"));
    assert!(client.ask(&["HELLO", "3", "AUTH", "default", "secret", "SETNAME", "first"]).await.starts_with("%7"));
    assert_eq!(client.ask(&["CLIENT", "SETNAME", "second"]).await, "+OK\r\n");
    assert_eq!(client.ask(&["SELECT", "4"]).await, "+OK\r\n");
    assert!(client.ask(&["SELECT", "99"]).await.starts_with("-ERR"));
    world.assign(vec![new.active().await], Some((&old, LONG)));
    assert_eq!(client.ask(&["GET", "who"]).await, "_\r\n", "database 4 is empty, and this is RESP3");
    let me = client.ask(&["CLIENT", "LIST"]).await;
    assert!(me.contains(" name=second ") && me.contains(" db=4 ") && me.contains(" resp=3"), "{me}");
    assert_eq!(client.ask(&["SELECT", "0"]).await, "+OK\r\n");
    assert_eq!(client.ask(&["GET", "who"]).await, "$3\r\nnew\r\n");
    assert_eq!(client.ask(&["RESET"]).await, "+RESET\r\n");
    world.assign(vec![old.active().await], Some((&new, LONG)));
    let mut again = world.client().await;
    assert_eq!(again.ask(&["AUTH", "secret"]).await, "+OK\r\n");
    assert_eq!(again.ask(&["GET", "who"]).await, "$3\r\nold\r\n");
}

#[tokio::test]
async fn a_transaction_ends_where_it_began_and_then_the_connection_moves() {
    let old = Server::replica(None, &[("who", "old")]).await;
    let new = Server::replica(None, &[("who", "new")]).await;
    let world = World::new(&[&old, &new]).await;
    world.assign(vec![old.active().await], None);
    let (mut ends, mut stays) = (world.client().await, world.client().await);
    for client in [&mut ends, &mut stays] {
        assert_eq!(client.ask(&["MULTI"]).await, "+OK\r\n");
        assert_eq!(client.ask(&["GET", "who"]).await, "+QUEUED\r\n");
    }
    world.assign(vec![new.active().await], Some((&old, SHORT)));
    assert_eq!(ends.ask(&["EXEC"]).await, "*1\r\n$3\r\nold\r\n");
    assert_eq!(ends.ask(&["GET", "who"]).await, "$3\r\nnew\r\n");
    let since = Instant::now();
    assert_eq!(stays.reply().await, None, "closed at the end of the drain");
    assert!(since.elapsed() < Duration::from_secs(3));
    assert_eq!(ends.ask(&["PING"]).await, "+PONG\r\n");
}

#[tokio::test]
async fn a_subscriber_stays_until_the_end_of_the_drain() {
    let old = Server::replica(None, &[]).await;
    let new = Server::replica(None, &[]).await;
    let world = World::new(&[&old, &new]).await;
    world.assign(vec![old.active().await], None);
    let mut client = world.client().await;
    client.say(&["SUBSCRIBE", "a", "b"]).await;
    for _ in 0..2 {
        let reply = client.reply().await.expect("a confirmation per channel");
        assert!(reply.starts_with(b"*3\r\n$9\r\nsubscribe\r\n"));
    }
    world.assign(vec![new.active().await], Some((&old, Duration::from_secs(2))));
    assert_eq!(old.wire().await.ask(&["PUBLISH", "a", "hello"]).await, ":1\r\n");
    assert!(client.reply().await.expect("the message").ends_with(b"hello\r\n"));
    assert_eq!(client.reply().await, None);
}

#[tokio::test]
async fn a_reply_that_is_due_at_the_end_of_the_drain_becomes_an_error() {
    let old = Server::replica(None, &[]).await;
    let new = Server::replica(None, &[]).await;
    let mut world = World::new(&[&old, &new]).await;
    world.assign(vec![old.active().await], None);
    let mut client = world.client().await;
    client.say(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]).await;
    world.view_shows("it is under way", |view| view.requests == 1).await;
    world.assign(vec![new.active().await], Some((&old, SHORT)));
    let reply = client.reply().await.expect("an error before the end");
    assert!(reply.starts_with(b"-MASTERDOWN rbuddy: "), "{}", String::from_utf8_lossy(&reply));
    assert_eq!(client.reply().await, None);
}

#[tokio::test]
async fn without_an_active_a_read_waits_and_then_gets_an_error_and_the_connection_lives() {
    let mut old = Server::replica(None, &[("who", "old")]).await;
    let new = Server::replica(None, &[("who", "new")]).await;
    let mut world = World::with(&[&old, &new], 100, Duration::from_millis(400)).await;
    world.assign(vec![old.active().await], None);
    let mut client = world.client().await;
    assert_eq!(client.ask(&["GET", "who"]).await, "$3\r\nold\r\n");
    old.kill();
    world.assign(vec![], None);
    let since = Instant::now();
    client.send(&encode::request(&["GET", "who"]).repeat(3)).await;
    for _ in 0..3 {
        assert_eq!(client.reply().await.as_deref(), Some(&b"-MASTERDOWN rbuddy: nobody is left\r\n"[..]));
    }
    assert!((Duration::from_millis(400)..Duration::from_secs(1)).contains(&since.elapsed()), "one park for all: {:?}", since.elapsed());
    client.say(&["GET", "who"]).await;
    world.view_shows("it waits", |view| view.parked_now == 1).await;
    world.assign(vec![new.active().await], None);
    assert_eq!(client.reply().await.as_deref(), Some(&b"$3\r\nnew\r\n"[..]));
    let view = world.view_shows("the park is over", |view| view.parked_now == 0 && view.parked == 2).await;
    assert!(view.longest_park_ms >= 400, "{view:?}");
}

#[tokio::test]
async fn a_read_whose_server_dies_is_asked_again() {
    let mut old = Server::replica(None, &[("who", "old")]).await;
    let new = Server::replica(None, &[("who", "new")]).await;
    let mut world = World::new(&[&old, &new]).await;
    world.assign(vec![old.active().await], None);
    let mut client = world.client().await;
    assert_eq!(client.ask(&["GET", "who"]).await, "$3\r\nold\r\n");
    // So that the reads are surely under way when it dies.
    old.hang();
    client.send(&encode::request(&["GET", "who"]).repeat(3)).await;
    world.view_shows("they are under way", |view| view.requests == 4).await;
    old.kill();
    world.view_shows("they wait", |view| view.parked_now == 1).await;
    world.assign(vec![new.active().await], None);
    for _ in 0..3 {
        assert_eq!(client.reply().await.as_deref(), Some(&b"$3\r\nnew\r\n"[..]));
    }
}

#[tokio::test]
async fn reads_leave_a_server_that_hangs_as_soon_as_it_is_no_active() {
    let old = Server::replica(None, &[("who", "old")]).await;
    let new = Server::replica(None, &[("who", "new")]).await;
    let mut world = World::new(&[&old, &new]).await;
    let active = new.active().await;
    world.assign(vec![old.active().await], None);
    let mut client = world.client().await;
    assert_eq!(client.ask(&["GET", "who"]).await, "$3\r\nold\r\n");
    old.hang();
    client.say(&["GET", "who"]).await;
    world.view_shows("it is under way", |view| view.requests == 2).await;
    world.assign(vec![active], None);
    assert_eq!(client.reply().await.as_deref(), Some(&b"$3\r\nnew\r\n"[..]));
}

/// The park is 5 s by default, and the controller takes seconds to call a server dead: nobody waits for that where another can be read.
#[tokio::test]
async fn a_client_does_not_wait_for_a_server_that_hangs_while_another_is_active() {
    let hung = Server::replica(None, &[("who", "old")]).await;
    let other = Server::replica(None, &[("who", "new")]).await;
    let world = World::new(&[&hung, &other]).await;
    world.assign(vec![hung.active().await, other.active().await], None);
    hung.hang();
    let asked = std::time::Instant::now();
    for _ in 0..4 {
        let mut client = world.client().await;
        assert_eq!(client.ask(&["GET", "who"]).await, "$3\r\nnew\r\n");
    }
    assert!(asked.elapsed() < std::time::Duration::from_secs(4), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_read_fails_when_one_of_two_actives_is_killed() {
    let mut one = Server::replica(None, &[("who", "old")]).await;
    let other = Server::replica(None, &[("who", "old")]).await;
    let mut world = World::new(&[&one, &other]).await;
    world.assign(vec![one.active().await, other.active().await], None);
    let (stop, on_new) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut readers = Vec::new();
    for _ in 0..10 {
        readers.push(tokio::spawn(reader(world.client().await, Arc::clone(&stop), Arc::clone(&on_new))));
    }
    world.view_shows("all read", |view| view.connections.get(&one.address()) == Some(&5) && view.requests > 10_000).await;
    one.kill();
    let view = world.view_shows("all are with the other", |view| view.connections.get(&other.address()) == Some(&10)).await;
    world.view_shows("they go on", |now| now.requests > view.requests + 10_000).await;
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        assert!(reader.await.expect("no reader fails") > 0);
    }
    assert_eq!((view.errors, view.moves, view.parked), (0, 5, 0));
}

#[tokio::test]
async fn a_restarted_server_gets_no_request_before_the_controller_says_so() {
    let mut first = Server::replica(None, &[("a", "1")]).await;
    let port = first.port;
    let world = World::with(&[&first], 100, Duration::from_millis(500)).await;
    world.assign(vec![first.active().await], None);
    let mut client = world.client().await;
    assert_eq!(client.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
    first.kill();
    let second = Server::start_at(port, None).await;
    assert_eq!(second.wire().await.ask(&["REPLICAOF", "127.0.0.1", "1"]).await, "+OK\r\n");
    let reply = client.ask(&["GET", "a"]).await;
    assert!(reply.starts_with("-MASTERDOWN rbuddy: ") && reply.contains("run id"), "an empty server would have said nil: {reply}");
    let stats = second.wire().await.ask(&["INFO", "commandstats"]).await;
    assert!(stats.contains("cmdstat_info") && !stats.contains("cmdstat_get"), "{stats}");
    world.assign(vec![second.active().await], None);
    assert_eq!(client.ask(&["GET", "a"]).await, "$-1\r\n");
}

#[tokio::test]
async fn a_replica_that_is_behind_or_loading_or_a_primary_is_not_read() {
    let server = Server::replica(None, &[("a", "1")]).await;
    let world = World::with(&[&server], 100, Duration::ZERO).await;
    let good = server.active().await;
    let offset = server.info().await.offset.expect("INFO has it");
    let wrong = [
        ActiveReplica { offset_at_least: offset.advance(1), ..good.clone() },
        ActiveReplica { detached: true, ..good.clone() },
        ActiveReplica { replids: vec!["c".repeat(40).parse().expect("an id")], ..good.clone() },
    ];
    let mut client = world.client().await;
    for active in wrong {
        world.assign(vec![active], None);
        let reply = client.ask(&["GET", "a"]).await;
        assert!(reply.contains("is not to be read"), "{reply}");
    }
    world.assign(vec![good], None);
    assert_eq!(client.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
}

/// Until rbuddy's controller has noticed anything, the relay alone knows what may have been read there.
#[tokio::test]
async fn a_connection_whose_server_dies_waits_for_all_that_was_fed_to_that_one() {
    let mut left = Server::replica(None, &[("who", "old")]).await;
    let other = Server::replica(None, &[("who", "new")]).await;
    let world = World::with(&[&left, &other], 100, Duration::from_millis(500)).await;
    // They stand for two replicas of one history, with ids of their own: the endpoint is told that both ids are right.
    let (mut first, mut second) = (left.active().await, other.active().await);
    let ids = [second.replids.clone(), first.replids.clone()].concat();
    (first.replids, second.replids) = (ids.clone(), ids.clone());
    world.assign(vec![first.clone()], None);
    let (mut client, mut fresh) = (world.client().await, world.client().await);
    assert_eq!(client.ask(&["GET", "who"]).await, "$3\r\nold\r\n");
    let has = other.info().await.offset.expect("INFO has it");
    world.has_fed(&left, Position::new(ids[0], has.advance(1)));
    world.assign(vec![first, second], None);
    left.kill();
    let reply = client.ask(&["GET", "who"]).await;
    assert!(reply.starts_with("-MASTERDOWN rbuddy: ") && reply.contains("readers have seen"), "{reply}");
    assert_eq!(fresh.ask(&["GET", "who"]).await, "$3\r\nnew\r\n", "it has read nothing yet");
}

#[tokio::test]
async fn a_connection_that_has_read_the_newer_dataset_is_closed_when_the_old_one_takes_over() {
    let old = Server::replica(None, &[("who", "old")]).await;
    let mut new = Server::replica(None, &[("who", "new")]).await;
    let world = World::new(&[&old, &new]).await;
    world.assign(vec![old.active().await], None);
    let (mut moved, mut idle) = (world.client().await, world.client().await);
    for client in [&mut moved, &mut idle] {
        assert_eq!(client.ask(&["GET", "who"]).await, "$3\r\nold\r\n");
    }
    world.assign(vec![new.active().await], Some((&old, LONG)));
    assert_eq!(moved.ask(&["GET", "who"]).await, "$3\r\nnew\r\n");
    new.kill();
    world.assign(vec![old.active().await], None);
    let reply = moved.ask(&["GET", "who"]).await;
    assert!(reply.starts_with("-MASTERDOWN rbuddy: this connection has read a newer dataset"), "{reply}");
    assert_eq!(moved.reply().await, None);
    assert_eq!(idle.ask(&["GET", "who"]).await, "$3\r\nold\r\n");
    assert_eq!(world.client().await.ask(&["GET", "who"]).await, "$3\r\nold\r\n");
}

#[tokio::test]
async fn large_values_stream_through_both_ways() {
    let size = 20 << 20;
    let value: Vec<u8> = (0..size).map(|index: usize| (index % 251) as u8).collect();
    let server = Server::start(None).await;
    let mut wire = server.wire().await;
    wire.send(&encode::request(&[b"SET".as_slice(), b"large", &value])).await;
    assert_eq!(wire.reply().await.as_deref(), Some(&b"+OK\r\n"[..]));
    assert_eq!(wire.ask(&["REPLICAOF", "127.0.0.1", "1"]).await, "+OK\r\n");
    let world = World::new(&[&server]).await;
    world.assign(vec![server.active().await], None);
    let mut client = world.client().await;
    client.say(&["GET", "large"]).await;
    let reply = client.reply().await.expect("the value");
    assert!(reply.ends_with(&[&value[..], b"\r\n"].concat()), "{} bytes", reply.len());
    client.send(&encode::request(&[b"ECHO".as_slice(), &value])).await;
    assert_eq!(client.reply().await.expect("the same"), reply);
    client.send(&encode::request(&[b"SET".as_slice(), b"k", &value])).await;
    assert!(client.reply().await.expect("an error").starts_with(b"-READONLY"));
    assert_eq!(client.ask(&["EXISTS", "large"]).await, ":1\r\n");
}

#[tokio::test]
async fn a_client_that_sends_a_byte_at_a_time_is_served() {
    let server = Server::replica(None, &[("a", "1")]).await;
    let world = World::new(&[&server]).await;
    world.assign(vec![server.active().await], None);
    let mut client = world.client().await;
    let requests =
        [encode::request(&["GET", "a"]), b"get a\r\n".to_vec(), encode::request(&["SELECT", "0"]), encode::request(&["DEL", "a"])];
    for byte in requests.concat() {
        client.send(&[byte]).await;
        tokio::task::yield_now().await;
    }
    for expected in ["$1\r\n1\r\n", "$1\r\n1\r\n", "+OK\r\n", "-READONLY You can't write against a read only replica.\r\n"] {
        assert_eq!(String::from_utf8_lossy(&client.reply().await.expect("a reply")), expected);
    }
}

#[tokio::test]
async fn what_is_not_resp_gets_an_error_and_is_closed() {
    let server = Server::replica(None, &[]).await;
    let world = World::new(&[&server]).await;
    world.assign(vec![server.active().await], None);
    let mut client = world.client().await;
    client.send(b"*1\r\n:3\r\n").await;
    assert!(client.reply().await.expect("an error").starts_with(b"-ERR Protocol error"));
    assert_eq!(client.reply().await, None);
}

#[tokio::test]
async fn a_request_that_its_server_rejects_half_way_ends_the_connection() {
    let server = Server::replica(None, &[]).await;
    let world = World::new(&[&server]).await;
    world.assign(vec![server.active().await], None);
    let mut client = world.client().await;
    client.send(b"*2\r\n$4\r\nECHO\r\n$100000000\r\nSET a 1\r\n").await;
    assert!(client.reply().await.expect("the server's own error").starts_with(b"-ERR Protocol error"));
    assert_eq!(client.reply().await, None, "nobody knows where the next request would begin");
}

#[tokio::test]
async fn clients_that_come_together_share_their_checks() {
    let server = Server::replica(None, &[("a", "1")]).await;
    let mut world = World::new(&[&server]).await;
    let mut clients = Vec::new();
    for _ in 0..60 {
        let mut client = world.client().await;
        client.say(&["GET", "a"]).await;
        clients.push(client);
    }
    world.view_shows("all wait", |view| view.parked_now == 60).await;
    let active = server.active().await;
    assert_eq!(server.wire().await.ask(&["CONFIG", "RESETSTAT"]).await, "+OK\r\n");
    world.assign(vec![active], None);
    for client in &mut clients {
        assert_eq!(client.reply().await.as_deref(), Some(&b"$1\r\n1\r\n"[..]));
    }
    let stats = server.wire().await.ask(&["INFO", "commandstats"]).await;
    let asked = stats.lines().find_map(|line| line.strip_prefix("cmdstat_info:calls=")).expect("it was asked");
    let asked: u32 = asked.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number");
    assert!(asked <= 60, "{asked} INFOs, three a check, for 60 clients");
}

#[tokio::test]
async fn a_client_that_closes_its_side_gets_its_replies() {
    let server = Server::replica(None, &[("a", "1")]).await;
    let world = World::new(&[&server]).await;
    world.assign(vec![server.active().await], None);
    let mut stream = world.client().await.into_stream();
    stream.write_all(b"GET a\r\nGET a\r\n").await.expect("sent");
    stream.shutdown().await.expect("closed");
    let mut replies = String::new();
    tokio::time::timeout(PATIENCE, tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut replies))
        .await
        .expect("in time")
        .expect("text");
    assert_eq!(replies, "$1\r\n1\r\n".repeat(2));
}

#[tokio::test]
async fn a_client_that_goes_while_it_waits_is_let_go() {
    let server = Server::replica(None, &[]).await;
    let mut world = World::with(&[&server], 100, LONG).await;
    let mut client = world.client().await;
    client.say(&["GET", "a"]).await;
    world.view_shows("it waits", |view| view.parked_now == 1).await;
    drop(client);
    world.view_shows("it is gone", |view| view.clients == 0 && view.parked_now == 0).await;
}

#[tokio::test]
async fn connections_spread_over_the_actives_and_no_more_clients_are_taken_than_allowed() {
    let one = Server::replica(None, &[("a", "1")]).await;
    let other = Server::replica(None, &[("a", "1")]).await;
    let mut world = World::with(&[&one, &other], 4, LONG).await;
    world.assign(vec![one.active().await, other.active().await], None);
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = world.client().await;
        assert_eq!(client.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
        clients.push(client);
    }
    let view = world.view_shows("all are there", |view| view.clients == 4).await;
    assert_eq!(view.connections.values().copied().collect::<Vec<_>>(), [2, 2], "{view:?}");
    let mut fifth = world.client().await;
    assert_eq!(fifth.reply().await.as_deref(), Some(&b"-ERR max number of clients reached\r\n"[..]));
    assert_eq!(fifth.reply().await, None);
    clients.pop();
    world.view_shows("one has gone", |view| view.clients == 3).await;
    assert_eq!(world.client().await.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
}

#[tokio::test]
async fn the_end_comes_at_boundaries_and_soon() {
    let server = Server::replica(None, &[("a", "1")]).await;
    let mut world = World::new(&[&server]).await;
    world.assign(vec![server.active().await], None);
    let (mut idle, mut waits) = (world.client().await, world.client().await);
    assert_eq!(idle.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
    assert_eq!(waits.ask(&["GET", "a"]).await, "$1\r\n1\r\n");
    waits.say(&["XREAD", "BLOCK", "0", "STREAMS", "s", "$"]).await;
    world.view_shows("it is under way", |view| view.requests == 3).await;
    assert!(world.stop().await < Duration::from_millis(2500));
    assert_eq!(idle.reply().await, None);
    let reply = waits.reply().await.expect("an error in place of the reply");
    assert!(reply.starts_with(b"-MASTERDOWN rbuddy: the reader endpoint stops"));
    assert_eq!(waits.reply().await, None);
}

#[tokio::test]
async fn an_ordinary_client_library_reads_through_the_endpoint() {
    let server = Server::replica(Some("secret"), &[("a", "1")]).await;
    let world = World::new(&[&server]).await;
    world.assign(vec![server.active().await], None);
    let client = redis::Client::open(format!("redis://:secret@{}/0?protocol=resp3", world.address)).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("connects");
    let (one, none): (String, Option<String>) =
        redis::pipe().cmd("GET").arg("a").cmd("GET").arg("b").query_async(&mut connection).await.expect("reads");
    assert_eq!((one.as_str(), none), ("1", None));
    let refused = redis::cmd("SET").arg("a").arg("2").query_async::<()>(&mut connection).await.expect_err("a write");
    assert_eq!(refused.code(), Some("READONLY"));
}

/// The server's own word on each command: what it flags as a write never passes, what it flags as a read does, what it calls
/// administration is decided on by name and not let through by accident.
#[tokio::test]
async fn the_table_of_commands_agrees_with_the_server() {
    use rbuddy_core::reader::rules::{ByName, Rule, by_name};
    let server = Server::start(None).await;
    let client = redis::Client::open(format!("redis://127.0.0.1:{}", server.port)).expect("a URL");
    let mut connection = client.get_multiplexed_async_connection().await.expect("connects");
    let commands: Vec<redis::Value> = redis::cmd("COMMAND").query_async(&mut connection).await.expect("a list");
    assert!(commands.len() > 200);
    let mut wrong = Vec::new();
    for command in &commands {
        let redis::Value::Array(fields) = command else { panic!("{command:?}") };
        let name: String = redis::from_redis_value(fields[0].clone()).expect("a name");
        let flags: Vec<String> = redis::from_redis_value(fields[2].clone()).expect("flags");
        let subcommands: Vec<redis::Value> = redis::from_redis_value(fields[9].clone()).expect("subcommands");
        let judge = |name: &str, sub: &str, flags: &[String], wrong: &mut Vec<String>| {
            let rule = match by_name(name.as_bytes()) {
                ByName::Rule(rule) => rule,
                ByName::Subcommands(subcommands) => subcommands.rule(sub.as_bytes()),
            };
            let has = |flag: &str| flags.iter().any(|found| found == flag);
            let is_sound = match rule {
                Rule::Write | Rule::Refused => !has("readonly"),
                Rule::Read => !has("write"),
                // EVAL, EVALSHA, FCALL: what they do is the script's, and a replica refuses its writes.
                Rule::Unknown => has("movablekeys") && has("noscript"),
                Rule::Session | Rule::Multi | Rule::Exec | Rule::Discard | Rule::Watch | Rule::Unwatch | Rule::Reset | Rule::Quit => {
                    !has("write")
                }
                Rule::Pin(_) => has("pubsub") || name == "monitor",
            };
            if !is_sound {
                wrong.push(format!("{name} {sub}: {rule:?}, flags {flags:?}"));
            }
        };
        if subcommands.is_empty() {
            judge(&name, "", &flags, &mut wrong);
        }
        for subcommand in &subcommands {
            let redis::Value::Array(fields) = subcommand else { panic!("{subcommand:?}") };
            let full: String = redis::from_redis_value(fields[0].clone()).expect("a name");
            let flags: Vec<String> = redis::from_redis_value(fields[2].clone()).expect("flags");
            judge(&name, full.split_once('|').map_or("", |(_, sub)| sub), &flags, &mut wrong);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
