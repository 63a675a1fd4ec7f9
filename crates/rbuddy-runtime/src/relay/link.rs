//! One connection to the primary: dialling, the handshake up to PSYNC's answer, lines and bytes with deadlines.
//!
//! Both the main connection and the one for a snapshot on demand speak through this. Not here: when to dial, what to do with the answer.

use super::RelayConfig;
use super::circle::Circle;
use crate::settings::Endpoint;
use bytes::BytesMut;
use rbuddy_core::info::ServerInfo;
use rbuddy_core::replication::answer::PsyncAnswer;
use rbuddy_core::replication::prospect::{Gap, Obstacle};
use rbuddy_core::resp::encode;
use rbuddy_core::types::{NodeAddress, Position, ServerVersion};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

/// A connection to the primary.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) incoming: Incoming,
    pub(super) outgoing: Outgoing,
    /// How long the primary may be silent.
    pub(super) patience: Duration,
}

/// What comes from it.
#[derive(Debug)]
pub(super) struct Incoming {
    stream: OwnedReadHalf,
    /// What arrived and was not used yet.
    pub(super) buffer: BytesMut,
}

/// What goes there.
#[derive(Debug)]
pub(super) struct Outgoing(OwnedWriteHalf);

/// Why a connection to the primary is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("nobody has said yet where the primary is")]
    NoPrimary,
    #[error("dial {address}: {source}")]
    Dial { address: String, source: io::Error },
    #[error("no connection within {} s", DIAL_PATIENCE.as_secs())]
    DialTimeout,
    #[error("the primary closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(io::Error),
    #[error("the primary is at {0} now")]
    Moved(NodeAddress),
    #[error("{0}")]
    NotNow(Obstacle),
    #[error("{0}: {remedy}", remedy = .0.remedy())]
    Circle(#[from] Circle),
    #[error("a full resync is needed and not permitted yet: {0}")]
    NotPermitted(Gap),
    #[error(
        "asking for the stream could come to a full resync, which is not permitted now, and the primary does not let rbuddy look: let its login use INFO"
    )]
    NotForeseen,
    #[error(
        "the last full resync of this history lasted for {:.1} s only: raise the primary's client-output-buffer-limit for replicas, and its \
         repl-backlog-size, above what is written while it sends a snapshot; the next one was put off for {:.1} s", .lasted.as_secs_f64(), .wait.as_secs_f64()
    )]
    ResyncLoop { lasted: Duration, wait: Duration },
    #[error("the name {0} leads to another server now")]
    Renamed(String),
    #[error("no byte from the primary for {0:?}")]
    Silent(Duration),
    #[error("the primary does not take what it is sent")]
    NotTaking,
    #[error("the primary's answer is longer than a line may be")]
    LineTooLong,
    #[error("{command} was refused: {answer}")]
    Refused { command: &'static str, answer: String },
    #[error("{0}")]
    Payload(#[from] rbuddy_core::replication::payload::PayloadError),
    #[error("the snapshot ended early, after {0} bytes")]
    SnapshotCutShort(u64),
    #[error("{0}")]
    Snapshot(#[from] rbuddy_core::replication::rdb::RdbError),
    #[error("{0}")]
    Disk(#[from] super::files::FileError),
    #[error("the snapshot belongs to {found}, the stream to {expected}")]
    OtherHistory { found: String, expected: String },
    #[error("the history that the snapshot belongs to is no longer the live one")]
    HistoryEnded,
    #[error("a snapshot wants {needed} bytes on disk, {free} are free")]
    NoRoom { needed: u64, free: u64 },
    #[error("the stream behind the snapshot could not be kept")]
    StreamGivenUp,
    #[error("the stream did not reach the snapshot's offset within {} s", super::snapshotter::REACH_PATIENCE.as_secs())]
    NotReached,
}

/// What kind of connection the primary is told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The stream, with a snapshot where needed.
    Follow,
    /// A snapshot only.
    SnapshotOnly,
}

impl Link {
    /// Connects.
    pub(super) async fn dial(address: &NodeAddress, patience: Duration) -> Result<Link, LinkError> {
        let connecting = TcpStream::connect((address.host.as_str(), address.port));
        let stream = match timeout(DIAL_PATIENCE, connecting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(source)) => return Err(LinkError::Dial { address: address.to_string(), source }),
            Err(_) => return Err(LinkError::DialTimeout),
        };
        tune(&stream, patience).map_err(LinkError::Broken)?;
        let (stream, outgoing) = stream.into_split();
        let incoming = Incoming { stream, buffer: BytesMut::with_capacity(READ_BYTES) };
        Ok(Link { incoming, outgoing: Outgoing(outgoing), patience })
    }

    /// The server at the other end.
    pub(super) fn peer(&self) -> Option<IpAddr> {
        self.incoming.stream.peer_addr().ok().map(|peer| peer.ip().to_canonical())
    }

    /// This machine, as the server at the other end sees it.
    pub(super) fn own_ip(&self) -> Option<IpAddr> {
        self.incoming.stream.local_addr().ok().map(|own| own.ip().to_canonical())
    }

    /// Everything up to PSYNC. One command at a time: the primary refuses PSYNC while replies are pending (protocol fact 1.3).
    pub(super) async fn shake_hands(
        &mut self,
        config: &RelayConfig,
        login: &Endpoint,
        purpose: Purpose,
        version: Option<ServerVersion>,
    ) -> Result<(), LinkError> {
        let pong = self.ask(&["PING"]).await?;
        let asks_for_password = ["-NOAUTH", "-NOPERM", "-ERR operation not permitted"].iter().any(|known| pong.starts_with(known));
        if !pong.starts_with('+') && !asks_for_password {
            return Err(LinkError::Refused { command: "PING", answer: pong });
        }
        if let Some(password) = &login.password {
            let answer = match &login.user {
                Some(user) => self.ask(&["AUTH", user, password.expose()]).await?,
                None => self.ask(&["AUTH", password.expose()]).await?,
            };
            if !answer.starts_with('+') {
                // A server that knows no AUTH repeats what it was told.
                let answer = answer.replace(password.expose(), "***");
                return Err(LinkError::Refused { command: "AUTH", answer });
            }
        }
        let announce = &config.settings.announce;
        self.ask(&["REPLCONF", "listening-port", &announce.port.to_string()]).await?;
        // The primary hands this address to Sentinels and dials it in a FAILOVER. A name would not do (older servers take addresses only), and
        // loopback is right only where the primary sees it anyway.
        if announce.host.parse().is_ok_and(|ip: IpAddr| !ip.is_loopback() && !ip.is_unspecified()) {
            self.ask(&["REPLCONF", "ip-address", &announce.host]).await?;
        }
        // No more than these: they suffice for the classic resync on one connection from every version (protocol fact 1.3).
        self.ask(&["REPLCONF", "capa", "eof", "capa", "psync2"]).await?;
        if let Some(version) = version {
            let number = format!("{}.{}.{}", version.major, version.minor, version.patch);
            self.ask(&["REPLCONF", "version", &number]).await?;
        }
        if purpose == Purpose::SnapshotOnly {
            // Before 7.0 this is unknown and refused; then the connection is closed behind the snapshot.
            self.ask(&["REPLCONF", "rdb-only", "1"]).await?;
        }
        Ok(())
    }

    /// What the primary says of itself; `None` where it may not be asked.
    pub(super) async fn info(&mut self) -> Result<Option<ServerInfo>, LinkError> {
        self.outgoing.send(&encode::request(&["INFO"])).await?;
        let header = self.line().await?;
        let Some((b'$', digits)) = header.split_first() else { return Ok(None) };
        let length: Option<usize> = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
        let Some(length) = length.filter(|length| *length <= INFO_BYTES_MAX) else {
            return Err(LinkError::Refused { command: "INFO", answer: shown(&header) });
        };
        while self.incoming.buffer.len() < length + LINE_END.len() {
            timeout(self.patience, self.incoming.read()).await.map_err(|_| LinkError::Silent(self.patience))??;
        }
        let text = self.incoming.buffer.split_to(length + LINE_END.len());
        Ok(Some(ServerInfo::parse(&String::from_utf8_lossy(&text))))
    }

    /// Sends PSYNC and waits for what comes of it. `None` asks for a full resync.
    pub(super) async fn psync(&mut self, from: Option<Position>) -> Result<PsyncAnswer, LinkError> {
        let request = match from {
            Some(at) => encode::request(&["PSYNC", at.replid.as_str(), &at.offset.next_byte().to_string()]),
            None => encode::request(&["PSYNC", "?", "-1"]),
        };
        self.outgoing.send(&request).await?;
        loop {
            let line = self.line().await?;
            match PsyncAnswer::parse(&line) {
                PsyncAnswer::Wait => {}
                answer @ (PsyncAnswer::Continue(_) | PsyncAnswer::FullResync(_)) => return Ok(answer),
                PsyncAnswer::Refused(answer) => return Err(LinkError::Refused { command: "PSYNC", answer }),
            }
        }
    }

    async fn ask(&mut self, arguments: &[&str]) -> Result<String, LinkError> {
        self.outgoing.send(&encode::request(arguments)).await?;
        Ok(shown(&self.line().await?))
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<Vec<u8>, LinkError> {
        loop {
            if let Some(end) = self.incoming.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.incoming.buffer.split_to(end + 1);
                let line = line.strip_suffix(b"\n").unwrap_or(&line);
                return Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec());
            }
            if self.incoming.buffer.len() > LINE_BYTES_MAX {
                return Err(LinkError::LineTooLong);
            }
            timeout(self.patience, self.incoming.read()).await.map_err(|_| LinkError::Silent(self.patience))??;
        }
    }
}

