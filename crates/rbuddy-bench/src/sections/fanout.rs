//! Many replicas: 1, 2, 4 and 8 attached at once, 4 one after another, and 2 and 4 at once beside one that is served already, directly and through
//! one relay. What the primary pays, and how long it takes until all serve.
//!
//! Attached at once, direct replicas get the best a primary can do for them: it waits for all of them and forks once
//! (`repl-diskless-sync-max-replicas`, where the server has it; else each one that comes while a child runs waits for the next). It looks
//! only once a second whether they are there: their clock starts with the first byte, so that this wait is no gain of the relay.

use super::patience;
use super::pressure::until_the_stream_flows;
use super::words::{NONE, figure, mb, megabytes, rounds, seconds};
use crate::bench::Bench;
use crate::data::Mix;
use crate::out;
use crate::pipe::{Pipe, Way};
use crate::primary::{Paid, Primary};
use crate::replica::{Replica, end_all, until_all_serve};
use crate::report::{Report, Verdict};
use crate::stats::median;
use anyhow::Context;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How replicas come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    AtOnce(usize),
    OneAfterAnother(usize),
    /// At once, when another one has been served: a relay that runs has a snapshot from then on.
    Later(usize),
}

const CASES: [Case; 7] =
    [Case::AtOnce(1), Case::AtOnce(2), Case::AtOnce(4), Case::AtOnce(8), Case::OneAfterAnother(4), Case::Later(2), Case::Later(4)];

/// A relay alone is no faster than none; with two replicas and more its one snapshot must pay off.
const ALONE_BAR: f64 = 1.15;
/// What counts as flat: the primary's own work beside replication and the resolution of its CPU time make this much of a difference.
const FLAT_SENT: f64 = 1.05;
const FLAT_CPU: f64 = 1.25;
/// Memory that may differ between two datasets, one four times the other.
const MEMORY_SLACK: u64 = 16_000_000;

#[derive(Debug, Clone, Copy)]
struct Run {
    paid: Paid,
    took: Duration,
    relay_peak: Option<u64>,
}

type Runs = BTreeMap<(Case, Way), Vec<Run>>;

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Report> {
    let bytes = bench.sizes.fanout_dataset;
    let mut primary = bench.primary(&[]).await?;
    let (mix, keys) = grow(&primary, Mix::new(), bytes / 4).await?;
    let small = measure(bench, &mut primary, Way::Relay, Case::AtOnce(1), keys).await.context("a quarter of the dataset")?;
    out::progress(&format!("fanout: a quarter of the dataset, relay: peak {} MB", small.relay_peak.map_or(NONE.to_owned(), mb)));
    let (_, keys) = grow(&primary, mix, bytes).await?;
    let mut runs = Runs::new();
    for round in 1..=bench.sizes.fanout_rounds {
        for case in CASES {
            for way in [Way::Direct, Way::Relay] {
                let run = measure(bench, &mut primary, way, case, keys).await;
                let run = run.with_context(|| format!("round {round}, {case}, {way}"))?;
                out::progress(&format!(
                    "fanout: round {round}, {case}, {way}: {} s, {} forks, {} CPU s, {} MB sent",
                    seconds(run.took.as_secs_f64()),
                    run.paid.forks,
                    figure(run.paid.cpu.as_secs_f64()),
                    mb(run.paid.sent),
                ));
                runs.entry((case, way)).or_default().push(run);
            }
        }
    }
    primary.end().await?;
    Ok(report(bench, keys, small.relay_peak, &runs))
}

async fn grow(primary: &Primary, mut mix: Mix, bytes: u64) -> anyhow::Result<(Mix, u64)> {
    let address = primary.address();
    let load = move || mix.grow_to(bytes, &address).map(|()| mix);
    let mix = tokio::task::spawn_blocking(load).await.context("the loader panicked")?.context("load data into the primary")?;
    let keys = mix.keys();
    Ok((mix, keys))
}

