//! What the parts know of a running group: states to read, a queue for operations. `app.rs` makes one per group; the parts that hold it
//! do not know each other.

use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::control::plan::Plan;
use rbuddy_core::control::status::{GroupStatus, Operation, OperationResult};
use rbuddy_core::types::{GroupName, NodeAddress, Position};
use std::fmt;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};

/// A running group, seen from outside its controller.
#[derive(Debug, Clone)]
pub struct GroupHandle {
    /// Its name.
    pub name: GroupName,
    /// What people are shown.
    pub status: watch::Receiver<Arc<GroupStatus>>,
    /// Who may be read.
    pub assignment: watch::Receiver<Arc<Assignment>>,
    /// What an operator asks. Bounded: an asker waits, up to its own deadline.
    pub operations: mpsc::Sender<OperationRequest>,
    /// Who asks what would happen now. Bounded as well.
    pub plans: mpsc::Sender<PlanRequest>,
}

/// Where a plan goes. Dropped: nobody will answer.
pub type PlanRequest = oneshot::Sender<Box<Plan>>;

/// An operation and where its answer goes. A dropped `reply` means that nobody will answer.
#[derive(Debug)]
pub struct OperationRequest {
    /// What is asked.
    pub operation: Operation,
    /// The controller's answer.
    pub reply: oneshot::Sender<OperationResult>,
}

/// Says how far the relay has fed a replica, at the moment of asking: all of that may have been read there.
#[derive(Clone)]
pub struct Fed(Arc<AskRelay>);

type AskRelay = dyn Fn(&NodeAddress) -> Vec<Position> + Send + Sync;

impl Fed {
    /// One that asks `relay`.
    pub fn new(relay: impl Fn(&NodeAddress) -> Vec<Position> + Send + Sync + 'static) -> Fed {
        Fed(Arc::new(relay))
    }

    /// How far, in this session or the last one, by each id of that history; empty: it was never fed.
    pub fn to(&self, replica: &NodeAddress) -> Vec<Position> {
        self.0(replica)
    }
}

impl fmt::Debug for Fed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fed")
    }
}