impl Incoming {
    /// Waits for bytes, which are then in `buffer`.
    ///
    /// # Cancel safety
    /// Nothing is lost if this is dropped before it is ready.
    pub(super) async fn read(&mut self) -> Result<(), LinkError> {
        // Its users split off what they keep. So that this wastes little, an allocation is used nearly to its end before the next one is made.
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
            self.buffer.reserve(READ_BYTES);
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(LinkError::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(LinkError::Broken(error)),
        }
    }

    /// The last read filled the buffer: there may be more.
    pub(super) fn is_full(&self) -> bool {
        self.buffer.len() == self.buffer.capacity()
    }
}

impl Outgoing {
    /// Sends it all.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<(), LinkError> {
        match timeout(SEND_PATIENCE, self.0.write_all(bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(LinkError::Broken(error)),
            Err(_) => Err(LinkError::NotTaking),
        }
    }
}

/// A line as it may be shown.
fn shown(line: &[u8]) -> String {
    String::from_utf8_lossy(line).chars().take(200).collect()
}

/// A peer that is gone without a word is noticed even while nothing is expected of it.
fn tune(stream: &TcpStream, patience: Duration) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive())?;
    socket.set_tcp_user_timeout(Some(patience))
}

/// For connections in both directions.
pub(super) fn keepalive() -> TcpKeepalive {
    TcpKeepalive::new().with_time(Duration::from_secs(15)).with_interval(Duration::from_secs(5)).with_retries(4)
}

const DIAL_PATIENCE: Duration = Duration::from_secs(5);
/// What is sent upstream is tiny: a primary that does not take it reads nothing any more.
const SEND_PATIENCE: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 512 * 1024;
const READ_BYTES_MIN: usize = 64 * 1024;
const LINE_BYTES_MAX: usize = 1024;
const LINE_END: &[u8] = b"\r\n";
/// Servers tell a few kilobytes.
const INFO_BYTES_MAX: usize = 1 << 20;
