//! What a reader endpoint shows of itself.

use crate::types::NodeAddress;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A reader endpoint at one moment. Totals count from its start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReaderView {
    /// Clients that are connected.
    pub clients: u64,
    /// Their connections, per replica. A client that has not asked for anything yet, or not since its replica went, has none.
    pub connections: BTreeMap<NodeAddress, u64>,
    /// Requests that clients began.
    pub requests: u64,
    /// Errors that rbuddy gave instead of a server, `-READONLY` and refusals included.
    pub errors: u64,
    /// Connections that moved to another server, or came back to theirs after it was lost.
    pub moves: u64,
    /// Clients that wait for a server now.
    pub parked_now: u64,
    /// Times that a client had to wait since no server could be read at once.
    pub parked: u64,
    /// The longest such wait.
    pub longest_park_ms: u64,
}
