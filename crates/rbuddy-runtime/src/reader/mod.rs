//! The reader endpoint: one stable address whose connections lead to the active replica.
//!
//! Promises P1 (a connection is checked before its first request), P9 (no write passes), P10 (no step back). Each client has one connection
//! to one replica and its own rights there: rbuddy never logs in for it. On a switch a connection moves between two requests; what cannot
//! move is closed at the end of the drain. While nothing is active, requests wait (park) for a bounded time.
//!
//! | where | what |
//! | --- | --- |
//! | `client` | one client: which server, when to leave it, how it ends |
//! | `pump` | bytes in both directions |
//! | `acquire` | chooses an active, waits while there is none |
//! | `backend` | connects, checks, restores the session |
//! | `check` | asks servers what they are |
//! | `counters` | the view |
//!
//! Not here: what a request may do and when a connection can move (core's `reader`), who is active (the controller).

mod acquire;
mod backend;
mod check;
mod client;
mod counters;
mod pump;

use crate::clock::Clock;
use crate::handle::Fed;
use crate::settings::{Endpoint, ReaderSettings};
use check::Checks;
use client::Client;
use counters::{ClientCount, Counters};
use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::reader::view::ReaderView;
use rbuddy_core::types::{GroupName, NodeAddress};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, debug, info, info_span, warn};

/// What a reader endpoint needs to know.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// Its group.
    pub group: GroupName,
    /// The clock by which the assignment says until when readers may stay.
    pub clock: Clock,
    /// Where to listen, how many clients, how long a park.
    pub settings: ReaderSettings,
    /// Credentials for the checks. Clients bring their own.
    pub replicas: Vec<Endpoint>,
    /// How far a replica was fed: what a connection that leaves it may have read.
    pub fed: Fed,
}

/// Why there is no reader endpoint.
#[derive(Debug, thiserror::Error)]
pub enum ReaderError {
    /// The address cannot be used.
    #[error("listen for readers on {listen}")]
    Listen {
        /// As configured.
        listen: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A reader endpoint whose port is taken and which does not serve yet.
#[derive(Debug)]
pub struct Reader {
    listener: TcpListener,
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    view: watch::Sender<ReaderView>,
}

/// What all clients of an endpoint share.
#[derive(Debug)]
struct Shared {
    group: GroupName,
    clock: Clock,
    settings: ReaderSettings,
    replicas: BTreeMap<NodeAddress, Endpoint>,
    fed: Fed,
    checks: Checks,
    counters: Arc<Counters>,
    tasks: TaskTracker,
}

/// Takes the port. Clients that connect from now on wait until [`Reader::run`].
pub async fn bind(config: ReaderConfig) -> Result<Reader, ReaderError> {
    let failed = |source| ReaderError::Listen { listen: config.settings.listen.clone(), source };
    let listener = TcpListener::bind(&config.settings.listen).await.map_err(failed)?;
    let local_addr = listener.local_addr().map_err(failed)?;
    let tasks = TaskTracker::new();
    let shared = Arc::new(Shared {
        group: config.group,
        clock: config.clock,
        settings: config.settings,
        replicas: config.replicas.into_iter().map(|replica| (replica.address.clone(), replica)).collect(),
        fed: config.fed,
        checks: Checks::new(tasks.clone()),
        counters: Arc::default(),
        tasks,
    });
    Ok(Reader { listener, local_addr, shared, view: watch::Sender::new(ReaderView::default()) })
}

impl Reader {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it shows of itself, renewed several times a second.
    pub fn view(&self) -> watch::Receiver<ReaderView> {
        self.view.subscribe()
    }

    /// Serves until `cancel`; then closes its clients at boundaries, and all of them within about two seconds.
    pub async fn run(self, assignment: watch::Receiver<Arc<Assignment>>, cancel: CancellationToken) -> Result<(), ReaderError> {
        info!(group = %self.shared.group, listen = %self.local_addr, "reader endpoint serves");
        let mut publish = interval(PUBLISH_EVERY);
        publish.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = publish.tick() => self.publish(),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, &assignment, &cancel),
                    Err(error) => {
                        // Out of file descriptors, mostly. The listener stays readable, so asking again at once would spin.
                        warn!(group = %self.shared.group, %error, "cannot accept a reader");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.listener);
        self.shared.tasks.close();
        if timeout(STOP_WITHIN, self.shared.tasks.wait()).await.is_err() {
            warn!(group = %self.shared.group, left = self.shared.tasks.len(), "readers were left behind at the stop");
        }
        self.view.send_replace(self.shared.counters.view());
        Ok(())
    }

    fn publish(&self) {
        let view = self.shared.counters.view();
        self.view.send_if_modified(|shown| {
            let is_new = *shown != view;
            *shown = view;
            is_new
        });
    }

    fn admit(&self, stream: TcpStream, peer: SocketAddr, assignment: &watch::Receiver<Arc<Assignment>>, cancel: &CancellationToken) {
        let Some(count) = ClientCount::take(&self.shared.counters, self.shared.settings.max_clients) else {
            // A new socket's buffer is empty, so the line fits; if not, the client sees the close alone.
            let _ = stream.try_write(b"-ERR max number of clients reached\r\n");
            self.shared.counters.add_error();
            debug!(%peer, "client refused: max_clients");
            return;
        };
        if let Err(error) = backend::tune(&stream) {
            debug!(%peer, %error, "client was gone before it was served");
            return;
        }
        let client = Client::new(Arc::clone(&self.shared), stream, assignment.clone(), count);
        self.shared.tasks.spawn(client.run(cancel.child_token()).instrument(info_span!("client", %peer)));
    }
}

const PUBLISH_EVERY: Duration = Duration::from_millis(100);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Clients end by themselves within two seconds, checks too. This is for what nobody thought of.
const STOP_WITHIN: Duration = Duration::from_secs(3);
