//! The replication protocol's decisions, without a socket.
//!
//! | where | what |
//! | --- | --- |
//! | [`history`] | a stretch of a history as the relay holds it: its ids and their limits, the kept bytes |
//! | [`psync`] | what a replica's PSYNC is answered, with a typed reason |

pub mod history;
pub mod psync;
