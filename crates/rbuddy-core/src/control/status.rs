//! What people and tools are shown: `GET /v1/status`, `rbuddy status`. Derived, never stored.

use super::assignment::{DrainingReplica, Notification};
use super::primary::PrimarySource;
use super::relay::{BacklogView, SessionState, SnapshotView, UpstreamView};
use crate::types::{DatasetId, Generation, GroupName, NodeAddress, Position, RunId, ServerVersion, Time};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A group at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupStatus {
    /// Its name.
    pub group: GroupName,
    /// When this was true.
    pub time: Time,
    /// Number of the committed assignment.
    pub generation: Generation,
    /// What the controller is doing.
    pub phase: Phase,
    /// The phase in words, with numbers: why, and what an operator can do.
    pub explanation: String,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Replicas that serve.
    pub active: Vec<NodeAddress>,
    /// Replicas that will be next.
    pub standby: Vec<NodeAddress>,
    /// Replicas that are being left.
    pub draining: Vec<DrainingReplica>,
    /// A dataset that a guard rejects.
    pub refusal: Option<Refusal>,
    /// The primary.
    pub primary: PrimaryStatus,
    /// The connection to the primary.
    pub upstream: UpstreamView,
    /// End of the live history.
    pub position: Option<Position>,
    /// The snapshot on disk.
    pub snapshot: Option<SnapshotView>,
    /// What is kept of the stream.
    #[serde(default)]
    pub backlog: BacklogView,
    /// All replicas, in the order of the configuration.
    pub replicas: Vec<ReplicaStatus>,
    /// Webhooks that are not delivered yet.
    pub undelivered: Vec<Notification>,
}

impl GroupStatus {
    /// The same while what was decided cannot be written down, and so is not done: what it shows gets old.
    #[must_use]
    pub fn not_written(mut self, why: &str) -> GroupStatus {
        self.explanation = format!(
            "{why}. Readers stay where they are and nothing is changed until it can be written. Before: {}, {}",
            self.phase, self.explanation
        );
        self.phase = Phase::StateNotWritten;
        for replica in &mut self.replicas {
            replica.may_stop = MayStop { allowed: false, reason: format!("nobody would take over: {why}") };
        }
        self
    }
}

/// What the controller is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Looking at the servers after a start.
    Starting,
    /// No replica has data: the first one is being filled.
    Bootstrapping,
    /// The actives follow the primary.
    Normal,
    /// The primary is away; the actives serve what they have.
    Disconnected,
    /// A new dataset arrives; the actives are held.
    ReceivingSnapshot,
    /// A standby is being filled with it.
    SyncingStandby,
    /// The new dataset is rejected by a guard.
    Refused,
    /// The new active serves; the old one is being left.
    Draining,
    /// The old active is being emptied.
    Retiring,
    /// A failover is needed and nothing can take over.
    NoStandby,
    /// No replica can be read.
    NoActive,
    /// An operator paused it.
    Paused,
    /// The state file cannot be written: nothing is changed until it can.
    StateNotWritten,
    /// Something contradicts what must hold: no automatic action any more.
    Alarm,
}

/// A dataset that a guard rejects.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Which: what `approve` wants to be told.
    pub dataset: DatasetId,
    /// Why, with both sides' numbers.
    pub reason: String,
    /// What to do.
    pub remedy: String,
}

/// The primary, as probed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrimaryStatus {
    /// Where; `None`: no Sentinel has named it yet.
    pub address: Option<NodeAddress>,
    /// Who said so.
    pub source: PrimarySource,
    /// What is said of another place, and why rbuddy is not there.
    pub note: Option<String>,
    /// Whether it answered the last probe.
    pub reachable: bool,
    /// Why not.
    pub error: Option<String>,
    /// Its version.
    pub version: Option<ServerVersion>,
    /// Its process.
    pub run_id: Option<RunId>,
    /// Its position.
    pub position: Option<Position>,
    /// Its keys.
    pub keys: Option<u64>,
}

