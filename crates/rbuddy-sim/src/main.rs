//! `rbuddy-sim run [--seeds N] [--from N]` runs many seeds and names those that break a promise; `rbuddy-sim replay SEED` tells one.

use rbuddy_sim::run::run;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match (words.split_first(), words.get(1).and_then(|seed| seed.parse().ok())) {
        (Some((&"replay", _)), Some(seed)) => replay(seed),
        (Some((&"run", options)), _) => match (option(options, "--seeds", 2000), option(options, "--from", 1)) {
            (Some(seeds), Some(from)) => run_many(from, seeds),
            (_, _) => usage(),
        },
        (_, _) => usage(),
    }
}

fn option(words: &[&str], name: &str, default: u64) -> Option<u64> {
    match words.iter().position(|word| *word == name) {
        None => Some(default),
        Some(at) => words.get(at + 1)?.parse().ok(),
    }
}

#[expect(clippy::print_stderr, reason = "a command line")]
fn usage() -> ExitCode {
    eprintln!("usage: rbuddy-sim run [--seeds 2000] [--from 1]\n       rbuddy-sim replay SEED");
    ExitCode::from(2)
}

#[expect(clippy::print_stdout, reason = "a command line")]
fn replay(seed: u64) -> ExitCode {
    let report = run(seed, None, true);
    println!("{}", report.trace.join("\n"));
    match report.broken {
        None => ExitCode::SUCCESS,
        Some(broken) => {
            println!("\n{broken}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command line")]
fn run_many(from: u64, seeds: u64) -> ExitCode {
    let mut failed = 0;
    for seed in from..from + seeds {
        if let Some(broken) = run(seed, None, false).broken {
            failed += 1;
            println!("seed {seed}: {broken}");
        }
    }
    println!("{seeds} seeds from {from}: {failed} failed. `rbuddy-sim replay SEED` tells one");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
