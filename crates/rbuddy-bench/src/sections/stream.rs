//! Full write speed with small and large values, a fixed volume each: how fast the stream reaches the replica, what that costs in
//! between, how far the replica falls behind.

use super::patience;
use super::pressure::{Pressure, press};
use super::words::{NONE, figure, mb, rounds, seconds, tenths};
use crate::args::MB;
use crate::bench::Bench;
use crate::flood::{Flood, Load, Until};
use crate::out;
use crate::pipe::{Pipe, Way};
use crate::replica::{end_all, until_all_serve};
use crate::report::{Report, Verdict};
use crate::stats::median;
use anyhow::Context;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// CPU seconds of the relay for 10⁹ bytes of stream, by bytes of a value.
const CPU_BARS: [(usize, f64); 2] = [(100, 0.88), (10_000, 0.45)];
const LAG_BAR: u64 = 64 * MB;

/// A way, and how many replicas are behind it.
type Setting = (Way, usize);

#[derive(Debug, Clone, Copy)]
struct Run {
    pressure: Pressure,
    /// Of what stands in between.
    cpu: Option<Duration>,
    /// Resyncs that replicas took meanwhile: each is a link that was cut.
    resyncs: usize,
}

type Runs = BTreeMap<Setting, Vec<Run>>;

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Report> {
    let mut settings: Vec<Setting> = bench.ways("stream").into_iter().map(|way| (way, 1)).collect();
    settings.push((Way::Relay, 2));
    let mut report = Report::new("stream: full write speed");
    report.note(format!(
        "Two connections write pipelined SETs; {} in turn, medians (lag and resyncs: the worst). MB/s: stream from the first write \
         until the last replica has applied the last byte. CPU: of what stands in between, per 10⁹ bytes of stream. \
         `client-output-buffer-limit replica 0 0 0` on the primary: with the default a replica that falls behind by 256 MB would be cut \
         off instead of measured. socat with `-b 262144`, HAProxy at its defaults.",
        rounds(bench.sizes.stream_rounds),
    ));
    for (value_bytes, volume) in bench.sizes.stream_volumes {
        let mut runs = Runs::new();
        for round in 1..=bench.sizes.stream_rounds {
            for &setting in &settings {
                let run = measure(bench, setting, value_bytes, volume).await;
                let run = run.with_context(|| format!("round {round}, {value_bytes} B, {}", name(setting)))?;
                out::progress(&format!(
                    "stream: round {round}, {value_bytes} B, {}: {} MB/s, {} CPU s/GB, lag at most {} MB, drained in {} s",
                    name(setting),
                    tenths(run.pressure.mb_per_second()),
                    figure(run.cpu_per_gb()),
                    mb(run.pressure.lag_max),
                    seconds(run.pressure.drain.as_secs_f64()),
                ));
                runs.entry(setting).or_default().push(run);
            }
        }
        tell(&mut report, value_bytes, volume, &settings, &runs);
    }
    Ok(report)
}

async fn measure(bench: &Bench, (way, count): Setting, value_bytes: usize, volume: u64) -> anyhow::Result<Run> {
    let mut primary = bench.primary(&[("client-output-buffer-limit", "replica 0 0 0")]).await?;
    let flood = Flood::prepare(Load { address: primary.address(), value_bytes, until: Until::Bytes(volume) });
    let scratch = bench.scratch()?;
    let mut replicas = bench.replicas(count).await?;
    let pipe = bench.open(way, &primary, scratch.path()).await?;
    for replica in &mut replicas {
        replica.follow(pipe.address()).await?;
    }
    until_all_serve(&mut replicas, 0, Instant::now(), patience(0)).await.with_context(|| pipe.log_tail())?;
    let cpu_before = pipe.cpu()?;
    let pressure = press(flood, &mut primary, &mut replicas, patience(volume), || Ok(())).await.with_context(|| pipe.log_tail())?;
    let cpu = spent(&pipe, cpu_before)?;
    let resyncs = replicas.iter().map(|replica| replica.full_resyncs().saturating_sub(1)).sum();
    if resyncs > 0 {
        out::progress(&format!("stream: {resyncs} resyncs while it was written; {}", pipe.log_tail()));
    }
    end_all(replicas).await?;
    pipe.close().await?;
    primary.end().await?;
    Ok(Run { pressure, cpu, resyncs })
}

