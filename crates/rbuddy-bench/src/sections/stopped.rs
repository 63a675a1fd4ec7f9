//! Memory of the relay while one of its two replicas is stopped (SIGSTOP: its connection stays open and takes nothing) and the primary is
//! written to at full speed. The other replica must not notice.

use super::patience;
use super::pressure::press;
use super::words::{mb, seconds, tenths};
use crate::args::MB;
use crate::bench::Bench;
use crate::flood::{Flood, Load, Until};
use crate::out;
use crate::pipe::{BACKLOG, BACKLOG_BYTES, Way};
use crate::replica::{end_all, until_all_serve};
use crate::report::Report;
use anyhow::Context;
use std::time::{Duration, Instant};

/// Both sizes of the stream's table: large values are more bytes, small ones more commands.
const VALUE_BYTES: [usize; 2] = [10_000, 100];
/// The constant of "bounded by backlog + a constant": program, snapshot and socket buffers.
const CONSTANT: u64 = 64 * 1024 * 1024;
const LAG_BAR: u64 = 64 * MB;
/// How long it may take longer than it should, to write and to catch up.
const PATIENCE: Duration = Duration::from_secs(120);
/// A look at a file's size costs little, a look at all of them more.
const DISK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Seen {
    before: u64,
    /// Resident memory a quarter, half and all of the time through.
    samples: Vec<(Duration, u64)>,
    peak: u64,
    disk_peak: u64,
    disk_looked: Option<Instant>,
}

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Report> {
    let mut report = Report::new("stopped: the relay's memory with a stopped replica");
    report.note(format!(
        "Full write speed for {} s, two replicas, one of them stopped. `--backlog {BACKLOG}`; the constant is taken as {} MB. Servers \
         at their defaults, also `client-output-buffer-limit`.",
        bench.sizes.stopped_for.as_secs(),
        mb(CONSTANT),
    ));
    report.table([
        "values",
        "written MB",
        "RSS before MB",
        "after ¼",
        "after ½",
        "at the end",
        "peak RSS MB",
        "peak disk MB",
        "healthy: largest lag MB",
        "drained in s",
    ]);
    for value_bytes in VALUE_BYTES {
        measure(bench, value_bytes, &mut report).await.with_context(|| format!("{value_bytes} B"))?;
    }
    Ok(report)
}

async fn measure(bench: &Bench, value_bytes: usize, report: &mut Report) -> anyhow::Result<()> {
    let time = bench.sizes.stopped_for;
    let mut primary = bench.primary(&[]).await?;
    let flood = Flood::prepare(Load { address: primary.address(), value_bytes, until: Until::Time(time) });
    let scratch = bench.scratch()?;
    let mut replicas = bench.replicas(2).await?;
    let pipe = bench.open(Way::Relay, &primary, scratch.path()).await?;
    for replica in &mut replicas {
        replica.follow(pipe.address()).await?;
    }
    until_all_serve(&mut replicas, 0, Instant::now(), patience(0)).await.with_context(|| pipe.log_tail())?;
    let stopped = replicas.pop().context("two replicas")?;
    stopped.server().freeze().await?;
    let paid_before = primary.paid().await?;
    let memory = || anyhow::Ok(pipe.memory()?.context("the relay is a process")?.resident);
    let started = Instant::now();
    let mut seen = Seen { before: memory()?, ..Seen::default() };
    let look = || {
        seen.look(started.elapsed(), memory()?);
        if seen.disk_looked.is_none_or(|at| at.elapsed() >= DISK_EVERY) {
            seen.disk_peak = seen.disk_peak.max(pipe.disk());
            seen.disk_looked = Some(Instant::now());
        }
        Ok(())
    };
    let pressure = press(flood, &mut primary, &mut replicas, time + PATIENCE, look).await.with_context(|| pipe.log_tail())?;
    let paid = primary.paid().await? - paid_before;
    // Between two looks it may have been more.
    let peak = seen.peak.max(pipe.memory()?.context("the relay is a process")?.resident_peak);
    out::progress(&format!("stopped: {value_bytes} B: {} MB written, peak RSS {} MB", mb(pressure.bytes), mb(peak)));
    report.row([
        format!("{value_bytes} B"),
        mb(pressure.bytes),
        mb(seen.before),
        mb(seen.at(time / 4)),
        mb(seen.at(time / 2)),
        mb(seen.at(time)),
        mb(peak),
        mb(seen.disk_peak),
        mb(pressure.lag_max),
        seconds(pressure.drain.as_secs_f64()),
    ]);
    let bound = BACKLOG_BYTES + CONSTANT;
    report.bar(format!("{value_bytes} B: relay's peak RSS"), format!("≤ backlog + a constant = {} MB", mb(bound)), mb(peak), peak <= bound);
    let resyncs = replicas.iter().map(|replica| replica.full_resyncs().saturating_sub(1)).sum::<usize>();
    report.bar(
        format!("{value_bytes} B: the healthy replica keeps up"),
        format!("lag ≤ {} MB, no resync of it or of the relay", LAG_BAR / MB),
        format!("{} MB, {resyncs} and {} resyncs, {} MB/s", mb(pressure.lag_max), paid.full_resyncs, tenths(pressure.mb_per_second())),
        pressure.lag_max <= LAG_BAR && resyncs == 0 && paid.full_resyncs == 0,
    );
    if resyncs > 0 || paid.full_resyncs > 0 {
        out::progress(&format!("stopped: links were cut; {}", pipe.log_tail()));
    }
    // SIGKILL ends a stopped process too.
    stopped.end().await?;
    end_all(replicas).await?;
    pipe.close().await?;
    primary.end().await
}

impl Seen {
    fn look(&mut self, at: Duration, resident: u64) {
        self.samples.push((at, resident));
        self.peak = self.peak.max(resident);
    }

    /// The last sample not after this moment.
    fn at(&self, moment: Duration) -> Option<u64> {
        self.samples.iter().take_while(|(at, _)| *at <= moment).last().map(|(_, resident)| *resident)
    }
}
