//! Who needs which bytes of a stream for longer than memory has them, and what the disk keeps for that.
//!
//! Kept on disk is what follows a snapshot (offered, named in `relay.json` or on its way), and what a replica lacks: one that is connected and lags further than
//! memory covers for sure, one that is held, one that is away and will come back. Nothing else: without such a need nothing is written. The sum is bounded
//! (`backlog_disk_max`): the oldest goes then, and whoever stood there is overrun. Not here: writing ([`super::log_writer`]).

use super::files::Spool;
use super::hub::Inner;
use super::stretch::{Stretch, StretchKey};
use rbuddy_core::control::relay::{BacklogView, SessionState};
use rbuddy_core::replication::history::Standing;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{NodeAddress, Offset, Time};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What may be put where.
#[derive(Debug)]
pub(super) struct DiskRoom {
    pub(super) dir: PathBuf,
    /// Of all logs together; with less than a few segments none is kept.
    bytes_max: u64,
    pub(super) segment_bytes: u64,
}

/// The disk did not take what it was to keep.
#[derive(Debug, Clone)]
pub(super) struct DiskTrouble {
    pub(super) error: String,
    /// Until then it is left alone.
    pub(super) retry_at: Instant,
}

/// A replica whose connection has ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Away {
    key: StretchKey,
    /// What it had for sure: its last ACK, which may be a second old.
    offset: Offset,
    /// From here on it is kept for it. Not before the first byte that was there: it may well have had more than it had acknowledged.
    needs: Offset,
    since: Time,
}

impl DiskRoom {
    pub(super) fn new(dir: PathBuf, bytes_max: u64) -> DiskRoom {
        // Small beside the whole, so that what goes at a time is little of it.
        let bytes_max = if bytes_max < 4 * SEGMENT_BYTES_MIN { 0 } else { bytes_max };
        let segment_bytes = (bytes_max / 16).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        DiskRoom { dir, bytes_max, segment_bytes }
    }

    /// How much of a stream can be kept at the most, where memory has so much.
    pub(super) fn kept_bytes_max(&self, backlog_bytes: u64) -> u64 {
        if self.bytes_max == 0 { backlog_bytes } else { self.bytes_max }
    }
}

impl Inner {
    /// Has the disk keep what is needed, and no more. Called often, and before memory can lose much.
    pub(super) fn weigh(&mut self, room: &DiskRoom) {
        let needed: Vec<Option<Offset>> = self.stretches.iter().map(|stretch| self.lowest_need(stretch, room)).collect();
        for (stretch, needed_from) in self.stretches.iter_mut().zip(needed) {
            stretch.needed_from = needed_from;
            match (needed_from, stretch.log()) {
                (Some(from), Some(_)) => stretch.trim_log(from),
                (Some(_), None) if self.disk_trouble.is_none() => {
                    stretch.begin_log(&room.dir, room.segment_bytes);
                    self.is_state_stale = true;
                }
                (Some(_) | None, None) => {}
                (None, Some(_)) => stretch.end_log(),
            }
        }
        self.mark_logs();
        while self.disk_bytes() > room.bytes_max {
            let largest = self.stretches.iter_mut().max_by_key(|stretch| stretch.bytes().1);
            let Some(largest) = largest else { return };
            largest.drop_oldest_on_disk();
        }
    }

    /// Those logs outlive the process that `relay.json` names, or will name when it is next written.
    pub(super) fn mark_logs(&mut self) {
        let named = [self.named.as_ref().map(|(key, _)| *key), self.candidate];
        for stretch in &mut self.stretches {
            stretch.keep_log(stretch.history.live || named.contains(&Some(stretch.key)));
        }
    }

