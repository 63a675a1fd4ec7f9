//! The sections of the report, one file each: what is measured and how, and its bars.

mod fanout;
mod latency;
mod pressure;
mod resync;
mod stopped;
mod stream;
mod words;

use crate::bench::Bench;
use crate::report::Report;
use clap::ValueEnum;
use std::fmt;
use std::time::Duration;

/// A table of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Section {
    /// Full resync of one replica
    Resync,
    /// Many replicas: what the primary pays
    Fanout,
    /// Full write speed
    Stream,
    /// Propagation of single writes
    Latency,
    /// Memory with a stopped replica
    Stopped,
}

impl Section {
    pub(crate) const ALL: [Section; 5] = [Section::Resync, Section::Fanout, Section::Stream, Section::Latency, Section::Stopped];

    pub(crate) async fn run(self, bench: &Bench) -> anyhow::Result<Report> {
        match self {
            Section::Resync => resync::run(bench).await,
            Section::Fanout => fanout::run(bench).await,
            Section::Stream => stream::run(bench).await,
            Section::Latency => latency::run(bench).await,
            Section::Stopped => stopped::run(bench).await,
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Section::Resync => "resync",
            Section::Fanout => "fanout",
            Section::Stream => "stream",
            Section::Latency => "latency",
            Section::Stopped => "stopped",
        })
    }
}

/// How long something that moves this many bytes may take: far more than it should, so that only what hangs is cut off.
fn patience(bytes: u64) -> Duration {
    const BYTES_PER_SECOND_AT_LEAST: u64 = 4_000_000;
    Duration::from_secs(60 + bytes / BYTES_PER_SECOND_AT_LEAST)
}