fn spent(pipe: &Pipe, before: Option<Duration>) -> anyhow::Result<Option<Duration>> {
    Ok(pipe.cpu()?.zip(before).map(|(after, before)| after.saturating_sub(before)))
}

impl Run {
    fn cpu_per_gb(&self) -> Option<f64> {
        self.cpu.map(|cpu| cpu.as_secs_f64() * 1e9 / self.pressure.bytes as f64)
    }
}

fn tell(report: &mut Report, value_bytes: usize, volume: u64, settings: &[Setting], runs: &Runs) {
    let speed = |setting| middle(runs, setting, |run| Some(run.pressure.mb_per_second()));
    let direct = speed((Way::Direct, 1));
    let ratio = |setting| speed(setting).zip(direct).map(|(speed, direct)| speed / direct);
    let cpu = |setting| middle(runs, setting, Run::cpu_per_gb);
    let worst_lag = |setting| all(runs, setting).map(|run| run.pressure.lag_max).max();
    let resyncs = |setting| all(runs, setting).map(|run| run.resyncs).max();
    let head = format!("{value_bytes} B, {} MB", volume / MB);
    report.table([&head, "MB/s", "of direct", "CPU s/GB", "largest lag MB", "lag drained in s", "resyncs"]);
    for &setting in settings {
        report.row([
            name(setting),
            tenths(speed(setting)),
            figure(ratio(setting)),
            figure(cpu(setting)),
            mb(worst_lag(setting)),
            seconds(middle(runs, setting, |run| Some(run.pressure.drain.as_secs_f64()))),
            resyncs(setting).map_or(NONE.to_owned(), |count| count.to_string()),
        ]);
    }
    let relay = (Way::Relay, 1);
    let pipes = settings.iter().filter(|(way, _)| matches!(way, Way::Socat | Way::HaProxy)).filter_map(|&setting| ratio(setting));
    let best = pipes.reduce(f64::max);
    report.bar(
        format!("{value_bytes} B: MB/s through the relay / direct"),
        format!("≥ the best TCP pipe's ({})", figure(best)),
        figure(ratio(relay)),
        best.zip(ratio(relay)).map_or(Verdict::Open, |(best, relay)| (relay >= best).into()),
    );
    if let Some((_, bar)) = CPU_BARS.into_iter().find(|(bytes, _)| *bytes == value_bytes) {
        let measured = cpu(relay);
        let what = format!("{value_bytes} B: relay's CPU s/GB, one replica");
        report.bar(what, format!("≤ {bar}"), figure(measured), measured.is_some_and(|cpu| cpu <= bar));
    }
    let more = cpu((Way::Relay, 2)).zip(cpu(relay)).map(|(two, one)| two - one);
    report.bar(format!("{value_bytes} B: relay's CPU s/GB for one more replica"), "little more", figure(more), Verdict::Open);
    let (lag, cut) = (worst_lag(relay), resyncs(relay));
    report.bar(
        format!("{value_bytes} B: largest lag through the relay, never cut off"),
        format!("≤ {} MB, 0 resyncs", LAG_BAR / MB),
        format!("{} MB, {} resyncs", mb(lag), cut.unwrap_or_default()),
        lag.is_some_and(|lag| lag <= LAG_BAR) && cut == Some(0),
    );
}

fn all(runs: &Runs, setting: Setting) -> impl Iterator<Item = &Run> {
    runs.get(&setting).into_iter().flatten()
}

fn middle(runs: &Runs, setting: Setting, of: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
    median(all(runs, setting).filter_map(of))
}

fn name((way, replicas): Setting) -> String {
    if replicas == 1 { way.to_string() } else { format!("{way}, {replicas} replicas") }
}
