//! The controller: decides over people's data. Pure: `handle(now, event)` changes state, `poll_output()` gives actions.
//!
//! Knows [`crate::types`], [`crate::info`] and the PSYNC decision only: no bytes, no RESP.
//!
//! | where | what |
//! | --- | --- |
//! | [`relay`] | what passes between controller and relay: orders down, a view up |
//! | [`assignment`] | who may be read: what reader endpoint, API and webhooks follow |
//! | [`settings`] | what the configuration says |
//! | [`status`] | what people and tools are shown |

pub mod assignment;
pub mod relay;
pub mod settings;
pub mod status;
