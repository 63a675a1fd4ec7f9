//! A standby is seeded, judged and promoted.
//!
//! Why it is needed does not matter much: the actives' history ended (a new dataset), an active died, an operator asked, or fewer serve than
//! configured. Each of these is a *shortage* of actives on the live history, and the way out is the same.

use super::action::{ServerCommand, StoryLevel};
use super::assignment::{Notification, NotificationEvent};
use super::controller::Controller;
use super::served::part_of;
use super::settings::Consistency;
use super::state::{Reference, Role};
use crate::info::{Keyspace, Role as ServerRole};
use crate::replication::psync::Permit;
use crate::types::{DatasetId, NodeAddress, Position, ReplId, Time};

impl Controller {
    /// One step on the way from shortage to a promoted standby.
    pub(super) fn seed_and_promote(&mut self, now: Time) {
        if !self.is_short(now) {
            self.seeds.clear();
            self.refusal = None;
            return;
        }
        self.drop_hopeless_seeds();
        self.drop_superseded_refusal();
        self.release(now);
        let candidates = self.choose_candidates(now);
        self.seeds.retain(|replica, _| candidates.contains(replica));
        let mut ready = Vec::new();
        for candidate in candidates {
            if !self.world.is_streaming_live(&candidate) {
                self.seed_candidate(now, candidate);
            } else if self.fill_anew(now, &candidate) {
                continue;
            } else if self.is_ready(now, &candidate) {
                ready.push(candidate);
            }
        }
        if self.may_promote(now, ready.len()) {
            ready.iter().for_each(|standby| self.promote(now, standby));
        }
    }

    /// `consistency = "atomic"`: all that are to serve the new dataset begin at once, unless nothing is served at all.
    fn may_promote(&self, now: Time, ready: usize) -> bool {
        self.policy.consistency == Consistency::Rolling || ready >= self.missing(now) || self.serving(now).is_empty()
    }

    /// The standby follows the live history. Whether it can be promoted; else what is still missing for that is done.
    fn is_ready(&mut self, now: Time, standby: &NodeAddress) -> bool {
        let Some(live) = self.world.relay.live() else { return false };
        let (replid, live_dataset) = (live.replid(), live.dataset);
        if !self.is_vouched_for(replid) {
            return false;
        }
        let Some(since) = self.world.session(standby).map(|session| session.since) else { return false };
        if !self.has_fresh_sight(standby, since) {
            return false;
        }
        let Some(probe) = self.world.sight(standby).and_then(|sight| sight.probe.clone()) else { return false };
        let info = &probe.info;
        let is_loaded = info.role == Some(ServerRole::Slave)
            && info.is_link_up
            && !info.is_loading
            && !info.is_async_loading
            && !info.is_sync_in_progress
            && info.replid == Some(replid)
            && info.master.as_ref() == Some(&self.policy.relay);
        let dataset = self.seeds.get(standby).map(|seed| seed.dataset).or(live_dataset);
        let is_caught_up = self.world.lag_bytes(standby).is_some_and(|lag| lag <= self.policy.max_lag.bytes)
            || self.world.has_what_arrived(standby, now, self.policy.max_lag.time);
        if !is_loaded || !is_caught_up {
            return false;
        }
        let approved = dataset.is_some_and(|dataset| self.is_approved(dataset));
        if self.lacks_too_much(now, standby) {
            return false;
        }
        if !approved && let Err(reason) = self.judge(now, info.keyspace) {
            let name = dataset.unwrap_or(DatasetId(Position::new(replid, info.offset.unwrap_or_default())));
            if !self.is_to_blame(now, standby, name) {
                self.reject(now, name, &reason);
                self.seeds.clear();
            }
            return false;
        }
        self.refusal = None;
        if self.is_hindered(now, standby) {
            if let Some(why) = self.explain_hindrance(now, standby).filter(|_| self.planned.is_some()) {
                self.give_up_planned(&why);
            }
            return false;
        }
        if probe.serve_stale != Some(true) {
            self.command(now, standby, ServerCommand::ServeStale(true));
            return false;
        }
        // P2: the relay has been told that it is not to be seeded again, whatever happens to its connection.
        let is_kept = self.orders.permits.get(standby) == Some(&Permit::Keep);
        self.is_planned_switch_ready(now) && self.has_reached_floor(now, standby) && is_kept
    }

    /// The primary goes on with this history, or it is the newest that the state file knows. After a restart the relay may have begun with what is on disk, or
    /// where a replica says that it is, and that may be older than what readers have seen.
    pub(super) fn is_vouched_for(&self, replid: ReplId) -> bool {
        self.world.relay.upstream.has_answered() || self.state.is_newest(replid)
    }

