//! What the controller sees right now: probes and the relay's view, and the simple questions about them. Nothing here is remembered over a
//! restart, and nothing here decides.

use super::event::{Probe, ProbeResult};
use super::measure::Measured;
use super::primary::SentinelView;
use super::relay::{RelayView, SessionState, SessionView};
use crate::info::{Role as ServerRole, ServerInfo};
use crate::replication::history::{self, History, Standing};
use crate::types::{NodeAddress, Position, RunId, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What was last seen of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Sight {
    /// Its last answer.
    pub(super) probe: Option<Probe>,
    /// When it was asked for that. `None`: before something that may have changed it, so nothing is to be done because of it.
    pub(super) asked_at: Option<Time>,
    /// What was asked before says nothing any more.
    expired_at: Time,
    /// What was asked before is not even heard: see [`World::lose_sight`].
    unseen_before: Time,
    /// Since when it has not answered.
    pub(super) failing_since: Option<Time>,
    /// Why not.
    pub(super) error: Option<String>,
}

/// All that is seen.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct World {
    /// The primary.
    pub(super) primary: Sight,
    /// The replicas.
    pub(super) replicas: BTreeMap<NodeAddress, Sight>,
    /// The relay.
    pub(super) relay: RelayView,
    /// The Sentinels that are asked for the primary, where there are any.
    pub(super) sentinels: SentinelView,
    /// Ends of the live history at earlier moments, to tell how old a position is.
    ends: VecDeque<(Time, Position)>,
    /// How long the last snapshot and the last filling took.
    #[serde(default)]
    pub(super) measured: Measured,
}

impl Sight {
    /// Takes in an answer or its absence.
    pub(super) fn take(&mut self, now: Time, asked_at: Time, result: ProbeResult) {
        if asked_at < self.unseen_before {
            return;
        }
        match result {
            ProbeResult::Answered(mut probe) => {
                if probe.settings.is_none() {
                    let before = self.probe.take().filter(|before| before.info.run_id == probe.info.run_id);
                    probe.settings = before.and_then(|before| before.settings);
                }
                let asked_at = Some(asked_at).filter(|at| *at >= self.expired_at);
                (self.probe, self.asked_at, self.failing_since, self.error) = (Some(*probe), asked_at, None, None);
            }
            ProbeResult::Failed(error) => {
                self.failing_since.get_or_insert(now);
                self.error = Some(error);
            }
        }
    }

    /// A command has changed it: an answer that was asked for before, and may be on its way still, says nothing about that.
    pub(super) fn expire(&mut self, now: Time) {
        (self.asked_at, self.expired_at) = (None, now);
    }

    /// Its last answer, however old.
    pub(super) fn info(&self) -> Option<&ServerInfo> {
        self.probe.as_ref().map(|probe| &probe.info)
    }

    /// It answered the last probe.
    pub(super) fn is_answering(&self) -> bool {
        self.failing_since.is_none() && self.probe.is_some()
    }

    /// It has not answered for `dead_after`. A server that was never asked is not dead.
    pub(super) fn is_dead(&self, now: Time, dead_after: Duration) -> bool {
        self.failing_since.is_some_and(|since| now.since(since) >= dead_after)
    }

    /// It was asked at least once.
    pub(super) fn was_asked(&self) -> bool {
        self.probe.is_some() || self.failing_since.is_some()
    }

    /// Its process.
    pub(super) fn run_id(&self) -> Option<RunId> {
        self.info()?.run_id
    }
}

impl World {
    /// Nothing is seen yet of these replicas.
    pub(super) fn of(replicas: &[NodeAddress]) -> World {
        World { replicas: replicas.iter().map(|replica| (replica.clone(), Sight::default())).collect(), ..World::default() }
    }

    /// Nobody looked for long, as the state file could not be written: what was seen before, and what has waited since, is too old to act on.
    pub(super) fn lose_sight(&mut self, now: Time) {
        for sight in self.replicas.values_mut().chain([&mut self.primary]) {
            (sight.asked_at, sight.unseen_before) = (None, now);
            sight.failing_since.get_or_insert(now);
            sight.error.get_or_insert_with(|| "not looked at for long".to_owned());
        }
    }

    /// Takes in a new view of the relay.
    pub(super) fn take_relay(&mut self, now: Time, view: RelayView) {
        if let Some(live) = view.live() {
            let end = live.end_position();
            if self.ends.back().is_none_or(|(_, last)| *last != end) {
                self.ends.push_back((now, end));
            }
            while self.ends.len() > ENDS_MAX {
                self.ends.pop_front();
            }
        }
        self.measured.observe(now, &view);
        self.relay = view;
    }

