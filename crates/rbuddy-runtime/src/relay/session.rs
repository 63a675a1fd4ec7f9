//! One connected replica, from its PSYNC to its end.
//!
//! ```text
//! hold ──(decide says so)──► seed ──► stream ──► end: the connection closes, the replica comes back by itself
//!   └──────────────────────────────────▲
//! ```
//!
//! Promises: on an online link nothing is ever sent but bytes of the history; a slow replica slows nobody else; every end has a reason.
//! Not here: the handshake ([`super::listener`]), the decision (core's `decide`), streaming itself ([`super::stream_session`]).

use super::connected::{Dismissal, Why};
use super::files::Spool;
use super::hub::Hub;
use super::listener::{Door, refuse};
use super::look::Looks;
use super::plan::Plan;
use super::send_file::FileOnItsWay;
use super::stream_session::Streaming;
use super::stretch::StretchKey;
use bytes::{Buf, BytesMut};
use rbuddy_core::control::relay::{RelayOrders, SessionState, SessionView};
use rbuddy_core::replication::handshake::Identity;
use rbuddy_core::replication::psync::{Asked, FullResyncReason, HoldReason, Permit};
use rbuddy_core::resp::request::{RequestLimits, parse};
use rbuddy_core::types::{DatasetId, NextByte, NodeAddress, Offset, Position, ReplId, RunId};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// A replica that said PSYNC.
#[derive(Debug)]
pub(super) struct Arrived {
    pub(super) stream: TcpStream,
    /// What it sent behind PSYNC.
    pub(super) input: BytesMut,
    pub(super) address: NodeAddress,
    pub(super) identity: Identity,
    pub(super) asked: Asked,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionOver {
    #[error("the replica closed the connection")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(std::io::Error),
    #[error("the replica does not speak the protocol: {0}")]
    Protocol(String),
    #[error("{0}")]
    Dismissed(Why),
    #[error("the relay stops")]
    Stopping,
    #[error("it is not a replica of this group")]
    NotOfGroup,
    #[error("it is to be held")]
    Revoked,
    #[error("it has all of a history that the primary no longer continues ({0} bytes)")]
    EndOfHistory(Offset),
    #[error("the history's id changed to {}: it learns that when it comes back", .0.short())]
    NewId(ReplId),
    #[error("overrun: it stands at {at}, the backlog starts at {oldest}")]
    Overrun { at: Offset, oldest: NextByte },
    #[error("the history that it follows was dropped")]
    HistoryDropped,
    #[error("silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("it took no byte for {} s", .0.as_secs())]
    Stalled(Duration),
    #[error("{0}")]
    Disk(#[from] super::files::FileError),
}

/// The session's own state.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) stream: TcpStream,
    pub(super) input: BytesMut,
    pub(super) hub: Arc<Hub>,
    pub(super) orders: watch::Receiver<RelayOrders>,
    pub(super) address: NodeAddress,
    pub(super) identity: Identity,
    pub(super) serial: u64,
    asked: Asked,
    looks: Looks,
    pub(super) dismissal: Dismissal,
    pub(super) stopping: CancellationToken,
    /// In this run of the relay.
    has_primary_answered: bool,
    /// When it last said anything.
    pub(super) heard: Instant,
    /// Its last ACK, if it sent one.
    pub(super) acked: Option<Offset>,
}

/// What the controller says of a replica.
#[derive(Debug, Clone, Copy)]
struct Word {
    permit: Permit,
    /// Of which process.
    judged: Option<RunId>,
}

/// Where a session goes on after the answer to its PSYNC.
#[derive(Debug)]
pub(super) struct Begin {
    pub(super) key: StretchKey,
    pub(super) announced: ReplId,
    pub(super) from: Offset,
    /// The snapshot that it was seeded with.
    pub(super) seeded: Option<DatasetId>,
}

/// Runs the session to its end.
pub(super) async fn run(arrived: Arrived, door: Door) {
    let Door { hub, orders, cancel, .. } = door;
    let Arrived { stream, input, address, identity, asked } = arrived;
    let dismissal = Dismissal::default();
    let position = match asked {
        Asked::Nothing => None,
        Asked::From(replid, next) => next.have().map(|offset| Position::new(replid, offset)),
    };
    let view = SessionView {
        asked: position,
        version: identity.version,
        state: SessionState::Held(HoldReason::UpstreamUnknown),
        since: hub.now(),
    };
    let serial = hub.admit(&address, view, dismissal.clone());
    let mut session = Session {
        stream,
        input,
        hub: Arc::clone(&hub),
        orders,
        address: address.clone(),
        identity,
        serial,
        asked,
        looks: Looks::default(),
        dismissal,
        stopping: cancel,
        has_primary_answered: false,
        heard: Instant::now(),
        acked: None,
    };
    let Err(over) = session.converse().await;
    let reason = over.to_string();
    if matches!(over, SessionOver::Dismissed(Why::Contested)) {
        warn!(group = %hub.config.group, replica = %address, reason, "replica session ended");
    } else {
        info!(group = %hub.config.group, replica = %address, reason, "replica session ended");
    }
    hub.dismiss(&address, serial, reason);
}

impl Session {
    async fn converse(&mut self) -> Result<std::convert::Infallible, SessionOver> {
        let begin = match self.hold().await? {
            Plan::Continue { key, announce, from } => {
                let line = if self.identity.has_psync2 { format!("+CONTINUE {announce}\r\n") } else { "+CONTINUE\r\n".to_owned() };
                self.say(line.as_bytes()).await?;
                info!(group = %self.hub.config.group, replica = %self.address, from = %from.next_byte(), replid = announce.short(), "partial resync");
                Begin { key, announced: announce, from, seeded: None }
            }
            Plan::Full { key, announce, spool, reason } => self.seed(key, announce, spool, reason).await?,
            Plan::Hold(_) => return Err(SessionOver::Revoked),
        };
        Streaming::new(self, begin).run().await
    }

