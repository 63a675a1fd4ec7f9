//! How to begin with the primary: from the position of the replicas that serve, from what is on disk, or from nothing.

use super::action::StoryLevel;
use super::controller::Controller;
use super::relay::{Start, UpstreamState};
use super::state::Role;
use super::world::Sight;
use crate::info::{Role as ServerRole, ServerInfo};
use crate::replication::history::{History, KnownId, Place, Standing};
use crate::replication::prospect::{Prospect, common, prospect};
use crate::types::{NodeAddress, Position, ReplId, Time};
use std::time::Duration;

impl Controller {
    /// Decides once, when enough is seen of the replicas.
    pub(super) fn start(&mut self, now: Time) {
        if self.begin.is_some() || self.primary_address().is_none() || !self.is_enough_seen(now) {
            return;
        }
        let (start, why) = self.choose_start();
        self.story(StoryLevel::Info, None, why);
        self.begin = Some(start);
    }

    /// Where actives are that have more than the relay, as one may that comes back before the primary does. There that one can perhaps still go on. Until
    /// something has come from the primary that may also be another history: it was not known then which one is the primary's.
    pub(super) fn places(&self) -> Vec<Place> {
        // While it streams it is only not yet known that the relay has more as well.
        if self.world.relay.upstream.state == UpstreamState::Streaming {
            return Vec::new();
        }
        let live = self.world.relay.live();
        let is_another = |position: Position| match live.map(|live| live.standing(position)) {
            Some(Standing::Ahead { .. }) => true,
            Some(Standing::UnknownId) => self.is_before_the_first_byte(),
            None => self.begin == Some(Start::Fresh) && self.is_before_the_first_byte(),
            Some(Standing::Covered | Standing::PastLimit { .. } | Standing::TooOld { .. }) => false,
        };
        let positions = self.of_newest(self.seen_positions()).into_iter().map(|(_, position)| position);
        let other = positions.filter(|position| is_another(*position) && !self.is_of_ended(*position));
        other.map(|position| Place { position, earlier: self.earlier_ids(position.replid) }).collect()
    }

    fn is_before_the_first_byte(&self) -> bool {
        !self.world.relay.upstream.has_answered()
    }

    /// Nothing has come from the primary yet, and an active that was not seen since may be where that one can go on.
    pub(super) fn may_know_another_place(&self, now: Time) -> bool {
        let is_unseen = |active: &NodeAddress| self.is_out_of_sight(active);
        self.is_before_the_first_byte()
            && now.since(self.looking_since) < PLACE_WAIT
            && self.having(|role| matches!(role, Role::Active)).iter().any(is_unseen)
    }

    /// A replica that has no position yet could be the one with the lowest: wait for it, but not for ever.
    fn is_enough_seen(&self, now: Time) -> bool {
        let waited = now.since(self.looking_since);
        let all_seen = self.policy.replicas.iter().all(|replica| {
            let Some(sight) = self.world.sight(replica) else { return true };
            let judged = match self.state.role(replica) {
                Role::Unknown => false,
                Role::Active | Role::Draining => self.can_be_placed(sight),
                Role::Standby | Role::Emptying { .. } | Role::Drained | Role::Refused { .. } => true,
            };
            let loading = sight.info().is_some_and(|info| info.is_loading);
            // Nothing is judged before the primary was seen, and a full resync meanwhile would be for nothing.
            let can_be_judged = judged || self.world.primary.probe.is_some();
            if sight.is_answering() {
                (judged && !loading) || (can_be_judged && waited >= LOADING_WAIT)
            } else {
                sight.was_asked() && waited >= SILENT_WAIT
            }
        });
        // Nobody answers: there is nothing to begin for, and a full resync would be wasted.
        all_seen && self.policy.replicas.iter().any(|replica| self.world.sight(replica).is_some_and(|sight| sight.is_answering()))
    }

    /// Its id was changed while the state file could not be written, or it is an id of its own: whether it is the newest, the primary says.
    fn can_be_placed(&self, sight: &Sight) -> bool {
        let id = sight.info().and_then(|info| info.replid);
        id.is_none_or(|id| self.state.knows(id)) || self.world.primary.was_asked()
    }

    fn choose_start(&self) -> (Start, String) {
        let positions = self.active_positions();
        let lowest = positions.first();
        if let Some((dataset, end)) = self.world.relay.resumable {
            let older = lowest.is_some_and(|(_, position)| position.replid == dataset.0.replid && position.offset < dataset.0.offset);
            // Of a history before theirs: killed before the relay had written down the one that came after.
            let age = |position: Position| self.state.age(position.replid);
            let ages = lowest.and_then(|(_, position)| age(*position).zip(age(dataset.0)));
            let outdated = ages.is_some_and(|(theirs, its)| theirs < its);
            // The end of what was kept may be lost, and the primary may keep nothing before where a replica stands.
            let leads_on = |(_, other): &(NodeAddress, Position)| self.would_continue(*other) == Some(true);
            let leads_nowhere = self.would_continue(end) == Some(false) && positions.iter().any(leads_on);
            if !older && !outdated && !leads_nowhere {
                return (Start::Resume, format!("going on at {end} with snapshot {dataset} from disk"));
            }
        }
        match lowest {
            Some((replica, position)) => {
                let earlier = self.earlier_ids(position.replid);
                let why = format!("asking the primary to continue at {position}, where {replica} stands");
                (Start::At(Place { position: *position, earlier }), why)
            }
            None => (Start::Fresh, "no replica holds data to continue from: asking the primary for a full resync".into()),
        }
    }

