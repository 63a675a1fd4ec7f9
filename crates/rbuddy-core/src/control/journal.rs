//! What a journal holds: everything that a controller was made of and was told, and everything that it decided, in that order. From these entries the
//! very same controller can be run again ([`super::replay`]).
//!
//! Promise: one format for the driver, the small worlds of the tests, and whoever replays; plain data without a secret of its own making (receivers of
//! webhooks are named by the URLs of the policy: who writes entries to a disk masks those). Not here: files, their rotation, and how lines are made short.

use super::action::Action;
use super::controller::Controller;
use super::event::Event;
use super::settings::GroupPolicy;
use super::state::DurableState;
use crate::types::Time;
use serde::{Deserialize, Serialize};

/// One thing of the story, in the order in which it happened. The actions that an entry led to stand behind it, one by one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// A controller was made.
    Begin(Box<Beginning>),
    /// The whole controller between two events: a replay may begin here.
    Checkpoint(Box<Checkpoint>),
    /// It was told something.
    Event {
        /// When.
        at: Time,
        /// What.
        event: Event,
    },
    /// It decided this.
    Action(Action),
}

/// What a controller was made of: the arguments of [`Controller::new`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Beginning {
    /// When.
    pub at: Time,
    /// The configuration.
    pub policy: GroupPolicy,
    /// The state file of its last run.
    pub state: Option<DurableState>,
}

/// A controller at rest: all that it decided is drained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// When.
    pub at: Time,
    /// So many entries before this one could not be written.
    pub lost: u64,
    /// All that it knows. It is plain data, so it needs no description beside itself.
    pub controller: Controller,
}
