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
use super::world::Sight;
use crate::types::{DatasetId, NodeAddress, Time};

impl Controller {
    /// How it differs from the actives that serve, or else from those that were seen last.
    pub(super) fn drifts(&self, now: Time, replica: &NodeAddress) -> Vec<Drift> {
        let mut drifts = Vec::new();
        for other in self.compared_with(now, replica) {
            let differences = self.world.sight(&other).map(|there| self.differences(replica, there)).unwrap_or_default();
            drifts.extend(differences.into_iter().map(|difference| Drift { from: other.clone(), difference }));
        }
        drifts
    }

    pub(super) fn compared_with(&self, now: Time, replica: &NodeAddress) -> Vec<NodeAddress> {
        let mut others = self.serving(now);
        if others.is_empty() {
            others = self.having(|role| matches!(role, Role::Active | Role::Draining));
        }
        others.retain(|other| other != replica);
        others
    }

    pub(super) fn differences(&self, replica: &NodeAddress, there: &Sight) -> Vec<Difference> {
        let here = self.world.sight(replica).and_then(|sight| sight.probe.as_ref()).map(seen);
        let Some((here, there)) = here.zip(there.probe.as_ref().map(seen)) else { return Vec::new() };
        drift::compare(here, there, self.policy.freeze == FreezeMode::Detach)
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
        !self.hindrances(now, standby).is_empty() || self.is_held_back_for_keys(now, standby)
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

    pub(super) fn is_drift_allowed(&self, standby: &NodeAddress) -> bool {
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
        let Some(first) = drifts.first() else {
            let why = "it has evicted keys, and is filled anew once it has the memory and the snapshot is there";
            return self.is_held_back_for_keys(now, standby).then(|| format!("{standby} is not promoted: {why}"));
        };
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
    pub(super) fn dataset_for(&self, standby: &NodeAddress) -> Option<DatasetId> {
        let seed = self.seeds.get(standby).map(|seed| seed.dataset);
        let snapshot = || self.world.relay.ready_snapshot().map(|snapshot| snapshot.dataset);
        seed.or_else(snapshot).map(|dataset| self.stream_of(dataset)).or(self.world.relay.live()?.dataset)
    }
}

fn seen(probe: &Probe) -> Seen<'_> {
    Seen { info: &probe.info, settings: probe.settings.as_ref() }
}
