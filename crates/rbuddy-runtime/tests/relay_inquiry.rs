//! What a primary is asked for, by what it says of itself. The primary is scripted: what is tried here, real ones do in moments that no test can hit.

#![allow(missing_docs, reason = "a test")]

mod support;

use rbuddy_core::control::relay::{RelayOrders, Start};
use rbuddy_core::replication::history::{KnownId, Place};
use rbuddy_core::replication::prospect::Gap;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::resp::request::{RequestLimits, parse};
use rbuddy_core::types::{NodeAddress, Offset, Position, ReplId};
use std::sync::Mutex;
use support::raw::RawReplica;
use support::{PATIENCE, Relay, Server, password, scripted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn offset(bytes: u64) -> Offset {
    Offset::new(bytes).expect("in range")
}

fn id(digit: char) -> ReplId {
    digit.to_string().repeat(40).parse().expect("an id")
}

fn place(bytes: u64) -> Place {
    Place::new(Position::new("a".repeat(40).parse().expect("an id"), offset(bytes)))
}

/// A primary of history `a` that has so many bytes, the first of them in its backlog that one.
fn info(run: char, end: u64, oldest: u64) -> String {
    let (run_id, replid, length) = (run.to_string().repeat(40), "a".repeat(40), end + 1 - oldest);
    format!(
        "run_id:{run_id}\r\nloading:0\r\nrole:master\r\nmaster_replid:{replid}\r\nmaster_replid2:{}\r\nmaster_repl_offset:{end}\r\nsecond_repl_offset:-1\r\n\
         repl_backlog_active:1\r\nrepl_backlog_first_byte_offset:{oldest}\r\nrepl_backlog_histlen:{length}\r\n",
        "0".repeat(40)
    )
}

/// A relay that begins at byte 1000 with a scripted primary.
async fn begun(places: Vec<Place>) -> (TcpListener, Server, Relay, tempfile::TempDir) {
    let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let (listener, settings) = scripted::primary(&replica, dir.path()).await;
    let orders = RelayOrders { start: Some(Start::At(place(1000))), places, ..RelayOrders::default() };
    let relay = Relay::start_strict(settings, orders).await;
    (listener, replica, relay, dir)
}

/// It was brought back from an older image, under the same id, and is written to.
#[tokio::test]
async fn a_primary_that_had_less_is_not_gone_on_with_when_it_has_as_much_again() {
    let (listener, _replica, mut relay, _dir) = begun(vec![place(1050)]).await;
    let says = Mutex::new(info('1', 900, 1));
    let lost = Gap::AheadOfPrimary { ours: offset(1000), theirs: offset(900) };
    let orders = relay.orders.clone();
    let asked = scripted::next_psync(&listener, || Some(says.lock().expect("unpoisoned").clone()));
    let story = async {
        let needs = |gap| move |view: &rbuddy_core::control::relay::RelayView| view.upstream.full_resync_needed.map(|need| need.gap) == gap;
        let view = relay.until("a full resync is needed", needs(Some(lost))).await;
        *says.lock().expect("unpoisoned") = info('1', 1100, 1);
        // A pause keeps the word back for longer than the relay waits on one connection.
        relay.until("it has come again", |later| later.upstream.since > view.upstream.since).await;
        relay.until("it is needed all the same", needs(Some(lost))).await;
        orders.send_modify(|orders| orders.full_resync = "a".repeat(40).parse().ok());
    };
    let ((_stream, asked), ()) = tokio::join!(asked, story);
    assert_eq!(asked, "? -1", "asked for byte 1001 it would go on there, with other bytes");
    relay.stop().await;
}

/// Another process never had less.
#[tokio::test]
async fn where_a_replica_is_further_the_old_end_is_given_up_only_when_the_primary_goes_on_there() {
    let (listener, _replica, mut relay, _dir) = begun(vec![place(1050)]).await;
    let (stream, asked) = scripted::next_psync(&listener, || Some(info('1', 1100, 1020))).await;
    assert_eq!(asked, format!("{} 1051", "a".repeat(40)));
    drop(stream);
    let (mut stream, asked) = scripted::next_psync(&listener, || Some(info('2', 1100, 1))).await;
    assert_eq!(asked, format!("{} 1001", "a".repeat(40)), "the one before had not answered");
    drop(stream);
    (stream, _) = scripted::next_psync(&listener, || Some(info('3', 1100, 1020))).await;
    stream.write_all(b"+CONTINUE\r\n").await.expect("sent");
    let view = relay.until("it goes on", |view| view.upstream.partial_resyncs == 1).await;
    assert_eq!(view.histories.iter().map(|history| (history.oldest.get(), history.end.get())).collect::<Vec<_>>(), [(1051, 1050)]);
    relay.stop().await;
}

/// What is followed began at the lowest replica and knows the primary's id as an earlier one only; where it ends the primary keeps nothing any more.
#[tokio::test]
async fn where_a_replica_is_further_it_is_asked_for_by_the_id_that_the_primary_knows() {
    let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let (listener, settings) = scripted::primary(&replica, dir.path()).await;
    let earlier = vec![KnownId { replid: id('a'), until: Some(offset(1150)) }];
    let at = |bytes| Place { position: Position::new(id('c'), offset(bytes)), earlier: earlier.clone() };
    let orders = RelayOrders { start: Some(Start::At(at(1120))), places: vec![at(1130)], ..RelayOrders::default() };
    let mut relay = Relay::start_strict(settings, orders).await;
    let (mut stream, asked) = scripted::next_psync(&listener, || Some(info('1', 1300, 1126))).await;
    assert_eq!(asked, format!("{} 1131", id('a')));
    stream.write_all(format!("+CONTINUE {}\r\n", id('a')).as_bytes()).await.expect("sent");
    let view = relay.until("it goes on", |view| view.upstream.partial_resyncs == 1).await;
    let ids: Vec<_> = view.live().expect("just begun").ids().iter().map(|known| (known.replid, known.until.map(Offset::get))).collect();
    assert_eq!(ids, [(id('a'), None), (id('c'), Some(1150))]);
    relay.stop().await;
}

/// A primary is promoted that had less than the relay, which had passed it all on.
#[tokio::test]
async fn what_a_replica_had_of_what_is_cut_away_counts_no_more_and_nothing_else_follows_on_it() {
    for is_old in [false, true] {
        let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
        let (listener, mut settings) = scripted::primary(&replica, dir.path()).await;
        settings.settings.upstream_timeout = PATIENCE;
        let (address, port) = (replica.address(), replica.port);
        let orders = RelayOrders {
            start: Some(Start::At(place(1000))),
            permits: [(address.clone(), Permit::Keep)].into(),
            required: [address].into(),
            ..RelayOrders::default()
        };
        let mut relay = Relay::start_strict(settings, orders).await;
        let (mut main, _) = scripted::next_psync(&listener, || Some(info('1', 1028, 1))).await;
        main.write_all(&[b"+CONTINUE\r\n", PING, PING].concat()).await.expect("sent");
        let mut raw = if is_old { RawReplica::connect_old(relay.port, port).await } else { RawReplica::connect(relay.port, port).await };
        let answer = raw.asked(id('a'), offset(1000)).await;
        assert!(answer.starts_with("+CONTINUE"), "{answer}");
        raw.ack(offset(1028)).await;
        tells(&mut main, 1028).await;
        drop(main);

        let promoted = info('2', 1100, 1).replace(&format!("master_replid:{}", id('a')), &format!("master_replid:{}", id('b')));
        let promoted = promoted.replace(&format!("master_replid2:{}", "0".repeat(40)), &format!("master_replid2:{}", id('a')));
        let promoted = promoted.replace("second_repl_offset:-1", "second_repl_offset:1015");
        let (mut main, asked) = scripted::next_psync(&listener, || Some(promoted.clone())).await;
        assert_eq!(asked, format!("{} 1015", id('a')));
        main.write_all(&[format!("+CONTINUE {}\r\n", id('b')).as_bytes(), PING, PING, PING].concat()).await.expect("sent");
        assert_eq!(tells(&mut main, 1014).await, [1014], "the first word is not more than that");
        assert_eq!(raw.until_ended().await, [PING, PING].concat(), "nothing of the other's bytes");
        relay.until("it has what follows", |view| view.live().is_some_and(|live| live.end == offset(1056))).await;
        assert_eq!(tells(&mut main, 1014).await, [1014], "nobody has more");
        relay.stop().await;
    }
}

/// The ACKs up to this one.
async fn tells(main: &mut TcpStream, expected: u64) -> Vec<u64> {
    let (mut input, mut told) = (Vec::new(), Vec::new());
    while told.last() != Some(&expected) {
        if let Some((words, used)) = parse(&input, RequestLimits::SMALL).expect("RESP") {
            assert_eq!(words[..2], [&b"REPLCONF"[..], b"ACK"]);
            told.push(String::from_utf8_lossy(&words[2]).parse().expect("an offset"));
            input.drain(..used);
            continue;
        }
        let read = tokio::time::timeout(PATIENCE, main.read_buf(&mut input)).await.expect("the relay tells").expect("read");
        assert!(read > 0, "the relay ended it; it told {told:?}");
    }
    told
}

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// It says that it is fed from where the relay is, as it sees that, whatever the relay calls itself.
#[tokio::test]
async fn a_primary_that_knows_the_relay_by_another_address_is_not_followed_in_a_circle() {
    let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let (listener, mut settings) = scripted::primary(&replica, dir.path()).await;
    settings.settings.announce = NodeAddress::new("relay.example", 6399);
    let orders = RelayOrders { start: Some(Start::At(place(1000))), ..RelayOrders::default() };
    let mut relay = Relay::start_strict(settings, orders).await;
    let fed_by_us = || Some(info('1', 1100, 1).replace("role:master", "role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:6399"));
    tokio::select! {
        (_, asked) = scripted::next_psync(&listener, fed_by_us) => panic!("it asked {asked}"),
        _ = relay.until("it sees the circle", |view| {
            view.upstream.last_error.as_ref().is_some_and(|error| error.contains("the primary that the relay follows"))
        }) => {}
    }
    relay.stop().await;
}

/// As servers do that know no `AUTH`.
#[tokio::test]
async fn a_password_that_a_server_repeats_is_not_shown() {
    let (replica, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let (listener, mut settings) = scripted::primary(&replica, dir.path()).await;
    settings.primary.password = password("s3cret-up");
    let orders = RelayOrders { start: Some(Start::At(place(1000))), ..RelayOrders::default() };
    let mut relay = Relay::start_strict(settings, orders).await;
    let (mut stream, _) = listener.accept().await.expect("the relay dials");
    for answer in ["+PONG", "-ERR unknown command 'AUTH', with args beginning with: 's3cret-up' "] {
        stream.read_buf(&mut Vec::new()).await.expect("a request");
        stream.write_all(format!("{answer}\r\n").as_bytes()).await.expect("sent");
    }
    let view = relay.until("it is told", |view| view.upstream.last_error.as_ref().is_some_and(|error| error.contains("AUTH"))).await;
    let error = view.upstream.last_error.expect("just seen");
    assert!(error.contains("unknown command") && !error.contains("s3cret"), "{error}");
    relay.stop().await;
}
