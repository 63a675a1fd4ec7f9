//! One connection from its beginning to its PSYNC, or to its end if it says none: replicas pass through, Sentinels and monitors stay.
//!
//! Promises: who does not log in, or says nothing for a minute, is closed, but never one that listens to Sentinels' channel; answers go out in the order
//! of requests, and one that does not take them is closed. Not here: what is answered (core's `Handshake`).

use super::bulletin::Ear;
use super::doorkeeper::Pass;
use super::hub::Hub;
use super::listener::{Door, refuse, refuse_circle};
use super::session::Arrived;
use bytes::{Buf, Bytes, BytesMut};
use rbuddy_core::control::relay::{ToldToFollow, UpstreamState};
use rbuddy_core::replication::handshake::{Answer, Handshake, Login, OwnAddress, Surroundings};
use rbuddy_core::replication::psync::Asked;
use rbuddy_core::replication::self_report::SelfReport;
use rbuddy_core::resp::request::{RequestLimits, parse};
use rbuddy_core::types::NodeAddress;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::info;

/// A connection that has not said PSYNC.
#[derive(Debug)]
pub(super) struct Visit<'a> {
    stream: TcpStream,
    peer: SocketAddr,
    door: &'a Door,
    handshake: Handshake,
    input: BytesMut,
    ear: Ear,
    /// Since when it has not logged in.
    unknown_since: Instant,
    /// When it last completed a request: one byte now and then holds no place.
    heard: Instant,
}

/// What woke the connection.
enum Woken {
    Read(std::io::Result<usize>),
    Message(Bytes),
}

impl<'a> Visit<'a> {
    pub(super) fn new(stream: TcpStream, peer: SocketAddr, number: u64, door: &'a Door) -> Visit<'a> {
        let (now, handshake) = (Instant::now(), Handshake::new(login(&door.hub), number));
        Visit { stream, peer, door, handshake, input: BytesMut::with_capacity(1024), ear: Ear::default(), unknown_since: now, heard: now }
    }

    /// Until PSYNC; else why it ended.
    pub(super) async fn run(mut self, pass: &Pass) -> Result<Arrived, String> {
        loop {
            while let Some((arguments, used)) = parse(&self.input, LIMITS).map_err(|error| error.to_string())? {
                self.input.advance(used);
                self.heard = Instant::now();
                let was_known = self.handshake.is_authenticated();
                let mut surroundings = Around { door: self.door, peer: self.peer };
                match self.handshake.answer(&arguments, &mut surroundings) {
                    Answer::Reply(reply) => say(&mut self.stream, &reply).await?,
                    Answer::WrongPassword(reply) => {
                        sleep(pass.wrong_password(Instant::now())).await;
                        say(&mut self.stream, &reply).await?;
                    }
                    Answer::Silence => {}
                    Answer::Psync(asked) => return self.arrive(asked).await,
                    Answer::Close { reply, reason } => {
                        say(&mut self.stream, &reply).await?;
                        return Err(reason.to_owned());
                    }
                }
                match (was_known, self.handshake.is_authenticated()) {
                    (false, true) => pass.logged_in(),
                    // RESET.
                    (true, false) => self.unknown_since = self.heard,
                    (true, true) | (false, false) => {}
                }
                self.ear.listen(&self.door.bulletin, self.handshake.subscriptions().hear_hello());
            }
            match self.wake().await? {
                Woken::Read(Ok(0)) => return Err("it closed the connection".to_owned()),
                Woken::Read(Ok(_)) => {}
                Woken::Read(Err(error)) => return Err(error.to_string()),
                Woken::Message(message) => {
                    let message = self.handshake.subscriptions().deliver(&message);
                    say(&mut self.stream, &message).await?;
                }
            }
        }
    }

    async fn wake(&mut self) -> Result<Woken, String> {
        let is_listening = !self.handshake.subscriptions().is_empty();
        let (deadline, why) = match self.handshake.is_authenticated() {
            true => (self.heard + SILENCE_MAX, "it said nothing for a minute"),
            false => (self.unknown_since + LOGIN_WITHIN, "it did not log in"),
        };
        tokio::select! {
            read = self.stream.read_buf(&mut self.input) => Ok(Woken::Read(read)),
            message = self.ear.hear() => message.map(Woken::Message).map_err(|slow| slow.to_string()),
            // A Sentinel's second connection only listens. One whose peer is gone ends by keepalive, or when it is next written to.
            () = sleep_until(deadline), if !is_listening => Err(why.to_owned()),
        }
    }

    async fn arrive(mut self, asked: Asked) -> Result<Arrived, String> {
        let (identity, peer) = (self.handshake.identity().clone(), self.peer.ip());
        let local = self.stream.local_addr().map_err(|error| error.to_string())?.ip();
        if let Some(circle) = self.door.circle(&identity, peer, local).await {
            return Err(refuse_circle(&mut self.stream, &circle, &self.door.hub).await);
        }
        match self.door.roster.find(&identity, peer, local).await {
            Ok(address) => Ok(Arrived { stream: self.stream, input: self.input, address, identity, asked }),
            Err(shown) => Err(refuse(&mut self.stream, &shown, &self.door.hub).await),
        }
    }
}

/// The relay as a connection sees it.
struct Around<'a> {
    door: &'a Door,
    peer: SocketAddr,
}

impl Surroundings for Around<'_> {
    fn report(&self) -> SelfReport {
        let hub = &self.door.hub;
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
            history: inner.live().map(|stretch| stretch.history.clone()),
            backlog_bytes: hub.config.settings.backlog_bytes,
            connected_replicas: inner.sessions.len(),
        }
    }

    /// Published for whoever decides: the relay itself goes nowhere by this.
    fn follow(&mut self, primary: NodeAddress) -> Result<(), OwnAddress> {
        let (hub, peer) = (&self.door.hub, self.peer);
        if self.door.is_own(&primary) {
            info!(group = %hub.config.group, %peer, %primary, "told to follow itself: refused");
            return Err(OwnAddress);
        }
        info!(group = %hub.config.group, %peer, %primary, "told to follow this primary");
        hub.update(|inner| {
            let number = inner.told_to_follow.as_ref().map_or(0, |told| told.number) + 1;
            inner.told_to_follow = Some(ToldToFollow { address: primary, number });
        });
        Ok(())
    }

    fn publish(&mut self, message: &[u8]) -> u64 {
        self.door.bulletin.publish(message)
    }
}

fn login(hub: &Hub) -> Option<Login> {
    let credentials = hub.config.login()?;
    Some(Login { user: credentials.user, password: credentials.password.expose().to_owned() })
}

/// Sends it all, within patience.
pub(super) async fn say(stream: &mut TcpStream, reply: &[u8]) -> Result<(), String> {
    match timeout(SAY_PATIENCE, stream.write_all(reply)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("it does not take its answer".to_owned()),
    }
}

const LOGIN_WITHIN: Duration = Duration::from_secs(10);
/// Sentinels ping every second.
const SILENCE_MAX: Duration = Duration::from_secs(60);
const SAY_PATIENCE: Duration = Duration::from_secs(10);
/// A handshake is small.
const LIMITS: RequestLimits = RequestLimits { arguments: 32, bytes: 16 * 1024 };
