//! What a client's connection has read so far, so that it is never shown something older (promise P10), and what a server must say of
//! itself before the connection reads from it (promise P1).
//!
//! Ids are compared, not addresses: an address that was left and comes back with the dataset that was left is a step back; with a newer
//! dataset it is a step forward. The one step back that happens: the new active dies while the old one drains, and the old one takes
//! back over. Connections that have moved are then closed with an error, the others never noticed.

use crate::control::assignment::{ActiveReplica, Assignment};
use crate::info::{Role, ServerInfo};
use crate::types::{Generation, Offset, Position, ReplId, RunId};
use std::collections::VecDeque;

/// Where a connection has been.
#[derive(Debug, Clone, Default)]
pub struct Trail {
    generation: Generation,
    /// Ids of the history that was read last.
    current: Vec<ReplId>,
    /// Of those before, the latest last.
    left: VecDeque<Vec<ReplId>>,
    /// The newest position that was surely read from.
    position: Option<Position>,
    /// What may have been read besides, of the process that was left last: how far that was fed.
    fed: Option<(RunId, Position)>,
}

/// Why a server may not be read by a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CheckRefusal {
    /// Another process answers there: it waits for the controller.
    #[error("run id is {found:?}, the active is {expected:?}")]
    RunId {
        /// Of the assignment.
        expected: RunId,
        /// Of the server.
        found: Option<RunId>,
    },
    /// It is no replica (or, after a detach, still one).
    #[error("role is {found:?}, expected {expected:?}")]
    Role {
        /// As assigned.
        expected: Role,
        /// Of the server.
        found: Option<Role>,
    },
    /// Its dataset is not all there.
    #[error("it is loading its dataset")]
    Loading,
    /// It holds a history that was not judged.
    #[error("its history is {found:?}, which is not among the active's")]
    History {
        /// Of the server.
        found: Option<ReplId>,
    },
    /// It is behind what readers have seen.
    #[error("its offset is {found:?}, readers have seen {needed}")]
    Behind {
        /// What it must have.
        needed: Offset,
        /// What it has.
        found: Option<Offset>,
    },
}

/// Whether the server that said `info` is the active, with at least what earlier actives were sent.
pub fn check(active: &ActiveReplica, info: &ServerInfo) -> Result<(), CheckRefusal> {
    if info.run_id != Some(active.run_id) {
        return Err(CheckRefusal::RunId { expected: active.run_id, found: info.run_id });
    }
    let role = if active.detached { Role::Master } else { Role::Slave };
    if info.role != Some(role) {
        return Err(CheckRefusal::Role { expected: role, found: info.role });
    }
    if !info.serves_a_complete_dataset() {
        return Err(CheckRefusal::Loading);
    }
    if active.replids.is_empty() {
        return Ok(());
    }
    if !info.replid.is_some_and(|id| active.replids.contains(&id)) {
        return Err(CheckRefusal::History { found: info.replid });
    }
    // All ids of a history count the same bytes: one that has not heard of the newest id yet is behind as well.
    if info.offset < Some(active.offset_at_least) {
        return Err(CheckRefusal::Behind { needed: active.offset_at_least, found: info.offset });
    }
    Ok(())
}

impl Trail {
    /// Whether this assignment is older than one that the connection was served under.
    pub fn is_past(&self, assignment: &Assignment) -> bool {
        assignment.generation < self.generation
    }

    /// Whether reading from this active would show a dataset that the connection has left for a newer one, or an older one that it never knew.
    pub fn goes_back_to(&self, active: &ActiveReplica) -> bool {
        let is_older = shares(&self.current, &active.newer);
        is_older || (!shares(&self.current, &active.replids) && self.left.iter().any(|left| shares(left, &active.replids)))
    }

    /// Whether the server that said `info` has at least what this connection has read in the same history, and may have read of another process: whatever it
    /// has read of this one, this one has still.
    pub fn check(&self, info: &ServerInfo) -> Result<(), CheckRefusal> {
        let fed = self.fed.filter(|(of, _)| Some(*of) != info.run_id).map(|(_, position)| position);
        let is_missing = |seen: &Position| self.is_comparable(seen.replid, info.replid) && info.offset < Some(seen.offset);
        match [self.position, fed].into_iter().flatten().find(is_missing) {
            Some(seen) => Err(CheckRefusal::Behind { needed: seen.offset, found: info.offset }),
            None => Ok(()),
        }
    }

    /// Whether `found` names what `seen` names, or an earlier part of it. Not a later part: a promoted primary may lack bytes that were seen before.
    fn is_comparable(&self, seen: ReplId, found: Option<ReplId>) -> bool {
        let age = |id: ReplId| self.current.iter().position(|known| *known == id);
        found == Some(seen) || found.and_then(age).zip(age(seen)).is_some_and(|(found, seen)| found > seen)
    }

