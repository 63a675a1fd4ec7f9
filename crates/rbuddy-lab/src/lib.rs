//! The laboratory: real servers on free loopback ports, data whose every value can be checked, readers that check every
//! answer, a writer, a proxy that breaks links, a receiver of webhooks. The demo and the tests are built from it.
//!
//! It knows nothing of rbuddy: what it measures is what an application would see. It touches no server that it did not start.

#![forbid(unsafe_code)]

pub mod binary;
pub mod clock;
pub mod dataset;
pub mod disk;
mod error;
pub mod http;
pub mod mixture;
pub mod port;
mod preload;
pub mod proxy;
pub mod readers;
pub mod resp;
pub mod sentinel;
pub mod server;
pub mod tally;
pub mod wait;
pub mod webhook;
pub mod writer;

pub use binary::Binary;
pub use clock::{Jump, WallClock};
pub use dataset::Dataset;
pub use disk::BadDisk;
pub use error::LabError;
pub use mixture::Mixture;
pub use port::Port;
pub use proxy::{FaultProxy, Link};
pub use readers::{Readers, ReadersOptions, Source};
pub use sentinel::Sentinel;
pub use server::{Data, Server, ServerOptions};
pub use tally::Tally;
pub use wait::{wait_until, wait_until_polled};
pub use webhook::{Notice, WebhookReceiver};
pub use writer::{Writer, WriterOptions};
