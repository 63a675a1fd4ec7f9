//! Every promise can be seen broken: each mutant is caught, by the promise that it breaks and by no other, and the unbroken rbuddy passes the same seeds.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use rbuddy_sim::memory::LIMITED_FROM;
use rbuddy_sim::mutant::Mutant;
use rbuddy_sim::run::run;

/// A mutant that so many seeds do not catch has got away.
const SEEDS: u64 = 400;

#[test]
fn each_mutant_is_caught_by_the_promise_that_it_breaks() {
    let mut wrong = Vec::new();
    for (mutant, promise) in Mutant::ALL {
        // The first know no limits of memory.
        let mut seeds = (1..=SEEDS).chain(LIMITED_FROM..LIMITED_FROM + SEEDS);
        let caught = seeds.find_map(|seed| Some((seed, run(seed, Some(mutant), false).broken?)));
        match caught {
            Some((seed, broken)) if broken.promise == promise => {
                assert_eq!(run(seed, None, false).broken, None, "seed {seed} fails without {mutant:?} as well");
            }
            caught => wrong.push(format!("{mutant:?} breaks {promise}: {caught:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
