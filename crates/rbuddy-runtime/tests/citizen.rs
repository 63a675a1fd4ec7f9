//! The relay among others: real Sentinels that watch it, a primary that wants to hand over, circles, strangers.

mod support;

use rbuddy_core::control::relay::{RelayOrders, RelayView, Start, UpstreamState};
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::relay::{RelayConfig, RelayError, bind};
use rbuddy_runtime::settings::{Endpoint, Secret};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use support::raw::RawReplica;
use support::{PATIENCE, Relay, Server, config, eventually, fetched, free_port};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A Sentinel with a failover in seconds.
struct Sentinel {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Sentinel {
    fn start(binary: &Path, primary: &Server) -> Sentinel {
        let (dir, port) = (tempfile::tempdir().expect("a folder"), free_port());
        let file = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor grp 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds grp {DOWN_AFTER_MS}\nsentinel failover-timeout grp {FAILOVER_TIMEOUT_MS}\n",
            dir.path().display(),
            primary.port
        );
        let login = primary.password().map(|password| format!("sentinel auth-pass grp {password}\n")).unwrap_or_default();
        std::fs::write(&file, text + &login).expect("written");
        let child = Command::new(binary).arg(&file).arg("--sentinel").stdout(Stdio::null()).spawn().expect("it starts");
        Sentinel { child, port, _dir: dir }
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&str]) -> Result<T, String> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).map_err(|error| error.to_string())?;
        let mut connection = client.get_multiplexed_async_connection().await.map_err(|error| error.to_string())?;
        redis::cmd("SENTINEL").arg(words).query_async(&mut connection).await.map_err(|error| error.to_string())
    }

    async fn primary_port(&self) -> Result<u16, String> {
        let (_, port): (String, u16) = self.ask(&["GET-MASTER-ADDR-BY-NAME", "grp"]).await?;
        Ok(port)
    }

    /// What it knows of the replica on this port.
    async fn replica(&self, port: u16) -> Result<BTreeMap<String, String>, String> {
        let replicas: Vec<BTreeMap<String, String>> = self.ask(&["REPLICAS", "grp"]).await?;
        let found = replicas.into_iter().find(|replica| replica.get("port") == Some(&port.to_string()));
        found.ok_or_else(|| "not listed".to_owned())
    }

    /// It sees a replica of this primary that is well.
    async fn sees_healthy(&self, port: u16, primary: u16) -> Result<(), String> {
        let replica = self.replica(port).await?;
        let (primary, port_there) = (primary.to_string(), "master-port");
        let expected = [("flags", "slave"), ("master-link-status", "ok"), (port_there, primary.as_str()), ("slave-priority", "0")];
        match expected.iter().find(|(name, value)| replica.get(*name).map(String::as_str) != Some(*value)) {
            Some((name, value)) => Err(format!("{name} is not {value}: {replica:?}")),
            None => Ok(()),
        }
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A relay on a port that is known before, as what it announces is what others dial.
async fn relay(primary: &Server, replicas: &[&Server], dir: &Path) -> Relay {
    let port = free_port();
    let mut settings = config(primary, replicas, dir);
    (settings.settings.listen, settings.settings.announce) = (format!("127.0.0.1:{port}"), NodeAddress::new("127.0.0.1", port));
    let orders = RelayOrders {
        start: Some(Start::Fresh),
        permits: replicas.iter().map(|replica| (replica.address(), Permit::Auto)).collect(),
        required: replicas.iter().map(|replica| replica.address()).collect(),
        ..RelayOrders::default()
    };
    let mut relay = Relay::start(settings, orders).await;
    relay.until("the stream flows", |view| view.upstream.state == UpstreamState::Streaming).await;
    relay
}

/// It stays so for a while.
async fn remains<F: Future<Output = Result<(), String>>>(what: &str, period: Duration, mut check: impl FnMut() -> F) {
    let (begun, mut every) = (Instant::now(), tokio::time::interval(Duration::from_millis(250)));
    while begun.elapsed() < period {
        every.tick().await;
        if let Err(found) = check().await {
            panic!("after {:?}: not {what}: {found}", begun.elapsed());
        }
    }
}

/// Everything up to and with `end`.
async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut heard = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&heard).contains(end) {
            assert_ne!(stream.read_buf(&mut heard).await.expect("read"), 0, "closed after {:?}", String::from_utf8_lossy(&heard));
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, reading).await;
    let heard = String::from_utf8_lossy(&heard).into_owned();
    assert!(in_time.is_ok(), "not within {PATIENCE:?}: {end:?}; heard {heard:?}");
    heard
}

