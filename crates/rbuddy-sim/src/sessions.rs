//! Replicas and the relay: connect, be held, be seeded, follow. Both ends of a connection act when the replica breathes; the relay decides by core's `decide`
//! and by the orders as they are at that moment.

use crate::memory::Evicted;
use crate::mutant::Mutant;
use crate::promise::Promise;
use crate::relay::{Relay, Session, Spool, Stage};
use crate::server::{Answer, Link, Loading, Process, offset};
use crate::truth::Point;
use crate::world::World;
use rbuddy_core::control::relay::{RelayOrders, SessionState, SessionView};
use rbuddy_core::replication::history::Standing;
use rbuddy_core::replication::psync::{Asked, FullResyncReason, HoldReason, Permit, Verdict, decide};
use rbuddy_core::types::{DatasetId, NodeAddress, Position, ReplId};
use std::time::Duration;

impl World {
    /// One breath of a server.
    pub fn breathe_server(&mut self, at: &NodeAddress) {
        let now = self.now;
        let Some(process) = self.servers.get_mut(at).and_then(|server| server.process.as_mut()) else {
            self.with_relay(|world, relay| relay.end_session(world.now, at, "the replica closed the connection"));
            return;
        };
        if process.hangs {
            self.with_relay(|world, relay| world.drop_silent(relay, at));
            return;
        }
        if process.loading.is_some_and(|loading| now >= loading.until) {
            if self.is_killed_by_loading(at) {
                return self.breathe_server(at);
            }
            self.process_mut(at).into_iter().for_each(Process::finish_loading);
            self.tell(format!("{at}: loaded"));
        }
        self.evict(at);
        match self.server_at(at).and_then(|process| process.master.clone()) {
            None => self.write(at),
            Some(master) if master == self.policy.relay => match self.take_relay() {
                Some(mut relay) => {
                    self.attend(&mut relay, at);
                    self.put_relay(relay);
                }
                None => self.unlink(at),
            },
            Some(master) => {
                self.with_relay(|world, relay| relay.end_session(world.now, at, "the replica closed the connection"));
                self.follow_directly(at, &master);
            }
        }
    }

    /// Only the group's primary is written to.
    fn write(&mut self, at: &NodeAddress) {
        self.with_relay(|world, relay| relay.end_session(world.now, at, "the replica closed the connection"));
        let bytes = 1 + self.dice.below(20);
        let is_quiet = self.weather.quiet;
        if *at == self.primary_at
            && !is_quiet
            && let Some(process) = self.process_mut(at).filter(|process| process.loading.is_none())
        {
            process.offset += bytes;
            let end = process.offset;
            process.data.iter_mut().for_each(|data| data.offset = end);
            process.backlog_from = process.backlog_from.max(end.saturating_sub(PRIMARY_BACKLOG));
        }
    }

    /// A replica whose master is not the relay: on the first day, or after it came back with an old configuration. What it loses there is not rbuddy's doing.
    fn follow_directly(&mut self, at: &NodeAddress, master: &NodeAddress) {
        let (now, takes) = (self.now, self.dice.millis(200, 1500));
        let master = self.server_at(master).filter(|master| !master.hangs && master.loading.is_none() && master.master.is_none()).cloned();
        let Some(process) = self.process_mut(at).filter(|process| process.loading.is_none()) else { return };
        let Some(master) = master else {
            process.link = Link::Down;
            return;
        };
        let data = master.data.map(|data| Point { offset: master.offset, ..data });
        match master.psync(Some(process.position())) {
            Answer::Continue(replid) => {
                process.take_id(replid);
                (process.offset, process.data, process.link) = (master.offset, data, Link::Up);
            }
            Answer::Full(position) => {
                process.loading = Some(Loading { until: now.after(takes), data, evicted: master.evicted, position });
                process.link = Link::Down;
            }
        }
    }

    fn unlink(&mut self, at: &NodeAddress) {
        self.process_mut(at).into_iter().for_each(|process| process.link = Link::Down);
    }

    fn drop_silent(&mut self, relay: &mut Relay, at: &NodeAddress) {
        if relay.sessions.get(at).is_some_and(|session| self.now.since(session.heard) > SILENCE) {
            relay.end_session(self.now, at, "silent");
        }
    }

    fn end(&mut self, relay: &mut Relay, at: &NodeAddress, why: &str) {
        relay.end_session(self.now, at, why);
        self.unlink(at);
        self.tell(format!("relay: session of {at} ended: {why}"));
    }

