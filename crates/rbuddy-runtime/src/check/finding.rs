//! What a check says.

use rbuddy_core::types::{GroupName, NodeAddress};
use serde::Serialize;
use std::fmt;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// The group.
    pub group: GroupName,
    /// The server; `None` if it is about the group.
    pub server: Option<NodeAddress>,
    /// What was looked at.
    pub topic: Topic,
    /// What was found, with numbers.
    pub message: String,
    /// What to do.
    pub remedy: Option<String>,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Worth knowing.
    Note,
    /// Works, and will hurt one day.
    Warning,
    /// A failover would not work, or `run` refuses to start.
    Error,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Topic {
    /// It answers and lets us in.
    Reachable,
    /// Which process it is.
    Identity,
    /// Cluster mode.
    Cluster,
    /// Whom it follows.
    Role,
    /// Whose keys it holds.
    Data,
    /// Versions and snapshot formats.
    Version,
    /// What our login may do.
    Commands,
    /// `masterauth` against the relay.
    Masterauth,
    /// What it does on its own restart.
    Restart,
    /// `replica-serve-stale-data`.
    StaleReads,
    /// `replica-read-only`.
    ReadOnly,
    /// Memory.
    Memory,
    /// Backlog against the write rate.
    Backlog,
    /// Differences between servers that should be alike.
    Drift,
    /// Sentinels that would interfere.
    Sentinel,
}

/// Collects a group's findings.
pub(super) struct Findings<'g> {
    group: &'g GroupName,
    list: Vec<Finding>,
}

impl<'g> Findings<'g> {
    pub(super) fn new(group: &'g GroupName) -> Findings<'g> {
        Findings { group, list: Vec::new() }
    }

    pub(super) fn ok(&mut self, server: &NodeAddress, topic: Topic, message: impl Into<String>) {
        self.add(Severity::Ok, Some(server), topic, message.into(), "");
    }

    pub(super) fn note(&mut self, server: &NodeAddress, topic: Topic, message: impl Into<String>, remedy: &str) {
        self.add(Severity::Note, Some(server), topic, message.into(), remedy);
    }

    pub(super) fn warning(&mut self, server: &NodeAddress, topic: Topic, message: impl Into<String>, remedy: &str) {
        self.add(Severity::Warning, Some(server), topic, message.into(), remedy);
    }

    pub(super) fn error(&mut self, server: &NodeAddress, topic: Topic, message: impl Into<String>, remedy: &str) {
        self.add(Severity::Error, Some(server), topic, message.into(), remedy);
    }

    /// About the group as a whole.
    pub(super) fn about_group(&mut self, severity: Severity, topic: Topic, message: impl Into<String>, remedy: &str) {
        self.add(severity, None, topic, message.into(), remedy);
    }

    fn add(&mut self, severity: Severity, server: Option<&NodeAddress>, topic: Topic, message: String, remedy: &str) {
        let remedy = Some(remedy.to_owned()).filter(|remedy| !remedy.is_empty());
        self.list.push(Finding { severity, group: self.group.clone(), server: server.cloned(), topic, message, remedy });
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.list
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Ok => "ok",
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}
