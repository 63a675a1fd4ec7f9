//! What breaks in a round, drawn from a seed: which fault, when, for how long. The same seed gives the same plan; what servers make of it depends on the
//! machine.

use fastrand::Rng;
use rbuddy_lab::Jump;
use std::time::Duration;

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// The link to the primary is cut, and nobody gets through.
    LinkCut,
    /// It stays open, and nothing goes through.
    LinkStalled,
    /// The primary: kill -9, and a new process.
    PrimaryKilled(Left),
    /// A replica that serves: kill -9, and a new process.
    ActiveKilled(Left),
    /// SIGSTOP for a while.
    ActiveFrozen,
    /// One that does not serve: kill -9, and a new process.
    StandbyKilled(Left),
    /// SIGSTOP for a while.
    StandbyFrozen,
    /// kill -9, and a new process with the same state.
    RbuddyKilled,
    /// SIGTERM, and a new process.
    RbuddyStopped,
    /// A wall clock is set, and set right again.
    ClockSet(Whose, Jump),
    /// Nobody can write to a disk any more.
    DiskFull(Disk),
    /// An operator asks for a planned switch.
    Failover,
    /// An operator takes a replica that serves out, and back in.
    Drained,
    /// An operator pauses it.
    Paused,
}

/// Whose clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    Primary,
    Active,
    Standby,
    Rbuddy,
}

/// Whose disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disk {
    /// Of a replica that serves.
    Active,
    /// Of one that does not.
    Standby,
    /// Where state, journal, snapshots and the spilled backlog are.
    Rbuddy,
}

/// What a killed server finds when it is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// For the primary: the same data, saved just before. For a replica: what lies there.
    Own,
    /// Nothing.
    Nothing,
    /// For the primary: newer data.
    Newer,
}

/// One fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) what: What,
    /// From the round's beginning.
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// One to three faults, that may overlap.
pub(crate) fn draw(rng: &mut Rng) -> Vec<Fault> {
    (0..rng.usize(1..=3)).map(|_| fault(rng)).collect()
}

fn fault(rng: &mut Rng) -> Fault {
    let from = rng.u64(0..2500);
    let to = from + rng.u64(100..3500);
    Fault { what: what(rng), from: Duration::from_millis(from), to: Duration::from_millis(to) }
}

fn what(rng: &mut Rng) -> What {
    let left = if rng.bool() { Left::Own } else { Left::Nothing };
    match rng.u32(0..20) {
        0 | 1 => What::LinkCut,
        2 => What::LinkStalled,
        3 => What::PrimaryKilled(Left::Own),
        4 | 5 => What::PrimaryKilled(Left::Newer),
        6 => What::PrimaryKilled(Left::Nothing),
        7 => What::ActiveKilled(left),
        8 => What::ActiveFrozen,
        9 => What::StandbyKilled(left),
        10 => What::StandbyFrozen,
        11 | 12 => What::RbuddyKilled,
        13 => What::RbuddyStopped,
        14 => What::Failover,
        15 | 16 => What::ClockSet(whose(rng), jump(rng)),
        17 | 18 => What::DiskFull(disk(rng)),
        _ if rng.bool() => What::Drained,
        _ => What::Paused,
    }
}

fn whose(rng: &mut Rng) -> Whose {
    match rng.u32(0..4) {
        0 => Whose::Primary,
        1 => Whose::Active,
        2 => Whose::Standby,
        _ => Whose::Rbuddy,
    }
}

fn disk(rng: &mut Rng) -> Disk {
    match rng.u32(0..4) {
        0 => Disk::Active,
        1 => Disk::Standby,
        _ => Disk::Rbuddy,
    }
}

/// Less and more than any timeout.
fn jump(rng: &mut Rng) -> Jump {
    let by = Duration::from_secs(if rng.bool() { 5 } else { 3600 });
    if rng.bool() { Jump::Ahead(by) } else { Jump::Back(by) }
}