    /// The lowest offset of this stretch that somebody needs and memory has lost or may lose.
    fn lowest_need(&self, stretch: &Stretch, room: &DiskRoom) -> Option<Offset> {
        if room.bytes_max == 0 {
            return None;
        }
        let of_stretch = |key: StretchKey| key == stretch.key;
        let arrival = self.arrival.as_ref().filter(|arrival| of_stretch(arrival.key) && arrival.failed.is_none());
        let spools = self.spool.iter().chain(&self.named).filter(|(key, _)| of_stretch(*key));
        let datasets = spools.map(|(_, spool)| spool.dataset).chain(arrival.map(|arrival| arrival.dataset));
        let standing = datasets.map(|dataset| dataset.0.offset);

        let history = &stretch.history;
        let memory_start = stretch.memory_start();
        let lags = |offset: &Offset| {
            // Memory loses nothing of a history that does not grow.
            let is_lost = *offset < memory_start;
            is_lost || (history.live && offset.bytes_behind(history.end) > Some(stretch.lag_bytes_max()))
        };
        let is_kept = |offset: &Offset| offset.next_byte() >= history.oldest && *offset <= history.end;
        let connected = self.sessions.values().filter_map(|session| match session.view.state {
            SessionState::Held(_) => {
                let asked = session.view.asked.filter(|asked| history.standing(*asked) == Standing::Covered);
                asked.map(|asked| asked.offset).filter(lags)
            }
            SessionState::Seeding { .. } | SessionState::Loading { .. } | SessionState::Streaming { .. } => {
                let (_, cursor) = session.follows.filter(|(key, cursor)| of_stretch(*key) && lags(cursor))?;
                // What is in its socket is lost with its connection, and it comes back where it was.
                let acked = match session.view.state {
                    SessionState::Streaming { acked, .. } => Some(acked).filter(is_kept),
                    SessionState::Held(_) | SessionState::Seeding { .. } | SessionState::Loading { .. } => None,
                };
                Some(acked.map_or(cursor, |acked| acked.min(cursor)))
            }
        });
        let away = self.away.values().filter(|away| of_stretch(away.key)).map(|away| away.needs).filter(lags);
        standing.chain(connected).chain(away).filter(is_kept).min()
    }

    /// On disk, of all streams.
    fn disk_bytes(&self) -> u64 {
        self.stretches.iter().map(|stretch| stretch.bytes().1).sum()
    }

    /// A replica's connection ends: what it had is remembered, so that it finds the rest when it comes back.
    pub(super) fn remember_away(&mut self, address: &NodeAddress, now: Time) {
        if let Some((key, offset)) = self.stands_at(address) {
            self.expect_back(key, [(address.clone(), offset)], now);
        }
    }

    /// Which history a connected replica is on, and what it has of it.
    fn stands_at(&self, address: &NodeAddress) -> Option<(StretchKey, Offset)> {
        let session = self.sessions.get(address).filter(|session| session.dismissal.why().is_none())?;
        match session.view.state {
            SessionState::Streaming { acked, .. } => session.follows.map(|(key, _)| (key, acked)),
            SessionState::Held(_) => session.view.asked.and_then(|asked| {
                let covers = |stretch: &&Stretch| stretch.history.standing(asked) == Standing::Covered;
                self.stretches.iter().find(covers).map(|stretch| (stretch.key, asked.offset))
            }),
            // What it had is gone, and what it gets is not whole yet.
            SessionState::Seeding { .. } | SessionState::Loading { .. } => None,
        }
    }

    /// What replicas have of this history, here or away.
    pub(super) fn stands_on(&self, key: StretchKey) -> BTreeMap<NodeAddress, Offset> {
        let away = self.away.iter().filter(|(_, away)| away.key == key).map(|(address, away)| (address.clone(), away.offset));
        let here =
            self.sessions.keys().filter_map(|address| Some((address.clone(), self.stands_at(address).filter(|(on, _)| *on == key)?.1)));
        away.chain(here).collect()
    }

    /// These were here, in this run or the one before, with so much of that history: they will come back.
    pub(super) fn expect_back(&mut self, key: StretchKey, stands: impl IntoIterator<Item = (NodeAddress, Offset)>, now: Time) {
        let oldest = self.stretch(key).and_then(|stretch| stretch.history.oldest.have()).unwrap_or_default();
        let away = |(address, offset): (NodeAddress, Offset)| (address, Away { key, offset, needs: offset.max(oldest), since: now });
        self.away.extend(stands.into_iter().map(away));
    }

    /// Whether it is known what it had when it left.
    pub(super) fn is_away(&self, address: &NodeAddress) -> bool {
        self.away.contains_key(address)
    }

