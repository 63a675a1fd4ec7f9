//! What the relay asks a primary for, in small worlds: servers that write, promoted replicas that had less, and a relay that is sent from one to the other,
//! also back to one that it came from, and that begins again behind where it was. The worlds keep every byte, so that what is right needs neither limits
//! nor ranges: a primary can be gone on with at every place up to which both have the same bytes, if it answers to a name that the relay has for that place.
//! The relay is to find the last of them, and a replica that is known by a name is to have the relay's bytes. All short stories are tried, and random long ones.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use proptest::prelude::*;
use rbuddy_core::info::ServerInfo;
use rbuddy_core::replication::history::{History, Standing};
use rbuddy_core::replication::prospect::{Joint, Prospect, prospect};
use rbuddy_core::types::{Offset, Position, ReplId};

/// What happens next. Servers are named by their number.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// It writes one more byte.
    Write(usize),
    /// A replica of it that has so many bytes fewer becomes a primary.
    Promote(usize, usize),
    /// The relay is sent to it.
    Follow(usize),
    /// The relay begins again, so many bytes before its end.
    BeginAgain(usize),
}

/// Any two bytes that were written are different.
type Byte = u32;

#[derive(Debug, Clone)]
struct World {
    servers: Vec<Server>,
    history: History,
    /// What the relay was given, also what it no longer keeps.
    stream: Vec<Byte>,
    written: Byte,
    story: Vec<Step>,
}

#[derive(Debug, Clone)]
struct Server {
    stream: Vec<Byte>,
    id: ReplId,
    /// The id before, and the first byte for which it is not right any more.
    second: Option<(ReplId, usize)>,
}

impl Server {
    fn first_kept(&self) -> usize {
        (self.stream.len() + 1).saturating_sub(PRIMARY_BACKLOG).max(1)
    }

    fn info(&self) -> ServerInfo {
        ServerInfo {
            replid: Some(self.id),
            offset: Some(offset(self.stream.len())),
            replid2: self.second.map(|(id, _)| id),
            second_offset: self.second.map(|(_, limit)| limit as u64),
            backlog_first_byte: Some(self.first_kept() as u64),
            backlog_histlen: Some((self.stream.len() + 1 - self.first_kept()) as u64),
            ..ServerInfo::default()
        }
    }

    /// Whether it goes on with one that has so many bytes (protocol fact 4.1).
    fn continues(&self, id: ReplId, have: usize) -> bool {
        let is_known = id == self.id || self.second.is_some_and(|(second, limit)| id == second && have < limit);
        is_known && have + 1 >= self.first_kept() && have <= self.stream.len()
    }
}

impl World {
    fn new() -> World {
        let server = Server { stream: vec![1, 2, 3], id: id(0), second: None };
        let history = History::starting_at(Position::new(id(0), offset(1)), None);
        let mut world = World { servers: vec![server], history, stream: vec![1], written: 3, story: Vec::new() };
        world.follow(0);
        world
    }

    fn after(mut self, step: Step) -> World {
        self.story.push(step);
        match step {
            Step::Write(server) => {
                self.written += 1;
                self.servers[server].stream.push(self.written);
            }
            Step::Promote(server, fewer) => {
                let Server { mut stream, id: before, .. } = self.servers[server].clone();
                stream.truncate(stream.len().saturating_sub(fewer));
                let (id, second) = (id(self.servers.len()), Some((before, stream.len() + 1)));
                self.servers.push(Server { stream, id, second });
            }
            Step::Follow(server) => self.follow(server),
            Step::BeginAgain(before) => {
                let end = self.stream.len().saturating_sub(before);
                self.stream.truncate(end);
                self.history = self.history.begun_anew_at(offset(end));
            }
        }
        self.check_names();
        self
    }

    fn follow(&mut self, server: usize) {
        let server = self.servers[server].clone();
        let best = self.last_place_to_go_on(&server);
        match prospect(Some(&self.history), &server.info()) {
            Prospect::Continue(Joint { at, common }) => {
                let from = at.offset.get() as usize;
                assert!(server.continues(at.replid, from), "{at} is refused: {self:?}");
                assert!(self.stream[..from] == server.stream[..from], "other bytes before {at}: {self:?}");
                assert_eq!(Some(from), best, "it goes on at the last byte that both have: {self:?}");
                self.history.cut_back(at.offset);
                self.history.rename_within(server.id, common.unwrap_or(self.history.end));
                self.stream.truncate(from);
                self.stream.extend(&server.stream[from..]);
                self.history.end = offset(self.stream.len());
            }
            Prospect::FullResync(gap) => {
                assert_eq!(best, None, "a full resync that is not needed ({gap}): {self:?}");
                self.stream.clone_from(&server.stream);
                self.history = History::starting_at(Position::new(server.id, offset(self.stream.len())), None);
            }
            other @ (Prospect::NotNow(_) | Prospect::Unknown) => panic!("{other:?}: it tells everything: {self:?}"),
        }
    }

    fn last_place_to_go_on(&self, server: &Server) -> Option<usize> {
        let oldest = self.history.oldest.get() as usize;
        let is_common = |have: &usize| server.stream.get(..*have).is_some_and(|bytes| *bytes == self.stream[..*have]);
        let is_answered = |have: &usize| {
            self.history
                .ids()
                .iter()
                .any(|known| known.until.is_none_or(|until| offset(*have) <= until) && server.continues(known.replid, *have))
        };
        (oldest - 1..=self.stream.len()).rev().find(|have| is_common(have) && is_answered(have))
    }

    /// Whoever is known to have bytes of the relay's history has them.
    fn check_names(&self) {
        for server in &self.servers {
            for have in 0..=server.stream.len() {
                let standing = self.history.standing(Position::new(server.id, offset(have)));
                if standing == Standing::Covered {
                    assert!(server.stream[..have] == self.stream[..have], "{have} of {} is taken for ours: {self:?}", server.id);
                }
            }
        }
    }
}

fn id(number: usize) -> ReplId {
    format!("{:02x}", number + 1).repeat(20).parse().unwrap()
}

fn offset(bytes: usize) -> Offset {
    Offset::new(bytes as u64).unwrap()
}

/// So much is sent again.
const PRIMARY_BACKLOG: usize = 4;

#[test]
fn the_last_common_byte_is_found_in_every_short_story() {
    fn tell(world: &World, steps_left: usize) {
        if steps_left == 0 {
            return;
        }
        let servers = 0..world.servers.len();
        let of_one =
            servers.flat_map(|server| [Step::Write(server), Step::Promote(server, 0), Step::Promote(server, 2), Step::Follow(server)]);
        for step in of_one.chain([Step::BeginAgain(1)]) {
            tell(&world.clone().after(step), steps_left - 1);
        }
    }
    tell(&World::new(), 5);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_last_common_byte_is_found_in_long_stories(story in prop::collection::vec((0..8_usize, 0..8_usize, 0..4_usize), 1..60)) {
        story.into_iter().fold(World::new(), |world, (kind, server, fewer)| {
            let server = server % world.servers.len();
            world.after(match kind {
                0..=3 => Step::Write(server),
                4 => Step::Promote(server, fewer),
                5 | 6 => Step::Follow(server),
                _ => Step::BeginAgain(fewer),
            })
        });
    }
}