    /// As far as the primary has said.
    fn would_continue(&self, position: Position) -> Option<bool> {
        match prospect(Some(&History::starting_at(position, None)), self.world.primary.info()?) {
            Prospect::Continue(_) => Some(true),
            Prospect::FullResync(_) => Some(false),
            Prospect::NotNow(_) | Prospect::Unknown => None,
        }
    }

    /// Where the actives on the newest history that any of them stands on are, by its newest id, the one furthest behind first.
    /// If none can be asked: where they were when last seen, which the primary may still cover.
    fn active_positions(&self) -> Vec<(NodeAddress, Position)> {
        let mut positions = self.seen_positions();
        if positions.is_empty() {
            let actives = self.having(|role| matches!(role, Role::Active)).into_iter().filter(|active| self.is_out_of_sight(active));
            positions = actives.filter_map(|replica| Some((replica.clone(), self.state.replicas.get(&replica)?.served?))).collect();
        }
        self.of_newest(positions)
    }

    fn is_out_of_sight(&self, replica: &NodeAddress) -> bool {
        self.world.info(replica).is_none_or(|info| info.is_loading)
    }

    fn seen_positions(&self) -> Vec<(NodeAddress, Position)> {
        let positions = self.positions_of(self.having(|role| matches!(role, Role::Active)));
        if positions.is_empty() {
            // What readers are leaving may be the last that can go on.
            return self.positions_of(self.having(|role| matches!(role, Role::Draining)));
        }
        positions
    }

    /// Those on the newest history that any is on, by its newest id, the one furthest behind first.
    fn of_newest(&self, mut positions: Vec<(NodeAddress, Position)>) -> Vec<(NodeAddress, Position)> {
        let Some(newest) = self.newest(positions.iter().map(|(_, position)| position.replid)) else { return Vec::new() };
        let earlier = self.earlier_ids(newest);
        let is_of_newest = |position: Position| {
            let is_right = |known: &KnownId| known.replid == position.replid && known.until.is_some_and(|until| position.offset <= until);
            position.replid == newest || earlier.iter().any(is_right)
        };
        positions.retain(|(_, position)| is_of_newest(*position));
        positions.iter_mut().for_each(|(_, position)| position.replid = newest);
        positions.sort_by_key(|(_, position)| position.offset);
        positions
    }

    /// Where those of these replicas are that answer with a dataset of their own.
    fn positions_of(&self, replicas: Vec<NodeAddress>) -> Vec<(NodeAddress, Position)> {
        let position = |replica: NodeAddress| {
            // One that came back with nothing (a pause leaves it an active) has a history of its own, which leads nowhere.
            let is_stray = |info: &ServerInfo| info.is_empty() && !info.replid.is_some_and(|id| self.state.knows(id));
            let follows = |info: &&ServerInfo| info.role == Some(ServerRole::Slave) && !info.is_loading && !is_stray(info);
            Some((replica.clone(), self.world.info(&replica).filter(follows)?.position()?))
        };
        replicas.into_iter().filter_map(position).collect()
    }

    /// Older ids of the same history: as recorded, or, of an id that could not be written down, as the primary says.
    fn earlier_ids(&self, replid: ReplId) -> Vec<KnownId> {
        let info = self.world.primary.info().filter(|info| info.replid == Some(replid) && !self.state.knows(replid));
        let before = info.and_then(|info| Some((info.replid2?, common(info, info.replid2?)?)));
        match before {
            Some((before, until)) => {
                let before_that = self.state.earlier_ids(before);
                [KnownId { replid: before, until: Some(until) }].into_iter().chain(before_that).collect()
            }
            None => self.state.earlier_ids(replid),
        }
    }

    /// The primary's own id is the newest, then the recorded ones, newest first.
    fn newest(&self, ids: impl Iterator<Item = ReplId>) -> Option<ReplId> {
        let primary = self.world.primary.info();
        let age = |id: ReplId| match primary {
            Some(info) if info.replid == Some(id) => 0,
            Some(info) if info.replid2 == Some(id) => 1,
            Some(_) | None => 2 + self.state.ids.iter().position(|known| known.replid == id).unwrap_or(usize::MAX - 2),
        };
        ids.min_by_key(|id| age(*id))
    }
}

/// How long to wait for a replica that does not answer before going on without it.
const SILENT_WAIT: Duration = Duration::from_secs(3);
/// How long a full resync waits for a replica that does not answer, but may be where none is needed.
const PLACE_WAIT: Duration = Duration::from_secs(10);
/// How long to wait for a replica that answers but is loading, or cannot be judged yet.
const LOADING_WAIT: Duration = Duration::from_secs(120);
