//! Seeds of random rounds, as `SEED` and `ROUNDS` ask for them: `make chaos`, `make chaos-relay`, and one seed that is to be seen again.

/// Runs so many rounds as are asked for over as many seeds as they take, `first` being the one to begin with where `SEED` names none; all of them, also
/// where one fails. Without `SEED` or `ROUNDS` there is nothing to do.
pub async fn run_asked_for<Rounds>(first: u64, rounds_per_seed: u64, rounds_of: impl Fn(u64) -> Rounds)
where
    Rounds: Future<Output = ()> + 'static,
{
    let asked = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|error| panic!("{name}: {error}")));
    let (first, rounds) = match (asked("SEED"), asked("ROUNDS")) {
        (None, None) => return,
        (seed, rounds) => (seed.unwrap_or(first), rounds.unwrap_or(rounds_per_seed)),
    };
    let mut failed = Vec::new();
    for seed in first..first + rounds.div_ceil(rounds_per_seed) {
        // In a task of its own: one that fails does not hide what the next would show.
        let local = tokio::task::LocalSet::new();
        let outcome = local.run_until(async { tokio::task::spawn_local(rounds_of(seed)).await });
        if outcome.await.is_err() {
            failed.push(seed);
        }
    }
    assert!(failed.is_empty(), "seeds that failed: {failed:?}");
}
