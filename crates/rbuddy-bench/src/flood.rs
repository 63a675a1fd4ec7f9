//! Writes at full speed: two connections, pipelined, requests encoded beforehand, so that the primary and not the writer is the limit.
//! A few keys are written over and over, so that the dataset stays small.

use crate::data::Noise;
use crate::pipeline::Pipeline;
use anyhow::Context;
use rbuddy_lab::resp::encode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// One would wait for answers while the primary has nothing to do.
const CONNECTIONS: u64 = 2;
/// About this many bytes are sent together.
const BATCH: usize = 64 * 1024;
/// Encoded requests: enough of them that keys and values differ.
const POOL: usize = 32 * 1024 * 1024;
/// About this many bytes of values are kept by the server.
const DATASET: usize = 64 * 1024 * 1024;

/// What is written.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) address: String,
    pub(crate) value_bytes: usize,
    pub(crate) until: Until,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Until {
    /// Bytes of requests, which are as many bytes of replication stream.
    Bytes(u64),
    Time(Duration),
}

/// Encoded requests, ready to be sent.
#[derive(Debug)]
pub(crate) struct Flood {
    load: Load,
    batches: Arc<Vec<Batch>>,
}

#[derive(Debug)]
struct Batch {
    bytes: Vec<u8>,
    requests: usize,
}

impl Flood {
    /// Takes a moment: do it before the clock starts.
    pub(crate) fn prepare(load: Load) -> Flood {
        let mut noise = Noise::seeded(2);
        let keys = (DATASET / load.value_bytes).clamp(100, 100_000);
        let mut batches = Vec::new();
        let mut size = 0;
        while size < POOL {
            let mut batch = Batch { bytes: Vec::with_capacity(BATCH + 2 * load.value_bytes), requests: 0 };
            while batch.bytes.len() < BATCH {
                let key = format!("flood:{:06}", noise.below(keys));
                encode(&["SET", &key, noise.take(load.value_bytes)], &mut batch.bytes);
                batch.requests += 1;
            }
            size += batch.bytes.len();
            batches.push(batch);
        }
        Flood { load, batches: Arc::new(batches) }
    }

    /// Writes; gives the moment of the last answer. Dropping the future ends the writers with their next batch.
    pub(crate) async fn write(self) -> anyhow::Result<Instant> {
        let stop = StopWhenDropped(Arc::new(AtomicBool::new(false)));
        let started = Instant::now();
        let mut writers = JoinSet::new();
        for number in 0..CONNECTIONS {
            let (load, batches, stop) = (self.load.clone(), Arc::clone(&self.batches), Arc::clone(&stop.0));
            writers.spawn_blocking(move || write(&load, &batches, number as usize, started, &stop));
        }
        let mut ended = started;
        while let Some(writer) = writers.join_next().await {
            ended = ended.max(writer.context("a writer panicked")??);
        }
        Ok(ended)
    }
}

fn write(load: &Load, batches: &[Batch], number: usize, started: Instant, stop: &AtomicBool) -> anyhow::Result<Instant> {
    let mut pipeline = Pipeline::connect(&load.address)?;
    // Each connection begins elsewhere, or all would write the same keys at the same time.
    let first = number * batches.len() / CONNECTIONS as usize;
    let mut written = 0;
    for batch in batches.iter().cycle().skip(first) {
        let is_done = match load.until {
            Until::Bytes(bytes) => written >= bytes / CONNECTIONS,
            Until::Time(time) => started.elapsed() >= time,
        };
        if is_done || stop.load(Ordering::Relaxed) {
            break;
        }
        pipeline.send(&batch.bytes, batch.requests)?;
        written += batch.bytes.len() as u64;
    }
    pipeline.finish()?;
    Ok(Instant::now())
}

#[derive(Debug)]
struct StopWhenDropped(Arc<AtomicBool>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuddy_lab::{Binary, Server, ServerOptions};

    #[tokio::test]
    async fn the_primary_gets_what_was_asked_for_and_its_dataset_stays_small() {
        let folder = tempfile::tempdir().expect("a folder");
        let server = Server::start(&Binary::find().expect("a server"), folder.path(), ServerOptions::default()).await.expect("it starts");
        let volume = 100 * 1024 * 1024;
        let load = Load { address: server.address(), value_bytes: 10_000, until: Until::Bytes(volume) };
        Flood::prepare(load).write().await.expect("it takes everything");
        let taken = server.info_number("stats", "total_net_input_bytes").await.expect("an answer");
        assert!((volume..volume + 1024 * 1024).contains(&taken), "{taken} bytes instead of {volume}");
        assert!(server.keys().await.expect("an answer") <= 6711);
    }
}
