//! `rbuddy replay`: steps through a journal. The controller of this very binary decides once more, and is held against what was recorded.
//!
//! Needs no running rbuddy and changes nothing: it reads files.

use crate::exit::{Exit, Failure};
use crate::out;
use anyhow::{Context, anyhow};
use clap::Args;
use jiff::civil;
use jiff::{Timestamp, tz::TimeZone};
use rbuddy_core::control::replay::{Difference, Replay, Step};
use rbuddy_core::control::telling::action_in_words;
use rbuddy_core::types::Time;
use rbuddy_runtime::control::journal::{Heading, Item, JournalReader, journal_files};
use std::io::BufRead as _;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// A journal's file, several in their order, or the folder with all of them (STATE_DIR/GROUP/journal)
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Show only what happened from then on: 2026-01-31T12:00:00, with Z or an offset where that is not the time here, or milliseconds since 1970
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Time>,
    /// Also show steps in which only counters moved
    #[arg(long)]
    all: bool,
    /// Wait for Enter after each step
    #[arg(long, conflicts_with = "json")]
    step: bool,
    /// One JSON object a step
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &ReplayArgs) -> Result<(), Failure> {
    let mut show = Show { args, steps: 0, quiet: 0, differing: 0 };
    let mut replay = Replay::default();
    for file in files(&args.files)? {
        for item in JournalReader::open(&file).map_err(anyhow::Error::from)? {
            match item.map_err(anyhow::Error::from)? {
                Item::Heading(heading) => warn_of_version(&heading),
                Item::Cut { line } => out::remark(&format!("{}, line {line}: half a line, the writer was cut off here", file.display())),
                Item::Entry(entry) => replay.take(*entry).into_iter().try_for_each(|step| show.step(&step))?,
            }
        }
    }
    replay.finish().into_iter().try_for_each(|step| show.step(&step))?;
    show.end()
}

/// Folders stand for the journals in them.
fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let found = journal_files(path).with_context(|| format!("read the folder {}", path.display()))?;
        if found.is_empty() {
            return Err(anyhow!("there is no journal in {}", path.display()).into());
        }
        files.extend(found);
    }
    Ok(files)
}

fn warn_of_version(heading: &Heading) {
    let own = env!("CARGO_PKG_VERSION");
    if heading.rbuddy != own {
        let theirs = &heading.rbuddy;
        out::remark(&format!(
            "written by rbuddy {theirs}, replayed by {own}: where they decide differently, that is no mistake of the journal"
        ));
    }
}

/// What is shown, and what it comes to.
struct Show<'a> {
    args: &'a ReplayArgs,
    steps: u64,
    quiet: u64,
    differing: u64,
}

impl Show<'_> {
    fn step(&mut self, step: &Step) -> Result<(), Failure> {
        self.steps += 1;
        self.quiet += u64::from(step.is_quiet());
        self.differing += u64::from(step.difference.is_some());
        let is_wanted = self.args.from.is_none_or(|from| step.at >= from) && (self.args.all || !step.is_quiet());
        // A difference is what this command is for.
        if !is_wanted && step.difference.is_none() {
            return Ok(());
        }
        if self.args.json {
            out::result(&serde_json::to_string(step).context("write a step as JSON")?);
            return Ok(());
        }
        out::result(&render(self.steps, step));
        if self.args.step {
            std::io::stdin().lock().read_line(&mut String::new()).context("wait for Enter")?;
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Failure> {
        let Show { steps, quiet, differing, .. } = self;
        let summary = format!("{steps} steps, {quiet} of them without a decision, {differing} decided differently from what was recorded");
        if *differing > 0 {
            return Err(Failure::new(Exit::Failed, summary));
        }
        out::remark(&summary);
        Ok(())
    }
}

/// One block: when and what happened; what changed; what was decided, with the reasons; where that differs.
fn render(number: u64, step: &Step) -> String {
    let mut lines = vec![format!("{} #{number} {}", clock_time(step.at), step.event)];
    lines.extend(step.changes.iter().map(|change| format!("    {change}")));
    lines.extend(step.actions.iter().map(|action| format!("  → {}", action_in_words(action))));
    match &step.difference {
        None => {}
        Some(Difference::Action { recorded, replayed }) => {
            let words = |action: &Option<Box<_>>| action.as_ref().map_or("nothing".to_owned(), |action| format!("{action:?}"));
            lines.push(format!("  ✗ recorded: {}", words(recorded)));
            lines.push(format!("    replayed: {}", words(replayed)));
        }
        Some(Difference::Checkpoint) => lines.push("  ✗ the controller that was recorded here is not the one that was replayed".into()),
        Some(Difference::NoBeginning) => lines.push("  ✗ there is nothing to begin from: begin with an earlier file".into()),
    }
    lines.join("\n")
}

fn clock_time(time: Time) -> String {
    let ms = i64::try_from(time.unix_ms()).unwrap_or(i64::MAX);
    let stamp = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    stamp.to_zoned(TimeZone::system()).strftime("%F %T%.3f").to_string()
}

fn time(text: &str) -> Result<Time, String> {
    if let Ok(ms) = text.parse() {
        return Ok(Time::from_unix_ms(ms));
    }
    let here = || text.parse::<civil::DateTime>().and_then(|time| time.to_zoned(TimeZone::system())).map(|time| time.timestamp());
    let stamp = text.parse::<Timestamp>().or_else(|_| here()).map_err(|_| "write 2026-01-31T12:00:00".to_owned())?;
    Ok(Time::from_unix_ms(u64::try_from(stamp.as_millisecond()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::time;
    use rbuddy_core::types::Time;

    #[test]
    fn times_are_read_as_people_write_them() {
        for text in ["1970-01-01T00:00:01Z", "1970-01-01T01:00:01+01:00", "1000"] {
            assert_eq!(time(text), Ok(Time::from_unix_ms(1000)), "{text}");
        }
        assert!(time("1970-01-02T00:00:01").is_ok());
        assert!(time("yesterday").is_err());
    }
}
