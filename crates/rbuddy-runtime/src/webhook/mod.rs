//! Tells receivers who is active now. The controller keeps the outbox in its state file; this delivers it.
//!
//! | where | what |
//! | --- | --- |
//! | [`message`] | what is sent |
//! | [`receiver`] | delivers to one URL, in order, until it is delivered |
//!
//! Promises: at least once, in order per URL, across restarts; a receiver that is dead or hangs delays nobody else. Not here: the
//! outbox itself, and deciding when a message has become pointless (it then disappears from the outbox, and is given up here).

mod message;
mod receiver;
#[cfg(test)]
mod tests;

use crate::settings::{NotifySettings, shown_url};
use rbuddy_core::control::assignment::Notification;
use receiver::{Patience, Receiver};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info_span};

/// A receiver has got a notification. The controller strikes it off the outbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered {
    /// The notification's number.
    pub id: u64,
    /// The receiver.
    pub url: String,
}

/// Delivers a group's outbox to its receivers until `cancel`.
pub async fn run(
    targets: Vec<NotifySettings>,
    outbox: watch::Receiver<Arc<Vec<Notification>>>,
    delivered: mpsc::Sender<Delivered>,
    cancel: CancellationToken,
) {
    run_with(Patience::default(), targets, outbox, delivered, cancel).await;
}

async fn run_with(
    patience: Patience,
    targets: Vec<NotifySettings>,
    outbox: watch::Receiver<Arc<Vec<Notification>>>,
    delivered: mpsc::Sender<Delivered>,
    cancel: CancellationToken,
) {
    let mut receivers = JoinSet::new();
    for target in targets {
        let span = info_span!("webhook", url = shown_url(&target.url));
        match Receiver::new(target, patience, outbox.clone(), delivered.clone()) {
            Ok(receiver) => {
                let cancel = cancel.clone();
                let delivering = async move { cancel.run_until_cancelled(receiver.run()).await };
                receivers.spawn(delivering.instrument(span));
            }
            // Only a machine without any TLS certificates gets here; messages stay in the outbox and the status shows them.
            Err(error) => span.in_scope(|| error!(%error, "webhook cannot be used")),
        }
    }
    while let Some(ended) = receivers.join_next().await {
        if let Err(error) = ended {
            error!(%error, "webhook task failed");
        }
    }
    // Also without any receiver this lasts as long as it was asked to: a part that ends by itself is a fault.
    cancel.cancelled().await;
}
