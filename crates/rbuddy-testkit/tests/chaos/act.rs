//! Carries faults out on real processes, and heals all that they did.

use crate::plan::{Disk, Fault, Left, What, Whose};
use rbuddy_core::control::status::RoleName;
use rbuddy_core::types::NodeAddress;
use rbuddy_lab::{Data, Link, Server, WallClock};
use rbuddy_testkit::scenario::rdb_of;
use rbuddy_testkit::{Full, SOON, World};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

/// A world, and what is broken in it.
pub(crate) struct Scene {
    pub(crate) world: World,
    is_rbuddy_up: bool,
    frozen: Vec<usize>,
    /// Whose disk: of which replica, or rbuddy's own.
    full: Vec<(Option<usize>, Full)>,
}

impl Scene {
    pub(crate) fn new(world: World) -> Scene {
        Scene { world, is_rbuddy_up: true, frozen: Vec::new(), full: Vec::new() }
    }

    /// Each fault begins and ends at its time.
    pub(crate) async fn act(&mut self, faults: &[Fault]) {
        let started = Instant::now();
        let mut hit = vec![None; faults.len()];
        let begins = faults.iter().enumerate().map(|(number, fault)| (fault.from, number, true));
        let ends = faults.iter().enumerate().map(|(number, fault)| (fault.to, number, false));
        let mut turns: Vec<_> = begins.chain(ends).collect();
        turns.sort_unstable_by_key(|(at, ..)| *at);
        for (at, number, is_begin) in turns {
            sleep_until(started + at).await;
            if is_begin {
                hit[number] = self.begin(faults[number].what).await;
            } else {
                self.end(faults[number].what, hit[number]).await;
            }
        }
    }

    /// Gives the replica that was hit, if one was.
    async fn begin(&mut self, what: What) -> Option<usize> {
        match what {
            What::LinkCut => self.world.link.set(Link::Cut),
            What::LinkStalled => self.world.link.set(Link::Stalled),
            What::PrimaryKilled(left) => {
                if self.world.primary.process().is_some() {
                    if left == Left::Own {
                        // Another fault may have started it just now.
                        self.world.primary.ready(SOON).await.expect("the primary answers");
                        self.world.primary.save().await.expect("save");
                    }
                    self.world.primary.kill().await.expect("kill the primary");
                }
            }
            What::ActiveKilled(_) => return self.kill(RoleName::Active).await,
            What::StandbyKilled(_) => return self.kill(RoleName::Standby).await,
            What::ActiveFrozen => return self.freeze(RoleName::Active).await,
            What::StandbyFrozen => return self.freeze(RoleName::Standby).await,
            What::RbuddyKilled if self.is_rbuddy_up => {
                self.world.rbuddy.kill().await;
                self.is_rbuddy_up = false;
            }
            What::RbuddyStopped if self.is_rbuddy_up => {
                assert_eq!(self.world.rbuddy.terminate().await, Some(0), "SIGTERM");
                self.is_rbuddy_up = false;
            }
            What::ClockSet(whose, jump) => {
                let replica = match whose {
                    Whose::Active => self.pick(RoleName::Active).await,
                    Whose::Standby => self.pick(RoleName::Standby).await,
                    Whose::Primary | Whose::Rbuddy => None,
                };
                if let Some(clock) = self.clock(whose, replica) {
                    clock.set(jump).expect("set a clock");
                }
                return replica;
            }
            What::DiskFull(whose) => return self.fill(whose).await,
            What::Failover => self.operate("failover", None).await,
            What::Drained => {
                let replica = self.pick(RoleName::Active).await;
                self.operate("drain", replica.map(|number| self.world.replicas[number].address())).await;
                return replica;
            }
            What::Paused => self.operate("pause", None).await,
            What::RbuddyKilled | What::RbuddyStopped => {}
        }
        None
    }

    async fn end(&mut self, what: What, hit: Option<usize>) {
        match what {
            What::LinkCut | What::LinkStalled => self.world.link.set(Link::Pass),
            What::PrimaryKilled(left) => self.revive_primary(left).await,
            What::ActiveKilled(left) | What::StandbyKilled(left) => {
                if let Some(server) = hit.map(|number| &mut self.world.replicas[number]).filter(|server| server.process().is_none()) {
                    revive(server, left).await;
                }
            }
            What::ActiveFrozen | What::StandbyFrozen => self.thaw(hit).await,
            What::RbuddyKilled | What::RbuddyStopped => self.launch().await,
            What::ClockSet(whose, _) => {
                if let Some(clock) = self.clock(whose, hit) {
                    clock.set_right().expect("set a clock");
                }
            }
            What::DiskFull(whose) => self.make_room(whose, hit),
            What::Failover => {}
            What::Drained => self.operate("return", hit.map(|number| self.world.replicas[number].address())).await,
            What::Paused => self.operate("resume", None).await,
        }
    }

    fn clock(&self, whose: Whose, replica: Option<usize>) -> Option<&WallClock> {
        match whose {
            Whose::Primary => self.world.primary.clock(),
            Whose::Active | Whose::Standby => self.world.replicas[replica?].clock(),
            Whose::Rbuddy => self.world.rbuddy.clock(),
        }
    }

