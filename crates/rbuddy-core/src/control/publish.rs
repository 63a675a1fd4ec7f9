//! What the relay is ordered and what readers are told: derived from roles and what is seen, every time anew.

use super::assignment::{ActiveReplica, Assignment, DrainingReplica};
use super::controller::Controller;
use super::relay::{RelayOrders, SessionState, SnapshotState, UpstreamState};
use super::settings::SnapshotFrom;
use super::state::{Reference, Role};
use crate::info::{Keyspace, ServerInfo};
use crate::replication::history::{History, Standing};
use crate::replication::psync::Permit;
use crate::types::{DatasetId, NodeAddress, ReplId, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

impl Controller {
    pub(super) fn make_orders(&self, now: Time) -> RelayOrders {
        let permits: BTreeMap<NodeAddress, Permit> =
            self.policy.replicas.iter().map(|replica| (replica.clone(), self.permit(now, replica))).collect();
        let filled = permits.iter().filter(|(_, permit)| matches!(permit, Permit::Seed(_))).map(|(replica, _)| replica);
        let judged = filled.filter_map(|replica| Some((replica.clone(), self.state.replicas.get(replica)?.run_id?))).collect();
        let actives = self.having(|role| matches!(role, Role::Active));
        let leaving = self.having(|role| matches!(role, Role::Active | Role::Draining));
        let paused_streams = match &self.planned {
            Some(planned) if planned.paused_since.is_some() => planned.old.clone(),
            Some(_) | None => Default::default(),
        };
        let ended = self.world.relay.histories.iter().filter(|history| !history.live);
        let is_needed = leaving.iter().any(|replica| !self.world.fits_live(replica));
        RelayOrders {
            start: self.begin.clone(),
            places: self.places(),
            primary: self.primary_address().cloned(),
            full_resync: self.permitted_full_resync(now),
            must_look: !self.may_resync(now),
            permits,
            judged,
            paused_streams,
            required: actives.iter().filter(|active| self.world.fits_live(active)).cloned().collect(),
            versions: self
                .policy
                .replicas
                .iter()
                .filter_map(|replica| Some((replica.clone(), self.world.info(replica)?.version?)))
                .collect(),
            snapshot_request: self.snapshot_request,
            snapshot_source: self.snapshot_source(now),
            discard_snapshot: self.useless_snapshot(now),
            discard_ended: if is_needed { BTreeSet::new() } else { ended.map(History::end_position).collect() },
        }
    }

    fn permitted_full_resync(&self, now: Time) -> Option<ReplId> {
        let need = self.world.relay.upstream.full_resync_needed?;
        self.may_resync(now).then_some(need.replid)
    }

    /// A pause begins nothing. Otherwise what leads to the primary's data is wanted: what comes of it is judged before a replica gets it.
    fn may_resync(&self, now: Time) -> bool {
        !self.state.paused && !self.may_know_another_place(now)
    }

    /// `snapshot_from = "replica"`: the primary forks only where no replica can in its place.
    fn snapshot_source(&self, now: Time) -> Option<NodeAddress> {
        if self.policy.snapshot_from == SnapshotFrom::Primary {
            return None;
        }
        self.fitting(now).into_iter().find(|replica| self.world.is_streaming_live(replica) && !self.lacks_keys(replica))
    }

    /// Once enough replicas serve the live history and the old ones are left and emptied, nobody needs its snapshot now. It is kept for the next
    /// that is to be filled, while that costs little. One that leads into an older history is of no use at all.
    fn useless_snapshot(&self, now: Time) -> Option<DatasetId> {
        let snapshot = self.world.relay.snapshot.as_ref()?;
        // Counted anew: right after a promotion more may still be wanted (`standby = "warm"`), and `short_since` knows only in the next pass.
        let is_wanted = self.planned.is_some() || self.fitting(now).len() < self.desired_actives() || self.is_being_left(now);
        let is_needed = is_wanted || snapshot.state == SnapshotState::Receiving || self.is_worth_keeping();
        (self.begin.is_some() && !is_needed).then_some(snapshot.dataset)
    }

    /// Should an active die, whoever takes its place is filled from it, and the primary need not fork (P6). One that a replica could not load would be in
    /// the way of another that it can. A full disk is for what somebody needs.
    fn is_worth_keeping(&self) -> bool {
        let rdb = self.world.relay.ready_snapshot().and_then(|snapshot| snapshot.rdb);
        let cannot_load = |replica: &NodeAddress| {
            let version = self.world.info(replica).and_then(|info| info.version);
            version.zip(rdb).is_some_and(|(version, rdb)| !version.loads(rdb))
        };
        let takes_part = self.having(|role| !matches!(role, Role::Refused { .. } | Role::Drained));
        self.world.relay.is_snapshot_cheap() && self.world.relay.backlog.disk_error.is_none() && !takes_part.iter().any(cannot_load)
    }

    /// Should the new active die meanwhile, it or the one that is left is filled again, and the primary need not fork once more. One that does not answer
    /// may be left for days, and the stream behind the snapshot is not kept for so long.
    fn is_being_left(&self, now: Time) -> bool {
        let is_dead = |replica: &NodeAddress| self.world.sight(replica).is_some_and(|sight| sight.is_dead(now, self.policy.dead_after));
        self.having(|role| matches!(role, Role::Draining | Role::Emptying { .. })).iter().any(|replica| !is_dead(replica))
    }

    fn permit(&self, now: Time, replica: &NodeAddress) -> Permit {
        match self.state.role(replica) {
            // One that was taken out goes on while it can, and is never given another dataset.
            Role::Active | Role::Draining | Role::Drained => Permit::Keep,
            Role::Standby => match self.seeds.get(replica) {
                // While a guard rejects the dataset the standby is held, so that it does not answer reads with it.
                _ if self.refusal.is_some() => Permit::Hold,
                // Once it follows it may be promoted at any moment, and must not be seeded again meanwhile (P2).
                Some(_) | None if self.world.is_streaming_live(replica) => Permit::Keep,
                // What has begun to load cannot be called back.
                Some(seed) if self.is_silently_loading(replica) || (now >= seed.not_before && self.may_be_seeded(now, replica)) => {
                    Permit::Seed(seed.dataset)
                }
                // One that follows the live history already goes on; it was seeded before a restart of rbuddy, or is an additional standby.
                Some(_) | None if self.is_short(now) && self.world.fits_live(replica) => Permit::Keep,
                Some(_) | None => Permit::Hold,
            },
            Role::Unknown | Role::Emptying { .. } | Role::Refused { .. } => Permit::Hold,
        }
    }

    /// A pause begins nothing. And what is there must have been looked at (P3): it may have restarted with anything.
    fn may_be_seeded(&self, now: Time, replica: &NodeAddress) -> bool {
        let judged = self.state.replicas.get(replica).and_then(|record| record.run_id);
        let is_judged = |info: &ServerInfo| judged.is_some() && info.run_id == judged && !info.is_loading;
        !self.state.paused && self.world.info(replica).is_some_and(is_judged) && !self.relay_may_catch_up(now, replica)
    }

    /// It waits with more than the relay has, which went on from its disk and has not heard the primary for long yet: no reason to fill it anew.
    fn relay_may_catch_up(&self, now: Time, replica: &NodeAddress) -> bool {
        let waits_at =
            self.world.session(replica).filter(|session| matches!(session.state, SessionState::Held(_))).and_then(|held| held.asked);
        let is_ahead = |live: &History| waits_at.is_some_and(|asked| matches!(live.standing(asked), Standing::Ahead { .. }));
        let has_heard = self.world.relay.upstream.state == UpstreamState::Streaming && !self.primary_may_still_speak(now);
        self.world.relay.live().is_some_and(is_ahead) && !has_heard
    }

    pub(super) fn make_assignment(&self, now: Time) -> Assignment {
        let actives = self.read_now(now);
        let actives: Vec<ActiveReplica> = actives.iter().filter_map(|replica| self.active_replica(replica, &actives)).collect();
        let draining = self.having(|role| matches!(role, Role::Draining));
        Assignment {
            group: self.policy.group.clone(),
            generation: self.state.generation,
            reason: actives.is_empty().then(|| self.explanation.clone()),
            actives,
            standby: self.having(|role| matches!(role, Role::Standby)).into_iter().next(),
            draining: draining
                .into_iter()
                .map(|address| DrainingReplica { until: self.drain_until.get(&address).copied(), address })
                .collect(),
        }
    }

    fn active_replica(&self, replica: &NodeAddress, beside: &[NodeAddress]) -> Option<ActiveReplica> {
        let info = self.world.info(replica)?;
        let own = info.replid?;
        let detached = self.is_detached(replica);
        // All that were detached from a history hold the same dataset, each under an id of its own (P10).
        let mut replids: Vec<ReplId> = info.replid2.filter(|_| detached).into_iter().chain([own]).collect();
        let live = self.world.relay.live().filter(|_| self.world.fits_live(replica));
        // Its id may change while it follows (`+CONTINUE <newid>`): any id of the same stream is right.
        if let Some(live) = live {
            replids = live.ids().iter().map(|known| known.replid).collect();
            if !replids.contains(&own) {
                replids.push(own);
            }
        }
        Some(ActiveReplica {
            address: replica.clone(),
            run_id: self.state.replicas.get(replica)?.run_id?,
            detached,
            offset_at_least: self.least(replica, beside),
            newer: self.newer_than(&replids),
            replids,
        })
    }

    /// Ids of the group's histories that came after the one with these ids, as far as is known. Also of the one that the relay follows: before the primary
    /// has spoken that may be an old one.
    fn newer_than(&self, own: &[ReplId]) -> Vec<ReplId> {
        let known = &self.state.ids;
        let at = known.iter().position(|known| own.contains(&known.replid)).unwrap_or(0);
        known.iter().take(at).map(|known| known.replid).collect()
    }

    /// Remembers what the actives hold while they are whole and fed, as the measure of the next dataset (P4).
    pub(super) fn observe_reference(&mut self, now: Time) {
        let is_fed = self.world.relay.upstream.state == UpstreamState::Streaming;
        let active = self.fitting(now).into_iter().find(|replica| is_fed && self.world.is_streaming_live(replica));
        // On the first day it still follows the primary by itself. Behind the relay its own link says nothing about the primary.
        let follows_primary = |info: &ServerInfo| info.is_link_up && info.master.as_ref() != Some(&self.policy.relay);
        let first_day = || self.serving(now).into_iter().find(|replica| self.world.info(replica).is_some_and(follows_primary));
        let Some(info) = active.or_else(first_day).and_then(|replica| self.world.info(&replica).cloned()) else { return };
        let Some(position) = info.position() else { return };
        let primary = self.world.primary.info().filter(|primary| primary.replid == info.replid);
        // Replicas do not know the average TTL: only a primary samples its keys.
        let known_before = self.reference.map_or(0, |reference| reference.keyspace.avg_ttl_ms);
        let avg_ttl_ms = primary.map_or(known_before, |primary| primary.keyspace.avg_ttl_ms);
        self.reference = Some(Reference { position, keyspace: Keyspace { avg_ttl_ms, ..info.keyspace }, at: now });
        let is_old = self.state.reference.is_none_or(|reference| now.since(reference.at) >= REFERENCE_EVERY);
        if is_old {
            self.remember();
        }
    }

    /// Brings what moves all the time into the state that is written.
    pub(super) fn remember(&mut self) {
        self.state.reference = self.reference;
        for (replica, position) in &self.served {
            if let Some(record) = self.state.replicas.get_mut(replica) {
                record.served = Some(*position);
            }
        }
    }
}

/// How old the state file's copy of what moves all the time may be.
const REFERENCE_EVERY: Duration = Duration::from_secs(30);
