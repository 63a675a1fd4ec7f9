//! Takes in what the orders say of replicas' versions, and carries out the orders to discard: ended histories, the snapshot, what replicas that are
//! away might have needed. An order to discard names what it means, so one that was given before the next snapshot began cannot remove that one.

use super::hub::Hub;
use super::spool;
use rbuddy_core::control::relay::RelayOrders;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Runs until cancelled.
pub(super) async fn keep(hub: Arc<Hub>, mut orders: watch::Receiver<RelayOrders>, cancel: CancellationToken) {
    let mut view = hub.view.clone();
    loop {
        let RelayOrders { discard_snapshot, discard_ended, permits, versions, .. } = orders.borrow_and_update().clone();
        let is_discarded = |dataset| Some(dataset) == discard_snapshot;
        let removed = {
            let mut inner = hub.lock();
            inner.versions.extend(versions);
            inner.forget_away(hub.now(), |address| permits.get(address).copied(), hub.config.open);
            if inner.discard_ended != discard_ended {
                inner.discard_ended = discard_ended;
                inner.prune();
                hub.changed.notify_one();
            }
            if inner.arrival.take_if(|arrival| arrival.failed.is_some() && is_discarded(arrival.dataset)).is_some() {
                hub.changed.notify_one();
            }
            inner.spool.as_ref().map(|(_, spool)| spool.dataset).filter(|dataset| is_discarded(*dataset))
        };
        if let Some(dataset) = removed {
            spool::remove(&hub, dataset).await;
        }
        let changed = tokio::select! {
            changed = orders.changed() => changed,
            changed = view.changed() => changed,
            () = tokio::time::sleep(IDLE) => Ok(()),
            () = cancel.cancelled() => return,
        };
        if changed.is_err() {
            // Whoever gives orders ends before the relay does.
            return cancel.cancelled().await;
        }
    }
}

/// Everything that matters wakes the task; this only bounds the wait.
const IDLE: Duration = Duration::from_secs(60);
