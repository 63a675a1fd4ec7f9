//! Propagation of single writes: one at a time, at a modest rate, from the moment before a SET is sent to the primary until its bytes
//! arrive at a (fake) replica. What the direct way takes is subtracted, round by round.

use super::words::{self, NONE, tenths};
use crate::bench::Bench;
use crate::fake_replica::{Arrival, FakeReplica, KEY, value_of};
use crate::out;
use crate::pipe::Way;
use crate::primary::Primary;
use crate::report::{Report, Verdict};
use crate::stats::{median, percentile};
use anyhow::Context;
use rbuddy_lab::Port;
use rbuddy_lab::resp::encode;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// From write to write.
const PACE: Duration = Duration::from_micros(1000);
/// Until the replica is online, a write is sent this often; their numbers are 0.
const WARM_UP_PACE: Duration = Duration::from_millis(10);
/// Writes at the start that are not counted: connections and caches are cold.
const COLD: u64 = 100;
/// How long it may take to come online, and one answer.
const WITHIN: Duration = Duration::from_secs(60);
/// p50 that the relay may add, of what HAProxy adds.
const P50_BAR: f64 = 1.1;

/// Of one round, in microseconds.
#[derive(Debug, Clone, Copy)]
struct Quantiles {
    p50: f64,
    p99: f64,
}

type Part = fn(&Quantiles) -> f64;

pub(super) async fn run(bench: &Bench) -> anyhow::Result<Report> {
    let ways = bench.ways("latency");
    let primary = bench.primary(&[]).await?;
    let mut rounds: BTreeMap<Way, Vec<Quantiles>> = BTreeMap::new();
    for round in 1..=bench.sizes.latency_rounds {
        for &way in &ways {
            let quantiles = measure(bench, &primary, way).await.with_context(|| format!("round {round}, {way}"))?;
            out::progress(&format!("latency: round {round}, {way}: p50 {} µs, p99 {} µs", tenths(quantiles.p50), tenths(quantiles.p99)));
            rounds.entry(way).or_default().push(quantiles);
        }
    }
    primary.end().await?;
    Ok(report(bench, &ways, &rounds))
}

async fn measure(bench: &Bench, primary: &Primary, way: Way) -> anyhow::Result<Quantiles> {
    primary.until_at_rest().await?;
    let scratch = bench.scratch()?;
    let pipe = bench.open(way, primary, scratch.path()).await?;
    let port = Port::reserve()?;
    let last = COLD + u64::from(bench.sizes.latency_samples);
    let (online, is_online) = channel();
    let (to, announced) = (pipe.address().to_owned(), port.number());
    let replica = tokio::task::spawn_blocking(move || FakeReplica::attach(&to, announced)?.follow(last, &online));
    let address = primary.address();
    let writer = tokio::task::spawn_blocking(move || write(&address, last, &is_online));
    let sent = writer.await.context("the writer panicked")?;
    // A replica that failed explains a writer that never saw it online.
    let sent = match sent {
        Ok(sent) => sent,
        Err(error) => {
            let reason = if replica.is_finished() { replica.await.context("the replica panicked")?.err() } else { None };
            return Err(reason.unwrap_or(error)).with_context(|| pipe.log_tail());
        }
    };
    let replica =
        tokio::time::timeout(WITHIN, replica).await.with_context(|| format!("writes were still on their way after {WITHIN:?}"))?;
    let arrivals = replica.context("the replica panicked")?.with_context(|| pipe.log_tail())?;
    pipe.close().await?;
    quantiles(&sent, &arrivals)
}

/// Sends numbered writes and waits for each answer; gives the moment before each was sent, by its number.
fn write(address: &str, last: u64, is_online: &Receiver<()>) -> anyhow::Result<BTreeMap<u64, Instant>> {
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(WITHIN))?;
    let started = Instant::now();
    while is_online.recv_timeout(WARM_UP_PACE).is_err() {
        anyhow::ensure!(started.elapsed() < WITHIN, "the replica was not online within {WITHIN:?}");
        set(&mut stream, 0)?;
    }
    let mut sent = BTreeMap::new();
    let mut due = Instant::now();
    for number in 1..=last {
        due += PACE;
        pause_until(due);
        sent.insert(number, set(&mut stream, number)?);
    }
    Ok(sent)
}

