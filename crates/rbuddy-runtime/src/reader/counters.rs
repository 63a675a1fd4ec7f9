//! What the endpoint counts, and the view made of it.

use rbuddy_core::reader::view::ReaderView;
use rbuddy_core::types::NodeAddress;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Shared by all clients. Each number stands alone, so relaxed order is enough.
#[derive(Debug, Default)]
pub(super) struct Counters {
    clients: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    moves: AtomicU64,
    parked_now: AtomicU64,
    parked: AtomicU64,
    longest_park_ms: AtomicU64,
    connections: Mutex<BTreeMap<NodeAddress, u64>>,
}

impl Counters {
    pub(super) fn view(&self) -> ReaderView {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ReaderView {
            clients: load(&self.clients),
            connections: self.connections().clone(),
            requests: load(&self.requests),
            errors: load(&self.errors),
            moves: load(&self.moves),
            parked_now: load(&self.parked_now),
            parked: load(&self.parked),
            longest_park_ms: load(&self.longest_park_ms),
        }
    }

    pub(super) fn add_requests(&self, count: u64) {
        self.requests.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn add_error(&self) {
        self.errors.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_move(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// How many connections lead to a replica.
    pub(super) fn connections_to(&self, address: &NodeAddress) -> u64 {
        self.connections().get(address).copied().unwrap_or(0)
    }

    fn connections(&self) -> MutexGuard<'_, BTreeMap<NodeAddress, u64>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client, as long as this lives.
#[derive(Debug)]
pub(super) struct ClientCount(Arc<Counters>);

impl ClientCount {
    /// `None` when there are `max` already.
    pub(super) fn take(counters: &Arc<Counters>, max: usize) -> Option<ClientCount> {
        let count = ClientCount(Arc::clone(counters));
        // Counted first and given back by the drop, so that two at once cannot both be the last one.
        let before = counters.clients.fetch_add(1, Ordering::Relaxed);
        (before < max as u64).then_some(count)
    }
}

impl Drop for ClientCount {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection to a replica, as long as this lives.
#[derive(Debug)]
pub(super) struct ConnectionCount {
    counters: Arc<Counters>,
    address: NodeAddress,
}

impl ConnectionCount {
    pub(super) fn new(counters: &Arc<Counters>, address: NodeAddress) -> ConnectionCount {
        *counters.connections().entry(address.clone()).or_default() += 1;
        ConnectionCount { counters: Arc::clone(counters), address }
    }
}

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        let mut connections = self.counters.connections();
        if let Some(count) = connections.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                connections.remove(&self.address);
            }
        }
    }
}

/// A client that waits for a server, as long as this lives.
#[derive(Debug)]
pub(super) struct Park {
    counters: Arc<Counters>,
    since: Instant,
}

impl Park {
    pub(super) fn begin(counters: &Arc<Counters>, since: Instant) -> Park {
        counters.parked_now.fetch_add(1, Ordering::Relaxed);
        counters.parked.fetch_add(1, Ordering::Relaxed);
        Park { counters: Arc::clone(counters), since }
    }
}

impl Drop for Park {
    fn drop(&mut self) {
        let waited_ms = u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.counters.parked_now.fetch_sub(1, Ordering::Relaxed);
        self.counters.longest_park_ms.fetch_max(waited_ms, Ordering::Relaxed);
    }
}
