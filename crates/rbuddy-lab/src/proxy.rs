//! A TCP proxy that breaks links on demand: between the relay and its primary, or anywhere else. It cuts, stalls, slows down, crumbles and lets later
//! connections overtake earlier ones. It forwards bytes and knows nothing of what they mean.

use crate::{LabError, Port};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How long a connection to the target may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);
/// Bytes that are forwarded at a time; with a throttle also the granularity of its pauses.
const CHUNK_BYTES: usize = 16 * 1024;

/// What the link does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Forwards.
    Pass,
    /// Closed: connections are ended, new ones refused.
    Cut,
    /// Half-open: connections stay and are accepted, nothing goes through, in either direction.
    Stalled,
}

/// A running proxy. Ends, with its connections, when dropped.
#[derive(Debug)]
pub struct FaultProxy {
    shared: Arc<Shared>,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy)]
struct State {
    link: Link,
    /// Connections with lower numbers are stalled, whatever the link does.
    stranded_below: u64,
}

#[derive(Debug)]
struct Shared {
    port: Port,
    target: String,
    state: watch::Receiver<State>,
    /// Connections that were accepted: the number of the next one.
    accepted: AtomicU64,
    /// Bytes per second and direction of a connection; 0: as fast as it goes.
    throttle: AtomicU64,
    /// Bytes of the largest write; 0: as they come.
    crumb_bytes_max: AtomicUsize,
    /// Longest wait of a new connection; 0: none.
    connect_delay_ms_max: AtomicU64,
}

