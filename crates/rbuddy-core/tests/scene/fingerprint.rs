//! A number for all that decides what happens next: controller, world, and what the promises remember. Equal numbers are taken for equal futures.
//!
//! It is taken of what `Debug` prints of them, so no field can be forgotten, with these changes:
//!
//! * *times* are told from now on, and *offsets* from the primary's: all rules compare them with one another. 0, which an empty server has, stays 0.
//!   A time past every patience (`FORGOTTEN`) is only "long ago".
//! * *ids* of histories and processes are numbered in the order of their appearance: they are only compared for equality.
//! * *texts* for people are left out; that there is one (an error) is not.
//! * *how often the primary has answered* is told as whether it has.
//! * *what only counts or tells* is left out: numbers of actions and notifications, the outbox, the generation (the promises hold its rise, and who is
//!   asked whether it is the same one asks at the same moment).
//! * *`ends`* is left out: it excuses a standby that is more than `max_lag.bytes` behind, and here who streams has everything at once.
//! * *`measured`* is left out: it is only told.
//! * *`flaps`* are left out: two faults make no replica fall so often that it decides anything.
//! * *the policy* is left out: it is the same for all states of a configuration.

use super::trial::Trial;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Of all that decides.
pub fn of(trial: &Trial) -> u128 {
    let scene = &trial.scene;
    let flags = (scene.link_cut, scene.late_probes, scene.primary_is_silent, scene.disk_is_full, scene.fate);
    let mut text = String::with_capacity(1 << 15);
    write!(text, "{:?} {:?} {:?}", scene.controller, scene.view, scene.orders).expect("a string takes everything");
    write!(text, "{:?} {:?} {:?} {:?}", scene.primary, scene.others, scene.replicas, scene.primary_at).expect("a string takes everything");
    write!(text, "{:?} {flags:?} {:?} {:?}", scene.datasets, trial.promises, trial.former).expect("a string takes everything");
    let reader = Reader { rest: text.as_bytes(), now: scene.now.unix_ms(), offset: scene.primary.offset, ids: BTreeMap::new() };
    reader.read()
}

/// Reads what `Debug` printed, word by word.
struct Reader<'a> {
    rest: &'a [u8],
    now: u64,
    offset: u64,
    ids: BTreeMap<&'a [u8], u64>,
}

impl<'a> Reader<'a> {
    fn read(mut self) -> u128 {
        let mut hash = Hash::new();
        while let Some(first) = self.rest.first().copied() {
            if first == b'"' {
                self.skip_text();
                hash.add(b"\"");
            } else if first.is_ascii_alphabetic() {
                let word = self.take(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                hash.add(word);
                self.read_value(word, &mut hash);
            } else {
                hash.add(&[first]);
                self.rest = &self.rest[1..];
            }
        }
        hash.0
    }

    /// What stands behind a word, if that has a meaning of its own.
    fn read_value(&mut self, word: &[u8], hash: &mut Hash) {
        match word {
            b"Time" => {
                let time = self.number();
                let age = self.now.saturating_sub(time);
                hash.add_number(if age > FORGOTTEN { u64::MAX } else { time.wrapping_sub(self.now) });
            }
            b"Offset" | b"NextByte" | b"offset" | b"backlog_from" if self.is_number_next() => {
                let offset = self.number();
                hash.add_number(if offset == 0 { u64::MAX } else { offset.wrapping_sub(self.offset) });
            }
            b"ReplId" | b"RunId" => {
                self.rest = &self.rest[1..];
                let id = self.take(|byte| byte.is_ascii_alphanumeric());
                let next = self.ids.len() as u64;
                hash.add_number(*self.ids.entry(id).or_insert(next));
            }
            b"full_resyncs" | b"partial_resyncs" => {
                let times = self.number();
                hash.add_number(times.min(1));
            }
            b"Generation" | b"next_action" | b"next_notification" => _ = self.number(),
            b"ends" | b"flaps" | b"measured" | b"outbox" | b"published_outbox" | b"policy" if self.rest.starts_with(b": ") => {
                self.skip_value()
            }
            _ => {}
        }
    }

    fn take(&mut self, is_part: impl Fn(u8) -> bool) -> &'a [u8] {
        let end = self.rest.iter().position(|byte| !is_part(*byte)).unwrap_or(self.rest.len());
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        taken
    }

    /// `offset: 12` or `Offset(12)`, and not `offset: Some(…)`.
    fn is_number_next(&self) -> bool {
        self.rest.iter().find(|byte| !b"(: ".contains(*byte)).is_some_and(u8::is_ascii_digit)
    }

    fn number(&mut self) -> u64 {
        self.take(|byte| b"(: ".contains(&byte));
        self.take(|byte| byte.is_ascii_digit()).iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
    }

    fn skip_text(&mut self) {
        let mut escaped = true;
        let end = self.rest.iter().position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        });
        // The first quote counted as escaped.
        self.rest = &self.rest[end.map_or(self.rest.len(), |end| end + 1)..];
    }

    /// Up to the comma or bracket that ends it.
    fn skip_value(&mut self) {
        let mut depth = 0u32;
        while let Some(byte) = self.rest.first().copied() {
            match byte {
                b'"' => {
                    self.skip_text();
                    continue;
                }
                b'(' | b'[' | b'{' => depth += 1,
                b',' | b')' | b']' | b'}' if depth == 0 => return,
                b')' | b']' | b'}' => depth -= 1,
                _ => {}
            }
            self.rest = &self.rest[1..];
        }
    }
}

/// FNV-1a, wide enough that two different states are not taken for one.
struct Hash(u128);

impl Hash {
    fn new() -> Hash {
        Hash(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b);
        }
    }

    fn add_number(&mut self, number: u64) {
        self.add(&number.to_le_bytes());
    }
}

/// Milliseconds. No patience of the controller's lasts longer (`LOADING_WAIT`, `LOADING_SILENCE`).
const FORGOTTEN: u64 = 130_000;
