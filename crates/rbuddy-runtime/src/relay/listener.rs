//! Accepts connections, shakes hands within limits, and hands those that said PSYNC over to a session.
//!
//! Not only replicas come here: Sentinels ping, people ask INFO, a primary tries to hand its role over. Each gets its answer; none can hold much: a
//! connection that has not said PSYNC is closed when it is silent for ten seconds, and there are at most 256 of them in all.

use super::hub::Hub;
use super::link::keepalive;
use super::roster::Roster;
use super::session::{self, Arrived};
use bytes::{Buf, BytesMut};
use rbuddy_core::control::relay::{RelayOrders, UpstreamState};
use rbuddy_core::replication::handshake::{Answer, Handshake, Login};
use rbuddy_core::replication::self_report::SelfReport;
use rbuddy_core::resp::encode;
use rbuddy_core::resp::request::{RequestLimits, parse};
use rbuddy_core::types::NodeAddress;
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What every connection needs.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) hub: Arc<Hub>,
    pub(super) roster: Arc<Roster>,
    pub(super) orders: watch::Receiver<RelayOrders>,
    pub(super) cancel: CancellationToken,
}

/// Runs until cancelled.
pub(super) async fn listen(listener: TcpListener, door: Door) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.cancel.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, mostly: others have to go first.
                warn!(group = %door.hub.config.group, %error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            warn!(group = %door.hub.config.group, %peer, max = CONNECTIONS_MAX, "connection closed: there are too many");
            continue;
        };
        let connection = door.clone();
        door.hub.tasks.spawn(async move {
            serve(stream, peer, connection).await;
            drop(place);
        });
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, door: Door) {
    let cancel = door.cancel.clone();
    let shaken = tokio::select! {
        shaken = shake_hands(stream, peer, &door) => shaken,
        () = cancel.cancelled() => return,
    };
    match shaken {
        Ok(arrived) => session::run(arrived, door).await,
        Err(reason) => debug!(group = %door.hub.config.group, %peer, reason, "connection ended"),
    }
}

/// Until PSYNC.
async fn shake_hands(mut stream: TcpStream, peer: SocketAddr, door: &Door) -> Result<Arrived, String> {
    let broken = |error: std::io::Error| error.to_string();
    stream.set_nodelay(true).map_err(broken)?;
    // No TCP_USER_TIMEOUT here: it also ends connections whose peer is well but has a closed window, as a replica that loads.
    SockRef::from(&stream).set_tcp_keepalive(&keepalive()).map_err(broken)?;
    let mut handshake = Handshake::new(login(&door.hub));
    let mut input = BytesMut::with_capacity(1024);
    let mut deadline = Instant::now() + SILENCE_MAX;
    loop {
        while let Some((arguments, used)) = parse(&input, LIMITS).map_err(|error| error.to_string())? {
            input.advance(used);
            // Counted from whole requests: one byte now and then holds no place.
            deadline = Instant::now() + SILENCE_MAX;
            match handshake.answer(&arguments, || report(&door.hub)) {
                Answer::Reply(reply) => say(&mut stream, &reply).await?,
                Answer::Silence => {}
                Answer::Psync(asked) => {
                    let identity = handshake.identity().clone();
                    let local = stream.local_addr().map_err(broken)?.ip();
                    return match door.roster.find(&identity, peer.ip(), local).await {
                        Ok(address) => Ok(Arrived { stream, input, address, identity, asked }),
                        Err(shown) => Err(refuse(&mut stream, &shown, &door.hub).await),
                    };
                }
                Answer::Close { reply, reason } => {
                    say(&mut stream, &reply).await?;
                    return Err(reason.to_owned());
                }
            }
        }
        match timeout_at(deadline, stream.read_buf(&mut input)).await {
            Ok(Ok(0)) => return Err("it closed the connection".to_owned()),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(broken(error)),
            Err(_) => return Err(format!("it said nothing for {} s", SILENCE_MAX.as_secs())),
        }
    }
}

/// This error makes a replica come again with the same question, where any other would make it send SYNC (protocol fact 1.4).
pub(super) async fn refuse(stream: &mut TcpStream, shown: &str, hub: &Hub) -> String {
    let mut reply = Vec::new();
    encode::error(
        &mut reply,
        &format!("NOMASTERLINK rbuddy: {} is not a replica of this group", shown.chars().take(128).collect::<String>()),
    );
    if hub.is_new_stranger(shown) {
        info!(group = %hub.config.group, replica = shown, "refused: not a replica of this group");
    }
    match say(stream, &reply).await {
        Ok(()) => "it is not a replica of this group".to_owned(),
        Err(reason) => reason,
    }
}

async fn say(stream: &mut TcpStream, reply: &[u8]) -> Result<(), String> {
    match timeout(SILENCE_MAX, stream.write_all(reply)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not take its answer".to_owned()),
    }
}

/// What a replica must say: the relay's own password, else the primary's, as replicas know that one already.
fn login(hub: &Hub) -> Option<Login> {
    let config = &hub.config;
    match (&config.settings.auth, &config.primary.password) {
        (Some(own), _) => Some(Login { user: own.user.clone(), password: own.password.expose().to_owned() }),
        (None, Some(password)) => Some(Login { user: config.primary.user.clone(), password: password.expose().to_owned() }),
        (None, None) => None,
    }
}

fn report(hub: &Hub) -> SelfReport {
    let (now, inner) = (hub.now(), hub.lock());
    let upstream = &inner.upstream;
    SelfReport {
        run_id: hub.run_id,
        // Sentinel's own words for a master that is not known.
        primary: inner.primary.clone().unwrap_or_else(|| NodeAddress::new("?", 0)),
        is_link_up: upstream.state == UpstreamState::Streaming,
        is_sync_in_progress: upstream.state == UpstreamState::ReceivingSnapshot,
        last_io_s: upstream.last_byte_at.map(|at| now.since(at).as_secs()),
        link_down_s: upstream.down_since.map(|since| now.since(since).as_secs()),
        position: inner.live().map(|stretch| stretch.history.end_position()),
        connected_replicas: inner.sessions.len(),
    }
}

const CONNECTIONS_MAX: usize = 256;
const SILENCE_MAX: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
/// A handshake is small.
const LIMITS: RequestLimits = RequestLimits { arguments: 32, bytes: 16 * 1024 };