#[expect(clippy::disallowed_methods, reason = "a pace is kept here, no condition is waited for")]
fn pause_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(Instant::now()));
}

/// One write and its answer; gives the moment before it was sent.
fn set(stream: &mut TcpStream, number: u64) -> anyhow::Result<Instant> {
    let mut request = Vec::with_capacity(96);
    encode(&["SET", KEY, &value_of(number)], &mut request);
    let at = Instant::now();
    stream.write_all(&request).context("write to the primary")?;
    let mut answer = [0; 5];
    stream.read_exact(&mut answer).context("wait for the primary's answer")?;
    anyhow::ensure!(&answer == b"+OK\r\n", "the primary refused a write");
    Ok(at)
}

fn quantiles(sent: &BTreeMap<u64, Instant>, arrivals: &[Arrival]) -> anyhow::Result<Quantiles> {
    let latency = |arrival: &Arrival| Some(arrival.at.saturating_duration_since(*sent.get(&arrival.number)?).as_secs_f64() * 1e6);
    let latencies: Vec<f64> = arrivals.iter().filter(|arrival| arrival.number > COLD).filter_map(latency).collect();
    let expected = sent.len() as u64 - COLD;
    anyhow::ensure!(latencies.len() as u64 == expected, "{} of {expected} writes arrived", latencies.len());
    let quantile = |part| percentile(latencies.iter().copied(), part).context("no samples");
    Ok(Quantiles { p50: quantile(0.50)?, p99: quantile(0.99)? })
}

fn report(bench: &Bench, ways: &[Way], rounds: &BTreeMap<Way, Vec<Quantiles>>) -> Report {
    let mut report = Report::new("latency: propagation of single writes");
    report.note(format!(
        "One SET at a time, {} a second, {} samples in each of {} in turn; medians of the rounds. From before the SET is sent until \
         its bytes are read by a replica that only timestamps. Added: against the direct way of the same round.",
        Duration::from_secs(1).as_micros() / PACE.as_micros(),
        bench.sizes.latency_samples,
        words::rounds(bench.sizes.latency_rounds),
    ));
    report.table(["way", "p50 µs", "p99 µs", "added p50 µs", "added p99 µs"]);
    let of = |way: Way| rounds.get(&way).map(Vec::as_slice).unwrap_or_default();
    let added = |way, part: Part| median(of(way).iter().zip(of(Way::Direct)).map(|(its, direct)| part(its) - part(direct)));
    let (p50, p99): (Part, Part) = (|its| its.p50, |its| its.p99);
    for &way in ways {
        let with_direct = |part| if way == Way::Direct { NONE.to_owned() } else { tenths(added(way, part)) };
        report.row([
            way.to_string(),
            tenths(median(of(way).iter().map(p50))),
            tenths(median(of(way).iter().map(p99))),
            with_direct(p50),
            with_direct(p99),
        ]);
    }
    for (name, part, factor) in [("p50", p50, P50_BAR), ("p99", p99, 1.0)] {
        let bar = added(Way::HaProxy, part).map(|added| added * factor);
        let measured = added(Way::Relay, part);
        report.bar(
            format!("{name} that the relay adds, µs"),
            format!("≤ {factor} × what HAProxy adds ({})", tenths(bar)),
            tenths(measured),
            bar.zip(measured).map_or(Verdict::Open, |(bar, measured)| (measured <= bar).into()),
        );
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_writes_do_not_count_and_a_lost_one_is_an_error() {
        let start = Instant::now();
        let sent: BTreeMap<u64, Instant> = (1..=COLD + 4).map(|number| (number, start)).collect();
        let arrival = |number, micros| Arrival { number, at: start + Duration::from_micros(micros) };
        let cold = (0..=COLD).map(|number| arrival(number, 1_000_000));
        let warm = [10, 20, 30, 900].into_iter().zip(COLD + 1..).map(|(micros, number)| arrival(number, micros));
        let mut arrivals: Vec<Arrival> = cold.chain(warm).collect();
        let found = quantiles(&sent, &arrivals).expect("all arrived");
        assert!((found.p50 - 20.0).abs() < 0.1 && (found.p99 - 900.0).abs() < 0.1, "{found:?}");
        arrivals.pop();
        assert!(quantiles(&sent, &arrivals).is_err());
    }
}
