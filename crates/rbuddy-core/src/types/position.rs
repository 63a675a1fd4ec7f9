//! Where in which history: offsets mean nothing without the history's id, so what travels is a [`Position`].

use super::ReplId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Count of stream bytes processed in one history. Means nothing in another: compare [`Position`]s instead.
/// Parsed within 0..=i64::MAX (the servers' own range), so the sums below cannot overflow on peer input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Offset(u64);

/// The first byte that a replica wants, as PSYNC names it: a replica that has N bytes asks for N + 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NextByte(u64);

/// A point in a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The history.
    pub replid: ReplId,
    /// How much of it.
    pub offset: Offset,
}

/// Names the dataset of one full resync: the history's id and the offset of the snapshot. Operators approve a dataset
/// by this name, written `replid:offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DatasetId(pub Position);

/// A text that is no offset, position or dataset name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected}, found {text:?}")]
pub struct ParsePositionError {
    expected: &'static str,
    text: String,
}

impl Offset {
    /// Before the first byte.
    pub const ZERO: Offset = Offset(0);

    /// An offset from a count, `None` outside the servers' range.
    pub fn new(bytes: u64) -> Option<Offset> {
        (bytes <= i64::MAX as u64).then_some(Offset(bytes))
    }

    /// The count.
    pub fn get(self) -> u64 {
        self.0
    }

    /// This many bytes further. Saturates at the servers' limit, which no stream reaches.
    #[must_use]
    pub fn advance(self, bytes: u64) -> Offset {
        Offset(self.0.saturating_add(bytes).min(i64::MAX as u64))
    }

    /// What a replica that stands here asks for.
    pub fn next_byte(self) -> NextByte {
        NextByte(self.0 + 1)
    }

    /// How many bytes this is behind `ahead`; `None` if it is not behind.
    pub fn bytes_behind(self, ahead: Offset) -> Option<u64> {
        ahead.0.checked_sub(self.0)
    }
}

impl NextByte {
    /// Byte 0, which no stream has: what a request without a sound number asks for.
    pub const NONE: NextByte = NextByte(0);

    /// From a byte's number, counted from 1, as servers tell it of their backlog. `None` outside the servers' range.
    pub fn new(number: u64) -> Option<NextByte> {
        Offset::new(number).map(|offset| NextByte(offset.0))
    }

    /// What the asker has; `None` for a request of byte 0 or below, which no sound replica makes.
    pub fn have(self) -> Option<Offset> {
        self.0.checked_sub(1).map(Offset)
    }

    /// The byte's number, counted from 1.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl Position {
    /// A point in a history.
    pub fn new(replid: ReplId, offset: Offset) -> Position {
        Position { replid, offset }
    }
}

impl FromStr for Offset {
    type Err = ParsePositionError;
    fn from_str(text: &str) -> Result<Offset, ParsePositionError> {
        text.parse::<u64>().ok().and_then(Offset::new).ok_or_else(|| ParsePositionError {
            expected: "an offset from 0 to 9223372036854775807",
            text: text.chars().take(64).collect(),
        })
    }
}

impl FromStr for NextByte {
    type Err = ParsePositionError;
    fn from_str(text: &str) -> Result<NextByte, ParsePositionError> {
        text.parse::<Offset>().map(|offset| NextByte(offset.0))
    }
}

impl FromStr for DatasetId {
    type Err = ParsePositionError;
    fn from_str(text: &str) -> Result<DatasetId, ParsePositionError> {
        let refused = || ParsePositionError { expected: "a dataset as REPLID:OFFSET", text: text.chars().take(80).collect() };
        let (replid, offset) = text.split_once(':').ok_or_else(refused)?;
        Ok(DatasetId(Position { replid: replid.parse().map_err(|_| refused())?, offset: offset.parse().map_err(|_| refused())? }))
    }
}

impl TryFrom<String> for DatasetId {
    type Error = ParsePositionError;
    fn try_from(text: String) -> Result<DatasetId, ParsePositionError> {
        text.parse()
    }
}

impl From<DatasetId> for String {
    fn from(dataset: DatasetId) -> String {
        dataset.to_string()
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NextByte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.replid, self.offset)
    }
}

impl fmt::Display for DatasetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn psync_asks_for_the_byte_after_what_it_has() {
        let have = Offset::new(100).expect("in range");
        assert_eq!(have.next_byte().get(), 101);
        assert_eq!(have.next_byte().have(), Some(have));
        assert_eq!("0".parse::<NextByte>().expect("a number").have(), None);
    }

    #[test]
    fn offsets_outside_the_servers_range_are_refused() {
        assert!("-1".parse::<Offset>().is_err());
        assert!("9223372036854775808".parse::<Offset>().is_err());
        let last: Offset = "9223372036854775807".parse().expect("the largest");
        assert_eq!(last.advance(5), last);
        assert_eq!(last.next_byte().get(), 1 << 63);
    }

    #[test]
    fn a_dataset_is_written_as_it_is_read() {
        let text = format!("{}:17", "0a".repeat(20));
        assert_eq!(text.parse::<DatasetId>().expect("a dataset").to_string(), text);
        assert!("0a:17".parse::<DatasetId>().is_err());
    }
}
