//! How long the last snapshot took to store and the last standby to fill, read off the relay's views as they come by. Only told: no decision rests on it.

use super::relay::{RelayView, SessionState, SnapshotState};
use crate::types::{DatasetId, NodeAddress, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What was measured in this run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Measured {
    /// The last snapshot that arrived whole.
    pub(super) storing: Option<Pace>,
    /// The last standby that was filled: from the first byte of the snapshot until it followed.
    pub(super) filling: Option<Pace>,
    arriving: Option<(DatasetId, Time)>,
    filled: BTreeMap<NodeAddress, Filled>,
}

/// So many bytes in that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pace {
    pub(super) bytes: u64,
    pub(super) took: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Filled {
    dataset: DatasetId,
    since: Time,
    bytes: u64,
}

impl Pace {
    /// For as many bytes, in milliseconds.
    pub(super) fn ms_for(&self, bytes: u64) -> Option<u64> {
        let ms = self.took.as_millis().checked_mul(u128::from(bytes))?.checked_div(u128::from(self.bytes))?;
        u64::try_from(ms).ok()
    }
}

impl Measured {
    /// The next view of the relay.
    pub(super) fn observe(&mut self, now: Time, view: &RelayView) {
        match view.snapshot.as_ref().map(|snapshot| (snapshot, &snapshot.state)) {
            Some((snapshot, SnapshotState::Receiving)) if self.arriving.is_none_or(|(dataset, _)| dataset != snapshot.dataset) => {
                self.arriving = Some((snapshot.dataset, now));
            }
            Some((_, SnapshotState::Receiving)) => {}
            Some((snapshot, SnapshotState::Ready)) => {
                if let Some((_, since)) = self.arriving.take().filter(|(dataset, _)| *dataset == snapshot.dataset) {
                    self.storing = Some(Pace { bytes: snapshot.bytes, took: now.since(since) });
                }
            }
            Some((_, SnapshotState::Failed(_))) | None => self.arriving = None,
        }
        self.filled.retain(|replica, _| view.sessions.contains_key(replica));
        for (replica, session) in &view.sessions {
            match session.state {
                SessionState::Seeding { dataset, total_bytes, .. } => self.begin(replica, dataset, total_bytes, now),
                // It went out between two views.
                SessionState::Loading { dataset } => {
                    let bytes = view.snapshot.as_ref().filter(|snapshot| snapshot.dataset == dataset).map_or(0, |snapshot| snapshot.bytes);
                    self.begin(replica, dataset, bytes, now);
                }
                SessionState::Streaming { seeded, .. } => {
                    if let Some(filled) = self.filled.remove(replica).filter(|filled| Some(filled.dataset) == seeded) {
                        self.filling = Some(Pace { bytes: filled.bytes, took: now.since(filled.since) });
                    }
                }
                SessionState::Held(_) => _ = self.filled.remove(replica),
            }
        }
    }

    fn begin(&mut self, replica: &NodeAddress, dataset: DatasetId, bytes: u64, now: Time) {
        let known = self.filled.get(replica).is_some_and(|filled| filled.dataset == dataset);
        if !known {
            self.filled.insert(replica.clone(), Filled { dataset, since: now, bytes });
        }
    }
}
