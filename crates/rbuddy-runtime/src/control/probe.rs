//! Looks at one server again and again: `INFO` and, of a replica, whether it serves stale data; rarely, what else it is set to. Each look has a deadline; a
//! broken connection is replaced at the next one.

use crate::admin::{AdminConnection, AdminError};
use crate::clock::Clock;
use crate::server_settings;
use crate::settings::Endpoint;
use rbuddy_core::control::event::{Event, Node, Probe, ProbeResult};
use rbuddy_core::info::Role;
use rbuddy_core::types::RunId;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

/// Looks once and sends one `Event::Probe`.
pub(super) async fn once(node: Node, endpoint: Endpoint, clock: Clock, events: mpsc::Sender<Event>) {
    let asked_at = clock.now();
    let result = judged(look(&node, &endpoint, &mut None, &mut Inquiry::default()).await);
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
    let (mut connection, mut inquiry): (Option<AdminConnection>, _) = (None, Inquiry::default());
    loop {
        let (started, asked_at) = (Instant::now(), clock.now());
        let was_open = connection.is_some();
        let mut looked = look(&node, &endpoint, &mut connection, &mut inquiry).await;
        if was_open && matches!(looked, Err(AdminError::Lost { .. })) {
            // Its end says nothing of the server: we close its clients' connections ourselves when readers are to leave it.
            connection = None;
            looked = look(&node, &endpoint, &mut connection, &mut inquiry).await;
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
            () = sleep_until(started + EVERY) => inquiry.is_hurried = false,
            () = async { hurry.notified().await; sleep_until(started + AT_MOST_EVERY).await } => inquiry.is_hurried = true,
        }
    }
}

fn judged(looked: Result<Probe, AdminError>) -> ProbeResult {
    looked.map_or_else(|error| ProbeResult::Failed(error.to_string()), |probe| ProbeResult::Answered(Box::new(probe)))
}

/// When a server was last asked what it is set to. That rarely changes; in a hurry it may be promoted at any moment, and what an operator has mended counts.
#[derive(Default)]
struct Inquiry {
    last: Option<(Option<RunId>, Instant)>,
    is_hurried: bool,
}

impl Inquiry {
    fn is_due(&self, run_id: Option<RunId>) -> bool {
        let every = if self.is_hurried { SETTINGS_EVERY_IN_A_HURRY } else { SETTINGS_EVERY };
        self.last.is_none_or(|(asked, at)| asked != run_id || at.elapsed() >= every)
    }
}

async fn look(
    node: &Node,
    endpoint: &Endpoint,
    connection: &mut Option<AdminConnection>,
    inquiry: &mut Inquiry,
) -> Result<Probe, AdminError> {
    let open = match connection {
        Some(open) => open,
        None => connection.insert(AdminConnection::open(endpoint, DEADLINE).await?),
    };
    let info = open.info().await?;
    // A server that is loading answers INFO and refuses CONFIG.
    let can_be_asked = matches!(node, Node::Replica(_)) && !info.is_loading;
    let is_asked = can_be_asked && info.role == Some(Role::Slave);
    let serve_stale = if is_asked { serves_stale(open).await? } else { None };
    let mut settings = None;
    if can_be_asked && inquiry.is_due(info.run_id) {
        settings = Some(server_settings::ask(open).await?);
        inquiry.last = Some((info.run_id, Instant::now()));
    }
    Ok(Probe { info, serve_stale, settings })
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
/// Between two questions what a server is set to.
const SETTINGS_EVERY: Duration = Duration::from_secs(60);
/// The same, while a failover is under way.
const SETTINGS_EVERY_IN_A_HURRY: Duration = Duration::from_secs(2);
/// For one answer. `dead_after` is counted over several looks.
const DEADLINE: Duration = Duration::from_millis(1500);
