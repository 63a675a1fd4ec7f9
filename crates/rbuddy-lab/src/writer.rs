//! A writer that keeps the replication stream moving. It writes to keys of its own (`stream:{i}`), so that what the readers check stays as it
//! was loaded, and over the same few keys, so that the dataset does not grow.

use crate::resp::{Connection, Value, encode};
use crate::{LabError, Server};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Writes are sent in bundles this often.
const BUNDLE_EVERY: Duration = Duration::from_millis(10);
/// How long a bundle may take before the connection is given up.
const BUNDLE_WITHIN: Duration = Duration::from_secs(2);
/// It writes to this many keys.
const KEYS: u64 = 500;

/// How much is written.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// Rate, at least 100: one per bundle.
    pub writes_per_second: u64,
    /// Bytes of each value.
    pub value_bytes: usize,
}

/// A running writer. While its server is away it keeps trying. Ends when dropped.
#[derive(Debug)]
pub struct Writer {
    written: Arc<AtomicU64>,
    state: watch::Sender<State>,
    idle: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Writes,
    Pauses,
}

impl Writer {
    /// Starts writing to `address`.
    pub fn start(address: impl Into<String>, options: WriterOptions) -> Writer {
        let written = Arc::new(AtomicU64::new(0));
        let (state, watched) = watch::channel(State::Writes);
        let (report, idle) = watch::channel(false);
        let task = tokio::spawn(run(address.into(), options, Arc::clone(&written), watched, report));
        Writer { written, state, idle, task }
    }

    /// Writes that a server has acknowledged.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Stops writing; returns when no write is on its way any more.
    pub async fn pause(&mut self) {
        self.state.send_replace(State::Pauses);
        // The task lives as long as this handle, so it cannot fail to report.
        let _ = self.idle.wait_for(|idle| *idle).await;
    }

    /// Goes on.
    pub fn resume(&self) {
        self.state.send_replace(State::Writes);
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Adds at least this many bytes to the stream, as fast as the server takes them: what overruns a backlog.
pub async fn write_bytes(server: &Server, bytes: u64) -> Result<(), LabError> {
    const VALUE_BYTES: u64 = 16 * 1024;
    let mut connection = server.connect().await?;
    let mut number = 0;
    while number * VALUE_BYTES < bytes {
        let written = bundle(&mut connection, number, 16, VALUE_BYTES as usize).await;
        number += written.map_err(LabError::io(format!("write to {}", server.address())))?;
    }
    Ok(())
}

async fn run(
    address: String,
    options: WriterOptions,
    written: Arc<AtomicU64>,
    mut state: watch::Receiver<State>,
    report: watch::Sender<bool>,
) {
    let mut ticks = tokio::time::interval(BUNDLE_EVERY);
    let per_bundle = (options.writes_per_second / 100).max(1);
    let mut connection = None;
    let mut number = 0;
    loop {
        report.send_replace(*state.borrow() == State::Pauses);
        if state.wait_for(|state| *state == State::Writes).await.is_err() {
            return;
        }
        report.send_replace(false);
        ticks.tick().await;
        let mut current = match connection.take() {
            Some(current) => current,
            None => match Connection::open(&address, BUNDLE_WITHIN).await {
                Ok(current) => current,
                // Its server is away. The next tick tries again.
                Err(_) => continue,
            },
        };
        if let Ok(count) = bundle(&mut current, number, per_bundle, options.value_bytes).await {
            written.fetch_add(count, Ordering::Relaxed);
            number += count;
            connection = Some(current);
        }
    }
}

/// Sends `count` writes and reads their answers; gives how many there were.
async fn bundle(connection: &mut Connection, first: u64, count: u64, value_bytes: usize) -> io::Result<u64> {
    let mut requests = Vec::new();
    for number in first..first + count {
        let value = format!("{number}:{:.<value_bytes$}", "");
        encode(&["SET", &format!("stream:{}", number % KEYS), &value], &mut requests);
    }
    let exchange = async {
        connection.send(&requests).await?;
        for _ in 0..count {
            if let Value::Error(error) = connection.receive().await? {
                return Err(io::Error::other(error));
            }
        }
        Ok(count)
    };
    tokio::time::timeout(BUNDLE_WITHIN, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}