    /// Who was cut off from this history no longer ago than that, and what they had of it.
    pub(super) fn lately_away(&self, key: StretchKey, now: Time, within: Duration) -> impl Iterator<Item = (&NodeAddress, Offset)> {
        let is_late = move |away: &Away| away.key == key && now.since(away.since) < within;
        self.away.iter().filter(move |(_, away)| is_late(away)).map(|(address, away)| (address, away.offset))
    }

    /// Those that had more of this history than there is now will not go on with it.
    pub(super) fn forget_away_behind(&mut self, key: StretchKey, end: Offset) {
        self.away.retain(|_, away| away.key != key || away.offset <= end);
    }

    /// Forgets those for whom it is of no use: they may not go on from there, or it is no longer kept.
    pub(super) fn forget_away(&mut self, now: Time, permit: impl Fn(&NodeAddress) -> Option<Permit>, is_open: bool) {
        let stretches = &self.stretches;
        self.away.retain(|address, away| {
            let oldest = stretches.iter().find(|stretch| stretch.key == away.key).map(|stretch| stretch.history.oldest);
            let is_kept = oldest.is_some_and(|oldest| away.needs.next_byte() >= oldest);
            is_kept
                && match permit(address) {
                    Some(Permit::Keep | Permit::Auto) => true,
                    Some(Permit::Hold | Permit::Seed(_)) => false,
                    // Nobody says that a stranger will come back.
                    None => is_open && now.since(away.since) < STRANGER_AWAY_MAX,
                }
        });
    }

    /// The disk did not take it. It is left alone for a while; what it has can be read all the same, and memory keeps what is yet to be written.
    pub(super) fn disk_refused(&mut self, error: String) {
        self.disk_trouble = Some(DiskTrouble { error, retry_at: Instant::now() + DISK_RETRY });
    }

    /// The disk cannot have this stream: what it has of it is given up.
    pub(super) fn disk_failed(&mut self, key: StretchKey, error: String) {
        if let Some(stretch) = self.stretch_mut(key) {
            stretch.lose_log(error.clone());
        }
        self.disk_refused(error);
    }

    /// More is yet to be written than memory keeps for that.
    pub(super) fn log_overrun(&mut self, key: StretchKey) {
        let trouble = self.disk_trouble.take().map(|trouble| trouble.error);
        self.disk_failed(key, trouble.unwrap_or_else(|| "the disk is slower than the stream".to_owned()));
    }

    /// The snapshot, if the stream behind it is no longer kept: then it leads nowhere. Taken away, with the reason where that is the disk's fault.
    pub(super) fn take_dead_spool(&mut self) -> Option<(StretchKey, Arc<Spool>, Option<String>)> {
        let (key, spool) = self.spool.as_ref()?;
        let stretch = self.stretch(*key);
        if stretch.is_some_and(|stretch| stretch.history.standing(spool.dataset.0) == Standing::Covered) {
            return None;
        }
        let reason = stretch.and_then(|stretch| stretch.log_lost().map(str::to_owned));
        self.spool.take().map(|(key, spool)| (key, spool, reason))
    }

    /// For the view.
    pub(super) fn backlog(&self, kept_bytes_max: u64) -> BacklogView {
        let memory_bytes = self.stretches.iter().map(|stretch| stretch.bytes().0).sum();
        let needed = self.live().and_then(|live| live.needed_from).map(Offset::next_byte);
        let disk_error = self.disk_trouble.as_ref().map(|trouble| trouble.error.clone());
        BacklogView { memory_bytes, disk_bytes: self.disk_bytes(), oldest_needed: needed, disk_error, kept_bytes_max: Some(kept_bytes_max) }
    }
}

const SEGMENT_BYTES_MIN: u64 = 256 << 10;
const SEGMENT_BYTES_MAX: u64 = 64 << 20;
/// A replica that is not listed anywhere and stays away for longer is not waited for: else one that never comes back would have the disk keep as much as it
/// may, for ever.
const STRANGER_AWAY_MAX: Duration = Duration::from_secs(24 * 3600);
/// A full disk is seldom emptied at once.
pub(super) const DISK_RETRY: Duration = Duration::from_secs(5);
