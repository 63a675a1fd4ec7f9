//! A standby is chosen and given the new dataset, once that is plausible (P4), and one that was lost on the way is tried again.

use super::action::StoryLevel;
use super::controller::{Controller, Seed};
use super::guard;
use super::relay::{SessionState, SnapshotState, SnapshotView, UpstreamState};
use super::settings::StandbyMode;
use super::state::Role;
use super::status::Refusal;
use super::world::Sight;
use crate::info::Keyspace;
use crate::types::{DatasetId, NodeAddress, Time};
use std::time::Duration;

impl Controller {
    /// `standby = "warm"`: nothing is spare, so actives are given up for the new dataset, `max_unavailable` at a time and never the last that serves.
    /// Not before there is something plausible to give them.
    pub(super) fn release(&mut self, now: Time) {
        for _ in self.out_of_service().len()..self.may_be_given_up() {
            // One that would be held back afterwards serves on.
            let stranded = self.stranded(now).into_iter().filter(|replica| !self.is_hindered(now, replica));
            let behind = stranded.min_by_key(|replica| self.progress(replica));
            let Some(replica) = behind.filter(|_| self.serving(now).len() > 1) else { return };
            let Some(dataset) = self.usable_snapshot(now) else { return };
            match self.judge_primary(now, dataset) {
                Some(Ok(())) => self.give_up(now, &replica),
                Some(Err(reason)) => return self.reject(now, dataset, &reason),
                // The others would have to wait for what it loads anyway.
                None => return,
            }
        }
    }

    /// How many may be out of service for a new dataset. Where there are standbys, one is left for each that is filled, and nobody is missed.
    pub(super) fn may_be_given_up(&self) -> usize {
        if self.policy.standby == StandbyMode::Warm { self.policy.max_unavailable } else { 0 }
    }

    /// Those that are being left, emptied or filled, or could be.
    pub(super) fn out_of_service(&self) -> Vec<NodeAddress> {
        self.having(|role| matches!(role, Role::Standby | Role::Draining | Role::Emptying { .. }))
    }

    fn give_up(&mut self, now: Time, replica: &NodeAddress) {
        self.refusal = None;
        self.state.generation = self.state.generation.next();
        let drain = self.policy.drain;
        self.set_role(replica, Role::Draining, &format!("to get the new dataset; readers have {drain:?} to leave"));
        let other = self.read_now(now).into_iter().next();
        self.tell_leavers(now, replica.clone(), other);
    }

    /// A refusal is of one dataset; the primary's next one is judged anew.
    pub(super) fn drop_superseded_refusal(&mut self) {
        let (Some(refusal), Some(live)) = (&self.refusal, self.world.relay.live()) else { return };
        let is_known = live.ids().iter().any(|id| id.replid == refusal.dataset.0.replid);
        if !is_known || live.dataset.is_some_and(|dataset| dataset != refusal.dataset) {
            self.refusal = None;
        }
    }

    pub(super) fn drop_hopeless_seeds(&mut self) {
        let is_hopeless = |(replica, seed): &(&NodeAddress, &Seed)| {
            let superseded = self.world.relay.live().is_none_or(|live| !super::world::stands_on(live, seed.dataset.0));
            let answering = self.world.sight(replica).is_some_and(|sight| sight.is_answering());
            superseded || *self.state.role(replica) != Role::Standby || (!answering && !self.is_silently_loading(replica))
        };
        let hopeless: Vec<NodeAddress> = self.seeds.iter().filter(is_hopeless).map(|(replica, _)| replica.clone()).collect();
        self.seeds.retain(|replica, _| !hopeless.contains(replica));
    }

    /// How many are missing among those that serve the live history, not counting those that a planned switch leaves.
    pub(super) fn missing(&self, now: Time) -> usize {
        let is_left = |replica: &NodeAddress| self.planned.as_ref().is_some_and(|planned| planned.old.contains(replica));
        let staying = self.fitting(now).into_iter().filter(|replica| !is_left(replica)).count();
        self.desired_actives().saturating_sub(staying).max(1)
    }

    /// The next to be filled and promoted.
    pub(super) fn choose_candidate(&self, now: Time) -> Option<NodeAddress> {
        self.choose_candidates(now).into_iter().next()
    }

