//! The relay's way up: dial, look at what the primary says of itself, ask only then, follow; and begin again when it ends. It acts each time it breathes.

use crate::memory::Evicted;
use crate::promise::Promise;
use crate::relay::{Arrival, Relay, SavedSpool, Spool};
use crate::server::{Answer, Process};
use crate::truth::{LineId, Point};
use crate::world::World;
use rbuddy_core::control::relay::{FullResync, FullResyncNeed, Start, UpstreamState};
use rbuddy_core::replication::history::{History, Standing};
use rbuddy_core::replication::prospect::{Gap, Joint, Prospect, beginning, prospect};
use rbuddy_core::types::{DatasetId, NodeAddress, Position};

impl World {
    /// One breath of the upstream link.
    pub fn breathe_upstream(&mut self) {
        let Some(mut relay) = self.take_relay() else { return };
        if relay.orders.start.is_some() {
            self.begin(&mut relay);
            self.go_where_ordered(&mut relay);
            match relay.upstream.state {
                UpstreamState::Idle => relay.turn(self.now, UpstreamState::Connecting, None),
                UpstreamState::Connecting if self.now >= relay.dial_at => self.dial(&mut relay),
                UpstreamState::Connecting => {}
                UpstreamState::Handshake => self.settle(&mut relay),
                UpstreamState::ReceivingSnapshot => self.receive(&mut relay),
                UpstreamState::Streaming => self.read_stream(&mut relay),
            }
            relay.name_spool(self.now);
            relay.discard();
        }
        self.put_relay(relay);
    }

    fn begin(&mut self, relay: &mut Relay) {
        if relay.has_begun {
            return;
        }
        relay.has_begun = true;
        let start = relay.orders.start.clone();
        let leads_on = |found: &SavedSpool| match &start {
            Some(Start::Resume) => true,
            Some(Start::At(place)) => matches!(found.history.standing(place.position), Standing::Covered | Standing::Ahead { .. }),
            Some(Start::Fresh) | None => false,
        };
        let found = relay.resumable.take().filter(leads_on);
        match (start, found) {
            (_, Some(SavedSpool { spool, mut history, line })) => {
                history.live = true;
                let key = relay.begin_history(history, line);
                let spool = Some(Spool { key, ..spool });
                (relay.candidate, relay.spool, relay.named) = (Some(key), spool, spool);
            }
            (Some(Start::At(place)), _) => {
                let line = self.line_at(place.position);
                let key = relay.begin_history(History::starting_from(&place), line);
                relay.candidate = Some(key);
            }
            (Some(Start::Fresh | Start::Resume) | None, _) => {}
        }
    }

    /// Nothing is kept yet; it is the line that the id has stood for so far.
    fn line_at(&mut self, position: Position) -> LineId {
        let known = self.ledger.lines.get(&position.replid).copied();
        known.unwrap_or_else(|| self.truth.begin(0, false))
    }

    fn go_where_ordered(&mut self, relay: &mut Relay) {
        let Some(ordered) = relay.orders.primary.clone().or(self.policy.primary.fixed().cloned()) else { return };
        if relay.primary.as_ref() != Some(&ordered) {
            if relay.primary.is_some() {
                self.tell(format!("relay: follows the primary to {ordered}"));
                self.lose_link(relay, "the primary has moved");
            }
            (relay.primary, relay.dial_at) = (Some(ordered), self.now);
        }
    }

    fn upstream_is_cut(&self, at: &NodeAddress) -> bool {
        self.weather.upstream_cut || self.server_at(at).is_none_or(|process| process.hangs)
    }

    fn dial(&mut self, relay: &mut Relay) {
        let Some(at) = relay.primary.clone() else { return };
        relay.dial_at = self.now.after(self.dice.millis(50, 1000));
        match self.server_at(&at) {
            Some(process) if !self.upstream_is_cut(&at) => {
                (relay.peer, relay.looks) = (Some(process.run_id), 0);
                relay.turn(self.now, UpstreamState::Handshake, None);
            }
            Some(_) | None => relay.turn(self.now, UpstreamState::Connecting, Some(format!("dial {at}: no answer"))),
        }
    }

    /// The link is gone: what was on its way with it is as well.
    fn lose_link(&mut self, relay: &mut Relay, why: &str) {
        if relay.upstream.state == UpstreamState::ReceivingSnapshot
            && let Some(arrival) = relay.arrival.take_if(|arrival| arrival.on_demand.is_none())
        {
            relay.stretches.retain(|stretch| stretch.key != arrival.key);
        }
        if relay.upstream.state != UpstreamState::Connecting {
            self.tell(format!("relay: link lost: {why}"));
        }
        relay.peer = None;
        relay.turn(self.now, UpstreamState::Connecting, Some(why.to_owned()));
    }

    /// The process at the other end, if the link to it still stands.
    fn linked(&mut self, relay: &mut Relay) -> Option<Process> {
        let at = relay.primary.clone()?;
        let process = self.server_at(&at).filter(|process| Some(process.run_id) == relay.peer).cloned();
        match process {
            Some(process) if !self.upstream_is_cut(&at) => Some(process),
            Some(_) | None => {
                self.lose_link(relay, "the connection broke");
                None
            }
        }
    }

