//! One client, from accept to close: which server it has, when it leaves it, how it ends.

use super::Shared;
use super::acquire::{Left, NoServer, acquire, changed, note_fed};
use super::backend::Backend;
use super::counters::ClientCount;
use super::pump::{Intent, Pump, Wake};
use crate::clock::Clock;
use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::reader::dialogue::Loss;
use rbuddy_core::reader::standing::{Standing, standing};
use rbuddy_core::reader::trail::Trail;
use rbuddy_core::types::Time;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

/// A client's task.
#[derive(Debug)]
pub(super) struct Client {
    shared: Arc<Shared>,
    pump: Pump,
    backend: Option<Backend>,
    had_backend: bool,
    trail: Trail,
    /// The server that it had last, while it has none.
    left: Option<Left>,
    assignments: watch::Receiver<Arc<Assignment>>,
    /// The server is being left at the next boundary.
    is_leaving: bool,
    /// Whoever cannot by then is closed.
    leave_until: Option<Instant>,
    /// The connection ends when the last reply is out, and then at the latest.
    end_at: Option<Instant>,
    /// No new request is taken.
    stopping: bool,
    _count: ClientCount,
}

enum Next {
    GoOn,
    /// Close, after what is due has been sent.
    End(&'static str),
}

impl Client {
    pub(super) fn new(shared: Arc<Shared>, stream: TcpStream, assignments: watch::Receiver<Arc<Assignment>>, count: ClientCount) -> Client {
        let pump = Pump::new(stream, Arc::clone(&shared.counters));
        Client {
            shared,
            pump,
            backend: None,
            had_backend: false,
            trail: Trail::default(),
            left: None,
            assignments,
            is_leaving: false,
            leave_until: None,
            end_at: None,
            stopping: false,
            _count: count,
        }
    }

    /// Serves the client until it goes, or must.
    pub(super) async fn run(mut self, cancel: CancellationToken) {
        let reason = loop {
            let next = match self.follow() {
                Next::GoOn => self.turn(&cancel).await,
                end @ Next::End(_) => end,
            };
            if let Next::End(reason) = next {
                break reason;
            }
        };
        debug!(reason, "client left");
        // The replica's connection is not needed for what is still to be sent.
        drop(self.backend.take());
        self.pump.finish().await;
    }

    /// Compares the server with the newest assignment.
    fn follow(&mut self) -> Next {
        let assignment = Arc::clone(&self.assignments.borrow_and_update());
        let Some(backend) = &mut self.backend else { return Next::GoOn };
        match standing(&assignment, &backend.address, backend.run_id) {
            _ if self.trail.is_past(&assignment) => Next::GoOn,
            Standing::Active(active) => {
                backend.detached = active.detached;
                (self.is_leaving, self.leave_until) = (false, None);
                self.trail.served(assignment.generation, &active, None);
                Next::GoOn
            }
            Standing::Draining { until } => {
                self.is_leaving = true;
                self.leave_until = until.map(|until| instant_of(self.shared.clock, until));
                Next::GoOn
            }
            Standing::Gone => self.lose("it is no active any more"),
        }
    }

    /// Waits for the next thing that needs a decision, and decides.
    async fn turn(&mut self, cancel: &CancellationToken) -> Next {
        let intent = Intent { leaving: self.stopping || self.is_leaving };
        let deadline = [self.leave_until, self.end_at].into_iter().flatten().min();
        // The pump comes before the deadline: who can move now shall, however late it is. It is ready only when there is something to decide.
        let wake = tokio::select! {
            biased;
            () = cancel.cancelled(), if !self.stopping => {
                self.stopping = true;
                self.end_at = Some(Instant::now() + STOP_WITHIN);
                return Next::GoOn;
            }
            wake = self.pump.run(self.backend.as_mut(), intent) => wake,
            () = changed(&mut self.assignments) => return Next::GoOn,
            () = until(deadline) => return self.late(),
        };
        match wake {
            Wake::ClientGone => Next::End("it closed the connection"),
            Wake::ClientEnded => {
                self.end_at.get_or_insert_with(|| Instant::now() + LAST_REPLIES);
                Next::GoOn
            }
            Wake::Done => Next::End("all is said"),
            Wake::Protocol(error) => {
                self.pump.fail_protocol(&error);
                Next::End("it does not speak RESP")
            }
            Wake::ServerLost(reason) => self.lose(&reason),
            Wake::NeedsServer if self.stopping => Next::End("rbuddy stops"),
            Wake::NeedsServer => self.acquire(cancel).await,
            Wake::Boundary if self.stopping => Next::End("rbuddy stops"),
            Wake::Boundary | Wake::LeaveServer => {
                self.pump.leave_server();
                self.drop_backend();
                Next::GoOn
            }
        }
    }

