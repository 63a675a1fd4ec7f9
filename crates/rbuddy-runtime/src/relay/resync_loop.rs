//! A full resync that does not last. Where writes outrun the primary's output buffer while it makes and sends a snapshot, it closes the connection soon
//! after each full resync, and its backlog has moved on by then: so the next one is needed at once, and each costs a fork and a copy.
//!
//! Promises: whoever is in such a loop asks less and less often and says why; a partial resync, and the full resync of another history, never wait where
//! the primary lets the relay look what it will be.

use super::backoff::Backoff;
use super::link::LinkError;
use rbuddy_core::types::ReplId;
use std::time::Duration;
use tokio::time::Instant;

/// What became of the last full resync.
#[derive(Debug)]
pub(super) struct ResyncLoop {
    last: Option<(ReplId, Instant)>,
    curb: Option<Curb>,
    waits: Backoff,
}

#[derive(Debug)]
struct Curb {
    replid: ReplId,
    lasted: Duration,
    since: Instant,
    wait: Duration,
}

impl ResyncLoop {
    pub(super) fn new() -> ResyncLoop {
        ResyncLoop { last: None, curb: None, waits: Backoff::new(WAIT_FIRST, WAIT_MAX) }
    }

    /// The stream flows behind a snapshot of this history.
    pub(super) fn resynced(&mut self, replid: ReplId, now: Instant) {
        (self.last, self.curb) = (Some((replid, now)), None);
    }

    /// The primary is another one now.
    pub(super) fn primary_moved(&mut self) {
        (self.last, self.curb) = (None, None);
    }

    /// The connection is over.
    pub(super) fn ended(&mut self, now: Instant) {
        let Some((replid, since)) = self.last.take() else { return };
        let lasted = now.duration_since(since);
        if lasted >= LASTING {
            self.waits.reset();
        } else {
            self.curb = Some(Curb { replid, lasted, since: now, wait: self.waits.wait() });
        }
    }

    /// Whether what may be a full resync of this history (`None`: of any) has to wait, in words.
    pub(super) fn check(&self, replid: Option<ReplId>, now: Instant) -> Result<(), LinkError> {
        match &self.curb {
            Some(curb) if replid.is_none_or(|replid| replid == curb.replid) && now < curb.since + curb.wait => {
                Err(LinkError::ResyncLoop { lasted: curb.lasted, wait: curb.wait })
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// A stream that lasts so long has outlived the rush behind its snapshot.
const LASTING: Duration = Duration::from_secs(10);
const WAIT_FIRST: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    fn id(digit: char) -> ReplId {
        digit.to_string().repeat(40).parse().expect("an id")
    }

    #[test]
    fn each_full_resync_that_does_not_last_makes_the_next_one_wait_longer() {
        let (mut loops, mut now) = (ResyncLoop::new(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..10 {
            loops.resynced(id('a'), now);
            now += Duration::from_secs(1);
            loops.ended(now);
            let Err(LinkError::ResyncLoop { lasted, wait }) = loops.check(Some(id('a')), now) else { panic!("it has to wait") };
            assert_eq!(lasted, Duration::from_secs(1));
            assert!(loops.check(Some(id('b')), now).is_ok(), "another history is no loop");
            assert!(loops.check(None, now).is_err(), "it may be the same");
            assert!(loops.check(Some(id('a')), now + wait).is_ok());
            waits.push(wait);
            now += wait;
        }
        assert!(waits[0] < Duration::from_secs(1) && waits[9] > WAIT_MAX / 2 && waits[9] < WAIT_MAX * 2, "{waits:?}");
        assert!(waits.windows(3).all(|three| three[2] > three[0] || three[2] > WAIT_MAX / 2), "{waits:?}");
        loops.resynced(id('a'), now);
        now += LASTING;
        loops.ended(now);
        assert!(loops.check(Some(id('a')), now).is_ok(), "one that lasted is none of a loop");
        loops.resynced(id('a'), now);
        loops.ended(now);
        loops.primary_moved();
        assert!(loops.check(None, now).is_ok(), "another primary is asked at once");
    }

    #[test]
    fn a_link_that_broke_without_a_full_resync_changes_nothing() {
        let (mut loops, now) = (ResyncLoop::new(), Instant::now());
        loops.ended(now);
        assert!(loops.check(Some(id('a')), now).is_ok());
        loops.resynced(id('a'), now);
        loops.ended(now);
        let curbed = loops.check(Some(id('a')), now).is_err();
        // It came back by a partial resync, and broke again.
        loops.ended(now + Duration::from_millis(1));
        assert!(curbed && loops.check(Some(id('a')), now + Duration::from_millis(1)).is_err(), "still too early");
    }
}
