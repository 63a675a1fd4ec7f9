//! Applications that read. Through the reader endpoint: with core's own rules on who may be read and when to leave ([`Trail`], [`standing`]). Directly: from
//! the address that rbuddy named, for as long as that server lets them. Each remembers what it saw.

use crate::dice::Dice;
use crate::mutant::Mutant;
use crate::promise::Promise;
use crate::truth::Point;
use crate::world::World;
use rbuddy_core::control::assignment::{ActiveReplica, Assignment};
use rbuddy_core::control::settings::FreezeMode;
use rbuddy_core::reader::standing::{Standing, standing};
use rbuddy_core::reader::trail::{Trail, check};
use rbuddy_core::types::{NodeAddress, Position, RunId, Time};
use std::time::Duration;

/// One application's connection.
#[derive(Debug, Default)]
pub struct Reader {
    is_direct: bool,
    /// It never comes to a boundary, and stays until it is cut.
    is_pinned: bool,
    /// Its own, so that what readers do changes nothing in what happens to the servers.
    dice: Dice,
    server: Option<(NodeAddress, RunId)>,
    /// The life of rbuddy that it is connected through.
    life: u32,
    trail: Trail,
    seen: Option<Point>,
    /// The server that it had last, while it has none.
    left: Option<(NodeAddress, RunId)>,
    leave_until: Option<Time>,
    /// Since when servers are kept from it that have all that it saw.
    refused_since: Option<Time>,
}

impl Reader {
    /// One that reads through the endpoint, or directly.
    pub fn new(is_direct: bool, is_pinned: bool, dice: Dice) -> Reader {
        Reader { is_direct, is_pinned, dice, ..Reader::default() }
    }

    /// Its server closed the connection.
    pub fn cut(&mut self, at: &NodeAddress) {
        if self.server.as_ref().is_some_and(|(address, _)| address == at) {
            self.left = self.server.take();
            if self.is_direct {
                self.begin_anew();
            }
        }
    }

    /// A new connection owes nothing to what an earlier one saw.
    fn begin_anew(&mut self) {
        (self.server, self.trail, self.seen, self.leave_until, self.left) = (None, Trail::default(), None, None, None);
        self.refused_since = None;
    }
}

impl World {
    /// One read.
    pub fn read(&mut self, index: usize) {
        let mut reader = std::mem::take(&mut self.readers[index]);
        if reader.is_direct {
            self.turn_directly(&mut reader);
        } else {
            self.turn_through_endpoint(&mut reader);
        }
        self.readers[index] = reader;
    }

    fn turn_directly(&mut self, reader: &mut Reader) {
        if reader.server.is_none() {
            reader.begin_anew();
            let active = self.rbuddy.as_ref().and_then(|rbuddy| rbuddy.assignment.as_ref()?.actives.first().cloned());
            let process = active.and_then(|active| Some((active.address.clone(), self.server_at(&active.address)?.run_id, active.run_id)));
            // Whoever asks rbuddy and finds another process there has hit the moment before rbuddy knew: not promised.
            reader.server = process.filter(|(_, found, expected)| found == expected).map(|(address, found, _)| (address, found));
        }
        self.read_from(reader);
    }

    fn turn_through_endpoint(&mut self, reader: &mut Reader) {
        let Some(assignment) = self.rbuddy.as_ref().and_then(|rbuddy| rbuddy.assignment.clone()) else {
            return reader.begin_anew();
        };
        if reader.life != self.lives {
            reader.begin_anew();
            reader.life = self.lives;
        }
        self.follow(reader, &assignment);
        // The endpoint's connection to a server may break while both are well.
        if !reader.is_pinned && reader.dice.one_in(BREAKS) {
            reader.left = reader.server.take().or(reader.left.take());
        }
        if reader.server.is_none() {
            self.note_fed(reader);
            self.acquire(reader, &assignment);
        }
        self.read_from(reader);
    }

    /// How far the relay has fed it.
    fn fed(&self, replica: &NodeAddress) -> Vec<Position> {
        let relay = self.rbuddy.as_ref().and_then(|rbuddy| rbuddy.relay.as_ref());
        relay.map_or_else(Vec::new, |relay| relay.view().fed(replica))
    }

    /// All that the server which it has left was fed may have been read.
    fn note_fed(&self, reader: &mut Reader) {
        let asks = self.mutant != Some(Mutant::ReadersAskNoRelay);
        if let Some((left, run_id)) = reader.left.as_ref().filter(|_| asks) {
            let mut fed = self.fed(left);
            if self.mutant == Some(Mutant::ReadersOweTooMuch) {
                fed.iter_mut().for_each(|fed| fed.offset = fed.offset.advance(TOO_MUCH));
            }
            reader.trail.fed(*run_id, &fed);
        }
    }

    /// Compares its server with the newest assignment.
    fn follow(&mut self, reader: &mut Reader, assignment: &Assignment) {
        let Some((address, run_id)) = reader.server.clone() else { return };
        match standing(assignment, &address, run_id) {
            _ if reader.trail.is_past(assignment) => {}
            Standing::Active(active) => {
                reader.leave_until = None;
                reader.trail.served(assignment.generation, &active, None);
            }
            Standing::Draining { until } if reader.is_pinned && until.is_none_or(|until| self.now < until) => reader.leave_until = until,
            Standing::Draining { .. } | Standing::Gone if reader.is_pinned => reader.begin_anew(),
            Standing::Draining { .. } | Standing::Gone => {
                reader.left = reader.server.take();
                self.note_fed(reader);
            }
        }
    }

