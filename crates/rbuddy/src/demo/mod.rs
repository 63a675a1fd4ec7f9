//! `rbuddy demo`: a primary and two replicas of our own in a temporary folder, readers that check every answer, and a primary that breaks in
//! three ways. It runs this very executable as `rbuddy run`, so what it shows is what an operator gets.
//!
//! It touches no server that it did not start, and leaves nothing behind.

mod narrator;
mod report;
mod stage;
mod steps;

use anyhow::Context as _;
use narrator::Narrator;
use report::Report;
use stage::Stage;
use std::process::ExitCode;
use std::time::Duration;

/// Watch reads survive a primary that breaks in three ways, with servers of the demo's own.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct DemoArgs {
    /// Keys to load into the primary.
    #[arg(long, default_value_t = 300_000, value_name = "N", value_parser = clap::value_parser!(u64).range(2000..=20_000_000))]
    keys: u64,
    /// Read for at least this many seconds; the steps take about 20.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    duration: u64,
    /// Leave everything running afterwards and print the addresses, until Ctrl-C.
    #[arg(long)]
    keep: bool,
}

/// Runs the demo. Success only if no read failed or was wrong, and each step went as it must.
pub(crate) async fn run(args: DemoArgs) -> anyhow::Result<ExitCode> {
    // Without this, Ctrl-C would end us before our servers and the folder are gone.
    tokio::select! {
        outcome = perform(&args) => outcome,
        interrupted = tokio::signal::ctrl_c() => {
            interrupted.context("wait for Ctrl-C")?;
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// What shells use for a program that was ended by SIGINT.
const INTERRUPTED: u8 = 130;

async fn perform(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    let narrator = Narrator::new();
    let mut stage = Stage::build(args.keys, &narrator).await?;
    let story = narrator.follow(&stage);
    let mut report = Report::default();
    let performed = play(args, &mut stage, &narrator, &mut report).await;
    drop(story);
    narrator.finish();
    if let Err(error) = performed {
        narrator.say(&format!("stopped: {error:#}"));
        report.fails();
        narrator.say(&format!("logs and data stay in {}", stage.keep_folder().display()));
    }
    narrator.say(&report.render());
    if args.keep {
        narrator.say(&stage.invitation());
        tokio::signal::ctrl_c().await.context("wait for Ctrl-C")?;
    }
    Ok(if report.is_success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn play(args: &DemoArgs, stage: &mut Stage, narrator: &Narrator, report: &mut Report) -> anyhow::Result<()> {
    let started = tokio::time::Instant::now();
    steps::undisturbed(stage, narrator, report).await?;
    steps::short_cut(stage, narrator, report).await?;
    steps::another_history(stage, narrator, report).await?;
    steps::empty_primary(stage, narrator, report).await?;
    let rest = Duration::from_secs(args.duration).saturating_sub(started.elapsed());
    if !rest.is_zero() {
        narrator.say(&format!("reading on for {} s", rest.as_secs()));
        tokio::time::sleep(rest).await;
        report.add("afterwards", stage.take(), None, None);
    }
    Ok(())
}
