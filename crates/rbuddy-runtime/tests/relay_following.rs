//! The relay and a primary that moves, is promoted, begins another history or has forgotten: what is asked of it, and what `WAIT` there means.

mod support;

use rbuddy_core::control::relay::{AckPolicy, RelayOrders, RelayView, SessionState, Start, UpstreamState};
use rbuddy_core::replication::history::Place;
use rbuddy_core::replication::prospect::Gap;
use rbuddy_core::replication::psync::{FullResyncReason, HoldReason, Permit};
use rbuddy_core::types::{NodeAddress, Position};
use std::time::{Duration, Instant};
use support::{Relay, Server, config, eventually};

fn orders(start: Start, replicas: &[&Server], permit: Permit) -> RelayOrders {
    let permits = replicas.iter().map(|server| (server.address(), permit)).collect();
    RelayOrders { start: Some(start), permits, ..RelayOrders::default() }
}

fn streams(view: &RelayView, address: &NodeAddress) -> bool {
    matches!(view.sessions.get(address).map(|session| &session.state), Some(SessionState::Streaming { .. }))
}

fn held(view: &RelayView, address: &NodeAddress) -> Option<HoldReason> {
    match view.sessions.get(address).map(|session| &session.state) {
        Some(SessionState::Held(reason)) => Some(*reason),
        Some(SessionState::Seeding { .. } | SessionState::Loading { .. } | SessionState::Streaming { .. }) | None => None,
    }
}

async fn position(server: &Server) -> Position {
    server.info().await.position().expect("a replica has one")
}

