//! The relay without a controller (`rbuddy relay`): it gives everybody what a primary would, and keeps a snapshot only as long as it is of use.

use super::{RelayConfig, RelayError};
use rbuddy_core::control::relay::{RelayOrders, RelayView, SessionState, Start};
use rbuddy_core::replication::psync::HoldReason;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Runs a relay that serves every replica that comes, until cancelled.
pub async fn run_alone(config: RelayConfig, cancel: CancellationToken) -> Result<(), RelayError> {
    let relay = super::bind(RelayConfig { open: true, ..config }).await?;
    let mut view = relay.view();
    let start = if view.borrow().resumable.is_some() { Start::Resume } else { Start::Fresh };
    let (orders, received) = watch::channel(RelayOrders { start: Some(start), ..RelayOrders::default() });
    let guide = async {
        loop {
            let next = guide(&view.borrow_and_update(), &orders.borrow());
            orders.send_if_modified(|now| {
                let modified = *now != next;
                *now = next;
                modified
            });
            if view.changed().await.is_err() {
                // The relay stops: it is awaited below.
                return std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        ran = relay.run(received, cancel) => ran,
        () = guide => Ok(()),
    }
}

/// What to order, given what is.
fn guide(view: &RelayView, now: &RelayOrders) -> RelayOrders {
    let needs_snapshot = view.sessions.values().any(|session| matches!(session.state, SessionState::Held(HoldReason::NeedsFullResync(_))));
    let is_in_use = view.sessions.values().any(|session| match session.state {
        SessionState::Seeding { .. } | SessionState::Loading { .. } => true,
        SessionState::Held(_) | SessionState::Streaming { .. } => false,
    });
    // A snapshot lets the relay go on after a restart. Once the stream behind it has outgrown it, a new one would cost less than keeping it.
    let is_worth_keeping = match (&view.snapshot, view.live()) {
        (Some(snapshot), Some(live)) => {
            let behind = snapshot.dataset.0.offset.bytes_behind(live.end).unwrap_or(0);
            behind <= STREAM_BYTES_MIN.max(2 * snapshot.total_bytes.unwrap_or(0))
        }
        _ => true,
    };
    let is_kept = needs_snapshot || is_in_use || is_worth_keeping;
    let discard_snapshot = view.ready_snapshot().filter(|_| !is_kept).map(|snapshot| snapshot.dataset);
    let mut next = RelayOrders { discard_snapshot, ..now.clone() };
    let is_asked_for = now.snapshot_request > view.snapshot_request_done;
    if needs_snapshot && view.snapshot.is_none() && !is_asked_for {
        next.snapshot_request = Some(now.snapshot_request.unwrap_or(0) + 1);
    }
    next
}

const STREAM_BYTES_MIN: u64 = 256 << 20;
