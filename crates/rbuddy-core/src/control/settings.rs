//! What the configuration tells the controller about one group.

use super::primary::PrimaryAt;
use crate::types::{GroupName, NodeAddress};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A group's policy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupPolicy {
    /// Its name.
    pub group: GroupName,
    /// How to find the primary.
    pub primary: PrimaryAt,
    /// Managed replicas, in the order of the configuration.
    pub replicas: Vec<NodeAddress>,
    /// How many of them serve when all is well (`active`, default 1). The rest are standbys.
    pub actives: usize,
    /// The relay's address as replicas are told it.
    pub relay: NodeAddress,
    /// `standby = "empty" | "warm"`.
    pub standby: StandbyMode,
    /// `consistency = "rolling" | "atomic"`.
    pub consistency: Consistency,
    /// How many replicas at most are given up for a new dataset at a time, with `standby = "warm"`: at least 1.
    pub max_unavailable: usize,
    /// `freeze = "hold" | "detach"`.
    pub freeze: FreezeMode,
    /// How long readers have to leave the old active.
    pub drain: Duration,
    /// How far a standby may lag and still be promoted.
    pub max_lag: MaxLag,
    /// When a dataset is plausible.
    pub guard: Guard,
    /// A replica that does not answer for this long is dead.
    pub dead_after: Duration,
    /// `snapshot_from = "primary" | "replica"`.
    pub snapshot_from: SnapshotFrom,
    /// Receivers of notifications, by URL.
    pub notify: Vec<String>,
}

/// What a standby is while nothing happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum StandbyMode {
    /// Emptied and held: costs no memory.
    #[default]
    Empty,
    /// All replicas are active; on a new dataset they are resynced, `max_unavailable` at a time.
    Warm,
}

/// How several actives come to a new dataset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// For each replica that has it one with the old dataset is left: both are read beside one another for a while.
    #[default]
    Rolling,
    /// All of them at once: needs as many standbys as actives.
    Atomic,
}

/// How an active keeps its old dataset while a new one arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum FreezeMode {
    /// Its PSYNC is kept waiting: it stays a read-only replica.
    #[default]
    Hold,
    /// `REPLICAOF NO ONE`, as the first tool did, with writes fenced off.
    Detach,
}

/// Who forks when a fresh snapshot of a history that is followed already is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotFrom {
    /// The primary.
    #[default]
    Primary,
    /// An active replica that follows the same history; the primary, if there is none.
    Replica,
}

/// How far a standby may lag behind the live history and still be promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxLag {
    /// Bytes.
    pub bytes: u64,
    /// Age of its last ACK.
    pub time: Duration,
}

/// When a dataset is plausible enough to be promoted without an operator's word.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Guard {
    /// At least this part of the keys must be there: 0.0..=1.0.
    pub min_keys_ratio: f64,
    /// Datasets with fewer keys than this are not judged.
    pub min_keys: u64,
    /// `guard.drift = "refuse" | "warn"`.
    #[serde(default)]
    pub drift: DriftGuard,
}

/// What becomes of a standby that is not set up like the active whose readers it would take, in a way that would hurt them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum DriftGuard {
    /// It is not promoted while another serves.
    #[default]
    Refuse,
    /// It is promoted, and the story tells the differences.
    Warn,
}

impl Default for MaxLag {
    fn default() -> MaxLag {
        MaxLag { bytes: 1 << 20, time: Duration::from_secs(2) }
    }
}

impl Default for Guard {
    fn default() -> Guard {
        Guard { min_keys_ratio: 0.5, min_keys: 1000, drift: DriftGuard::default() }
    }
}
