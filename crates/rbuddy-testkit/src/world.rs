//! A primary behind a link that can be broken, its replicas, rbuddy, and a receiver of webhooks: up and in `normal` when it is given to
//! the test.

use crate::folder::Folder;
use crate::process::expect;
use crate::{FAILOVER_WITHIN, GroupConfig, Rbuddy, SOON, SmallDisk};
use rbuddy_core::control::status::{GroupStatus, Phase, RoleName};
use rbuddy_core::types::NodeAddress;
use rbuddy_lab::{
    Binary, Dataset, FaultProxy, Port, Sentinel, Server, ServerOptions, WallClock, WebhookReceiver, Writer, WriterOptions, wait_until,
};
use std::path::PathBuf;
use std::time::Duration;

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct WorldOptions {
    /// What the primary holds.
    pub data: Dataset,
    /// The primary's binary; `None`: the default one.
    pub primary: Option<Binary>,
    /// The replicas' binaries and further configuration, the first active one first.
    pub replicas: Vec<(Option<Binary>, ServerOptions)>,
    /// What the second and later replicas hold at the start.
    pub others: Others,
    /// The primary has a replica of its own, which could take over.
    pub heir: bool,
    /// So many Sentinels watch the primary, and rbuddy asks them for it.
    pub sentinels: usize,
    /// Primary, replicas and rbuddy each have a wall clock of their own, that can be set.
    pub own_clocks: bool,
    /// How long readers have to leave the old active.
    pub drain: &'static str,
    /// When a silent primary counts as gone.
    pub upstream_timeout: &'static str,
    /// State and snapshots go to a disk of so many megabytes.
    pub state_disk: Option<u32>,
    /// Each replica's files do.
    pub replica_disks: Option<u32>,
    /// Further lines of the group's configuration.
    pub extra: Vec<String>,
}

/// What the second and later replicas hold at the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// Nothing: rbuddy may use them at once.
    Nothing,
    /// The primary's dataset: they follow it, as on the first day of a running set-up.
    TheDataset,
    /// Keys that nobody knows.
    ForeignKeys,
}

/// A running world.
#[derive(Debug)]
pub struct World {
    /// What the primary was loaded with.
    pub data: Dataset,
    /// The primary. Loading data, killing and restarting it go here.
    pub primary: Server,
    /// The primary's own replica, where one was asked for.
    pub heir: Option<Server>,
    /// Those that were asked for.
    pub sentinels: Vec<Sentinel>,
    /// The link to the primary, for rbuddy and at the start for the replicas. Breaking it goes here.
    pub link: FaultProxy,
    /// The replicas.
    pub replicas: Vec<Server>,
    /// The receiver that the configuration names.
    pub webhook: WebhookReceiver,
    /// The process under test.
    pub rbuddy: Rbuddy,
    /// `host:port` of its reader endpoint.
    pub reader: String,
    /// rbuddy's own disk, where it was asked for.
    pub state_disk: Option<SmallDisk>,
    /// The replicas' own disks, where they were asked for.
    pub replica_disks: Vec<SmallDisk>,
    // Last, so that servers and disks are gone when it is removed. The relay's, reader's and API's ports stay reserved with it.
    folder: Folder,
    _ports: Vec<Port>,
}

impl WorldOptions {
    /// A primary with `keys` keys, an active with the same, an empty standby.
    pub fn of(keys: u64) -> WorldOptions {
        WorldOptions {
            data: Dataset::of(keys),
            primary: None,
            replicas: vec![(None, ServerOptions::default()), (None, ServerOptions::default())],
            others: Others::Nothing,
            heir: false,
            sentinels: 0,
            own_clocks: false,
            drain: "1s",
            upstream_timeout: "30s",
            state_disk: None,
            replica_disks: None,
            extra: Vec::new(),
        }
    }

    /// Everything with this binary.
    #[must_use]
    pub fn all(mut self, binary: &Binary) -> WorldOptions {
        self.primary = Some(binary.clone());
        self.replicas.iter_mut().for_each(|(replica, _)| *replica = Some(binary.clone()));
        self
    }

