//! What the relay tells the primary that its replicas have: what `WAIT` there rests on.

mod support;

use rbuddy_core::control::relay::{RelayOrders, RelayView, SessionState, Start};
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{NodeAddress, Offset, ReplId};
use rbuddy_runtime::settings::Endpoint;
use std::path::Path;
use std::time::{Duration, Instant};
use support::raw::RawReplica;
use support::{Relay, Server, config, eventually, free_port};

/// What the primary was told, once the relay follows it.
async fn told(primary: &Server) -> Result<Offset, String> {
    let text = primary.text(&["INFO", "replication"]).await;
    let line = text.lines().find(|line| line.starts_with("slave0:")).ok_or("nobody follows")?;
    let field = |name: &str| line.split([',', ':']).find_map(|field| field.strip_prefix(name));
    match (field("state="), field("offset=")) {
        (Some("online"), Some(offset)) => offset.parse().map_err(|_| line.to_owned()),
        _ => Err(line.to_owned()),
    }
}

async fn is_told(primary: &Server, expected: Offset) {
    let what = format!("the primary is told {expected}");
    eventually(&what, || async {
        match told(primary).await {
            Ok(offset) if offset == expected => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

async fn end(primary: &Server) -> Offset {
    primary.info().await.offset.expect("a primary has one")
}

fn acked(view: &RelayView, replica: &NodeAddress) -> Option<Offset> {
    match view.sessions.get(replica).map(|session| &session.state) {
        Some(SessionState::Streaming { acked, .. }) => Some(*acked),
        Some(SessionState::Held(_) | SessionState::Seeding { .. } | SessionState::Loading { .. }) | None => None,
    }
}

fn at(port: u16) -> NodeAddress {
    NodeAddress::new("127.0.0.1", port)
}

/// A primary that counts bytes already, as it does from its first replica on.
async fn primary() -> Server {
    let primary = Server::start(&[]).await;
    {
        let other = Server::start(&[]).await;
        other.follow(primary.port).await;
        other.equals(&primary).await;
        primary.fill("key:", 1000).await;
    }
    eventually("the other is gone", || async {
        let text = primary.text(&["INFO", "replication"]).await;
        if text.contains("connected_slaves:0") { Ok(()) } else { Err(text) }
    })
    .await;
    primary
}

/// A relay for which the replicas at these ports count.
async fn relay(primary: &Server, replicas: [u16; 2], start: Start, dir: &Path) -> Relay {
    let mut config = config(primary, &[], dir);
    config.replicas = replicas.map(|port| Endpoint { address: at(port), user: None, password: None }).to_vec();
    let orders = RelayOrders {
        start: Some(start),
        permits: replicas.map(|port| (at(port), Permit::Auto)).into(),
        required: replicas.map(at).into(),
        ..RelayOrders::default()
    };
    Relay::start(config, orders).await
}

/// For as long as several ACKs take. The relay waits for ten seconds for those that are away `since` then; a machine that is slower than that proves nothing.
async fn stays_told(primary: &Server, expected: Offset, since: Instant) {
    let begun = Instant::now();
    eventually("three seconds pass", || async {
        let told = told(primary).await;
        if since.elapsed() < Duration::from_secs(8) {
            assert_eq!(told, Ok(expected));
        }
        if begun.elapsed() > Duration::from_secs(3) { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
}

#[tokio::test]
async fn the_primary_is_never_told_more_than_each_required_replica_has() {
    let (primary, dir) = (primary().await, tempfile::tempdir().expect("a folder"));
    let (a, b) = (free_port(), free_port());
    let mut relay = relay(&primary, [a, b], Start::Fresh, dir.path()).await;
    is_told(&primary, Offset::ZERO).await;

    let mut first = RawReplica::connect(relay.port, a).await;
    let (replid, offset) = first.seeded().await;
    assert!(offset > Offset::ZERO, "that is what the snapshot has, and nobody had");
    first.ack(offset).await;
    is_told(&primary, offset).await;
    let mut second = RawReplica::connect(relay.port, b).await;
    second.seeded().await;
    second.ack(offset).await;
    relay.until("both follow", |view| acked(view, &at(b)) == Some(offset)).await;

    primary.fill("more:", 100).await;
    let (half, all) = (offset.advance(500), end(&primary).await);
    first.ack(all).await;
    second.ack(half).await;
    is_told(&primary, half).await;

    // One that is cut off has what it had.
    let cut_off = Instant::now();
    drop(second);
    relay.until("the second is gone", |view| !view.sessions.contains_key(&at(b))).await;
    primary.fill("yet more:", 100).await;
    let all = end(&primary).await;
    first.ack(all).await;
    relay.until("the first has it all", |view| acked(view, &at(a)) == Some(all)).await;
    stays_told(&primary, half, cut_off).await;
    let mut second = RawReplica::connect(relay.port, b).await;
    second.continues(replid, half).await;
    second.ack(half.advance(1)).await;
    is_told(&primary, half.advance(1)).await;
    second.ack(all).await;
    is_told(&primary, all).await;

    // Nobody waits for ever for one that stays away.
    drop(second);
    primary.fill("without it:", 100).await;
    let all = end(&primary).await;
    first.ack(all).await;
    is_told(&primary, all).await;
    relay.stop().await;
}

/// A relay that has two replicas that have the same, and ends.
async fn a_run(primary: &Server, replicas: [u16; 2], dir: &Path) -> (ReplId, Offset) {
    let mut run = relay(primary, replicas, Start::Fresh, dir).await;
    let (mut first, mut second) = (RawReplica::connect(run.port, replicas[0]).await, RawReplica::connect(run.port, replicas[1]).await);
    let (replid, offset) = first.seeded().await;
    second.seeded().await;
    first.ack(offset).await;
    second.ack(offset).await;
    run.until("both follow", |view| replicas.iter().all(|port| acked(view, &at(*port)) == Some(offset))).await;
    run.stop().await;
    (replid, offset)
}

#[tokio::test]
async fn after_a_restart_those_that_are_not_back_yet_count_with_what_they_had() {
    let (primary, dir) = (primary().await, tempfile::tempdir().expect("a folder"));
    let (a, b) = (free_port(), free_port());
    let (replid, offset) = a_run(&primary, [a, b], dir.path()).await;
    primary.fill("more:", 100).await;
    let all = end(&primary).await;

    let started = Instant::now();
    let mut relay = relay(&primary, [a, b], Start::Resume, dir.path()).await;
    let mut first = RawReplica::connect(relay.port, a).await;
    first.continues(replid, offset).await;
    first.ack(all).await;
    relay.until("the first follows", |view| acked(view, &at(a)) == Some(all)).await;
    is_told(&primary, offset).await;
    stays_told(&primary, offset, started).await;
    let mut second = RawReplica::connect(relay.port, b).await;
    second.continues(replid, offset).await;
    second.ack(all).await;
    is_told(&primary, all).await;
    relay.stop().await;
}

#[tokio::test]
async fn after_a_restart_that_knows_of_nobody_the_primary_is_told_nothing_before_all_are_back() {
    let (primary, dir) = (primary().await, tempfile::tempdir().expect("a folder"));
    let (a, b) = (free_port(), free_port());
    let (replid, offset) = a_run(&primary, [a, b], dir.path()).await;
    let file = dir.path().join("relay.json");
    let mut saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("it was written")).expect("it is JSON");
    saved["spool"]["stands"].as_object_mut().expect("both were there").clear();
    std::fs::write(&file, saved.to_string()).expect("it can be written");

    let started = Instant::now();
    let mut relay = relay(&primary, [a, b], Start::Resume, dir.path()).await;
    let mut first = RawReplica::connect(relay.port, a).await;
    first.continues(replid, offset).await;
    first.ack(offset).await;
    relay.until("the first follows", |view| acked(view, &at(a)) == Some(offset)).await;
    eventually("the relay follows", || async { told(&primary).await }).await;
    stays_told(&primary, Offset::ZERO, started).await;
    let mut second = RawReplica::connect(relay.port, b).await;
    second.continues(replid, offset).await;
    second.ack(offset).await;
    is_told(&primary, offset).await;
    relay.stop().await;
}
