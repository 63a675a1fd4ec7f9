//! Drives core's controller: looks at servers, carries out its commands, keeps its state file.
//!
//! | where | what |
//! | --- | --- |
//! | `driver` | the task that owns a group's controller: events in, actions out |
//! | `probe` | looks at one server again and again |
//! | `executor` | carries out one command to one server |
//! | [`journal`] | writes down what the controller was told and decided, and reads it again |
//! | `state_file` | reads and writes the state file; the lock on `state_dir` |

mod driver;
mod executor;
pub mod journal;
mod probe;
mod state_file;

pub use driver::{Driver, DriverConfig, Faces};
pub use state_file::{StateDirLock, StateError, StateFile, state_folder};
