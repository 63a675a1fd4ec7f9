//! What the parts know of a running group: states to read, a queue for operations. `app.rs` makes one per group; the parts that hold it
//! do not know each other.

use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::control::plan::Plan;
use rbuddy_core::control::status::{GroupStatus, Operation, OperationResult};
use rbuddy_core::types::GroupName;
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
