//! What keeps a standby from being filled or promoted though it is alive: it is not set up like those whose readers it would take (`drift.rs`).
//!
//! While others serve, nothing is lost by waiting for an operator but the newness of the data (P8), and a switch to a server where clients cannot log in or
//! keys are evicted would break what works (P1). With nobody serving there is nothing to protect: it is promoted, and the story tells the differences.
//! Not to be able to load the primary's data is another matter: it would cost the standby its life whoever serves (P2).

use super::controller::Controller;
use super::drift::{self, Seen};
use super::event::Probe;
use super::settings::{DriftGuard, FreezeMode};
use super::state::Role;
use super::status::{Difference, Drift, Setting};
use crate::types::{DatasetId, NodeAddress, Time};

impl Controller {
    /// How it differs from the actives that serve, or else from those that were seen last.
    pub(super) fn drifts(&self, now: Time, replica: &NodeAddress) -> Vec<Drift> {
        let Some(here) = self.world.sight(replica).and_then(|sight| sight.probe.as_ref()).map(seen) else { return Vec::new() };
        let mut others = self.serving(now);
        if others.is_empty() {
            others = self.having(|role| matches!(role, Role::Active | Role::Draining));
        }
        let keeps_limit = self.policy.freeze == FreezeMode::Detach;
        let mut drifts = Vec::new();
        for other in others.into_iter().filter(|other| other != replica) {
            let there = self.world.sight(&other).and_then(|sight| sight.probe.as_ref()).map(seen);
            let differences = there.map(|there| drift::compare(here, there, keeps_limit)).unwrap_or_default();
            drifts.extend(differences.into_iter().map(|difference| Drift { from: other.clone(), difference }));
        }
        drifts
    }

    /// Why this standby, which has all that it needs, is not promoted.
    pub(super) fn hindrances(&self, now: Time, standby: &NodeAddress) -> Vec<Drift> {
        if self.is_drift_allowed(standby) || self.serving(now).is_empty() {
            return Vec::new();
        }
        let mut drifts = self.drifts(now, standby);
        drifts.retain(|drift| drift.difference.hurts);
        drifts
    }

    pub(super) fn is_hindered(&self, now: Time, standby: &NodeAddress) -> bool {
        !self.hindrances(now, standby).is_empty()
    }

    /// Why it could not load what the primary has.
    pub(super) fn cannot_load(&self, replica: &NodeAddress) -> Option<Difference> {
        let here = seen(self.world.sight(replica)?.probe.as_ref()?);
        let lacking = drift::cannot_load(here, self.world.primary.info()?)?;
        // A module may have no types, which nobody but an operator knows; a database that is not there ends the server for certain.
        let is_allowed = lacking.setting == Setting::Modules && self.is_drift_allowed(replica);
        (!is_allowed).then_some(lacking)
    }

    pub(super) fn explain_cannot_load(&self, replica: &NodeAddress) -> Option<String> {
        let lacking = self.cannot_load(replica)?;
        let ways_out = if lacking.setting == Setting::Modules { self.ways_out(&lacking, replica) } else { lacking.remedy.clone() };
        Some(format!("{replica} could not load the primary's data: {}; {ways_out}", lacking.reason))
    }

    fn is_drift_allowed(&self, standby: &NodeAddress) -> bool {
        self.policy.guard.drift == DriftGuard::Warn || self.dataset_for(standby).is_some_and(|dataset| self.is_approved(dataset))
    }

    /// The dataset that an operator has to name to have a standby filled and promoted with it all the same; `None`: none is stopped.
    pub(super) fn hindered_dataset(&self, now: Time) -> Option<DatasetId> {
        let is_stopped = |standby: &NodeAddress| self.is_hindered(now, standby) || self.cannot_load(standby).is_some();
        let standbys = self.having(|role| matches!(role, Role::Standby));
        standbys.into_iter().filter(is_stopped).find_map(|standby| self.dataset_for(&standby))
    }

    /// In words, with the ways out.
    pub(super) fn explain_hindrance(&self, now: Time, standby: &NodeAddress) -> Option<String> {
        let drifts = self.hindrances(now, standby);
        let first = drifts.first()?;
        let reasons: Vec<String> = drifts.iter().map(|drift| format!("{} (against {})", drift.difference.reason, drift.from)).collect();
        Some(format!("{standby} is not promoted: {}; {}", reasons.join(", "), self.ways_out(&first.difference, standby)))
    }

    fn ways_out(&self, difference: &Difference, standby: &NodeAddress) -> String {
        let approve = self.dataset_for(standby).map(|dataset| format!("`rbuddy approve {dataset}` this once, or "));
        format!("{}, {}allow it by guard.drift = \"warn\"", difference.remedy, approve.unwrap_or_default())
    }

    /// The differences for the line that tells of a promotion.
    pub(super) fn drifts_in_words(&self, now: Time, standby: &NodeAddress) -> String {
        self.drifts(now, standby).iter().map(|drift| format!("; {} (against {})", drift.difference.reason, drift.from)).collect()
    }

    /// By the name under which it would be refused too.
    fn dataset_for(&self, standby: &NodeAddress) -> Option<DatasetId> {
        let seed = self.seeds.get(standby).map(|seed| seed.dataset);
        let snapshot = || self.world.relay.ready_snapshot().map(|snapshot| snapshot.dataset);
        seed.or_else(snapshot).map(|dataset| self.stream_of(dataset)).or(self.world.relay.live()?.dataset)
    }
}

fn seen(probe: &Probe) -> Seen<'_> {
    Seen { info: &probe.info, settings: probe.settings.as_ref() }
}