    /// This process was left, and was fed up to there, by each id of its history, the newest first: all of that may have been read from it. The assignment may
    /// not know the newest ids yet. To be told anew before each attempt to find another: the history may have got a new id meanwhile. What is fed there later,
    /// also to what comes after it at the same address, was not read.
    pub fn fed(&mut self, process: RunId, positions: &[Position]) {
        let (Some(newest), Some(known_from)) = (positions.first(), positions.iter().position(|at| self.current.contains(&at.replid)))
        else {
            return;
        };
        self.current.splice(0..0, positions[..known_from].iter().map(|at| at.replid));
        match self.fed.filter(|(of, _)| *of == process) {
            None => self.fed = Some((process, *newest)),
            Some((_, known)) if positions.iter().any(|at| at.replid == known.replid && at.offset >= known.offset) => {
                self.fed = Some((process, Position::new(newest.replid, known.offset)));
            }
            Some(_) => {}
        }
    }

    /// The connection is served by this active from now on; `position` is where it was found.
    pub fn served(&mut self, generation: Generation, active: &ActiveReplica, position: Option<Position>) {
        self.generation = self.generation.max(generation);
        if position.is_some() {
            (self.position, self.fed) = (position, None);
        }
        if active.replids.is_empty() || self.current == active.replids {
            return;
        }
        if !self.current.is_empty() && !shares(&self.current, &active.replids) {
            self.left.push_back(std::mem::take(&mut self.current));
            if self.left.len() > LEFT_MAX {
                self.left.pop_front();
            }
        }
        self.current.clone_from(&active.replids);
    }
}

fn shares(one: &[ReplId], other: &[ReplId]) -> bool {
    one.iter().any(|id| other.contains(id))
}

