//! The reader endpoint's rules: what is offered, when a connection may move, what a server must be before it is read.
//!
//! | where | what |
//! | --- | --- |
//! | [`dialogue`] | one client's conversation: boundaries, order of answers, what can be asked again |
//! | [`rules`] | the table of commands |
//! | [`session`] | what another server must be told when a connection moves, and what keeps it from moving |
//! | [`trail`] | what a connection has read, and the check of a server before it is read |
//! | [`standing`] | what an assignment means for a connection |
//! | [`view`] | what the endpoint shows of itself |
//!
//! Not here: sockets, buffers and waiting (the runtime's), and who is active (the controller's).

pub mod dialogue;
mod judge;
pub mod rules;
pub mod session;
pub mod standing;
pub mod trail;
pub mod view;
