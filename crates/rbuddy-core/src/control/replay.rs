//! Runs a controller again from what a journal holds, and holds its decisions against those that were recorded.
//!
//! Promise: the decisions are made by the very [`Controller`] that decides in production, never told after the record; a record that breaks off (a crash, a
//! full disk) is no difference, any other deviation is. Not here: reading files, words for a terminal's colours.
//!
//! ```
//! # use rbuddy_core::control::replay::Replay;
//! # let entries = Vec::new();
//! let mut replay = Replay::default();
//! let mut steps: Vec<_> = entries.into_iter().filter_map(|entry| replay.take(entry)).collect();
//! steps.extend(replay.finish());
//! assert!(steps.iter().all(|step| step.difference.is_none()));
//! ```

use super::action::{Action, Output};
use super::controller::Controller;
use super::event::Event;
use super::journal::{Beginning, Checkpoint, Entry};
use super::telling::{Look, event_in_words};
use crate::types::Time;
use serde::Serialize;

/// Takes the entries of a journal one after the other.
#[derive(Debug, Default)]
pub struct Replay {
    controller: Option<Controller>,
    /// The step whose recorded actions are still read.
    open: Option<Open>,
}

/// One thing that happened, and all that came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Step {
    /// When.
    pub at: Time,
    /// What happened, in words.
    pub event: String,
    /// What is not as it was, in words: phase, roles, who may be read, what the relay is to do.
    pub changes: Vec<String>,
    /// What the replayed controller decided.
    pub actions: Vec<Action>,
    /// Where that is not what was recorded.
    pub difference: Option<Difference>,
}

/// How the record and the replay differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The first action that is not the same; `None`: there is none at this place.
    Action {
        /// As recorded.
        recorded: Option<Box<Action>>,
        /// As decided now.
        replayed: Option<Box<Action>>,
    },
    /// The recorded checkpoint is not what the replay has come to.
    Checkpoint,
    /// There is no controller yet: the record begins in the middle.
    NoBeginning,
}

#[derive(Debug)]
struct Open {
    step: Step,
    recorded: Vec<Action>,
}

impl Step {
    /// Nothing but counters moved.
    pub fn is_quiet(&self) -> bool {
        self.changes.is_empty() && self.actions.is_empty() && self.difference.is_none()
    }
}

impl Replay {
    /// Takes the next entry. Gives the step before, if this entry ends it: what was recorded of it is complete then.
    pub fn take(&mut self, entry: Entry) -> Option<Step> {
        match entry {
            Entry::Begin(beginning) => {
                // The run before ended here, in whatever way.
                let before = self.close(Record::BrokenOff);
                self.begin(*beginning);
                before
            }
            Entry::Checkpoint(checkpoint) => {
                let before = self.close(if checkpoint.lost > 0 { Record::BrokenOff } else { Record::Whole });
                self.go_on_from(*checkpoint);
                before
            }
            Entry::Event { at, event } => {
                let before = self.close(Record::Whole);
                self.tell(at, event);
                before
            }
            Entry::Action(action) => {
                match &mut self.open {
                    Some(open) => open.recorded.push(action),
                    None => self.open = Some(Open::without_beginning(Time::default(), "an action".into())),
                }
                None
            }
        }
    }

    /// The last step. Its record may be incomplete.
    pub fn finish(mut self) -> Option<Step> {
        self.close(Record::BrokenOff)
    }

    fn begin(&mut self, Beginning { at, policy, state }: Beginning) {
        let known = if state.is_some() { "with a state file" } else { "without a state file" };
        let event = format!("rbuddy starts {known}");
        let mut controller = Controller::new(policy, state, at);
        let actions = drain(&mut controller);
        self.open = Some(Open::of(at, event, Look::of(&controller).as_new(), actions));
        self.controller = Some(controller);
    }

    fn go_on_from(&mut self, Checkpoint { at, lost, controller }: Checkpoint) {
        let event = match lost {
            0 => "checkpoint".to_owned(),
            lost => format!("checkpoint; {lost} entries before it could not be written"),
        };
        let changes = match &self.controller {
            Some(known) => Look::of(known).changes_to(&Look::of(&controller)),
            None => Look::of(&controller).as_new(),
        };
        let mut open = Open::of(at, event, changes, Vec::new());
        let differs = lost == 0 && self.controller.as_ref().is_some_and(|known| *known != controller);
        open.step.difference = differs.then_some(Difference::Checkpoint);
        self.open = Some(open);
        self.controller = Some(controller);
    }

    fn tell(&mut self, at: Time, event: Event) {
        let Some(controller) = &mut self.controller else {
            self.open = Some(Open::without_beginning(at, "an event".into()));
            return;
        };
        let words = event_in_words(&controller.world, &event);
        let before = Look::of(controller);
        controller.handle(at, event);
        let actions = drain(controller);
        self.open = Some(Open::of(at, words, before.changes_to(&Look::of(controller)), actions));
    }

    fn close(&mut self, record: Record) -> Option<Step> {
        let Open { mut step, recorded } = self.open.take()?;
        if step.difference.is_none() {
            step.difference = difference(&recorded, &step.actions, record);
        }
        Some(step)
    }
}

impl Open {
    fn of(at: Time, event: String, changes: Vec<String>, actions: Vec<Action>) -> Open {
        Open { step: Step { at, event, changes, actions, difference: None }, recorded: Vec::new() }
    }

    fn without_beginning(at: Time, event: String) -> Open {
        let mut open = Open::of(at, event, Vec::new(), Vec::new());
        open.step.difference = Some(Difference::NoBeginning);
        open
    }
}

/// How much of a step's actions the record must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Record {
    /// All of them.
    Whole,
    /// What came first: behind that it breaks off.
    BrokenOff,
}

fn difference(recorded: &[Action], replayed: &[Action], record: Record) -> Option<Difference> {
    let same = recorded.iter().zip(replayed).take_while(|(recorded, replayed)| recorded == replayed).count();
    let (recorded, replayed) = (recorded.get(same), replayed.get(same));
    let is_missing_only = recorded.is_none() && (replayed.is_none() || record == Record::BrokenOff);
    let boxed = |action: Option<&Action>| action.cloned().map(Box::new);
    (!is_missing_only).then(|| Difference::Action { recorded: boxed(recorded), replayed: boxed(replayed) })
}

fn drain(controller: &mut Controller) -> Vec<Action> {
    let mut actions = Vec::new();
    while let Output::Action(action) = controller.poll_output() {
        actions.push(action);
    }
    actions
}
