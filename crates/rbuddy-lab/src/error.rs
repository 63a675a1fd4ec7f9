//! What can go wrong in the laboratory, with enough words to mend it.

use std::io;
use std::time::Duration;

/// A failure of the laboratory itself, not of what it measures.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The system refused something.
    #[error("{what}")]
    Io {
        /// Verb and object.
        what: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A server refused a command.
    #[error("{address} answered {command:?} with {answer:?}")]
    Answer {
        /// Which server.
        address: String,
        /// The command's name.
        command: String,
        /// What it said.
        answer: String,
    },
    /// No server binary was found.
    #[error("no redis-server or valkey-server found: install Debian's redis-server, or run scripts/setup (looked at {looked_at})")]
    NoBinary {
        /// Where.
        looked_at: String,
    },
    /// A server ended instead of starting.
    #[error("{binary} did not start: {why}\n{log}")]
    NotStarted {
        /// Its path.
        binary: String,
        /// How it ended, or what is missing.
        why: String,
        /// The end of its log.
        log: String,
    },
    /// Something did not become true in time.
    #[error("waited {within:?} for {what}; last seen: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// The last state seen.
        last: String,
    },
}

impl LabError {
    /// Wraps a system error: `map_err(LabError::io("open …"))`.
    pub fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> LabError {
        let what = what.into();
        move |source| LabError::Io { what, source }
    }
}
