//! The replicas that are connected: each by its newest connection, and what all of them together let the primary be told.
//!
//! Not here: which replica it is that connects ([`super::roster`]), what it is given ([`super::session`]).

use super::hub::{Hub, Inner};
use super::stretch::StretchKey;
use rbuddy_core::control::relay::{AckPolicy, SessionState, SessionView, fed};
use rbuddy_core::replication::history::Standing;
use rbuddy_core::types::{DatasetId, Flavour, NodeAddress, Offset, Position, ServerVersion, Time};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A connected replica.
#[derive(Debug)]
pub(super) struct Session {
    serial: u64,
    pub(super) view: SessionView,
    /// The history that it follows, and the last byte of it that was given to its socket.
    pub(super) follows: Option<(StretchKey, Offset)>,
    pub(super) dismissal: Dismissal,
}

/// Word to a session, from outside, that it is over.
#[derive(Debug, Clone, Default)]
pub(super) struct Dismissal {
    token: CancellationToken,
    why: Arc<OnceLock<Why>>,
}

/// Why it is.
#[derive(Debug, Clone, Copy, thiserror::Error)]
pub(super) enum Why {
    #[error("the replica came again on another connection")]
    Replaced,
    /// Again and again: there are two.
    #[error(
        "it and another replica say that they are at one address, and send each other away: let each announce one of its own (replica-announce-ip, replica-announce-port)"
    )]
    Contested,
    #[error("the primary that is followed now has less of this history than was here")]
    CutBack,
    #[error("the snapshot that it was given is lost: the disk did not take it")]
    SnapshotLost,
}

impl Dismissal {
    pub(super) fn send(&self, why: Why) {
        self.why.get_or_init(|| why);
        self.token.cancel();
    }

    pub(super) fn why(&self) -> Option<Why> {
        self.why.get().copied()
    }

    /// Ready once it was sent.
    pub(super) async fn sent(&self) -> Why {
        self.token.cancelled().await;
        self.why().unwrap_or(Why::Replaced)
    }
}

impl Session {
    pub(super) fn is_on(&self, key: StretchKey) -> bool {
        self.follows.is_some_and(|(follows, _)| follows == key)
    }
}

impl Hub {
    /// A replica said PSYNC. One that is already connected under this address is sent away: a replica has one connection, the newest.
    pub(super) fn admit(&self, address: &NodeAddress, view: SessionView, dismissal: Dismissal) -> u64 {
        let at = self.now();
        self.update(|inner| {
            inner.sessions_given += 1;
            let serial = inner.sessions_given;
            // What it has now is what it asks for.
            inner.away.remove(address);
            if let Some(version) = view.version {
                inner.versions.insert(address.clone(), version);
            }
            if inner.sessions.contains_key(address) {
                let why = inner.contest(address, at);
                if let Some(older) = inner.end_session(address, at, why.to_string()) {
                    older.dismissal.send(why);
                }
            }
            inner.sessions.insert(address.clone(), Session { serial, view, follows: None, dismissal });
            serial
        })
    }

    /// Somebody was refused; whether that is news.
    pub(super) fn is_new_stranger(&self, shown: &str) -> bool {
        let strangers = &mut self.lock().strangers;
        if strangers.len() >= STRANGERS_MAX {
            strangers.clear();
        }
        strangers.insert(shown.to_owned())
    }

    /// A session changes its state.
    pub(super) fn session_state(&self, address: &NodeAddress, serial: u64, state: SessionState) {
        let now = self.now();
        self.update(|inner| {
            if let Some(session) = inner.session_mut(address, serial)
                && session.view.state != state
            {
                (session.view.state, session.view.since) = (state, now);
            }
        });
    }

    /// A session is over.
    pub(super) fn dismiss(&self, address: &NodeAddress, serial: u64, reason: String) {
        let at = self.now();
        self.update(|inner| {
            if inner.session_mut(address, serial).is_some() {
                inner.remember_away(address, at);
                inner.end_session(address, at, reason);
            }
            inner.prune();
        });
    }

    /// What to ACK upstream, never above our own end and never less than before (a primary keeps the largest it was told).
    ///
    /// `replicated`: the lowest ACK of the required replicas that follow the live history or were just cut off from it; where there is none, what was ACKed
    /// last. That is nothing at first: a snapshot here is in no replica yet.
    pub(super) fn upstream_ack(&self, key: StretchKey, required: &BTreeSet<NodeAddress>) -> Option<Offset> {
        let mut inner = self.lock();
        let end = inner.stretch(key)?.history.end;
        let before = inner.acked.filter(|(of, _)| *of == key).map_or(Offset::ZERO, |(_, offset)| offset);
        let is_required = |address: &NodeAddress| self.config.open || required.contains(address);
        let ack = match self.config.settings.ack {
            AckPolicy::Replicated if self.awaits_others(&inner, required) => before.min(end),
            AckPolicy::Replicated => inner.stand_of_all(key, self.now(), is_required).unwrap_or(before).max(before).min(end),
            AckPolicy::Received => end,
        };
        inner.acked = Some((key, ack));
        Some(ack)
    }