    /// Replicas load slowly: this many microseconds for each key. It makes the phase long enough to break something in it.
    #[must_use]
    pub fn slow_to_load(mut self, key_micros: u32) -> WorldOptions {
        // By default a loading server looks at its clients after every 2 MB only. With a delay for each key that is too seldom.
        let slow = |options: ServerOptions| {
            options.with("key-load-delay", key_micros.to_string()).with("loading-process-events-interval-bytes", "1024")
        };
        self.replicas = self.replicas.into_iter().map(|(binary, options)| (binary, slow(options))).collect();
        self
    }
}

impl World {
    /// Builds one and waits until it is in `normal`.
    pub async fn start(options: WorldOptions) -> World {
        let world = World::start_unsettled(options).await;
        let settled = |status: &GroupStatus| status.phase == Phase::Normal && !status.active.is_empty() && !status.standby.is_empty();
        world.rbuddy.wait_for("a settled start", FAILOVER_WITHIN, settled).await;
        world
    }

    /// Builds one and waits until rbuddy answers, whatever it thinks of it.
    pub async fn start_unsettled(options: WorldOptions) -> World {
        let folder = Folder::new();
        let default = expect(Binary::find());
        let primary_binary = options.primary.as_ref().unwrap_or(&default);
        let own_clock = options.own_clocks;
        let plain = ServerOptions { own_clock, ..ServerOptions::default() };
        let primary = expect(Server::start(primary_binary, folder.path().join("primary"), plain).await);
        expect(options.data.load(&primary).await);
        let link = expect(FaultProxy::start(primary.address()));
        let mut heir = None;
        if options.heir {
            let server = expect(Server::start(primary_binary, folder.path().join("heir"), ServerOptions::default()).await);
            follow(&server, primary.port()).await;
            heir = Some(server);
        }
        let (mut replicas, mut replica_disks) = (Vec::new(), Vec::new());
        for (number, (binary, server)) in options.replicas.iter().enumerate() {
            let others = if number == 0 { Others::TheDataset } else { options.others };
            let place = folder.path().join(format!("replica-{}", number + 1));
            replica_disks.extend(options.replica_disks.map(|megabytes| SmallDisk::mount(place.clone(), megabytes)));
            replicas.push(
                start_replica(binary.as_ref().unwrap_or(&default), place, ServerOptions { own_clock, ..server.clone() }, others, &link)
                    .await,
            );
        }
        // Now, so that they see the replicas where those are on the first day.
        let mut sentinels = Vec::new();
        for number in 1..=options.sentinels {
            let (place, quorum) = (folder.path().join(format!("sentinel-{number}")), options.sentinels / 2 + 1);
            sentinels.push(expect(Sentinel::start(primary_binary, place, primary.port(), quorum).await));
        }
        let webhook = expect(WebhookReceiver::start());
        let ports: Vec<Port> = (0..3).map(|_| expect(Port::reserve())).collect();
        let state_dir = folder.path().join("state");
        let state_disk = options.state_disk.map(|megabytes| SmallDisk::mount(state_dir.clone(), megabytes));
        let config = GroupConfig {
            state_dir: state_dir.display().to_string(),
            api: ports[0].address(),
            primary: format!("redis://{}", link.address()),
            sentinels: sentinels.iter().map(Sentinel::address).collect(),
            replicas: replicas.iter().map(Server::url).collect(),
            relay: ports[1].address(),
            backlog: "64MiB".to_owned(),
            upstream_timeout: options.upstream_timeout.to_owned(),
            reader: ports[2].address(),
            drain: options.drain.to_owned(),
            notify: vec![webhook.url()],
            extra: options.extra.clone(),
        };
        let path = folder.path().join("rbuddy.toml");
        std::fs::write(&path, config.toml()).expect("write the configuration");
        let clock = own_clock.then(|| expect(WallClock::right(folder.path())));
        let rbuddy = Rbuddy::start(path, folder.path().join("rbuddy.log"), ports[0].address(), clock).await;
        let reader = ports[2].address();
        let data = options.data;
        World { data, primary, heir, sentinels, link, replicas, webhook, rbuddy, reader, state_disk, replica_disks, folder, _ports: ports }
    }