async fn a_sentinel_watches(version: &str, options: &[&str]) {
    let Some(binary) = fetched(version) else { return };
    let (mut primary, replica) = (Server::of(&binary, options).await, Server::of(&binary, options).await);
    primary.fill("key:", 100).await;
    replica.follow(primary.port).await;
    replica.equals(&primary).await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut relay = relay(&primary, &[], dir.path()).await;
    let sentinel = Sentinel::start(&binary, &primary);
    eventually("Sentinel sees relay", || sentinel.sees_healthy(relay.port, primary.port)).await;
    eventually("Sentinel sees replica", || async { sentinel.replica(replica.port).await.map(drop) }).await;

    let mut listener = TcpStream::connect(("127.0.0.1", relay.port)).await.expect("it listens");
    if let Some(password) = primary.password() {
        listener.write_all(format!("AUTH {password}\r\n").as_bytes()).await.expect("sent");
    }
    listener.write_all(b"SUBSCRIBE __sentinel__:hello\r\n").await.expect("sent");
    let hello = format!("127.0.0.1,{},", sentinel.port);
    read_until(&mut listener, &hello).await;
    let beyond = Duration::from_millis(DOWN_AFTER_MS) + Duration::from_secs(11);
    remains("healthy", beyond, || sentinel.sees_healthy(relay.port, primary.port)).await;
    read_until(&mut listener, &hello).await;
    assert!(relay.view.borrow().told_to_follow.is_none(), "nothing to mend so far");

    primary.kill();
    eventually("the real replica is promoted", || async {
        let port = sentinel.primary_port().await?;
        assert_ne!(port, relay.port, "the relay was promoted");
        if port == replica.port { Ok(()) } else { Err(format!("the primary is {port}")) }
    })
    .await;
    let told =
        relay.until("told to follow", |view| view.told_to_follow.as_ref().is_some_and(|told| told.address == replica.address())).await;
    relay.order(|orders| orders.primary = told.told_to_follow.map(|told| told.address));
    relay.until("the stream flows again", |view| view.upstream.state == UpstreamState::Streaming).await;
    eventually("Sentinel sees the relay behind the new primary", || sentinel.sees_healthy(relay.port, replica.port)).await;
    // Words that Sentinel said before it knew are one thing; once it sees the relay in its place it has none more.
    let words = relay.view.borrow().told_to_follow.as_ref().map(|told| told.number);
    remains("left alone", Duration::from_millis(FAILOVER_TIMEOUT_MS + 3000), || async {
        sentinel.sees_healthy(relay.port, replica.port).await?;
        let now = relay.view.borrow().told_to_follow.as_ref().map(|told| told.number);
        if now == words { Ok(()) } else { Err(format!("{words:?} words, then {now:?}")) }
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn a_redis_6_sentinel_sees_a_healthy_replica_and_leads_it_to_the_new_primary() {
    a_sentinel_watches("redis-6.2", &[]).await;
}

#[tokio::test]
async fn a_redis_7_sentinel_sees_a_healthy_replica_and_leads_it_to_the_new_primary() {
    a_sentinel_watches("redis-7.0", &[]).await;
}

#[tokio::test]
async fn a_valkey_9_sentinel_sees_a_healthy_replica_and_leads_it_to_the_new_primary() {
    a_sentinel_watches("valkey-9.1", &[]).await;
}

#[tokio::test]
async fn a_sentinel_sees_and_leads_it_where_everybody_has_a_password() {
    a_sentinel_watches("redis-7.0", PASSWORDS).await;
}

/// A primary that fails over takes its role back, and one that fails over to a real replica does not lose the relay.
async fn a_primary_fails_over(version: &str, options: &[&str]) {
    let Some(binary) = fetched(version) else { return };
    let (primary, replica) = (Server::of(&binary, options).await, Server::of(&binary, options).await);
    primary.fill("key:", 100).await;
    let dir = tempfile::tempdir().expect("a folder");
    // The primary takes a replica for a target whose ACK says that it has everything: the relay's says so when its replicas do.
    let reader = Server::of(&binary, options).await;
    let mut relay = relay(&primary, &[&reader], dir.path()).await;
    reader.follow(relay.port).await;
    reader.equals(&primary).await;
    let continued =
        |times| move |view: &RelayView| view.upstream.partial_resyncs >= times && view.upstream.state == UpstreamState::Streaming;

    eventually("the primary takes the relay for a target", || async { primary.try_command(&["FAILOVER"]).await.map(drop) }).await;
    let begun = Instant::now();
    eventually("the primary is one again", || async { writes(&primary).await }).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    relay.until("the relay goes on", continued(1)).await;

    replica.follow(primary.port).await;
    replica.equals(&primary).await;
    let port = replica.port.to_string();
    let hand_over = ["FAILOVER", "TO", "127.0.0.1", port.as_str()];
    eventually("the primary hands over", || async { primary.try_command(&hand_over).await.map(drop) }).await;
    eventually("the replica is the primary", || async { writes(&replica).await }).await;
    relay.until("the relay goes on behind the old primary", continued(2)).await;
    assert_eq!(relay.view.borrow().upstream.full_resyncs, 1, "the first one");
    reader.equals(&replica).await;
    relay.stop().await;
}

async fn writes(server: &Server) -> Result<(), String> {
    server.try_command(&["SET", "written", "yes"]).await?;
    let info = server.text(&["INFO", "replication"]).await;
    let is_done = info.contains("role:master") && info.contains("master_failover_state:no-failover");
    if is_done { Ok(()) } else { Err(info) }
}

#[tokio::test]
async fn redis_6_takes_its_role_back_when_it_fails_over_to_the_relay() {
    a_primary_fails_over("redis-6.2", &[]).await;
}

#[tokio::test]
async fn redis_7_takes_its_role_back_when_it_fails_over_to_the_relay() {
    a_primary_fails_over("redis-7.0", &[]).await;
}

#[tokio::test]
async fn valkey_9_takes_its_role_back_when_it_fails_over_to_the_relay() {
    a_primary_fails_over("valkey-9.1", &[]).await;
}

#[tokio::test]
async fn a_primary_takes_its_role_back_where_everybody_has_a_password() {
    a_primary_fails_over("redis-7.0", PASSWORDS).await;
}

#[tokio::test]
async fn the_primary_is_not_fed_by_the_relay_that_it_feeds() {
    let primary = Server::start(&[]).await;
    primary.fill("key:", 100).await;
    let before = primary.digest().await;
    let dir = tempfile::tempdir().expect("a folder");
    let settings = RelayConfig { open: true, ..config(&primary, &[], dir.path()) };
    let mut relay = Relay::start(settings, RelayOrders { start: Some(Start::Fresh), ..RelayOrders::default() }).await;
    relay.until("the stream flows", |view| view.upstream.state == UpstreamState::Streaming).await;

    let mut peer = TcpStream::connect(("127.0.0.1", relay.port)).await.expect("it listens");
    peer.write_all(format!("REPLCONF listening-port {}\r\nPSYNC ? -1\r\n", primary.port).as_bytes()).await.expect("sent");
    let refused = read_until(&mut peer, "circle").await;
    assert!(refused.starts_with("+OK\r\n-NOMASTERLINK "), "{refused}");

    primary.follow(relay.port).await;
    // A server that turns into a replica sends its own replicas away, and takes none before its link is up.
    let is_cut_off = |view: &RelayView| view.upstream.state != UpstreamState::Streaming && view.upstream.last_error.is_some();
    relay.until("the primary turned into a replica", is_cut_off).await;
    eventually("it is refused", || async {
        let info = primary.text(&["INFO", "replication"]).await;
        if info.contains("role:slave") && info.contains("master_link_status:down") { Ok(()) } else { Err(info) }
    })
    .await;
    assert!(relay.view.borrow().sessions.is_empty());
    primary.command(&["REPLICAOF", "NO", "ONE"]).await;
    assert_eq!(primary.digest().await, before, "it lost nothing");
    relay.stop().await;
}

#[tokio::test]
async fn a_listener_that_does_not_read_is_closed_and_hinders_nobody() {
    let primary = Server::start(&[]).await;
    let dir = tempfile::tempdir().expect("a folder");
    let relay = relay(&primary, &[], dir.path()).await;
    let mut peers = Vec::new();
    for _ in 0..3 {
        peers.push(TcpStream::connect(("127.0.0.1", relay.port)).await.expect("it listens"));
    }
    let [publisher, quick, slow] = peers.as_mut_slice() else { panic!("three") };
    for listener in [&mut *quick, &mut *slow] {
        listener.write_all(b"SUBSCRIBE __sentinel__:hello\r\n").await.expect("sent");
        read_until(listener, ":1\r\n").await;
    }
    // More than the sockets between take: then the messages wait at the relay, where there is room for some hundred.
    let padding = "x".repeat(12_000);
    for number in 0..2000 {
        publisher.write_all(format!("PUBLISH __sentinel__:hello {number}:{padding}:end\r\n").as_bytes()).await.expect("sent");
        read_until(publisher, "\r\n").await;
        let heard = read_until(quick, ":end\r\n").await;
        assert!(heard.contains(&format!("\r\n{number}:x")), "{}", &heard[..80]);
    }
    let mut missed = Vec::new();
    tokio::time::timeout(PATIENCE, slow.read_to_end(&mut missed)).await.expect("closed").expect("read");
    assert!(missed.len() < 2000 * padding.len(), "{} bytes", missed.len());
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_dials_itself_says_so() {
    let primary = Server::start(&[]).await;
    let (dir, port) = (tempfile::tempdir().expect("a folder"), free_port());
    let mut settings = RelayConfig { open: true, ..config(&primary, &[], dir.path()) };
    let own = NodeAddress::new("127.0.0.1", port);
    (settings.settings.listen, settings.settings.announce) = (own.to_string(), own.clone());
    settings.primary = Endpoint { address: own, user: None, password: None }.into();
    let mut relay = Relay::start(settings, RelayOrders { start: Some(Start::Fresh), ..RelayOrders::default() }).await;
    let is_said = |error: &String| error.contains("the relay follows itself");
    let view = relay.until("said", |view| view.upstream.last_error.as_ref().is_some_and(is_said)).await;
    assert!(view.sessions.is_empty() && view.ended.is_empty());

    let mut peer = TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    peer.write_all(format!("SLAVEOF localhost {port}\r\n").as_bytes()).await.expect("sent");
    assert!(read_until(&mut peer, "\r\n").await.starts_with("-ERR "));
    assert!(relay.view.borrow().told_to_follow.is_none());
    relay.stop().await;
}

#[tokio::test]
async fn a_relay_that_others_can_reach_has_a_password() {
    let (primary, replica) = (Server::start(&[]).await, Server::start(&["--masterauth", "pw"]).await);
    let dir = tempfile::tempdir().expect("a folder");
    let mut settings = config(&primary, &[&replica], dir.path());
    settings.settings.listen = "0.0.0.0:0".to_owned();
    let refused = bind(settings.clone()).await.err();
    assert!(matches!(refused, Some(RelayError::Open { .. })), "{refused:?}");

    settings.settings.auth = Some(rbuddy_runtime::settings::Credentials { user: None, password: Secret::new("pw") });
    let orders = RelayOrders { start: Some(Start::Fresh), permits: [(replica.address(), Permit::Auto)].into(), ..RelayOrders::default() };
    let mut relay = Relay::start(settings, orders).await;
    relay.until("a snapshot", |view| view.ready_snapshot().is_some()).await;
    let mut stranger = TcpStream::connect(("127.0.0.1", relay.port)).await.expect("it listens");
    stranger
        .write_all(b"REPLCONF listening-port 1\r\nPSYNC ? -1\r\nSYNC\r\nSLAVEOF 10.0.0.1 6379\r\nINFO\r\nQUIT\r\n")
        .await
        .expect("sent");
    let heard = read_until(&mut stranger, "+OK\r\n").await;
    assert_eq!(heard.matches("-NOAUTH").count(), 5, "{heard}");
    assert!(relay.view.borrow().told_to_follow.is_none());
    replica.follow(relay.port).await;
    replica.equals(&primary).await;
    relay.stop().await;
}

/// As those do that an address translation hides: each would throw out the other for ever, and nobody would know why.
#[tokio::test]
async fn two_replicas_that_give_one_address_are_told_apart_in_words() {
    let (primary, dir, port) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"), free_port());
    let mut settings = config(&primary, &[], dir.path());
    let address = NodeAddress::new("127.0.0.1", port);
    settings.replicas = vec![Endpoint { address: address.clone(), user: None, password: None }];
    let orders = RelayOrders { start: Some(Start::Fresh), permits: [(address.clone(), Permit::Auto)].into(), ..RelayOrders::default() };
    let mut relay = Relay::start(settings, orders).await;
    let mut here = Vec::new();
    for _ in 0..6 {
        let mut replica = RawReplica::connect(relay.port, port).await;
        replica.seeded().await;
        here.push(replica);
    }
    let told = |view: &RelayView| view.ended.get(&address).is_some_and(|ended| ended.reason.contains("replica-announce-ip"));
    relay.until("it is said what to do", told).await;
    relay.stop().await;
}

/// Says PING; whether it is answered, or the connection ended.
async fn is_served(stream: &mut TcpStream) -> bool {
    let mut answer = Vec::new();
    let asked = async {
        stream.write_all(b"PING\r\n").await?;
        stream.read_buf(&mut answer).await
    };
    tokio::time::timeout(PATIENCE, asked).await.expect("in time").is_ok_and(|read| read > 0)
}

#[tokio::test]
async fn whoever_holds_all_places_of_an_address_is_turned_away_and_a_replica_holds_none() {
    const PLACES: usize = 512;
    // Both ends of each connection are in this process.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let more = rustix::process::Rlimit { current: limit.maximum.map_or(Some(4096), |most| Some(most.min(4096))), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, more).expect("more files at once");
    let (primary, dir, port) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"), free_port());
    let mut settings = config(&primary, &[], dir.path());
    let replica = NodeAddress::new("127.0.0.1", port);
    settings.replicas = vec![Endpoint { address: replica.clone(), user: None, password: None }];
    let orders = RelayOrders { start: Some(Start::Fresh), permits: [(replica, Permit::Auto)].into(), ..RelayOrders::default() };
    let relay = Relay::start(settings, orders).await;
    let mut replica = RawReplica::connect(relay.port, port).await;
    replica.seeded().await;
    let connect = || async { TcpStream::connect(("127.0.0.1", relay.port)).await.expect("it listens") };
    let mut visitors = Vec::new();
    for number in 0..PLACES {
        let mut visitor = connect().await;
        assert!(is_served(&mut visitor).await, "visitor {number}, beside a replica");
        visitors.push(visitor);
    }
    assert!(!is_served(&mut connect().await).await, "more than its share");
    visitors.pop();
    eventually("a place is free again", || async {
        if is_served(&mut connect().await).await { Ok(()) } else { Err("turned away".into()) }
    })
    .await;
    relay.stop().await;
}

#[tokio::test]
async fn whoever_does_not_log_in_is_not_kept() {
    let (primary, dir) = (Server::start(&[]).await, tempfile::tempdir().expect("a folder"));
    let mut settings = config(&primary, &[], dir.path());
    settings.settings.auth = Some(rbuddy_runtime::settings::Credentials { user: None, password: Secret::new("pw") });
    let relay = Relay::start(settings, RelayOrders { start: Some(Start::Fresh), ..RelayOrders::default() }).await;
    let mut stranger = TcpStream::connect(("127.0.0.1", relay.port)).await.expect("it listens");
    let begun = Instant::now();
    // It talks all the time, and is heard.
    let ended = async {
        let mut every = tokio::time::interval(Duration::from_secs(1));
        while is_served(&mut stranger).await {
            every.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("it is sent away");
    assert!(begun.elapsed() > Duration::from_secs(5), "not before it could have logged in: {:?}", begun.elapsed());
    relay.stop().await;
}

const DOWN_AFTER_MS: u64 = 2000;
const FAILOVER_TIMEOUT_MS: u64 = 6000;
/// What a group behind a password is set up with: everybody asks for it and says it.
const PASSWORDS: &[&str] = &["--requirepass", "s3cret", "--masterauth", "s3cret"];
