//! What the relay tells the primary that its replicas have: what `WAIT` there rests on.

mod support;

use rbuddy_core::control::relay::{RelayOrders, RelayView, SessionState, Start};
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{NodeAddress, Offset};
use rbuddy_runtime::settings::Endpoint;
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

#[tokio::test]
async fn the_primary_is_never_told_more_than_each_required_replica_has() {
    let primary = Server::start(&[]).await;
    // A primary counts bytes from its first replica on.
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
    let (a, b) = (free_port(), free_port());
    let at = |port| NodeAddress::new("127.0.0.1", port);
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = config(&primary, &[], dir.path());
    config.replicas = [a, b].map(|port| Endpoint { address: at(port), user: None, password: None }).to_vec();
    let orders = RelayOrders {
        start: Some(Start::Fresh),
        permits: [(at(a), Permit::Auto), (at(b), Permit::Auto)].into(),
        required: [at(a), at(b)].into(),
        ..RelayOrders::default()
    };
    let mut relay = Relay::start(config, orders).await;
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
    drop(second);
    relay.until("the second is gone", |view| !view.sessions.contains_key(&at(b))).await;
    primary.fill("yet more:", 100).await;
    let all = end(&primary).await;
    first.ack(all).await;
    relay.until("the first has it all", |view| acked(view, &at(a)) == Some(all)).await;
    // Several ACKs pass.
    let since = Instant::now();
    eventually("three seconds pass", || async {
        assert_eq!(told(&primary).await, Ok(half));
        if since.elapsed() > Duration::from_secs(3) { Ok(()) } else { Err("not yet".into()) }
    })
    .await;
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
