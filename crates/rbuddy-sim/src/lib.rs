//! The simulator: the real controller and core's real decisions on replication among model servers, in simulated time, with seeded faults. Every promise is
//! checked after everything that happens; then the faults stop, and everything must come to rest. The same seed gives the same run, byte by byte.
//!
//! | where | what |
//! | --- | --- |
//! | [`run`] | one run: the group, the order of things, rest in the end |
//! | [`world`] | clock, queue, what there is |
//! | [`faults`] | what breaks, what operators do |
//! | [`memory`] | limits of servers' memory, and what becomes of datasets that need more |
//! | [`promise`] | what must hold |
//! | [`mutant`] | deliberate breaks, which the promises must catch |
//! | [`rbuddy`] | the process around the controller: actions, state file, probes, commands |
//! | [`relay`], `upstream`, `sessions`, `snapshotter` | the model relay, around core's `decide` and `prospect` |
//! | [`server`], [`truth`] | model servers, and what their datasets really hold |
//! | [`reader`] | applications, around core's rules for readers |
//! | [`dice`] | chance |
//!
//! Not here: bytes, sockets, time-outs of the runtime's own code. Those are tested with real servers.

#![forbid(unsafe_code)]

pub mod dice;
pub mod faults;
pub mod memory;
pub mod mutant;
pub mod promise;
pub mod rbuddy;
pub mod reader;
pub mod relay;
pub mod run;
pub mod server;
mod sessions;
mod snapshotter;
pub mod truth;
mod upstream;
pub mod world;
