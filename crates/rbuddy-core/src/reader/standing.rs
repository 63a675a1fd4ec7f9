//! What an assignment means for a connection that has a server.

use crate::control::assignment::{ActiveReplica, Assignment};
use crate::types::{NodeAddress, RunId, Time};

/// What a connection does with its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It is an active: goes on.
    Active(ActiveReplica),
    /// It is being left: move at the next boundary; whoever cannot is closed then.
    Draining {
        /// When; `None`: that is said next.
        until: Option<Time>,
    },
    /// It is neither, or another process has taken its place: leave at once.
    Gone,
}

/// Where the server with this address and process stands.
pub fn standing(assignment: &Assignment, address: &NodeAddress, run_id: RunId) -> Standing {
    if let Some(active) = assignment.actives.iter().find(|active| active.address == *address && active.run_id == run_id) {
        return Standing::Active(active.clone());
    }
    match assignment.draining.iter().find(|draining| draining.address == *address) {
        Some(draining) => Standing::Draining { until: draining.until },
        None => Standing::Gone,
    }
}
