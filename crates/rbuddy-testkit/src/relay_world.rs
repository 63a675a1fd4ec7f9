//! A primary, the relay alone behind a link that can be broken, and replicas, each behind a link of its own.

use crate::folder::Folder;
use crate::process::expect;
use crate::{Relay, RelayOptions, SOON};
use rbuddy_core::info::{Role, ServerInfo};
use rbuddy_lab::writer::write_bytes;
use rbuddy_lab::{Binary, FaultProxy, Link, Server, ServerOptions, wait_until};
use std::path::Path;
use std::time::Duration;

/// Smaller than any backlog of a relay in the tests.
const PORTION_BYTES: u64 = 20 << 20;

/// A running world.
#[derive(Debug)]
pub struct RelayWorld {
    /// The primary.
    pub primary: Server,
    /// The relay's link to it.
    pub upstream: FaultProxy,
    /// The process under test.
    pub relay: Relay,
    /// The replicas, in the order of their coming.
    pub replicas: Vec<Follower>,
    // Last, so that the servers are gone when it is removed.
    folder: Folder,
}

/// A replica with its link to the relay.
#[derive(Debug)]
pub struct Follower {
    /// The replica.
    pub server: Server,
    /// Its link.
    pub link: FaultProxy,
}

impl RelayWorld {
    /// A primary, and a relay that answers, whether it has reached the primary or not.
    pub async fn start(primary: &Binary, options: ServerOptions, relay: RelayOptions) -> RelayWorld {
        RelayWorld::start_with(Link::Pass, primary, options, relay).await
    }

    /// The same, with the relay's link to the primary as it is said.
    pub async fn start_with(link: Link, primary: &Binary, options: ServerOptions, relay: RelayOptions) -> RelayWorld {
        let folder = Folder::new();
        let primary = expect(Server::start(primary, folder.path().join("primary"), options).await);
        let upstream = expect(FaultProxy::start(primary.address()));
        upstream.set(link);
        let relay = Relay::start(upstream.address(), folder.path(), relay).await;
        RelayWorld { primary, upstream, relay, replicas: Vec::new(), folder }
    }

    /// Adds a replica that follows the relay from its first moment on, also after a restart.
    pub async fn add_replica(&mut self, binary: &Binary, options: ServerOptions) {
        let link = expect(FaultProxy::start(self.relay.address()));
        let options = options.with("replicaof", format!("127.0.0.1 {}", port_of(&link.address())));
        self.add(binary, options, link).await;
    }

    /// Adds a server that follows nobody yet. See [`Follower::follow`].
    pub async fn add_server(&mut self, binary: &Binary, options: ServerOptions) {
        let link = expect(FaultProxy::start(self.relay.address()));
        self.add(binary, options, link).await;
    }

    async fn add(&mut self, binary: &Binary, options: ServerOptions, link: FaultProxy) {
        let place = self.folder.path().join(format!("replica-{}", self.replicas.len() + 1));
        let server = expect(Server::start(binary, place, options).await);
        self.replicas.push(Follower { server, link });
    }

    /// Adds so many bytes to the stream, in portions that every replica has before the next one comes, so that none falls behind.
    pub async fn stream(&self, bytes: u64) {
        for _ in 0..bytes.div_ceil(PORTION_BYTES) {
            expect(write_bytes(&self.primary, PORTION_BYTES.min(bytes)).await);
            self.all_caught_up(SOON).await;
        }
    }

    /// Where all logs and data are.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Waits until every replica has what the primary has, under its id, to the last byte. Nobody may write meanwhile.
    pub async fn all_caught_up(&self, within: Duration) {
        for number in 0..self.replicas.len() {
            self.caught_up(number, within).await;
        }
    }

    /// The same for one.
    pub async fn caught_up(&self, number: usize, within: Duration) {
        let what = format!("replica {} to be caught up", number + 1);
        expect(wait_until(&what, within, async || self.is_caught_up(number).await).await);
    }

    /// Waits until every replica's dataset is the primary's, by digest. For servers of one family.
    pub async fn all_equal(&self, within: Duration) {
        expect(wait_until("equal digests", within, async || self.is_equal().await).await);
    }

    /// Whether a replica has what the primary has, to the last byte; if not, what each has.
    pub async fn is_caught_up(&self, number: usize) -> Result<(), String> {
        let replica = &self.replicas[number];
        let (wanted, found) = (info_of(&self.primary).await?, replica.info().await?);
        let is_caught_up =
            found.role == Some(Role::Slave) && found.is_link_up && !found.is_loading && found.position() == wanted.position();
        if is_caught_up {
            return Ok(());
        }
        let (has, wants) = (found.position(), wanted.position());
        Err(format!("replica {} has {has:?}, the primary {wants:?}; its link is up: {}", number + 1, found.is_link_up))
    }

    /// Whether all datasets are the primary's; if not, which digests there are.
    pub async fn is_equal(&self) -> Result<(), String> {
        let wanted = self.primary.digest().await.map_err(|error| error.to_string())?;
        for (number, replica) in self.replicas.iter().enumerate() {
            let found = replica.server.digest().await.map_err(|error| error.to_string())?;
            if found != wanted {
                return Err(format!("replica {} has {found}, the primary {wanted}", number + 1));
            }
        }
        Ok(())
    }

    /// Full resyncs that the primary has been asked for since it started.
    pub async fn paid(&self) -> u64 {
        expect(self.primary.full_resyncs().await)
    }

    /// What every server says of its replication, and the relay of itself.
    pub async fn describe(&self) -> String {
        let relay = if self.relay.runs() { self.relay.info().await } else { Err("it does not run".to_owned()) };
        let mut text = format!("--- relay\n{relay:?}\n--- primary {}\n{}", self.primary.address(), replication_of(&self.primary).await);
        for (number, replica) in self.replicas.iter().enumerate() {
            let (address, info) = (replica.server.address(), replication_of(&replica.server).await);
            text.push_str(&format!("--- replica {} {address}\n{info}", number + 1));
        }
        text
    }
}

impl Follower {
    /// Tells it to follow the relay from now on.
    pub async fn follow(&self) {
        let address = self.link.address();
        expect(self.server.command(&["REPLICAOF", "127.0.0.1", port_of(&address)]).await);
    }

    /// What it says of itself.
    pub async fn info(&self) -> Result<ServerInfo, String> {
        info_of(&self.server).await
    }

    /// Full resyncs that it was given, over all its lives, also those that were broken off.
    pub fn full_resyncs(&self) -> u64 {
        // Redis speaks of the master here, Valkey of the primary.
        self.logged("Full resync from ")
    }

    /// How often it has sent PSYNC, over all its lives.
    pub fn questions(&self) -> u64 {
        self.logged("Trying a partial resynchronization") + self.logged("Partial resynchronization not possible (no cached")
    }

    /// How often its log says this, over all its lives.
    pub fn logged(&self, text: &str) -> u64 {
        self.server.log_tail(usize::MAX).matches(text).count() as u64
    }
}

async fn info_of(server: &Server) -> Result<ServerInfo, String> {
    let text = server.command(&["INFO"]).await.map_err(|error| error.to_string())?.text().unwrap_or_default();
    Ok(ServerInfo::parse(&text))
}

async fn replication_of(server: &Server) -> String {
    match server.command(&["INFO", "replication"]).await {
        Ok(value) => value.text().unwrap_or_default(),
        Err(error) => format!("{error}\n"),
    }
}

fn port_of(address: &str) -> &str {
    address.rsplit(':').next().unwrap_or_default()
}