    /// Keeps the PSYNC waiting until there is an answer other than that.
    async fn hold(&mut self) -> Result<Plan, SessionOver> {
        let mut view = self.hub.view.clone();
        let mut newlines = tokio::time::interval(NEWLINE_EVERY);
        newlines.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            let Some(word) = self.word() else {
                let shown = self.address.to_string();
                refuse(&mut self.stream, &shown, &self.hub).await;
                return Err(SessionOver::NotOfGroup);
            };
            let plan = self.hub.plan(&self.address, self.serial, self.asked, word.permit, &self.identity, self.is_another_process(word));
            if self.is_to_be_looked_at(&plan) {
                self.look().await?;
                continue;
            }
            let Plan::Hold(reason) = plan else { return Ok(plan) };
            if told != Some(reason) {
                info!(group = %self.hub.config.group, replica = %self.address, asked = ?self.asked, %reason, "replica held");
                told = Some(reason);
                self.hub.session_state(&self.address, self.serial, SessionState::Held(reason));
            }
            let mut gone = false;
            tokio::select! {
                // The replica stays as it is for as long as a line comes within its repl-timeout (protocol fact 5.1).
                _ = newlines.tick() => self.say(b"\n").await?,
                changed = self.orders.changed() => gone = changed.is_err(),
                changed = view.changed() => gone = changed.is_err(),
                read = self.stream.read_buf(&mut self.input) => self.hear(read, Offset::ZERO)?,
                why = self.dismissal.sent() => return Err(SessionOver::Dismissed(why)),
                () = self.stopping.cancelled() => return Err(SessionOver::Stopping),
            }
            if gone {
                return Err(SessionOver::Stopping);
            }
        }
    }

    /// Before it gets a snapshot, or one is taken for it. The controller knows versions, Valkey tells its own, and others are asked once in a session (at the
    /// same address there may be a newer one than the last time); whether it is the process that was judged is asked until it is.
    fn is_to_be_looked_at(&self, plan: &Plan) -> bool {
        match plan {
            Plan::Full { .. } | Plan::Hold(HoldReason::NeedsFullResync(_) | HoldReason::CannotLoad { .. }) => {
                self.hub.config.open && self.identity.version.is_none() && self.looks.are_none()
            }
            Plan::Hold(HoldReason::AnotherProcess) => self.looks.are_due(),
            Plan::Continue { .. } | Plan::Hold(_) => false,
        }
    }

    /// As far as is known. A permit to be seeded is of one process, and of none if it names none.
    fn is_another_process(&self, word: Word) -> bool {
        matches!(word.permit, Permit::Seed(_)) && !word.judged.is_some_and(|judged| self.looks.is(judged))
    }

    async fn look(&mut self) -> Result<(), SessionOver> {
        let seen = tokio::select! {
            seen = self.looks.look(&self.hub, &self.address) => seen,
            why = self.dismissal.sent() => return Err(SessionOver::Dismissed(why)),
            () = self.stopping.cancelled() => return Err(SessionOver::Stopping),
        };
        if let Some(version) = seen.and_then(|info| info.version) {
            self.identity.version.get_or_insert(version);
            self.hub.update(|inner| {
                inner.versions.insert(self.address.clone(), version);
                if let Some(session) = inner.session_mut(&self.address, self.serial) {
                    session.view.version = Some(version);
                }
            });
        }
        Ok(())
    }

    /// What the controller allows; `None` for a stranger.
    pub(super) fn permit(&mut self) -> Option<Permit> {
        self.word().map(|word| word.permit)
    }

    /// Of one moment. Before the controller has spoken at all, everybody waits.
    fn word(&mut self) -> Option<Word> {
        let orders = self.orders.borrow_and_update();
        self.has_primary_answered = self.has_primary_answered || self.hub.lock().upstream.has_answered();
        let unlisted = match (self.hub.config.open, orders.start.is_some()) {
            // What is left of an earlier run may be another dataset than the primary's by now: nobody is filled with it.
            (true, _) if !self.has_primary_answered => Some(Permit::Keep),
            (true, _) => Some(Permit::Auto),
            (false, false) => Some(Permit::Hold),
            (false, true) => None,
        };
        let permit = orders.permits.get(&self.address).copied().or(unlisted)?;
        Some(Word { permit, judged: orders.judged.get(&self.address).copied() })
    }

