//! A look at a replica that waits for its answer: who is it? A snapshot takes the place of all that it holds, so before that goes out its version must be
//! known, if it can be, and its process must be the one that the controller judged (P3): that may have heard nothing of it for long, and anything may
//! have been started at its address meanwhile.
//!
//! Not here: what follows from it ([`super::session`]).

use super::hub::Hub;
use crate::admin::{AdminConnection, AdminError};
use crate::settings::Endpoint;
use rbuddy_core::info::ServerInfo;
use rbuddy_core::types::{NodeAddress, RunId};
use std::time::Duration;
use tokio::time::{Instant, timeout};
use tracing::info;

/// What is known of the process at the other end of a session.
#[derive(Debug, Default)]
pub(super) struct Looks {
    last_at: Option<Instant>,
    run_id: Option<RunId>,
    /// Why not, so that it is told once.
    error: Option<String>,
}

impl Looks {
    /// It was looked at, and is this process.
    pub(super) fn is(&self, process: RunId) -> bool {
        self.run_id == Some(process)
    }

    /// Never, or not for a moment: what was not to be seen then may be now.
    pub(super) fn are_due(&self) -> bool {
        self.last_at.is_none_or(|at| at.elapsed() >= AGAIN_AFTER)
    }

    /// It never was looked at.
    pub(super) fn are_none(&self) -> bool {
        self.last_at.is_none()
    }

    /// Asks at the address that it is known by.
    pub(super) async fn look(&mut self, hub: &Hub, address: &NodeAddress) -> Option<ServerInfo> {
        let asked = timeout(PATIENCE, ask(hub, address)).await;
        self.last_at = Some(Instant::now());
        let info = match asked {
            Ok(Ok(info)) => Ok(info),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        };
        if let Err(error) = info.as_ref().map(drop)
            && self.error.as_ref() != Some(error)
        {
            info!(group = %hub.config.group, replica = %address, %error, "the replica cannot be looked at");
        }
        self.error = info.as_ref().err().cloned();
        let info = info.ok();
        self.run_id = info.as_ref().and_then(|info| info.run_id);
        info
    }
}

async fn ask(hub: &Hub, address: &NodeAddress) -> Result<ServerInfo, AdminError> {
    let listed = hub.config.replicas.iter().find(|replica| replica.address == *address).cloned();
    // Many of those that are only known by their connection have the same password as the one they say here.
    let endpoint = listed.unwrap_or_else(|| {
        let login = hub.config.login();
        let (user, password) = login.map_or((None, None), |login| (login.user, Some(login.password)));
        Endpoint { address: address.clone(), user, password }
    });
    AdminConnection::open(&endpoint, PATIENCE).await?.info().await
}

/// A replica that waits for its answer answers others at once.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN_AFTER: Duration = Duration::from_secs(1);
