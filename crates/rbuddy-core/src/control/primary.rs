//! Where the primary is: as configured, as found, and who said so. Plain data; what is made of it is decided in `following.rs`.

use crate::types::NodeAddress;
use serde::{Deserialize, Serialize};
use std::fmt;

/// How the configuration says to find the primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrimaryAt {
    /// It is here. Only a word that it has moved leads elsewhere.
    Fixed(NodeAddress),
    /// Sentinels know it by this name. Which Sentinels may change without a change of primary, so they are not part of this.
    Named(String),
}

/// Who said where the primary is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrimarySource {
    /// The configuration file.
    Configured,
    /// The configured Sentinels, when asked.
    Sentinels,
    /// A Sentinel told the relay, as it tells any replica.
    ToldRelay,
    /// An operator.
    Operator,
}

/// A primary that was found elsewhere than the configuration says, or that the configuration does not say at all. Part of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundPrimary {
    /// Where it is.
    pub address: NodeAddress,
    /// Who said so.
    pub source: PrimarySource,
    /// What was configured then: an operator who changes the file means it, and what was found before counts no more.
    pub configured: PrimaryAt,
    /// What an operator overruled: Sentinels that go on naming this are not heard. They are again once they name anything else.
    pub overruled: Option<NodeAddress>,
}

/// What the configured Sentinels say, as last heard. A whole state: nothing is lost if the controller is slow.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SentinelView {
    /// The primary that they name, once it was seen to be one.
    pub named: Option<NodeAddress>,
    /// Why nothing better is known at the moment.
    pub trouble: Option<String>,
}

impl PrimaryAt {
    /// The address, where the configuration knows one.
    pub fn fixed(&self) -> Option<&NodeAddress> {
        match self {
            PrimaryAt::Fixed(address) => Some(address),
            PrimaryAt::Named(_) => None,
        }
    }
}

impl fmt::Display for PrimarySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PrimarySource::Configured => "as configured",
            PrimarySource::Sentinels => "the Sentinels name it",
            PrimarySource::ToldRelay => "a Sentinel told the relay to follow it",
            PrimarySource::Operator => "an operator said so",
        })
    }
}