    async fn acquire(&mut self, cancel: &CancellationToken) -> Next {
        let patience = Instant::now() + self.shared.settings.park.max(ONE_ATTEMPT);
        let deadline = self.end_at.map_or(patience, |end| end.min(patience));
        let session = self.pump.dialogue.session();
        let acquired = tokio::select! {
            // The next turn sees it too, and does what is to be done.
            () = cancel.cancelled() => return Next::GoOn,
            () = self.pump.is_closed() => None,
            acquired = acquire(&self.shared, &mut self.assignments, session, &mut self.trail, self.left.as_ref(), deadline) => Some(acquired),
        };
        let Some(acquired) = acquired else {
            self.pump.client_ended();
            self.end_at.get_or_insert_with(|| Instant::now() + LAST_REPLIES);
            return Next::GoOn;
        };
        match acquired {
            Ok(backend) => {
                if std::mem::replace(&mut self.had_backend, true) {
                    self.shared.counters.add_move();
                }
                self.left = None;
                self.backend = Some(backend);
                self.pump.has_server();
                Next::GoOn
            }
            Err(NoServer::Late(reason)) => {
                debug!(reason, "no server for a client within the park");
                self.pump.refuse(&reason, false);
                Next::GoOn
            }
            Err(NoServer::Backwards) => {
                debug!("only an older dataset than the client has read is served");
                self.pump.refuse(BACKWARDS, true);
                Next::GoOn
            }
        }
    }

    fn lose(&mut self, reason: &str) -> Next {
        let address = self.backend.as_ref().map(|backend| backend.address.to_string());
        debug!(address, reason, "replica lost");
        self.drop_backend();
        let due = self.pump.dialogue.errors_due();
        match self.pump.lose_server() {
            Loss::Idle | Loss::AskAgain => Next::GoOn,
            Loss::Broken => {
                self.pump.fail(due, LOST);
                Next::End("its replica was lost")
            }
        }
    }

    fn drop_backend(&mut self) {
        (self.is_leaving, self.leave_until) = (false, None);
        let Some(backend) = self.backend.take() else { return };
        let left = self.left.insert((backend.address.clone(), backend.run_id));
        note_fed(&self.shared, &mut self.trail, left);
    }

    /// A deadline has passed.
    fn late(&mut self) -> Next {
        let due = self.pump.dialogue.errors_due();
        if self.end_at.is_some_and(|end| end <= Instant::now()) {
            self.pump.fail(due, STOPPED);
            return Next::End("the time for its last replies is over");
        }
        self.pump.fail(due, DRAINED);
        info!(group = %self.shared.group, "a client could not move within the drain and is closed");
        Next::End("it could not move within the drain")
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The drain's end on tokio's clock. It was given by the clock that the controller has too, so setting the wall clock moves neither.
fn instant_of(clock: Clock, time: Time) -> Instant {
    Instant::now() + time.since(clock.now())
}

const BACKWARDS: &str = "this connection has read a newer dataset than the one served now; connect again to read the older one";
const LOST: &str = "-MASTERDOWN rbuddy: the replica was lost in a state that another cannot take over";
const DRAINED: &str = "-MASTERDOWN rbuddy: the replica was left in a state that another cannot take over";
const STOPPED: &str = "-MASTERDOWN rbuddy: the reader endpoint stops";

/// Connecting and checking takes time even where nobody waits, so a shorter park (also none) still allows this.
const ONE_ATTEMPT: Duration = Duration::from_millis(250);
/// A client that is at no boundary by then is cut.
const STOP_WITHIN: Duration = Duration::from_secs(1);
/// For the replies that are due to a client that has closed its side. Servers give it no time at all.
const LAST_REPLIES: Duration = Duration::from_secs(2);
