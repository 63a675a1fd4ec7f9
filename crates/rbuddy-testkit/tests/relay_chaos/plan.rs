//! What breaks in a round, drawn from a seed: which fault, where, when, for how long. The same seed gives the same plan; what the servers make of it depends
//! on the machine.

use fastrand::Rng;

/// Replicas behind the relay.
pub(crate) const REPLICAS: usize = 3;

/// A link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Between primary and relay.
    Upstream,
    /// Between relay and this replica.
    Replica(usize),
}

/// What breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// Connections are ended and refused.
    Cut(Place),
    /// Connections stay open, and nothing goes through.
    Stall(Place),
    /// What is connected is stalled, what connects later is let through, after a random wait: the later overtakes the earlier.
    Overtake(Place),
    /// Writes of at most so many bytes.
    Crumble(Place, usize),
    /// So many bytes per second.
    Slow(Place, u64),
    /// The upstream link is cut while more is written than the primary's backlog holds.
    Flood,
    /// kill -9, and a new process with the same folder.
    RelayKilled,
    /// SIGSTOP: both its links are half-open.
    RelayFrozen,
    /// kill -9, and a new process.
    ReplicaKilled(usize, Left),
    /// kill -9, and a new process: another history.
    PrimaryKilled(Left),
}

/// What a killed server finds when it is back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// The dataset, as it was saved just before.
    Saved,
    /// What happens to lie there: for a replica the snapshot that it was given last.
    AsItIs,
    /// Nothing.
    Nothing,
}

/// One fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fault {
    pub(crate) what: What,
    /// Milliseconds from the round's beginning.
    pub(crate) from_ms: u64,
    pub(crate) to_ms: u64,
}

/// The faults of one round. Each hits another thing.
pub(crate) fn draw(rng: &mut Rng) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for _ in 0..rng.u8(1..=4) {
        let fault = one(rng);
        if faults.iter().all(|other| other.what.hits() != fault.what.hits()) {
            faults.push(fault);
        }
    }
    faults
}

fn one(rng: &mut Rng) -> Fault {
    let (what, for_ms) = match rng.u32(0..28) {
        0..5 => (What::Cut(place(rng)), rng.u64(20..1500)),
        5..8 => (What::Stall(place(rng)), rng.u64(200..2000)),
        // Longer than the relay waits for its primary, and about as long as relay and replicas wait for each other.
        8 => (What::Stall(place(rng)), rng.u64(3500..5500)),
        9 => (What::Overtake(place(rng)), rng.u64(3500..5500)),
        10..13 => {
            let bytes = rng.choice([1, 3, 16, 200]).unwrap_or(1);
            (What::Crumble(place(rng), bytes), rng.u64(300..1500))
        }
        13..16 => (What::Slow(place(rng), rng.u64(20_000..300_000)), rng.u64(300..2000)),
        16 => (What::Flood, rng.u64(20..300)),
        17..22 => (What::RelayKilled, rng.u64(0..1500)),
        22 => (What::RelayFrozen, rng.u64(500..2500)),
        23..27 => {
            let left = rng.choice([Left::Saved, Left::AsItIs, Left::Nothing]).unwrap_or(Left::Nothing);
            (What::ReplicaKilled(rng.usize(..REPLICAS), left), rng.u64(0..1000))
        }
        _ => {
            let left = rng.choice([Left::Saved, Left::Nothing]).unwrap_or(Left::Nothing);
            (What::PrimaryKilled(left), rng.u64(0..1000))
        }
    };
    let from_ms = rng.u64(..1000);
    Fault { what, from_ms, to_ms: from_ms + for_ms }
}

fn place(rng: &mut Rng) -> Place {
    if rng.u8(..2) == 0 { Place::Upstream } else { Place::Replica(rng.usize(..REPLICAS)) }
}

/// What a fault hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hit {
    Link(Place),
    Relay,
    Replica(usize),
    Primary,
}

impl What {
    pub(crate) fn hits(self) -> Hit {
        match self {
            What::Cut(place) | What::Stall(place) | What::Overtake(place) | What::Crumble(place, _) | What::Slow(place, _) => {
                Hit::Link(place)
            }
            What::Flood => Hit::Link(Place::Upstream),
            What::RelayKilled | What::RelayFrozen => Hit::Relay,
            What::ReplicaKilled(number, _) => Hit::Replica(number),
            What::PrimaryKilled(_) => Hit::Primary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_plan_and_no_two_faults_hit_one_thing() {
        for seed in 0..200 {
            let faults = draw(&mut Rng::with_seed(seed));
            assert_eq!(format!("{faults:?}"), format!("{:?}", draw(&mut Rng::with_seed(seed))));
            for (number, fault) in faults.iter().enumerate() {
                assert!(fault.from_ms <= fault.to_ms);
                assert!(faults[..number].iter().all(|other| other.what.hits() != fault.what.hits()), "{faults:?}");
            }
        }
    }
}
