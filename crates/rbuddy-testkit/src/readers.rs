//! The three kinds of readers at once: through the reader endpoint, asking `/active`, told by webhook.

use crate::process::expect;
use crate::{World, report};
use rbuddy_lab::{Readers, ReadersOptions, Source, Tally, wait_until};
use std::fmt;
use std::time::Duration;

/// What "nobody noticed" means on a small, shared machine that loads a snapshot at the same time. The bar (design: 50 ms above the
/// fault-free run) is judged where nothing else runs: in the demo and the benchmarks, which report the figure.
const LONGEST_GAP_MAX: Duration = Duration::from_millis(400);

/// A kind of readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderKind {
    /// Through the reader endpoint.
    Endpoint,
    /// They ask `/active` where to go.
    Asking,
    /// A webhook tells them.
    Told,
}

/// All three kinds.
#[derive(Debug)]
pub struct AllReaders {
    sets: Vec<(ReaderKind, Readers)>,
}

impl fmt::Display for ReaderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReaderKind::Endpoint => "through the reader endpoint",
            ReaderKind::Asking => "asking /active",
            ReaderKind::Told => "told by webhook",
        })
    }
}

impl AllReaders {
    /// 2000 reads a second over 20 connections through the reader endpoint, 500 over 10 of each other kind.
    pub async fn start(world: &World) -> AllReaders {
        let endpoint = ReadersOptions { connections: 20, reads_per_second: 2000, keys: world.data.keys };
        let direct = ReadersOptions { connections: 10, reads_per_second: 500, ..endpoint };
        let api = world.rbuddy.api().to_owned();
        let told = Source::Told { api: api.clone(), active: world.webhook.active() };
        AllReaders {
            sets: vec![
                (ReaderKind::Endpoint, expect(Readers::start(Source::Fixed(world.reader.clone()), endpoint).await)),
                (ReaderKind::Asking, expect(Readers::start(Source::Asks(api), direct).await)),
                (ReaderKind::Told, expect(Readers::start(told, direct).await)),
            ],
        }
    }

    /// What each kind has seen until now.
    pub fn tallies(&self) -> Vec<(ReaderKind, Tally)> {
        self.sets.iter().map(|(kind, set)| (*kind, set.tally())).collect()
    }

    /// Waits until each kind has read this version of the dataset.
    pub async fn have_read(&self, version: u64, within: Duration) {
        let what = format!("all readers to read version {version}");
        let all = wait_until(&what, within, async || {
            let behind = self.sets.iter().find(|(_, set)| !set.tally().first_read.contains_key(&version));
            behind.map_or(Ok(()), |(name, set)| Err(format!("those {name} have not: {}", set.tally())))
        });
        expect(all.await);
    }

    /// Waits until each kind has read this many more right values.
    pub async fn go_on(&self, reads: u64, within: Duration) {
        let from: Vec<u64> = self.sets.iter().map(|(_, set)| set.tally().ok).collect();
        let all = wait_until("all readers to go on", within, async || {
            let behind = self.sets.iter().zip(&from).find(|((_, set), from)| set.tally().ok < *from + reads);
            behind.map_or(Ok(()), |((name, set), _)| Err(format!("those {name} do not: {}", set.tally())))
        });
        expect(all.await);
    }

    /// Ends them. No read of any kind failed, was nil or wrong, and there was no long gap.
    pub async fn noticed_nothing(self) {
        for (name, tally) in self.stop().await {
            assert!(tally.is_clean(), "readers {name}: {tally}");
            assert!(tally.longest_gap < LONGEST_GAP_MAX, "readers {name}: {tally}");
        }
    }

    /// Ends them. While rbuddy itself is away its reader endpoint is too; readers that go directly noticed nothing.
    pub async fn direct_ones_noticed_nothing(self) {
        for (name, tally) in self.stop().await {
            assert_eq!((tally.nil, tally.wrong), (0, 0), "readers {name}: {tally}");
            assert!(tally.is_clean() || name == ReaderKind::Endpoint, "readers {name}: {tally}");
        }
    }

    /// Ends them. Reads may have failed, but none through the reader endpoint was answered with nil or a wrong value. (A server that restarts
    /// empty answers those that go there directly with nil: nobody can stand between.)
    pub async fn got_nothing_wrong_through_the_endpoint(self) {
        for (name, tally) in self.stop().await {
            assert!(name != ReaderKind::Endpoint || (tally.nil, tally.wrong) == (0, 0), "readers {name}: {tally}");
        }
    }

    async fn stop(mut self) -> Vec<(ReaderKind, Tally)> {
        let mut tallies = Vec::new();
        for (name, set) in std::mem::take(&mut self.sets) {
            let tally = set.stop().await;
            report(&format!("readers {name}: {tally}"));
            assert!(tally.ok > 0, "readers {name} read nothing: {tally}");
            tallies.push((name, tally));
        }
        tallies
    }
}

impl Drop for AllReaders {
    /// A test that panics while they read wants to know what they saw.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.sets.iter().for_each(|(name, set)| report(&format!("readers {name}: {}", set.tally())));
        }
    }
}
