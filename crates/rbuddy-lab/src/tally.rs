//! What a set of readers saw: counts, gaps, latencies, and the first complaints in words.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

/// How many failures are kept in words: the first ones tell why, the rest is a number.
const COMPLAINTS_MAX: usize = 20;

/// What a set of readers saw until now.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Right answers.
    pub ok: u64,
    /// Errors, lost connections, and answers that did not come in time.
    pub failed: u64,
    /// Answers "no such key" for a key that must be there.
    pub nil: u64,
    /// Values that do not belong to the key, or of an older dataset than the connection has read before.
    pub wrong: u64,
    /// Times that a connection went to another address because it was told so.
    pub moves: u64,
    /// Longest time without a right answer on any connection.
    pub longest_gap: Duration,
    /// Longest time without a right answer on one connection: its pause between reads is part of it.
    pub longest_gap_of_one: Duration,
    /// Median of the right answers' latencies.
    pub p50: Duration,
    /// 99 of 100 are faster.
    pub p99: Duration,
    /// The slowest.
    pub slowest: Duration,
    /// When each version of the dataset was read first.
    pub first_read: BTreeMap<u64, Instant>,
    /// The first failures in words.
    pub complaints: Vec<String>,
}

/// The running count behind a [`Tally`].
#[derive(Debug)]
pub(crate) struct Count {
    started: Instant,
    ok: u64,
    failed: u64,
    nil: u64,
    wrong: u64,
    moves: u64,
    longest_gap: Duration,
    longest_gap_of_one: Duration,
    last_ok: Instant,
    last_ok_of: Vec<Instant>,
    latencies: Histogram,
    first_read: BTreeMap<u64, Instant>,
    complaints: Vec<String>,
}

/// What a read came to that is not a right answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Miss {
    Failed,
    Nil,
    Wrong,
}

impl Tally {
    /// Every read was answered, and rightly.
    pub fn is_clean(&self) -> bool {
        self.failed == 0 && self.nil == 0 && self.wrong == 0
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} reads, {} failed, {} nil, {} wrong, longest gap {:?} ({:?} on one connection), p50 {:?} p99 {:?} slowest {:?}",
            self.ok, self.failed, self.nil, self.wrong, self.longest_gap, self.longest_gap_of_one, self.p50, self.p99, self.slowest
        )?;
        self.complaints.iter().try_for_each(|complaint| write!(f, "\n  {complaint}"))
    }
}

impl Count {
    pub(crate) fn new(connections: usize) -> Count {
        let now = Instant::now();
        Count {
            started: now,
            ok: 0,
            failed: 0,
            nil: 0,
            wrong: 0,
            moves: 0,
            longest_gap: Duration::ZERO,
            longest_gap_of_one: Duration::ZERO,
            last_ok: now,
            last_ok_of: vec![now; connections],
            latencies: Histogram::default(),
            first_read: BTreeMap::new(),
            complaints: Vec::new(),
        }
    }

    pub(crate) fn right(&mut self, connection: usize, version: u64, latency: Duration) {
        let now = Instant::now();
        self.ok += 1;
        self.longest_gap = self.longest_gap.max(now - self.last_ok);
        self.last_ok = now;
        if let Some(last_ok) = self.last_ok_of.get_mut(connection) {
            self.longest_gap_of_one = self.longest_gap_of_one.max(now - *last_ok);
            *last_ok = now;
        }
        self.latencies.add(latency);
        self.first_read.entry(version).or_insert(now);
    }

    pub(crate) fn miss(&mut self, miss: Miss, complaint: String) {
        match miss {
            Miss::Failed => self.failed += 1,
            Miss::Nil => self.nil += 1,
            Miss::Wrong => self.wrong += 1,
        }
        if self.complaints.len() < COMPLAINTS_MAX {
            self.complaints.push(format!("+{:.3}s {complaint}", self.started.elapsed().as_secs_f64()));
        }
    }

    pub(crate) fn moved(&mut self) {
        self.moves += 1;
    }

    /// The state now. A gap that has not ended yet counts: readers that hang for ever must not look healthy.
    pub(crate) fn tally(&self) -> Tally {
        let now = Instant::now();
        let open_gap_of_one = self.last_ok_of.iter().map(|last_ok| now - *last_ok).max().unwrap_or_default();
        Tally {
            ok: self.ok,
            failed: self.failed,
            nil: self.nil,
            wrong: self.wrong,
            moves: self.moves,
            longest_gap: self.longest_gap.max(now - self.last_ok),
            longest_gap_of_one: self.longest_gap_of_one.max(open_gap_of_one),
            p50: self.latencies.quantile(0.50),
            p99: self.latencies.quantile(0.99),
            slowest: self.latencies.slowest,
            first_read: self.first_read.clone(),
            complaints: self.complaints.clone(),
        }
    }
}

/// Latencies in buckets that grow by a tenth: however long the run, its size is fixed, and no figure is off by more than 10 %.
#[derive(Debug)]
struct Histogram {
    buckets: [u64; BUCKETS],
    slowest: Duration,
}

/// 1.1 ^ 200 microseconds are more than three minutes.
const BUCKETS: usize = 200;
const GROWTH: f64 = 1.1;

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [0; BUCKETS], slowest: Duration::ZERO }
    }
}

impl Histogram {
    fn add(&mut self, latency: Duration) {
        let micros = (latency.as_secs_f64() * 1e6).max(1.0);
        let bucket = micros.log(GROWTH) as usize;
        self.buckets[bucket.min(BUCKETS - 1)] += 1;
        self.slowest = self.slowest.max(latency);
    }

    /// Upper edge of the bucket in which the quantile lies.
    fn quantile(&self, part: f64) -> Duration {
        let total: u64 = self.buckets.iter().sum();
        let wanted = (total as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= wanted {
                return Duration::from_micros(GROWTH.powi(bucket as i32 + 1) as u64).min(self.slowest);
            }
        }
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_near_the_truth() {
        let mut histogram = Histogram::default();
        (1..=1000u64).for_each(|ms| histogram.add(Duration::from_millis(ms)));
        for (part, truth_ms) in [(0.5, 500.0), (0.99, 990.0)] {
            let found_ms = histogram.quantile(part).as_secs_f64() * 1e3;
            assert!((found_ms - truth_ms).abs() <= truth_ms * 0.1, "{part}: {found_ms} instead of {truth_ms}");
        }
        assert_eq!(Histogram::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn a_gap_that_has_not_ended_counts() {
        let mut count = Count::new(1);
        count.last_ok -= Duration::from_secs(7);
        count.last_ok_of[0] -= Duration::from_secs(9);
        assert!(count.tally().longest_gap >= Duration::from_secs(7));
        assert!(count.tally().longest_gap_of_one >= Duration::from_secs(9));
        count.right(0, 1, Duration::from_micros(50));
        assert!(count.tally().longest_gap >= Duration::from_secs(7), "and it is not forgotten when it ends");
    }
}
