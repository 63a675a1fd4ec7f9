//! Passes on what Sentinels tell each other on the relay's port: messages of `__sentinel__:hello`, from one connection to all that listen.
//!
//! Promises: a message waits in one bounded place for all; who is too slow to read it there is told so and closed, and slows nobody. Not here: who
//! listens to what (core's `Subscriptions`).

use bytes::Bytes;
use tokio::sync::broadcast::{Receiver, Sender, channel};

/// The board and its messages.
#[derive(Debug)]
pub(super) struct Bulletin(Sender<Bytes>);

/// A listener that missed messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it listens to {CHANNEL} and does not read")]
pub(super) struct TooSlow;

/// What one connection hears. It hears nothing while it does not listen.
#[derive(Debug, Default)]
pub(super) struct Ear(Option<Receiver<Bytes>>);

impl Bulletin {
    pub(super) fn new() -> Bulletin {
        Bulletin(channel(MESSAGES_MAX).0)
    }

    /// For all that listen now; how many do.
    pub(super) fn publish(&self, message: &[u8]) -> u64 {
        // An error means that nobody listens.
        self.0.send(Bytes::copy_from_slice(message)).map_or(0, |listeners| listeners as u64)
    }
}

impl Ear {
    /// Begins or ends listening, or goes on as it is.
    pub(super) fn listen(&mut self, bulletin: &Bulletin, wanted: bool) {
        match (wanted, &self.0) {
            (true, None) => self.0 = Some(bulletin.0.subscribe()),
            (true, Some(_)) => {}
            (false, _) => self.0 = None,
        }
    }

    /// The next message; waits for ever while it does not listen.
    ///
    /// # Cancel safety
    /// No message is lost if this is dropped before it is ready.
    pub(super) async fn hear(&mut self) -> Result<Bytes, TooSlow> {
        match &mut self.0 {
            // The board outlives every connection, so an error is always "missed messages".
            Some(receiver) => receiver.recv().await.map_err(|_| TooSlow),
            None => std::future::pending().await,
        }
    }
}

const CHANNEL: &str = "__sentinel__:hello";
/// Each Sentinel says one in two seconds. A message is no longer than a request may be, so this holds 4 MiB at the most.
const MESSAGES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_listener_hears_every_message_and_a_slow_one_only_hurts_itself() {
        let bulletin = Bulletin::new();
        assert_eq!(bulletin.publish(b"nobody listens"), 0);
        let (mut quick, mut slow) = (Ear::default(), Ear::default());
        [&mut quick, &mut slow].into_iter().for_each(|ear| ear.listen(&bulletin, true));
        for number in 0..=MESSAGES_MAX {
            assert_eq!(bulletin.publish(number.to_string().as_bytes()), 2);
            assert_eq!(quick.hear().await.expect("in time"), number.to_string());
        }
        assert_eq!(slow.hear().await, Err(TooSlow));
        quick.listen(&bulletin, false);
        drop(slow);
        assert_eq!(bulletin.publish(b"nobody listens any more"), 0);
    }
}
