//! The stream on an upstream connection that is online: whatever comes is read at once, and the primary is told every second, and when WAIT may depend on
//! it, how far its replicas are.
//!
//! The task that reads does nothing else: each write of the primary runs through it, and whatever it looked at besides would be looked at each time.

use super::hub::Hub;
use super::link::{Incoming, Link, LinkError, Outgoing};
use super::rest::Load;
use super::stretch::StretchKey;
use memchr::memmem;
use rbuddy_core::control::relay::{AckPolicy, RelayOrders};
use rbuddy_core::resp::encode;
use rbuddy_core::types::{Offset, Time};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Until the connection ends.
pub(super) async fn take_in(
    hub: &Arc<Hub>,
    link: Link,
    key: StretchKey,
    orders: &watch::Receiver<RelayOrders>,
) -> Result<Infallible, LinkError> {
    let Link { incoming, outgoing, patience } = link;
    // Dropped with this: not a byte is taken in afterwards, as all of it runs on one thread.
    let reading = AbortOnDropHandle::new(tokio::spawn(read(Arc::clone(hub), incoming, key)));
    tokio::select! {
        read = reading => read.unwrap_or_else(|join| Err(LinkError::Broken(std::io::Error::other(join)))),
        told = Teller { hub, outgoing, key, orders, patience, begun: hub.now() }.run() => told,
    }
}

async fn read(hub: Arc<Hub>, mut incoming: Incoming, key: StretchKey) -> Result<Infallible, LinkError> {
    // With `replicated` it is the replicas that are asked, and their answers come by themselves.
    let mut ear = (hub.config.settings.ack == AckPolicy::Received).then(Ear::default);
    let (mut load, mut unshared_bytes) = (Load::new(Instant::now()), 0);
    loop {
        if incoming.buffer.is_empty() {
            incoming.read().await?;
        }
        let bytes = incoming.buffer.len();
        unshared_bytes += bytes;
        if load.is_much(bytes, Instant::now()) && !incoming.is_full() {
            hub.rest.order();
        }
        let is_asked = ear.as_mut().is_some_and(|ear| ear.hears_getack(&incoming.buffer));
        hub.append(key, &mut incoming.buffer);
        if is_asked {
            hub.acked.notify_one();
        }
        // A session that this woke waits for this very thread: while a burst arrives, replicas are not to wait for the end of it.
        if unshared_bytes >= BURST_BYTES {
            unshared_bytes = 0;
            tokio::task::yield_now().await;
        }
    }
}

/// Listens for the primary's question how far its replicas are.
#[derive(Debug, Default)]
struct Ear {
    /// The end of what came before: the question may be spread over several reads.
    tail: Vec<u8>,
}

impl Ear {
    fn hears_getack(&mut self, bytes: &[u8]) -> bool {
        let head = &bytes[..bytes.len().min(GETACK.len() - 1)];
        self.tail.extend_from_slice(head);
        let is_asked = memmem::find(&self.tail, GETACK).is_some() || memmem::find(bytes, GETACK).is_some();
        if bytes.len() >= GETACK.len() {
            self.tail.clear();
            self.tail.extend_from_slice(&bytes[bytes.len() - GETACK.len() + 1..]);
        } else if is_asked {
            self.tail.clear();
        } else {
            self.tail.drain(..self.tail.len().saturating_sub(GETACK.len() - 1));
        }
        is_asked
    }
}

/// Tells the primary what it may count on, and notices when it is silent.
struct Teller<'a> {
    hub: &'a Hub,
    outgoing: Outgoing,
    key: StretchKey,
    orders: &'a watch::Receiver<RelayOrders>,
    patience: Duration,
    begun: Time,
}

impl Teller<'_> {
    async fn run(mut self) -> Result<Infallible, LinkError> {
        let (mut due, mut eager) = (Instant::now(), EAGER_ACKS);
        let mut last_ack = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(due) => {
                    last_ack = self.ack();
                    if let Some(ack) = last_ack {
                        self.outgoing.send(&ack_request(ack)).await?;
                    }
                    if self.silent_for() > self.patience {
                        return Err(LinkError::Silent(self.patience));
                    }
                    // After an EOF payload those are lost that come before the primary has seen its child end, and no stream starts without one
                    // (protocol fact 2.3): meanwhile what is written would pile up there.
                    eager = if self.has_begun() { 0 } else { eager.saturating_sub(1) };
                    due = Instant::now() + if eager > 0 { EAGER_ACK_EVERY } else { ACK_EVERY };
                }
                // WAIT on the primary stands and falls with the ACK: one that says more goes out at once.
                () = self.hub.acked.notified() => {
                    let ack = self.ack();
                    if let Some(offset) = ack.filter(|_| ack > last_ack) {
                        last_ack = ack;
                        self.outgoing.send(&ack_request(offset)).await?;
                    }
                }
            }
        }
    }

    fn ack(&self) -> Option<Offset> {
        self.hub.upstream_ack(self.key, &self.orders.borrow().required)
    }

    fn silent_for(&self) -> Duration {
        self.hub.now().since(self.last_byte_at().unwrap_or(self.begun))
    }

    /// Whether the primary sends a stream.
    fn has_begun(&self) -> bool {
        self.last_byte_at().is_some()
    }

    /// On this connection.
    fn last_byte_at(&self) -> Option<Time> {
        self.hub.lock().upstream.last_byte_at.filter(|heard| *heard > self.begun)
    }
}

fn ack_request(offset: Offset) -> Vec<u8> {
    encode::request(&["REPLCONF", "ACK", &offset.to_string()])
}

/// How every server asks its replicas for an ACK at once (`WAIT`).
const GETACK: &[u8] = b"*3\r\n$8\r\nREPLCONF\r\n$6\r\nGETACK\r\n$1\r\n*\r\n";
const BURST_BYTES: usize = 256 * 1024;
const ACK_EVERY: Duration = Duration::from_secs(1);
/// How often while no stream has begun, and how many of them: a primary without writes sends its first byte seconds later.
const EAGER_ACK_EVERY: Duration = Duration::from_millis(100);
const EAGER_ACKS: u8 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_heard_once_in_whatever_pieces_it_comes() {
        let stream = [b"*1\r\n$4\r\nPING\r\n", GETACK, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n"].concat();
        for size in 1..=stream.len() {
            let mut ear = Ear::default();
            let heard = stream.chunks(size).filter(|piece| ear.hears_getack(piece)).count();
            assert_eq!(heard, 1, "pieces of {size} bytes");
            assert!(ear.tail.len() < GETACK.len());
        }
        let cut = GETACK.len() - 1;
        let mut ear = Ear::default();
        assert!(!ear.hears_getack(&GETACK[..cut]) && ear.hears_getack(&[&GETACK[cut..], &[b'x'; 100]].concat()));
        assert!(!ear.hears_getack(b"\n"), "the same one is not heard again");
    }
}
