//! Who may be read. The controller publishes this after it is on disk; reader endpoint, API and webhooks follow it.

use crate::types::{Generation, GroupName, NodeAddress, Offset, ReplId, RunId, Time};
use serde::{Deserialize, Serialize};

/// The committed roles of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The group.
    pub group: GroupName,
    /// Its number.
    pub generation: Generation,
    /// Replicas that serve, healthy at last sight, those with the newest dataset first. Empty: see `reason`.
    pub actives: Vec<ActiveReplica>,
    /// The replica that will be next, where one is free.
    pub standby: Option<NodeAddress>,
    /// Replicas that readers leave.
    pub draining: Vec<DrainingReplica>,
    /// Why nothing serves, in words an operator can act on. `None` while something does.
    pub reason: Option<String>,
}

/// What a reader may rely on about an active replica, and must check on each new connection (promise P1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActiveReplica {
    /// Where.
    pub address: NodeAddress,
    /// The process that was judged. Another run id waits for the controller.
    pub run_id: RunId,
    /// It must call itself a replica (`role:slave`), or, after a detach, `master`.
    pub detached: bool,
    /// Its history's id must be one of these, the newest first. After a detach it is the last one: the replica's own, behind that of the history it left.
    pub replids: Vec<ReplId>,
    /// It must have at least this much of it: what earlier actives were sent.
    pub offset_at_least: Offset,
    /// Ids of the group's newer histories, while it still serves an older one: who has read one of them does not come here any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub newer: Vec<ReplId>,
}

/// A replica that was active and is being left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainingReplica {
    /// Where.
    pub address: NodeAddress,
    /// Connections that could not move are closed then. `None`: that is said as soon as this was told, however long it took to write down.
    pub until: Option<Time>,
}

/// A change of who is active, for webhooks. Delivered at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Its number within the group, rising.
    pub id: u64,
    /// What happened.
    pub event: NotificationEvent,
    /// The group.
    pub group: GroupName,
    /// The generation that it tells of.
    pub generation: Generation,
    /// Active before.
    pub old: Option<NodeAddress>,
    /// Active now.
    pub new: NodeAddress,
    /// When.
    pub time: Time,
    /// Receivers (as indices into the group's `notify` list, and their URLs) that still have to get it.
    pub pending: Vec<String>,
}

/// What a notification tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotificationEvent {
    /// Another replica is active.
    Failover,
    /// The first one is.
    Bootstrap,
}
