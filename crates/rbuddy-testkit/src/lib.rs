//! Drives the real `rbuddy` binary between real servers and breaks things on purpose, so that a scenario test reads like its row in the
//! table of promises. Tests only: every helper panics with what it saw when something does not hold.
//!
//! The binary must have been built (`cargo build --bin rbuddy`; `make test` does). See docs/testing.md.

#![forbid(unsafe_code)]

mod config;
pub mod contents;
mod folder;
mod hosts;
mod process;
mod readers;
mod relay;
mod relay_world;
pub mod scenario;
pub mod seeds;
mod skip;
mod small_disk;
mod world;

pub use config::GroupConfig;
pub use hosts::Hosts;
pub use process::{CliOutput, Rbuddy, cli};
pub use readers::{AllReaders, ReaderKind};
pub use relay::{Relay, RelayOptions};
pub use relay_world::{Follower, RelayWorld};
pub use skip::{report, skip};
pub use small_disk::{Full, SmallDisk};
pub use world::{Others, World, WorldOptions};

use std::time::Duration;

/// For what must happen within a few seconds, on a small machine under load.
pub const SOON: Duration = Duration::from_secs(20);
/// For a whole failover with a dataset of scenario size.
pub const FAILOVER_WITHIN: Duration = Duration::from_secs(60);
