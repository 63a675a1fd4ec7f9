//! Everything breaks around the relay alone, in seeded rounds: links on both sides are cut, stalled, slowed, crumbled and overtaken, relay, replicas and
//! primary are killed, while a writer writes what it can think of. Then all is healed, and every replica must have what the primary has, to the last byte and
//! by digest, and nobody may have paid for a full resync that was not due ([`bill`]).
//!
//! With every fourth seed the stream has outgrown the relay's snapshot before the first round: it must know where it was without that.
//!
//! `SEED=n` runs one seed, `ROUNDS=n` so many rounds over as many seeds as they take.

mod act;
mod bill;
mod plan;

use act::Scene;
use bill::{Reading, Snapshot};
use plan::{Fault, REPLICAS};
use rbuddy_lab::{Binary, ServerOptions, Writer};
use rbuddy_testkit::{RelayOptions, RelayWorld, SOON, report, seeds};
use std::time::{Duration, Instant};

/// A world is used for so many rounds.
const ROUNDS_PER_SEED: u64 = 4;
/// Whatever broke: this long after it was healed everybody is caught up.
const HEALED_WITHIN: Duration = Duration::from_secs(40);
const WRITES_PER_SECOND: u64 = 600;
/// Holds what is written in any round without a flood, several times.
const PRIMARY_BACKLOG: &str = "8mb";
/// No snapshot is worth keeping with so much stream behind it.
const LONG_STREAM: u64 = 300 << 20;

// Together these seeds have every kind of fault at every kind of place.
#[tokio::test(flavor = "multi_thread")]
async fn seed_1005() {
    rounds_of(1005).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_1010() {
    rounds_of(1010).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_1026() {
    rounds_of(1026).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_4_after_a_long_stream() {
    rounds_of(4).await;
}

/// `make chaos-relay`, and the replay of one seed. Without SEED or ROUNDS there is nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn seeds_that_were_asked_for() {
    seeds::run_asked_for(1000, ROUNDS_PER_SEED, rounds_of).await;
}

async fn rounds_of(seed: u64) {
    let started = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut replay = Replay { seed, rounds: Vec::new() };
    let snapshot = if seed.is_multiple_of(4) { Snapshot::Outgrown } else { Snapshot::Fresh };
    let mut scene = Scene::new(world(snapshot).await);
    let mut writer = Writer::start_mixed(scene.world.primary.address(), WRITES_PER_SECOND, seed);
    for round in 1..=ROUNDS_PER_SEED {
        let faults = plan::draw(&mut rng);
        replay.rounds.push(faults.clone());
        let outcome = run(&mut scene, &mut writer, &faults, snapshot).await;
        match outcome {
            Ok(words) => report(&format!("seed {seed}, round {round}: {words}, for {faults:?}")),
            Err(complaint) => panic!("seed {seed}, round {round}: {complaint}\n{}", scene.world.describe().await),
        }
    }
    scene.world.relay.logged_no_error();
    report(&format!("seed {seed}: {ROUNDS_PER_SEED} rounds in {:.1} s", started.elapsed().as_secs_f64()));
}

async fn world(snapshot: Snapshot) -> RelayWorld {
    let binary = Binary::find().expect("a server binary");
    let primary = ServerOptions::default().with("repl-backlog-size", PRIMARY_BACKLOG).with("repl-ping-replica-period", "1");
    let relay = RelayOptions { upstream_timeout: "3s", replica_timeout: "5s", ..RelayOptions::default() };
    let mut world = RelayWorld::start(&binary, primary, relay).await;
    for _ in 0..REPLICAS {
        world.add_replica(&binary, ServerOptions::default().with("repl-timeout", "5")).await;
    }
    world.all_caught_up(SOON).await;
    if snapshot == Snapshot::Outgrown {
        world.stream(LONG_STREAM).await;
    }
    assert_eq!(world.paid().await, 1, "the primary pays for one snapshot, whatever the number of replicas");
    world
}

/// One round; says what it cost.
async fn run(scene: &mut Scene, writer: &mut Writer, faults: &[Fault], snapshot: Snapshot) -> Result<String, String> {
    let before = Reading::of(&scene.world).await?;
    writer.resume();
    scene.act(faults).await;
    scene.heal().await?;
    writer.pause().await;
    scene.settle(HEALED_WITHIN).await?;
    let after = Reading::of(&scene.world).await?;
    bill::check(faults, snapshot, &before, &after, scene.take_seen())
}

/// Says at the end of a failed run how to see it again. The faults of its rounds are told too: they are what the seed stands for.
struct Replay {
    seed: u64,
    rounds: Vec<Vec<Fault>>,
}

impl Drop for Replay {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (round, faults) in self.rounds.iter().enumerate() {
            report(&format!("--- round {}: {faults:?}", round + 1));
        }
        let seed = self.seed;
        report(&format!("--- again: SEED={seed} cargo nextest run -p rbuddy-testkit --test relay_chaos seeds_that_were --no-capture"));
    }
}