    /// Looks, and asks once it is clear what will be answered, or once that is permitted.
    fn settle(&mut self, relay: &mut Relay) {
        let Some(process) = self.linked(relay) else { return };
        let info = process.probe(&self.truth).info;
        let candidate = relay.candidate.and_then(|key| relay.stretch(key)).map(|stretch| (stretch.key, stretch.history.clone()));
        let ours = candidate.as_ref().map(|(_, history)| history);
        let found = prospect(ours, &info);
        if let Prospect::FullResync(_) = found
            && let Some((begun, joint)) = beginning(ours, &relay.orders.places, &info)
        {
            // The answer comes at once here, and it is this.
            let line = self.line_at(begun.end_position());
            let key = relay.begin_anew(begun, line);
            return self.ask(relay, &process, Some((key, joint)), None);
        }
        let end = candidate.map(|(key, history)| (key, Joint { at: history.end_position(), common: None }));
        match (found, end) {
            (Prospect::Continue(joint), Some((key, _))) => self.ask(relay, &process, Some((key, joint)), None),
            (Prospect::FullResync(gap), _) if relay.orders.full_resync == Some(process.replid) => self.ask(relay, &process, end, Some(gap)),
            (Prospect::FullResync(gap), _) => {
                relay.upstream.full_resync_needed = Some(FullResyncNeed { replid: process.replid, gap });
                relay.looks += 1;
                if relay.looks > LOOKS_MAX {
                    self.lose_link(relay, "a full resync is needed and not permitted yet");
                }
            }
            (Prospect::NotNow(obstacle), _) => self.lose_link(relay, &obstacle.to_string()),
            (Prospect::Continue(_), None) | (Prospect::Unknown, _) => self.ask(relay, &process, end, None),
        }
    }

    fn ask(&mut self, relay: &mut Relay, process: &Process, asked: Option<(u64, Joint)>, gap: Option<Gap>) {
        relay.upstream.full_resync_needed = None;
        let line = process.line();
        match (process.psync(asked.map(|(_, joint)| joint.at)), asked) {
            (Answer::Continue(replid), Some((key, Joint { at, common }))) => {
                let ours = relay.stretch(key).map(|stretch| Point { line: stretch.line, offset: at.offset.get() });
                let theirs = Point { line, offset: at.offset.get() };
                let has_bytes = relay.stretch(key).is_some_and(|stretch| stretch.history.oldest.get() <= at.offset.get());
                if ours.is_some_and(|ours| !self.truth.are_same(ours, theirs)) && has_bytes {
                    self.broken(Promise::P1, format!("the relay goes on at {at} with another dataset's bytes"));
                }
                self.tell(format!("relay: partial resync at {at}, now {}", replid.short()));
                relay.continue_history(key, at.offset, replid, common.unwrap_or(at.offset), line);
                relay.upstream.partial_resyncs += 1;
                relay.turn(self.now, UpstreamState::Streaming, None);
            }
            (Answer::Continue(_), None) => self.lose_link(relay, "+CONTINUE though nothing was asked for"),
            (Answer::Full(position), _) => {
                self.check_full_resync(relay, process);
                self.interrupt_snapshot(relay);
                let dataset = DatasetId(position);
                let asked = asked.map(|(_, joint)| joint.at);
                self.tell(format!("relay: full resync {dataset}, asked {asked:?}"));
                let key = relay.begin_history(History::starting_at(position, Some(dataset)), line);
                let until = self.now.after(self.dice.millis(100, 3000));
                let data = Point { line, offset: position.offset.get() };
                relay.arrival = Some(Arrival { key, dataset, data, evicted: Evicted::default(), until, failed: None, on_demand: None });
                relay.upstream.full_resyncs += 1;
                relay.upstream.last_full_resync = Some(FullResync { asked, given: dataset, gap });
                relay.turn(self.now, UpstreamState::ReceivingSnapshot, None);
            }
        }
    }

    fn receive(&mut self, relay: &mut Relay) {
        if self.linked(relay).is_none() {
            return;
        }
        let Some(Arrival { key, dataset, data, evicted, until, .. }) = relay.arrival.clone() else { return };
        if self.now < until {
            return;
        }
        let stored = if self.weather.disk_full {
            Err("no space left on device".to_owned())
        } else {
            let named_at = self.now.after(self.dice.millis(0, NAMED_WITHIN_MS));
            relay.install(Spool { key, dataset, data, evicted }, named_at)
        };
        if let Err(error) = stored {
            self.tell(format!("relay: snapshot {dataset} not stored: {error}"));
            relay.candidate = Some(key);
            relay.arrival.iter_mut().for_each(|arrival| arrival.failed = Some(error.clone()));
        }
        relay.turn(self.now, UpstreamState::Streaming, None);
    }

    fn read_stream(&mut self, relay: &mut Relay) {
        let Some(process) = self.linked(relay) else { return };
        match relay.live() {
            Some(live) if live.line == process.line() && live.history.replid() == process.replid => relay.append(process.offset),
            Some(_) | None => self.lose_link(relay, "the primary closed the connection"),
        }
    }
}

/// How long the disk may take for a snapshot.
pub(crate) const NAMED_WITHIN_MS: u64 = 3000;
/// Breaths for which it waits for the word before it closes.
const LOOKS_MAX: u32 = 100;
