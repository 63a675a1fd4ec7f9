//! The controller: decides over people's data. Pure: `handle(now, event)` changes state, `poll_output()` gives actions.
//!
//! Knows [`crate::types`], [`crate::info`] and the PSYNC decision only: no bytes, no RESP.
//!
//! | where | what |
//! | --- | --- |
//! | [`controller`] | the face: events in, outputs out, one pass over the situation per event |
//! | [`event`], [`action`] | what it is told, what it wants done |
//! | [`state`] | the state file |
//! | `world`, `measure` | what is seen right now; how long the last snapshot took |
//! | `classify`, `start`, `serving`, `flap`, `seeding`, `failover`, `planned`, `retire`, `reconcile`, `operate`, `maintenance` | the steps of a pass |
//! | [`guard`] | plausible? ours? |
//! | [`drift`], `hindrance`, `lacking` | set up like those whose readers it would take? has it evicted keys because it is not? |
//! | [`invariant`] | what must hold after every event |
//! | [`primary`], `following` | where the primary is, and what is made of a word that it has moved |
//! | `served` | what readers have seen, and must find at the next active |
//! | `publish`, `report` | orders, assignment, status: derived |
//! | [`relay`] | what passes between controller and relay: orders down, a view up |
//! | [`assignment`] | who may be read: what reader endpoint, API and webhooks follow |
//! | [`journal`], [`replay`], `telling` | what a run was made of, and the same run once more, in words |
//! | [`plan`] | what would happen now, if |
//! | [`settings`] | what the configuration says |
//! | [`status`] | what people and tools are shown |

pub mod action;
pub mod assignment;
mod classify;
pub mod controller;
pub mod drift;
pub mod event;
mod failover;
mod flap;
mod following;
pub mod guard;
mod hindrance;
pub mod invariant;
pub mod journal;
mod lacking;
mod maintenance;
mod measure;
mod operate;
pub mod plan;
mod planned;
pub mod primary;
mod publish;
mod reconcile;
pub mod relay;
pub mod replay;
mod report;
mod retire;
mod seeding;
mod served;
mod serving;
pub mod settings;
mod start;
pub mod state;
pub mod status;
pub mod telling;
mod world;

pub use controller::Controller;