    /// Where all logs and data are.
    pub fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// A moderate stream of writes to the primary, which the default backlog (1 MB) covers for several seconds.
    pub fn writer(&self) -> Writer {
        Writer::start(self.primary.address(), WriterOptions { writes_per_second: 500, value_bytes: 50 })
    }

    /// The status now.
    pub async fn status(&self) -> GroupStatus {
        self.rbuddy.status().await.unwrap_or_else(|error| panic!("status: {error}"))
    }

    /// Waits for a phase.
    pub async fn phase(&self, phase: Phase, within: Duration) -> GroupStatus {
        self.rbuddy.wait_for(&format!("phase {phase}"), within, |status| status.phase == phase).await
    }

    /// Waits until this generation is served and everything has come to rest.
    pub async fn at_rest_in(&self, generation: u64, within: Duration) -> GroupStatus {
        let what = format!("generation {generation} at rest");
        let at_rest = |status: &GroupStatus| {
            status.phase == Phase::Normal && status.generation.0 == generation && status.draining.is_empty() && !status.standby.is_empty()
        };
        self.rbuddy.wait_for(&what, within, at_rest).await
    }

    /// The server behind an address of the status.
    pub fn server(&self, address: &NodeAddress) -> &Server {
        let found = self.replicas.iter().find(|server| server.address() == address.to_string());
        found.unwrap_or_else(|| panic!("{address} is none of our replicas"))
    }

    /// Its number, for what needs to change it: `world.replicas[number]`.
    pub fn number_of(&self, role: RoleName, status: &GroupStatus) -> usize {
        let replica = status.replicas.iter().position(|replica| replica.role == role);
        replica.unwrap_or_else(|| panic!("no replica is {role}: {:?}", status.replicas))
    }

    /// Waits until every active is equal to the primary, by digest. Nobody may write meanwhile. With many keys a server answers nobody until it has
    /// its digest, so what is promised of its answers is to be looked at before.
    pub async fn actives_equal_the_primary(&self) {
        let wanted = expect(self.primary.digest().await);
        let equal = wait_until("actives equal to the primary", SOON, async || {
            let status = self.rbuddy.status().await?;
            for address in &status.active {
                let found = self.server(address).digest().await.map_err(|error| error.to_string())?;
                if found != wanted {
                    return Err(format!("{address} has {found}, the primary {wanted}"));
                }
            }
            if status.active.is_empty() { Err("no active".to_owned()) } else { Ok(()) }
        });
        expect(equal.await);
    }

    /// Nothing that a human must look at was logged.
    pub fn logged_no_error(&self) {
        let log = self.rbuddy.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
        assert!(errors.is_empty(), "logged at ERROR: {errors:#?}");
    }
}

async fn start_replica(binary: &Binary, folder: PathBuf, options: ServerOptions, others: Others, link: &FaultProxy) -> Server {
    let server = expect(Server::start(binary, folder, options).await);
    match others {
        Others::Nothing => {}
        Others::ForeignKeys => expect(Dataset { version: 77, ..Dataset::of(10) }.load(&server).await),
        Others::TheDataset => {
            let address = link.address();
            let port = address.rsplit(':').next().unwrap_or_default();
            follow(&server, port.parse().expect("a port")).await;
        }
    }
    server
}

async fn follow(server: &Server, primary: u16) {
    expect(server.command(&["REPLICAOF", "127.0.0.1", &primary.to_string()]).await);
    let follows = wait_until("the replica to follow its primary", FAILOVER_WITHIN, async || {
        let info = server.info("replication").await.map_err(|error| error.to_string())?;
        if info.get("master_link_status").is_some_and(|link| link == "up") { Ok(()) } else { Err(format!("{info:?}")) }
    });
    expect(follows.await);
}
