//! The model: what a round may cost in full resyncs. Everything else is a needless one.
//!
//! * The primary pays for a dataset that the relay cannot go on from: a killed primary has another history; a primary whose backlog no longer holds the
//!   byte behind the relay's position has a gap. Where neither is so, nothing: whatever is cut, stalled or killed.
//! * A replica is given a full resync for each such dataset, and for each time that it lost its own.
//! * Each break may end a full resync that is under way, which then begins again: where one is due, each break may cost one more.
//!
//! * A replica that lost its dataset costs the primary nothing while the relay has a snapshot with not too much stream behind it. Where the stream has
//!   outgrown the snapshot, it costs a new one; and a replica that comes back with the snapshot that it was given once is too far behind.

use crate::plan::{Fault, Hit, Left, Place, REPLICAS, What};
use rbuddy_testkit::{Follower, RelayWorld};

/// What a round begins and ends with. At both, everybody is caught up.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    /// Bytes of the primary's history.
    offset: u64,
    /// First byte in the primary's backlog.
    backlog_first_byte: u64,
    /// Full resyncs that the primary was asked for in the life that it lives.
    paid: u64,
    /// Full resyncs that each replica was given.
    given: Vec<u64>,
}

/// How the relay's first snapshot stands at the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Snapshot {
    /// It is there, and little stream behind it.
    Fresh,
    /// The stream behind it is so long that keeping it would cost more than a new one.
    Outgrown,
}

/// What happened in a round beside the plan.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Seen {
    /// What the primary had paid when it was killed.
    pub(crate) paid_by_the_killed: Option<u64>,
    /// A replica came back without a file: what was to lie there did not.
    pub(crate) came_back_empty: [bool; REPLICAS],
}

impl Reading {
    pub(crate) async fn of(world: &RelayWorld) -> Result<Reading, String> {
        let info = world.primary.info("replication").await.map_err(|error| error.to_string())?;
        let number = |field: &str| info.get(field).and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {field} in {info:?}"));
        let paid = world.primary.full_resyncs().await.map_err(|error| error.to_string())?;
        Ok(Reading {
            offset: number("master_repl_offset")?,
            backlog_first_byte: number("repl_backlog_first_byte_offset")?,
            paid,
            given: world.replicas.iter().map(Follower::full_resyncs).collect(),
        })
    }
}

/// Holds what was paid against what may have been. `Ok` says it in words.
pub(crate) fn check(faults: &[Fault], snapshot: Snapshot, before: &Reading, after: &Reading, seen: Seen) -> Result<String, String> {
    let breaks = |hits: &dyn Fn(Hit) -> bool| faults.iter().filter(|fault| hits(fault.what.hits())).count() as u64;
    let is_another_history = seen.paid_by_the_killed.is_some();
    let has_gap = before.offset + 1 < after.backlog_first_byte;
    let upstream = breaks(&|hit| matches!(hit, Hit::Link(Place::Upstream) | Hit::Relay | Hit::Primary));
    let datasets = if is_another_history || has_gap { upstream } else { 0 };
    let is_lost = |left| left == Left::Nothing || (left == Left::AsItIs && snapshot == Snapshot::Outgrown);
    let loses_its_own = |number: usize| {
        let is_killed = |what| matches!(what, What::ReplicaKilled(killed, left) if killed == number && is_lost(left));
        seen.came_back_empty[number] || faults.iter().any(|fault| is_killed(fault.what))
    };
    let lost = (0..REPLICAS).filter(|number| loses_its_own(*number)).count() as u64;
    let on_demand = if snapshot == Snapshot::Outgrown && lost > 0 { lost + upstream } else { 0 };
    let due = datasets + on_demand;
    let paid = match seen.paid_by_the_killed {
        Some(before_its_end) => before_its_end - before.paid + after.paid,
        None => after.paid - before.paid,
    };
    let mut complaints = Vec::new();
    let mut words = vec![format!("primary {paid} of {due}")];
    if paid > due {
        complaints.push(format!("the primary paid for {paid} full resyncs, {due} were due"));
    }
    for number in 0..REPLICAS {
        let due = datasets + u64::from(loses_its_own(number));
        let its_breaks = breaks(&|hit| matches!(hit, Hit::Link(Place::Replica(other)) | Hit::Replica(other) if other == number));
        let allowed = if due > 0 { due + its_breaks + upstream } else { 0 };
        let given = after.given[number] - before.given[number];
        words.push(format!("replica {} {given} of {allowed}", number + 1));
        if given > allowed {
            complaints.push(format!("replica {} was given {given} full resyncs, {allowed} were due", number + 1));
        }
    }
    if complaints.is_empty() { Ok(words.join(", ")) } else { Err(format!("{}\nbefore {before:?}\nafter {after:?}", complaints.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(what: What) -> Fault {
        Fault { what, from_ms: 0, to_ms: 1 }
    }

    fn reading(offset: u64, backlog_first_byte: u64, paid: u64, given: [u64; REPLICAS]) -> Reading {
        Reading { offset, backlog_first_byte, paid, given: given.to_vec() }
    }

    #[test]
    fn where_the_backlog_reaches_back_nothing_is_due() {
        let faults = [fault(What::RelayKilled), fault(What::Cut(Place::Upstream)), fault(What::ReplicaKilled(1, Left::Saved))];
        let before = reading(1000, 1, 1, [1, 1, 1]);
        let verdict = |paid, given| check(&faults, Snapshot::Fresh, &before, &reading(5000, 1001, paid, given), Seen::default());
        assert!(verdict(1, [1, 1, 1]).is_ok());
        assert!(verdict(2, [1, 1, 1]).is_err());
        assert!(verdict(1, [1, 2, 1]).is_err());
    }

    #[test]
    fn a_gap_is_paid_for_once_for_each_break() {
        let before = reading(1000, 1, 1, [1, 1, 1]);
        let verdict = |paid, given| {
            check(&[fault(What::Flood)], Snapshot::Fresh, &before, &reading(9000, 1002, paid, given), Seen::default()).is_ok()
        };
        assert!(verdict(2, [2, 2, 2]));
        assert!(!verdict(3, [2, 2, 2]));
    }

    #[test]
    fn a_killed_primary_counts_anew() {
        let before = reading(1000, 1, 7, [1, 1, 1]);
        let seen = Seen { paid_by_the_killed: Some(7), ..Seen::default() };
        let verdict = |paid| {
            let faults = [fault(What::PrimaryKilled(Left::Nothing))];
            check(&faults, Snapshot::Fresh, &before, &reading(500, 1, paid, [2, 2, 2]), seen).is_ok()
        };
        assert!(verdict(1));
        assert!(!verdict(2));
    }

    #[test]
    fn a_replica_that_lost_everything_costs_the_primary_only_where_the_snapshot_is_outgrown() {
        let faults = [fault(What::ReplicaKilled(0, Left::Nothing))];
        let (before, after) = (reading(1000, 1, 1, [1, 1, 1]), reading(5000, 1, 2, [2, 1, 1]));
        assert!(check(&faults, Snapshot::Fresh, &before, &after, Seen::default()).is_err());
        assert!(check(&faults, Snapshot::Outgrown, &before, &after, Seen::default()).is_ok());
    }
}
