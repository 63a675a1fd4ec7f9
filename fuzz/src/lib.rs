//! What must hold for any bytes: one function a target, which panics where it does not.
//!
//! libFuzzer calls them with what it makes up (`fuzz_targets/`), and `crates/rbuddy-core/tests/fuzz_corpus.rs` with every committed input, so that
//! each finding stays found without a fuzzer. Here is no code that runs in rbuddy, and nothing that needs libFuzzer.
//!
//! A check says more than "no panic": the same result however the bytes were cut, and the same as a small reference that reads the whole input at once.

#![forbid(unsafe_code)]

pub mod boundary;
pub mod cuts;
pub mod handshake;
pub mod info;
pub mod payload;
pub mod prospect;
pub mod psync_answer;
pub mod rdb;
pub mod resp_frames;

/// Checks one input.
pub type Check = fn(&[u8]);

/// Every target by the name of its corpus.
pub const TARGETS: [(&str, Check); 8] = [
    ("boundary", boundary::check),
    ("handshake", handshake::check),
    ("info", info::check),
    ("payload", payload::check),
    ("prospect", prospect::check),
    ("psync_answer", psync_answer::check),
    ("rdb", rdb::check),
    ("resp_frames", resp_frames::check),
];