/// A primary, two replicas of it, and a relay that took both over.
async fn taken_over(options: &[&str]) -> (Server, Server, Server, Relay, tempfile::TempDir) {
    let (primary, first, second) = (Server::start(options).await, Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("key:", 1000).await;
    for replica in [&first, &second] {
        replica.follow(primary.port).await;
        replica.equals(&primary).await;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let start = Start::At(Place::new(position(&first).await));
    let replicas = [&first, &second];
    let mut relay = Relay::start_strict(config(&primary, &replicas, dir.path()), orders(start, &replicas, Permit::Keep)).await;
    for replica in replicas {
        replica.follow(relay.port).await;
        relay.until("the replica streams", |view| streams(view, &replica.address())).await;
        replica.equals(&primary).await;
    }
    (primary, first, second, relay, dir)
}

/// As if its link had broken: it keeps what it has, and knows where it stands.
async fn cut_off(server: &Server) {
    server.follow(1).await;
    eventually("its link is down", || async {
        let info = server.info().await;
        if info.is_link_up { Err("up".to_owned()) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn a_promoted_primary_that_has_less_is_continued_where_it_is_and_nobody_else_pays() {
    let (mut primary, ahead, level, mut relay, _dir) = taken_over(&[]).await;
    let promoted = Server::start(&[]).await;
    promoted.follow(primary.port).await;
    promoted.equals(&primary).await;
    // These two do not get what comes now; the relay and the other replica do.
    cut_off(&promoted).await;
    cut_off(&level).await;
    primary.fill("never got there:", 500).await;
    ahead.equals(&primary).await;
    let had = position(&ahead).await;
    primary.kill();
    promoted.command(&["REPLICAOF", "NO", "ONE"]).await;
    promoted.fill("new:", 500).await;

    let full_before = promoted.info().await.sync_full;
    relay.order(|orders| orders.primary = Some(promoted.address()));
    let view = relay.until("the promoted one is followed", |view| view.upstream.state == UpstreamState::Streaming).await;
    let limit = view.histories[0].ids()[1].until.expect("an earlier id has a limit");
    assert!(limit < had.offset, "the relay cut itself back from {} to {limit}", had.offset);
    level.follow(relay.port).await;
    level.equals(&promoted).await;
    assert_eq!((promoted.info().await.sync_full, relay.view.borrow().upstream.full_resyncs), (full_before, 0));

    let past = |view: &RelayView| matches!(held(view, &ahead.address()), Some(HoldReason::NeedsFullResync(FullResyncReason::PastLimit { asked, limit: known })) if asked == had.offset.next_byte() && known == limit);
    relay.until("the one that has more is held, with both sides' numbers", past).await;
    assert_eq!(ahead.text(&["GET", "never got there:7"]).await.len(), 51, "and keeps what it has");
    relay.stop().await;
}

/// A failover that was undone: the first primary never heard of it and wrote on.
#[tokio::test]
async fn a_primary_that_the_relay_left_and_is_sent_back_to_goes_on_where_it_was_left() {
    let (primary, stayed, followed, mut relay, dir) = taken_over(&[]).await;
    let promoted = Server::start(&[]).await;
    promoted.follow(primary.port).await;
    promoted.equals(&primary).await;
    promoted.command(&["REPLICAOF", "NO", "ONE"]).await;
    relay.order(|orders| orders.primary = Some(promoted.address()));
    let renamed =
        |view: &RelayView| view.upstream.state == UpstreamState::Streaming && view.histories.iter().any(|one| one.ids().len() == 2);
    relay.until("the promoted one is followed", renamed).await;
    cut_off(&stayed).await;
    promoted.fill("of the promoted one:", 500).await;
    followed.equals(&promoted).await;
    primary.fill("of the first:", 300).await;

    let full_before = primary.info().await.sync_full;
    relay.order(|orders| orders.primary = Some(primary.address()));
    let first_id = primary.info().await.replid;
    let is_back = |view: &RelayView| view.upstream.state == UpstreamState::Streaming && view.live().map(|live| live.replid()) == first_id;
    relay.until("the first one is followed", is_back).await;
    let text = std::fs::read(dir.path().join("relay.json")).expect("it was written");
    let saved: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    assert_eq!(
        saved["live"]["ids"][0]["replid"].as_str(),
        first_id.map(|id| id.to_string()).as_deref(),
        "on disk before anybody learns it"
    );
    stayed.follow(relay.port).await;
    stayed.equals(&primary).await;
    assert_eq!((primary.info().await.sync_full, relay.view.borrow().upstream.full_resyncs), (full_before, 0));
    let past =
        |view: &RelayView| matches!(held(view, &followed.address()), Some(HoldReason::NeedsFullResync(FullResyncReason::PastLimit { .. })));
    relay.until("the one with bytes that the primary never had is held", past).await;
    assert_eq!(followed.text(&["GET", "of the promoted one:7"]).await.len(), 51, "and keeps what it has");
    relay.stop().await;
}

#[tokio::test]
async fn a_full_resync_waits_for_permission_and_tells_why_it_is_needed() {
    let (mut primary, first, _second, mut relay, _dir) = taken_over(&[]).await;
    let old = position(&first).await;
    primary.kill();
    primary.restart().await;
    primary.fill("another history:", 100).await;
    let view = relay.until("the need is told", |view| view.upstream.full_resync_needed.is_some()).await;
    let need = view.upstream.full_resync_needed.expect("just seen");
    assert_eq!(need.gap, Gap::OtherHistory { ours: old.replid, theirs: need.replid });
    // It looks again and again without asking.
    eventually("the primary was looked at several times", || async {
        let text = primary.text(&["INFO", "commandstats"]).await;
        let calls = text.lines().find_map(|line| line.strip_prefix("cmdstat_info:calls=")?.split(',').next()?.parse::<u64>().ok());
        if calls >= Some(6) { Ok(()) } else { Err(format!("{calls:?} calls of INFO")) }
    })
    .await;
    assert_eq!(primary.info().await.sync_full, Some(0), "nothing was asked of it");
    assert_eq!(first.text(&["GET", "key:7"]).await.len(), 51);

    relay.order(|orders| orders.full_resync = Some(need.replid));
    let view = relay.until("the snapshot is ready", |view| view.ready_snapshot().is_some()).await;
    let full = view.upstream.last_full_resync.expect("there was one");
    assert_eq!(
        (full.asked.map(|asked| asked.replid), full.gap, view.upstream.full_resync_needed),
        (Some(old.replid), Some(need.gap), None)
    );
    assert_eq!(primary.info().await.sync_full, Some(1));
    relay.stop().await;
}

#[tokio::test]
async fn a_failover_by_the_primary_itself_is_a_partial_resync() {
    let (primary, first, second, mut relay, _dir) = taken_over(&[]).await;
    let other = Server::start(&[]).await;
    other.follow(primary.port).await;
    other.equals(&primary).await;
    let (full_of_old, full_of_new) = (primary.info().await.sync_full, other.info().await.sync_full);
    let failover = ["FAILOVER", "TO", "127.0.0.1", &other.port.to_string()];
    eventually("the failover begins", || primary.try_command(&failover)).await;
    eventually("the other one is the primary", || async {
        let role = other.info().await.role;
        if role == Some(rbuddy_core::info::Role::Master) { Ok(()) } else { Err(format!("{role:?}")) }
    })
    .await;
    // At the old address first, one hop longer; then at the new one.
    other.fill("after the failover:", 100).await;
    first.equals(&other).await;
    relay.order(|orders| orders.primary = Some(other.address()));
    let dialled = |view: &RelayView| view.upstream.partial_resyncs >= 3 && view.upstream.state == UpstreamState::Streaming;
    relay.until("the new address is followed", dialled).await;
    other.fill("at the new address:", 100).await;
    first.equals(&other).await;
    second.equals(&other).await;
    assert_eq!((primary.info().await.sync_full, relay.view.borrow().upstream.full_resyncs), (full_of_old, 0));
    // The old primary attached itself to the new one; nobody paid for it either.
    assert_eq!(other.info().await.sync_full, full_of_new);
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_cannot_begin_at_the_lowest_replica_begins_where_the_primary_still_can() {
    let (primary, near, far) = (Server::start(&["--repl-backlog-size", "65536"]).await, Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("key:", 1000).await;
    for replica in [&near, &far] {
        replica.follow(primary.port).await;
        replica.equals(&primary).await;
    }
    cut_off(&far).await;
    primary.fill("more than its backlog:", 2000).await;
    near.equals(&primary).await;
    let (lowest, other) = (position(&far).await, position(&near).await);
    let full_before = primary.info().await.sync_full;
    let dir = tempfile::tempdir().expect("a folder");
    let start = Start::At(Place::new(lowest));
    let replicas = [&near, &far];
    let orders = RelayOrders { places: vec![Place::new(other)], ..orders(start, &replicas, Permit::Keep) };
    let mut relay = Relay::start_strict(config(&primary, &replicas, dir.path()), orders).await;
    near.follow(relay.port).await;
    far.follow(relay.port).await;
    primary.fill("behind the relay:", 100).await;
    near.equals(&primary).await;
    let too_old = |view: &RelayView| {
        let reason = held(view, &far.address());
        matches!(reason, Some(HoldReason::NeedsFullResync(FullResyncReason::BacklogTooShort { asked, .. })) if asked == lowest.offset.next_byte())
    };
    relay.until("the far one is held", too_old).await;
    assert_eq!(primary.info().await.sync_full, full_before);
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_whose_disk_ends_too_early_goes_on_where_a_replica_still_can() {
    let (primary, replica) = (Server::start(&["--repl-backlog-size", "65536"]).await, Server::start(&[]).await);
    primary.fill("key:", 1000).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = Relay::start(config(&primary, &[&replica], dir.path()), orders(Start::Fresh, &[&replica], Permit::Auto)).await;
    replica.follow(relay.port).await;
    replica.equals(&primary).await;
    relay.until("its snapshot is kept", |view| view.ready_snapshot().is_some()).await;
    relay.stop().await;
    // The replica goes on by itself meanwhile, and the primary forgets where the relay was.
    replica.follow(primary.port).await;
    primary.fill("more than its backlog:", 2000).await;
    replica.equals(&primary).await;
    cut_off(&replica).await;
    let (place, full_before) = (position(&replica).await, primary.info().await.sync_full);

    let mut relay = Relay::start_strict(config(&primary, &[&replica], dir.path()), RelayOrders::default()).await;
    relay.until("there is something to go on from", |view| view.resumable.is_some()).await;
    relay.orders.send_replace(RelayOrders { places: vec![Place::new(place)], ..orders(Start::Resume, &[&replica], Permit::Keep) });
    replica.follow(relay.port).await;
    primary.fill("behind the relay:", 100).await;
    replica.equals(&primary).await;
    let view = relay.until("it streams", |view| streams(view, &replica.address())).await;
    assert_eq!((view.upstream.partial_resyncs, view.upstream.full_resyncs), (1, 0));
    assert!(view.ready_snapshot().is_none(), "what lies between the snapshot's stream and the place is missing");
    assert_eq!(primary.info().await.sync_full, full_before);
    relay.stop().await;
}

#[tokio::test]
async fn wait_on_the_primary_means_what_the_policy_says() {
    for policy in [AckPolicy::Replicated, AckPolicy::Received] {
        let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
        let dir = tempfile::tempdir().expect("a folder");
        let mut config = config(&primary, &[&replica], dir.path());
        config.settings.ack = policy;
        let mut relay = Relay::start(config, orders(Start::Fresh, &[&replica], Permit::Auto)).await;
        relay.order(|orders| orders.required.extend([replica.address()]));
        replica.follow(relay.port).await;
        relay.until("the replica streams", |view| streams(view, &replica.address())).await;
        replica.equals(&primary).await;

        replica.signal("STOP");
        let expected = if policy == AckPolicy::Received { 1 } else { 0 };
        assert_eq!(primary.written_and_waited_for(700).await, expected, "{policy:?} while the replica stands still");
        replica.signal("CONT");
        assert_eq!(primary.written_and_waited_for(10_000).await, 1, "{policy:?}");
        // The primary asks, and does not wait for the ACK of the next second, which would be that of the one before each time.
        let begun = Instant::now();
        for _ in 0..40 {
            assert_eq!(primary.written_and_waited_for(10_000).await, 1, "{policy:?}");
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "{policy:?}: 40 times WAIT took {:?}", begun.elapsed());
        // Held, it is not required any more: what was said last is repeated, and nothing that came since is claimed.
        if policy == AckPolicy::Replicated {
            relay.order(|orders| orders.permits.extend([(replica.address(), Permit::Hold)]));
            relay.until("the replica is held", |view| held(view, &replica.address()).is_some()).await;
            assert_eq!(primary.written_and_waited_for(700).await, 0);
            let alive = primary.info().await.connected_replicas;
            assert_eq!(alive, 1, "the link lives on the repeated ACK");
        }
        relay.stop().await;
    }
}