    /// The relay and this replica's connection to it, if there is one.
    fn attend(&mut self, relay: &mut Relay, at: &NodeAddress) {
        let Some(process) = self.server_at(at).cloned() else { return };
        if self.weather.downstream_cut.contains(at) {
            if relay.sessions.contains_key(at) {
                self.end(relay, at, "the connection broke");
            }
            return self.unlink(at);
        }
        let Some(session) = relay.sessions.get_mut(at).filter(|session| session.peer == (process.run_id, process.connection)) else {
            return self.connect(relay, at, &process);
        };
        session.heard = self.now;
        match session.stage.clone() {
            Stage::Held if process.loading.is_some() => {}
            Stage::Held => self.hold(relay, at, &process),
            Stage::Seeding { spool, announced, until } => {
                if self.now >= until {
                    self.load(relay, at, spool, announced);
                }
            }
            Stage::Loading { spool, announced } => self.finish_load(relay, at, &process, spool, announced),
            Stage::Streaming { .. } => self.stream(relay, at, &process),
        }
    }

    fn connect(&mut self, relay: &mut Relay, at: &NodeAddress, process: &Process) {
        self.unlink(at);
        if process.loading.is_some() {
            return relay.end_session(self.now, at, "the replica closed the connection");
        }
        let view = SessionView {
            asked: Some(process.position()),
            version: None,
            state: SessionState::Held(HoldReason::UpstreamUnknown),
            since: self.now,
        };
        relay.end_session(self.now, at, "the replica came again on another connection");
        relay
            .sessions
            .insert(at.clone(), Session { view, peer: (process.run_id, process.connection), stage: Stage::Held, heard: self.now });
    }

    fn permit(relay: &Relay, at: &NodeAddress) -> Option<Permit> {
        let unlisted = relay.orders.start.is_none().then_some(Permit::Hold);
        relay.orders.permits.get(at).copied().or(unlisted)
    }

    fn hold(&mut self, relay: &mut Relay, at: &NodeAddress, process: &Process) {
        let Some(permit) = World::permit(relay, at) else { return self.end(relay, at, "it is not a replica of this group") };
        let asked = relay.sessions.get(at).and_then(|session| session.view.asked);
        let asked = asked.map_or(Asked::Nothing, |position| Asked::From(position.replid, position.offset.next_byte()));
        let live = relay.live().map(|live| live.key);
        let is_followed = |spool: &Spool| relay.live().is_some_and(|live| live.history.standing(spool.dataset.0) == Standing::Covered);
        let ready = relay.spool.filter(|spool| Some(spool.key) == live && is_followed(spool));
        let mut verdict = decide(asked, permit, &relay.histories(), ready.map(|spool| spool.dataset));
        if self.mutant == Some(Mutant::SeedsWhatCouldContinue)
            && let (Verdict::Continue { .. }, Permit::Keep, Some(spool)) = (&verdict, permit, ready)
        {
            verdict = Verdict::Full { dataset: spool.dataset, reason: FullResyncReason::NothingToContinue };
        }
        let is_another = |orders: &RelayOrders| matches!(permit, Permit::Seed(_)) && orders.judged.get(at) != Some(&process.run_id);
        match (verdict, ready) {
            (Verdict::Continue { history, announce, from }, _) => {
                let stretch = &relay.stretches[history];
                let (key, line, from) = (stretch.key, stretch.line, from.have().map_or(0, |have| have.get()));
                let theirs = Point { line, offset: from };
                if let Some(ours) = process.data.filter(|ours| !self.truth.are_same(*ours, theirs)) {
                    self.broken(Promise::P1, format!("{at} holds {ours:?} and is continued with {theirs:?}"));
                } else if process.data.is_none() && self.truth.keys(line) > 0 {
                    self.broken(Promise::P1, format!("{at} holds nothing and is continued at {from}"));
                }
                self.tell(format!("relay: {at} continues at {from} with {}", announce.short()));
                if let Some(process) = self.process_mut(at) {
                    process.take_id(announce);
                    process.link = Link::Up;
                }
                self.set_stage(relay, at, Stage::Streaming { key, announced: announce, sent: theirs, seeded: None });
            }
            (Verdict::Full { .. }, Some(_)) if is_another(&relay.orders) => {
                self.set_state(relay, at, SessionState::Held(HoldReason::AnotherProcess));
            }
            (Verdict::Full { reason, .. }, Some(spool)) => {
                self.check_seeding(relay, at, process);
                let announced = relay.stretch(spool.key).map_or(spool.dataset.0.replid, |stretch| stretch.history.replid());
                self.tell(format!("relay: {at} is seeded with {}: {reason}", spool.dataset));
                self.process_mut(at).into_iter().for_each(|process| process.link = Link::Receiving);
                let until = self.now.after(self.dice.millis(50, 1500));
                self.set_stage(relay, at, Stage::Seeding { spool, announced, until });
                let state = SessionState::Seeding { dataset: spool.dataset, reason, sent_bytes: 0, total_bytes: 1000 };
                self.set_state(relay, at, state);
            }
            (Verdict::Full { dataset, .. }, None) => self.set_state(relay, at, SessionState::Held(HoldReason::NoSnapshot { dataset })),
            (Verdict::Hold(reason), _) => self.set_state(relay, at, SessionState::Held(reason)),
        }
    }

