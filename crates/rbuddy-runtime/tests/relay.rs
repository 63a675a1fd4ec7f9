//! The relay between real servers.

mod support;

use rbuddy_core::control::relay::{RelayOrders, RelayView, SessionState, Start, UpstreamState};
use rbuddy_core::replication::history::Place;
use rbuddy_core::replication::psync::{HoldReason, Permit};
use rbuddy_core::types::NodeAddress;
use support::{Relay, Server, config, eventually};

fn orders(start: Start, permits: &[(&Server, Permit)]) -> RelayOrders {
    RelayOrders {
        start: Some(start),
        permits: permits.iter().map(|(server, permit)| (server.address(), *permit)).collect(),
        ..RelayOrders::default()
    }
}

fn state<'a>(view: &'a RelayView, address: &NodeAddress) -> Option<&'a SessionState> {
    view.sessions.get(address).map(|session| &session.state)
}

fn is_streaming(view: &RelayView, address: &NodeAddress) -> bool {
    matches!(state(view, address), Some(SessionState::Streaming { .. }))
}

#[tokio::test]
async fn a_running_replica_is_taken_over_without_a_full_resync() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("before:", 1000).await;
    replica.follow(primary.port).await;
    replica.equals(&primary).await;
    let position = replica.info().await.position().expect("a replica has one");
    let full_before = primary.info().await.sync_full;

    let dir = tempfile::tempdir().expect("a folder");
    let start = Start::At(Place::new(position));
    let mut relay = Relay::start(config(&primary, &[&replica], dir.path()), orders(start, &[(&replica, Permit::Keep)])).await;
    relay.until("the primary continues", |view| view.upstream.state == UpstreamState::Streaming).await;
    replica.follow(relay.port).await;
    primary.fill("after:", 1000).await;
    replica.equals(&primary).await;

    let view = relay.until("the replica streams", |view| is_streaming(view, &replica.address())).await;
    assert_eq!((view.upstream.partial_resyncs, view.upstream.full_resyncs), (1, 0));
    assert_eq!(primary.info().await.sync_full, full_before, "the primary paid for no full resync");
    relay.stop().await;
}

#[tokio::test]
async fn a_fresh_replica_gets_the_whole_dataset_through_the_relay() {
    for diskless in ["yes", "no"] {
        let primary = Server::start(&["--repl-diskless-sync", diskless]).await;
        let replica = Server::start(&[]).await;
        primary.fill("key:", 20_000).await;
        let dir = tempfile::tempdir().expect("a folder");
        let mut relay = Relay::start(config(&primary, &[&replica], dir.path()), orders(Start::Fresh, &[(&replica, Permit::Hold)])).await;
        replica.follow(relay.port).await;
        let dataset = relay.snapshot().await;
        let held = |view: &RelayView| state(view, &replica.address()) == Some(&SessionState::Held(HoldReason::NotPermitted));
        relay.until("the replica is held", held).await;
        primary.fill("while held:", 1000).await;

        relay.order(|orders| orders.required.extend([replica.address()]));
        relay.seed(&replica, dataset).await;
        let follows = |view: &RelayView| matches!(state(view, &replica.address()), Some(SessionState::Streaming { seeded: Some(seeded), .. }) if *seeded == dataset);
        relay.until("the replica follows", follows).await;
        replica.equals(&primary).await;
        // The ACK is the replica's: WAIT on the primary means what it says.
        assert_eq!(primary.written_and_waited_for(5000).await, 1, "diskless {diskless}");
        relay.stop().await;
    }
}

