//! The relay alone is killed and started again with its folder: every replica goes on by a partial resync, and the primary pays for nothing, whether the
//! snapshot is still there or the stream behind it has long outgrown it. So does one that lacks more than the primary keeps, if the relay had it on disk.

use rbuddy_lab::writer::write_bytes;
use rbuddy_lab::{Binary, Data, Link, ServerOptions, Writer, WriterOptions, wait_until};
use rbuddy_testkit::{Follower, RelayOptions, RelayWorld, SOON};
use std::time::Duration;

/// No snapshot is worth keeping with so much stream behind it.
const LONG_STREAM: u64 = 300 << 20;
/// Covers every absence in these tests many times.
const PRIMARY_BACKLOG: &str = "32mb";
/// How long the relay is away.
const AWAY: Duration = Duration::from_secs(1);

macro_rules! with_a_stream_of {
    ($($module:ident: $bytes:expr;)*) => {
        $(
            mod $module {
                use super::*;

                #[tokio::test(flavor = "multi_thread")]
                async fn killed_in_silence_it_costs_nothing() {
                    killed_in_silence(story($bytes).await).await;
                }

                #[tokio::test(flavor = "multi_thread")]
                async fn killed_under_load_it_costs_nothing() {
                    killed_under_load(story($bytes).await).await;
                }

                #[tokio::test(flavor = "multi_thread")]
                async fn a_replica_that_stays_away_keeps_nobody_waiting() {
                    replica_stays_away(story($bytes).await).await;
                }

                #[tokio::test(flavor = "multi_thread")]
                async fn a_replica_that_lacks_more_than_the_primary_keeps_goes_on_from_its_disk() {
                    replica_lacks_much(story($bytes).await).await;
                }

                #[tokio::test(flavor = "multi_thread")]
                async fn a_replica_that_is_ahead_of_it_is_waited_for() {
                    replica_is_ahead(story($bytes).await).await;
                }
            }
        )*
    };
}

with_a_stream_of! {
    behind_a_snapshot: 1 << 20;
    after_a_long_stream: LONG_STREAM;
}

/// Two replicas that have followed for a while, and what that has cost.
struct Story {
    world: RelayWorld,
    paid: u64,
    given: Vec<u64>,
}

async fn story(stream_bytes: u64) -> Story {
    let binary = Binary::find().expect("a server binary");
    let options = ServerOptions::default().with("repl-backlog-size", PRIMARY_BACKLOG);
    let mut world = RelayWorld::start(&binary, options, RelayOptions::default()).await;
    for _ in 0..2 {
        world.add_replica(&binary, ServerOptions::default()).await;
    }
    world.all_caught_up(SOON).await;
    world.stream(stream_bytes).await;
    let (paid, given) = (world.paid().await, given(&world));
    assert_eq!((paid, given.as_slice()), (1, &[1, 1][..]), "full resyncs before the kill");
    Story { world, paid, given }
}

impl Story {
    async fn ends_without_a_full_resync(self) {
        self.world.all_caught_up(SOON).await;
        self.world.all_equal(SOON).await;
        assert_eq!(given(&self.world), self.given, "full resyncs of the replicas");
        assert_eq!(self.world.paid().await, self.paid, "full resyncs that the primary paid for");
        self.world.relay.logged_no_error();
    }
}

async fn killed_in_silence(mut story: Story) {
    story.world.relay.kill().await;
    // The length of the absence is part of the scenario.
    tokio::time::sleep(AWAY).await;
    story.world.relay.launch().await;
    story.ends_without_a_full_resync().await;
}

async fn killed_under_load(mut story: Story) {
    // About 2 MB in the second of its absence.
    let options = WriterOptions { writes_per_second: 2000, value_bytes: 1000 };
    let mut writer = Writer::start(story.world.primary.address(), options);
    for _ in 0..2 {
        has_written(&writer, 1000).await;
        story.world.relay.kill().await;
        // The length of the absence is part of the scenario.
        tokio::time::sleep(AWAY).await;
        story.world.relay.launch().await;
        story.world.relay.is_up(SOON).await;
    }
    has_written(&writer, 1000).await;
    writer.pause().await;
    story.ends_without_a_full_resync().await;
}

async fn replica_stays_away(mut story: Story) {
    story.world.relay.kill().await;
    story.world.replicas[1].server.kill().await.expect("kill a replica");
    write_bytes(&story.world.primary, 1 << 20).await.expect("write");
    story.world.relay.launch().await;
    story.world.caught_up(0, SOON).await;
    assert_eq!((story.world.paid().await, given(&story.world)), (story.paid, story.given), "full resyncs");
}

/// More than the relay has in memory, and many times what the primary keeps.
const LACKED_BYTES: u64 = 160 << 20;

async fn replica_lacks_much(mut story: Story) {
    let world = &mut story.world;
    world.replicas[1].link.set(Link::Cut);
    for portion in 1..=LACKED_BYTES >> 23 {
        write_bytes(&world.primary, 1 << 23).await.expect("write");
        world.caught_up(0, SOON).await;
        // Before memory loses anything the disk has begun.
        if portion >= 7 {
            disk_is_not_behind(world).await;
        }
    }
    for _ in 0..2 {
        keeps_the_stream(world).await;
        world.relay.kill().await;
        world.relay.launch().await;
        world.caught_up(0, SOON).await;
    }
    world.replicas[1].link.set(Link::Pass);
    story.ends_without_a_full_resync().await;
}