    /// All of the snapshot is there: the replica drops what it has and loads.
    fn load(&mut self, relay: &mut Relay, at: &NodeAddress, spool: Spool, announced: ReplId) {
        self.check_loss(at, "drops its dataset for a snapshot");
        let until = self.now.after(self.dice.millis(100, 2500));
        let position = Position::new(announced, spool.dataset.0.offset);
        if let Some(process) = self.process_mut(at) {
            (process.data, process.evicted, process.link) = (None, Evicted::default(), Link::Down);
            process.loading = Some(Loading { until, data: Some(spool.data), evicted: spool.evicted, position });
        }
        self.set_stage(relay, at, Stage::Loading { spool, announced });
        self.set_state(relay, at, SessionState::Loading { dataset: spool.dataset });
    }

    fn finish_load(&mut self, relay: &mut Relay, at: &NodeAddress, process: &Process, spool: Spool, announced: ReplId) {
        if relay.stretch(spool.key).is_none() {
            return self.end(relay, at, "the history that it follows was dropped");
        }
        if process.loading.is_none() {
            self.ledger.killed.remove(at);
            self.process_mut(at).into_iter().for_each(|process| process.link = Link::Up);
            let (sent, seeded) = (spool.data, Some(spool.dataset));
            self.set_stage(relay, at, Stage::Streaming { key: spool.key, announced, sent, seeded });
        }
    }

    fn stream(&mut self, relay: &mut Relay, at: &NodeAddress, process: &Process) {
        let Some(Session { stage: Stage::Streaming { key, announced, sent, seeded }, .. }) = relay.sessions.get(at).cloned() else {
            return;
        };
        let (Some(permit), Some(stretch)) = (World::permit(relay, at), relay.stretch(key)) else {
            return self.end(relay, at, "the history that it follows was dropped");
        };
        let (end, line) = (stretch.history.end.get(), stretch.line);
        // What was sent with the breath before has arrived, and with this one it is acknowledged.
        let acked = process.offset;
        if let Some(process) = self.process_mut(at) {
            (process.offset, process.data, process.link, process.is_emptied) = (sent.offset, Some(sent), Link::Up, false);
        }
        let over = if permit == Permit::Hold {
            Some("it is to be held")
        } else if stretch.history.replid() != announced {
            Some("the history's id changed")
        } else if !stretch.history.live && sent.offset >= end && acked >= end {
            Some("it has all of a history that the primary no longer continues")
        } else if offset(sent.offset).next_byte() < stretch.history.oldest {
            Some("overrun")
        } else {
            None
        };
        if let Some(over) = over {
            return self.end(relay, at, over);
        }
        let is_paused = relay.orders.paused_streams.contains(at);
        let more = if is_paused { 0 } else { end.saturating_sub(sent.offset).min(STREAM_PER_BREATH) };
        let sent = if more == 0 { sent } else { Point { line, offset: sent.offset + more } };
        self.set_stage(relay, at, Stage::Streaming { key, announced, sent, seeded });
        self.set_state(relay, at, streaming(announced, acked, sent.offset, seeded));
    }

    fn set_stage(&mut self, relay: &mut Relay, at: &NodeAddress, stage: Stage) {
        if let Stage::Streaming { announced, sent, seeded, .. } = stage {
            self.set_state(relay, at, streaming(announced, sent.offset, sent.offset, seeded));
        }
        relay.sessions.get_mut(at).into_iter().for_each(|session| session.stage = stage.clone());
    }

    fn set_state(&self, relay: &mut Relay, at: &NodeAddress, state: SessionState) {
        let Some(session) = relay.sessions.get_mut(at) else { return };
        // As the real relay: counters alone do not begin a state anew, but it compares whole states elsewhere; so `since` is of the kind.
        if std::mem::discriminant(&session.view.state) != std::mem::discriminant(&state) {
            session.view.since = self.now;
        }
        session.view.state = state;
    }
}

fn streaming(replid: ReplId, acked: u64, sent: u64, seeded: Option<DatasetId>) -> SessionState {
    SessionState::Streaming { replid, acked: offset(acked), sent: offset(sent), seeded }
}

/// What a primary's backlog keeps: a break of some seconds.
const PRIMARY_BACKLOG: u64 = 1500;
/// A session is dropped after such a silence.
const SILENCE: Duration = Duration::from_secs(20);
/// Bytes that a replica takes in one breath.
const STREAM_PER_BREATH: u64 = 400;
