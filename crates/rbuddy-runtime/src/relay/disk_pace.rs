//! Lets the stream behind a snapshot reach the disk through a burst: the upstream waits for the writer, a little.
//!
//! A burst that memory cannot hold would cost the snapshot, and the primary another fork. But a disk that is slower than the stream for good must
//! not slow the primary's link (its output buffer would overflow): so the waits have a budget, and when it is spent the snapshot is given up.

use super::hub::Hub;
use super::stretch::StretchKey;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// What may still be waited.
#[derive(Debug)]
pub(super) struct DiskPace {
    left: Duration,
    refilled_at: Instant,
}

impl DiskPace {
    pub(super) fn new() -> DiskPace {
        DiskPace { left: BUDGET, refilled_at: Instant::now() }
    }

    /// Waits while much is unwritten and the budget lasts. At once ready where no stream is kept on disk.
    pub(super) async fn keep(&mut self, hub: &Hub, key: StretchKey) {
        if self.refilled_at.elapsed() >= WINDOW {
            *self = DiskPace::new();
        }
        let much = hub.config.settings.backlog_bytes / 2;
        while !self.left.is_zero() && hub.lock().stretch(key).is_some_and(|stretch| stretch.unwritten_bytes() > much) {
            let began = Instant::now();
            // Ready or not: what counts is looked at again above.
            let _ = timeout(self.left, hub.written.notified()).await;
            self.left = self.left.saturating_sub(began.elapsed());
        }
    }
}

const BUDGET: Duration = Duration::from_millis(500);
const WINDOW: Duration = Duration::from_secs(10);
