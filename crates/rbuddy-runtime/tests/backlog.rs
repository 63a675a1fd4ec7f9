//! What the relay keeps for replicas that lack more than memory has, between real servers; and what it does when the disk is full.

mod support;

use rbuddy_core::control::relay::{RelayOrders, RelayView, SessionState, SnapshotState, Start, UpstreamState};
use rbuddy_core::replication::psync::{HoldReason, Permit};
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::relay::RelayConfig;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use support::{Relay, Server, config, eventually};

const BACKLOG_BYTES: u64 = 1 << 20;

fn small(primary: &Server, replicas: &[&Server], dir: &Path) -> RelayConfig {
    let mut config = config(primary, replicas, dir);
    config.settings.backlog_bytes = BACKLOG_BYTES;
    config.settings.replica_timeout = Duration::from_secs(60);
    config
}

fn keep(replicas: &[&Server]) -> impl FnOnce(&mut RelayOrders) {
    permit(replicas, Permit::Keep)
}

fn permit(replicas: &[&Server], permit: Permit) -> impl FnOnce(&mut RelayOrders) {
    let addresses: Vec<NodeAddress> = replicas.iter().map(|server| server.address()).collect();
    move |orders| orders.permits.extend(addresses.into_iter().map(|address| (address, permit)))
}

fn state<'a>(view: &'a RelayView, server: &Server) -> Option<&'a SessionState> {
    view.sessions.get(&server.address()).map(|session| &session.state)
}

fn is_streaming(view: &RelayView, server: &Server) -> bool {
    matches!(state(view, server), Some(SessionState::Streaming { .. }))
}

fn is_held(view: &RelayView, server: &Server) -> bool {
    matches!(state(view, server), Some(SessionState::Held(_)))
}

/// All replicas follow, may go on, and there is no snapshot: what is on disk from now on is there for them.
async fn seeded(primary: &Server, replicas: &[&Server], config: RelayConfig) -> Relay {
    let mut orders = RelayOrders { start: Some(Start::Fresh), ..RelayOrders::default() };
    permit(replicas, Permit::Auto)(&mut orders);
    let mut relay = Relay::start(config, orders).await;
    for replica in replicas {
        replica.follow(relay.port).await;
    }
    relay.until("all follow", |view| replicas.iter().all(|replica| is_streaming(view, replica))).await;
    for replica in replicas {
        replica.equals(primary).await;
    }
    relay.order(keep(replicas));
    let view = relay.until("the snapshot is ready", |view| view.ready_snapshot().is_some()).await;
    relay.order(|orders| orders.discard_snapshot = view.snapshot.map(|snapshot| snapshot.dataset));
    relay.until("nothing is on disk", |view| view.snapshot.is_none() && view.backlog.disk_bytes == 0).await;
    relay
}

/// Some megabytes of stream: many times what memory keeps here.
async fn write_much(primary: &Server, prefix: &str) {
    for round in 0..8 {
        primary.fill(&format!("{prefix}{round}:"), 10_000).await;
    }
}