impl FaultProxy {
    /// Forwards to `target` (`host:port`) from a port of its own.
    pub fn start(target: impl Into<String>) -> Result<FaultProxy, LabError> {
        let port = Port::reserve()?;
        let listener = port.listen()?;
        let (state, watched) = watch::channel(State { link: Link::Pass, stranded_below: 0 });
        let shared = Arc::new(Shared {
            port,
            target: target.into(),
            state: watched,
            accepted: AtomicU64::new(0),
            throttle: AtomicU64::new(0),
            crumb_bytes_max: AtomicUsize::new(0),
            connect_delay_ms_max: AtomicU64::new(0),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Ok(FaultProxy { shared, state, task })
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        self.shared.port.address()
    }

    /// Changes what the link does, for old and new connections alike, stranded ones included.
    pub fn set(&self, link: Link) {
        self.state.send_replace(State { link, stranded_below: 0 });
    }

    /// Stalls the connections that there are and lets those through that come: later ones overtake earlier ones. The words of the stranded ones arrive
    /// with the next [`FaultProxy::set`], also of those that were given up meanwhile.
    pub fn strand(&self) {
        self.state.send_modify(|state| state.stranded_below = self.shared.accepted.load(Ordering::Relaxed));
    }

    /// Lets at most this many bytes per second through, in each direction of each connection; `None`: as fast as it goes.
    pub fn throttle(&self, bytes_per_second: Option<u64>) {
        self.shared.throttle.store(bytes_per_second.unwrap_or(0), Ordering::Relaxed);
    }

    /// Forwards in writes of one to `bytes_max` bytes, at random; `None`: as they come. With `Some(1)` one byte at a time.
    pub fn crumble(&self, bytes_max: Option<usize>) {
        self.shared.crumb_bytes_max.store(bytes_max.unwrap_or(0), Ordering::Relaxed);
    }

    /// Accepts a connection at once but forwards it only after a random time up to this, so that later ones overtake earlier ones, and the words of one
    /// that is given up long since arrive after all; `None`: at once.
    pub fn reorder_connects(&self, delay_max: Option<Duration>) {
        let ms = delay_max.map_or(0, |delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        self.shared.connect_delay_ms_max.store(ms, Ordering::Relaxed);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut state = shared.state.clone();
    let mut listener = Some(listener);
    // Dropping the set ends all connections, and so does aborting this task.
    let mut connections = JoinSet::new();
    loop {
        if state.borrow_and_update().link == Link::Cut {
            listener = None;
            connections.shutdown().await;
        } else if listener.is_none() {
            // The port is reserved: only a lack of file descriptors could refuse it, and then the next change tries again.
            listener = shared.port.listen().ok();
        }
        tokio::select! {
            accepted = accept(listener.as_ref()) => {
                if let Ok(client) = accepted {
                    let number = shared.accepted.fetch_add(1, Ordering::Relaxed);
                    connections.spawn(forward(number, client, Arc::clone(&shared)));
                }
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> io::Result<TcpStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => std::future::pending().await,
    }
}

/// One connection, until either side ends it.
async fn forward(number: u64, client: TcpStream, shared: Arc<Shared>) {
    let delay_ms_max = shared.connect_delay_ms_max.load(Ordering::Relaxed);
    if delay_ms_max > 0 {
        tokio::time::sleep(Duration::from_millis(fastrand::u64(..=delay_ms_max))).await;
    }
    let Ok(Ok(server)) = tokio::time::timeout(CONNECT_WITHIN, TcpStream::connect(&shared.target)).await else { return };
    // What a segment carries should not depend on us.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    // A half-closed connection is of no use to a replication link: the first end ends both directions.
    tokio::select! {
        _ = pump(number, client_in, server_out, &shared) => {}
        _ = pump(number, server_in, client_out, &shared) => {}
    }
}

async fn pump(number: u64, mut from: impl AsyncReadExt + Unpin, mut to: impl AsyncWriteExt + Unpin, shared: &Shared) -> io::Result<()> {
    let mut state = shared.state.clone();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let length = from.read(&mut chunk).await?;
        if length == 0 {
            return Ok(());
        }
        let mut rest = &chunk[..length];
        while !rest.is_empty() {
            let passes = state.wait_for(|state| state.link == Link::Pass && number >= state.stranded_below).await.map(drop);
            passes.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            let crumb_bytes_max = shared.crumb_bytes_max.load(Ordering::Relaxed);
            let count = if crumb_bytes_max == 0 { rest.len() } else { fastrand::usize(1..=crumb_bytes_max).min(rest.len()) };
            to.write_all(&rest[..count]).await?;
            rest = &rest[count..];
            if !rest.is_empty() {
                // Its reader gets a chance to see the crumb alone.
                tokio::task::yield_now().await;
            }
        }
        let rate = shared.throttle.load(Ordering::Relaxed);
        if let Some(pause_ms) = (length as u64 * 1000).checked_div(rate) {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers every byte with the same byte.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.into_split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    async fn echoes(stream: &mut TcpStream, within_ms: u64) -> Option<io::Result<u8>> {
        stream.write_all(b"x").await.ok()?;
        tokio::time::timeout(Duration::from_millis(within_ms), stream.read_u8()).await.ok()
    }

    #[tokio::test]
    async fn a_cut_ends_connections_and_refuses_new_ones_until_it_is_mended() {
        let proxy = FaultProxy::start(echo().await).expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connect");
        assert!(matches!(echoes(&mut stream, 5000).await, Some(Ok(b'x'))));
        proxy.set(Link::Cut);
        let ended = tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await.expect("ends soon");
        assert!(ended.is_err(), "a cut connection is over");
        assert!(TcpStream::connect(proxy.address()).await.is_err(), "new ones are refused");
        proxy.set(Link::Pass);
        let again = crate::wait_until("the link", Duration::from_secs(5), async || {
            TcpStream::connect(proxy.address()).await.map_err(|error| error.to_string())
        });
        assert!(matches!(echoes(&mut again.await.expect("mended"), 5000).await, Some(Ok(b'x'))));
    }

    #[tokio::test]
    async fn a_stalled_link_stays_open_and_says_nothing() {
        let proxy = FaultProxy::start(echo().await).expect("a proxy");
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connect");
        assert!(matches!(echoes(&mut stream, 5000).await, Some(Ok(b'x'))));
        proxy.set(Link::Stalled);
        assert!(echoes(&mut stream, 200).await.is_none(), "nothing comes, and no end either");
        let mut new = TcpStream::connect(proxy.address()).await.expect("still accepts");
        assert!(echoes(&mut new, 200).await.is_none());
        proxy.set(Link::Pass);
        let late = tokio::time::timeout(Duration::from_secs(5), stream.read_u8()).await.expect("goes on");
        assert!(matches!(late, Ok(b'x')), "what was on its way arrives");
    }

    #[tokio::test]
    async fn crumbs_are_all_the_bytes_in_their_order() {
        let proxy = FaultProxy::start(echo().await).expect("a proxy");
        proxy.crumble(Some(3));
        let mut stream = TcpStream::connect(proxy.address()).await.expect("connect");
        let sent: Vec<u8> = (0..20_000u32).map(|number| (number % 251) as u8).collect();
        stream.write_all(&sent).await.expect("write");
        let mut received = vec![0; sent.len()];
        let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut received)).await;
        read.expect("arrives in time").expect("read");
        assert!(received == sent, "nothing is lost, added or turned round");
    }

    #[tokio::test]
    async fn a_later_connection_can_overtake_an_earlier_one() {
        let proxy = FaultProxy::start(echo().await).expect("a proxy");
        proxy.reorder_connects(Some(Duration::from_secs(365 * 86_400)));
        let mut early = TcpStream::connect(proxy.address()).await.expect("accepted at once");
        assert!(echoes(&mut early, 200).await.is_none(), "it waits");
        proxy.reorder_connects(None);
        let mut late = TcpStream::connect(proxy.address()).await.expect("connect");
        assert!(matches!(echoes(&mut late, 5000).await, Some(Ok(b'x'))), "this one does not");
        assert!(echoes(&mut early, 200).await.is_none(), "the early one still waits");
    }

    #[tokio::test]
    async fn a_stranded_connection_is_overtaken_and_still_has_its_say() {
        let proxy = FaultProxy::start(echo().await).expect("a proxy");
        let mut old = TcpStream::connect(proxy.address()).await.expect("connect");
        assert!(matches!(echoes(&mut old, 5000).await, Some(Ok(b'x'))));
        proxy.strand();
        assert!(echoes(&mut old, 200).await.is_none(), "nothing comes");
        let mut new = TcpStream::connect(proxy.address()).await.expect("connect");
        assert!(matches!(echoes(&mut new, 5000).await, Some(Ok(b'x'))), "a new one is well");
        proxy.set(Link::Pass);
        let late = tokio::time::timeout(Duration::from_secs(5), old.read_u8()).await.expect("goes on");
        assert!(matches!(late, Ok(b'x')), "what was on its way arrives");
    }
}
