//! Which replicas serve, and whether that is enough: the actives' health, and the *shortage* that everything else begins with.

use super::controller::Controller;
use super::relay::UpstreamState;
use super::settings::{Consistency, StandbyMode};
use super::state::{ReplicaRecord, Role};
use crate::info::Role as ServerRole;
use crate::replication::history::{History, KnownId};
use crate::types::{NodeAddress, Offset, Time};
use std::cmp::Reverse;
use std::time::Duration;

impl Controller {
    /// Actives that can be read now: the process that was judged, alive, with a complete dataset.
    pub(super) fn serving(&self, now: Time) -> Vec<NodeAddress> {
        self.having(|role| matches!(role, Role::Active)).into_iter().filter(|replica| self.can_serve(now, replica)).collect()
    }

    /// Whether readers may have it, going by what is seen.
    pub(super) fn can_serve(&self, now: Time, replica: &NodeAddress) -> bool {
        let Some(sight) = self.world.sight(replica) else { return false };
        let (Some(probe), Some(record)) = (&sight.probe, self.state.replicas.get(replica)) else { return false };
        let info = &probe.info;
        // Behind anybody else it could be resynced at any moment. On the first day it still follows the primary.
        let is_behind_us_or_primary = match info.role {
            Some(ServerRole::Slave) => {
                let follows_primary =
                    info.is_link_up && info.replid.is_some() && info.replid == self.world.primary.info().and_then(|p| p.replid);
                info.master.as_ref().is_some_and(|master| *master == self.policy.relay || Some(master) == self.primary_address())
                    || follows_primary
            }
            Some(ServerRole::Master) => self.is_detached(replica),
            Some(ServerRole::Sentinel) | None => false,
        };
        !sight.is_dead(now, self.policy.dead_after)
            && record.run_id.is_some()
            && record.run_id == info.run_id
            && info.serves_a_complete_dataset()
            && is_behind_us_or_primary
            && (info.is_link_up || probe.serve_stale != Some(false))
    }

    /// It was detached by rbuddy: `freeze = "detach"`, and still of the group's history.
    pub(super) fn is_detached(&self, replica: &NodeAddress) -> bool {
        let Some(info) = self.world.info(replica) else { return false };
        self.policy.freeze == super::settings::FreezeMode::Detach
            && info.role == Some(ServerRole::Master)
            && info.replid2.is_some_and(|id| self.state.knows(id))
            && self.state.replicas.get(replica).is_some_and(|record| record.run_id == info.run_id)
    }

    /// Actives that serve and can go on with what the primary sends now.
    pub(super) fn fitting(&self, now: Time) -> Vec<NodeAddress> {
        self.serving(now).into_iter().filter(|replica| self.world.fits_live(replica)).collect()
    }

    /// Those that readers may have, newest dataset first. As long as fewer have it than should serve, others make up for that with what they have:
    /// each connection keeps in mind which dataset it has read (P10).
    pub(super) fn read_now(&self, now: Time) -> Vec<NodeAddress> {
        let mut read = self.steady(self.fitting(now));
        let old = if read.is_empty() {
            self.steady(self.stranded(now))
        } else {
            self.kept_with_old(now, self.desired_actives().saturating_sub(read.len()))
        };
        read.extend(old);
        read
    }

    /// Of those that serve an older dataset the `missing` with the most. None where all are to move at once.
    pub(super) fn kept_with_old(&self, now: Time, missing: usize) -> Vec<NodeAddress> {
        let mut old = self.stranded(now);
        old.truncate(if self.policy.consistency == Consistency::Atomic { 0 } else { missing });
        old
    }

    /// Actives that serve what the primary does not continue, those with the newest and the most of it first.
    pub(super) fn stranded(&self, now: Time) -> Vec<NodeAddress> {
        let mut stranded = self.serving(now);
        stranded.retain(|replica| !self.world.fits_live(replica));
        stranded.sort_by_key(|replica| Reverse(self.progress(replica)));
        stranded
    }

    /// How new its dataset is, and how much of it it has: readers of one that is behind find all that they have read at the others (P10).
    pub(super) fn progress(&self, replica: &NodeAddress) -> Option<(Reverse<Option<usize>>, Offset)> {
        let position = self.world.position(replica)?;
        Some((Reverse(self.state.age(position.replid)), position.offset))
    }

    /// How many replicas should serve, of those that no operator has taken out.
    pub(super) fn desired_actives(&self) -> usize {
        let is_out = |record: &&ReplicaRecord| record.role == Role::Drained || (record.is_to_rest && record.role != Role::Active);
        let available = self.policy.replicas.len() - self.state.replicas.values().filter(is_out).count();
        match self.policy.standby {
            StandbyMode::Empty => self.policy.actives.min(available),
            StandbyMode::Warm => available,
        }
    }

    /// Fewer replicas serve the live history than should, for long enough to matter.
    pub(super) fn is_short(&self, now: Time) -> bool {
        self.planned.is_some() || self.short_since.is_some_and(|since| now.since(since) >= self.shortage_patience(now))
    }

    /// An active that stands on an ended history will not come back by itself: no patience. One that is restarting may.
    pub(super) fn shortage_patience(&self, now: Time) -> Duration {
        let nobody_ever = self.having(|role| matches!(role, Role::Active)).is_empty();
        if nobody_ever || !self.stranded(now).is_empty() { Duration::ZERO } else { self.policy.dead_after }
    }

    pub(super) fn observe_shortage(&mut self, now: Time) {
        let short = self.world.relay.live().is_some() && self.fitting(now).len() < self.desired_actives();
        self.short_since = if short { self.short_since.or(Some(self.lost_since(now))) } else { None };
    }

    /// Who is gone, and so is its connection to the relay, has been missing since it stopped answering, and was waited for once before it counted as dead.
    /// One that is still connected may only be busy, and is worth waiting for once more before the primary forks. Of several: the one that was there last.
    fn lost_since(&self, now: Time) -> Time {
        let fitting = self.fitting(now);
        let lost = self.having(|role| matches!(role, Role::Active)).into_iter().filter(|active| !fitting.contains(active));
        let gone_since = |active: &NodeAddress| self.world.sight(active).and_then(|sight| sight.failing_since);
        lost.map(|active| gone_since(&active).filter(|_| self.world.session(&active).is_none()).unwrap_or(now)).max().unwrap_or(now)
    }

    /// The ids of a history that serves, or is about to, are the group's own from here on (P3), as is a new id of one that was the group's before. Also
    /// while an operator has paused it: after a restart they say which of two replicas has the newer data.
    pub(super) fn record_ids(&mut self, now: Time) {
        if let Some(live) =
            self.world.relay.live().filter(|live| live.ids().iter().any(|id| !self.state.knows(id.replid)) || self.is_back(live))
            && (live.ids().iter().any(|id| self.state.knows(id.replid)) || self.is_about_to_serve(now))
        {
            let ids = live.ids().to_vec();
            self.state.record(&ids);
        }
    }

    /// A history that is the primary's. (Before that has answered it may be no more than what a replica says of itself.)
    fn is_about_to_serve(&self, now: Time) -> bool {
        self.world.relay.upstream.has_answered() && (!self.fitting(now).is_empty() || !self.seeds.is_empty())
    }

    /// The primary goes on under an id that it had before: it is one that had been left.
    fn is_back(&self, live: &History) -> bool {
        let is_earlier = |known: &KnownId| known.replid == live.replid() && known.until.is_some();
        self.world.relay.upstream.state == UpstreamState::Streaming && self.state.ids.iter().any(is_earlier)
    }
}