    fn acquire(&mut self, reader: &mut Reader, assignment: &Assignment) {
        let takes_any = self.mutant == Some(Mutant::ReadersTakeAnyProcess);
        let remembers = self.mutant != Some(Mutant::ReadersForgetTheirTrail);
        if assignment.actives.is_empty() || reader.trail.is_past(assignment) {
            return;
        }
        let forward: Vec<&ActiveReplica> =
            assignment.actives.iter().filter(|active| !remembers || !reader.trail.goes_back_to(active)).collect();
        if forward.is_empty() {
            // It is closed with an error.
            return reader.begin_anew();
        }
        let active = reader.dice.pick(&forward);
        let Some(process) = self.server_at(&active.address).filter(|process| !process.hangs) else { return };
        let info = process.probe(&self.truth).info;
        let mut expected = active.clone();
        if takes_any {
            (expected.run_id, expected.detached) = (process.run_id, false);
            // What it asks of the judged dataset is another promise's matter (P10).
            expected.replids.retain(|_| info.replid.is_some_and(|id| active.replids.contains(&id)));
        }
        let is_fit = check(&expected, &info).is_ok();
        reader.refused_since = reader.refused_since.filter(|_| is_fit);
        if is_fit && remembers && reader.trail.check(&info).is_err() {
            let has = process.data.map(|data| Point { offset: process.offset, ..data });
            self.note_refused(reader, &active.address, has);
        } else if is_fit {
            reader.refused_since = None;
            reader.server = Some((active.address.clone(), process.run_id));
            reader.trail.served(assignment.generation, active, info.position());
            // A known gap: of one that the relay does not feed yet nobody at the endpoint knows how far in its dataset its readers had seen, until rbuddy has
            // noticed that it broke off.
            let is_active = |left: &NodeAddress| assignment.actives.iter().any(|active| active.address == *left);
            let is_unnoticed = reader.left.take().is_some_and(|(left, _)| is_active(&left) && self.fed(&left).is_empty());
            let root = process.data.map(|data| self.truth.root(data.line));
            reader.seen = reader.seen.take_if(|seen| !is_unnoticed || root != Some(self.truth.root(seen.line)));
        }
    }

    /// It may have seen more than it has: that is known of what its last server was fed, and whoever is to serve it next is soon given as much.
    fn note_refused(&mut self, reader: &mut Reader, address: &NodeAddress, has: Option<Point>) {
        let has_all = reader.seen.is_none_or(|seen| has.is_some_and(|has| self.truth.includes(has, seen)));
        if !has_all {
            reader.refused_since = None;
            return;
        }
        let since = *reader.refused_since.get_or_insert(self.now);
        if self.now.since(since) > REFUSED_MAX {
            self.broken(Promise::P1, format!("{address} has all that a reader saw, and is kept from it by {:?}", reader.trail));
        }
    }

    fn read_from(&mut self, reader: &mut Reader) {
        let Some((address, run_id)) = reader.server.clone() else { return };
        let Some(process) = self.server_at(&address).filter(|process| process.run_id == run_id) else {
            return reader.cut(&address);
        };
        if !process.answers_reads() {
            // Silence, -LOADING, -MASTERDOWN: an error that says so.
            return;
        }
        let takes_writes = process.master.is_none() && !process.is_fenced && address != self.primary_at;
        let (data, is_emptied, at) = (process.data, process.is_emptied, process.offset);
        if takes_writes {
            self.broken(Promise::P9, format!("{address} is read and takes writes"));
        }
        match data {
            None if is_emptied => self.broken(Promise::P9, format!("{address} was emptied and answers reads")),
            None => self.broken(Promise::P1, format!("{address} holds nothing and is read")),
            Some(data) if self.truth.is_foreign(data.line) => self.broken(Promise::P1, format!("{address} holds foreign data and is read")),
            Some(data) => self.note_seen(reader, &address, Point { offset: at, ..data }),
        }
    }

    /// P10: nothing older than what this connection has seen.
    fn note_seen(&mut self, reader: &mut Reader, address: &NodeAddress, now: Point) {
        let Some(before) = reader.seen.replace(now) else { return };
        if self.truth.includes(now, before) {
            return;
        }
        // Forks count as one dataset: that a replica stands on writes that the primary has lost cannot be told from its id.
        let (root, old) = (self.truth.root(now.line), self.truth.root(before.line));
        let kind = if reader.is_direct { "direct reader" } else { "reader" };
        let is_lost = !self.truth.are_same(Point { line: self.primary_line(), ..before }, before);
        let is_backwards = self.truth.includes(before, now);
        // A detached replica has an id of its own, so its position cannot be held against others'. What the primary itself has lost is lost.
        if is_backwards && !is_lost && !self.ledger.has_flapped && self.policy.freeze == FreezeMode::Hold {
            self.broken(Promise::P10, format!("a {kind} of {address} saw {before:?} and now {now:?}"));
        } else if root < old && !self.ledger.has_flapped {
            self.broken(Promise::P10, format!("a {kind} of {address} goes back from {before:?} to {now:?}"));
        }
    }
}

/// One read in so many finds its connection to the server broken.
const BREAKS: u64 = 50;
/// For what the sabotaged endpoint holds against its readers: what is written in an hour or so.
const TOO_MUCH: u64 = 10_000;
/// Longer than any fault lasts that keeps a server from the stream.
const REFUSED_MAX: Duration = Duration::from_secs(30);