async fn measure(bench: &Bench, primary: &mut Primary, way: Way, case: Case, keys: u64) -> anyhow::Result<Run> {
    primary.set_if_known("repl-diskless-sync-delay", "0").await?;
    primary.until_at_rest().await?;
    let within = patience(bench.sizes.fanout_dataset) * 2;
    let scratch = bench.scratch()?;
    let mut replicas = bench.replicas(case.replicas()).await?;
    let (mut before, mut started) = (primary.paid().await?, Instant::now());
    let pipe = bench.open(way, primary, scratch.path()).await?;
    let earlier = match case {
        Case::Later(_) => {
            let mut first = bench.replicas(1).await?;
            follow(&mut first, &pipe).await?;
            until_all_serve(&mut first, keys, started, within).await.with_context(|| pipe.log_tail())?;
            until_the_stream_flows(primary, &mut first, within).await?;
            (before, started) = (primary.paid().await?, Instant::now());
            first
        }
        Case::AtOnce(_) | Case::OneAfterAnother(_) => Vec::new(),
    };
    let took = match case {
        Case::AtOnce(count) | Case::Later(count) => {
            let waits = way == Way::Direct && count > 1 && wait_for_all(primary, count).await?;
            follow(&mut replicas, &pipe).await?;
            let phases = until_all_serve(&mut replicas, keys, started, within).await.with_context(|| pipe.log_tail())?;
            if waits { phases.serves.saturating_sub(phases.first_byte.unwrap_or_default()) } else { phases.serves }
        }
        Case::OneAfterAnother(_) => {
            let mut last = Duration::ZERO;
            for replica in &mut replicas {
                replica.follow(pipe.address()).await?;
                last = replica.until_it_serves(keys, started, within).await.with_context(|| pipe.log_tail())?.serves;
            }
            last
        }
    };
    let paid = primary.paid().await? - before;
    if way == Way::Relay && paid.forks > 1 {
        out::progress(&format!("fanout: {} forks instead of 1; {}", paid.forks, pipe.log_tail()));
    }
    let relay_peak = pipe.memory()?.map(|memory| memory.resident_peak);
    end_all(replicas.into_iter().chain(earlier)).await?;
    pipe.close().await?;
    Ok(Run { paid, took, relay_peak })
}

/// Tells the primary to fork once for all that come at once, if it is one that can. For a relay there is nothing to wait for.
async fn wait_for_all(primary: &mut Primary, count: usize) -> anyhow::Result<bool> {
    let waits = primary.set_if_known("repl-diskless-sync-max-replicas", &count.to_string()).await?;
    if waits {
        primary.set_if_known("repl-diskless-sync-delay", "60").await?;
    }
    Ok(waits)
}

async fn follow(replicas: &mut [Replica], pipe: &Pipe) -> anyhow::Result<()> {
    for replica in replicas {
        replica.follow(pipe.address()).await?;
    }
    Ok(())
}

