//! rbuddy-runtime does: sockets, files, clocks and tasks around the decisions of rbuddy-core.
//!
//! | where | what |
//! | --- | --- |
//! | [`settings`] | the configuration, parsed and checked |
//! | [`relay`] | the replication relay: one connection up, N down, snapshot and backlog between |
//! | [`reader`] | the reader endpoint |
//! | [`api`] | the HTTP API |
//! | [`webhook`] | delivery of notifications |
//! | [`control`] | drives core's controller: probes, commands to servers, the state file |
//! | [`app`] | joins them by channels that carry core types |
//!
//! The parts do not import one another. Not here: decisions (core), words for people (the binary).

#![forbid(unsafe_code)]

pub mod reader;
pub mod settings;
