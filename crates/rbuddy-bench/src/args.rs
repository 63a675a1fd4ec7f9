//! The command line, and what it means in bytes, samples and rounds.

use crate::sections::Section;
use clap::Parser;
use std::path::PathBuf;
use std::time::Duration;

/// Measures the relay beside direct replication, HAProxy and socat.
#[derive(Debug, Parser)]
#[command(name = "rbuddy-bench", max_term_width = 100)]
pub(crate) struct Args {
    /// Small sizes and one round: shows that the benchmark works; its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Only this section; may be given several times
    #[arg(long, value_enum, value_name = "SECTION")]
    only: Vec<Section>,
    /// Bytes of keys and values in the dataset of `resync`; `fanout` takes a fifth [default: 1000, with --quick 40]
    #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(5..=100_000))]
    dataset_mb: Option<u64>,
    /// Rounds of each measurement [default: 3, latency and resync 5, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    rounds: Option<u16>,
    /// Where the servers' and the relay's folders are made; give a disk and no tmpfs [default: the system's temporary folder]
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

/// How large a run is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) is_quick: bool,
    /// Keys and values, in bytes.
    pub(crate) resync_dataset: u64,
    pub(crate) resync_rounds: u16,
    pub(crate) fanout_dataset: u64,
    pub(crate) fanout_rounds: u16,
    /// (bytes of a value, bytes of stream) for each table of `stream`.
    pub(crate) stream_volumes: [(usize, u64); 2],
    pub(crate) stream_rounds: u16,
    pub(crate) latency_samples: u32,
    pub(crate) latency_rounds: u16,
    /// How long `stopped` writes.
    pub(crate) stopped_for: Duration,
}

impl Args {
    /// The sections asked for, in the order of the report.
    pub(crate) fn sections(&self) -> impl Iterator<Item = Section> {
        Section::ALL.into_iter().filter(|section| self.only.is_empty() || self.only.contains(section))
    }
}

impl Sizes {
    pub(crate) fn of(args: &Args) -> Sizes {
        let dataset = args.dataset_mb.unwrap_or(if args.quick { 40 } else { 1000 }) * MB;
        let rounds = |usual: u16| args.rounds.unwrap_or(if args.quick { 1 } else { usual });
        Sizes {
            is_quick: args.quick,
            resync_dataset: dataset,
            resync_rounds: rounds(5),
            fanout_dataset: dataset / 5,
            fanout_rounds: rounds(3),
            stream_volumes: if args.quick { [(100, 40 * MB), (10_000, 200 * MB)] } else { [(100, 2000 * MB), (10_000, 4000 * MB)] },
            stream_rounds: rounds(3),
            latency_samples: if args.quick { 500 } else { 3000 },
            latency_rounds: rounds(5),
            stopped_for: Duration::from_secs(if args.quick { 10 } else { 60 }),
        }
    }
}

/// As disks and networks count.
pub(crate) const MB: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn sections_come_in_the_order_of_the_report_whatever_was_asked_first() {
        let args = Args::parse_from(["rbuddy-bench", "--only", "latency", "--only", "resync"]);
        assert_eq!(args.sections().collect::<Vec<_>>(), [Section::Resync, Section::Latency]);
        assert_eq!(Args::parse_from(["rbuddy-bench"]).sections().count(), Section::ALL.len());
    }

    #[test]
    fn a_dataset_of_ones_own_counts_in_a_quick_run_too() {
        let sizes = Sizes::of(&Args::parse_from(["rbuddy-bench", "--quick", "--dataset-mb", "100"]));
        assert_eq!((sizes.resync_dataset, sizes.fanout_dataset, sizes.resync_rounds), (100 * MB, 20 * MB, 1));
    }
}
