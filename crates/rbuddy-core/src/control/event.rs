//! What the controller is told. Plain data: one format for driver, journal, simulator and transcripts.

use super::action::{ActionId, Outcome};
use super::drift::Settings;
use super::primary::SentinelView;
use super::relay::RelayView;
use super::status::Operation;
use crate::info::ServerInfo;
use crate::types::{NodeAddress, Time};
use serde::{Deserialize, Serialize};

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// The relay published a new view.
    Relay(Box<RelayView>),
    /// A server was asked how it is.
    Probe {
        /// Which.
        node: Node,
        /// When it was asked: what it says may be older than anything that happened since.
        asked_at: Time,
        /// What came of it.
        result: ProbeResult,
    },
    /// A command to a server ended.
    Outcome {
        /// Which.
        id: ActionId,
        /// How.
        outcome: Outcome,
    },
    /// An operator asks for something; the answer is an `Action::Reply` with the same number.
    Operator {
        /// Number of the request.
        request: u64,
        /// What.
        operation: Operation,
    },
    /// The configured Sentinels say something else than before.
    Sentinels(SentinelView),
    /// A receiver took a notification.
    Delivered {
        /// Number of the notification.
        id: u64,
        /// Which receiver.
        url: String,
    },
    /// Time passed.
    Tick,
}

/// A server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Node {
    /// The group's primary. Named by its address, since an answer of the former one may arrive after it has moved.
    Primary(NodeAddress),
    /// A server that is said to be the primary now, looked at once before it is followed.
    Candidate(NodeAddress),
    /// One of its replicas.
    Replica(NodeAddress),
}

/// What came of a look at a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeResult {
    /// It answered.
    Answered(Box<Probe>),
    /// It did not: refused, timed out, or denied, in words. None of these says that it is dead; that takes `dead_after`.
    Failed(String),
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Probe {
    /// `INFO`.
    pub info: ServerInfo,
    /// `replica-serve-stale-data`; `None` where it may not be asked.
    pub serve_stale: Option<bool>,
    /// What it is set to. `None`: it was not asked this time, since that rarely changes, and what the same process said before still counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings>,
}
