//! Snapshots on demand, over a connection beside the one that brings the stream: from the primary or from a replica, while all goes well, and while the stream
//! breaks, is renamed or ends.

mod support;

use rbuddy_core::control::relay::{RelayOrders, RelayView, SessionState, Start};
use rbuddy_core::info::ServerInfo;
use rbuddy_core::replication::history::Place;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{NodeAddress, Offset, Position};
use std::path::Path;
use support::{PATIENCE, Relay, Server, config, default_binary, eventually, fetched, scripted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn orders(start: Start, permits: &[(&Server, Permit)]) -> RelayOrders {
    RelayOrders {
        start: Some(start),
        permits: permits.iter().map(|(server, permit)| (server.address(), *permit)).collect(),
        ..RelayOrders::default()
    }
}

fn is_streaming(view: &RelayView, address: &NodeAddress) -> bool {
    matches!(view.sessions.get(address).map(|session| &session.state), Some(SessionState::Streaming { .. }))
}

/// A replica that follows the relay, and a second one that it holds, with nothing in it.
async fn with_two(primary: &Server, replica: &Server, second: &Server, dir: &Path) -> Relay {
    primary.fill("key:", 5000).await;
    replica.follow(primary.port).await;
    replica.equals(primary).await;
    let position = replica.info().await.position().expect("a replica has one");
    let permits = [(replica, Permit::Keep), (second, Permit::Hold)];
    let orders = orders(Start::At(Place::new(position)), &permits);
    let mut relay = Relay::start(config(primary, &[replica, second], dir), orders).await;
    replica.follow(relay.port).await;
    second.follow(relay.port).await;
    relay.until("the replica streams", |view| is_streaming(view, &replica.address())).await;
    relay
}

/// Asks for the next one, and waits for it.
async fn asked_for(relay: &mut Relay, number: u64) {
    relay.order(|orders| orders.snapshot_request = Some(number));
    let view = relay.until("the request is answered", |view| view.snapshot_request_done == Some(number)).await;
    assert_eq!(view.snapshot_request_error, None);
}

async fn discarded(relay: &mut Relay) {
    let dataset = relay.snapshot().await;
    relay.order(|orders| orders.discard_snapshot = Some(dataset));
    relay.until("it is gone", |view| view.snapshot.is_none()).await;
    relay.order(|orders| orders.discard_snapshot = None);
}

#[tokio::test]
async fn a_snapshot_is_taken_over_a_second_connection_while_the_stream_flows() {
    second_connection(&default_binary()).await;
}

/// It knows no `rdb-only`, and begins with a stream behind the snapshot.
#[tokio::test]
async fn a_primary_that_gives_more_than_the_snapshot_is_left_when_that_is_there() {
    if let Some(binary) = fetched("redis-6.2") {
        second_connection(&binary).await;
    }
}

async fn second_connection(binary: &Path) {
    let (primary, replica, second) = (Server::of(binary, &[]).await, Server::of(binary, &[]).await, Server::of(binary, &[]).await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = with_two(&primary, &replica, &second, dir.path()).await;
    assert_eq!(relay.view.borrow().snapshot, None);

    relay.order(|orders| orders.snapshot_request = Some(1));
    primary.fill("during:", 5000).await;
    asked_for(&mut relay, 1).await;
    let dataset = relay.snapshot().await;
    // More than memory keeps: the stream behind the snapshot comes from disk.
    for round in 0..3 {
        primary.fill(&format!("far more than the backlog {round}:"), 20_000).await;
    }
    relay.seed(&second, dataset).await;
    second.equals(&primary).await;
    replica.equals(&primary).await;
    let view = relay.view.borrow().clone();
    assert_eq!((view.upstream.full_resyncs, view.upstream.partial_resyncs), (0, 1), "the main connection stayed");
    assert_eq!(primary.info().await.connected_replicas, 1, "and the other one is closed");
    relay.stop().await;
}

#[tokio::test]
async fn a_snapshot_is_taken_from_a_replica_and_the_primary_does_not_fork() {
    let (primary, replica, second) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    // Two databases: what a replica's snapshot tells of the selected one must fit the primary's stream.
    let write_in_five = ["EVAL", "redis.call('SELECT', 5) redis.call('SET', 'in five', ARGV[1]) return 1", "0"];
    primary.command(&[&write_in_five[..], &["x"]].concat()).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = with_two(&primary, &replica, &second, dir.path()).await;
    let full_before = primary.info().await.sync_full;

    relay.order(|orders| (orders.snapshot_request, orders.snapshot_source) = (Some(1), Some(replica.address())));
    primary.command(&[&write_in_five[..], &["y"]].concat()).await;
    primary.fill("during:", 5000).await;
    asked_for(&mut relay, 1).await;
    let dataset = relay.snapshot().await;
    relay.seed(&second, dataset).await;
    second.equals(&primary).await;
    assert_eq!((primary.info().await.sync_full, replica.info().await.sync_full), (full_before, Some(1)));

    // One that cannot give it is no obstacle.
    replica.signal("STOP");
    discarded(&mut relay).await;
    asked_for(&mut relay, 2).await;
    relay.snapshot().await;
    assert_eq!(primary.info().await.sync_full, full_before.map(|before| before + 1));
    replica.signal("CONT");
    relay.stop().await;
}

#[tokio::test]
async fn what_a_replica_has_counts_and_where_it_is_of_no_use_the_primary_is_asked() {
    let (primary, replica, second) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = with_two(&primary, &replica, &second, dir.path()).await;
    relay.order(|orders| {
        orders.snapshot_source = Some(replica.address());
        orders.paused_streams = [replica.address()].into();
    });
    // One that lags has an older snapshot, and the stream behind that is there.
    let offset = |server: &ServerInfo| server.offset.expect("it has one");
    let stands_at = offset(&replica.info().await);
    primary.fill("not for the replica:", 1000).await;
    let all = offset(&primary.info().await);
    relay.until("the relay has it", |view| view.live().is_some_and(|live| live.end >= all)).await;
    asked_for(&mut relay, 1).await;
    let dataset = relay.snapshot().await;
    assert!(dataset.0.offset < all && dataset.0.offset >= stands_at, "{dataset} is the replica's, which had {stands_at} of {all}");
    relay.seed(&second, dataset).await;
    second.equals(&primary).await;

    // One that is of another history has nothing for anybody else here.
    let forks = |server: ServerInfo| server.sync_full.expect("it tells");
    let (of_primary, of_replica) = (forks(primary.info().await), forks(replica.info().await));
    replica.command(&["REPLICAOF", "NO", "ONE"]).await;
    replica.command(&["SET", "of its", "own"]).await;
    discarded(&mut relay).await;
    asked_for(&mut relay, 2).await;
    let dataset = relay.snapshot().await;
    assert_eq!(Some(dataset.0.replid), primary.info().await.replid);
    assert_eq!((forks(primary.info().await), forks(replica.info().await)), (of_primary + 1, of_replica + 1));
    relay.stop().await;
}

/// A relay that follows a scripted primary, and has been asked for a snapshot, half of which has come over a second connection.
struct Halfway {
    listener: TcpListener,
    main: TcpStream,
    beside: TcpStream,
    rest: Vec<u8>,
    replica: Server,
    relay: Relay,
    dir: tempfile::TempDir,
}

async fn halfway() -> Halfway {
    let (replica, dir, rdb) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"), scripted::empty_snapshot().await);
    let (listener, mut settings) = scripted::primary(&replica, dir.path()).await;
    // It is silent for long.
    settings.settings.upstream_timeout = PATIENCE;
    let place = Place::new(Position::new(id('a').parse().expect("an id"), Offset::new(1000).expect("in range")));
    let mut relay = Relay::start(settings, orders(Start::At(place), &[(&replica, Permit::Hold)])).await;
    replica.follow(relay.port).await;
    let (mut main, _) = scripted::next_psync(&listener, || None).await;
    main.write_all(b"+CONTINUE\r\n*1\r\n$4\r\nPING\r\n").await.expect("sent");
    relay.until("it streams", |view| view.live().is_some_and(|live| live.end.get() == 1014)).await;
    relay.order(|orders| orders.snapshot_request = Some(1));
    let (mut beside, asked) = scripted::next_psync(&listener, || None).await;
    assert_eq!(asked, "? -1");
    let (half, rest) = rdb.split_at(rdb.len() / 2);
    beside.write_all(&[format!("+FULLRESYNC {} 1014\r\n${}\r\n", id('a'), rdb.len()).as_bytes(), half].concat()).await.expect("sent");
    let is_coming = |view: &RelayView| view.snapshot.as_ref().is_some_and(|snapshot| snapshot.bytes == half.len() as u64);
    relay.until("half of it is there", is_coming).await;
    Halfway { listener, main, beside, rest: rest.to_vec(), replica, relay, dir }
}

fn id(digit: char) -> String {
    digit.to_string().repeat(40)
}

#[tokio::test]
async fn a_snapshot_outlasts_a_break_of_the_main_connection_and_a_change_of_the_id() {
    let Halfway { listener, main, mut beside, rest, replica, mut relay, dir: _dir } = halfway().await;
    drop(main);
    let (mut main, asked) = scripted::next_psync(&listener, || None).await;
    assert_eq!(asked, format!("{} 1015", id('a')));
    main.write_all(format!("+CONTINUE {}\r\n*1\r\n$4\r\nPING\r\n", id('b')).as_bytes()).await.expect("sent");
    relay.until("it goes on under the new id", |view| view.live().is_some_and(|live| live.replid().to_string() == id('b'))).await;
    beside.write_all(&rest).await.expect("sent");
    asked_for(&mut relay, 1).await;
    let dataset = relay.snapshot().await;
    assert_eq!(dataset.to_string(), format!("{}:1014", id('a')));
    relay.seed(&replica, dataset).await;
    eventually("the replica has it all, under the new id", || async {
        let position = replica.info().await.position().map(|position| position.to_string());
        if position == Some(format!("{}:1028", id('b'))) { Ok(()) } else { Err(format!("{position:?}")) }
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn a_snapshot_of_a_history_that_ends_meanwhile_is_dropped() {
    let Halfway { listener, main, mut beside, replica: _replica, mut relay, dir, .. } = halfway().await;
    drop(main);
    let (mut main, _) = scripted::next_psync(&listener, || None).await;
    let rdb = scripted::empty_snapshot().await;
    let full = [format!("+FULLRESYNC {} 5000\r\n${}\r\n", id('b'), rdb.len()).as_bytes(), &rdb].concat();
    main.write_all(&full).await.expect("sent");
    assert_eq!(relay.snapshot().await.to_string(), format!("{}:5000", id('b')), "the new one is there, and alone");
    let closed = tokio::time::timeout(PATIENCE, beside.read_to_end(&mut Vec::new())).await;
    drop(closed.expect("the relay closes the second connection"));
    let view = relay.until("the request is answered", |view| view.snapshot_request_done == Some(1)).await;
    assert!(view.snapshot_request_error.is_some(), "it came to nothing: {view:#?}");
    eventually("one snapshot is on disk", || async {
        let entries = std::fs::read_dir(dir.path()).expect("a folder");
        let names: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        if names.iter().filter(|name| name.starts_with("snapshot-")).count() == 1 { Ok(()) } else { Err(format!("{names:?}")) }
    })
    .await;
    relay.stop().await;
}
