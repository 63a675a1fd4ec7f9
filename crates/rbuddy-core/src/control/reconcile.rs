//! Servers' settings in line with their roles: whom they replicate, and whether they answer reads while their link is down.
//!
//! Nothing here can lose data: behind the relay a replica is held until it has a permit.

use super::action::ServerCommand;
use super::controller::Controller;
use super::event::Probe;
use super::relay::UpstreamState;
use super::settings::{FreezeMode, StandbyMode};
use super::state::Role;
use super::status::Phase;
use crate::info::Role as ServerRole;
use crate::types::{NodeAddress, Time};
use std::time::Duration;

impl Controller {
    pub(super) fn reconcile(&mut self, now: Time) {
        for replica in self.policy.replicas.clone() {
            let Some(sight) = self.world.sight(&replica).filter(|s| s.is_answering() && s.asked_at.is_some()) else { continue };
            let Some(probe) = sight.probe.clone() else { continue };
            if self.is_busy(&replica) || probe.info.is_loading || self.may_be_promoted(now, &replica, &probe) {
                continue;
            }
            match self.state.role(&replica) {
                Role::Active => self.reconcile_active(now, &replica, &probe),
                Role::Standby => self.reconcile_standby(now, &replica, &probe),
                Role::Draining => self.reconcile_draining(now, &replica, &probe),
                Role::Unknown | Role::Emptying { .. } | Role::Drained | Role::Refused { .. } => {}
            }
        }
    }

    /// A Sentinel that knows this replica may have made it the primary, and its word on that comes a moment after the deed: a replica that
    /// became a master by itself is left alone for so long. It does not serve meanwhile.
    fn may_be_promoted(&mut self, now: Time, replica: &NodeAddress, probe: &Probe) -> bool {
        let is_master = probe.info.role == Some(ServerRole::Master) && !probe.info.is_empty() && !self.is_detached(replica);
        if !is_master || self.policy.primary.fixed().is_some() {
            self.masters_since.remove(replica);
            return false;
        }
        now.since(*self.masters_since.entry(replica.clone()).or_insert(now)) < SENTINELS_SPEAK
    }

    fn is_behind_relay(&self, probe: &Probe) -> bool {
        probe.info.role == Some(ServerRole::Slave) && probe.info.master.as_ref() == Some(&self.policy.relay)
    }

    fn reconcile_active(&mut self, now: Time, replica: &NodeAddress, probe: &Probe) {
        let is_stranded = self.world.relay.live().is_some() && !self.world.fits_live(replica) && self.can_serve(now, replica);
        if self.policy.freeze == FreezeMode::Detach {
            let fence_holds = probe.info.version.is_some_and(|version| version.at_least(7, 0));
            if self.is_detached(replica) {
                return;
            }
            if is_stranded && fence_holds && probe.info.role == Some(ServerRole::Slave) {
                return self.command(now, replica, ServerCommand::Detach);
            }
        }
        if !self.is_behind_relay(probe) {
            if self.may_move_behind_relay(now, replica, probe, is_stranded) {
                self.command(now, replica, ServerCommand::Follow { serve_stale: true });
            }
        } else if probe.serve_stale == Some(false) {
            self.command(now, replica, ServerCommand::ServeStale(true));
        }
    }

    /// An active is moved behind the relay when the relay can feed it, or to be held there: once its own primary is gone or new it would take a
    /// full resync from it at any moment.
    fn may_move_behind_relay(&self, now: Time, replica: &NodeAddress, probe: &Probe, is_stranded: bool) -> bool {
        let upstream = &self.world.relay.upstream;
        let flows = upstream.state == UpstreamState::Streaming && self.world.fits_live(replica);
        let link_is_gone =
            !probe.info.is_link_up && !probe.info.is_sync_in_progress && self.begin.is_some() && now.since(self.looking_since) >= SETTLE;
        flows || is_stranded || link_is_gone
    }

    fn reconcile_standby(&mut self, now: Time, replica: &NodeAddress, probe: &Probe) {
        if probe.info.is_sync_in_progress {
            return;
        }
        if !self.is_behind_relay(probe) {
            return self.command(now, replica, ServerCommand::Follow { serve_stale: false });
        }
        let is_streaming = self.world.is_streaming_live(replica);
        // Stale reads are switched on by `promote_if_ready` only; a standby whose link is down answers no reads.
        if probe.serve_stale == Some(true) && !is_streaming {
            return self.command(now, replica, ServerCommand::ServeStale(false));
        }
        // A standby that holds data it will not be promoted with is emptied: it costs memory and serves nobody.
        let at_peace = matches!(self.phase, Phase::Normal | Phase::Disconnected) && self.seeds.is_empty() && self.short_since.is_none();
        if at_peace
            && self.policy.standby == StandbyMode::Empty
            && !probe.info.is_empty()
            && self.begin.is_some()
            && let Some(run_id) = probe.info.run_id
        {
            self.set_role(replica, Role::Emptying { run_id }, "holds data that nobody needs: to be emptied");
        }
    }

    /// One that is being left stays where it is, but must not run away to a full resync somewhere else.
    fn reconcile_draining(&mut self, now: Time, replica: &NodeAddress, probe: &Probe) {
        if !self.is_behind_relay(probe) && !self.is_detached(replica) {
            self.command(now, replica, ServerCommand::Follow { serve_stale: true });
        }
    }
}

/// Sentinels look for the promotion once a second and tell of it at once.
const SENTINELS_SPEAK: Duration = Duration::from_secs(15);
/// How long after the start an active whose own link is down is left where it is.
const SETTLE: Duration = Duration::from_secs(2);
