//! Carries out one command to one replica and says how it ended: done, refused, or unknown.
//!
//! After an unknown outcome of `Empty` the connection that sent it is killed by its id before that server gets anything else: otherwise a
//! delayed command could empty a replica that has become active meanwhile.

use crate::admin::{AdminConnection, AdminError};
use crate::settings::Endpoint;
use rbuddy_core::control::action::{Outcome, ServerCommand};
use rbuddy_core::info::Role;
use rbuddy_core::types::{NodeAddress, RunId};
use redis::Value;
use std::time::Duration;

/// Commands to one replica.
#[derive(Debug)]
pub(super) struct Executor {
    endpoint: Endpoint,
    relay: NodeAddress,
    relay_auth: Option<crate::settings::Credentials>,
    /// A connection whose last command may still be on its way, and the process that it leads to.
    doubtful: Option<(i64, RunId)>,
}

impl Executor {
    pub(super) fn new(endpoint: Endpoint, relay: NodeAddress, relay_auth: Option<crate::settings::Credentials>) -> Executor {
        Executor { endpoint, relay, relay_auth, doubtful: None }
    }

    pub(super) async fn carry_out(&mut self, command: &ServerCommand) -> Outcome {
        match self.try_to(command).await {
            Ok(()) => Outcome::Done,
            Err(error) if error.outcome_unknown() => Outcome::Unknown(error.to_string()),
            Err(error) => Outcome::Refused(error.to_string()),
        }
    }

    async fn try_to(&mut self, command: &ServerCommand) -> Result<(), AdminError> {
        let server = AdminConnection::open(&self.endpoint, DEADLINE).await?;
        self.end_doubt(&server).await?;
        match command {
            ServerCommand::Follow { serve_stale } => self.follow(&server, *serve_stale).await,
            ServerCommand::ServeStale(on) => {
                set_serve_stale(&server, *on).await?;
                rewrite(&server).await
            }
            ServerCommand::Detach => detach(&server).await,
            ServerCommand::DisconnectClients => disconnect_clients(&server).await,
            ServerCommand::Empty { run_id, detached } => self.empty(&server, *run_id, *detached).await,
        }
    }

    /// Makes sure that nothing sent before can still arrive.
    async fn end_doubt(&mut self, server: &AdminConnection) -> Result<(), AdminError> {
        let Some((client, run_id)) = self.doubtful else { return Ok(()) };
        if server.info().await?.run_id == Some(run_id) {
            // 1: killed. 0: it is gone. Anything else leaves the doubt.
            let answer = server.command(&["CLIENT", "KILL", "ID", &client.to_string()]).await?;
            let Value::Int(_) = answer else { return Err(refused(server, format!("CLIENT KILL ID {client} answered {answer:?}"))) };
        }
        self.doubtful = None;
        Ok(())
    }

    async fn follow(&self, server: &AdminConnection, serve_stale: bool) -> Result<(), AdminError> {
        // Before the change of master: from its first moment behind the relay the replica answers, or does not answer, as its role wants.
        set_serve_stale(server, serve_stale).await?;
        if let Some(auth) = &self.relay_auth {
            server.command(&["CONFIG", "SET", "masterauth", auth.password.expose()]).await?;
            let user = server.command(&["CONFIG", "SET", "masteruser", auth.user.as_deref().unwrap_or("")]).await;
            // Servers before 6.0 have no users, so none can be wrong there.
            if auth.user.is_some() {
                user.map(drop)?
            }
        }
        // A replica that follows this address already answers "+OK Already connected", which is as good.
        server.command(&["REPLICAOF", &self.relay.host, &self.relay.port.to_string()]).await?;
        rewrite(server).await
    }

    /// In one write, so that the server handles all of it before it looks at another client: no write slips in while it is its own master.
    async fn empty(&mut self, server: &AdminConnection, run_id: RunId, detached: bool) -> Result<(), AdminError> {
        let info = server.info().await?;
        if info.run_id != Some(run_id) {
            return Err(refused(server, format!("its run id is {:?}, the intent names {run_id}", info.run_id)));
        }
        if (info.role == Some(Role::Master)) != detached {
            return Err(refused(server, "its role has changed since this was decided".to_owned()));
        }
        let client = server.client_id().await?;
        let has_functions = info.version.is_some_and(|version| version.at_least(7, 0));
        let port = self.relay.port.to_string();
        let mut commands: Vec<&[&str]> = Vec::new();
        if detached {
            // While the fence is up, FLUSHALL is refused with -NOREPLICAS.
            commands.push(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
        }
        commands.push(&["REPLICAOF", "NO", "ONE"]);
        commands.push(&["MULTI"]);
        commands.push(&["FLUSHALL", "ASYNC"]);
        if has_functions {
            // FLUSHALL leaves functions behind.
            commands.push(&["FUNCTION", "FLUSH", "ASYNC"]);
        }
        commands.push(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
        let follow = ["REPLICAOF", self.relay.host.as_str(), port.as_str()];
        commands.push(&follow);
        commands.push(&["EXEC"]);
        // Had any of it been refused, the server would be left as its own master, open to writes: bring it back in any case.
        commands.push(&follow);
        self.doubtful = Some((client, run_id));
        let answers = server.pipeline(&commands).await?;
        self.doubtful = None;
        for answer in answers {
            // An error inside EXEC's answer is one of its elements.
            let Value::Array(executed) = answer? else { continue };
            if let Some(error) = executed.iter().find(|element| matches!(element, Value::ServerError(_))) {
                return Err(refused(server, format!("EXEC answered {error:?}")));
            }
        }
        rewrite(server).await
    }
}

fn refused(server: &AdminConnection, reason: String) -> AdminError {
    AdminError::Refused { address: server.address().clone(), reason }
}

async fn set_serve_stale(server: &AdminConnection, on: bool) -> Result<(), AdminError> {
    let value = if on { "yes" } else { "no" };
    server.command(&["CONFIG", "SET", "replica-serve-stale-data", value]).await.map(drop)
}

/// What the server does on its own restart belongs to it: write the assignment down there. A server that runs without a configuration file
/// cannot; `check` says so.
async fn rewrite(server: &AdminConnection) -> Result<(), AdminError> {
    match server.command(&["CONFIG", "REWRITE"]).await {
        Err(AdminError::Refused { reason, .. }) => {
            tracing::debug!(%reason, "the server cannot write its configuration file");
            Ok(())
        }
        other => other.map(drop),
    }
}

/// The fence first: it has no effect on a replica, and holds from the first moment as its own master. 7.0 and newer also refuse writes of
/// scripts then (protocol fact 6).
async fn detach(server: &AdminConnection) -> Result<(), AdminError> {
    if server.info().await?.connected_replicas > 0 {
        return Err(refused(server, "it has replicas of its own, so the fence would let writes through".to_owned()));
    }
    // With a lag of 0 servers do not count replicas at all.
    server.command(&["CONFIG", "SET", "min-replicas-max-lag", "10"]).await?;
    server.command(&["CONFIG", "SET", "min-replicas-to-write", "1"]).await?;
    server.command(&["REPLICAOF", "NO", "ONE"]).await.map(drop)
}

async fn disconnect_clients(server: &AdminConnection) -> Result<(), AdminError> {
    for kind in ["normal", "pubsub"] {
        server.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await?;
    }
    Ok(())
}

/// For one answer. Longer than a probe's: REPLICAOF may have to cancel a transfer.
const DEADLINE: Duration = Duration::from_secs(5);
