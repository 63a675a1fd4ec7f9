//! Replicas that go in and out of service: each time their readers have to move, so one that does so again and again is not read before it has been steady
//! for a while, as long as another one serves.
//!
//! What counts as a fall: an active that can be read no more, a server that is dead for `dead_after`, another process in its place. Not a connection to the
//! relay that ends: rbuddy ends those itself, and no reader moves for it. All else goes on as if it were read: it keeps its role and its stream, so that
//! it is there at once when nobody else is.

use super::action::StoryLevel;
use super::controller::Controller;
use super::state::Role;
use super::status::Flapping;
use crate::types::{NodeAddress, RunId, Time};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How often a replica fell lately.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Flaps {
    /// Falls, each within [`FORGIVEN_AFTER`] of coming back from the one before.
    falls: u32,
    is_up: bool,
    /// Since when it is up, or is not.
    since: Time,
    run_id: Option<RunId>,
    /// It has to prove itself before it is read.
    pub(super) is_out: bool,
}

impl Flaps {
    /// Takes in how it is now.
    fn observe(&mut self, now: Time, is_up: bool, run_id: Option<RunId>) {
        let is_another = self.run_id.is_some() && run_id.is_some() && self.run_id != run_id;
        self.run_id = run_id.or(self.run_id);
        if self.is_up && (!is_up || is_another) {
            self.falls = (self.falls + 1).min(FALLS_MAX);
        }
        if self.is_up != is_up || is_another {
            (self.is_up, self.since) = (is_up, now);
        }
        if is_up && now.since(self.since) >= FORGIVEN_AFTER {
            self.falls = 0;
        }
        self.is_out = self.falls >= FALLS && !(is_up && now.since(self.since) >= self.proof());
    }

    /// For so long it has to be steady: longer after each further fall.
    fn proof(&self) -> Duration {
        let doublings = self.falls.saturating_sub(FALLS);
        FIRST_PROOF.saturating_mul(1 << doublings.min(FALLS_MAX)).min(LAST_PROOF)
    }
}

impl Controller {
    pub(super) fn observe_flaps(&mut self, now: Time) {
        for replica in self.policy.replicas.clone() {
            let Some(sight) = self.world.sight(&replica).filter(|sight| sight.was_asked()) else { continue };
            let is_alive = sight.probe.is_some() && !sight.is_dead(now, self.policy.dead_after);
            let (is_up, run_id) = match self.state.role(&replica) {
                Role::Active => (self.can_serve(now, &replica), sight.run_id()),
                Role::Unknown | Role::Standby | Role::Draining | Role::Emptying { .. } | Role::Refused { .. } => (is_alive, sight.run_id()),
                // Its operator is at work on it.
                Role::Drained => {
                    self.flaps.remove(&replica);
                    continue;
                }
            };
            let flaps = self.flaps.entry(replica.clone()).or_default();
            let before = flaps.clone();
            flaps.observe(now, is_up, run_id);
            let (falls, proof, is_out) = (flaps.falls, flaps.proof(), flaps.is_out);
            if is_out && falls > before.falls {
                let text = format!(
                    "went out of service {falls} times within minutes: not read before it has been steady for {proof:?}, as long as another serves, and filled last"
                );
                self.story(StoryLevel::Warn, Some(&replica), text);
            } else if before.is_out && !is_out {
                self.story(StoryLevel::Info, Some(&replica), format!("has been steady for {proof:?}: counts again"));
            }
        }
    }

    /// It has fallen too often lately.
    pub(super) fn is_out(&self, replica: &NodeAddress) -> bool {
        self.flaps.get(replica).is_some_and(|flaps| flaps.is_out)
    }

    /// Those of these that readers are sent to, all of one dataset: the steady ones, or all if there is none.
    pub(super) fn steady(&self, actives: Vec<NodeAddress>) -> Vec<NodeAddress> {
        let steady: Vec<NodeAddress> = actives.iter().filter(|replica| !self.is_out(replica)).cloned().collect();
        if steady.is_empty() { actives } else { steady }
    }

    /// It is fed, and nobody reads it.
    pub(super) fn is_out_and_not_read(&self, replica: &NodeAddress) -> bool {
        let is_read = self.assignment.iter().flat_map(|assignment| &assignment.actives).any(|active| active.address == *replica);
        self.is_out(replica) && *self.state.role(replica) == Role::Active && !is_read
    }

    pub(super) fn flapping(&self, replica: &NodeAddress) -> Option<Flapping> {
        let flaps = self.flaps.get(replica).filter(|flaps| flaps.is_out)?;
        let proof = flaps.proof();
        Some(Flapping { falls: flaps.falls, steady_for_s: proof.as_secs(), until: flaps.is_up.then(|| flaps.since.after(proof)) })
    }
}

/// So many falls are too many.
const FALLS: u32 = 3;
/// More are not told apart.
const FALLS_MAX: u32 = 16;
/// How long it has to be steady after the last of them; doubled with each further one.
const FIRST_PROOF: Duration = Duration::from_secs(15);
/// The longest.
const LAST_PROOF: Duration = Duration::from_secs(120);
/// One that is steady for so long begins anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(300);
