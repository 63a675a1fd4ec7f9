//! Everything breaks around a whole rbuddy, in seeded rounds, while readers of all three kinds read and a writer writes: the link to the primary is cut
//! and stalled; primary, replicas and rbuddy are killed, frozen and restarted with old, new or no data, their clocks are set and their disks full;
//! operators press buttons at bad moments. After each round all is healed, and everything must come to rest by itself, equal to the primary by digest.
//! What readers may notice is told in [`Excuse`]: never a wrong answer, never nil through the endpoint, and no failed read where rbuddy and an active
//! were alive.
//!
//! `SEED=n` runs one seed, `ROUNDS=n` so many rounds over as many seeds as they take (`make chaos`).

mod act;
mod plan;

use act::Scene;
use plan::{Fault, Left, What};
use rbuddy_core::control::status::{GroupStatus, Phase, RoleName};
use rbuddy_lab::{ServerOptions, Tally, Writer, wait_until};
use rbuddy_testkit::{AllReaders, ReaderKind, SOON, SmallDisk, World, WorldOptions, report, seeds, skip};
use std::time::{Duration, Instant};

/// A world is used for so many rounds.
const ROUNDS_PER_SEED: u64 = 5;
const KEYS: u64 = 5_000;
/// Room for a few snapshots: whoever needs more in a test with so few keys leaks.
const DISK_MEGABYTES: u32 = 64;
/// Whatever broke: this long after it was healed all is at rest.
const HEALED_WITHIN: Duration = Duration::from_secs(90);

// One active and one standby; two actives and one standby.
#[tokio::test(flavor = "multi_thread")]
async fn seed_2001() {
    rounds_of(2001).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seed_2002() {
    rounds_of(2002).await;
}

/// `make chaos`, and the replay of one seed. Without SEED or ROUNDS there is nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn seeds_that_were_asked_for() {
    seeds::run_asked_for(2000, ROUNDS_PER_SEED, rounds_of).await;
}

async fn rounds_of(seed: u64) {
    let started = Instant::now();
    let mut rng = fastrand::Rng::with_seed(seed);
    let actives = if seed.is_multiple_of(2) { 2 } else { 1 };
    let mut scene = Scene::new(world(actives).await);
    let mut writer = scene.world.writer();
    let readers = AllReaders::start(&scene.world).await;
    readers.go_on(300, SOON).await;
    for round in 1..=ROUNDS_PER_SEED {
        let faults = plan::draw(&mut rng);
        let outcome = run(&mut scene, &mut writer, &readers, &faults, actives).await;
        match outcome {
            Ok(words) => report(&format!("seed {seed}, round {round}: {words}, for {faults:?}")),
            Err(complaint) => panic!(
                "seed {seed}, round {round}, {faults:?}: {complaint}\nagain: SEED={seed} cargo nextest run -p rbuddy-testkit --test chaos seeds_that_were \
                 --no-capture\n{}",
                scene.world.rbuddy.log().lines().rev().take(120).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
            ),
        }
    }
    report(&format!("seed {seed}: {ROUNDS_PER_SEED} rounds in {:.1} s", started.elapsed().as_secs_f64()));
}

async fn world(actives: usize) -> World {
    let replicas = vec![(None, ServerOptions::default()); actives + 1];
    let extra = vec![format!("active = {actives}"), "dead_after = \"2s\"".to_owned()];
    let disk = SmallDisk::can_be_mounted().then_some(DISK_MEGABYTES);
    if disk.is_none() {
        skip("no disk gets full: mounting a small tmpfs needs root");
    }
    let options = WorldOptions {
        replicas,
        own_clocks: true,
        state_disk: disk,
        replica_disks: disk,
        upstream_timeout: "3s",
        extra,
        ..WorldOptions::of(KEYS)
    };
    let world = World::start_unsettled(options).await;
    world.primary.command(&["CONFIG", "SET", "repl-ping-replica-period", "1"]).await.expect("config");
    world.rbuddy.wait_for("a settled start", HEALED_WITHIN, |status| is_at_rest(status, actives)).await;
    world
}