    /// P10: within a history readers move only to a replica that has all that the others were sent, and itself before it was lost.
    fn has_reached_floor(&self, now: Time, standby: &NodeAddress) -> bool {
        let Some(live) = self.world.relay.live() else { return false };
        let Some(position) = self.world.position(standby) else { return false };
        // An additional active takes no readers away from anyone, so only those that readers leave count.
        let leavers = self.leavers(now, standby);
        let floors = leavers.iter().chain([standby]).filter_map(|leaver| self.served.get(leaver));
        // A primary that began again has the same id, and may not get to where it was for days.
        let floors = floors.filter(|served| !self.is_of_ended(**served)).filter_map(|served| part_of(live, *served));
        floors.into_iter().all(|served| position.offset >= served)
    }

    /// Actives that readers leave when `new` is promoted: those of a planned switch, and those that cannot go on and are not needed any more.
    fn leavers(&self, now: Time, new: &NodeAddress) -> Vec<NodeAddress> {
        let is_planned = |replica: &NodeAddress| self.planned.as_ref().is_some_and(|planned| planned.old.contains(replica));
        // Those that only missed a probe stay.
        let mut staying = self.fitting(now);
        staying.retain(|replica| replica != new && !is_planned(replica));
        staying.push(new.clone());
        let out = self.out_of_service().into_iter().filter(|replica| replica != new).count();
        let may_leave = self.may_be_given_up().saturating_sub(out);
        staying.extend(self.kept_with_old(now, self.desired_actives().saturating_sub(staying.len() + may_leave)));
        let mut leavers = self.having(|role| matches!(role, Role::Active));
        leavers.retain(|replica| is_planned(replica) || !staying.contains(replica));
        leavers
    }

    fn promote(&mut self, now: Time, standby: &NodeAddress) {
        let Some(info) = self.world.info(standby).cloned() else { return };
        let Some(position) = info.position() else { return };
        let leavers = self.leavers(now, standby);
        let differs = self.drifts_in_words(now, standby);
        let ids = self.world.relay.live().map(|live| live.ids().to_vec()).unwrap_or_default();
        self.state.record(&ids);
        self.state.generation = self.state.generation.next();
        let generation = self.state.generation;
        self.set_role(
            standby,
            Role::Active,
            &format!("promoted at {position}, generation {generation}, {} keys{differs}", info.keyspace.keys),
        );
        let record = self.record(standby);
        (record.run_id, record.served, record.adopted) = (info.run_id, Some(position), false);
        self.served.insert(standby.clone(), position);
        self.floors.insert(standby.clone(), position);
        for old in &leavers {
            self.set_role(old, Role::Draining, &format!("readers have {:?} to leave", self.policy.drain));
        }
        let event =
            if leavers.is_empty() && self.state.generation.0 == 1 { NotificationEvent::Bootstrap } else { NotificationEvent::Failover };
        self.notify(now, event, leavers.first().cloned(), standby.clone());
        let avg_ttl_ms = self.world.primary.info().map_or(0, |info| info.keyspace.avg_ttl_ms);
        self.reference = Some(Reference { position, keyspace: Keyspace { avg_ttl_ms, ..info.keyspace }, at: now });
        self.state.reference = self.reference;
        self.state.approved.clear();
        self.seeds.remove(standby);
        (self.planned, self.refusal) = (None, None);
        // Others that are being filled go on where more are to serve.
        if self.fitting(now).len() >= self.desired_actives() {
            self.short_since = None;
        }
    }

    /// Readers of `old` have to leave it, though nobody was promoted: those who follow by webhook hear of one that serves on.
    pub(super) fn tell_leavers(&mut self, now: Time, old: NodeAddress, serves_on: Option<NodeAddress>) {
        if let Some(new) = serves_on {
            self.notify(now, NotificationEvent::Failover, Some(old), new);
        }
    }

    /// Puts a notification into the outbox, in the same write as the roles that it tells of.
    pub(super) fn notify(&mut self, now: Time, event: NotificationEvent, old: Option<NodeAddress>, new: NodeAddress) {
        if self.policy.notify.is_empty() {
            return;
        }
        let notification = Notification {
            id: self.state.next_notification,
            event,
            group: self.policy.group.clone(),
            generation: self.state.generation,
            old,
            new,
            time: now,
            pending: self.policy.notify.clone(),
        };
        self.state.next_notification += 1;
        self.state.outbox.push(notification);
        if self.state.outbox.len() > OUTBOX_MAX {
            let dropped = self.state.outbox.remove(0);
            self.story(StoryLevel::Warn, None, format!("notification {} was never taken by {:?}: dropped", dropped.id, dropped.pending));
        }
    }
}

/// Notifications kept for receivers that do not take them.
const OUTBOX_MAX: usize = 256;