    /// Sends the snapshot. Behind `$<length>` the stream may follow at once (protocol fact 2.2).
    async fn seed(&mut self, key: StretchKey, announce: ReplId, spool: Arc<Spool>, reason: FullResyncReason) -> Result<Begin, SessionOver> {
        let (dataset, total_bytes) = (spool.dataset, spool.facts.bytes);
        let offset = dataset.0.offset;
        info!(group = %self.hub.config.group, replica = %self.address, %dataset, bytes = total_bytes, %reason, "full resync");
        self.hub.session_state(&self.address, self.serial, SessionState::Seeding { dataset, reason, sent_bytes: 0, total_bytes });
        self.say(format!("+FULLRESYNC {announce} {offset}\r\n").as_bytes()).await?;
        self.say(format!("${total_bytes}\r\n").as_bytes()).await?;
        let mut file = FileOnItsWay::new(&self.stream, spool).map_err(SessionOver::Broken)?;
        let mut taken_at = Instant::now();
        while file.sent_bytes() < total_bytes {
            self.until_writable(taken_at).await?;
            if let Some(why) = self.dismissal.why() {
                return Err(SessionOver::Dismissed(why));
            }
            let before = file.sent_bytes();
            file.advance(&self.stream).await.map_err(SessionOver::Broken)?;
            let sent_bytes = file.sent_bytes();
            if sent_bytes > before {
                taken_at = Instant::now();
            }
            self.hub.count(|inner| {
                if let Some(session) = inner.session_mut(&self.address, self.serial) {
                    session.view.state = SessionState::Seeding { dataset, reason, sent_bytes, total_bytes };
                }
            });
        }
        info!(group = %self.hub.config.group, replica = %self.address, %dataset, "snapshot sent");
        self.hub.session_state(&self.address, self.serial, SessionState::Loading { dataset });
        Ok(Begin { key, announced: announce, from: offset, seeded: Some(dataset) })
    }

    /// Waits until the replica takes more of the snapshot, within patience.
    async fn until_writable(&mut self, taken_at: Instant) -> Result<(), SessionOver> {
        let patience = self.hub.config.settings.replica_timeout;
        loop {
            let (mut reading, writing) = self.stream.split();
            tokio::select! {
                writable = writing.writable() => return writable.map_err(SessionOver::Broken),
                // It sends newlines while it receives and loads.
                read = reading.read_buf(&mut self.input) => self.hear(read, Offset::ZERO)?,
                () = tokio::time::sleep_until(taken_at + patience) => return Err(SessionOver::Stalled(patience)),
                why = self.dismissal.sent() => return Err(SessionOver::Dismissed(why)),
                () = self.stopping.cancelled() => return Err(SessionOver::Stopping),
            }
        }
    }

    /// One reply line, in one write: a replica reads lines with its event loop standing still (protocol fact 1.2).
    async fn say(&mut self, line: &[u8]) -> Result<(), SessionOver> {
        match timeout(LINE_PATIENCE, self.stream.write_all(line)).await {
            Ok(written) => written.map_err(SessionOver::Broken),
            Err(_) => Err(SessionOver::Stalled(LINE_PATIENCE)),
        }
    }

    /// What a read brought: ACKs and newlines. `least` is what an ACK must have to be one of the history that is followed.
    pub(super) fn hear(&mut self, read: std::io::Result<usize>, least: Offset) -> Result<(), SessionOver> {
        match read {
            Ok(0) => return Err(SessionOver::Closed),
            Ok(_) => self.heard = Instant::now(),
            Err(error) => return Err(SessionOver::Broken(error)),
        }
        loop {
            let parsed = parse(&self.input, RequestLimits::SMALL).map_err(|error| SessionOver::Protocol(error.to_string()))?;
            let Some((arguments, used)) = parsed else { return Ok(()) };
            self.input.advance(used);
            match arguments.as_slice() {
                [command, option, offset, ..] if command.eq_ignore_ascii_case(b"REPLCONF") && option.eq_ignore_ascii_case(b"ACK") => {
                    let offset: Option<Offset> = std::str::from_utf8(offset).ok().and_then(|text| text.parse().ok());
                    self.acked = self.acked.max(offset.filter(|offset| *offset >= least));
                }
                // It took our silence or words for "no PSYNC". It would load whatever comes next: nothing comes.
                [command] if command.eq_ignore_ascii_case(b"SYNC") => return Err(SessionOver::Protocol("SYNC".to_owned())),
                // Newlines are signs of life. Nothing else needs an answer, and nothing may be answered on an online link.
                [..] => {}
            }
        }
    }
}

const NEWLINE_EVERY: Duration = Duration::from_secs(1);
const LINE_PATIENCE: Duration = Duration::from_secs(10);
