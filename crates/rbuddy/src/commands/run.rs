//! `rbuddy run`: the whole thing, until a signal.

use super::{check, load};
use crate::exit::{Exit, Failure};
use crate::{out, signals};
use clap::Args;
use rbuddy_runtime::{app, check::essential};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The configuration; `rbuddy init` writes one, docs/configuration.md explains every key
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
}

pub(crate) async fn run(args: &RunArgs) -> Result<(), Failure> {
    let settings = load(&args.config)?.settings;
    let cancel = signals::cancelled_by_signals()?;
    // Before anything is bound or a state file written: a configuration that names a primary as a replica must do nothing at all.
    let Some(refusals) = cancel.run_until_cancelled(essential(&settings)).await else { return Ok(()) };
    if !refusals.is_empty() {
        out::remark(&check::render(&refusals));
        return Err(Failure::new(Exit::Refused, "rbuddy does not start with these servers; nothing was changed"));
    }
    app::run(settings, cancel).await.map_err(|error| anyhow::Error::from(error).into())
}
