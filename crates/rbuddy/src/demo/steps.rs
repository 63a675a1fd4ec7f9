//! The steps of the demo: what breaks, what must hold, and what it cost.

use super::narrator::Narrator;
use super::report::Report;
use super::stage::{FAILOVER_WITHIN, Stage};
use anyhow::{Context as _, ensure};
use rbuddy_core::control::status::{GroupStatus, Phase};
use rbuddy_lab::{Data, Link, wait_until};
use std::time::{Duration, Instant};

/// Reads that each step ends with, so that what comes after its fault is seen too.
const CALM: Duration = Duration::from_secs(2);
/// How long the link is cut, and how long the primary is gone.
const SHORT_CUT: Duration = Duration::from_secs(2);
const OUTAGE: Duration = Duration::from_secs(3);

/// Nothing breaks: what the figures are without a fault.
pub(crate) async fn undisturbed(stage: &mut Stage, narrator: &Narrator, report: &mut Report) -> anyhow::Result<()> {
    narrator.tell("undisturbed: 2500 reads a second, for comparison");
    stage.take();
    tokio::time::sleep(CALM).await;
    report.add("undisturbed", stage.take(), None, None);
    Ok(())
}

/// The link to the primary is cut for a moment: a partial resync, and nobody notices.
pub(crate) async fn short_cut(stage: &mut Stage, narrator: &Narrator, report: &mut Report) -> anyhow::Result<()> {
    let before = stage.status().await?;
    let paid = stage.primary.full_resyncs().await?;
    narrator.tell(&format!("step 1: the link to the primary is cut for {} s", SHORT_CUT.as_secs()));
    stage.link.set(Link::Cut);
    tokio::time::sleep(SHORT_CUT).await;
    stage.link.set(Link::Pass);
    narrator.tell("step 1: the link is mended");
    let resumed = |status: &GroupStatus| status.phase == Phase::Normal && status.upstream.partial_resyncs > before.upstream.partial_resyncs;
    let after = stage.wait_for("a partial resync", resumed).await?;
    tokio::time::sleep(CALM).await;
    let paid_now = stage.primary.full_resyncs().await?;
    report.add("1 link cut", stage.take(), None, Some(paid_now - paid));
    ensure!(after.generation == before.generation, "a short cut must not be a failover, but the generation is {}", after.generation);
    ensure!(paid_now == paid, "a short cut must not cost a full resync, but it cost {}", paid_now - paid);
    Ok(())
}

/// The primary is killed and comes back with another history and newer data: a full resync and a failover.
///
/// A primary that restarts from its own RDB may go on with its old history (Redis 7.0 and newer keep the id as a second one), and then even that is
/// a partial resync. It really is another history when the machine was lost and the data come from elsewhere, as here.
pub(crate) async fn another_history(stage: &mut Stage, narrator: &Narrator, report: &mut Report) -> anyhow::Result<()> {
    let before = stage.status().await?;
    narrator
        .tell(&format!("step 2: kill -9 of the primary; it comes back after {} s with another history and newer data", OUTAGE.as_secs()));
    let broke = Instant::now();
    stage.primary.kill().await?;
    tokio::time::sleep(OUTAGE).await;
    stage.primary.restart(Data::Rdb(&stage.newer_rdb)).await?;
    narrator.tell("step 2: the primary is back");
    let fresh = stage.data.version + 1;
    let all_fresh = wait_until("fresh data", FAILOVER_WITHIN, async || {
        let seen = stage.look();
        let first = |tally: &rbuddy_lab::Tally| tally.first_read.get(&fresh).copied();
        match (first(&seen.endpoint), first(&seen.asking)) {
            (Some(one), Some(other)) => Ok((one - broke, other - broke)),
            (one, other) => Err(format!("through the endpoint: {}, by /active: {}", one.is_some(), other.is_some())),
        }
    });
    let fresh_after = all_fresh.await.context("no fresh data")?;
    narrator.tell(&format!("step 2: fresh data served {:.1} s after the kill", fresh_after.0.as_secs_f64()));
    let ended = |status: &GroupStatus| status.phase == Phase::Normal && status.generation > before.generation && !status.standby.is_empty();
    stage.wait_for("the end of the failover", ended).await?;
    tokio::time::sleep(CALM).await;
    let paid = stage.primary.full_resyncs().await?;
    report.add("2 new history", stage.take(), Some(fresh_after), Some(paid));
    ensure!(paid == 1, "a new history must cost one full resync, but it cost {paid}");
    Ok(())
}

/// The primary comes back empty: refused, the old data stay served.
pub(crate) async fn empty_primary(stage: &mut Stage, narrator: &Narrator, report: &mut Report) -> anyhow::Result<()> {
    let before = stage.status().await?;
    narrator.tell("step 3: the primary restarts empty");
    stage.writer.pause().await;
    stage.primary.restart(Data::Nothing).await?;
    let status = stage.wait_for("a refusal", |status| status.phase == Phase::Refused).await?;
    if let Some(refusal) = &status.refusal {
        narrator.tell(&format!("step 3: refused: {}", refusal.reason));
        narrator.tell(&format!("step 3: an operator could: {}", refusal.remedy));
    }
    tokio::time::sleep(CALM).await;
    let after = stage.status().await?;
    let paid = stage.primary.full_resyncs().await?;
    report.add("3 empty primary", stage.take(), None, Some(paid));
    ensure!(after.generation == before.generation && after.active == before.active, "an empty primary must change nothing for readers");
    Ok(())
}