    /// What is seen of a replica.
    pub(super) fn sight(&self, replica: &NodeAddress) -> Option<&Sight> {
        self.replicas.get(replica)
    }

    /// Its last answer.
    pub(super) fn info(&self, replica: &NodeAddress) -> Option<&ServerInfo> {
        self.sight(replica)?.info()
    }

    /// Its connection to the relay.
    pub(super) fn session(&self, replica: &NodeAddress) -> Option<&SessionView> {
        self.relay.sessions.get(replica)
    }

    /// The newest position that is known of it: its ACK, what it asked for, or what it said when probed.
    pub(super) fn position(&self, replica: &NodeAddress) -> Option<Position> {
        let probed = self.info(replica).and_then(ServerInfo::position);
        let session = self.session(replica).and_then(|session| match &session.state {
            SessionState::Streaming { replid, acked, .. } => Some(Position::new(*replid, *acked)),
            SessionState::Held(_) => session.asked,
            SessionState::Seeding { .. } | SessionState::Loading { .. } => None,
        });
        match (session, probed) {
            (Some(session), Some(probed)) if session.replid == probed.replid => Some(session.max(probed)),
            (Some(session), _) => Some(session),
            (None, probed) => probed,
        }
    }

    /// Whether it can go on with what the primary sends now, or does so already.
    pub(super) fn fits_live(&self, replica: &NodeAddress) -> bool {
        let Some(live) = self.relay.live() else { return false };
        // A detached replica writes its own history, whatever its id says.
        if self.info(replica).is_some_and(|info| info.role == Some(ServerRole::Master)) {
            return false;
        }
        let Some(position) = self.position(replica).filter(|position| stands_on(live, *position)) else { return false };
        let seeded = self.session(replica).and_then(|session| match session.state {
            SessionState::Streaming { seeded, .. } => seeded,
            SessionState::Held(_) | SessionState::Seeding { .. } | SessionState::Loading { .. } => None,
        });
        let is_ambiguous = || self.relay.histories.iter().any(|ended| !ended.live && history::may_be_of_another(ended, position));
        seeded.is_some_and(|dataset| stands_on(live, dataset.0)) || !is_ambiguous()
    }

    /// It follows the live history through the relay.
    pub(super) fn is_streaming_live(&self, replica: &NodeAddress) -> bool {
        let streaming = self.session(replica).is_some_and(|session| matches!(session.state, SessionState::Streaming { .. }));
        streaming && self.fits_live(replica)
    }

    /// Bytes that it is behind the live history's end.
    pub(super) fn lag_bytes(&self, replica: &NodeAddress) -> Option<u64> {
        let live = self.relay.live()?;
        let position = self.position(replica)?;
        if !stands_on(live, position) {
            return None;
        }
        Some(position.offset.bytes_behind(live.end).unwrap_or(0))
    }

    /// Bytes a second by which the live history grew in the last seconds. `None`: it has not been looked at for so long.
    pub(super) fn stream_rate(&self, now: Time) -> Option<u64> {
        let (_, last) = self.ends.back()?;
        let (_, then) = self.ends.iter().rev().find(|(at, end)| now.since(*at) >= RATE_OVER && end.replid == last.replid)?;
        Some(then.offset.bytes_behind(last.offset)? / RATE_OVER.as_secs())
    }

    /// It has at least what had arrived `ago` before now.
    pub(super) fn has_what_arrived(&self, replica: &NodeAddress, now: Time, ago: Duration) -> bool {
        let Some(position) = self.position(replica) else { return false };
        let Some(live) = self.relay.live() else { return false };
        let then = self.ends.iter().rev().find(|(at, end)| now.since(*at) >= ago && end.replid == live.replid());
        then.is_some_and(|(_, end)| position.offset >= end.offset)
    }
}

/// Whether a position is on this history: its next byte is kept, or is yet to arrive.
pub(super) fn stands_on(history: &History, position: Position) -> bool {
    match history.standing(position) {
        Standing::Covered | Standing::Ahead { .. } => true,
        Standing::UnknownId | Standing::PastLimit { .. } | Standing::TooOld { .. } => false,
    }
}

/// Long enough to be no guess, short enough for `ENDS_MAX`.
const RATE_OVER: Duration = Duration::from_secs(10);

/// The relay publishes at most 20 views a second: these are at least the last 12 seconds.
const ENDS_MAX: usize = 256;
