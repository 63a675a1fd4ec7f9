//! The scenarios of the design as stories to read: `transcripts/*.txt` say what happens and when, and what the controller must want then, in order.
//!
//! ```text
//! # What this is about.
//! given: A serves, B is empty                       who there is; all is at rest, if nothing else is said
//!
//! at 0.0: the primary is back with a new dataset    what happens, in the words of scene/fault.rs, at which second
//!   | 0.2 relay: a full resync into H2 may be asked for
//! at 9.0: the end                                   then it is told where everything is
//! ```
//!
//! Lines with a bar are what the controller wants, told by `scene/teller.rs`. `RBUDDY_BLESS=1` writes down what it wants now, for review: each line must be
//! right by the design, not only as it was.

#![allow(clippy::unwrap_used, clippy::wildcard_enum_match_arm, missing_docs, reason = "a test")]

mod scene;

use rbuddy_core::control::settings::StandbyMode;
use scene::fault::Fault;
use scene::teller::Teller;
use scene::trial::Trial;
use scene::{A, B, C, Scene};
use std::path::PathBuf;
use std::time::Duration;

/// Who there may be.
fn given(words: &str) -> Scene {
    match words {
        "A serves, B is empty" => Scene::one_and_one(),
        "A and B serve, C is empty" => Scene::with(&[A, B, C], |scene| {
            scene.policy.actives = 2;
            scene.follow_primary(A);
            scene.follow_primary(B);
        }),
        "A and B are both to serve, warm" => Scene::with(&[A, B], |scene| {
            scene.policy.standby = StandbyMode::Warm;
            scene.follow_primary(A);
            scene.follow_primary(B);
        }),
        "A and B both hold the primary's data, one of them is to be the standby" => Scene::with(&[A, B], |scene| {
            scene.follow_primary(A);
            scene.follow_primary(B);
        }),
        _ => panic!("given: {words}? See `given` in transcripts.rs"),
    }
}

/// A story being played.
struct Play {
    trial: Trial,
    teller: Teller,
    lines: Vec<String>,
}

impl Play {
    fn new(words: &str) -> Play {
        let (words, is_first_day) = words.strip_suffix("; rbuddy starts for the first time").map_or((words, false), |words| (words, true));
        let mut trial = Trial::new(given(words));
        if !is_first_day {
            trial.scene.run(Duration::from_secs(3));
        }
        let teller = Teller::new(&trial.scene);
        trial.scene.record = Some(Vec::new());
        Play { trial, teller, lines: Vec::new() }
    }

    fn play_until(&mut self, seconds: &str) {
        while self.teller.seconds(self.trial.scene.now) != seconds {
            self.trial.step().unwrap();
            self.tell();
            assert!(self.lines.len() < 10_000, "at {seconds}: is not a later moment, to a tenth of a second");
        }
    }

    fn happen(&mut self, words: &str) {
        if words == "the end" {
            let end = self.teller.tell_end(&self.trial.scene);
            self.lines.extend(end.into_iter().map(|line| format!("  | {line}")));
            return;
        }
        let fault = Fault::told(words, &self.trial.ports).unwrap_or_else(|| panic!("{words}? See scene/fault.rs for what can happen"));
        assert!(self.trial.applies(fault), "{words}: changes nothing here");
        self.trial.inflict(fault);
        self.tell();
    }

    fn tell(&mut self) {
        for (at, action) in self.trial.scene.record.replace(Vec::new()).into_iter().flatten() {
            if let Some(line) = self.teller.tell(&action) {
                self.lines.push(format!("  | {} {line}", self.teller.seconds(at)));
            }
        }
    }
}

/// Plays what a file says happens, and gives the file as it should be.
fn play(text: &str) -> String {
    let mut play = None;
    let mut lines = Vec::new();
    for line in text.lines().filter(|line| !line.starts_with("  | ")) {
        if let Some(words) = line.strip_prefix("given: ") {
            play = Some(Play::new(words));
        }
        let Some(play) = &mut play else {
            lines.push(line.to_owned());
            continue;
        };
        let event = line.strip_prefix("at ").map(|event| event.split_once(": ").unwrap_or_else(|| panic!("at SECONDS: WHAT, not: {line}")));
        if let Some((seconds, _)) = event {
            play.play_until(seconds);
            lines.append(&mut play.lines);
        }
        lines.push(line.to_owned());
        if let Some((_, words)) = event {
            play.happen(words);
            lines.append(&mut play.lines);
        }
    }
    lines.join("\n") + "\n"
}

fn check(name: &str, text: &str) {
    let played = play(text);
    if played == text {
        return;
    }
    if is_blessed() {
        #[expect(clippy::disallowed_methods, reason = "writing it down is what was asked for")]
        std::fs::write(folder().join(format!("{name}.txt")), &played).unwrap();
        return;
    }
    let first = text.lines().zip(played.lines()).take_while(|(expected, found)| expected == found).count();
    let show = |text: &str| text.lines().skip(first.saturating_sub(3)).take(12).collect::<Vec<_>>().join("\n");
    let where_to = "RBUDDY_BLESS=1 writes down what it wants now";
    panic!("{name}.txt, from line {} on\n\nexpected:\n{}\n\nfound:\n{}\n\n{where_to}", first + 1, show(text), show(&played));
}

#[expect(clippy::disallowed_methods, reason = "whether to write is not a matter of the code under test")]
fn is_blessed() -> bool {
    std::env::var("RBUDDY_BLESS").is_ok()
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

macro_rules! transcripts {
    ($($name:ident),+ $(,)?) => {
        $(#[test]
        fn $name() {
            check(stringify!($name), include_str!(concat!("transcripts/", stringify!($name), ".txt")));
        })+

        #[test]
        fn every_transcript_is_played() {
            let mut files: Vec<String> =
                folder().read_dir().unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
            files.sort();
            let mut played = vec![$(concat!(stringify!($name), ".txt")),+];
            played.sort_unstable();
            assert_eq!(files, played);
        }
    };
}

transcripts! {
    short_break,
    new_dataset,
    new_active_dies_while_readers_leave,
    new_active_dies_after_an_overrun,
    empty_primary,
    approved_dataset,
    warm_rolling_resync,
    planned_switch,
    dead_active_with_another,
    dead_active_with_standby,
    dead_active_and_primary_away,
    taking_over,
    two_full_replicas,
    crash_while_seeding,
    crash_while_draining,
    unknown_emptying,
    unknown_emptying_that_was_done,
    moved_primary,
}
