//! rbuddy's binary talks to humans: command line, configuration file, rendering. What is done, the runtime does; what is decided, core.
//!
//! | where | what |
//! | --- | --- |
//! | [`cli`] | the command line |
//! | [`commands`] | what each command does |
//! | [`config`] | the configuration file and everything that can be wrong with it |
//! | [`demo`] | the promise, shown with servers of its own |
//! | [`exit`] | exit codes |
//! | [`logging`], [`out`] | logs, results and remarks |
//! | [`signals`] | SIGTERM and SIGINT |

#![forbid(unsafe_code)]

mod cli;
mod commands;
mod config;
mod demo;
mod exit;
mod logging;
mod out;
mod signals;

use anyhow::Context as _;
use clap::Parser;
use cli::{Cli, Command};
use exit::Failure;
use rbuddy_core::control::status::Operation;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = logging::start(&cli.log).and_then(|()| {
        let runtime = tokio::runtime::Runtime::new().context("start threads")?;
        let outcome = runtime.block_on(dispatch(cli.command));
        // A thread that waits for a hanging disk is not waited for.
        runtime.shutdown_timeout(LAST_THREADS);
        outcome
    });
    match outcome {
        Ok(code) => code,
        Err(failure) => {
            if let Some(error) = &failure.error {
                out::remark(&format!("error: {error:#}"));
            }
            failure.exit.into()
        }
    }
}

async fn dispatch(command: Command) -> Result<ExitCode, Failure> {
    match command {
        // It has a code of its own for being interrupted.
        Command::Demo(args) => return Ok(demo::run(args).await?),
        Command::Run(args) => commands::run::run(&args).await,
        Command::Check(args) => commands::check::run(&args).await,
        Command::Init(args) => commands::init::run(&args),
        Command::Status(args) => commands::status::run(&args).await,
        Command::Plan(args) => commands::plan::run(&args).await,
        Command::Failover(api) => commands::client::order(&api, Operation::Failover).await,
        Command::Adopt { replica, api } => commands::client::order(&api, Operation::Adopt { replica }).await,
        Command::Approve { dataset, api } => commands::client::order(&api, Operation::Approve { dataset }).await,
        Command::Drain { replica, api } => commands::client::order(&api, Operation::Drain { replica }).await,
        Command::Return { replica, api } => commands::client::order(&api, Operation::Return { replica }).await,
        Command::MayStop { replica, api } => commands::client::may_stop(&api, &replica).await,
        Command::SetPrimary { address, api } => commands::client::order(&api, Operation::SetPrimary { address }).await,
        Command::Pause(api) => commands::client::order(&api, Operation::Pause).await,
        Command::Resume(api) => commands::client::order(&api, Operation::Resume).await,
        Command::Replay(args) => commands::replay::run(&args),
        Command::Relay(args) => commands::relay::run(args).await,
    }?;
    Ok(ExitCode::SUCCESS)
}

/// Whatever must be done before the end was waited for already.
const LAST_THREADS: Duration = Duration::from_secs(2);
