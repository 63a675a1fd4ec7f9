//! The watch on the primary against real Sentinels.

#![allow(missing_docs, reason = "a test")]

use rbuddy_core::control::primary::SentinelView;
use rbuddy_core::types::NodeAddress;
use rbuddy_lab::sentinel::NAME;
use rbuddy_lab::{Binary, Port, Sentinel, Server, ServerOptions, wait_until};
use rbuddy_runtime::admin::{AdminConnection, text};
use rbuddy_runtime::app::run_relay_alone;
use rbuddy_runtime::clock::Clock;
use rbuddy_runtime::primary::watch;
use rbuddy_runtime::relay::RelayConfig;
use rbuddy_runtime::settings::{Endpoint, PrimaryPlace, PrimarySettings, RelaySettings, Secret, SentinelSettings};
use std::time::Duration;
use tokio::sync::watch as state;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(30);

struct World {
    primary: Server,
    heir: Server,
    sentinels: Vec<Sentinel>,
    _folder: tempfile::TempDir,
}

impl World {
    async fn start(sentinels: usize) -> World {
        let (binary, folder) = (Binary::find().expect("a server"), tempfile::tempdir().expect("a folder"));
        let primary = Server::start(&binary, folder.path().join("primary"), ServerOptions::default()).await.expect("a primary");
        let options = ServerOptions::default().with("replicaof", format!("127.0.0.1 {}", primary.port()));
        let heir = Server::start(&binary, folder.path().join("heir"), options).await.expect("a replica");
        let mut world = World { primary, heir, sentinels: Vec::new(), _folder: folder };
        for number in 0..sentinels {
            let place = world._folder.path().join(format!("sentinel-{number}"));
            let sentinel = Sentinel::start(&binary, place, world.primary.port(), sentinels / 2 + 1).await.expect("a Sentinel");
            world.sentinels.push(sentinel);
        }
        for sentinel in &world.sentinels {
            let knows_all = wait_until("the Sentinel to know everybody", SOON, async || {
                let others = sentinel.command(&["SENTINEL", "CKQUORUM", NAME]).await.map_err(|error| error.to_string())?;
                let replicas = sentinel.replicas().await.map_err(|error| error.to_string())?;
                let is_complete = others.text().is_some_and(|text| text.contains(&format!("OK {sentinels} usable")));
                if is_complete && replicas == 1 { Ok(()) } else { Err(format!("{others:?}, {replicas} replicas")) }
            });
            knows_all.await.expect("it looks around");
        }
        world
    }

    fn settings(&self, sentinels: &[u16]) -> PrimarySettings {
        let endpoint = |port: &u16| Endpoint { address: NodeAddress::new("127.0.0.1", *port), user: None, password: None };
        let sentinels = SentinelSettings { name: NAME.to_owned(), sentinels: sentinels.iter().map(endpoint).collect() };
        PrimarySettings { place: PrimaryPlace::Sentinels(sentinels), user: None, password: None }
    }

    fn ports(&self) -> Vec<u16> {
        self.sentinels.iter().map(Sentinel::port).collect()
    }
}

struct Watched {
    said: state::Receiver<SentinelView>,
    cancel: CancellationToken,
}

impl Watched {
    fn start(settings: PrimarySettings) -> Watched {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        let (sender, said) = state::channel(SentinelView::default());
        let cancel = CancellationToken::new();
        tokio::spawn(watch("main".parse().expect("a name"), settings, sender, cancel.clone()));
        Watched { said, cancel }
    }

    async fn until(&mut self, what: &str, so: impl Fn(&SentinelView) -> bool) -> SentinelView {
        let reached = tokio::time::timeout(SOON, self.said.wait_for(|view| so(view))).await.map(|view| view.map(|view| view.clone()));
        match reached {
            Ok(view) => view.expect("it watches"),
            Err(_) => panic!("not {what}: {:?}", self.said.borrow()),
        }
    }

