//! Looks at one server again and again: `INFO` and, of a replica, whether it serves stale data. Each look has a deadline; a broken connection
//! is replaced at the next one.

use crate::admin::{AdminConnection, AdminError};
use crate::clock::Clock;
use crate::settings::Endpoint;
use rbuddy_core::control::event::{Event, Node, Probe, ProbeResult};
use rbuddy_core::info::Role;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Looks once and sends one `Event::Probe`.
pub(super) async fn once(node: Node, endpoint: Endpoint, clock: Clock, events: mpsc::Sender<Event>) {
    let asked_at = clock.now();
    let result = judged(look(&node, &endpoint, &mut None).await);
    // The loop may have ended; then nobody waits for it.
    let _ = events.send(Event::Probe { node, asked_at, result }).await;
}

/// Sends an `Event::Probe` at every look, until cancelled. `hurry` asks for a look at once.
pub(super) async fn run(
    node: Node,
    endpoint: Endpoint,
    clock: Clock,
    events: mpsc::Sender<Event>,
    hurry: std::sync::Arc<Notify>,
    cancel: CancellationToken,
) {
    let mut connection: Option<AdminConnection> = None;
    loop {
        let (started, asked_at) = (Instant::now(), clock.now());
        let was_open = connection.is_some();
        let mut looked = look(&node, &endpoint, &mut connection).await;
        if was_open && matches!(looked, Err(AdminError::Lost { .. })) {
            // Its end says nothing of the server: we close its clients' connections ourselves when readers are to leave it.
            connection = None;
            looked = look(&node, &endpoint, &mut connection).await;
        }
        let result = judged(looked);
        if matches!(result, ProbeResult::Failed(_)) {
            connection = None;
        }
        let send = events.send(Event::Probe { node: node.clone(), asked_at, result });
        tokio::select! {
            () = cancel.cancelled() => return,
            sent = send => if sent.is_err() { return },
        }
        tokio::select! {
            () = cancel.cancelled() => return,
            () = sleep_until(started + EVERY) => {}
            () = async { hurry.notified().await; sleep_until(started + AT_MOST_EVERY).await } => {}
        }
    }
}

fn judged(looked: Result<Probe, AdminError>) -> ProbeResult {
    looked.map_or_else(|error| ProbeResult::Failed(error.to_string()), |probe| ProbeResult::Answered(Box::new(probe)))
}

async fn look(node: &Node, endpoint: &Endpoint, connection: &mut Option<AdminConnection>) -> Result<Probe, AdminError> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(AdminConnection::open(endpoint, DEADLINE).await?),
    };
    let info = open.info().await?;
    // A server that is loading answers INFO and refuses CONFIG.
    let is_asked = matches!(node, Node::Replica(_)) && info.role == Some(Role::Slave) && !info.is_loading;
    let serve_stale = if is_asked { serves_stale(open).await? } else { None };
    Ok(Probe { info, serve_stale })
}

/// `None` where the server may not be asked; it was called `slave-…` before 5.0.
async fn serves_stale(server: &AdminConnection) -> Result<Option<bool>, AdminError> {
    for name in ["replica-serve-stale-data", "slave-serve-stale-data"] {
        match server.config_get(name).await {
            Ok(Some(value)) => return Ok(Some(value == "yes")),
            Ok(None) | Err(AdminError::Loading { .. } | AdminError::Refused { .. } | AdminError::Denied { .. }) => {}
            Err(error @ (AdminError::Unreachable { .. } | AdminError::Timeout { .. } | AdminError::Lost { .. })) => return Err(error),
        }
    }
    Ok(None)
}

/// Between two looks when nothing happens.
const EVERY: Duration = Duration::from_millis(500);
/// Between two looks in a hurry.
const AT_MOST_EVERY: Duration = Duration::from_millis(50);
/// For one answer. `dead_after` is counted over several looks.
const DEADLINE: Duration = Duration::from_millis(1500);