fn is_at_rest(status: &GroupStatus, actives: usize) -> bool {
    let with = |role: RoleName| status.replicas.iter().filter(|replica| replica.role == role).count();
    status.phase == Phase::Normal && status.active.len() == actives && with(RoleName::Active) == actives && with(RoleName::Standby) == 1
}

/// One round; says what readers noticed.
async fn run(scene: &mut Scene, writer: &mut Writer, readers: &AllReaders, faults: &[Fault], actives: usize) -> Result<String, String> {
    let before = readers.tallies();
    writer.resume();
    scene.act(faults).await;
    scene.heal().await;
    let healed = Instant::now();
    let rest = wait_until("everything at rest", HEALED_WITHIN, async || {
        scene.return_drained().await?;
        let status = scene.world.rbuddy.status().await?;
        if is_at_rest(&status, actives) { Ok(()) } else { Err(format!("{} — {}", status.phase, status.explanation)) }
    });
    rest.await.map_err(|error| error.to_string())?;
    let rest = healed.elapsed();
    writer.pause().await;
    scene.world.actives_equal_the_primary().await;
    readers.go_on(100, SOON).await;
    let excuse = Excuse::of(faults, actives);
    let mut words = Vec::new();
    for ((kind, before), (_, after)) in before.iter().zip(readers.tallies()) {
        let seen = Seen::between(before, &after);
        excuse.covers(*kind, &seen).map_err(|complaint| format!("{complaint}: {seen:?}\n{after}"))?;
        words.push(format!("{} failed", seen.failed));
    }
    Ok(format!("{} at rest after {:.1} s", words.join(", "), rest.as_secs_f64()))
}

/// What readers of one kind saw in a round.
#[derive(Debug)]
struct Seen {
    failed: u64,
    nil: u64,
    wrong: u64,
}

impl Seen {
    fn between(before: &Tally, after: &Tally) -> Seen {
        Seen { failed: after.failed - before.failed, nil: after.nil - before.nil, wrong: after.wrong - before.wrong }
    }
}

/// What readers may notice of these faults.
struct Excuse {
    /// The endpoint is away, or all that it could read is.
    endpoint_may_fail: bool,
    /// The server that they are connected to is killed, frozen, or cannot be told to be left.
    direct_may_fail: bool,
    /// It restarts empty under those that go there directly: nobody can stand between.
    direct_may_be_nil: bool,
}

impl Excuse {
    fn of(faults: &[Fault], actives: usize) -> Excuse {
        let has = |wanted: fn(&What) -> bool| faults.iter().any(|fault| wanted(&fault.what));
        let rbuddy_is_away = has(|what| matches!(what, What::RbuddyKilled | What::RbuddyStopped));
        let active_is_killed = has(|what| matches!(what, What::ActiveKilled(_)));
        let active_is_frozen = has(|what| *what == What::ActiveFrozen);
        // With two of them one may be killed; a second fault may hit the other.
        let nobody_is_left = active_is_frozen || (active_is_killed && (actives == 1 || faults.len() > 1));
        Excuse {
            endpoint_may_fail: rbuddy_is_away || nobody_is_left,
            direct_may_fail: active_is_killed || active_is_frozen || (rbuddy_is_away && faults.len() > 1),
            direct_may_be_nil: has(|what| matches!(what, What::ActiveKilled(Left::Nothing))),
        }
    }

    fn covers(&self, kind: ReaderKind, seen: &Seen) -> Result<(), String> {
        let (may_fail, may_be_nil) = match kind {
            ReaderKind::Endpoint => (self.endpoint_may_fail, false),
            ReaderKind::Asking | ReaderKind::Told => (self.direct_may_fail, self.direct_may_be_nil),
        };
        if seen.wrong > 0 {
            return Err(format!("{kind:?}: a wrong answer"));
        }
        if seen.nil > 0 && !may_be_nil {
            return Err(format!("{kind:?}: no such key"));
        }
        if seen.failed > 0 && !may_fail {
            return Err(format!("{kind:?}: a failed read"));
        }
        Ok(())
    }
}