/// A replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Where; its name everywhere.
    pub address: NodeAddress,
    /// Its role.
    pub role: RoleName,
    /// Whether it answered the last probe.
    pub reachable: bool,
    /// Whether its dataset is loading.
    pub loading: bool,
    /// What is worth knowing: why refused, why not reachable, what it waits for.
    pub note: Option<String>,
    /// Its version.
    pub version: Option<ServerVersion>,
    /// Its process.
    pub run_id: Option<RunId>,
    /// Where it stands.
    pub position: Option<Position>,
    /// Bytes behind the live history, where it follows it.
    pub lag_bytes: Option<u64>,
    /// Its keys.
    pub keys: Option<u64>,
    /// What the relay does with it; `None`: not connected.
    pub session: Option<SessionState>,
    /// Whether an operator may stop it now.
    pub may_stop: MayStop,
    /// It went in and out of service too often: not read as long as a steady one serves, and filled last.
    pub flapping: Option<Flapping>,
    /// A standby: what its readers would find otherwise than where they are now.
    pub drift: Vec<Drift>,
}

/// How often a replica went out of service lately, and what it has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flapping {
    /// So often, each time within minutes of coming back.
    pub falls: u32,
    /// For so many seconds it has to be steady.
    pub steady_for_s: u64,
    /// Then it will have been; `None`: it is out of service now.
    pub until: Option<Time>,
}

/// A difference between a standby and a replica whose readers it would take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// The other one.
    pub from: NodeAddress,
    /// What it is.
    #[serde(flatten)]
    pub difference: Difference,
}

/// How two servers differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    /// In what.
    pub setting: Setting,
    /// Readers would notice: a promotion waits for an operator, unless nobody serves.
    pub hurts: bool,
    /// With both sides' numbers.
    pub reason: String,
    /// How to make them alike.
    pub remedy: String,
}

/// What servers that take over for each other should have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Setting {
    /// `maxmemory`, also against the data.
    Maxmemory,
    /// `maxmemory-policy`.
    MaxmemoryPolicy,
    /// `databases`.
    Databases,
    /// The users of the ACL.
    Users,
    /// Loaded modules.
    Modules,
    /// The server's version.
    Version,
}

/// The answer to "may I stop this one now?": `GET /v1/groups/{g}/replicas/{r}/may-stop`, `rbuddy may-stop`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MayStop {
    /// Nobody would notice.
    pub allowed: bool,
    /// Why, or why not and what to do.
    pub reason: String,
}

/// The role of a replica, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoleName {
    /// Not judged yet.
    Unknown,
    /// Applications read it.
    Active,
    /// Will be next.
    Standby,
    /// Readers leave it.
    Draining,
    /// Is being emptied.
    Retiring,
    /// Taken out by an operator: left alone until returned.
    Drained,
    /// Not proven rbuddy's own: left alone until adopted.
    Refused,
}

/// What an operator can ask of a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Planned switch to a standby.
    Failover,
    /// Promote this very dataset although a guard rejects it.
    Approve {
        /// Which.
        dataset: DatasetId,
    },
    /// rbuddy may empty this replica.
    Adopt {
        /// Which.
        replica: NodeAddress,
    },
    /// An operator wants to stop this replica: readers leave it, then it is left alone.
    Drain {
        /// Which.
        replica: NodeAddress,
    },
    /// It takes part again.
    Return {
        /// Which.
        replica: NodeAddress,
    },
    /// The primary is here now, whatever Sentinels say.
    SetPrimary {
        /// Where.
        address: NodeAddress,
    },
    /// No automatic action until `Resume`; what serves goes on serving.
    Pause,
    /// The opposite.
    Resume,
}

/// The answer: what happens now, or why nothing does.
pub type OperationResult = Result<String, String>;

macro_rules! snake_case_display {
    ($type:ident { $($variant:ident => $text:literal),+ $(,)? }) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $($type::$variant => $text),+ })
            }
        }
    };
}
snake_case_display!(Phase {
    Starting => "starting",
    Bootstrapping => "bootstrapping",
    Normal => "normal",
    Disconnected => "disconnected",
    ReceivingSnapshot => "receiving_snapshot",
    SyncingStandby => "syncing_standby",
    Refused => "refused",
    Draining => "draining",
    Retiring => "retiring",
    NoStandby => "no_standby",
    NoActive => "no_active",
    Paused => "paused",
    StateNotWritten => "state_not_written",
    Alarm => "alarm",
});
snake_case_display!(RoleName {
    Unknown => "unknown",
    Active => "active",
    Standby => "standby",
    Draining => "draining",
    Retiring => "retiring",
    Drained => "drained",
    Refused => "refused",
});
