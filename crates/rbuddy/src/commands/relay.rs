//! `rbuddy relay`: the relay alone, without controller, state or API. Any replica that connects is served as a primary would serve it.

use crate::config::{Listen, Wrong, primary};
use crate::exit::{Exit, Failure};
use crate::signals;
use clap::Args;
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::app::run_relay_alone;
use rbuddy_runtime::clock::Clock;
use rbuddy_runtime::control::StateDirLock;
use rbuddy_runtime::relay::RelayConfig;
use rbuddy_runtime::settings::{PrimarySettings, RelaySettings};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct RelayArgs {
    /// The primary: HOST:PORT or redis://HOST:PORT, or whom to ask for it: redis-sentinel://HOST:PORT,HOST:PORT/NAME. With a password give redis://user:password@HOST:PORT in the environment,
    /// where other users do not see it; replicas must then say the same password
    #[arg(long, env = "RBUDDY_UPSTREAM", hide_env_values = true, value_name = "HOST:PORT")]
    upstream: String,
    /// Where replicas connect
    #[arg(long, value_name = "HOST:PORT")]
    listen: String,
    /// Where snapshots and the position are kept over a restart
    #[arg(long, default_value = "rbuddy-relay", value_name = "DIR")]
    dir: PathBuf,
    /// Stream kept in memory for replicas that come back
    #[arg(long, default_value = "64MiB", value_name = "SIZE")]
    backlog: String,
    /// Stream kept on disk, at the most, for replicas that need more than memory has
    #[arg(long, default_value = "4GiB", value_name = "SIZE")]
    backlog_disk_max: String,
    /// When a silent primary counts as gone: an idle one says something every 10s (repl-ping-replica-period)
    #[arg(long, default_value = "30s", value_name = "TIME")]
    upstream_timeout: String,
    /// When a silent replica counts as gone: one that follows says something every second
    #[arg(long, default_value = "60s", value_name = "TIME")]
    replica_timeout: String,
}

pub(crate) async fn run(args: RelayArgs) -> Result<(), Failure> {
    let config = config(&args)?;
    let _lock = StateDirLock::take(&args.dir).map_err(anyhow::Error::from)?;
    let cancel = signals::cancelled_by_signals()?;
    run_relay_alone(config, cancel).await.map_err(|error| anyhow::Error::from(error).into())
}

fn config(args: &RelayArgs) -> Result<RelayConfig, Failure> {
    let url = if args.upstream.contains("://") { args.upstream.clone() } else { format!("redis://{}", args.upstream) };
    let primary: PrimarySettings = primary(&url).map_err(|wrong| usage("--upstream", &wrong))?;
    let listen = Listen::parse(&args.listen).map_err(|wrong| usage("--listen", &wrong))?;
    let backlog_bytes = crate::config::size(&args.backlog).map_err(|wrong| usage("--backlog", &wrong))?;
    let backlog_disk_bytes = crate::config::size(&args.backlog_disk_max).map_err(|wrong| usage("--backlog-disk-max", &wrong))?;
    let upstream_timeout = within("--upstream-timeout", &args.upstream_timeout, UPSTREAM_TIMEOUT)?;
    let replica_timeout = within("--replica-timeout", &args.replica_timeout, REPLICA_TIMEOUT)?;
    if listen.port == 0 || primary.at().fixed().is_some_and(|primary| listen.answers(primary)) {
        return Err(Failure::new(Exit::Usage, "--listen: choose a port that is not 0 and not the primary's"));
    }
    if !listen.is_loopback() && primary.password.is_none() {
        let message =
            "--listen: whoever reaches the relay could read the whole dataset; listen on 127.0.0.1, or name a primary with a password";
        return Err(Failure::new(Exit::Usage, message));
    }
    let announce = NodeAddress::new(listen.host.clone(), listen.port);
    let settings = RelaySettings {
        backlog_bytes,
        backlog_disk_bytes,
        upstream_timeout,
        replica_timeout,
        ..RelaySettings::listening(listen.text(), announce)
    };
    let group = "relay".parse().expect("a sound name");
    Ok(RelayConfig { group, primary, settings, replicas: Vec::new(), dir: args.dir.clone(), clock: Clock::start(), open: true })
}

fn within(option: &str, text: &str, range: RangeInclusive<Duration>) -> Result<Duration, Failure> {
    let value = crate::config::duration(text).map_err(|wrong| usage(option, &wrong))?;
    if range.contains(&value) {
        return Ok(value);
    }
    let message = format!("{option}: {text} is out of range (choose from {} s to {} s)", range.start().as_secs(), range.end().as_secs());
    Err(Failure::new(Exit::Usage, message))
}

fn usage(option: &str, wrong: &Wrong) -> Failure {
    Failure::new(Exit::Usage, format!("{option}: {} ({})", wrong.message, wrong.remedy))
}

/// The same bounds as in the configuration.
const UPSTREAM_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
const REPLICA_TIMEOUT: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(3600);
