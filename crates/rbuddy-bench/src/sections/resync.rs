//! Full resync of one replica, directly and through a fresh relay, in turn.
//!
//! The clock of the relay starts before its process does: it takes the snapshot as soon as it runs, and a clock that started with the
//! replica's REPLICAOF would not see part of that.
//!
//! Beside them: how long this disk takes for a snapshot's bytes. A replica stores what it is given before it loads it. From a primary that happens while the
//! snapshot is made; through the relay it begins when that is complete and checked, so this much comes on top on any machine.

use super::words::{NONE, as_seconds, figure, mb, rounds, seconds};
use super::{patience, words};
use crate::bench::Bench;
use crate::data::Mix;
use crate::out;
use crate::pipe::Way;
use crate::primary::Primary;
use crate::replica::Phases;
use crate::report::Report;
use crate::stats::median;
use anyhow::Context;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

const BAR: f64 = 1.15;

#[derive(Debug, Clone, Copy)]
struct Run {
    phases: Phases,
    relay_peak: Option<u64>,
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Report> {
    let bytes = bench.sizes.resync_dataset;
    let primary = bench.primary(&[]).await?;
    let keys = load(&primary, bytes).await?;
    let snapshot = snapshot_bytes(&primary).await?;
    out::progress(&format!("resync: {keys} keys, {} MB of data, an RDB of {} MB", mb(bytes), mb(snapshot)));
    let (mut direct, mut relay, mut stored) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=bench.sizes.resync_rounds {
        // Whoever is first finds the machine in another state than the second: take turns in that too.
        let order = if round % 2 == 1 { [Way::Direct, Way::Relay] } else { [Way::Relay, Way::Direct] };
        for way in order {
            let run = resync(bench, &primary, way, keys, bytes).await.with_context(|| format!("round {round}, {way}"))?;
            let relay_peak = run.relay_peak.map(|peak| format!(", relay's peak {} MB", mb(peak))).unwrap_or_default();
            out::progress(&format!("resync: round {round}, {way}: {} s{relay_peak}", seconds(run.phases.serves.as_secs_f64())));
            if way == Way::Relay { relay.push(run) } else { direct.push(run) }
        }
        let dir = bench.scratch()?;
        let storing = tokio::task::spawn_blocking(move || store(dir.path(), snapshot));
        stored.push(storing.await.context("the writer panicked")?.context("store as much as a snapshot")?);
    }
    primary.end().await?;
    Ok(report(bench, keys, snapshot, &direct, &relay, &stored))
}

/// Fills a primary; gives the number of keys.
async fn load(primary: &Primary, bytes: u64) -> anyhow::Result<u64> {
    let address = primary.address();
    let load = move || {
        let mut mix = Mix::new();
        mix.grow_to(bytes, &address).map(|()| mix.keys())
    };
    tokio::task::spawn_blocking(load).await.context("the loader panicked")?.context("load data into the primary")
}

/// What the dataset comes to on disk.
async fn snapshot_bytes(primary: &Primary) -> anyhow::Result<u64> {
    let server = primary.server();
    server.command(&["BGSAVE"]).await?;
    primary.until_at_rest().await?;
    let size = server.rdb().metadata().context("look at the primary's RDB")?.len();
    std::fs::remove_file(server.rdb()).context("remove the primary's RDB")?;
    Ok(size)
}

async fn resync(bench: &Bench, primary: &Primary, way: Way, keys: u64, bytes: u64) -> anyhow::Result<Run> {
    primary.until_at_rest().await?;
    let scratch = bench.scratch()?;
    let mut replica = bench.replicas(1).await?.pop().context("one replica")?;
    let started = Instant::now();
    let pipe = bench.open(way, primary, scratch.path()).await?;
    replica.follow(pipe.address()).await?;
    let phases = replica.until_it_serves(keys, started, patience(bytes)).await.with_context(|| pipe.log_tail())?;
    let relay_peak = pipe.memory()?.map(|memory| memory.resident_peak);
    replica.end().await?;
    pipe.close().await?;
    Ok(Run { phases, relay_peak })
}

/// What the disk takes for so many bytes.
fn store(dir: &Path, bytes: u64) -> std::io::Result<Duration> {
    let piece = vec![7; 1 << 20];
    let started = Instant::now();
    let mut file = File::create(dir.join("stored"))?;
    for at in (0..bytes).step_by(piece.len()) {
        let length = usize::try_from(bytes - at).unwrap_or(usize::MAX).min(piece.len());
        file.write_all(&piece[..length])?;
    }
    file.sync_all()?;
    Ok(started.elapsed())
}

fn report(bench: &Bench, keys: u64, snapshot: u64, direct: &[Run], relay: &[Run], stored: &[Duration]) -> Report {
    let mut report = Report::new("resync: full resync of one replica until it serves");
    report.note(format!(
        "{keys} keys, {} MB of keys and values, an RDB of {} MB. {} in turn, medians; a fresh replica and a fresh relay (empty folder) \
         each time. From REPLICAOF (relay: from before its process starts) until link up, not loading, DBSIZE right. Servers at their \
         defaults but for `repl-diskless-sync-delay 0`. \"Disk\": the RDB's bytes written and synced there, without a server.",
        mb(bench.sizes.resync_dataset),
        mb(snapshot),
        rounds(bench.sizes.resync_rounds),
    ));
    report.table(["way", "until it serves, s", "least", "most", "until its first byte, s", "transfer, s", "load, s", "relay's peak MB"]);
    for (way, runs) in [(Way::Direct, direct), (Way::Relay, relay)] {
        let served = || as_seconds(runs.iter().map(|run| run.phases.serves));
        let part = |part: fn(&Phases) -> Option<Duration>| median(as_seconds(runs.iter().filter_map(|run| part(&run.phases))));
        report.row([
            way.to_string(),
            seconds(median(served())),
            seconds(served().reduce(f64::min)),
            seconds(served().reduce(f64::max)),
            seconds(part(|phases| phases.first_byte)),
            seconds(part(|phases| phases.loads?.checked_sub(phases.first_byte?))),
            seconds(part(|phases| phases.serves.checked_sub(phases.loads?))),
            runs.iter().filter_map(|run| run.relay_peak).max().map_or(NONE.to_owned(), words::mb),
        ]);
    }
    let stored = seconds(median(as_seconds(stored.iter().copied())));
    report.row(["disk", NONE, NONE, NONE, NONE, &stored, NONE, NONE].map(str::to_owned));
    let middle = |runs: &[Run]| median(as_seconds(runs.iter().map(|run| run.phases.serves)));
    let ratio = middle(relay).zip(middle(direct)).map(|(relay, direct)| relay / direct);
    report.bar("until it serves, relay / direct", format!("≤ {BAR}"), figure(ratio), ratio.is_some_and(|ratio| ratio <= BAR));
    report
}
