//! The controller asked beside its work. What rbuddy wrote down while it served is decided once more by `rbuddy replay`: through a failover, a kill, a full
//! file, and whatever real servers say. And `rbuddy plan`: what it would decide.

use rbuddy_lab::wait_until;
use rbuddy_testkit::scenario::primary_comes_back_with_another_history;
use rbuddy_testkit::{FAILOVER_WITHIN, World, WorldOptions, cli};
use std::path::{Path, PathBuf};
use std::time::Duration;

const KEYS: u64 = 5_000;

fn journal_of(world: &World) -> PathBuf {
    world.folder().join("state/main/journal")
}

/// Every decision is the same; gives what was shown.
async fn replayed(place: &Path) -> String {
    let shown = cli(&["replay", &place.display().to_string()]).await;
    assert_eq!(shown.status, Some(0), "{}", shown.text.lines().rev().take(20).collect::<Vec<_>>().join("\n"));
    assert!(shown.text.contains(" 0 decided differently"), "{}", shown.text);
    shown.text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_and_a_kill_are_replayed_without_a_difference_and_the_promotion_is_told() {
    let mut world = World::start(WorldOptions::of(KEYS)).await;
    let generation = world.status().await.generation.0;
    world.rbuddy.kill().await;
    world.rbuddy.launch().await;
    world.at_rest_in(generation, FAILOVER_WITHIN).await;
    primary_comes_back_with_another_history(&mut world, Duration::ZERO).await;
    let status = world.at_rest_in(generation + 1, FAILOVER_WITHIN).await;

    // While it runs, and after its end.
    replayed(&journal_of(&world)).await;
    assert_eq!(world.rbuddy.terminate().await, Some(0));
    let text = replayed(&journal_of(&world)).await;
    let active = status.active.first().expect("one serves");
    for word in [
        "rbuddy starts without a state file".to_owned(),
        "rbuddy starts with a state file".to_owned(),
        format!("{active}: standby → active"),
        format!("generation {generation} → {}", generation + 1),
        "tells ".to_owned(),
        "a full resync".to_owned(),
    ] {
        assert!(text.contains(&word), "nothing tells of {word:?}:\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_decision_is_found() {
    let world = World::start(WorldOptions::of(KEYS)).await;
    let file = journal_of(&world).join("000001.ndjson");
    let text = std::fs::read_to_string(&file).expect("it is written while it runs");
    let follow = "\"command\":{\"follow\":{\"serve_stale\":true}}";
    let forged = text.replacen(follow, "\"command\":\"detach\"", 1);
    assert_ne!(forged, text, "the active was told to follow the relay:\n{text}");
    let copy = world.folder().join("forged.ndjson");
    std::fs::write(&copy, forged).expect("written");
    let shown = cli(&["replay", &copy.display().to_string()]).await;
    assert_eq!(shown.status, Some(1), "{}", shown.text);
    assert!(shown.text.contains("✗ recorded:") && shown.text.contains("1 decided differently"), "{}", shown.text);
}

#[tokio::test(flavor = "multi_thread")]
async fn under_load_files_follow_one_another_and_each_can_be_replayed() {
    let journal = ["[journal]", "size = \"64KiB\"", "files = 3"].map(str::to_owned);
    let options = WorldOptions { extra: journal.to_vec(), ..WorldOptions::of(KEYS) };
    let mut world = World::start(options).await;
    let writer = world.writer();
    let (fourth, gone) = (journal_of(&world).join("000004.ndjson"), journal_of(&world).join("000001.ndjson"));
    let rotated = wait_until("a fourth file, and the first one gone", Duration::from_secs(120), async || {
        if fourth.exists() && !gone.exists() { Ok(()) } else { Err("not yet".to_owned()) }
    });
    rotated.await.expect("files follow one another");
    drop(writer);
    assert_eq!(world.rbuddy.terminate().await, Some(0));
    let mut files: Vec<PathBuf> = std::fs::read_dir(journal_of(&world)).expect("there").map(|entry| entry.expect("one").path()).collect();
    files.sort();
    assert_eq!(files.len(), 3, "{files:?}");
    for file in &files {
        replayed(file).await;
    }
    replayed(&journal_of(&world)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_names_who_would_serve_and_who_would_be_filled() {
    let mut world = World::start(WorldOptions::of(KEYS).slow_to_load(100)).await;
    let status = world.status().await;
    let (active, standby) = (&status.active[0], &status.standby[0]);
    let shown = cli(&["plan", "--api", world.rbuddy.api()]).await;
    assert_eq!(shown.status, Some(0), "{}", shown.text);
    for words in [
        format!("  {active} would serve\n  disconnected: "),
        format!("a full resync; {standby} would be filled: "),
        "bytes on the relay's disk, ".to_owned(),
        " are to be had, enough".to_owned(),
        "until the snapshot is stored: not measured yet; from there until it is loaded and followed: not measured yet".to_owned(),
        format!("{active} died:\n  nobody would serve"),
        format!("{standby} died:\n  {active} would serve"),
    ] {
        assert!(shown.text.contains(&words), "{words:?} is not in\n{}", shown.text);
    }
    let json = cli(&["plan", "--json", "--api", world.rbuddy.api()]).await;
    let plan: serde_json::Value = serde_json::from_str(&json.text).expect("JSON");
    assert_eq!(plan["new_primary"]["filled"], standby.to_string());
    assert_eq!(world.status().await.phase, status.phase, "asking changes nothing");

    primary_comes_back_with_another_history(&mut world, Duration::ZERO).await;
    let json = cli(&["plan", "--json", "--api", world.rbuddy.api()]).await;
    let plan: serde_json::Value = serde_json::from_str(&json.text).expect("JSON");
    let filling_ms = plan["new_primary"]["filling_ms"].as_u64().expect("measured");
    assert!(filling_ms >= 500, "5000 keys with a delay of 100 µs each: {filling_ms} ms");
}