    /// Gives the replica whose disk it is. Nothing happens where this machine allows no small disks, or where it is full already.
    async fn fill(&mut self, whose: Disk) -> Option<usize> {
        let (replica, disk) = match whose {
            Disk::Rbuddy => (None, self.world.state_disk.as_ref()),
            Disk::Active | Disk::Standby => {
                let role = if whose == Disk::Active { RoleName::Active } else { RoleName::Standby };
                let replica = self.pick(role).await?;
                (Some(replica), self.world.replica_disks.get(replica))
            }
        };
        let is_full = self.full.iter().any(|(full, _)| *full == replica);
        self.full.extend(disk.filter(|_| !is_full).map(|disk| (replica, disk.fill())));
        replica
    }

    /// The opposite, where it was done.
    fn make_room(&mut self, whose: Disk, replica: Option<usize>) {
        if replica.is_some() || whose == Disk::Rbuddy {
            self.full.retain(|(full, _)| *full != replica);
        }
    }

    /// Everything runs, and nothing stands in the way.
    pub(crate) async fn heal(&mut self) {
        self.world.link.set(Link::Pass);
        self.full.clear();
        for number in std::mem::take(&mut self.frozen) {
            self.world.replicas[number].thaw().await.expect("thaw");
        }
        if self.world.primary.process().is_none() {
            self.revive_primary(Left::Newer).await;
        }
        // It came back with nothing, or with what was saved long ago, and is refused.
        self.world.primary.ready(SOON).await.expect("the primary answers");
        if self.world.primary.keys().await.expect("a count").unsigned_abs() < self.world.data.keys {
            self.world.primary.kill().await.expect("kill the primary");
            self.revive_primary(Left::Newer).await;
        }
        for server in self.world.replicas.iter_mut().filter(|server| server.process().is_none()) {
            revive(server, Left::Own).await;
        }
        self.launch().await;
        self.operate("resume", None).await;
    }

    /// What an operator took out comes back in, as soon as it answers.
    pub(crate) async fn return_drained(&self) -> Result<(), String> {
        let status = self.world.rbuddy.status().await?;
        for replica in status.replicas.iter().filter(|replica| replica.role == RoleName::Drained) {
            self.operate("return", Some(replica.address.to_string())).await;
        }
        Ok(())
    }

    async fn revive_primary(&mut self, left: Left) {
        if self.world.primary.process().is_some() {
            return;
        }
        match left {
            Left::Own => self.world.primary.restart(Data::Own).await,
            Left::Nothing => self.world.primary.restart(Data::Nothing).await,
            Left::Newer => {
                self.world.data = self.world.data.newer();
                let rdb = rdb_of(&self.world, &self.world.data).await;
                self.world.primary.restart(Data::Rdb(&rdb)).await
            }
        }
        .expect("restart the primary");
    }

    async fn launch(&mut self) {
        if !self.is_rbuddy_up {
            self.world.rbuddy.launch().await;
            self.is_rbuddy_up = true;
        }
    }

    /// Whatever it answers: an order may come at a bad moment.
    async fn operate(&self, operation: &str, replica: Option<String>) {
        if self.is_rbuddy_up {
            let body = replica.map_or(json!({}), |replica| json!({ "replica": replica }));
            self.world.rbuddy.post(operation, body).await;
        }
    }

    async fn kill(&mut self, role: RoleName) -> Option<usize> {
        let number = self.pick(role).await?;
        self.world.replicas[number].kill().await.expect("kill a replica");
        self.frozen.retain(|frozen| *frozen != number);
        Some(number)
    }

    async fn freeze(&mut self, role: RoleName) -> Option<usize> {
        let number = self.pick(role).await?;
        self.world.replicas[number].freeze().await.expect("freeze a replica");
        self.frozen.push(number);
        Some(number)
    }

    async fn thaw(&mut self, hit: Option<usize>) {
        if let Some(at) = self.frozen.iter().position(|frozen| Some(*frozen) == hit) {
            let number = self.frozen.swap_remove(at);
            self.world.replicas[number].thaw().await.expect("thaw");
        }
    }

    /// One that has this role now, as far as rbuddy can be asked, and is not hit already.
    async fn pick(&self, role: RoleName) -> Option<usize> {
        let status = self.world.rbuddy.status().await.ok()?;
        let has_role = |address: &NodeAddress| status.replicas.iter().any(|replica| replica.address == *address && replica.role == role);
        let numbers = 0..self.world.replicas.len();
        numbers.into_iter().find(|number| {
            let server = &self.world.replicas[*number];
            let address: Option<NodeAddress> = server.address().parse().ok();
            server.process().is_some() && !self.frozen.contains(number) && address.as_ref().is_some_and(has_role)
        })
    }
}

async fn revive(server: &mut Server, left: Left) {
    let data = if left == Left::Nothing { Data::Nothing } else { Data::Own };
    server.restart(data).await.expect("restart a replica");
}
