//! A client's connection to a replica: made, checked (promise P1) and brought into the client's state before its first request.

use super::Shared;
use super::counters::ConnectionCount;
use crate::settings::Endpoint;
use bytes::BytesMut;
use rbuddy_core::control::assignment::ActiveReplica;
use rbuddy_core::reader::session::Session;
use rbuddy_core::reader::trail::{Trail, check};
use rbuddy_core::resp::frame::{ReplyFramer, ReplyKind};
use rbuddy_core::types::{NodeAddress, Position, RunId};
use socket2::{SockRef, TcpKeepalive};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A connection that may be read from.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) stream: TcpStream,
    pub(super) address: NodeAddress,
    pub(super) run_id: RunId,
    pub(super) detached: bool,
    /// Where the replica stood when it was checked.
    pub(super) position: Option<Position>,
    _count: ConnectionCount,
}

/// Connects to an active for a client with this session and trail. The error is for people.
pub(super) async fn connect(shared: &Shared, active: &ActiveReplica, session: &Session, trail: &Trail) -> Result<Backend, String> {
    let address = &active.address;
    // Counted from the first attempt, so that many clients that come at once spread.
    let count = ConnectionCount::new(&shared.counters, address.clone());
    let failed = |error: io::Error| format!("cannot connect to {address}: {error}");
    let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect((address.host.as_str(), address.port))).await;
    let mut stream = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed)?;
    tune(&stream).map_err(failed)?;
    let unknown;
    let endpoint = match shared.replicas.get(address) {
        Some(endpoint) => endpoint,
        None => {
            unknown = Endpoint { address: address.clone(), user: None, password: None };
            &unknown
        }
    };
    // The name may stand for several hosts: the check must meet the one that answered.
    let info = shared.checks.check(stream.peer_addr().map_err(failed)?, endpoint).await;
    let info = info.map_err(|error| format!("cannot check {address}: {error}"))?;
    check(active, &info).and_then(|()| trail.check(&info)).map_err(|refusal| format!("{address} is not to be read: {refusal}"))?;
    let replayed = timeout(REPLAY_TIMEOUT, replay(&mut stream, session)).await;
    replayed
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|error| format!("cannot restore the session at {address}: {error}"))?;
    let (run_id, detached) = (active.run_id, active.detached);
    Ok(Backend { stream, address: address.clone(), run_id, detached, position: info.position(), _count: count })
}

/// Small requests at once, and a peer that is gone without a word is noticed in the end.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    SockRef::from(stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4))
}

/// Tells the server what the client told the one before. Every request must be accepted.
async fn replay(stream: &mut TcpStream, session: &Session) -> io::Result<()> {
    let (requests, mut missing) = session.replay();
    if missing == 0 {
        return Ok(());
    }
    stream.write_all(&requests).await?;
    let mut framer = ReplyFramer::default();
    let mut buffer = BytesMut::new();
    let mut framed = 0;
    while missing > 0 {
        if buffer.len() > REPLY_BYTES_MAX || stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while framed < buffer.len() {
            let fed = framer.feed(&buffer[framed..]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            framed += fed.used;
            match fed.ended {
                None => continue,
                Some(ReplyKind::Push) => {}
                Some(ReplyKind::Reply) => missing -= 1,
                Some(ReplyKind::Error) => return Err(io::Error::other(String::from_utf8_lossy(&buffer[..framed]).trim_end().to_owned())),
            }
            let _ = buffer.split_to(framed);
            framed = 0;
        }
    }
    if buffer.is_empty() { Ok(()) } else { Err(io::Error::other("it said more than was asked")) }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Each of these requests takes a server microseconds.
const REPLAY_TIMEOUT: Duration = Duration::from_secs(2);
const KEEPALIVE: Duration = Duration::from_secs(60);
/// HELLO's answer is a few hundred bytes; modules make it longer.
const REPLY_BYTES_MAX: usize = 64 * 1024;