async fn caught_up(relay: &mut Relay, primary: &Server, replica: &Server) {
    let offset = primary.info().await.offset.expect("a primary has one");
    let has_it = |view: &RelayView| matches!(state(view, replica), Some(SessionState::Streaming { acked, .. }) if *acked >= offset);
    relay.until("the replica has it all", has_it).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stood_still_goes_on_from_disk_and_slows_nobody() {
    let (primary, stopped, other) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = small(&primary, &[&stopped, &other], dir.path());
    // More than its socket holds, and on disk in segments that are smaller than that.
    (config.settings.backlog_bytes, config.settings.backlog_disk_bytes) = (32 << 20, 64 << 20);
    let mut relay = seeded(&primary, &[&stopped, &other], config).await;
    let full_before = stopped.info().await.sync_full;
    stopped.signal("STOP");
    // So much that it is in no socket's buffer either.
    for round in 0..6 {
        write_much(&primary, &format!("while it stands still {round}:")).await;
    }
    caught_up(&mut relay, &primary, &other).await;
    let view = relay.until("the disk has what it lacks", |view| view.backlog.disk_bytes > 4 * BACKLOG_BYTES).await;
    assert!(is_streaming(&view, &stopped), "it is still attached");
    assert!(view.backlog.memory_bytes <= (32 << 20) + (64 << 20), "memory is bounded: {:?}", view.backlog);
    let acked = match state(&view, &stopped) {
        Some(SessionState::Streaming { acked, .. }) => *acked,
        other => panic!("{other:?}"),
    };
    assert!(view.live().is_some_and(|live| acked < live.end && view.backlog.oldest_needed.is_some()), "{view:#?}");
    assert!(
        view.live().is_some_and(|live| live.oldest <= acked.next_byte()),
        "with its connection it would lose what is in its socket: {view:#?}"
    );

    stopped.signal("CONT");
    stopped.equals(&primary).await;
    relay.until("the disk is empty again", |view| view.backlog.disk_bytes == 0).await;
    assert_eq!((primary.info().await.sync_full, stopped.info().await.sync_full), (Some(1), full_before));
    relay.stop().await;
    let left: Vec<_> = std::fs::read_dir(dir.path()).expect("a folder").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["relay.json"], "nothing is left on disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_held_or_away_finds_what_memory_has_lost() {
    let (primary, held) = (Server::start(&[]).await, Server::start(&[]).await);
    let away = Server::start(&[]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = seeded(&primary, &[&held, &away], small(&primary, &[&held, &away], dir.path())).await;
    relay.order(permit(&[&held], Permit::Hold));
    relay.until("it is held", |view| is_held(view, &held)).await;
    // It goes without a word, and keeps what it has.
    away.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    relay.until("it is away", |view| !view.sessions.contains_key(&away.address())).await;
    write_much(&primary, "without both:").await;
    let view = relay.until("the disk has it", |view| view.backlog.disk_bytes > 2 * BACKLOG_BYTES).await;
    assert!(view.live().is_some_and(|live| live.oldest <= view.backlog.oldest_needed.expect("two need it")));

    relay.order(keep(&[&held]));
    held.equals(&primary).await;
    write_much(&primary, "without one:").await;
    held.equals(&primary).await;
    away.follow(relay.port).await;
    away.equals(&primary).await;
    relay.until("the disk is empty again", |view| view.backlog.disk_bytes == 0).await;
    assert_eq!(primary.info().await.sync_full, Some(1), "nobody needed a full resync");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_lacks_more_than_the_disk_may_keep_is_overrun_alone() {
    let (primary, stopped, other) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = small(&primary, &[&stopped, &other], dir.path());
    config.settings.backlog_disk_bytes = 4 << 20;
    let mut relay = seeded(&primary, &[&stopped, &other], config).await;
    stopped.signal("STOP");
    let is_over = |view: &RelayView| view.ended.get(&stopped.address()).is_some_and(|end| end.reason.contains("overrun: it stands at"));
    // Beside the disk, the sockets' buffers are to be filled.
    for round in 0..6 {
        write_much(&primary, &format!("too much {round}:")).await;
    }
    caught_up(&mut relay, &primary, &other).await;
    assert!(relay.view.borrow().backlog.disk_bytes <= (4 << 20) + (1 << 20), "{:?}", relay.view.borrow().backlog);
    stopped.signal("CONT");
    let view = relay.until("it is overrun", is_over).await;
    let reason = &view.ended[&stopped.address()].reason;
    assert!(reason.contains("the backlog starts at"), "{reason}");
    let needs_more = |view: &RelayView| matches!(state(view, &stopped), Some(SessionState::Held(HoldReason::NeedsFullResync(_))));
    relay.until("it is held, with what it has", needs_more).await;
    other.equals(&primary).await;
    assert!(!relay.view.borrow().ended.contains_key(&other.address()), "the other one noticed nothing");
    assert_eq!(primary.info().await.sync_full, Some(1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_lives_no_longer_than_the_stream_behind_it() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&[]).await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut config = small(&primary, &[&replica], dir.path());
    config.settings.backlog_disk_bytes = 2 << 20;
    let mut orders = RelayOrders { start: Some(Start::Fresh), ..RelayOrders::default() };
    permit(&[&replica], Permit::Auto)(&mut orders);
    let mut relay = Relay::start(config, orders).await;
    replica.follow(relay.port).await;
    relay.until("the snapshot is ready", |view| view.ready_snapshot().is_some()).await;
    replica.equals(&primary).await;
    write_much(&primary, "more than may be kept:").await;
    relay.until("the snapshot is gone", |view| view.snapshot.is_none()).await;
    replica.equals(&primary).await;
    assert_eq!(primary.info().await.sync_full, Some(1), "nobody asked for another");
    relay.stop().await;
}

#[expect(clippy::print_stderr, reason = "a test that was skipped says so")]
fn skip() {
    eprintln!("skipped: mounting a small tmpfs needs root");
}

/// A file system of this size, gone with this.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(megabytes: u32) -> Option<Tmpfs> {
        let place = tempfile::tempdir().expect("a folder");
        let options = format!("size={megabytes}m");
        mount(&["-t", "tmpfs", "-o", &options, "rbuddy-test"], place.path()).then_some(Tmpfs(place))
    }

    fn grow(&self, megabytes: u32) {
        assert!(mount(&["-o", &format!("remount,size={megabytes}m")], self.0.path()), "remount");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: what a failed test left behind must not keep it.
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn mount(arguments: &[&str], place: &Path) -> bool {
    Command::new("mount").args(arguments).arg(place).output().is_ok_and(|output| output.status.success())
}

/// A primary with several times as much as there is room for, and a relay with one replica that may be filled.
async fn more_than_fits(disk: &Tmpfs) -> (Server, Server, Relay) {
    let (primary, replica) = (Server::start(&["--rdbcompression", "no"]).await, Server::start(&[]).await);
    for round in 0..10 {
        primary.fill(&format!("key {round}:"), 10_000).await;
    }
    let mut orders = RelayOrders { start: Some(Start::Fresh), ..RelayOrders::default() };
    permit(&[&replica], Permit::Auto)(&mut orders);
    let relay = Relay::start(small(&primary, &[&replica], disk.0.path()), orders).await;
    (primary, replica, relay)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_costs_the_primary_no_snapshot_until_there_is_room_and_then_one() {
    let Some(disk) = Tmpfs::mount(4) else {
        return skip();
    };
    let (primary, replica, mut relay) = more_than_fits(&disk).await;
    replica.follow(relay.port).await;
    let has_failed = |view: &RelayView| {
        let state = view.snapshot.as_ref().map(|snapshot| &snapshot.state);
        matches!(state, Some(SnapshotState::Failed(why)) if why.contains("space")) && view.upstream.state == UpstreamState::Streaming
    };
    let view = relay.until("the full disk is told, and the stream flows", has_failed).await;
    assert_eq!(view.upstream.full_resyncs, 1);
    let end = view.live().map(|live| live.end);
    primary.fill("meanwhile:", 1000).await;
    relay.until("the stream goes on", |view| view.live().map(|live| live.end) > end).await;
    // Several looks at the disk pass.
    let since = std::time::Instant::now();
    eventually("five seconds pass", || async { if since.elapsed() > Duration::from_secs(5) { Ok(()) } else { Err("not yet".into()) } })
        .await;
    assert_eq!(primary.info().await.sync_full, Some(1), "no snapshot was asked for without room for it");
    assert!(has_failed(&relay.view.borrow()) && is_held(&relay.view.borrow(), &replica));

    disk.grow(100);
    relay.until("the replica follows", |view| is_streaming(view, &replica)).await;
    replica.equals(&primary).await;
    let view = relay.view.borrow().clone();
    assert_eq!((primary.info().await.sync_full, view.upstream.full_resyncs), (Some(2), 1), "one more, over a second connection");
    relay.stop().await;
}

/// Each attempt is a fork of the primary. Whoever gives orders can end them only while it is shown that there is something to end.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_was_lost_is_not_tried_again_once_nobody_wants_it() {
    let Some(disk) = Tmpfs::mount(4) else {
        return skip();
    };
    let (primary, _replica, mut relay) = more_than_fits(&disk).await;
    let state = |view: &RelayView| view.snapshot.as_ref().map(|snapshot| snapshot.state.clone());
    let has_failed = move |view: &RelayView| matches!(state(view), Some(SnapshotState::Failed(_)));
    let streams = |view: &RelayView| view.upstream.state == UpstreamState::Streaming;
    relay.until("the disk was too small", move |view| has_failed(view) && streams(view)).await;

    // Twenty seconds for a snapshot: time enough to cut it short.
    primary.command(&["CONFIG", "SET", "rdb-key-save-delay", "200"]).await;
    disk.grow(100);
    relay.until("it is taken anew", move |view| state(view) == Some(SnapshotState::Receiving)).await;
    primary.command(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    let view = relay.until("that was in vain", move |view| has_failed(view) && streams(view)).await;
    relay.order(|orders| orders.discard_snapshot = view.snapshot.map(|snapshot| snapshot.dataset));
    relay.until("it is discarded", |view| view.snapshot.is_none()).await;
    let attempts = primary.info().await.sync_full;
    let since = std::time::Instant::now();
    eventually("five seconds pass", || async { if since.elapsed() > Duration::from_secs(5) { Ok(()) } else { Err("not yet".into()) } })
        .await;
    assert_eq!((primary.info().await.sync_full, relay.view.borrow().snapshot.is_some()), (attempts, false));
    relay.stop().await;
}

/// A relay with a snapshot, a replica that was given it, another that is to come, and a disk that the stream behind it does not fit on: 16 MiB of it are
/// left to others.
async fn filled_up(disk: &Tmpfs) -> (Server, Server, Server, Relay) {
    let (primary, replica, late) = (Server::start(&[]).await, Server::start(&[]).await, Server::start(&[]).await);
    primary.fill("key:", 1000).await;
    let mut orders = RelayOrders { start: Some(Start::Fresh), ..RelayOrders::default() };
    permit(&[&replica, &late], Permit::Auto)(&mut orders);
    let mut relay = Relay::start(small(&primary, &[&replica, &late], disk.0.path()), orders).await;
    replica.follow(relay.port).await;
    relay.until("the snapshot is ready", |view| view.ready_snapshot().is_some()).await;
    replica.equals(&primary).await;
    let is_full = |view: &RelayView| view.backlog.disk_error.as_ref().is_some_and(|error| error.contains("space"));
    let mut steps = 0;
    while !is_full(&relay.view.borrow()) {
        write_in_step(&mut relay, &primary, &replica, steps).await;
        steps += 1;
        assert!(steps < 100, "far more than fits was written");
    }
    (primary, replica, late, relay)
}

/// In steps that memory holds: without the disk a replica that lags further would be overrun, as it should.
async fn write_in_step(relay: &mut Relay, primary: &Server, replica: &Server, step: u32) {
    primary.fill(&format!("more than fits {step}:"), 2000).await;
    let offset = primary.info().await.offset.expect("a primary has one");
    let is_sent = |view: &RelayView| matches!(state(view, replica), Some(SessionState::Streaming { sent, .. }) if *sent >= offset);
    relay.until("it is sent", is_sent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_for_a_while_costs_nothing() {
    let Some(disk) = Tmpfs::mount(20) else {
        return skip();
    };
    let (primary, replica, late, mut relay) = filled_up(&disk).await;
    for step in 100..120 {
        write_in_step(&mut relay, &primary, &replica, step).await;
    }
    disk.grow(100);
    let view = relay.until("the disk takes it again", |view| view.backlog.disk_error.is_none() && view.backlog.disk_bytes > 4 << 20).await;
    assert!(view.ready_snapshot().is_some(), "{:?}", view.snapshot);
    // The next one gets it, and what was written meanwhile.
    late.follow(relay.port).await;
    late.equals(&primary).await;
    assert_eq!(primary.info().await.sync_full, Some(1));
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_stays_full_behind_a_snapshot_costs_the_snapshot_and_not_the_stream() {
    let Some(disk) = Tmpfs::mount(20) else {
        return skip();
    };
    let (primary, replica, _late, mut relay) = filled_up(&disk).await;
    let is_lost = |view: &RelayView| matches!(view.snapshot.as_ref().map(|snapshot| &snapshot.state), Some(SnapshotState::Failed(why)) if why.contains("space"));
    let mut steps = 100;
    while !is_lost(&relay.view.borrow()) {
        write_in_step(&mut relay, &primary, &replica, steps).await;
        steps += 1;
        assert!(steps < 1000, "far more than memory keeps for the disk was written");
    }
    replica.equals(&primary).await;
    assert_eq!(relay.view.borrow().upstream.full_resyncs, 1);
    assert!(!relay.view.borrow().ended.contains_key(&replica.address()), "the replica noticed nothing");
    relay.stop().await;
}
