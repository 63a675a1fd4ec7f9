//! One entry, one line of JSON. What the controller is told or decides again and again (a view, a probe of one server, orders) is written as what is new in it.
//!
//! Promise: an entry comes back as it was; a part of a file begins with a [`Heading`], and needs nothing of what stands before. URLs of webhooks, which hold
//! keys and passwords more often than not, are written as they may be shown; each is still told from the others, which is all that a controller asks of them.

use super::delta::{applied, delta};
use crate::settings::shown_url;
use rbuddy_core::control::action::Action;
use rbuddy_core::control::event::{Event, Node};
use rbuddy_core::control::journal::Entry;
use rbuddy_core::types::GroupName;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The first line of each part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heading {
    /// Format of the lines that follow.
    pub journal: u32,
    /// Version of the rbuddy that wrote them: another one may decide otherwise.
    pub rbuddy: String,
    /// Whose journal this is.
    pub group: GroupName,
}

/// Format that this version writes, and the only one that it reads.
pub(super) const FORMAT: u32 = 1;

impl Heading {
    pub(super) fn new(group: GroupName) -> Heading {
        Heading { journal: FORMAT, rbuddy: env!("CARGO_PKG_VERSION").to_owned(), group }
    }
}

/// Writes the entries of one part.
#[derive(Debug, Default)]
pub(super) struct Encoder {
    last: BTreeMap<String, Value>,
    masks: BTreeMap<String, String>,
}

impl Encoder {
    /// `urls`: receivers of webhooks, now and formerly.
    pub(super) fn masking(urls: impl IntoIterator<Item = String>) -> Encoder {
        let mut encoder = Encoder::default();
        for url in urls {
            let number = encoder.masks.len() + 1;
            let mask = format!("{} (receiver {number})", shown_url(&url));
            encoder.masks.entry(url).or_insert(mask);
        }
        encoder
    }

    /// From here on nothing of what was written counts.
    pub(super) fn begin_part(&mut self) {
        self.last.clear();
    }

    pub(super) fn line(&mut self, entry: &Entry) -> serde_json::Result<String> {
        let mut value = serde_json::to_value(entry)?;
        mask(&mut value, &self.masks);
        let Some(like) = like(entry) else { return Ok(value.to_string()) };
        let line = match self.last.get(&like) {
            Some(before) => json!({ "like": like, "but": delta(before, &value) }).to_string(),
            None => value.to_string(),
        };
        self.last.insert(like, value);
        Ok(line)
    }
}

/// Reads what an [`Encoder`] wrote.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    last: BTreeMap<String, Value>,
}

impl Decoder {
    pub(super) fn begin_part(&mut self) {
        self.last.clear();
    }

    /// What is wrong with it, in words, if it is no entry.
    pub(super) fn entry(&mut self, line: Value) -> Result<Entry, String> {
        let value = match (line.get("like").and_then(Value::as_str), line.get("but")) {
            (Some(like), Some(changes)) => {
                let before = self.last.get(like).cloned().ok_or_else(|| format!("nothing before it is like {like:?}"))?;
                applied(before, changes.clone()).ok_or_else(|| format!("it does not fit to {like:?} before it"))?
            }
            _ => line,
        };
        let entry = Entry::deserialize(&value).map_err(|error| error.to_string())?;
        if let Some(like) = like(&entry) {
            self.last.insert(like, value);
        }
        Ok(entry)
    }
}

/// What an entry is held against: the last one of the same name.
fn like(entry: &Entry) -> Option<String> {
    match entry {
        Entry::Begin(_) | Entry::Checkpoint(_) => None,
        Entry::Event { event, .. } => match event {
            Event::Relay(_) => Some("relay".into()),
            Event::Probe { node: Node::Primary(address), .. } => Some(format!("primary {address}")),
            Event::Probe { node: Node::Replica(address), .. } => Some(format!("replica {address}")),
            Event::Probe { node: Node::Candidate(_), .. } | Event::Outcome { .. } | Event::Operator { .. } => None,
            Event::Sentinels(_) | Event::Delivered { .. } | Event::Tick => None,
        },
        Entry::Action(action) => match action {
            Action::Persist(_) => Some("state".into()),
            Action::Orders(_) => Some("orders".into()),
            Action::Assign(_) => Some("assignment".into()),
            Action::Outbox(_) | Action::Server { .. } | Action::Look(_) | Action::Reply { .. } | Action::Story { .. } => None,
        },
    }
}

fn mask(value: &mut Value, masks: &BTreeMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(mask) = masks.get(text) {
                text.clone_from(mask);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| mask(value, masks)),
        Value::Object(object) => object.values_mut().for_each(|value| mask(value, masks)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuddy_core::control::relay::RelayView;
    use rbuddy_core::types::Time;

    fn view(at: u64, memory_bytes: u64) -> Entry {
        let mut view = RelayView::default();
        view.backlog.memory_bytes = memory_bytes;
        Entry::Event { at: Time::from_unix_ms(at), event: Event::Relay(Box::new(view)) }
    }

    #[test]
    fn what_comes_again_is_written_as_what_is_new_and_comes_back_whole() {
        let (mut encoder, mut decoder) = (Encoder::default(), Decoder::default());
        let entries = [view(1, 10), Entry::Event { at: Time::from_unix_ms(2), event: Event::Tick }, view(3, 11), view(3, 11)];
        let lines: Vec<String> = entries.iter().map(|entry| encoder.line(entry).expect("plain data")).collect();
        assert!(lines[2].len() < 120 && lines[0].len() > 3 * lines[2].len(), "{lines:#?}");
        for (entry, line) in entries.iter().zip(&lines) {
            assert_eq!(decoder.entry(serde_json::from_str(line).expect("JSON")).as_ref(), Ok(entry));
        }
        decoder.begin_part();
        let error = decoder.entry(serde_json::from_str(&lines[2]).expect("JSON")).expect_err("nothing to hold it against");
        assert!(error.contains("relay"), "{error}");
    }

    #[test]
    fn receivers_are_told_apart_and_their_keys_are_not_written() {
        let urls = ["https://me:pw@hooks.example/T0/key-1", "https://me:pw@hooks.example/T0/key-2"];
        let mut encoder = Encoder::masking(urls.map(str::to_owned));
        let delivered = urls.map(|url| Entry::Event { at: Time::default(), event: Event::Delivered { id: 1, url: url.into() } });
        let [one, other] = delivered.map(|entry| encoder.line(&entry).expect("plain data"));
        assert!(one != other && !one.contains("key-1") && !one.contains("pw") && one.contains("hooks.example"), "{one} {other}");
    }
}
