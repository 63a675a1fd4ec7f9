//! Many seeds, those that once found something, and the same seed twice.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use rbuddy_sim::memory::LIMITED_FROM;
use rbuddy_sim::run::{MAINTAINED_FROM, run};

const SEEDS: u64 = 2000;

fn failures(seeds: impl Iterator<Item = u64>) -> Vec<String> {
    seeds.filter_map(|seed| Some(format!("seed {seed}: {} (`make sim SEED={seed}` tells it)", run(seed, None, false).broken?))).collect()
}

#[test]
fn no_promise_is_broken_and_everything_comes_to_rest() {
    let failed = failures(1..=SEEDS);
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn operators_who_take_servers_out_break_no_promise_either() {
    let failed = failures(MAINTAINED_FROM..MAINTAINED_FROM + SEEDS / 2);
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn standbys_with_too_little_memory_break_no_promise_either() {
    let failed = failures(LIMITED_FROM..LIMITED_FROM + SEEDS / 2);
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn seeds_that_found_something_stay_mended() {
    let kept = include_str!("kept_seeds.txt").lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let seeds = kept.map(|line| line.split_whitespace().next().and_then(|seed| seed.parse().ok()).expect("a line begins with its seed"));
    let failed = failures(seeds);
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn the_same_seed_gives_the_same_story_twice() {
    for seed in 1..=20 {
        let (first, second) = (run(seed, None, true), run(seed, None, true));
        assert!(first.trace.len() > 20, "seed {seed} tells something");
        assert_eq!(first.trace, second.trace, "seed {seed}");
    }
}
