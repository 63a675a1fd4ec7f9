//! A thread for what moves bytes: they go from the primary's socket to the replicas' without waking another thread, and nothing else that the process does
//! delays them. What may wait (publishing, the disk) runs where the rest of the process does.

use super::hub::Hub;
use std::io;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Ends, with everything that runs on it, when it is dropped.
#[derive(Debug)]
pub(super) struct OwnThread {
    runtime: Handle,
    _end: DropGuard,
}

impl OwnThread {
    pub(super) fn start(hub: Arc<Hub>) -> io::Result<OwnThread> {
        let (name, end) = (format!("relay {}", hub.config.group), CancellationToken::new());
        let runtime = Builder::new_current_thread().enable_all().on_thread_park(move || hub.rest.take()).build()?;
        let (handle, ended) = (runtime.handle().clone(), end.clone().cancelled_owned());
        std::thread::Builder::new().name(name).spawn(move || runtime.block_on(ended))?;
        Ok(OwnThread { runtime: handle, _end: end.drop_guard() })
    }

    /// Where to spawn.
    pub(super) fn runtime(&self) -> &Handle {
        &self.runtime
    }
}
