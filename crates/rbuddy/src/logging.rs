//! Logs: to stderr, as text or JSON.

use crate::exit::{Exit, Failure};
use clap::{Args, ValueEnum};
use tracing_subscriber::EnvFilter;

/// How to log.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogArgs {
    /// Form of the logs on stderr
    #[arg(long = "log", value_enum, default_value_t = Form::Text, global = true, value_name = "FORM")]
    form: Form,
    /// What to log: error, warn, info, debug, trace, or a filter as in RUST_LOG, which counts where this is not given [default: info]
    #[arg(long = "log-level", global = true, value_name = "LEVEL")]
    level: Option<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// From here on events are logged.
pub(crate) fn start(args: &LogArgs) -> Result<(), Failure> {
    let filter = args.level.clone().or_else(|| std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty()));
    let filter = EnvFilter::try_new(filter.as_deref().unwrap_or("info"));
    let filter = filter.map_err(|error| Failure::new(Exit::Usage, format!("this is no log level or filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(crate::out::remarks_in_colour());
    match args.form {
        Form::Text => builder.init(),
        Form::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
