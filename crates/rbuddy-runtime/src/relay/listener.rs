//! Accepts connections within limits, and hands those that said PSYNC over to a session.
//!
//! Not only replicas come here: Sentinels ping, people ask INFO, a primary tries to hand its role over. Each gets its answer ([`super::visit`]), none
//! can hold much ([`super::doorkeeper`]).

use super::bulletin::Bulletin;
use super::circle::Circle;
use super::doorkeeper::{Doorkeeper, Pass};
use super::hub::Hub;
use super::link::keepalive;
use super::roster::Roster;
use super::session::{self, Arrived};
use super::visit::{Visit, say};
use rbuddy_core::control::relay::RelayOrders;
use rbuddy_core::resp::encode;
use socket2::SockRef;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// What every connection needs.
#[derive(Debug, Clone)]
pub(super) struct Door {
    pub(super) hub: Arc<Hub>,
    pub(super) roster: Arc<Roster>,
    pub(super) orders: watch::Receiver<RelayOrders>,
    pub(super) cancel: CancellationToken,
    pub(super) bulletin: Arc<Bulletin>,
    pub(super) listen_port: u16,
}

/// Runs until cancelled.
pub(super) async fn listen(listener: TcpListener, door: Door) {
    let doorkeeper = Arc::new(Doorkeeper::new());
    let group = &door.hub.config.group;
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = door.cancel.cancelled() => return,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file handles, mostly: others have to go first.
                warn!(%group, %error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        match doorkeeper.enter(peer.ip(), Instant::now()) {
            Ok(pass) => {
                number += 1;
                door.hub.tasks.spawn(serve(stream, peer, number, pass, door.clone()));
            }
            Err(turned) if turned.is_news => warn!(%group, peer = %peer.ip(), why = %turned.why, "connections turned away"),
            Err(_) => {}
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, number: u64, pass: Pass, door: Door) {
    let cancel = door.cancel.clone();
    let shaken = tokio::select! {
        shaken = visit(stream, peer, number, &pass, &door) => shaken,
        () = cancel.cancelled() => return,
    };
    // A replica's session holds no stranger's place.
    drop(pass);
    match shaken {
        Ok(arrived) => session::run(arrived, door).await,
        Err(reason) => debug!(group = %door.hub.config.group, %peer, reason, "connection ended"),
    }
}

async fn visit(stream: TcpStream, peer: SocketAddr, number: u64, pass: &Pass, door: &Door) -> Result<Arrived, String> {
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    // No TCP_USER_TIMEOUT here: it also ends connections whose peer is well but has a closed window, as a replica that loads.
    SockRef::from(&stream).set_tcp_keepalive(&keepalive()).map_err(|error| error.to_string())?;
    Visit::new(stream, peer, number, door).run(pass).await
}

/// Says that it is no replica of this group.
pub(super) async fn refuse(stream: &mut TcpStream, shown: &str, hub: &Hub) -> String {
    if hub.is_new_stranger(shown) {
        info!(group = %hub.config.group, replica = shown, "refused: not a replica of this group");
    }
    let shown: String = shown.chars().take(128).collect();
    hold_off(stream, &format!("{shown} is not a replica of this group")).await;
    "it is not a replica of this group".to_owned()
}

/// Says that the stream would run in a circle.
pub(super) async fn refuse_circle(stream: &mut TcpStream, circle: &Circle, hub: &Hub) -> String {
    let circle_text = circle.to_string();
    if hub.is_new_stranger(&circle_text) {
        warn!(group = %hub.config.group, circle = circle_text, remedy = circle.remedy(), "refused: the stream would run in a circle");
    }
    hold_off(stream, &format!("the stream would run in a circle, as {circle_text}")).await;
    circle_text
}

/// This error makes a replica come again with the same question, where any other would make it send SYNC (protocol fact 1.4).
async fn hold_off(stream: &mut TcpStream, why: &str) {
    let mut reply = Vec::new();
    encode::error(&mut reply, &format!("NOMASTERLINK rbuddy: {why}"));
    if let Err(error) = say(stream, &reply).await {
        debug!(error, "refusal not heard");
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
