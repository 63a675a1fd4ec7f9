//! Exit codes, in one place. Scripts rely on them: they never change their meaning.

use std::process::ExitCode;

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// The command line or the configuration is wrong. (clap uses 2 as well.)
    Usage = 2,
    /// rbuddy does not answer at the API's address.
    Unreachable = 3,
    /// rbuddy understood and refuses, or `check` found an error.
    Refused = 4,
}

/// Shown by `rbuddy --help`.
pub(crate) const HELP: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line or the configuration is wrong
  3  rbuddy cannot be reached
  4  refused: by rbuddy, or `check` and `run` found an error on the servers";

/// A command that did not end well.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// `None`: everything has been said already.
    pub(crate) error: Option<anyhow::Error>,
}

impl Failure {
    /// With a message.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, error: Some(anyhow::Error::msg(message.into())) }
    }

    /// After everything has been said.
    pub(crate) fn said(exit: Exit) -> Failure {
        Failure { exit, error: None }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure { exit: Exit::Failed, error: Some(error) }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