#[tokio::test]
async fn a_held_replica_serves_its_old_data_for_longer_than_its_timeout_and_continues() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&["--repl-timeout", "2"]).await);
    primary.command(&["SET", "color", "blue"]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = config(&primary, &[&replica], dir.path());
    config.settings.replica_timeout = std::time::Duration::from_secs(3);
    let mut relay = Relay::start(config, orders(Start::Fresh, &[(&replica, Permit::Auto)])).await;
    replica.follow(relay.port).await;
    replica.equals(&primary).await;

    relay.order(|orders| {
        orders.permits.insert(replica.address(), Permit::Hold);
    });
    // Not any reason: a session is held from its first moment, until the relay has looked what it is to get.
    let held = |view: &RelayView| state(view, &replica.address()) == Some(&SessionState::Held(HoldReason::NotPermitted));
    relay.until("the replica is held", held).await;
    primary.command(&["SET", "color", "red"]).await;
    let held_since = relay.view.borrow().sessions[&replica.address()].since;
    eventually("held for more than twice its timeout", || async {
        let down = replica.info().await.link_down_s.unwrap_or(0);
        if down > 5 { Ok(()) } else { Err(format!("{down} s")) }
    })
    .await;
    assert_eq!(replica.text(&["GET", "color"]).await, "blue");
    assert_eq!(relay.view.borrow().sessions[&replica.address()].since, held_since, "one connection all the time");

    let full_before = replica.info().await.sync_full;
    relay.order(|orders| {
        orders.permits.insert(replica.address(), Permit::Keep);
    });
    replica.equals(&primary).await;
    assert_eq!(replica.text(&["GET", "color"]).await, "red");
    assert_eq!((primary.info().await.sync_full, replica.info().await.sync_full), (Some(1), full_before));
    let view = relay.view.borrow().clone();
    let ended = view.ended.get(&replica.address());
    assert!(ended.is_none_or(|end| end.at <= held_since), "a replica that was held is not silent when it is released: {ended:?}");
    relay.stop().await;
}

#[tokio::test]
async fn a_new_dataset_goes_to_the_standby_while_the_active_keeps_the_old_one() {
    let mut primary = Server::start(&[]).await;
    let (active, standby) = (Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("old:", 5000).await;
    let dir = tempfile::tempdir().expect("a folder");
    let first = orders(Start::Fresh, &[(&active, Permit::Auto), (&standby, Permit::Hold)]);
    let mut relay = Relay::start(config(&primary, &[&active, &standby], dir.path()), first).await;
    active.follow(relay.port).await;
    standby.follow(relay.port).await;
    relay.until("the active follows", |view| is_streaming(view, &active.address())).await;
    active.equals(&primary).await;
    relay.order(|orders| {
        orders.permits.insert(active.address(), Permit::Keep);
    });
    let old_digest = primary.digest().await;
    let old = relay.snapshot().await;

    primary.kill();
    relay.until("the loss is noticed", |view| view.upstream.down_since.is_some()).await;
    assert!(is_streaming(&relay.view.borrow(), &active.address()), "sessions stay");
    primary.restart().await;
    let view = relay.until("the new snapshot is ready", |view| view.ready_snapshot().is_some_and(|ready| ready.dataset != old)).await;
    let new = view.ready_snapshot().map(|ready| ready.dataset).expect("just seen");
    assert_eq!(view.histories.iter().map(|history| history.live).collect::<Vec<_>>(), [false, true]);
    let at_end = |view: &RelayView| matches!(state(view, &active.address()), Some(SessionState::Held(HoldReason::EndOfHistory { .. })));
    relay.until("the active has all of the old history and is held", at_end).await;
    primary.fill("new:", 3000).await;

    relay.seed(&standby, new).await;
    standby.equals(&primary).await;
    assert_eq!(active.digest().await, old_digest, "the active still serves the old dataset, whole");
    assert_eq!(primary.info().await.sync_full, Some(1), "one full resync for the new dataset");
    relay.stop().await;
}

#[tokio::test]
async fn a_restarted_relay_goes_on_from_disk() {
    let (primary, replica, second) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("key:", 5000).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = Relay::start(config(&primary, &[&replica], dir.path()), orders(Start::Fresh, &[(&replica, Permit::Auto)])).await;
    replica.follow(relay.port).await;
    let dataset = relay.snapshot().await;
    primary.fill("behind the snapshot:", 1000).await;
    replica.equals(&primary).await;
    relay.stop().await;
    primary.fill("meanwhile:", 1000).await;

    let mut start = orders(Start::Resume, &[(&replica, Permit::Keep)]);
    start.permits.insert(second.address(), Permit::Seed(dataset));
    start.judged.insert(second.address(), second.info().await.run_id.expect("it has one"));
    let mut relay = Relay::start(config(&primary, &[&replica, &second], dir.path()), RelayOrders::default()).await;
    let view = relay.until("there is something to go on from", |view| view.resumable.is_some()).await;
    let (resumed, end) = view.resumable.expect("just seen");
    assert_eq!(resumed, dataset);
    assert!(end.offset > dataset.0.offset, "the stream was kept too");
    relay.orders.send_replace(start);
    replica.follow(relay.port).await;
    second.follow(relay.port).await;
    replica.equals(&primary).await;
    second.equals(&primary).await;
    let view = relay.until("it streams", |view| view.upstream.state == UpstreamState::Streaming).await;
    assert_eq!((view.upstream.partial_resyncs, view.upstream.full_resyncs), (1, 0));
    assert_eq!(primary.info().await.sync_full, Some(1), "the restart cost no full resync");
    relay.stop().await;
}

/// What the promoted primary never had was to be cut off from the log, and `relay.json` says so first: a kill in between leaves the old bytes there.
#[tokio::test]
async fn a_log_that_was_yet_to_be_cut_back_is_cut_back_after_a_restart() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = Relay::start(config(&primary, &[&replica], dir.path()), orders(Start::Fresh, &[(&replica, Permit::Auto)])).await;
    replica.follow(relay.port).await;
    let dataset = relay.snapshot().await;
    primary.fill("behind the snapshot:", 1000).await;
    replica.equals(&primary).await;
    relay.stop().await;

    let until = dataset.0.offset.advance(1000);
    let file = dir.path().join("relay.json");
    let mut saved: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).expect("it was written")).expect("JSON");
    assert!(saved["spool"]["log"].is_string() && saved["spool"]["log_until"].is_null(), "{saved:#}");
    saved["spool"]["log_until"] = until.get().into();
    std::fs::write(&file, saved.to_string()).expect("written");
    let mut relay = Relay::start(config(&primary, &[&replica], dir.path()), RelayOrders::default()).await;
    let view = relay.until("there is something to go on from", |view| view.resumable.is_some()).await;
    assert_eq!(view.resumable.map(|(of, end)| (of, end.offset)), Some((dataset, until)));
    relay.orders.send_replace(orders(Start::Resume, &[(&replica, Permit::Keep)]));
    replica.follow(relay.port).await;
    replica.equals(&primary).await;
    eventually("relay.json says that it is cut back", || async {
        let saved: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&file).unwrap_or_default()).map_err(|error| error.to_string())?;
        if saved["spool"]["log_until"].is_null() { Ok(()) } else { Err(saved.to_string()) }
    })
    .await;
    assert_eq!(primary.info().await.sync_full, Some(1));
    relay.stop().await;
}