    async fn names(&mut self, server: &Server) {
        let port = server.port();
        self.until("named", |view| view.named.as_ref().is_some_and(|named| named.port == port) && view.trouble.is_none()).await;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

#[tokio::test]
async fn a_failover_is_heard_of_also_when_the_sentinel_that_is_listened_to_is_gone() {
    let mut world = World::start(3).await;
    let mut watched = Watched::start(world.settings(&world.ports()));
    watched.names(&world.primary).await;
    // The first one is asked to speak up first, so it is the one to lose. Two of three still are a majority.
    world.sentinels[0].kill().await.expect("kill");
    world.primary.kill().await.expect("kill");
    watched.names(&world.heir).await;
}

#[tokio::test]
async fn one_known_sentinel_leads_to_the_others() {
    let mut world = World::start(3).await;
    let mut watched = Watched::start(world.settings(&world.ports()[..1]));
    watched.names(&world.primary).await;
    world.sentinels[0].kill().await.expect("kill");
    world.primary.kill().await.expect("kill");
    watched.names(&world.heir).await;
}

#[tokio::test]
async fn a_primary_that_does_not_call_itself_a_master_is_not_published() {
    let world = World::start(1).await;
    let (host, port) = ("127.0.0.1", world.heir.port().to_string());
    // A Sentinel that is told of a replica as if it were the primary.
    world.sentinels[0].command(&["SENTINEL", "MONITOR", "other", host, &port, "1"]).await.expect("it obeys");
    let mut settings = world.settings(&world.ports());
    if let PrimaryPlace::Sentinels(sentinels) = &mut settings.place {
        sentinels.name = "other".to_owned();
    }
    let mut watched = Watched::start(settings);
    let view = watched.until("in trouble", |view| view.trouble.is_some()).await;
    assert_eq!(view.named, None);
    assert!(view.trouble.expect("there is").contains("does not call itself a master"));
}

#[tokio::test]
async fn silence_and_an_unknown_name_are_told_as_such() {
    let world = World::start(1).await;
    let mut settings = world.settings(&[1]);
    let mut silent = Watched::start(settings.clone());
    let view = silent.until("in trouble", |view| view.trouble.is_some()).await;
    assert!(view.trouble.expect("there is").contains("no Sentinel answers"));
    settings.place = PrimaryPlace::Sentinels(SentinelSettings {
        name: "nobody".to_owned(),
        sentinels: vec![Endpoint { address: NodeAddress::new("127.0.0.1", world.ports()[0]), user: None, password: None }],
    });
    let mut unknown = Watched::start(settings);
    let view = unknown.until("in trouble", |view| view.trouble.is_some()).await;
    assert!(view.trouble.expect("there is").contains("watches no primary of that name"));
}

#[tokio::test]
async fn sentinels_with_a_password_are_asked_and_listened_to() {
    let world = World::start(1).await;
    world.sentinels[0].command(&["ACL", "SETUSER", "default", ">pw"]).await.expect("it obeys");
    let mut settings = world.settings(&world.ports());
    let login = |settings: &mut PrimarySettings, password: &str| {
        let PrimaryPlace::Sentinels(sentinels) = &mut settings.place else { panic!("named by Sentinels") };
        sentinels.sentinels[0].password = Some(Secret::new(password));
        sentinels.sentinels[0].clone()
    };
    login(&mut settings, "wrong");
    let mut denied = Watched::start(settings.clone());
    let view = denied.until("in trouble", |view| view.trouble.is_some()).await;
    assert!(view.trouble.expect("there is").contains("denies"));
    let endpoint = login(&mut settings, "pw");
    let mut watched = Watched::start(settings);
    watched.names(&world.primary).await;
    let asking = AdminConnection::open(&endpoint, SOON).await.expect("it lets us in");
    let listening = wait_until("the subscription", SOON, async || {
        let clients = asking.command(&["CLIENT", "LIST"]).await.map_err(|error| error.to_string())?;
        let clients = text(&clients).unwrap_or_default();
        if clients.contains(" sub=2 ") { Ok(()) } else { Err(clients) }
    });
    listening.await.expect("it listens");
}

/// A key that is written there arrives at the replica.
async fn arrives(from: &Server, at: &Server, value: &str) {
    let arrived = wait_until("the write to arrive", SOON, async || {
        from.command(&["SET", "key", value]).await.map_err(|error| error.to_string())?;
        let found = at.command(&["GET", "key"]).await.map_err(|error| error.to_string())?;
        if found.text().as_deref() == Some(value) { Ok(()) } else { Err(format!("{found:?}")) }
    });
    arrived.await.expect("it arrives");
}

#[tokio::test]
async fn a_relay_alone_follows_the_sentinels_and_remembers_where_it_was() {
    let mut world = World::start(1).await;
    let (port, folder) = (Port::reserve().expect("a port"), tempfile::tempdir().expect("a folder"));
    let config = RelayConfig {
        group: "relay".parse().expect("a name"),
        primary: world.settings(&world.ports()),
        settings: RelaySettings::listening(port.address(), NodeAddress::new("127.0.0.1", port.number())),
        replicas: Vec::new(),
        dir: folder.path().to_owned(),
        clock: Clock::start(),
        open: true,
    };
    let cancel = CancellationToken::new();
    let running = tokio::spawn(run_relay_alone(config.clone(), cancel.clone()));
    let options = ServerOptions::default().with("replicaof", format!("127.0.0.1 {}", port.number()));
    let replica = Server::start(&Binary::find().expect("a server"), folder.path().join("replica"), options).await.expect("a replica");
    arrives(&world.primary, &replica, "before").await;
    world.primary.kill().await.expect("kill");
    let promoted = wait_until("the failover", SOON, async || match world.sentinels[0].primary().await {
        Ok(port) if port == world.heir.port() => Ok(()),
        other => Err(format!("{other:?}")),
    });
    promoted.await.expect("a failover");
    arrives(&world.heir, &replica, "after").await;
    cancel.cancel();
    running.await.expect("no panic").expect("no error");
    // Nobody is left to ask.
    world.sentinels[0].kill().await.expect("kill");
    let cancel = CancellationToken::new();
    let running = tokio::spawn(run_relay_alone(config, cancel.clone()));
    arrives(&world.heir, &replica, "remembered").await;
    cancel.cancel();
    running.await.expect("no panic").expect("no error");
}
