//! The relay: a replica to the primary, a primary to the replicas. It holds no dataset, only a backlog of the stream and a spooled snapshot.
//!
//! It moves bytes; what a replica may have is decided by core's `decide` and the controller's orders. Nothing a replica does slows the primary or
//! another replica. Orders come down and a view goes up as whole states ([`RelayOrders`], [`RelayView`]).
//!
//! | where | what |
//! | --- | --- |
//! | `upstream` | the one connection to the primary |
//! | `inquiry` | what the primary is asked, and what is looked at before |
//! | `look` | who a replica is that is to be given a snapshot |
//! | `resync_loop` | full resyncs that do not last |
//! | `intake` | reading the stream, and ACKs |
//! | `own_thread`, `rest` | where bytes are moved; how often that thread looks at its sockets |
//! | `link` | dialling, handshake, lines: what both connections to the primary share |
//! | `name` | a primary that DNS names |
//! | `snapshotter` | snapshots on demand over a second connection |
//! | `spool` | receiving a snapshot: to disk, checked, then offered |
//! | `needs`, `log`, `log_writer` | who needs bytes that memory loses; those bytes on disk, in segments; writing them |
//! | `listener`, `doorkeeper` | connections from below, and how many of them |
//! | `visit`, `roster`, `circle` | one connection up to its PSYNC; which replica it is; whether the stream would run in a circle |
//! | `bulletin` | what Sentinels tell each other on the relay's port |
//! | `session`, `stream_session`, `plan`, `send_file` | one replica: hold, seed, stream |
//! | `hub`, `view` | what all share; what is published of it |
//! | `histories`, `stretch`, `ring` | which histories are kept; their bytes |
//! | `connected` | the replicas that are connected; what is ACKed upstream for them |
//! | `state`, `files` | what survives the process |
//! | `keeper` | removes what the orders no longer want |
//! | `alone` | the relay without a controller |

mod alone;
mod backoff;
mod bulletin;
mod circle;
mod connected;
mod doorkeeper;
mod files;
mod found;
mod histories;
mod hub;
mod inquiry;
mod intake;
mod keeper;
mod link;
mod listener;
mod log;
mod log_writer;
mod look;
mod name;
mod needs;
mod own_thread;
mod plan;
mod rest;
mod resync_loop;
mod ring;
mod roster;
mod send_file;
mod session;
mod snapshotter;
mod spool;
mod state;
mod stream_session;
mod stretch;
mod upstream;
mod view;
mod visit;

pub use alone::run_alone;

use crate::clock::Clock;
use crate::handle::Fed;
use crate::settings::{Credentials, Endpoint, PrimarySettings, RelaySettings};
use bulletin::Bulletin;
use files::FileError;
use found::Left;
use hub::Hub;
use listener::Door;
use needs::DiskRoom;
use own_thread::OwnThread;
use rbuddy_core::control::relay::{RelayOrders, RelayView};
use rbuddy_core::types::GroupName;
use roster::Roster;
use snapshotter::Snapshotter;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use upstream::Upstream;

/// What a relay is told once.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Whose relay it is, for logs.
    pub group: GroupName,
    /// The primary. Where Sentinels know it, the orders say where it is.
    pub primary: PrimarySettings,
    /// Its settings.
    pub settings: RelaySettings,
    /// The group's replicas: a connection is matched to one of these addresses.
    pub replicas: Vec<Endpoint>,
    /// Its folder, which exists and is nobody else's.
    pub dir: PathBuf,
    /// The process's clock.
    pub clock: Clock,
    /// Serve replicas that are not listed as a primary would. Only for a relay without a controller.
    pub open: bool,
}

impl RelayConfig {
    /// What whoever connects must say.
    fn login(&self) -> Option<Credentials> {
        self.settings.login(&self.primary)
    }
}

/// A relay whose port is bound and whose folder was read. Nothing runs yet.
#[derive(Debug)]
pub struct Relay {
    hub: Arc<Hub>,
    listener: TcpListener,
    local_addr: SocketAddr,
    publisher: watch::Sender<RelayView>,
    left: Left,
}

