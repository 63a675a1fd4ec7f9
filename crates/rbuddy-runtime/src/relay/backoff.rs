//! How long to wait before trying again: doubling, capped, jittered so that several relays do not knock together.

use std::time::Duration;

/// Waits of one kind of attempt.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
}

impl Backoff {
    /// Waits from `first` to `cap`.
    pub(super) fn new(first: Duration, cap: Duration) -> Backoff {
        Backoff { first, cap, next: first }
    }

    /// It worked: the next wait is the first one again.
    pub(super) fn reset(&mut self) {
        self.next = self.first;
    }

    /// The wait after one more failure.
    pub(super) fn wait(&mut self) -> Duration {
        let wait = self.next.mul_f64(0.75 + fastrand::f64() / 2.0);
        self.next = (self.next * 2).min(self.cap);
        wait
    }
}