    /// As many standbys as are missing, those that are furthest on their way first; one that has begun to load is not given up for another while it
    /// answers.
    pub(super) fn choose_candidates(&self, now: Time) -> Vec<NodeAddress> {
        let standbys = self.having(|role| matches!(role, Role::Standby));
        let usable = |replica: &&NodeAddress| {
            let is_loading = self.is_silently_loading(replica);
            let is_alive = |sight: &Sight| sight.is_answering() || (is_loading && !sight.is_dead(now, LOADING_SILENCE));
            self.world.sight(replica).is_some_and(is_alive) && self.can_load(replica)
        };
        // Filled and kept at hand all the same: what hinders it may be mended at any moment, or be of no account when nobody serves any more.
        // With nobody serving there is nothing to be choosy for.
        let is_served = !self.serving(now).is_empty();
        let is_last = |replica: &NodeAddress| {
            self.is_hindered(now, replica) || self.lacks_too_much(now, replica) || (is_served && self.is_out(replica))
        };
        let rank = |replica: &NodeAddress| {
            let seed = self.seeds.get(replica);
            // One that was lost again and again makes room for the next, if there is one.
            let is_hopeless = seed.is_some_and(|seed| seed.attempts >= SEED_ATTEMPTS && !seed.has_begun);
            match (seed.is_some(), self.last_error(replica).is_some()) {
                _ if is_last(replica) => 5,
                _ if self.world.is_streaming_live(replica) => 0,
                _ if is_hopeless => 4,
                (true, _) => 1,
                (false, false) => 2,
                (false, true) => 3,
            }
        };
        let mut usable: Vec<NodeAddress> = standbys.iter().filter(usable).cloned().collect();
        usable.sort_by_cached_key(rank);
        usable.truncate(self.missing(now));
        usable
    }

    /// A server that flushes or loads may say nothing for long, not even that it loads. One whose connection to the relay is gone has died.
    pub(super) fn is_silently_loading(&self, replica: &NodeAddress) -> bool {
        self.world.session(replica).is_some_and(|session| match session.state {
            SessionState::Seeding { .. } | SessionState::Loading { .. } => true,
            SessionState::Held(_) | SessionState::Streaming { .. } => false,
        })
    }

    /// It has the modules and databases of the primary, and its version loads what the snapshot is (P2: a server that is given what it cannot load
    /// empties itself).
    pub(super) fn can_load(&self, replica: &NodeAddress) -> bool {
        if self.cannot_load(replica).is_some() && !self.world.is_streaming_live(replica) {
            return false;
        }
        let version = self.world.info(replica).and_then(|info| info.version);
        let rdb = self.world.relay.snapshot.as_ref().and_then(|snapshot| snapshot.rdb);
        match (version, rdb) {
            (Some(version), Some(rdb)) => version.loads(rdb),
            (Some(_) | None, None) => true,
            (None, Some(_)) => false,
        }
    }

