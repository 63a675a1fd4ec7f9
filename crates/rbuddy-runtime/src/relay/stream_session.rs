//! A replica session that is online (or loads and will be): bytes of the history, from its own cursor, at its own pace.

use super::log::OnDisk;
use super::session::{Begin, Session, SessionOver};
use super::stretch::{Course, Piece};
use bytes::{Buf, Bytes};
use rbuddy_core::control::relay::SessionState;
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{DatasetId, Offset};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::IoSlice;
use std::pin::pin;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::WriteHalf;
use tokio::time::{Instant, sleep};

/// The state of streaming.
#[derive(Debug)]
pub(super) struct Streaming<'a> {
    session: &'a mut Session,
    begin: Begin,
    /// What it was seeded with in this session.
    seeded: Option<DatasetId>,
    /// Last byte written to the socket.
    sent: Offset,
    /// Read from the backlog, not yet written.
    pending: VecDeque<Bytes>,
    /// When the socket last took a byte, or was given the first one.
    taken_at: Instant,
    /// It loads a snapshot; over with its first ACK.
    is_loading: bool,
    is_paused: bool,
    /// Since when it has all of an ended history.
    drained_since: Option<Instant>,
}

impl<'a> Streaming<'a> {
    pub(super) fn new(session: &'a mut Session, begin: Begin) -> Streaming<'a> {
        // An ACK from before belongs to nothing.
        session.acked = None;
        // While it was held or received the snapshot it had nothing to say.
        session.heard = Instant::now();
        let seeded = begin.seeded;
        let (sent, is_loading, taken_at) = (begin.from, seeded.is_some(), Instant::now());
        Streaming { session, begin, seeded, sent, pending: VecDeque::new(), taken_at, is_loading, is_paused: false, drained_since: None }
    }

    /// Until the session is over.
    pub(super) async fn run(mut self) -> Result<Infallible, SessionOver> {
        let Some(mut course) = self.session.hub.subscribe(self.begin.key) else { return Err(SessionOver::HistoryDropped) };
        // Made once and not for each piece of the stream, as most of them are passed on without anything else to look at.
        let mut interruption = pin!(interruption(self.session));
        self.report();
        loop {
            self.follow_orders()?;
            // Marked as seen before it is read what there is: what arrives in between wakes the wait below.
            let now = *course.borrow_and_update();
            self.follow_history(now)?;
            course.has_changed().map_err(|_| SessionOver::HistoryDropped)?;
            self.check_patience()?;
            if self.pending.is_empty() && !self.is_paused {
                self.fetch().await?;
                // A pause that was ordered meanwhile counts for what was just read.
                self.follow_orders()?;
            }
            let (has_bytes, wants_bytes) = (!self.pending.is_empty() && !self.is_paused, self.pending.is_empty() && !self.is_paused);
            let least = self.begin.from;
            let Session { stream, input, .. } = &mut *self.session;
            let (mut reading, mut writing) = stream.split();
            tokio::select! {
                written = write(&mut writing, &self.pending), if has_bytes => self.wrote(written.map_err(SessionOver::Broken)?),
                read = reading.read_buf(input) => {
                    self.session.hear(read, least)?;
                    self.heard_ack();
                }
                changed = course.changed(), if wants_bytes => changed.map_err(|_| SessionOver::HistoryDropped)?,
                over = &mut interruption => {
                    over?;
                    interruption.set(self::interruption(self.session));
                }
            }
        }
    }

    /// The next bytes of the history, from memory or, long after, from disk.
    async fn fetch(&mut self) -> Result<(), SessionOver> {
        // Without psync2 it never learns an id, and none is wrong for it.
        let known_as = Some(self.begin.announced).filter(|_| self.session.identity.has_psync2);
        let piece = self.session.hub.read(self.begin.key, self.sent, known_as).ok_or(SessionOver::HistoryDropped)?;
        match piece {
            Piece::Memory(pieces) => self.pending.extend(pieces),
            Piece::Disk(found) => self.pending.push_back(from_disk(found).await?),
            Piece::Overrun { oldest } => return Err(SessionOver::Overrun { at: self.sent, oldest }),
        }
        self.taken_at = Instant::now();
        Ok(())
    }

    fn wrote(&mut self, count: usize) {
        let mut left = count;
        while let Some(first) = self.pending.front_mut().filter(|_| left > 0) {
            let taken = left.min(first.len());
            first.advance(taken);
            left -= taken;
            if first.is_empty() {
                self.pending.pop_front();
            }
        }
        self.taken_at = Instant::now();
        self.sent = self.sent.advance(count as u64);
        let (key, sent_now) = (self.begin.key, self.sent);
        self.session.hub.count(|inner| {
            let Some(session) = inner.session_mut(&self.session.address, self.session.serial) else { return };
            session.follows = Some((key, sent_now));
            if let SessionState::Streaming { sent, .. } = &mut session.view.state {
                *sent = sent_now;
            }
        });
    }

    fn heard_ack(&mut self) {
        let Some(acked_now) = self.session.acked else { return };
        if std::mem::take(&mut self.is_loading) {
            self.taken_at = Instant::now();
            tracing::info!(group = %self.session.hub.config.group, replica = %self.session.address, acked = %acked_now, "replica follows");
            self.report();
        }
        let (key, has_psync2) = (self.begin.key, self.session.identity.has_psync2);
        self.session.hub.count(|inner| {
            if let Some(session) = inner.session_mut(&self.session.address, self.session.serial)
                && let SessionState::Streaming { acked, .. } = &mut session.view.state
            {
                *acked = acked_now;
            }
            // One that speaks psync2 tells what it has executed, an older one what it has received (protocol fact 3.2).
            if has_psync2 && let Some(stretch) = inner.stretch_mut(key) {
                stretch.note_boundary(acked_now);
            }
        });
        self.session.hub.acked.notify_one();
    }

    /// Tells the state, once it is streaming.
    fn report(&self) {
        if self.is_loading {
            return;
        }
        let state = SessionState::Streaming {
            replid: self.begin.announced,
            acked: self.session.acked.unwrap_or(self.begin.from),
            sent: self.sent,
            seeded: self.seeded,
        };
        self.session.hub.session_state(&self.session.address, self.session.serial, state);
    }

    fn follow_orders(&mut self) -> Result<(), SessionOver> {
        // Also between what was read and its write: behind a cut there are other bytes.
        if let Some(why) = self.session.dismissal.why() {
            return Err(SessionOver::Dismissed(why));
        }
        match self.session.permit() {
            // What has begun to load a snapshot cannot be called back: it is let finish (and is held when it comes again).
            Some(Permit::Hold) if !self.is_loading => return Err(SessionOver::Revoked),
            None => return Err(SessionOver::NotOfGroup),
            Some(Permit::Hold | Permit::Keep | Permit::Seed(_) | Permit::Auto) => {}
        }
        let is_paused = self.session.orders.borrow().paused_streams.contains(&self.session.address);
        if is_paused != self.is_paused {
            (self.is_paused, self.taken_at) = (is_paused, Instant::now());
            // How far it was sent is what a planned switch waits for: no later than the pause itself.
            self.session.hub.changed.notify_one();
        }
        Ok(())
    }

    fn follow_history(&mut self, course: Course) -> Result<(), SessionOver> {
        let Course { replid, end, is_live } = course;
        // It learns an id only from the answer to a PSYNC. Without psync2 it could not learn it at all, and what it knows stays right (fact 4.3).
        if replid != self.begin.announced && self.session.identity.has_psync2 && !self.is_loading {
            return Err(SessionOver::NewId(replid));
        }
        if is_live || self.sent < end || self.is_loading {
            self.drained_since = None;
            return Ok(());
        }
        let since = *self.drained_since.get_or_insert_with(Instant::now);
        if self.session.acked >= Some(end) || since.elapsed() >= DRAIN_MAX {
            return Err(SessionOver::EndOfHistory(end));
        }
        Ok(())
    }

    fn check_patience(&self) -> Result<(), SessionOver> {
        let usual = self.session.hub.config.settings.replica_timeout;
        // A flush or load may leave it silent, and its window closed, for minutes.
        let patience = if self.is_loading { usual.max(LOADING_PATIENCE) } else { usual };
        if self.session.heard.elapsed() > patience {
            return Err(SessionOver::Silent(patience));
        }
        // While it loads it reads nothing, and says by newlines that it lives.
        if !self.pending.is_empty() && !self.is_paused && !self.is_loading && self.taken_at.elapsed() > patience {
            return Err(SessionOver::Stalled(patience));
        }
        Ok(())
    }
}

/// Anything but the stream that makes it necessary to look up: other orders, a while that has passed, the end. It watches from when it is called, not only
/// from when it is awaited.
fn interruption(session: &Session) -> impl Future<Output = Result<(), SessionOver>> + use<> {
    let (mut orders, dismissal, stopping) = (session.orders.clone(), session.dismissal.clone(), session.stopping.clone());
    async move {
        tokio::select! {
            changed = orders.changed() => changed.map_err(|_| SessionOver::Stopping),
            () = sleep(CHECK_EVERY) => Ok(()),
            why = dismissal.sent() => Err(SessionOver::Dismissed(why)),
            () = stopping.cancelled() => Err(SessionOver::Stopping),
        }
    }
}

async fn from_disk(found: OnDisk) -> Result<Bytes, SessionOver> {
    let count = usize::try_from(found.bytes).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
    let read = tokio::task::spawn_blocking(move || found.file.read_at(found.at, count)).await;
    Ok(read.map_err(|join| SessionOver::Broken(std::io::Error::other(join)))??)
}

/// As many bytes as the socket takes, of as many pieces as there are.
///
/// # Cancel safety
/// Nothing is written if this is dropped before it is ready.
async fn write(writing: &mut WriteHalf<'_>, pending: &VecDeque<Bytes>) -> std::io::Result<usize> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let count = pending.len().min(SLICES_MAX);
    for (slice, piece) in slices.iter_mut().zip(pending) {
        *slice = IoSlice::new(piece);
    }
    writing.write_vectored(&slices[..count]).await
}

const CHECK_EVERY: Duration = Duration::from_millis(500);
const DRAIN_MAX: Duration = Duration::from_secs(2);
const LOADING_PATIENCE: Duration = Duration::from_secs(300);
/// Read from disk at a time, on another thread: each turn costs a wake-up there and back.
const PIECE_BYTES: usize = 2 << 20;
const SLICES_MAX: usize = 16;
