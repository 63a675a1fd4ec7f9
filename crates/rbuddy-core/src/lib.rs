//! rbuddy-core decides. It holds everything that can be right or wrong without a socket: the words of the domain, the
//! replication protocol's decisions, the controller, the reader endpoint's boundaries.
//!
//! Not here, on purpose: tokio, sockets, files, clocks, OS randomness, environment. Time and seeds are arguments. The
//! crate's own `clippy.toml` keeps it so.
//!
//! | where | what |
//! | --- | --- |
//! | [`types`] | newtypes with rules: [`types::ReplId`], [`types::Offset`], [`types::Position`], [`types::NodeAddress`] … |
//! | [`info`] | what a server says of itself (`INFO`), typed |
//! | [`resp`] | RESP framing by length headers, request parsing, encoding |
//! | [`replication`] | histories, PSYNC decisions, backlog ring, snapshot framing, RDB checks |
//! | [`control`] | the controller: events in, actions out |
//! | [`reader`] | the reader endpoint's rules: which connection may move when, what is offered |

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod control;
pub mod info;
pub mod reader;
pub mod replication;
pub mod resp;
pub mod types;
