//! Waiting for a condition instead of sleeping: polls until it holds, or reports the last thing seen.

use crate::LabError;
use std::time::{Duration, Instant};

/// How often a condition is looked at. Short enough not to miss a phase, long enough not to load a small machine.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Polls `look` until it gives `Ok`; its `Err` says what was seen instead.
pub async fn wait_until<T>(what: &str, within: Duration, look: impl AsyncFnMut() -> Result<T, String>) -> Result<T, LabError> {
    wait_until_polled(what, within, POLL_EVERY, look).await
}

/// [`wait_until`] for those who measure when it became true, and want to know it more exactly.
pub async fn wait_until_polled<T>(
    what: &str,
    within: Duration,
    every: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> Result<T, LabError> {
    let started = Instant::now();
    loop {
        // Each look is bounded too: a server that hangs must not stop the clock.
        let last = match tokio::time::timeout(within, look()).await {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(last)) => last,
            Err(_) => "no answer".to_owned(),
        };
        if started.elapsed() >= within {
            return Err(LabError::Timeout { what: what.to_owned(), within, last });
        }
        tokio::time::sleep(every).await;
    }
}
