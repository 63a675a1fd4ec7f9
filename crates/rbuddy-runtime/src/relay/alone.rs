//! The relay without a controller (`rbuddy relay`): it gives everybody what a primary would, and keeps a snapshot only as long as it is of use.

use super::{RelayConfig, RelayError};
use rbuddy_core::control::primary::{PrimaryAt, SentinelView};
use rbuddy_core::control::relay::{RelayOrders, RelayView, SessionState, Start};
use rbuddy_core::replication::psync::HoldReason;
use rbuddy_core::types::NodeAddress;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Runs a relay that serves every replica that comes, until cancelled. `sentinels` is what those say that know the primary.
pub async fn run_alone(
    config: RelayConfig,
    mut sentinels: watch::Receiver<SentinelView>,
    cancel: CancellationToken,
) -> Result<(), RelayError> {
    let (configured, own) = (config.primary.at(), config.settings.announce.clone());
    let relay = super::bind(RelayConfig { open: true, ..config }).await?;
    let mut view = relay.view();
    let start = if view.borrow().resumable.is_some() { Start::Resume } else { Start::Fresh };
    let (orders, received) = watch::channel(RelayOrders { start: Some(start), ..RelayOrders::default() });
    let guide = async {
        loop {
            let mut next = guide(&view.borrow_and_update(), &orders.borrow());
            let told = primary_said(&configured, &view.borrow(), &sentinels.borrow_and_update());
            next.primary = told.filter(|told| *told != own).or(next.primary);
            orders.send_if_modified(|now| {
                let modified = *now != next;
                *now = next;
                modified
            });
            tokio::select! {
                // Nobody watches any more, or the relay stops: it is awaited below.
                Ok(()) = view.changed() => {}
                Ok(()) = sentinels.changed() => {}
                else => return std::future::pending::<()>().await,
            }
        }
    };
    tokio::select! {
        ran = relay.run(received, cancel) => ran,
        () = guide => Ok(()),
    }
}

/// Where the primary is said to be. Sentinels that are asked know best; else what one of them tells the relay counts.
fn primary_said(configured: &PrimaryAt, view: &RelayView, sentinels: &SentinelView) -> Option<NodeAddress> {
    match configured {
        PrimaryAt::Named(_) => sentinels.named.clone(),
        PrimaryAt::Fixed(_) => view.told_to_follow.as_ref().map(|told| told.address.clone()),
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

#[cfg(test)]
mod tests {
    use super::*;
    use rbuddy_core::control::relay::ToldToFollow;

    #[test]
    fn sentinels_that_are_asked_are_heard_and_else_what_they_tell_the_relay() {
        let at = |port| NodeAddress::new("10.0.0.1", port);
        let view = RelayView { told_to_follow: Some(ToldToFollow { address: at(2), number: 1 }), ..RelayView::default() };
        let sentinels = SentinelView { named: Some(at(3)), trouble: None };
        assert_eq!(primary_said(&PrimaryAt::Fixed(at(1)), &view, &sentinels), Some(at(2)));
        assert_eq!(primary_said(&PrimaryAt::Named("m".into()), &view, &sentinels), Some(at(3)));
        assert_eq!(primary_said(&PrimaryAt::Named("m".into()), &view, &SentinelView::default()), None);
    }
}
