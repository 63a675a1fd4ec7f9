//! Finds a server for a client: chooses an active, connects, and waits at the boundary (parks) while there is none.

use super::Shared;
use super::backend::{Backend, connect};
use super::counters::Park;
use rbuddy_core::control::assignment::{ActiveReplica, Assignment};
use rbuddy_core::reader::session::Session;
use rbuddy_core::reader::trail::Trail;
use rbuddy_core::types::{NodeAddress, RunId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::debug;

/// A server that was left.
pub(super) type Left = (NodeAddress, RunId);

/// Why a client has no server.
#[derive(Debug)]
pub(super) enum NoServer {
    /// None came in time; why, for people.
    Late(String),
    /// All that is served is a dataset that this connection has left for a newer one.
    Backwards,
}

/// A server for a client, or the reason why there was none up to `deadline`. Marks what the client will have read in its trail.
pub(super) async fn acquire(
    shared: &Shared,
    assignments: &mut watch::Receiver<Arc<Assignment>>,
    session: &Session,
    trail: &mut Trail,
    left: Option<&Left>,
    deadline: Instant,
) -> Result<Backend, NoServer> {
    let since = std::time::Instant::now();
    let mut park = None;
    let mut tried = BTreeSet::new();
    let mut wait = RETRY_FIRST;
    let mut last_failure = None;
    loop {
        let assignment = Arc::clone(&assignments.borrow_and_update());
        left.into_iter().for_each(|left| note_fed(shared, trail, left));
        let reason = match choose(shared, &assignment, trail, &tried) {
            Choice::Backwards => return Err(NoServer::Backwards),
            Choice::Active { active, are_others_left } => {
                // One that hangs is not waited for while another can be asked.
                let until = if are_others_left { deadline.min(Instant::now() + ATTEMPT_MAX) } else { deadline };
                match timeout_at(until, connect(shared, active, session, trail)).await {
                    Ok(Ok(backend)) => {
                        trail.served(assignment.generation, active, backend.position);
                        return Ok(backend);
                    }
                    failed if are_others_left => {
                        let reason = failed.map_or_else(|_| "no answer".to_owned(), |failed| failed.err().unwrap_or_default());
                        debug!(active = %active.address, reason, "active cannot be read");
                        tried.insert(active.address.clone());
                        continue;
                    }
                    Ok(Err(reason)) => reason,
                    // What happened before says more than the last attempt, which the deadline cut short.
                    Err(_) => last_failure.take().unwrap_or_else(|| format!("{} did not answer in time", active.address)),
                }
            }
            Choice::None => assignment.reason.clone().unwrap_or_else(|| "no replica is active".to_owned()),
        };
        let now = Instant::now();
        if now >= deadline {
            return Err(NoServer::Late(reason));
        }
        last_failure = Some(reason);
        park.get_or_insert_with(|| Park::begin(&shared.counters, since));
        tried.clear();
        // An assignment may be right and its server still a moment behind (its replication id, its offset): ask again soon.
        let again = (now + wait).min(deadline);
        tokio::select! {
            () = changed(assignments) => wait = RETRY_FIRST,
            () = sleep_until(again) => wait = (wait + RETRY_FIRST).min(RETRY_MAX),
        }
    }
}

/// All that it was fed may have been read.
pub(super) fn note_fed(shared: &Shared, trail: &mut Trail, (address, process): &Left) {
    trail.fed(*process, &shared.fed.to(address));
}

/// Waits for another assignment; for ever, when there will be none.
pub(super) async fn changed(assignments: &mut watch::Receiver<Arc<Assignment>>) {
    if assignments.changed().await.is_err() {
        std::future::pending().await
    }
}

enum Choice<'a> {
    Active {
        active: &'a ActiveReplica,
        /// That could be asked in its place.
        are_others_left: bool,
    },
    None,
    Backwards,
}

/// The active with the fewest connections among those that were not tried in vain and would not show the client the past.
fn choose<'a>(shared: &Shared, assignment: &'a Assignment, trail: &Trail, tried: &BTreeSet<NodeAddress>) -> Choice<'a> {
    if assignment.actives.is_empty() || trail.is_past(assignment) {
        return Choice::None;
    }
    let mut forward = assignment.actives.iter().filter(|active| !trail.goes_back_to(active)).peekable();
    if forward.peek().is_none() {
        return Choice::Backwards;
    }
    let untried: Vec<&ActiveReplica> = forward.filter(|active| !tried.contains(&active.address)).collect();
    let are_others_left = untried.len() > 1;
    let least = untried.into_iter().min_by_key(|active| shared.counters.connections_to(&active.address));
    least.map_or(Choice::None, |active| Choice::Active { active, are_others_left })
}

/// A server that is well answers a check within a millisecond or two.
const ATTEMPT_MAX: Duration = Duration::from_millis(300);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_millis(200);
