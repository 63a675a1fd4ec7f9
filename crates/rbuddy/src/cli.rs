//! The command line.

use crate::commands::{
    check::CheckArgs, client::ApiArgs, init::InitArgs, plan::PlanArgs, relay::RelayArgs, replay::ReplayArgs, run::RunArgs,
    status::StatusArgs,
};
use crate::demo::DemoArgs;
use crate::exit;
use crate::logging::LogArgs;
use clap::{Parser, Subcommand};
use rbuddy_core::types::DatasetId;

/// Keeps reads from Redis and Valkey replicas alive through a full resync.
#[derive(Debug, Parser)]
#[command(name = "rbuddy", version, after_help = exit::HELP, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) log: LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run: relay, controller, reader endpoint, API and webhooks of all groups
    Run(RunArgs),
    /// Look at a configuration and its servers, name every mistake, change nothing
    Check(CheckArgs),
    /// Write a commented configuration
    Init(InitArgs),
    /// Show what a running rbuddy knows
    Status(StatusArgs),
    /// Say what would happen now if the link broke, the primary came back new, or a replica died
    Plan(PlanArgs),
    /// Switch to a standby, planned: no reader sees an older position
    Failover(ApiArgs),
    /// Allow rbuddy to empty a replica that holds keys which are not proven its own
    Adopt {
        /// HOST:PORT of the replica, as `status` shows it
        #[arg(value_parser = server)]
        replica: rbuddy_core::types::NodeAddress,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Have readers leave a replica that you want to stop, upgrade or move; another takes them first
    Drain {
        /// HOST:PORT of the replica, as `status` shows it
        #[arg(value_parser = server)]
        replica: rbuddy_core::types::NodeAddress,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Have a drained replica take part again
    Return {
        /// HOST:PORT of the replica, as `status` shows it
        #[arg(value_parser = server)]
        replica: rbuddy_core::types::NodeAddress,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Ask whether a replica may be stopped now without anybody noticing: exit code 0 if so, 4 if not
    MayStop {
        /// HOST:PORT of the replica, as `status` shows it
        #[arg(value_parser = server)]
        replica: rbuddy_core::types::NodeAddress,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Promote a dataset although a guard refuses it
    Approve {
        /// REPLID:OFFSET, as `status` shows it beside the refusal
        dataset: DatasetId,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// Say where the primary is now: for a failover of the primary that no Sentinel tells of
    SetPrimary {
        /// HOST:PORT of the server that takes the writes
        #[arg(value_parser = server)]
        address: rbuddy_core::types::NodeAddress,
        #[command(flatten)]
        api: ApiArgs,
    },
    /// No automatic action until `resume`; what serves goes on serving
    Pause(ApiArgs),
    /// The opposite of `pause`
    Resume(ApiArgs),
    /// Step through a journal: what happened, what was decided and why; exit status 1 where this rbuddy decides otherwise
    Replay(ReplayArgs),
    /// The replication relay alone: a primary to any replica that connects
    Relay(RelayArgs),
    /// Watch reads survive a primary that breaks in three ways, with servers of the demo's own
    Demo(DemoArgs),
}

/// Also as `GET /active` writes it.
fn server(text: &str) -> Result<rbuddy_core::types::NodeAddress, rbuddy_core::types::ParseNodeAddressError> {
    text.strip_prefix("redis://").map_or(text, |rest| rest.trim_end_matches('/')).parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn servers_may_be_named_as_the_api_writes_them() {
        for text in ["127.0.0.1:6380", "redis://127.0.0.1:6380/", "redis://127.0.0.1:6380"] {
            assert_eq!(server(text).expect("an address").to_string(), "127.0.0.1:6380");
        }
        assert!(server("redis://").is_err());
    }
}