/// Datasets that a connection remembers to have left. Only the one before can come back, during its drain; the rest is margin.
const LEFT_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeAddress;

    fn id(digit: char) -> ReplId {
        digit.to_string().repeat(40).parse().expect("an id")
    }

    fn active(replids: &[char]) -> ActiveReplica {
        ActiveReplica {
            address: NodeAddress::new("127.0.0.1", 6380),
            run_id: "f".repeat(40).parse().expect("a run id"),
            detached: false,
            replids: replids.iter().map(|digit| id(*digit)).collect(),
            offset_at_least: Offset::new(100).expect("in range"),
            newer: Vec::new(),
        }
    }

    fn healthy(offset: u64) -> ServerInfo {
        ServerInfo {
            run_id: Some(active(&[]).run_id),
            role: Some(Role::Slave),
            replid: Some(id('a')),
            offset: Offset::new(offset),
            ..ServerInfo::default()
        }
    }

    #[test]
    fn only_the_judged_process_with_the_judged_dataset_is_read() {
        let expected = active(&['a', 'b']);
        assert_eq!(check(&expected, &healthy(100)), Ok(()));
        assert!(matches!(check(&expected, &healthy(99)), Err(CheckRefusal::Behind { .. })));
        assert!(matches!(check(&active(&['c']), &healthy(100)), Err(CheckRefusal::History { .. })));
        assert_eq!(check(&active(&[]), &healthy(1)), Ok(()), "nothing is known of the history");
        assert_eq!(check(&active(&['b', 'a']), &healthy(100)), Ok(()), "an older id of the history");
        assert!(matches!(check(&active(&['b', 'a']), &healthy(99)), Err(CheckRefusal::Behind { .. })), "under which it counts the same");
        let restarted = ServerInfo { run_id: Some("e".repeat(40).parse().expect("a run id")), ..healthy(100) };
        assert!(matches!(check(&expected, &restarted), Err(CheckRefusal::RunId { .. })));
        assert!(matches!(check(&expected, &ServerInfo { run_id: None, ..healthy(100) }), Err(CheckRefusal::RunId { .. })));
        assert!(matches!(check(&expected, &ServerInfo { is_loading: true, ..healthy(100) }), Err(CheckRefusal::Loading)));
        let primary = ServerInfo { role: Some(Role::Master), ..healthy(100) };
        assert!(matches!(check(&expected, &primary), Err(CheckRefusal::Role { .. })));
        let detached = ActiveReplica { detached: true, ..expected };
        assert_eq!(check(&detached, &primary), Ok(()));
        assert!(matches!(check(&detached, &healthy(100)), Err(CheckRefusal::Role { .. })));
    }

    #[test]
    fn a_connection_that_moved_on_does_not_come_back() {
        let mut trail = Trail::default();
        trail.served(Generation(1), &active(&['a']), None);
        assert!(!trail.goes_back_to(&active(&['b', 'a'])), "the same history under a new id");
        trail.served(Generation(2), &active(&['b', 'a']), None);
        assert!(!trail.goes_back_to(&active(&['c'])));
        trail.served(Generation(3), &active(&['c']), None);
        assert!(trail.goes_back_to(&active(&['a'])));
        assert!(!trail.goes_back_to(&active(&['d'])));

        let mut stayed = Trail::default();
        stayed.served(Generation(1), &active(&['a']), None);
        stayed.served(Generation(4), &active(&['a']), None);
        assert!(!stayed.goes_back_to(&active(&['a'])), "it never left");
    }

    #[test]
    fn a_connection_that_began_with_the_new_dataset_does_not_go_to_the_old_one() {
        let old = ActiveReplica { newer: vec![id('c'), id('b')], ..active(&['a']) };
        assert!(!Trail::default().goes_back_to(&old), "it has read nothing yet");
        let mut trail = Trail::default();
        trail.served(Generation(1), &active(&['b']), None);
        assert!(trail.goes_back_to(&old));
        assert!(!trail.goes_back_to(&active(&['c'])));
        // A primary that lost its last writes with a failover goes on under a new id; a replica that has them is on a branch that ended.
        let mut trail = Trail::default();
        trail.served(Generation(1), &active(&['b', 'a']), None);
        assert!(trail.goes_back_to(&old));
        let mut stayed = Trail::default();
        stayed.served(Generation(1), &active(&['a']), None);
        assert!(!stayed.goes_back_to(&old));
    }

    #[test]
    fn another_replica_must_have_what_was_read() {
        let mut trail = Trail::default();
        trail.served(Generation(1), &active(&['a']), healthy(500).position());
        assert!(trail.check(&healthy(499)).is_err());
        assert_eq!(trail.check(&healthy(500)), Ok(()));
        assert_eq!(trail.check(&ServerInfo { replid: Some(id('b')), ..healthy(1) }), Ok(()));
    }

    #[test]
    fn another_replica_must_have_what_was_read_also_under_an_older_id() {
        let mut trail = Trail::default();
        let renamed = |offset| ServerInfo { replid: Some(id('b')), ..healthy(offset) };
        trail.served(Generation(1), &active(&['b', 'a']), renamed(500).position());
        assert!(trail.check(&healthy(499)).is_err());
        assert_eq!(trail.check(&healthy(500)), Ok(()));
        // The other way round: what was seen under the old id may not be part of the history that goes on.
        let mut trail = Trail::default();
        trail.served(Generation(1), &active(&['a']), healthy(500).position());
        trail.served(Generation(2), &active(&['b', 'a']), None);
        assert_eq!(trail.check(&renamed(450)), Ok(()));
    }

    #[test]
    fn another_replica_must_have_what_the_one_that_is_left_was_fed() {
        let at = |digit, offset| Position::new(id(digit), Offset::new(offset).expect("in range"));
        let (left, other) = ("1".repeat(40).parse().expect("a run id"), healthy(0).run_id.expect("it has one"));
        let mut trail = Trail::default();
        trail.served(Generation(1), &active(&['a']), healthy(500).position());
        trail.fed(left, &[at('c', 900)]);
        assert_eq!(trail.check(&healthy(500)), Ok(()), "of a history that was not read");
        trail.fed(left, &[at('a', 600)]);
        assert!(trail.check(&healthy(599)).is_err());
        assert_eq!(trail.check(&healthy(600)), Ok(()));
        for later in [700, 400] {
            trail.fed(left, &[at('a', later)]);
            assert!(trail.check(&healthy(599)).is_err());
            assert_eq!(trail.check(&healthy(600)), Ok(()), "what was fed there later was not read");
        }
        trail.fed(other, &[at('a', 600)]);
        assert_eq!(trail.check(&healthy(500)), Ok(()), "it may not have got all that it was sent, but has all that was read from it");
    }

    #[test]
    fn what_was_fed_is_asked_for_under_ids_that_the_assignment_does_not_name_yet() {
        let at = |digit, offset| Position::new(id(digit), Offset::new(offset).expect("in range"));
        let left = "1".repeat(40).parse().expect("a run id");
        let renamed = |offset| ServerInfo { replid: Some(id('b')), ..healthy(offset) };
        let mut trail = Trail::default();
        trail.served(Generation(1), &active(&['a']), healthy(500).position());
        trail.fed(left, &[at('b', 700), at('a', 600)]);
        assert!(trail.check(&healthy(600)).is_err(), "it has not heard of the newest id, and of what came under it");
        assert!(trail.check(&renamed(699)).is_err());
        assert_eq!(trail.check(&renamed(700)), Ok(()));
        // The id changed after it was left.
        let mut trail = Trail::default();
        trail.served(Generation(1), &active(&['a']), healthy(500).position());
        trail.fed(left, &[at('a', 600)]);
        trail.fed(left, &[at('b', 900), at('a', 600)]);
        assert!(trail.check(&renamed(599)).is_err());
        assert_eq!(trail.check(&renamed(600)), Ok(()));
    }
}
