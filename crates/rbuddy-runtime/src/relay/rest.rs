//! How often the relay's thread looks at its sockets. Little is passed on at once. While much arrives the thread rests for a moment before it looks again:
//! what has come meanwhile costs one wake-up, one read, and one write to each replica instead of dozens, and primary, replica and relay stop taking the
//! processor from each other. (Network cards treat their interrupts so.)
//!
//! Promises: nothing waits longer than [`REST`] and what the kernel adds; the kernel goes on taking bytes meanwhile, so the primary's output buffer does
//! not grow by it. Not here: reading.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Told by the task that reads, obeyed by the thread once every task has done what there was to do.
#[derive(Debug, Default)]
pub(super) struct Rest {
    is_due: AtomicBool,
}

impl Rest {
    /// Much has arrived, and there is no more.
    pub(super) fn order(&self) {
        self.is_due.store(true, Ordering::Relaxed);
    }

    /// Rests if that was ordered. Only for a thread on which nothing runs but the relay. A timer would not do: the runtime wakes up for every segment that
    /// arrives, whoever waits for it or not.
    #[expect(clippy::disallowed_methods, reason = "it is the thread that is to rest, not a task")]
    pub(super) fn take(&self) {
        if self.is_due.swap(false, Ordering::Relaxed) {
            std::thread::sleep(REST);
        }
    }
}

/// What has been read lately.
#[derive(Debug)]
pub(super) struct Load {
    since: Instant,
    bytes: usize,
}

impl Load {
    pub(super) fn new(now: Instant) -> Load {
        Load { since: now, bytes: 0 }
    }

    /// A read took so many bytes. Whether that is much lately.
    pub(super) fn is_much(&mut self, bytes: usize, now: Instant) -> bool {
        if now.duration_since(self.since) >= WINDOW {
            *self = Load::new(now);
        }
        self.bytes += bytes;
        let is_much = self.bytes >= MUCH_BYTES;
        if is_much {
            *self = Load::new(now);
        }
        is_much
    }
}

/// Measured (`make bench-relay --only stream`): without it the relay takes twice the CPU time at full write speed and the primary writes more slowly; 1 ms takes a
/// fifth more of it than this, with values of 100 B.
const REST: Duration = Duration::from_millis(2);
/// At 32 MB/s a replica applies later than a rest is long.
const MUCH_BYTES: usize = 64 * 1024;
const WINDOW: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_stream_that_is_dense_is_much() {
        let begin = Instant::now();
        let mut load = Load::new(begin);
        // 10 MB/s for a second, in pieces of 10 KB.
        for piece in 0..1000 {
            assert!(!load.is_much(10_000, begin + Duration::from_millis(piece)), "piece {piece}");
        }
        let later = begin + Duration::from_secs(2);
        // 100 MB/s.
        let dense = (0..100).filter(|piece| load.is_much(10_000, later + Duration::from_micros(100 * piece))).count();
        assert!((10..=20).contains(&dense), "{dense}");
    }

    #[test]
    fn a_rest_is_taken_once() {
        let rest = Rest::default();
        let timed = |rest: &Rest| {
            let begin = Instant::now();
            rest.take();
            begin.elapsed()
        };
        rest.order();
        assert!(timed(&rest) >= REST);
        assert!(!rest.is_due.load(Ordering::Relaxed));
    }
}
