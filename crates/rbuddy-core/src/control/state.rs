//! What the controller must not forget: the state file. Everything else is seen anew after a restart.

use super::assignment::Notification;
use super::primary::FoundPrimary;
use crate::info::Keyspace;
use crate::replication::history::KnownId;
use crate::types::{DatasetId, Generation, GroupName, NodeAddress, Position, ReplId, RunId, Time};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The state file of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DurableState {
    /// Format of the file.
    pub format: u32,
    /// The group.
    pub group: GroupName,
    /// Number of the committed assignment.
    pub generation: Generation,
    /// The group's histories, newest first: data of these is rbuddy's own (P3).
    pub ids: Vec<KnownId>,
    /// The replicas.
    pub replicas: BTreeMap<NodeAddress, ReplicaRecord>,
    /// What the actives held when last seen whole: what a new dataset is measured by (P4).
    pub reference: Option<Reference>,
    /// Where the primary was found, if not where it is configured.
    #[serde(default)]
    pub primary: Option<FoundPrimary>,
    /// Datasets that an operator approved.
    pub approved: Vec<DatasetId>,
    /// An operator said: no automatic action.
    pub paused: bool,
    /// Notifications that are not delivered yet.
    pub outbox: Vec<Notification>,
    /// Number of the next one.
    pub next_notification: u64,
}

/// What is remembered of a replica.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRecord {
    /// Its role.
    pub role: Role,
    /// The process that got the role.
    pub run_id: Option<RunId>,
    /// The furthest position that was served from it, as far as known: an active comes back only at or past this.
    pub served: Option<Position>,
    /// An operator said that rbuddy may empty it.
    pub adopted: bool,
    /// An operator wants to stop it: once readers have left it, it comes to rest.
    #[serde(default)]
    pub is_to_rest: bool,
    /// It has evicted keys of the dataset that it holds, which others have room for.
    #[serde(default)]
    pub lacks_keys: bool,
}

/// The role of a replica, as committed.
///
/// ```text
///            no keys ┌──────────► Standby ──promote──► Active ──failover──► Draining ──► Emptying ──► Standby
/// Unknown ──► keys ──┤                 ▲                                        │
///                    ├──► Active       └────────── to be seeded at once ────────┘
///                    └──► Refused ──adopt──► Emptying
/// Draining, Standby ──(an operator drains it)──► Drained ──(returns it)──► Standby
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Not judged yet.
    Unknown,
    /// Applications read it.
    Active,
    /// Will be next. May be emptied or resynced.
    Standby,
    /// Readers leave it.
    Draining,
    /// The intent to empty this very process.
    Emptying {
        /// Which process.
        run_id: RunId,
    },
    /// Taken out by an operator. Left alone, whatever becomes of it, until it is returned.
    Drained,
    /// Not proven rbuddy's own.
    Refused {
        /// Why, and what to do.
        reason: String,
    },
}

/// What a new dataset is measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reference {
    /// Where it was.
    pub position: Position,
    /// Its counts, with the average TTL as the primary knew it (replicas do not).
    pub keyspace: Keyspace,
    /// When.
    pub at: Time,
}

impl DurableState {
    /// Before anything is known.
    pub fn new(group: GroupName) -> DurableState {
        DurableState {
            format: FORMAT,
            group,
            generation: Generation::default(),
            ids: Vec::new(),
            replicas: BTreeMap::new(),
            reference: None,
            primary: None,
            approved: Vec::new(),
            paused: false,
            outbox: Vec::new(),
            next_notification: 1,
        }
    }

    /// Whether this id names one of the group's recorded histories.
    pub fn knows(&self, replid: ReplId) -> bool {
        self.ids.iter().any(|known| known.replid == replid)
    }

    /// Older ids of the same history: those that were recorded with it, up to the current id of the history before.
    pub fn earlier_ids(&self, replid: ReplId) -> Vec<KnownId> {
        let behind = self.ids.iter().skip_while(|known| known.replid != replid).skip(1);
        behind.take_while(|known| known.until.is_some()).copied().collect()
    }

    /// How old the history of this id is, by its place among the recorded ones. All ids of one history are of one age.
    pub fn age(&self, replid: ReplId) -> Option<usize> {
        let at = self.ids.iter().position(|known| known.replid == replid)?;
        Some(self.ids[..=at].iter().filter(|known| known.until.is_none()).count())
    }

    /// Whether it is an id of the newest history that was recorded.
    pub fn is_newest(&self, replid: ReplId) -> bool {
        self.age(replid) == Some(1)
    }

    /// Records the ids of a history. The newest stay in front; the oldest fall off.
    pub fn record(&mut self, ids: &[KnownId]) {
        self.ids.retain(|known| ids.iter().all(|id| id.replid != known.replid));
        self.ids.splice(0..0, ids.iter().copied());
        self.ids.truncate(IDS_MAX);
    }

    /// Records the id that a replica of the group gave itself when it was detached, behind the id of the history that it left.
    pub fn record_branch(&mut self, replid: ReplId, of: ReplId) {
        if let Some(at) = self.ids.iter().position(|known| known.replid == of).filter(|_| !self.knows(replid)) {
            self.ids.insert(at + 1, KnownId { replid, until: None });
            self.ids.truncate(IDS_MAX);
        }
    }

    /// Replicas with a role that `which` accepts.
    pub fn with_role<'a>(&'a self, which: impl Fn(&Role) -> bool + 'a) -> impl Iterator<Item = &'a NodeAddress> + 'a {
        self.replicas.iter().filter(move |(_, record)| which(&record.role)).map(|(address, _)| address)
    }

    /// Replicas that applications read.
    pub fn actives(&self) -> impl Iterator<Item = &NodeAddress> {
        self.with_role(|role| matches!(role, Role::Active))
    }

    /// Its role; `Unknown` if there is no record.
    pub fn role(&self, replica: &NodeAddress) -> &Role {
        self.replicas.get(replica).map_or(&Role::Unknown, |record| &record.role)
    }
}

impl Default for ReplicaRecord {
    fn default() -> ReplicaRecord {
        ReplicaRecord { role: Role::Unknown, run_id: None, served: None, adopted: false, is_to_rest: false, lacks_keys: false }
    }
}

/// Format of the state file that this version writes, and the only one it reads.
pub const FORMAT: u32 = 1;

/// How many ids of own histories are remembered. A replica that comes back with an older one is refused until adopted.
const IDS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Offset;

    fn id(digit: char) -> ReplId {
        digit.to_string().repeat(40).parse().expect("an id")
    }

    #[test]
    fn ids_are_recorded_by_history() {
        let known = |digit, until| KnownId { replid: id(digit), until: Offset::new(until).filter(|_| until > 0) };
        let mut state = DurableState::new("main".parse().expect("a name"));
        state.record(&[known('b', 0), known('a', 100)]);
        state.record(&[known('e', 0), known('d', 90), known('c', 50)]);
        assert_eq!(state.earlier_ids(id('e')), [known('d', 90), known('c', 50)]);
        assert_eq!(state.earlier_ids(id('d')), [known('c', 50)]);
        assert_eq!(state.earlier_ids(id('b')), [known('a', 100)]);
        assert_eq!(state.earlier_ids(id('f')), []);
        let ages: Vec<Option<usize>> = ['e', 'd', 'c', 'b', 'a', 'f'].map(|digit| state.age(id(digit))).into();
        assert_eq!(ages, [Some(1), Some(1), Some(1), Some(2), Some(2), None]);
    }
}
