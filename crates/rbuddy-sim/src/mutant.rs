//! Deliberate breaks of rbuddy: a check that cannot fail proves nothing. Each stands at the boundary of the real controller, or in the model around it, and
//! breaks one promise; `tests/mutants.rs` wants it caught by exactly that one.

use crate::promise::Promise;
use crate::rbuddy::Rbuddy;
use rbuddy_core::control::action::Action;
use rbuddy_core::control::event::{Node, Probe};
use rbuddy_core::control::relay::Start;
use rbuddy_core::replication::psync::Permit;

/// A break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutant {
    /// The endpoint takes whatever process is at an active's address, with whatever dataset.
    ReadersTakeAnyProcess,
    /// Actives may be seeded.
    SeedsActives,
    /// Whatever a replica holds seems to be the group's.
    TakesForeignForItsOwn,
    /// Every dataset seems as large as the last one.
    BelievesAnyDataset,
    /// No server's limit is seen, nor what it has evicted.
    SeesNoLimits,
    /// A replica that could go on is given the snapshot.
    SeedsWhatCouldContinue,
    /// Each order asks for one more snapshot.
    AsksForSnapshotsAgain,
    /// The state file is written last.
    ActsBeforeItIsWritten,
    /// After a start the primary is asked for everything.
    BeginsFresh,
    /// Outcomes of commands never come back.
    LosesOutcomes,
    /// An emptied replica goes on answering reads.
    EmptiedAnswersReads,
    /// The endpoint does not remember what a connection has seen.
    ReadersForgetTheirTrail,
    /// Nor what its server was fed.
    ReadersAskNoRelay,
    /// A connection owes more than its server was fed.
    ReadersOweTooMuch,
    /// The state file is not read at start.
    ForgetsTheStateFile,
    /// Notifications are not read from it.
    ForgetsTheOutbox,
}

impl Mutant {
    /// All of them, with the promise that each breaks.
    pub const ALL: [(Mutant, Promise); 16] = [
        (Mutant::ReadersTakeAnyProcess, Promise::P1),
        (Mutant::SeedsActives, Promise::P2),
        (Mutant::TakesForeignForItsOwn, Promise::P3),
        (Mutant::BelievesAnyDataset, Promise::P4),
        (Mutant::SeesNoLimits, Promise::P4),
        (Mutant::SeedsWhatCouldContinue, Promise::P5),
        (Mutant::AsksForSnapshotsAgain, Promise::P6),
        (Mutant::ActsBeforeItIsWritten, Promise::P7),
        (Mutant::BeginsFresh, Promise::P7),
        (Mutant::LosesOutcomes, Promise::P8),
        (Mutant::EmptiedAnswersReads, Promise::P9),
        (Mutant::ReadersForgetTheirTrail, Promise::P10),
        (Mutant::ReadersAskNoRelay, Promise::P10),
        (Mutant::ReadersOweTooMuch, Promise::P1),
        (Mutant::ForgetsTheStateFile, Promise::P10),
        (Mutant::ForgetsTheOutbox, Promise::Told),
    ];

    /// What the controller wants done becomes what is done.
    pub fn distort(self, actions: &mut Vec<Action>, rbuddy: &Rbuddy) {
        match self {
            Mutant::ActsBeforeItIsWritten => actions.sort_by_key(|action| matches!(action, Action::Persist(_))),
            Mutant::SeedsActives | Mutant::AsksForSnapshotsAgain | Mutant::BeginsFresh => {
                for action in actions {
                    if let Action::Orders(orders) = action {
                        self.distort_orders(orders, rbuddy);
                    }
                }
            }
            Mutant::ReadersTakeAnyProcess
            | Mutant::BelievesAnyDataset
            | Mutant::SeesNoLimits
            | Mutant::TakesForeignForItsOwn
            | Mutant::SeedsWhatCouldContinue
            | Mutant::LosesOutcomes
            | Mutant::EmptiedAnswersReads
            | Mutant::ReadersForgetTheirTrail
            | Mutant::ReadersAskNoRelay
            | Mutant::ReadersOweTooMuch
            | Mutant::ForgetsTheStateFile
            | Mutant::ForgetsTheOutbox => {}
        }
    }

    /// What is seen of a server.
    pub fn distort_probe(self, node: &Node, probe: &mut Probe, rbuddy: Option<&Rbuddy>) {
        let is_primary = matches!(node, Node::Primary(_));
        if self == Mutant::BelievesAnyDataset && (probe.info.keyspace.keys > 0 || is_primary) {
            probe.info.keyspace.keys = 100_000;
        }
        if self == Mutant::SeesNoLimits {
            (probe.info.max_memory, probe.info.evicted_keys) = (None, None);
        }
        if self == Mutant::TakesForeignForItsOwn && !is_primary {
            probe.info.replid2 =
                rbuddy.and_then(|rbuddy| rbuddy.controller.state().ids.first()).map(|known| known.replid).or(probe.info.replid2);
        }
    }

    fn distort_orders(self, orders: &mut rbuddy_core::control::relay::RelayOrders, rbuddy: &Rbuddy) {
        let dataset = rbuddy.relay.as_ref().and_then(|relay| relay.spool).map(|spool| spool.dataset);
        match (self, dataset) {
            (Mutant::SeedsActives, Some(dataset)) => {
                orders.permits.values_mut().for_each(|permit| *permit = Permit::Seed(dataset));
                let replicas = rbuddy.controller.state().replicas.iter();
                orders.judged = replicas.filter_map(|(replica, record)| Some((replica.clone(), record.run_id?))).collect();
            }
            (Mutant::AsksForSnapshotsAgain, Some(_)) => {
                let done = rbuddy.relay.as_ref().and_then(|relay| relay.request_done).unwrap_or(0);
                orders.snapshot_request = Some(done + 1);
            }
            (Mutant::BeginsFresh, _) if orders.start.is_some() => orders.start = Some(Start::Fresh),
            _ => {}
        }
    }
}
