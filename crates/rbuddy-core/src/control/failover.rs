//! A standby is seeded, judged and promoted.
//!
//! Why it is needed does not matter much: the actives' history ended (a new dataset), an active died, an operator asked, or fewer serve than
//! configured. Each of these is a *shortage* of actives on the live history, and the way out is the same.

use super::action::{ServerCommand, StoryLevel};
use super::assignment::{Notification, NotificationEvent};
use super::controller::{Controller, Planned, Seed};
use super::guard;
use super::relay::{SessionState, SnapshotState, SnapshotView, UpstreamState};
use super::settings::StandbyMode;
use super::state::{Reference, Role};
use super::status::Refusal;
use super::world::Sight;
use crate::info::{Keyspace, Role as ServerRole};
use crate::types::{DatasetId, NodeAddress, Position, Time};
use std::collections::BTreeSet;
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
                info.master.as_ref().is_some_and(|master| *master == self.policy.relay || *master == self.policy.primary) || follows_primary
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

    /// How many replicas should serve.
    fn desired_actives(&self) -> usize {
        match self.policy.standby {
            StandbyMode::Empty => self.policy.actives,
            StandbyMode::Warm => self.policy.replicas.len(),
        }
    }

    /// Fewer replicas serve the live history than should, for long enough to matter.
    pub(super) fn is_short(&self, now: Time) -> bool {
        self.planned.is_some() || self.short_since.is_some_and(|since| now.since(since) >= self.shortage_patience(now))
    }

    /// An active that stands on an ended history will not come back by itself: no patience. One that is restarting may.
    fn shortage_patience(&self, now: Time) -> Duration {
        let stranded = self.serving(now).iter().any(|replica| !self.world.fits_live(replica));
        let nobody_ever = self.having(|role| matches!(role, Role::Active)).is_empty();
        if stranded || nobody_ever { Duration::ZERO } else { self.policy.dead_after }
    }

    pub(super) fn observe_shortage(&mut self, now: Time) {
        let short = self.world.relay.live().is_some() && self.fitting(now).len() < self.desired_actives();
        if !short {
            self.short_since = None;
        } else if self.short_since.is_none() {
            self.short_since = Some(now);
        }
        // The ids of a history that serves, or is about to, are the group's own from here on (P3).
        if let Some(live) = self.world.relay.live().filter(|live| live.ids().iter().any(|id| !self.state.knows(id.replid)))
            && (!self.fitting(now).is_empty() || self.seed.is_some())
        {
            let ids = live.ids().to_vec();
            self.state.record(&ids);
        }
    }

    /// One step on the way from shortage to a promoted standby.
    pub(super) fn seed_and_promote(&mut self, now: Time) {
        if !self.is_short(now) {
            self.seed = None;
            self.refusal = None;
            return;
        }
        self.drop_hopeless_seed();
        self.drop_superseded_refusal();
        let Some(candidate) = self.choose_candidate(now) else {
            self.seed = None;
            return self.release_one(now);
        };
        if self.world.is_streaming_live(&candidate) {
            self.promote_if_ready(now, &candidate);
        } else {
            self.seed_candidate(now, candidate);
        }
    }

    /// `standby = "warm"`: nothing is spare, so one active after another is given up for the new dataset, as long as others hold out. Not before
    /// there is something plausible to give it.
    fn release_one(&mut self, now: Time) {
        let leaving = self.having(|role| matches!(role, Role::Standby | Role::Draining | Role::Emptying { .. }));
        let serving = self.serving(now);
        let stranded = serving.iter().find(|replica| !self.world.fits_live(replica)).cloned();
        let (StandbyMode::Warm, true, Some(replica), true) = (self.policy.standby, leaving.is_empty(), stranded, serving.len() > 1) else {
            return;
        };
        let Some(dataset) = self.usable_snapshot(now) else { return };
        match self.judge_primary(now, dataset) {
            Some(Ok(())) => {
                self.refusal = None;
                self.state.generation = self.state.generation.next();
                let drain = self.policy.drain;
                self.set_role(&replica, Role::Draining, &format!("the first to get the new dataset; readers have {drain:?} to leave"));
                self.drain_until.insert(replica, now.after(drain));
            }
            Some(Err(reason)) => self.reject(now, dataset, &reason),
            // The others would have to wait for what it loads anyway.
            None => {}
        }
    }

    /// A refusal is of one dataset; the primary's next one is judged anew.
    fn drop_superseded_refusal(&mut self) {
        let (Some(refusal), Some(live)) = (&self.refusal, self.world.relay.live()) else { return };
        let is_known = live.ids().iter().any(|id| id.replid == refusal.dataset.0.replid);
        if !is_known || live.dataset.is_some_and(|dataset| dataset != refusal.dataset) {
            self.refusal = None;
        }
    }

    fn drop_hopeless_seed(&mut self) {
        let Some(seed) = &self.seed else { return };
        let superseded = self.world.relay.live().is_none_or(|live| !super::world::stands_on(live, seed.dataset.0));
        let answering = self.world.sight(&seed.replica).is_some_and(|sight| sight.is_answering());
        let gone = *self.state.role(&seed.replica) != Role::Standby || (!answering && !self.is_silently_loading(&seed.replica));
        if superseded || gone {
            self.seed = None;
        }
    }

    /// The standby that is furthest on its way; one that has begun to load is not given up for another while it answers.
    fn choose_candidate(&self, now: Time) -> Option<NodeAddress> {
        let standbys = self.having(|role| matches!(role, Role::Standby));
        let usable = |replica: &&NodeAddress| {
            let is_loading = self.is_silently_loading(replica);
            let is_alive = |sight: &Sight| sight.is_answering() || (is_loading && !sight.is_dead(now, LOADING_SILENCE));
            self.world.sight(replica).is_some_and(is_alive) && self.can_load(replica)
        };
        let usable: Vec<NodeAddress> = standbys.iter().filter(usable).cloned().collect();
        let streaming = usable.iter().find(|replica| self.world.is_streaming_live(replica)).cloned();
        // One that was lost again and again makes room for the next, if there is one.
        let is_hopeless = |seed: &&Seed| seed.attempts >= SEED_ATTEMPTS && !seed.has_begun;
        let tried = self.seed.as_ref().filter(is_hopeless).map(|seed| &seed.replica);
        let next = tried.and_then(|tried| {
            let after = usable.iter().position(|replica| replica == tried).map_or(0, |at| at + 1);
            usable.iter().cycle().skip(after).take(usable.len()).next().cloned()
        });
        let begun = self.seed.as_ref().map(|seed| seed.replica.clone()).filter(|replica| usable.contains(replica));
        let fewest_errors = usable.iter().min_by_key(|replica| self.last_error(replica).is_some()).cloned();
        streaming.or(next).or(begun).or(fewest_errors)
    }

    /// A server that flushes or loads may say nothing for long, not even that it loads. One whose connection to the relay is gone has died.
    fn is_silently_loading(&self, replica: &NodeAddress) -> bool {
        self.world.session(replica).is_some_and(|session| match session.state {
            SessionState::Seeding { .. } | SessionState::Loading { .. } => true,
            SessionState::Held(_) | SessionState::Streaming { .. } => false,
        })
    }

    /// Its version loads what the snapshot is (P2: a server that is given what it cannot load empties itself).
    pub(super) fn can_load(&self, replica: &NodeAddress) -> bool {
        let version = self.world.info(replica).and_then(|info| info.version);
        let rdb = self.world.relay.snapshot.as_ref().and_then(|snapshot| snapshot.rdb);
        match (version, rdb) {
            (Some(version), Some(rdb)) => version.loads(rdb),
            (Some(_) | None, None) => true,
            (None, Some(_)) => false,
        }
    }

    fn seed_candidate(&mut self, now: Time, candidate: NodeAddress) {
        let Some(dataset) = self.usable_snapshot(now) else { return };
        let verdict = self.judge_primary(now, dataset);
        if let Some(Err(reason)) = &verdict {
            self.reject(now, dataset, reason);
        }
        if verdict.is_none() && self.primary_may_still_speak(now) {
            return;
        }
        // What was rejected stays so until the primary says something better.
        if matches!(verdict, Some(Err(_))) || (verdict.is_none() && self.is_refused(dataset)) {
            self.seed = None;
            return;
        }
        self.refusal = None;
        let is_fresh = self.seed.as_ref().is_none_or(|seed| seed.replica != candidate || seed.dataset != dataset);
        if is_fresh {
            self.story(StoryLevel::Info, Some(&candidate), format!("seeding the standby with snapshot {dataset}"));
            self.seed = Some(Seed { replica: candidate, dataset, attempts: 0, has_begun: false, not_before: now });
            let ids = self.world.relay.live().map(|live| live.ids().to_vec()).unwrap_or_default();
            self.state.record(&ids);
            return;
        }
        self.count_attempts(now);
    }

    /// A seed whose transfer broke is tried again after a while, and after a longer while each time.
    fn count_attempts(&mut self, now: Time) {
        let Some(seed) = &mut self.seed else { return };
        let state = self.world.relay.sessions.get(&seed.replica).map(|session| &session.state);
        // One that still loads a dataset that was superseded is no attempt of this one.
        let is_under_way = matches!(state, Some(SessionState::Seeding { dataset, .. } | SessionState::Loading { dataset })
            if *dataset == seed.dataset);
        if is_under_way {
            seed.has_begun = true;
        } else if seed.has_begun {
            seed.has_begun = false;
            seed.attempts += 1;
            seed.not_before = now.after(SEED_RETRY.saturating_mul(seed.attempts));
            let (replica, attempts) = (seed.replica.clone(), seed.attempts);
            let why = self.world.relay.ended.get(&replica).map_or("", |end| end.reason.as_str()).to_owned();
            self.story(StoryLevel::Warn, Some(&replica), format!("the standby was lost while it was seeded (attempt {attempts}): {why}"));
        }
    }

    /// The snapshot on disk if it leads into the live history; else asks for one.
    fn usable_snapshot(&mut self, now: Time) -> Option<DatasetId> {
        let live = self.world.relay.live()?;
        let on_live = |snapshot: &&SnapshotView| super::world::stands_on(live, snapshot.dataset.0);
        let snapshot = self.world.relay.snapshot.as_ref().filter(on_live);
        match snapshot.map(|snapshot| (&snapshot.state, snapshot.dataset)) {
            Some((SnapshotState::Ready, dataset)) => return Some(dataset),
            // On its way, or tried again by the relay itself.
            Some((SnapshotState::Receiving | SnapshotState::Failed(_), _)) => return None,
            None => {}
        }
        let is_streaming = self.world.relay.upstream.state == UpstreamState::Streaming;
        let is_asked = self.snapshot_request.is_some_and(|number| Some(number) > self.world.relay.snapshot_request_done);
        let is_early = self.snapshot_not_before.is_some_and(|at| now < at);
        if is_streaming && !is_asked && !is_early {
            let number = self.snapshot_request.unwrap_or(0) + 1;
            if let Some(error) = self.world.relay.snapshot_request_error.clone() {
                self.story(StoryLevel::Warn, None, format!("the last snapshot failed: {error}"));
            }
            self.story(StoryLevel::Info, None, "asking the primary for a fresh snapshot over a second connection".into());
            self.snapshot_request = Some(number);
            self.snapshot_not_before = Some(now.after(SNAPSHOT_RETRY));
        }
        None
    }

    /// Before a standby gets it: what does the primary itself say that it holds? This keeps an empty dataset away from the standby, which would
    /// answer nil to whoever reads it directly.
    /// `None`: a primary that does not answer, or is yet another one, says nothing; what the standby loads will.
    fn judge_primary(&self, now: Time, dataset: DatasetId) -> Option<Result<(), String>> {
        if self.is_approved(dataset) {
            return Some(Ok(()));
        }
        let live = self.world.relay.live().map(|live| live.replid());
        let info = self.world.primary.info().filter(|info| self.world.primary.is_answering() && info.replid == live && !info.is_loading);
        info.map(|info| self.judge(now, info.keyspace))
    }

    /// The stream flows, but the primary has not been asked since: its word is worth a short wait, since what a standby has loaded it may
    /// be read for (P9).
    fn primary_may_still_speak(&self, now: Time) -> bool {
        let upstream = &self.world.relay.upstream;
        upstream.state == UpstreamState::Streaming && now.since(upstream.since) < self.policy.dead_after
    }

    fn judge(&self, now: Time, keyspace: Keyspace) -> Result<(), String> {
        let gap = self.reference.map_or(Duration::ZERO, |reference| now.since(reference.at));
        guard::plausible(keyspace, self.reference, gap, self.policy.guard)
    }

    /// An operator approves a dataset by the name of its full resync; a later snapshot of the same stream is the same dataset.
    fn is_approved(&self, dataset: DatasetId) -> bool {
        let live = self.world.relay.live().and_then(|live| live.dataset);
        self.state.approved.iter().any(|approved| *approved == dataset || Some(*approved) == live)
    }

    /// A snapshot's stream is known by the full resync that it began with.
    fn stream_of(&self, snapshot: DatasetId) -> DatasetId {
        self.world.relay.live().and_then(|live| live.dataset).unwrap_or(snapshot)
    }

    fn is_refused(&self, snapshot: DatasetId) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.dataset == self.stream_of(snapshot))
    }

    fn reject(&mut self, now: Time, snapshot: DatasetId, reason: &str) {
        let dataset = self.stream_of(snapshot);
        let remedy = format!(
            "if this is what you want: `rbuddy approve {dataset}`; else restore the primary's data: it is looked at again all the time"
        );
        let refusal = Refusal { dataset, reason: reason.to_owned(), remedy };
        if !self.is_refused(snapshot) {
            let served = if self.serving(now).is_empty() { "no replica can be read" } else { "the old one stays served" };
            self.story(StoryLevel::Error, None, format!("dataset {dataset} refused, {served}: {reason}; {}", refusal.remedy));
        }
        self.refusal = Some(refusal);
    }

    /// The standby follows the live history: promote it, or do what is still missing for that.
    fn promote_if_ready(&mut self, now: Time, standby: &NodeAddress) {
        let Some(live) = self.world.relay.live() else { return };
        let (replid, live_dataset) = (live.replid(), live.dataset);
        let Some(since) = self.world.session(standby).map(|session| session.since) else { return };
        if !self.has_fresh_sight(standby, since) {
            return;
        }
        let Some(probe) = self.world.sight(standby).and_then(|sight| sight.probe.clone()) else { return };
        let info = &probe.info;
        let is_loaded = info.role == Some(ServerRole::Slave)
            && info.is_link_up
            && !info.is_loading
            && !info.is_async_loading
            && !info.is_sync_in_progress
            && info.replid == Some(replid)
            && info.master.as_ref() == Some(&self.policy.relay);
        let dataset = self.seed.as_ref().map(|seed| seed.dataset).or(live_dataset);
        let is_caught_up = self.world.lag_bytes(standby).is_some_and(|lag| lag <= self.policy.max_lag.bytes)
            || self.world.has_what_arrived(standby, now, self.policy.max_lag.time);
        if !is_loaded || !is_caught_up {
            return;
        }
        let approved = dataset.is_some_and(|dataset| self.is_approved(dataset));
        if !approved && let Err(reason) = self.judge(now, info.keyspace) {
            let name = dataset.unwrap_or(DatasetId(Position::new(replid, info.offset.unwrap_or_default())));
            self.reject(now, name, &reason);
            self.seed = None;
            return;
        }
        self.refusal = None;
        if probe.serve_stale != Some(true) {
            return self.command(now, standby, ServerCommand::ServeStale(true));
        }
        if self.is_planned_switch_ready(now) && self.has_reached_floor(now, standby) {
            self.promote(now, standby);
        }
    }

    /// P10: within a history readers move only to a replica that has all that the others were sent.
    fn has_reached_floor(&self, now: Time, standby: &NodeAddress) -> bool {
        let Some(live) = self.world.relay.live() else { return false };
        let Some(position) = self.world.position(standby) else { return false };
        // An additional active takes no readers away from anyone, so only those that readers leave count.
        let leavers = self.leavers(now, Some(standby));
        let floors = leavers.iter().filter_map(|leaver| self.served.get(leaver));
        let of_live = |served: &&Position| live.ids().iter().any(|id| id.replid == served.replid);
        floors.filter(of_live).all(|served| position.offset >= served.offset)
    }

    /// A planned switch: the old actives' streams are stopped, and the standby must have what they were sent.
    fn is_planned_switch_ready(&mut self, now: Time) -> bool {
        let Some(planned) = &self.planned else { return true };
        let since = match planned.paused_since {
            None => {
                if now >= planned.not_before {
                    self.pause_streams(now, true);
                }
                return false;
            }
            Some(since) => since,
        };
        // The relay's view must be younger than the order, or `sent` could still move; then `has_reached_floor` says the rest.
        planned.old.iter().all(|replica| self.orders.paused_streams.contains(replica)) && now.since(since) >= PAUSE_SETTLES
    }

    /// A planned switch never stops a stream for long, and is given up when nobody is left to switch to.
    pub(super) fn watch_planned(&mut self, now: Time) {
        let Some(planned) = &self.planned else { return };
        let is_overdue = planned.paused_since.is_some_and(|since| now.since(since) >= PAUSE_MAX);
        let is_dead = |standby: &NodeAddress| self.world.sight(standby).is_some_and(|sight| sight.is_dead(now, self.policy.dead_after));
        if self.choose_candidate(now).is_none() && self.having(|role| matches!(role, Role::Standby)).iter().all(is_dead) {
            self.planned = None;
            self.story(StoryLevel::Warn, None, "planned switch given up: no standby that answers is left".into());
        } else if is_overdue {
            self.story(StoryLevel::Warn, None, "planned switch: the standby did not catch up in time, trying again".into());
            self.pause_streams(now, false);
        }
    }

    fn pause_streams(&mut self, now: Time, on: bool) {
        if let Some(planned) = &mut self.planned {
            planned.paused_since = on.then_some(now);
            planned.not_before = if on { planned.not_before } else { now.after(PAUSE_MAX) };
        }
    }

    /// Actives that readers leave when `new` is promoted: those that cannot go on, and those of a planned switch.
    fn leavers(&self, now: Time, new: Option<&NodeAddress>) -> Vec<NodeAddress> {
        // Not those that only missed a probe.
        let fitting = self.fitting(now);
        let mut leavers = self.having(|role| matches!(role, Role::Active));
        leavers.retain(|replica| {
            let planned = self.planned.as_ref().is_some_and(|planned| planned.old.contains(replica));
            Some(replica) != new && (planned || !fitting.contains(replica))
        });
        leavers
    }

    fn promote(&mut self, now: Time, standby: &NodeAddress) {
        let Some(info) = self.world.info(standby).cloned() else { return };
        let Some(position) = info.position() else { return };
        let leavers = self.leavers(now, Some(standby));
        let ids = self.world.relay.live().map(|live| live.ids().to_vec()).unwrap_or_default();
        self.state.record(&ids);
        self.state.generation = self.state.generation.next();
        let generation = self.state.generation;
        self.set_role(standby, Role::Active, &format!("promoted at {position}, generation {generation}, {} keys", info.keyspace.keys));
        let record = self.record(standby);
        (record.run_id, record.served, record.adopted) = (info.run_id, Some(position), false);
        self.served.insert(standby.clone(), position);
        self.floors.insert(standby.clone(), position);
        for old in &leavers {
            self.set_role(old, Role::Draining, &format!("readers have {:?} to leave", self.policy.drain));
            self.drain_until.insert(old.clone(), now.after(self.policy.drain));
        }
        let event =
            if leavers.is_empty() && self.state.generation.0 == 1 { NotificationEvent::Bootstrap } else { NotificationEvent::Failover };
        self.notify(now, event, leavers.first().cloned(), standby.clone());
        let avg_ttl_ms = self.world.primary.info().map_or(0, |info| info.keyspace.avg_ttl_ms);
        self.reference = Some(Reference { position, keyspace: Keyspace { avg_ttl_ms, ..info.keyspace }, at: now });
        self.state.reference = self.reference;
        self.state.approved.clear();
        (self.seed, self.planned, self.refusal, self.short_since) = (None, None, None, None);
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

    /// Starts a planned switch. `Err` says why it cannot be.
    pub(super) fn plan_switch(&mut self, now: Time) -> Result<String, String> {
        if self.planned.is_some() || self.is_short(now) {
            return Ok("a failover is under way already".into());
        }
        let standby = self.choose_candidate(now).ok_or("there is no standby that answers: add one, or `rbuddy adopt` a replica")?;
        if self.world.relay.upstream.state != UpstreamState::Streaming {
            return Err("the primary is not reachable, so no standby can be seeded".into());
        }
        let old: BTreeSet<NodeAddress> = self.serving(now).into_iter().take(1).collect();
        let from = old.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.planned = Some(Planned { since: now, old, paused_since: None, not_before: now });
        self.story(StoryLevel::Info, Some(&standby), format!("planned switch away from {from}"));
        Ok(format!("switching from {from} to {standby}"))
    }
}

/// A loading server may be silent for long (it flushes, or loads in one go).
const LOADING_SILENCE: Duration = Duration::from_secs(120);
/// So often a standby may be lost while it is seeded before another one is tried.
const SEED_ATTEMPTS: u32 = 3;
/// Wait before a seed is tried again, times the number of attempts.
const SEED_RETRY: Duration = Duration::from_secs(2);
/// Between two requests for a fresh snapshot: each costs the primary a fork.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(10);
/// The longest that a planned switch stops a stream. Far below any `repl-timeout`.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A relay view that was on its way when a stream was stopped has arrived by then.
const PAUSE_SETTLES: Duration = Duration::from_millis(150);
/// Notifications kept for receivers that do not take them.
const OUTBOX_MAX: usize = 256;