/// A disk that is slower than the stream loses it, and that is another story.
async fn disk_is_not_behind(world: &RelayWorld) {
    let dir = world.folder().join("relay");
    let end = world.replicas[0].info().await.expect("it answers").offset.expect("it has one").get();
    let written = wait_until("the disk to have what arrived", SOON, async || {
        let files = std::fs::read_dir(&dir).map_err(|error| error.to_string())?.flatten();
        let ends = files.filter_map(|file| {
            let start: u64 = file.file_name().to_string_lossy().strip_prefix("log-")?.split('-').nth(1)?.parse().ok()?;
            Some(start + file.metadata().ok()?.len())
        });
        let ends = ends.max();
        match ends {
            Some(on_disk) if on_disk >= end => Ok(()),
            Some(_) | None => Err(format!("{:?} of {end}", ends)),
        }
    });
    written.await.expect("it writes");
}

/// Until the relay has written down which files the next run is to go on from. (What a kill before that costs is what only memory had.)
async fn keeps_the_stream(world: &RelayWorld) {
    let dir = world.folder().join("relay");
    let kept = wait_until("relay.json to name a log that is there", SOON, async || {
        let text = std::fs::read_to_string(dir.join("relay.json")).map_err(|error| error.to_string())?;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("\"log\": \"")?.strip_suffix("\","));
        let names: Vec<String> = names.map(str::to_owned).collect();
        let is_there = |name: &String| {
            let mut files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
            files.any(|file| file.file_name().to_string_lossy().starts_with(name.as_str()))
        };
        if names.iter().any(is_there) { Ok(()) } else { Err(format!("{names:?}")) }
    });
    kept.await.expect("it keeps it");
}

/// Two positions differ by what one replica got from the primary itself while the relay was away; an application that moves it does that.
async fn replica_is_ahead(mut story: Story) {
    let world = &mut story.world;
    world.relay.kill().await;
    let (ahead, port) = (&world.replicas[0], world.primary.port().to_string());
    ahead.server.command(&["REPLICAOF", "127.0.0.1", &port]).await.expect("replicaof");
    write_bytes(&world.primary, 1 << 20).await.expect("write");
    world.caught_up(0, SOON).await;
    assert_eq!(world.paid().await, story.paid, "the primary's backlog covers the move");
    // The relay comes back, and cannot catch up yet.
    world.upstream.set(Link::Cut);
    world.replicas[0].follow().await;
    let questions = |world: &RelayWorld| world.replicas.iter().map(Follower::questions).collect::<Vec<_>>();
    let before = questions(world);
    world.relay.launch().await;
    let asked = wait_until("both replicas to ask the relay", SOON, async || {
        let now = questions(world);
        if now.iter().zip(&before).all(|(now, before)| now > before) { Ok(()) } else { Err(format!("{before:?}, now {now:?}")) }
    });
    asked.await.expect("they ask");
    let given_one = wait_until("a full resync that must not be", Duration::from_secs(3), async || {
        let given = given(&story.world);
        if given == story.given { Err("none") } else { Ok(given) }.map_err(str::to_owned)
    });
    if let Ok(given) = given_one.await {
        panic!("full resyncs went from {:?} to {given:?}", story.given);
    }
    story.world.upstream.set(Link::Pass);
    story.ends_without_a_full_resync().await;
}

/// The primary has begun another history while the relay was away, and a replica has gone on with that.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_an_earlier_history_is_given_to_nobody_before_the_primary_has_spoken() {
    let mut story = story(1 << 20).await;
    let world = &mut story.world;
    world.relay.kill().await;
    world.primary.kill().await.expect("kill the primary");
    world.primary.restart(Data::Nothing).await.expect("restart the primary");
    world.primary.ready(SOON).await.expect("the primary");
    write_bytes(&world.primary, 1 << 20).await.expect("write");
    let port = world.primary.port().to_string();
    world.replicas[0].server.command(&["REPLICAOF", "127.0.0.1", &port]).await.expect("replicaof");
    world.caught_up(0, SOON).await;
    world.upstream.set(Link::Cut);
    let (before, questions) = (given(world), world.replicas[0].questions());
    world.replicas[0].follow().await;
    world.relay.launch().await;
    let asked = wait_until("the replica to ask the relay", SOON, async || {
        let now = world.replicas[0].questions();
        if now > questions { Ok(()) } else { Err(now.to_string()) }
    });
    asked.await.expect("it asks");
    let given_one = wait_until("a full resync that must not be", Duration::from_secs(3), async || {
        if given(world) == before { Err("none".to_owned()) } else { Ok(()) }
    });
    assert!(given_one.await.is_err(), "the older dataset was given in place of the newer one");
    world.upstream.set(Link::Pass);
    world.all_caught_up(SOON).await;
    world.all_equal(SOON).await;
    assert_eq!(given(world)[0], before[0], "it goes on where it is");
    world.relay.logged_no_error();
}

fn given(world: &RelayWorld) -> Vec<u64> {
    world.replicas.iter().map(Follower::full_resyncs).collect()
}

async fn has_written(writer: &Writer, more: u64) {
    let from = writer.written();
    let written = wait_until("writes", SOON, async || {
        let now = writer.written();
        if now >= from + more { Ok(()) } else { Err(format!("{now} written")) }
    });
    written.await.expect("the writer writes");
}