    pub(super) fn seed_candidate(&mut self, now: Time, candidate: NodeAddress) {
        let is_vouched_for = self.world.relay.live().is_some_and(|live| self.is_vouched_for(live.replid()));
        if !is_vouched_for || self.is_worth_no_fork(&candidate) {
            return;
        }
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
            self.seeds.clear();
            return;
        }
        self.refusal = None;
        let is_fresh = self.seeds.get(&candidate).is_none_or(|seed| seed.dataset != dataset);
        if is_fresh {
            self.story(StoryLevel::Info, Some(&candidate), format!("seeding the standby with snapshot {dataset}"));
            self.seeds.insert(candidate, Seed { dataset, attempts: 0, has_begun: false, not_before: now });
            let ids = self.world.relay.live().map(|live| live.ids().to_vec()).unwrap_or_default();
            self.state.record(&ids);
            return;
        }
        self.count_attempts(now, &candidate);
    }

    /// One that falls again and again, maybe of what it is given, gets what is there: the primary forks for it when it has been steady (P6).
    pub(super) fn is_worth_no_fork(&self, candidate: &NodeAddress) -> bool {
        self.is_out(candidate) && self.world.relay.ready_snapshot().is_none()
    }

    /// A seed whose transfer broke is tried again after a while, and after a longer while each time.
    fn count_attempts(&mut self, now: Time, replica: &NodeAddress) {
        let Some(seed) = self.seeds.get_mut(replica) else { return };
        let state = self.world.relay.sessions.get(replica).map(|session| &session.state);
        // One that still loads a dataset that was superseded is no attempt of this one.
        let is_under_way = matches!(state, Some(SessionState::Seeding { dataset, .. } | SessionState::Loading { dataset })
            if *dataset == seed.dataset);
        if is_under_way {
            seed.has_begun = true;
        } else if seed.has_begun {
            seed.has_begun = false;
            seed.attempts += 1;
            seed.not_before = now.after(SEED_RETRY.saturating_mul(seed.attempts));
            let attempts = seed.attempts;
            let why = self.world.relay.ended.get(replica).map_or("", |end| end.reason.as_str()).to_owned();
            self.story(StoryLevel::Warn, Some(replica), format!("the standby was lost while it was seeded (attempt {attempts}): {why}"));
        }
    }

    /// The snapshot on disk if it leads into the live history; else asks for one.
    pub(super) fn usable_snapshot(&mut self, now: Time) -> Option<DatasetId> {
        let live = self.world.relay.live()?;
        let on_live = |snapshot: &&SnapshotView| super::world::stands_on(live, snapshot.dataset.0);
        let snapshot = self.world.relay.snapshot.as_ref().filter(on_live);
        match snapshot.map(|snapshot| (&snapshot.state, snapshot.dataset)) {
            Some((SnapshotState::Ready, dataset)) => return Some(dataset),
            // On its way, or tried again by the relay itself.
            Some((SnapshotState::Receiving | SnapshotState::Failed(_), _)) => return None,
            None => {}
        }
        self.count_failed_request(now);
        let is_streaming = self.world.relay.upstream.state == UpstreamState::Streaming;
        let is_asked = self.snapshot_request.is_some_and(|number| Some(number) > self.world.relay.snapshot_request_done);
        let is_early = self.snapshot_not_before.is_some_and(|at| now < at);
        if is_streaming && !is_asked && !is_early {
            let number = self.snapshot_request.unwrap_or(0) + 1;
            self.story(StoryLevel::Info, None, "asking the primary for a fresh snapshot over a second connection".into());
            self.snapshot_request = Some(number);
        }
        None
    }

    /// Each request costs the primary a fork, so the next one waits after a failure, and longer after each.
    fn count_failed_request(&mut self, now: Time) {
        let done = self.world.relay.snapshot_request_done;
        if done.is_none() || done == self.snapshot_answered || done != self.snapshot_request {
            return;
        }
        self.snapshot_answered = done;
        match self.world.relay.snapshot_request_error.clone() {
            None => self.snapshot_failures = 0,
            Some(error) => {
                let wait = SNAPSHOT_RETRY.saturating_mul(1 << self.snapshot_failures.min(5));
                self.snapshot_failures += 1;
                self.snapshot_not_before = Some(now.after(wait));
                self.story(StoryLevel::Warn, None, format!("no fresh snapshot, tried again in {wait:?}: {error}"));
            }
        }
    }

    /// Before a standby gets it: what does the primary itself say that it holds? This keeps an empty dataset away from the standby, which would
    /// answer nil to whoever reads it directly.
    /// `None`: a primary that does not answer, or is yet another one, says nothing; what the standby loads will.
    pub(super) fn judge_primary(&self, now: Time, dataset: DatasetId) -> Option<Result<(), String>> {
        if self.is_approved(dataset) {
            return Some(Ok(()));
        }
        let live = self.world.relay.live().map(|live| live.replid());
        let info = self.world.primary.info().filter(|info| self.world.primary.is_answering() && info.replid == live && !info.is_loading);
        info.map(|info| self.judge(now, info.keyspace))
    }

    /// The stream flows, but the primary has not been asked since: its word is worth a short wait, since what a standby has loaded it may
    /// be read for (P9).
    pub(super) fn primary_may_still_speak(&self, now: Time) -> bool {
        let upstream = &self.world.relay.upstream;
        upstream.state == UpstreamState::Streaming && now.since(upstream.since) < self.policy.dead_after
    }

    pub(super) fn judge(&self, now: Time, keyspace: Keyspace) -> Result<(), String> {
        let gap = self.reference.map_or(Duration::ZERO, |reference| now.since(reference.at));
        guard::plausible(keyspace, self.reference, gap, self.policy.guard)
    }

    /// An operator approves a dataset by the name of its full resync; a later snapshot of the same stream is the same dataset.
    pub(super) fn is_approved(&self, dataset: DatasetId) -> bool {
        let live = self.world.relay.live().and_then(|live| live.dataset);
        self.state.approved.iter().any(|approved| *approved == dataset || Some(*approved) == live)
    }

    /// A snapshot's stream is known by the full resync that it began with.
    pub(super) fn stream_of(&self, snapshot: DatasetId) -> DatasetId {
        self.world.relay.live().and_then(|live| live.dataset).unwrap_or(snapshot)
    }

    pub(super) fn is_refused(&self, snapshot: DatasetId) -> bool {
        self.refusal.as_ref().is_some_and(|refusal| refusal.dataset == self.stream_of(snapshot))
    }

    pub(super) fn reject(&mut self, now: Time, snapshot: DatasetId, reason: &str) {
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
}

/// A loading server may be silent for long (it flushes, or loads in one go).
const LOADING_SILENCE: Duration = Duration::from_secs(120);
/// So often a standby may be lost while it is seeded before another one is tried.
const SEED_ATTEMPTS: u32 = 3;
/// Wait before a seed is tried again, times the number of attempts.
const SEED_RETRY: Duration = Duration::from_secs(2);
/// Between a failed request for a fresh snapshot and the next; doubled up to 32 times as much.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(10);
