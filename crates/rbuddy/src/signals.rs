//! SIGTERM and SIGINT ask for an orderly end; the second one ends at once.

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A token that is cancelled by the first signal. Handlers are in place when this returns, before anything is bound.
pub(crate) fn cancelled_by_signals() -> anyhow::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let cancel = CancellationToken::new();
    let cancelled = cancel.clone();
    tokio::spawn(async move {
        for is_first in [true, false] {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            if is_first {
                info!(signal = name, "ending in order; replicas keep serving");
                cancelled.cancel();
            }
        }
        warn!("second signal: ending at once");
        std::process::exit(ENDED_BY_SIGNAL);
    });
    Ok(cancel)
}

/// What shells use for a program that was ended by SIGINT.
const ENDED_BY_SIGNAL: i32 = 130;
