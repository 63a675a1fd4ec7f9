//! Tells what happens: a live line below the story on a terminal, plain lines elsewhere.

use super::stage::{Stage, Watch};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How often the live line is drawn and rbuddy is asked for its phase.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// The voice of the demo.
#[derive(Debug, Clone)]
pub(crate) struct Narrator {
    started: Instant,
    /// Hidden where output is no terminal.
    live: ProgressBar,
}

/// Follows rbuddy's phases until dropped.
#[derive(Debug)]
pub(crate) struct Following(JoinHandle<()>);

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Narrator {
    pub(crate) fn new() -> Narrator {
        let is_terminal = std::io::stdout().is_terminal();
        let target = if is_terminal { ProgressDrawTarget::stdout() } else { ProgressDrawTarget::hidden() };
        let live = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
            live.set_style(style);
        }
        Narrator { started: Instant::now(), live }
    }

    /// A line of the story, with the time since the beginning.
    pub(crate) fn tell(&self, line: &str) {
        self.say(&format!("{:6.1} s  {line}", self.started.elapsed().as_secs_f64()));
    }

    /// A line as it is.
    pub(crate) fn say(&self, text: &str) {
        // Somebody who closes our output early wants no more of it; that is no reason to end with servers half torn down.
        self.live.suspend(|| {
            let _ = writeln!(std::io::stdout(), "{text}");
        });
    }

    /// Ends the live line.
    pub(crate) fn finish(&self) {
        self.live.finish_and_clear();
    }

    /// From now on tells each change of rbuddy's phase, and keeps the live line fresh.
    pub(crate) fn follow(&self, stage: &Stage) -> Following {
        let (narrator, watch) = (self.clone(), stage.watch());
        Following(tokio::spawn(async move { narrator.keep_following(watch).await }))
    }

    async fn keep_following(&self, watch: Watch) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        let mut last_phase = None;
        loop {
            ticks.tick().await;
            let Ok(status) = watch.status().await else { continue };
            if last_phase.replace(status.phase) != Some(status.phase) {
                self.tell(&format!("    rbuddy: {} (generation {}): {}", status.phase, status.generation, status.explanation));
            }
            let actives = status.active.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            self.live.set_message(format!("{} · active {actives} · {}", watch.counts(), status.phase));
            self.live.tick();
        }
    }
}