/// P3: whoever gave the permit may have heard nothing of the replica since.
#[tokio::test]
async fn what_was_started_at_a_replicas_address_is_not_filled_before_it_was_judged() {
    let (primary, mut replica) = (Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("key:", 1000).await;
    let judged = replica.info().await.run_id.expect("it has one");
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = Relay::start(config(&primary, &[&replica], dir.path()), orders(Start::Fresh, &[(&replica, Permit::Hold)])).await;
    let dataset = relay.snapshot().await;
    let address = replica.address();
    let held = |view: &RelayView| state(view, &address) == Some(&SessionState::Held(HoldReason::AnotherProcess));
    relay.order(|orders| orders.permits.extend([(address.clone(), Permit::Seed(dataset))]));
    replica.follow(relay.port).await;
    relay.until("it is held, as nobody was judged", held).await;
    replica.kill();
    relay.until("it is gone", |view| view.sessions.is_empty()).await;
    relay.order(|orders| orders.judged.extend([(address.clone(), judged)]));
    replica.restart().await;
    replica.command(&["SET", "of somebody", "else"]).await;
    replica.follow(relay.port).await;
    relay.until("it is held", held).await;
    assert_eq!(replica.text(&["GET", "of somebody"]).await, "else");

    let now = replica.info().await.run_id.expect("it has one");
    relay.order(|orders| {
        orders.judged.insert(address.clone(), now);
    });
    replica.equals(&primary).await;
    relay.stop().await;
}
