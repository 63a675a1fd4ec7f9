//! The replication protocol's decisions, without a socket.
//!
//! | where | what |
//! | --- | --- |
//! | [`history`] | a stretch of a history as the relay holds it: its ids and their limits, the kept bytes |
//! | [`psync`] | what a replica's PSYNC is answered, with a typed reason |
//! | [`prospect`] | what the primary would answer the relay, worked out from its INFO before anything is asked |
//! | [`boundary`] | where commands and transactions end in a stream |
//! | [`handshake`] | what a connection says before PSYNC, and what it is answered |
//! | [`self_report`] | what the relay says of itself to `INFO` and `ROLE` |
//! | [`answer`] | what a primary answers PSYNC, as the relay reads it |
//! | [`payload`] | framing of a full resync's payload, `$<length>` and `$EOF:` |
//! | [`rdb`] | checks of a snapshot: header, AUX fields, trailer, CRC |

pub mod answer;
pub mod boundary;
pub mod handshake;
pub mod history;
pub mod payload;
pub mod prospect;
pub mod psync;
pub mod rdb;
pub mod self_report;
