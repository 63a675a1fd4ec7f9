//! A writer that keeps the replication stream moving. It writes to keys of its own (`stream:{i}`), so that what the readers check stays as it
//! was loaded, and over the same few keys, so that the dataset does not grow. Or it writes what [`crate::mixture`] draws.

use crate::mixture::Mixture;
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

/// What is written.
#[derive(Debug)]
enum Load {
    Values { next: u64, bytes: usize },
    Mixed(Mixture),
}

impl Writer {
    /// Starts writing to `address`.
    pub fn start(address: impl Into<String>, options: WriterOptions) -> Writer {
        let load = Load::Values { next: 0, bytes: options.value_bytes };
        Writer::of(load, address.into(), options.writes_per_second)
    }

    /// Starts writing what a [`Mixture`] of this seed gives.
    pub fn start_mixed(address: impl Into<String>, writes_per_second: u64, seed: u64) -> Writer {
        Writer::of(Load::Mixed(Mixture::new(seed)), address.into(), writes_per_second)
    }

    fn of(load: Load, address: String, writes_per_second: u64) -> Writer {
        let written = Arc::new(AtomicU64::new(0));
        let (state, watched) = watch::channel(State::Writes);
        let (report, idle) = watch::channel(false);
        let task = tokio::spawn(run(address, load, writes_per_second, Arc::clone(&written), watched, report));
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
    let mut load = Load::Values { next: 0, bytes: VALUE_BYTES as usize };
    for _ in 0..bytes.div_ceil(16 * VALUE_BYTES) {
        bundle(&mut connection, &mut load, 16).await.map_err(LabError::io(format!("write to {}", server.address())))?;
    }
    Ok(())
}

async fn run(
    address: String,
    mut load: Load,
    writes_per_second: u64,
    written: Arc<AtomicU64>,
    mut state: watch::Receiver<State>,
    report: watch::Sender<bool>,
) {
    let mut ticks = tokio::time::interval(BUNDLE_EVERY);
    let per_bundle = (writes_per_second / 100).max(1);
    let mut connection = None;
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
        if bundle(&mut current, &mut load, per_bundle).await.is_ok() {
            written.fetch_add(per_bundle, Ordering::Relaxed);
            connection = Some(current);
        }
    }
}

/// Sends `count` writes and reads their answers.
async fn bundle(connection: &mut Connection, load: &mut Load, count: u64) -> io::Result<()> {
    let mut requests = Vec::new();
    let answers = load.requests(count, &mut requests);
    let exchange = async {
        connection.send(&requests).await?;
        for _ in 0..answers {
            if let Value::Error(error) = connection.receive().await? {
                return Err(io::Error::other(error));
            }
        }
        Ok(())
    };
    tokio::time::timeout(BUNDLE_WITHIN, exchange).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl Load {
    /// Appends `count` writes; gives the number of answers that they draw.
    fn requests(&mut self, count: u64, requests: &mut Vec<u8>) -> u64 {
        match self {
            Load::Values { next, bytes } => {
                for number in *next..*next + count {
                    let value = format!("{number}:{:.<bytes$}", "");
                    encode(&["SET", &format!("stream:{}", number % KEYS), &value], requests);
                }
                *next += count;
                count
            }
            Load::Mixed(mixture) => mixture.requests(count, requests),
        }
    }
}