    /// Those that were here before a restart are not back yet, and nobody knows what they have.
    fn awaits_others(&self, inner: &Inner, required: &BTreeSet<NodeAddress>) -> bool {
        let is_missing = |address: &NodeAddress| !inner.sessions.contains_key(address) && !inner.is_away(address);
        let were_here = inner.previous.as_ref().filter(|_| self.config.open).map_or(required, |previous| &previous.replicas);
        self.now().since(self.begun) < AWAY_COUNTS_FOR && inner.previous.is_some() && were_here.iter().any(is_missing)
    }

    /// What a Valkey primary is told of the replicas behind the relay: it picks the snapshot's format by it, and only the lowest version of all is safe.
    /// Nothing is said while one of them is unknown, or is a Redis, which loads none of Valkey's own formats (protocol fact 1.3).
    pub(super) fn version_to_announce(&self) -> Option<ServerVersion> {
        let inner = self.lock();
        let expected: BTreeSet<&NodeAddress> = match self.config.open {
            true => inner.sessions.keys().collect(),
            false => self.config.replicas.iter().map(|replica| &replica.address).collect(),
        };
        let versions: Option<Vec<ServerVersion>> = expected.into_iter().map(|address| inner.versions.get(address).copied()).collect();
        versions?.into_iter().min().filter(|lowest| lowest.flavour == Flavour::Valkey)
    }
}

impl Inner {
    /// Whoever is being given this snapshot, or is about to be, is sent away.
    pub(super) fn end_seeding(&self, key: StretchKey, lost: DatasetId) {
        let is_given_it = |session: &&Session| match session.view.state {
            SessionState::Held(_) | SessionState::Seeding { .. } => session.follows == Some((key, lost.0.offset)),
            SessionState::Loading { .. } | SessionState::Streaming { .. } => false,
        };
        self.sessions.values().filter(is_given_it).for_each(|session| session.dismissal.send(Why::SnapshotLost));
    }

    pub(super) fn session_mut(&mut self, address: &NodeAddress, serial: u64) -> Option<&mut Session> {
        self.sessions.get_mut(address).filter(|session| session.serial == serial)
    }

    /// The lowest offset of this history that one of these replicas has executed. One that lost its connection, or has just come back and waits for its answer,
    /// has what it had; one that gets a snapshot has nothing of it yet.
    fn stand_of_all(&self, key: StretchKey, now: Time, is_counted: impl Fn(&NodeAddress) -> bool) -> Option<Offset> {
        let history = &self.stretch(key)?.history;
        let connected = self.sessions.iter().filter(|(_, session)| session.dismissal.why().is_none());
        let connected = connected.filter_map(|(address, session)| {
            let has = match session.view.state {
                SessionState::Streaming { acked, .. } => Some(acked).filter(|_| session.is_on(key)),
                SessionState::Held(_) => {
                    session.view.asked.filter(|asked| history.standing(*asked) == Standing::Covered).map(|asked| asked.offset)
                }
                SessionState::Seeding { .. } | SessionState::Loading { .. } => None,
            };
            has.map(|has| (address, has))
        });
        let all = connected.chain(self.lately_away(key, now, AWAY_COUNTS_FOR));
        all.filter(|(address, _)| is_counted(address)).map(|(_, has)| has).min()
    }

    /// The replica at this address is connected, and comes once more. One that lost its connection without a word does so once.
    fn contest(&mut self, address: &NodeAddress, at: Time) -> Why {
        self.contested.retain(|_, (_, last)| at.since(*last) < CONTESTED_WITHIN);
        let (times, last) = self.contested.entry(address.clone()).or_insert((0, at));
        (*times, *last) = (*times + 1, at);
        if *times < CONTESTED_TIMES { Why::Replaced } else { Why::Contested }
    }

    /// How far the replica at this address is fed at this moment: [`fed`].
    pub(super) fn fed(&self, address: &NodeAddress) -> Vec<Position> {
        let session = self.sessions.get(address).map(|session| &session.view);
        fed(session, self.ended.get(address), self.stretches.iter().map(|stretch| &stretch.history))
    }

    /// A replica's connection is gone: why, and how far it was fed, goes on being told.
    fn end_session(&mut self, address: &NodeAddress, at: Time, reason: String) -> Option<Session> {
        let session = self.sessions.remove(address)?;
        let end = session.view.end(at, reason, self.ended.get(address));
        self.ended.insert(address.clone(), end);
        Some(session)
    }
}

/// A replica comes back within seconds; for one that stays away nobody waits for ever. (What the controller requires it takes back sooner.)
const AWAY_COUNTS_FOR: Duration = Duration::from_secs(10);
/// So many times, each no longer after the one before than that. Replicas come again every second.
const CONTESTED_TIMES: u32 = 4;
const CONTESTED_WITHIN: Duration = Duration::from_secs(10);
/// More than a misconfigured group has; then the log says it again.
const STRANGERS_MAX: usize = 64;
