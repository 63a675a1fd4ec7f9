//! Carries out the orders that are about keeping: ended histories, the snapshot and its stream.

use super::hub::Hub;
use super::spool;
use rbuddy_core::control::relay::RelayOrders;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Runs until cancelled.
pub(super) async fn keep(hub: Arc<Hub>, mut orders: watch::Receiver<RelayOrders>, cancel: CancellationToken) {
    let mut view = hub.view.clone();
    let mut unwanted_since: Option<Instant> = None;
    loop {
        let (is_started, keep_snapshot, keep_ended) = {
            let orders = orders.borrow_and_update();
            (orders.start.is_some(), orders.keep_snapshot, orders.keep_ended)
        };
        let has_snapshot = {
            let mut inner = hub.lock();
            if inner.keep_ended != keep_ended {
                inner.keep_ended = keep_ended;
                inner.prune();
                hub.changed.notify_one();
            }
            inner.spool.is_some() || inner.arrival.as_ref().is_some_and(|arrival| arrival.failed.is_some())
        };
        unwanted_since = match unwanted_since {
            _ if !is_started || keep_snapshot || !has_snapshot => None,
            None => Some(Instant::now()),
            known @ Some(_) => known,
        };
        if unwanted_since.is_some_and(|since| since.elapsed() >= GRACE) {
            hub.update(|inner| inner.arrival.take_if(|arrival| arrival.failed.is_some()));
            spool::remove(&hub).await;
            continue;
        }
        let wake = unwanted_since.map_or(Instant::now() + IDLE, |since| since + GRACE);
        let changed = tokio::select! {
            changed = orders.changed() => changed,
            changed = view.changed() => changed,
            () = tokio::time::sleep_until(wake) => Ok(()),
            () = cancel.cancelled() => return,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// A small snapshot may be complete before whoever gives the orders has heard of it: they get this long to say that they want it.
const GRACE: Duration = Duration::from_secs(10);
/// Everything that matters wakes the task; this only bounds the wait.
const IDLE: Duration = Duration::from_secs(60);
