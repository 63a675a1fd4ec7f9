//! The relay when something is wrong: passwords, a primary that is promoted, hangs, cuts a snapshot short, a folder that cannot be written.

mod support;

use rbuddy_core::control::relay::{RelayOrders, RelayView, SessionState, SnapshotState, Start, UpstreamState};
use rbuddy_core::replication::history::Place;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{NodeAddress, Offset, Position};
use rbuddy_runtime::app::run_relay_alone;
use rbuddy_runtime::settings::Credentials;
use std::ops::BitXorAssign;
use std::time::Duration;
use support::raw::RawReplica;
use support::{PATIENCE, Relay, Server, config, eventually, free_port, password, scripted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

fn orders(start: Start, replica: &NodeAddress, permit: Permit) -> RelayOrders {
    RelayOrders { start: Some(start), permits: [(replica.clone(), permit)].into(), ..RelayOrders::default() }
}

fn streaming_id(view: &RelayView, address: &NodeAddress) -> Option<String> {
    match view.sessions.get(address).map(|session| &session.state) {
        Some(SessionState::Streaming { replid, .. }) => Some(replid.to_string()),
        Some(SessionState::Held(_) | SessionState::Seeding { .. } | SessionState::Loading { .. }) | None => None,
    }
}

#[tokio::test]
async fn both_sides_speak_with_their_passwords() {
    let primary = Server::start(&[]).await;
    let replica = Server::start(&["--masterauth", "for the relay"]).await;
    primary.fill("key:", 100).await;
    primary.command(&["ACL", "SETUSER", "relay", "on", ">up", "+psync", "+replconf", "+ping"]).await;
    primary.command(&["ACL", "SETUSER", "default", "-psync", "-replconf"]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = config(&primary, &[&replica], dir.path());
    settings.settings.auth = Some(Credentials { user: None, password: rbuddy_runtime::settings::Secret::new("for the relay") });
    (settings.primary.user, settings.primary.password) = (Some("relay".to_owned()), password("wrong"));
    let refused = Relay::start(settings.clone(), orders(Start::Fresh, &replica.address(), Permit::Auto)).await;
    let mut refused_view = refused.view.clone();
    let seen = refused_view.wait_for(|view| view.upstream.last_error.as_ref().is_some_and(|error| error.contains("WRONGPASS")));
    tokio::time::timeout(PATIENCE, seen).await.expect("in time").expect("it runs");
    refused.stop().await;

    settings.primary.password = password("up");
    let mut relay = Relay::start(settings, orders(Start::Fresh, &replica.address(), Permit::Auto)).await;
    replica.follow(relay.port).await;
    relay.until("the replica follows", |view| streaming_id(view, &replica.address()).is_some()).await;
    replica.equals(&primary).await;

    let mut stranger = TcpStream::connect(("127.0.0.1", relay.port)).await.expect("it listens");
    stranger.write_all(b"PSYNC ? -1\r\nAUTH guessed\r\nPSYNC ? -1\r\nQUIT\r\n").await.expect("sent");
    let mut answers = String::new();
    tokio::time::timeout(PATIENCE, stranger.read_to_string(&mut answers)).await.expect("in time").expect("text");
    let first_words: Vec<&str> = answers.lines().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(first_words, ["-NOAUTH", "-WRONGPASS", "-NOAUTH", "+OK"]);
    assert_eq!(relay.view.borrow().sessions.len(), 1);
    relay.stop().await;
}

#[tokio::test]
async fn a_primary_that_cannot_be_looked_at_is_asked_for_nothing_while_nothing_is_to_be_begun() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&["--masterauth", "for the relay"]).await);
    primary.fill("key:", 100).await;
    primary.command(&["ACL", "SETUSER", "relay", "on", ">up", "+psync", "+replconf", "+ping"]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = config(&primary, &[&replica], dir.path());
    settings.settings.auth = Some(Credentials { user: None, password: rbuddy_runtime::settings::Secret::new("for the relay") });
    (settings.primary.user, settings.primary.password) = (Some("relay".to_owned()), password("up"));
    let orders = RelayOrders { must_look: true, ..orders(Start::Fresh, &replica.address(), Permit::Auto) };
    let mut relay = Relay::start(settings, orders).await;
    replica.follow(relay.port).await;
    let is_told = |view: &RelayView| view.upstream.last_error.as_ref().is_some_and(|error| error.contains("let its login use INFO"));
    relay.until("it says what it waits for", is_told).await;
    assert!(primary.text(&["INFO", "stats"]).await.contains("\r\nsync_full:0\r\n"));
    relay.order(|orders| orders.must_look = false);
    relay.until("the replica follows", |view| streaming_id(view, &replica.address()).is_some()).await;
    replica.equals(&primary).await;

    // The primary goes on behind a short break, as a rule: a pause is not to leave the replica without the stream.
    relay.order(|orders| orders.must_look = true);
    primary.command(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    primary.fill("more:", 100).await;
    relay.until("it goes on", |view| view.upstream.partial_resyncs == 1).await;
    replica.equals(&primary).await;
    relay.stop().await;
}

#[tokio::test]
async fn a_changed_id_is_passed_on_and_nobody_pays_for_it() {
    // A chain: whoever is promoted in it gives the same bytes a new name.
    let (top, middle, upstream, replica) =
        (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    top.fill("key:", 1000).await;
    middle.follow(top.port).await;
    middle.equals(&top).await;
    upstream.follow(middle.port).await;
    upstream.equals(&top).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = Relay::start(config(&upstream, &[&replica], dir.path()), orders(Start::Fresh, &replica.address(), Permit::Auto)).await;
    replica.follow(relay.port).await;
    relay.until("the replica follows", |view| streaming_id(view, &replica.address()).is_some()).await;
    replica.equals(&top).await;
    relay.order(|orders| {
        orders.permits.insert(replica.address(), Permit::Keep);
    });

    for promoted in [&middle, &upstream] {
        promoted.command(&["REPLICAOF", "NO", "ONE"]).await;
        promoted.fill("new name:", 500).await;
        replica.equals(promoted).await;
        let id = promoted.info().await.replid.expect("it has one").to_string();
        relay.until("the replica knows the new id", |view| streaming_id(view, &replica.address()).as_deref() == Some(&id)).await;
    }
    let view = relay.view.borrow().clone();
    assert_eq!((view.upstream.full_resyncs, view.histories.len()), (1, 1));
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_without_a_controller_serves_everybody() {
    let (primary, first, second) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("key:", 1000).await;
    let dir = tempfile::tempdir().expect("a folder");
    let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
    for expected_full in [1, 1] {
        let mut settings = config(&primary, &[], dir.path());
        settings.settings.listen = format!("127.0.0.1:{port}");
        let cancel = CancellationToken::new();
        let running = tokio::spawn(run_relay_alone(settings, cancel.clone()));
        first.follow(port).await;
        second.follow(port).await;
        primary.fill("more:", 1000).await;
        first.equals(&primary).await;
        second.equals(&primary).await;
        assert_eq!(primary.info().await.sync_full, Some(expected_full), "one for both, none for the restart");
        cancel.cancel();
        running.await.expect("no panic").expect("no error");
    }
}

/// They are told to follow it one after another, and the first is further on.
#[tokio::test]
async fn a_relay_without_a_controller_takes_over_replicas_that_stand_apart() {
    let primary = Server::start(&[]).await;
    let (ahead, behind) = (Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("key:", 100).await;
    for replica in [&ahead, &behind] {
        replica.follow(primary.port).await;
        replica.equals(&primary).await;
    }
    primary.fill("for both:", 100).await;
    behind.equals(&primary).await;
    behind.follow(free_port()).await;
    primary.fill("more:", 100).await;
    ahead.equals(&primary).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = config(&primary, &[], dir.path());
    settings.settings.listen = format!("127.0.0.1:{}", free_port());
    let port = settings.settings.listen.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("a port");
    let cancel = CancellationToken::new();
    let running = tokio::spawn(run_relay_alone(settings, cancel.clone()));
    let before = primary.info().await.sync_full;
    ahead.follow(port).await;
    behind.follow(port).await;
    for replica in [&ahead, &behind] {
        replica.equals(&primary).await;
    }
    primary.fill("through the relay:", 100).await;
    for replica in [&ahead, &behind] {
        replica.equals(&primary).await;
    }
    assert_eq!(primary.info().await.sync_full, before, "nobody needed a full resync");
    cancel.cancel();
    running.await.expect("no panic").expect("no error");
}

#[tokio::test]
async fn a_primary_that_hangs_is_noticed_and_continued_with() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = config(&primary, &[&replica], dir.path());
    settings.settings.upstream_timeout = Duration::from_secs(2);
    let mut relay = Relay::start(settings, orders(Start::Fresh, &replica.address(), Permit::Auto)).await;
    replica.follow(relay.port).await;
    relay.until("the replica follows", |view| streaming_id(view, &replica.address()).is_some()).await;
    primary.signal("STOP");
    let view = relay.until("the hang is noticed", |view| view.upstream.down_since.is_some()).await;
    assert!(streaming_id(&view, &replica.address()).is_some(), "the replica stays");
    primary.signal("CONT");
    relay.until("it streams again", |view| view.upstream.state == UpstreamState::Streaming).await;
    primary.fill("key:", 100).await;
    replica.equals(&primary).await;
    assert_eq!(primary.info().await.sync_full, Some(1));
    relay.stop().await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_is_told_and_tried_again() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("key:", 1000).await;
    let parent = tempfile::tempdir().expect("a folder");
    let dir = parent.path().join("relay");
    std::fs::create_dir(&dir).expect("a folder");
    let mut relay = Relay::start(config(&primary, &[&replica], &dir), RelayOrders::default()).await;
    replica.follow(relay.port).await;
    std::fs::remove_dir_all(&dir).expect("it was there");
    relay.orders.send_replace(orders(Start::Fresh, &replica.address(), Permit::Auto));
    let failed = |view: &RelayView| matches!(view.snapshot.as_ref().map(|snapshot| &snapshot.state), Some(SnapshotState::Failed(why)) if why.contains("relay/"));
    let view = relay.until("the failure names the path", failed).await;
    assert!(matches!(view.sessions[&replica.address()].state, SessionState::Held(_)));
    std::fs::create_dir(&dir).expect("a folder");
    relay.until("the replica follows", |view| streaming_id(view, &replica.address()).is_some()).await;
    replica.equals(&primary).await;
    relay.stop().await;
}

/// What a scripted primary, which does not let the relay look, is asked with the next PSYNC.
async fn next_psync(listener: &TcpListener) -> (TcpStream, String) {
    scripted::next_psync(listener, || None).await
}

#[tokio::test]
async fn refusals_and_broken_snapshots_leave_the_old_history_as_it_was() {
    let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let (listener, settings) = scripted::primary(&replica, dir.path()).await;
    let (old, new) = ("a".repeat(40), "b".repeat(40));
    let position = Position::new(old.parse().expect("an id"), Offset::new(1000).expect("in range"));
    let start = Start::At(Place::new(position));
    let mut relay = Relay::start(settings, orders(start, &replica.address(), Permit::Keep)).await;

    let (mut stream, asked) = next_psync(&listener).await;
    assert_eq!(asked, format!("{old} 1001"));
    // It ends within a command. Where the primary does not say what it has, it is asked behind the last whole one.
    stream.write_all(b"+CONTINUE\r\n*1\r\n$4\r\nPING\r\n*1\r\n$4\r\nPI").await.expect("sent");
    relay.until("the bytes arrived", |view| view.live().is_some_and(|live| live.end.get() == 1024)).await;
    drop(stream);

    let snapshots: [&[u8]; 4] = [b"$100\r\nREDIS0010", b"$30\r\nREDIS0010 and no end opcode..", b"\n\n-ERR gave up\r\n", b"$EOF:short\r\n"];
    let answers =
        [b"-LOADING busy\r\n".to_vec(), b"-NOMASTERLINK no\r\n".to_vec(), b"-ERR whatever\r\n".to_vec(), b"+WHAT\r\n".to_vec()].into_iter();
    let broken = snapshots.iter().map(|payload| [format!("+FULLRESYNC {new} 5000\r\n").as_bytes(), payload].concat());
    for answer in answers.chain(broken.take(2)) {
        let (mut stream, asked) = next_psync(&listener).await;
        assert_eq!(asked, format!("{old} 1015"), "before {}", String::from_utf8_lossy(&answer));
        stream.write_all(&answer).await.expect("sent");
        stream.shutdown().await.expect("closed");
        // The relay ends it too, so that the next connection is the next attempt.
        let mut rest = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("the relay closes");
    }
    let (mut stream, asked) = next_psync(&listener).await;
    assert_eq!(asked, format!("{old} 1015"));
    stream.write_all(format!("+CONTINUE {new}\r\n*1\r\n$4\r\nPING\r\n").as_bytes()).await.expect("sent");
    let view = relay.until("it goes on", |view| view.live().is_some_and(|live| live.end.get() == 1028)).await;
    assert_eq!(view.histories.len(), 1);
    assert_eq!(view.histories[0].replid().to_string(), new);
    eventually("nothing half-done is left", || async {
        let entries = std::fs::read_dir(dir.path()).expect("a folder");
        let left: Vec<String> = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        if left == ["relay.json"] { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    relay.stop().await;
}

/// It would have begun to load it, and die of it.
#[tokio::test]
async fn a_replica_hears_of_no_snapshot_that_is_not_whole_and_sound() {
    let (address, dir, rdb) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"), scripted::empty_snapshot().await);
    let (listener, settings) = scripted::primary(&address, dir.path()).await;
    let (broken, good) = ("b".repeat(40), "c".repeat(40));
    let relay = Relay::start(settings, orders(Start::Fresh, &address.address(), Permit::Auto)).await;
    let mut replica = RawReplica::connect(relay.port, address.port).await;
    let full = |id: &str, rdb: &[u8]| [format!("+FULLRESYNC {id} 5000\r\n${}\r\n", rdb.len()).as_bytes(), rdb].concat();
    let mut wrong_checksum = rdb.clone();
    wrong_checksum.last_mut().expect("a checksum").bitxor_assign(1);
    let answers = [
        full(&broken, &wrong_checksum),
        format!("+FULLRESYNC {broken} 5000\r\n\n\n-ERR gave up\r\n").into_bytes(),
        [format!("+FULLRESYNC {broken} 5000\r\n$EOF:short\r\n").as_bytes(), &rdb].concat(),
        full(&good, &rdb),
    ];
    let primary = async {
        let mut last = None;
        for answer in answers {
            let (mut stream, asked) = next_psync(&listener).await;
            assert_eq!(asked, "? -1");
            stream.write_all(&answer).await.expect("sent");
            last = Some(stream);
        }
        last
    };
    let ((replid, offset), _last) = tokio::join!(replica.seeded(), primary);
    assert_eq!((replid.to_string(), offset.get()), (good, 5000), "the first word that it hears");
    relay.stop().await;
}

#[tokio::test]
async fn a_replica_at_the_last_whole_command_of_a_history_that_ended_within_the_next_one_gets_the_new_dataset() {
    let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let (listener, settings) = scripted::primary(&replica, dir.path()).await;
    let (old, new) = ("a".repeat(40), "b".repeat(40));
    let rdb = scripted::empty_snapshot().await;
    let full = |id: &str, offset: u64| [format!("+FULLRESYNC {id} {offset}\r\n${}\r\n", rdb.len()).into_bytes(), rdb.clone()].concat();
    let mut relay = Relay::start(settings, orders(Start::Fresh, &replica.address(), Permit::Auto)).await;
    replica.follow(relay.port).await;

    let (mut stream, _) = next_psync(&listener).await;
    let stream_bytes: &[u8] = b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$3\r\nold\r\n*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$3\r\nhal";
    stream.write_all(&[&full(&old, 1000), stream_bytes].concat()).await.expect("sent");
    relay.until("the replica has all whole commands", |view| streaming_id(view, &replica.address()) == Some(old.clone())).await;
    eventually("the replica applied the write", || async {
        let value = replica.try_command(&["GET", "key"]).await?;
        if value == redis::Value::BulkString(b"old".to_vec()) { Ok(()) } else { Err(format!("{value:?}")) }
    })
    .await;
    drop(stream);

    let (mut stream, _) = next_psync(&listener).await;
    stream.write_all(&full(&new, 5000)).await.expect("sent");
    relay.until("the replica follows the new history", |view| streaming_id(view, &replica.address()) == Some(new.clone())).await;
    relay.stop().await;
}

/// It would cut off a replica that is silent for `repl-timeout` (protocol fact 11.10).
#[tokio::test]
async fn a_primary_that_is_slow_with_its_snapshot_hears_signs_of_life() {
    let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let (listener, settings) = scripted::primary(&replica, dir.path()).await;
    let relay = Relay::start(settings, orders(Start::Fresh, &replica.address(), Permit::Keep)).await;
    let (mut stream, _) = next_psync(&listener).await;
    stream.write_all(format!("+FULLRESYNC {} 1000\r\n$1000\r\nREDIS0011", "a".repeat(40)).as_bytes()).await.expect("sent");
    let mut heard = Vec::new();
    while heard.len() < 3 {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut heard)).await.expect("in time").expect("read");
        assert!(read > 0, "the relay ended it");
    }
    assert_eq!(heard, b"\n\n\n");
    relay.stop().await;
}

/// A primary that forwards an EOF payload looks ten times a second whether its child has ended, and passes over the ACKs that come before (protocol fact 2.3).
#[tokio::test]
async fn the_primary_is_not_kept_waiting_for_the_ack_that_starts_the_stream() {
    let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let (listener, settings) = scripted::primary(&replica, dir.path()).await;
    let relay = Relay::start(settings, orders(Start::Fresh, &replica.address(), Permit::Keep)).await;
    let (mut stream, _) = next_psync(&listener).await;
    let mark = "e".repeat(40);
    let head = format!("+FULLRESYNC {} 1000\r\n$EOF:{mark}\r\n", "a".repeat(40));
    stream.write_all(&[head.as_bytes(), &scripted::empty_snapshot().await, mark.as_bytes()].concat()).await.expect("sent");
    let (mut heard, mut first) = (Vec::new(), None);
    let ack: &[u8] = b"REPLCONF\r\n$3\r\nACK\r\n$1\r\n0\r\n";
    while heard.windows(ack.len()).filter(|window| *window == ack).count() < 6 {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut heard)).await.expect("in time").expect("read");
        assert!(read > 0, "the relay ended it");
        first.get_or_insert_with(std::time::Instant::now);
    }
    // Half a second; one ACK a second would take five.
    let took = first.expect("read").elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    relay.stop().await;
}

/// What an output buffer that overflows behind each snapshot looks like from here: the link is closed, and what follows is more than the backlog keeps.
async fn close_the_link_beyond_the_backlog(primary: &Server) {
    let mut connection = TcpStream::connect(("127.0.0.1", primary.address().port)).await.expect("it listens");
    let value = "x".repeat(64 * 1024);
    let requests = format!("CLIENT KILL TYPE replica\r\n*3\r\n$3\r\nSET\r\n$4\r\nlong\r\n${}\r\n{value}\r\nQUIT\r\n", value.len());
    connection.write_all(requests.as_bytes()).await.expect("sent");
    connection.read_to_end(&mut Vec::new()).await.expect("answered");
}

#[tokio::test]
async fn a_full_resync_that_does_not_last_is_asked_for_less_often_and_says_why() {
    let primary = Server::start(&["--repl-backlog-size", "16kb"]).await;
    let replica = Server::start(&[]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let settings = config(&primary, &[&replica], dir.path());
    let mut relay = Relay::start(settings, orders(Start::Fresh, &replica.address(), Permit::Auto)).await;
    replica.follow(relay.port).await;
    relay.until("the replica follows", |view| streaming_id(view, &replica.address()).is_some()).await;
    for round in 1..=3 {
        let before = relay.view.borrow().upstream.full_resyncs;
        let mut explained = relay.view.clone();
        close_the_link_beyond_the_backlog(&primary).await;
        let says_why =
            |view: &RelayView| view.upstream.last_error.as_ref().is_some_and(|error| error.contains("client-output-buffer-limit"));
        let seen = tokio::time::timeout(PATIENCE, explained.wait_for(says_why)).await;
        seen.expect("in time").expect("it runs");
        assert_eq!(relay.view.borrow().upstream.full_resyncs, before, "round {round}: it waits");
        let went_on = |view: &RelayView| view.upstream.full_resyncs == before + 1 && view.upstream.state == UpstreamState::Streaming;
        relay.until("and asks all the same", went_on).await;
    }
    relay.stop().await;
}

/// Each attempt costs the primary a fork, so one that is asked for anew at once waits all the same, and longer each time.
#[tokio::test]
async fn a_snapshot_that_is_asked_for_again_right_after_one_that_failed_waits() {
    let primary = Server::start(&[]).await;
    let replica = Server::start(&[]).await;
    primary.command(&["ACL", "SETUSER", "relay", "on", ">up", "+@all"]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = config(&primary, &[&replica], dir.path());
    (settings.primary.user, settings.primary.password) = (Some("relay".to_owned()), password("up"));
    let first = orders(Start::Fresh, &replica.address(), Permit::Auto);
    let mut relay = Relay::start(settings, first.clone()).await;
    relay.until("it streams", |view| view.upstream.state == UpstreamState::Streaming && view.ready_snapshot().is_some()).await;
    // The stream goes on; the next PSYNC is refused.
    primary.command(&["ACL", "SETUSER", "relay", "-psync"]).await;
    let mut waited = Vec::new();
    for number in 1..=3 {
        let asked = std::time::Instant::now();
        relay.orders.send_replace(RelayOrders { snapshot_request: Some(number), ..first.clone() });
        let failed = |view: &RelayView| view.snapshot_request_done == Some(number) && view.snapshot_request_error.is_some();
        relay.until("it fails", failed).await;
        waited.push(asked.elapsed());
    }
    assert!(waited[1] >= Duration::from_millis(700) && waited[2] >= Duration::from_millis(1400), "{waited:?}");
    relay.stop().await;
}
