//! Full write speed, and how far the replicas are behind meanwhile.

use super::words::megabytes;
use crate::flood::Flood;
use crate::primary::Primary;
use crate::replica::Replica;
use anyhow::Context;
use rbuddy_lab::wait_until_polled;
use std::pin::pin;
use std::time::{Duration, Instant};
use tokio::time::MissedTickBehavior;

/// How often the lag is looked at. Each look costs both servers an INFO.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How closely the end of the lag is watched.
const POLL_EVERY: Duration = Duration::from_millis(2);

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pressure {
    /// Bytes of replication stream that the replicas applied.
    pub(super) bytes: u64,
    /// From the first write until the last replica has applied everything.
    pub(super) took: Duration,
    /// The most that a replica was seen behind.
    pub(super) lag_max: u64,
    /// From the last write until the last replica has applied everything.
    pub(super) drain: Duration,
}

impl Pressure {
    pub(super) fn mb_per_second(&self) -> f64 {
        megabytes(self.bytes) / self.took.as_secs_f64()
    }
}

/// Waits until the stream reaches all replicas. Behind a full resync a primary begins with the stream up to a second later: whatever is written meanwhile
/// waits there, on every way.
pub(super) async fn until_the_stream_flows(primary: &mut Primary, replicas: &mut [Replica], within: Duration) -> anyhow::Result<()> {
    primary.speak().await?;
    until_caught_up(primary.offset().await?, replicas, within).await
}

/// Writes while `look` is called with every look at the lag, then waits until all replicas have caught up. Each of the two has a deadline.
pub(super) async fn press(
    flood: Flood,
    primary: &mut Primary,
    replicas: &mut [Replica],
    within: Duration,
    mut look: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Pressure> {
    until_the_stream_flows(primary, replicas, within).await?;
    let before = primary.offset().await?;
    let started = Instant::now();
    let mut lag_max = 0;
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut writing = pin!(flood.write());
    let ended = loop {
        tokio::select! {
            ended = &mut writing => break ended.context("write at full speed")?,
            _ = ticks.tick() => {
                anyhow::ensure!(started.elapsed() < within, "not everything was written within {within:?}");
                lag_max = lag_max.max(lag(primary, replicas).await?);
                look()?;
            }
        }
    };
    let end = primary.offset().await?;
    until_caught_up(end, replicas, within).await?;
    let caught_up = Instant::now();
    look()?;
    Ok(Pressure {
        bytes: end.saturating_sub(before),
        took: caught_up - started,
        lag_max,
        drain: caught_up.saturating_duration_since(ended),
    })
}

async fn until_caught_up(end: u64, replicas: &mut [Replica], within: Duration) -> anyhow::Result<()> {
    for replica in replicas {
        let caught_up = wait_until_polled("a replica to catch up", within, POLL_EVERY, async || {
            let offset = replica.offset().await.map_err(|error| format!("{error:#}"))?;
            if offset >= end { Ok(()) } else { Err(format!("{offset} of {end}")) }
        });
        caught_up.await.with_context(|| format!("the end of the replica's log:\n{}", replica.server().log_tail(8)))?;
    }
    Ok(())
}

/// How far the last replica is behind. Both sides are asked at the same moment: whoever is asked later is further on.
async fn lag(primary: &mut Primary, replicas: &mut [Replica]) -> anyhow::Result<u64> {
    let mut most = 0;
    for replica in replicas {
        let (ahead, behind) = tokio::join!(primary.offset(), replica.offset());
        most = most.max(ahead?.saturating_sub(behind?));
    }
    Ok(most)
}
