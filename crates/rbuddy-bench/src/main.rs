//! Measures what the relay costs and gives, beside direct replication and beside TCP pipes, in one run on one machine.
//!
//! Progress goes to stderr, the tables to stdout. A bar that is missed is a result and no failure; the exit status tells only whether
//! every measurement could be made. Nothing outlives the run: servers and pipes are killed when their owners are dropped, also at SIGINT
//! and SIGTERM.
//!
//! | where | what |
//! | --- | --- |
//! | [`args`] | the command line, and how large a run is |
//! | [`sections`] | one file per table |
//! | [`mod@bench`], [`primary`], [`replica`], [`pipe`] | what is started: folders, servers, the relay and its competitors |
//! | [`data`], [`flood`], [`pipeline`] | what is written |
//! | [`fake_replica`] | a replica that timestamps the stream instead of applying it |
//! | [`process`], [`stats`] | what is read from /proc, medians |
//! | [`report`], [`out`] | tables, verdicts, progress |

#![forbid(unsafe_code)]

mod args;
mod bench;
mod data;
mod fake_replica;
mod flood;
mod out;
mod pipe;
mod pipeline;
mod primary;
mod process;
mod replica;
mod report;
mod sections;
mod stats;

use anyhow::Context;
use args::{Args, Sizes};
use bench::Bench;
use clap::Parser;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    let args = Args::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::progress(&format!("error: start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(until_done_or_interrupted(args));
    // Threads that still wait for a server that was killed must not hold up the end.
    runtime.shutdown_timeout(Duration::from_secs(1));
    code
}

async fn until_done_or_interrupted(args: Args) -> ExitCode {
    let outcome = tokio::select! {
        outcome = run(args) => outcome,
        interrupted = interrupted() => interrupted.map(|()| INTERRUPTED.into()),
    };
    outcome.unwrap_or_else(|error| {
        out::progress(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sizes = Sizes::of(&args);
    let bench = Bench::prepare(&args, sizes)?;
    out::result(&bench.describe());
    let mut broken = 0;
    let mut tables = Vec::new();
    for section in args.sections() {
        match section.run(&bench).await {
            Ok(report) => tables.push(report.render()),
            Err(error) => {
                broken += 1;
                out::progress(&format!("{section}: BROKEN: {error:#}"));
                tables.push(format!("## {section}\n\nCould not be measured: {error:#}\n"));
            }
        }
    }
    tables.iter().for_each(|table| out::result(table));
    out::result(&format!("Load average at the end: {}.", process::load_average()));
    Ok(if broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    out::progress("interrupted: everything started here is being killed");
    Ok(())
}

/// What shells use for a program that was ended by SIGINT.
const INTERRUPTED: u8 = 130;