fn report(bench: &Bench, keys: u64, small_peak: Option<u64>, runs: &Runs) -> Report {
    let mut report = Report::new("fanout: what the primary pays for many replicas");
    let bytes = bench.sizes.fanout_dataset;
    report.note(format!(
        "{keys} keys, {} MB of keys and values. {} in turn, medians; fresh replicas and a fresh relay each time. From the first \
         REPLICAOF (relay: from before its process starts) until the last one serves. Direct replicas that come at once are waited for \
         by the primary, which forks once for all of them; their clock starts with their first byte, so that this wait does not count. \
         \"Later\": when another one is served already. Otherwise `repl-diskless-sync-delay 0`.",
        mb(bytes),
        rounds(bench.sizes.fanout_rounds),
    ));
    report.table(["replicas", "way", "forks, most", "primary's CPU s", "primary sent MB", "until all serve, s", "relay's peak MB"]);
    for case in CASES {
        for way in [Way::Direct, Way::Relay] {
            report.row([
                case.to_string(),
                way.to_string(),
                most_forks(runs, case, way).map_or(NONE.to_owned(), |forks| forks.to_string()),
                figure(middle(runs, case, way, |run| run.paid.cpu.as_secs_f64())),
                figure(middle(runs, case, way, |run| megabytes(run.paid.sent))),
                seconds(middle(runs, case, way, |run| run.took.as_secs_f64())),
                peak(runs, case, way).map_or(NONE.to_owned(), mb),
            ]);
        }
    }
    let forks = CASES.into_iter().filter_map(|case| most_forks(runs, case, Way::Relay)).max();
    report.bar(
        "primary's forks through the relay, most of all runs",
        "1",
        forks.map_or(NONE.to_owned(), |forks| forks.to_string()),
        forks == Some(1),
    );
    let flats = [
        ("bytes sent", FLAT_SENT, relay_growth(runs, |run| run.paid.sent as f64)),
        ("CPU", FLAT_CPU, relay_growth(runs, |run| run.paid.cpu.as_secs_f64())),
    ];
    for (name, bar, growth) in flats {
        let what = format!("primary's {name} through the relay, most of all cases / one replica");
        report.bar(what, format!("flat (≤ {bar})"), figure(growth), growth.is_some_and(|growth| growth <= bar));
    }
    for case in CASES {
        let took = |way| middle(runs, case, way, |run| run.took.as_secs_f64());
        let ratio = took(Way::Relay).zip(took(Way::Direct)).map(|(relay, direct)| relay / direct);
        let bar = if case == Case::AtOnce(1) { ALONE_BAR } else { 1.0 };
        let what = format!("until all serve, {case}, relay / direct");
        report.bar(what, format!("≤ {bar}"), figure(ratio), ratio.is_some_and(|ratio| ratio <= bar));
    }
    let grown = peak(runs, Case::AtOnce(1), Way::Relay).zip(small_peak).map(|(whole, quarter)| whole.saturating_sub(quarter));
    report.bar(
        format!("relay's peak memory, {} MB of data against {} MB", mb(bytes), mb(bytes / 4)),
        format!("independent of the dataset (≤ {} MB more)", mb(MEMORY_SLACK)),
        grown.map_or(NONE.to_owned(), |grown| format!("{} MB more", mb(grown))),
        grown.map_or(Verdict::Open, |grown| (grown <= MEMORY_SLACK).into()),
    );
    report
}

fn middle(runs: &Runs, case: Case, way: Way, of: impl Fn(&Run) -> f64) -> Option<f64> {
    median(runs.get(&(case, way))?.iter().map(of))
}

/// Not the median: a fork too many in one of several runs is one that ought not to happen.
fn most_forks(runs: &Runs, case: Case, way: Way) -> Option<u64> {
    runs.get(&(case, way))?.iter().map(|run| run.paid.forks).max()
}

fn peak(runs: &Runs, case: Case, way: Way) -> Option<u64> {
    runs.get(&(case, way))?.iter().filter_map(|run| run.relay_peak).max()
}

/// How much more the most expensive case costs than one replica.
fn relay_growth(runs: &Runs, of: impl Fn(&Run) -> f64 + Copy) -> Option<f64> {
    let most = CASES.into_iter().filter_map(|case| middle(runs, case, Way::Relay, of)).reduce(f64::max)?;
    Some(most / middle(runs, Case::AtOnce(1), Way::Relay, of)?)
}

impl Case {
    fn replicas(self) -> usize {
        match self {
            Case::AtOnce(count) | Case::OneAfterAnother(count) | Case::Later(count) => count,
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Case::AtOnce(1) => f.write_str("1"),
            Case::AtOnce(count) => write!(f, "{count} at once"),
            Case::OneAfterAnother(count) => write!(f, "{count} one after another"),
            Case::Later(count) => write!(f, "{count} at once, later"),
        }
    }
}
