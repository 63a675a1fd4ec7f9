//! Names and numbers of a group.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A group's name: 1 to 64 of `a-z A-Z 0-9 _ -`, since it stands in URLs, paths and metric labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GroupName(String);

/// A text that cannot name a group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a group's name has 1 to 64 of a-z A-Z 0-9 _ -, found {0:?}")]
pub struct ParseGroupNameError(String);

/// Number of the committed role assignment: 0 before the first, +1 at each change of who is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Generation(pub u64);

impl GroupName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Generation {
    /// The next one.
    #[must_use]
    pub fn next(self) -> Generation {
        Generation(self.0 + 1)
    }
}

impl FromStr for GroupName {
    type Err = ParseGroupNameError;
    fn from_str(text: &str) -> Result<GroupName, ParseGroupNameError> {
        let sound = (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        if sound { Ok(GroupName(text.to_owned())) } else { Err(ParseGroupNameError(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for GroupName {
    type Error = ParseGroupNameError;
    fn try_from(text: String) -> Result<GroupName, ParseGroupNameError> {
        text.parse()
    }
}

impl From<GroupName> for String {
    fn from(name: GroupName) -> String {
        name.0
    }
}

impl fmt::Display for GroupName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
