//! Carries out a plan in a world, heals what it broke, and waits until all is well again.

use crate::bill::Seen;
use crate::plan::{Fault, Left, Place, What};
use rbuddy_lab::writer::write_bytes;
use rbuddy_lab::{Data, FaultProxy, LabError, Link, Server, wait_until};
use rbuddy_testkit::{RelayWorld, SOON};
use std::time::Duration;
use tokio::time::Instant;

/// More than the primary's backlog holds.
const FLOOD_BYTES: u64 = 12 << 20;
/// While later connections overtake earlier ones, a new one waits up to so long.
const CONNECT_DELAY: Duration = Duration::from_millis(500);

/// A world, and what happened in it since the last look.
pub(crate) struct Scene {
    pub(crate) world: RelayWorld,
    seen: Seen,
}

#[derive(Debug, Clone, Copy)]
enum Moment {
    Begin,
    End,
}

impl Scene {
    pub(crate) fn new(world: RelayWorld) -> Scene {
        Scene { world, seen: Seen::default() }
    }

    pub(crate) fn take_seen(&mut self) -> Seen {
        std::mem::take(&mut self.seen)
    }

    /// The faults at their times. One that takes its time (a server that saves) delays the others.
    pub(crate) async fn act(&mut self, faults: &[Fault]) {
        let moments = |fault: &Fault| [(fault.from_ms, Moment::Begin, fault.what), (fault.to_ms, Moment::End, fault.what)];
        let mut timeline: Vec<(u64, Moment, What)> = faults.iter().flat_map(moments).collect();
        timeline.sort_by_key(|(at_ms, _, _)| *at_ms);
        let started = Instant::now();
        for (at_ms, moment, what) in timeline {
            tokio::time::sleep_until(started + Duration::from_millis(at_ms)).await;
            match moment {
                Moment::Begin => self.begin(what).await,
                Moment::End => self.end(what).await,
            }
        }
    }

    async fn begin(&mut self, what: What) {
        match what {
            What::Cut(place) => self.link(place).set(Link::Cut),
            What::Stall(place) => self.link(place).set(Link::Stalled),
            What::Overtake(place) => {
                self.link(place).strand();
                self.link(place).reorder_connects(Some(CONNECT_DELAY));
            }
            What::Crumble(place, bytes) => self.link(place).crumble(Some(bytes)),
            What::Slow(place, bytes_per_second) => self.link(place).throttle(Some(bytes_per_second)),
            What::Flood => {
                self.world.upstream.set(Link::Cut);
                // A primary that is away cannot be flooded; its backlog says afterwards whether it was.
                let _ = write_bytes(&self.world.primary, FLOOD_BYTES).await;
            }
            What::RelayKilled => self.world.relay.kill().await,
            What::RelayFrozen => self.world.relay.freeze().await,
            What::ReplicaKilled(number, left) => {
                let server = &mut self.world.replicas[number].server;
                must(kill(server, left).await);
                self.seen.came_back_empty[number] = !server.rdb().exists();
            }
            What::PrimaryKilled(left) => {
                self.seen.paid_by_the_killed = Some(must(self.world.primary.full_resyncs().await));
                must(kill(&mut self.world.primary, left).await);
            }
        }
    }

    async fn end(&mut self, what: What) {
        match what {
            What::Cut(place) | What::Stall(place) => self.link(place).set(Link::Pass),
            What::Flood => self.world.upstream.set(Link::Pass),
            What::Overtake(place) => {
                self.link(place).set(Link::Pass);
                self.link(place).reorder_connects(None);
            }
            What::Crumble(place, _) => self.link(place).crumble(None),
            What::Slow(place, _) => self.link(place).throttle(None),
            What::RelayKilled => self.world.relay.launch().await,
            What::RelayFrozen => self.world.relay.thaw().await,
            What::ReplicaKilled(number, left) => must(self.world.replicas[number].server.restart(data(left)).await),
            What::PrimaryKilled(left) => must(self.world.primary.restart(data(left)).await),
        }
    }

    /// Servers answer again.
    pub(crate) async fn heal(&mut self) -> Result<(), String> {
        let servers = self.world.replicas.iter_mut().map(|replica| &mut replica.server).chain([&mut self.world.primary]);
        for server in servers {
            server.ready(SOON).await.map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Everybody has everything. Nobody may write meanwhile; keys may still expire.
    pub(crate) async fn settle(&self, within: Duration) -> Result<(), String> {
        let settled = wait_until("all replicas to be equal to the primary", within, async || {
            for number in 0..self.world.replicas.len() {
                self.world.is_caught_up(number).await?;
            }
            self.world.is_equal().await
        });
        settled.await.map_err(|error| error.to_string())
    }

    fn link(&self, place: Place) -> &FaultProxy {
        match place {
            Place::Upstream => &self.world.upstream,
            Place::Replica(number) => &self.world.replicas[number].link,
        }
    }
}

/// Ends it at once, and leaves what is to be found.
async fn kill(server: &mut Server, left: Left) -> Result<(), LabError> {
    if left == Left::Saved {
        // One that loads cannot save: it comes back with what lies there.
        let _ = server.save().await;
    }
    server.kill().await
}

fn data(left: Left) -> Data<'static> {
    match left {
        Left::Saved | Left::AsItIs => Data::Own,
        Left::Nothing => Data::Nothing,
    }
}

/// The laboratory itself must not fail.
fn must<T>(result: Result<T, LabError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}: {:?}", std::error::Error::source(&error)))
}
