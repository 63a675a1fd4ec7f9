//! rbuddy-runtime does: sockets, files, clocks and tasks around the decisions of rbuddy-core.
//!
//! | where | what |
//! | --- | --- |
//! | [`settings`] | the configuration, parsed and checked |
//! | [`relay`] | the replication relay: one connection up, N down, snapshot and backlog between |
//! | [`reader`] | the reader endpoint |
//! | [`api`] | the HTTP API |
//! | [`handle`] | what the parts know of a running group |
//! | [`admin`] | one connection to a server, for questions and orders |
//! | [`check`] | proves before the start what `run` will need |
//! | [`primary`] | asks Sentinels where the primary is |
//! | [`webhook`] | delivery of notifications |
//! | [`control`] | drives core's controller: probes, commands to servers, the state file |
//! | [`app`] | joins them by channels that carry core types |
//!
//! The parts do not import one another. Not here: decisions (core), words for people (the binary).

#![forbid(unsafe_code)]

pub mod admin;
pub mod api;
pub mod app;
pub mod check;
pub mod clock;
pub mod control;
pub mod handle;
pub mod primary;
pub mod reader;
pub mod relay;
mod server_settings;
pub mod settings;
pub mod webhook;
