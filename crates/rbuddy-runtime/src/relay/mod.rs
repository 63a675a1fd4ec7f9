//! The relay: a replica to the primary, a primary to the replicas. It holds no dataset, only a backlog of the stream and a spooled snapshot.
//!
//! It moves bytes; what a replica may have is decided by core's `decide` and the controller's orders. Nothing a replica does slows the primary or
//! another replica. Orders come down and a view goes up as whole states ([`RelayOrders`], [`RelayView`]).
//!
//! | where | what |
//! | --- | --- |
//! | `upstream` | the one connection to the primary |
//! | `link` | dialling, handshake, lines: what both connections to the primary share |
//! | `name` | a primary that DNS names |
//! | `snapshotter` | snapshots on demand over a second connection |
//! | `spool` | receiving a snapshot: to disk, checked, then offered |
//! | `stream_writer`, `disk_pace` | the stream behind a snapshot, on disk; how far a burst may wait for it |
//! | `listener`, `roster` | connections from below: handshake, which replica it is |
//! | `session`, `stream_session`, `plan` | one replica: hold, seed, stream |
//! | `hub`, `stretch`, `ring`, `view` | what all share: histories and their bytes, sessions; what is published of it |
//! | `state`, `files` | what survives the process |
//! | `keeper` | removes what the orders no longer want |
//! | `alone` | the relay without a controller |

mod alone;
mod backoff;
mod disk_pace;
mod files;
mod hub;
mod keeper;
mod link;
mod listener;
mod name;
mod plan;
mod ring;
mod roster;
mod session;
mod snapshotter;
mod spool;
mod state;
mod stream_session;
mod stream_writer;
mod stretch;
mod upstream;
mod view;

pub use alone::run_alone;

use crate::clock::Clock;
use crate::settings::{Endpoint, PrimarySettings, RelaySettings};
use files::{FileError, Spool};
use hub::Hub;
use listener::Door;
use rbuddy_core::control::relay::{RelayOrders, RelayView};
use rbuddy_core::replication::history::History;
use rbuddy_core::types::{DatasetId, GroupName, Position};
use roster::Roster;
use snapshotter::Snapshotter;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
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

/// A relay whose port is bound and whose folder was read. Nothing runs yet.
#[derive(Debug)]
pub struct Relay {
    hub: Arc<Hub>,
    listener: TcpListener,
    local_addr: SocketAddr,
    publisher: watch::Sender<RelayView>,
    found: Option<(Spool, History)>,
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
}

/// Binds the port (0 takes a free one), reads what a previous run left and removes what is of no use.
pub async fn bind(config: RelayConfig) -> Result<Relay, RelayError> {
    let listen = config.settings.listen.clone();
    let refused = |source| RelayError::Listen { listen: listen.clone(), source };
    let listener = TcpListener::bind(&listen).await.map_err(refused)?;
    let local_addr = listener.local_addr().map_err(refused)?;
    let dir = config.dir.clone();
    let found = tokio::task::spawn_blocking(move || state::load(&dir)).await;
    let found = found.map_err(|join| FileError { verb: "read", path: config.dir.clone(), source: io::Error::other(join) });
    let found = found.and_then(|found| found).map_err(|FileError { verb, path, source }| RelayError::Folder { verb, path, source })?;
    let resumable: Option<(DatasetId, Position)> = found.spool.as_ref().map(|(spool, history)| (spool.dataset, history.end_position()));
    let (publisher, view) = watch::channel(RelayView::default());
    // A controller remembers by itself where the primary was found.
    let moved = found.primary.filter(|(_, configured)| config.open && *configured == config.primary.at());
    let primary = moved.map(|(address, _)| address).or_else(|| config.primary.at().fixed().cloned());
    let hub = Arc::new(Hub::new(config, found.run_id, primary, resumable, view));
    publisher.send_replace(view::compose(&hub.lock()));
    Ok(Relay { hub, listener, local_addr, publisher, found: found.spool })
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

    /// Runs until cancelled. Files that a next run can go on from stay.
    pub async fn run(self, orders: watch::Receiver<RelayOrders>, cancel: CancellationToken) -> Result<(), RelayError> {
        let Relay { hub, listener, publisher, found, .. } = self;
        let replicas = hub.config.replicas.iter().map(|replica| replica.address.clone()).collect();
        let roster = Arc::new(Roster::new(replicas, hub.config.open).await);
        let (tasks, stopping) = (&hub.tasks, &hub.stopping);
        tasks.spawn(view::publish(Arc::clone(&hub), publisher, stopping.clone()));
        tasks.spawn(keeper::keep(Arc::clone(&hub), orders.clone(), stopping.clone()));
        tasks.spawn(Snapshotter::new(Arc::clone(&hub), orders.clone()).run(stopping.clone()));
        tasks.spawn(Upstream::new(Arc::clone(&hub), orders.clone()).run(found, stopping.clone()));
        tasks.spawn(listener::listen(listener, Door { hub: Arc::clone(&hub), roster, orders, cancel: stopping.clone() }));
        cancel.cancelled().await;
        stopping.cancel();
        tasks.close();
        if tokio::time::timeout(STOP_PATIENCE, tasks.wait()).await.is_err() {
            tracing::warn!(group = %hub.config.group, "a part of the relay did not stop in time");
        }
        Ok(())
    }
}

const STOP_PATIENCE: Duration = Duration::from_secs(5);
