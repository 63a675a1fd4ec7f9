//! What was learnt of the servers of a group. Plain data, so that judging needs no server.

use crate::primary::Said;
use crate::settings::GroupSettings;
use rbuddy_core::control::drift::{Seen, Settings};
use rbuddy_core::info::ServerInfo;
use rbuddy_core::types::{NodeAddress, ReplId};
use std::collections::BTreeMap;

/// A group: what is configured, and what its servers say.
#[derive(Debug, Clone)]
pub(super) struct GroupFacts {
    pub(super) settings: GroupSettings,
    /// `None`: no Sentinel names one.
    pub(super) primary: Option<Server>,
    /// What the Sentinels said that are asked for the primary.
    pub(super) sentinels: Vec<Said>,
    /// In the order of the configuration.
    pub(super) replicas: Vec<Server>,
    /// Ids of the group's own histories, from the state file of an earlier run.
    pub(super) own_ids: Vec<ReplId>,
}

/// A server, and what it said or why it said nothing.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) address: NodeAddress,
    pub(super) facts: Result<ServerFacts, Silence>,
}

/// Why a server said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Silence {
    /// It answers, but not to us.
    pub(super) is_denied: bool,
    pub(super) reason: String,
}

/// What a server said.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerFacts {
    pub(super) info: ServerInfo,
    /// Bytes per second that its history grew while it was looked at.
    pub(super) write_rate: Option<f64>,
    /// `CONFIG GET`, as far as it may be asked. Some values are secrets.
    pub(super) config: BTreeMap<&'static str, String>,
    /// What our login may do there.
    pub(super) commands: BTreeMap<&'static str, Access>,
    /// What must be alike where one takes over for another.
    pub(super) settings: Settings,
    /// Sentinels that are connected.
    pub(super) sentinels: usize,
    /// Its configuration file's `replicaof`, where the file is on this machine and can be read.
    pub(super) file_replicaof: Option<Option<NodeAddress>>,
}

/// Whether a command can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    Allowed,
    /// The server has no command of that name: too old, or renamed.
    Missing,
    /// Our login may not.
    Denied,
    /// It exists; whether we may use it could not be asked.
    Unknown,
}

impl GroupFacts {
    /// The replicas that answered.
    pub(super) fn known_replicas(&self) -> impl Iterator<Item = (&NodeAddress, &ServerFacts)> {
        self.replicas.iter().filter_map(|server| server.facts.as_ref().ok().map(|facts| (&server.address, facts)))
    }

    /// The primary, if it answered.
    pub(super) fn known_primary(&self) -> Option<(&NodeAddress, &ServerFacts)> {
        let primary = self.primary.as_ref()?;
        primary.facts.as_ref().ok().map(|facts| (&primary.address, facts))
    }
}

impl ServerFacts {
    /// A parameter, if it is known.
    pub(super) fn config(&self, name: &str) -> Option<&str> {
        self.config.get(name).map(String::as_str)
    }

    /// As it is held against others.
    pub(super) fn seen(&self) -> Seen<'_> {
        Seen { info: &self.info, settings: Some(&self.settings) }
    }

    /// It keeps its dataset over a restart.
    pub(super) fn persists(&self) -> Option<bool> {
        let saves = self.config("save").map(|save| !save.is_empty());
        if self.info.is_aof_enabled { Some(true) } else { saves }
    }
}
