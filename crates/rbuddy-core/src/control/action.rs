//! What the controller wants done. Plain data, carried out in order by the driver.

use super::assignment::{Assignment, Notification};
use super::relay::RelayOrders;
use super::state::DurableState;
use super::status::OperationResult;
use crate::types::{Generation, NodeAddress, RunId, Time};
use serde::{Deserialize, Serialize};
use std::fmt;

/// What `poll_output` gives.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Do this before asking for the next output.
    Action(Action),
    /// Nothing more to do; send a `Tick` then, if nothing else happens first.
    Deadline(Time),
}

/// One thing to do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Write the state file. A barrier: nothing after it runs before it is on disk.
    Persist(Box<DurableState>),
    /// Publish who may be read.
    Assign(Assignment),
    /// Publish what the relay is to do.
    Orders(Box<RelayOrders>),
    /// Publish what webhooks have to deliver.
    Outbox(Vec<Notification>),
    /// Send a command to a replica; ends in exactly one `Event::Outcome`.
    Server {
        /// Its number.
        id: ActionId,
        /// The generation under which it was decided.
        generation: Generation,
        /// To whom.
        replica: NodeAddress,
        /// What.
        command: ServerCommand,
    },
    /// Look once at a server that is said to be the primary; ends in exactly one `Event::Probe` of that `Node::Candidate`.
    Look(NodeAddress),
    /// Answer an operator.
    Reply {
        /// Number of the request.
        request: u64,
        /// The answer.
        result: OperationResult,
    },
    /// Tell the story.
    Story {
        /// How much it matters.
        level: StoryLevel,
        /// Whom it is about, where it is about one replica.
        replica: Option<NodeAddress>,
        /// What happened, in words, with numbers.
        text: String,
    },
}

/// Number of a command to a server, unique within a run of rbuddy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ActionId(pub u64);

/// How much a line of the story matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoryLevel {
    /// A change or a decision.
    Info,
    /// Unexpected; rbuddy goes on.
    Warn,
    /// A human must look.
    Error,
}

/// A command to a replica. All but `Empty` are safe to repeat and lose nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerCommand {
    /// Replicate the relay, and answer reads while the link is down or not. Written to its configuration file where it has one.
    Follow {
        /// `replica-serve-stale-data`.
        serve_stale: bool,
    },
    /// Set `replica-serve-stale-data`.
    ServeStale(bool),
    /// `REPLICAOF NO ONE` with writes fenced off (`freeze = "detach"`).
    Detach,
    /// Close its clients' connections, so that those follow which only do when theirs breaks.
    DisconnectClients,
    /// Remove all keys and functions and wait behind the relay, answering neither reads nor writes. The only destructive command: its
    /// intent is in the state file before, and it is refused where the process is another than `run_id`.
    Empty {
        /// The process it is meant for.
        run_id: RunId,
        /// It was detached: open the fence first, or it refuses to be emptied.
        detached: bool,
    },
}

/// How an action ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was carried out.
    Done,
    /// It was not, and will not be.
    Refused(String),
    /// Nobody knows: look at the world.
    Unknown(String),
}

/// What a server is told, for the story.
impl fmt::Display for ServerCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reads = |on: &bool| if *on { "answer reads" } else { "answer no reads" };
        match self {
            ServerCommand::Follow { serve_stale } => write!(f, "follow the relay, and {} while the link is down", reads(serve_stale)),
            ServerCommand::ServeStale(on) => write!(f, "{} while the link is down", reads(on)),
            ServerCommand::Detach => write!(f, "leave its primary and take no writes"),
            ServerCommand::DisconnectClients => write!(f, "close its clients' connections"),
            ServerCommand::Empty { .. } => write!(f, "drop all it holds and wait behind the relay"),
        }
    }
}