/// A relay that cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The port.
    #[error("listen on {listen}")]
    Listen {
        /// As configured.
        listen: String,
        /// Why not.
        source: io::Error,
    },
    /// Others could connect, and none would have to say a password.
    #[error("listen on {listen}: whoever reaches the relay could read the whole dataset, as neither relay nor primary has a password")]
    Open {
        /// As configured.
        listen: String,
    },
    /// The folder.
    #[error("{verb} {path}", path = path.display())]
    Folder {
        /// What failed.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its thread.
    #[error("start a thread for the relay")]
    Thread(#[source] io::Error),
    /// A part of it ended, or panicked.
    #[error("a part of the relay ended although nobody asked it to ({0}): report this")]
    Ended(String),
}

/// Binds the port (0 takes a free one), reads what a previous run left and removes what is of no use.
pub async fn bind(config: RelayConfig) -> Result<Relay, RelayError> {
    let listen = config.settings.listen.clone();
    let refused = |source| RelayError::Listen { listen: listen.clone(), source };
    let listener = TcpListener::bind(&listen).await.map_err(refused)?;
    let local_addr = listener.local_addr().map_err(refused)?;
    // The configuration says so too, with the line at fault. Here it holds for every way to start a relay.
    if !local_addr.ip().is_loopback() && config.login().is_none() {
        return Err(RelayError::Open { listen });
    }
    let room = DiskRoom::new(config.dir.clone(), config.settings.backlog_disk_bytes);
    let found = tokio::task::spawn_blocking(move || found::load(&room)).await;
    let found = found.map_err(|join| FileError { verb: "read", path: config.dir.clone(), source: io::Error::other(join) });
    let found = found.and_then(|found| found).map_err(|FileError { verb, path, source }| RelayError::Folder { verb, path, source })?;
    let (publisher, view) = watch::channel(RelayView::default());
    // A controller remembers by itself where the primary was found.
    let moved = found.primary.filter(|(_, configured)| config.open && *configured == config.primary.at());
    let primary = moved.map(|(address, _)| address).or_else(|| config.primary.at().fixed().cloned());
    let hub = Arc::new(Hub::new(config, found.run_id, primary, found.left.resumable(), found.previous, view));
    publisher.send_replace(view::compose(&hub, &hub.lock()));
    Ok(Relay { hub, listener, local_addr, publisher, left: found.left })
}

impl Relay {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What is, from now on.
    pub fn view(&self) -> watch::Receiver<RelayView> {
        self.hub.view.clone()
    }

    /// How far each replica is fed, for whoever moves its readers.
    pub fn fed(&self) -> Fed {
        let hub = Arc::clone(&self.hub);
        Fed::new(move |replica| hub.lock().fed(replica))
    }

    /// Runs until cancelled. Files that a next run can go on from stay.
    pub async fn run(self, orders: watch::Receiver<RelayOrders>, cancel: CancellationToken) -> Result<(), RelayError> {
        let Relay { hub, listener, local_addr, publisher, left } = self;
        let replicas = hub.config.replicas.iter().map(|replica| replica.address.clone()).collect();
        let roster = Arc::new(Roster::new(replicas, hub.config.open).await);
        let (stopping, mut parts) = (hub.stopping.clone(), JoinSet::new());
        let thread = OwnThread::start(Arc::clone(&hub)).map_err(RelayError::Thread)?;
        parts.spawn(view::publish(Arc::clone(&hub), publisher, stopping.clone()));
        parts.spawn(view::watch_disk(Arc::clone(&hub), stopping.clone()));
        parts.spawn(state::save_regularly(Arc::clone(&hub)));
        parts.spawn(log_writer::run(Arc::clone(&hub)));
        parts.spawn(keeper::keep(Arc::clone(&hub), orders.clone(), stopping.clone()));
        parts.spawn_on(Snapshotter::new(Arc::clone(&hub), orders.clone()).run(stopping.clone()), thread.runtime());
        parts.spawn_on(Upstream::new(Arc::clone(&hub), orders.clone()).run(left, stopping.clone()), thread.runtime());
        let door = Door {
            hub: Arc::clone(&hub),
            roster,
            orders,
            cancel: stopping.clone(),
            bulletin: Arc::new(Bulletin::new()),
            listen_port: local_addr.port(),
        };
        parts.spawn_on(listener::listen(listener, door), thread.runtime());
        // None of them ends by itself. One that did, or panicked, would leave a relay that looks alive.
        let result = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            Some(ended) = parts.join_next() => Err(RelayError::Ended(ended.map_or_else(|panic| panic.to_string(), |()| "by itself".to_owned()))),
        };
        stopping.cancel();
        hub.tasks.close();
        let all = async {
            while parts.join_next().await.is_some() {}
            hub.tasks.wait().await;
        };
        if tokio::time::timeout(STOP_PATIENCE, all).await.is_err() {
            tracing::warn!(group = %hub.config.group, "a part of the relay did not stop in time");
        }
        result
    }
}

const STOP_PATIENCE: Duration = Duration::from_secs(5);
