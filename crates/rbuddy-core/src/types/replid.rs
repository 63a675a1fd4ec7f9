//! The two 40-digit ids of a server: the id of its history and the id of its process.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Names one replication history. Two servers with the same id and offset hold the same data.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReplId(Hex40);

/// Names one server process: it changes with every restart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(Hex40);

/// A text that is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an id has 40 hexadecimal digits, this has {length} characters: {text:?}")]
pub struct ParseIdError {
    text: String,
    length: usize,
}

impl ReplId {
    /// `0000…0`: how servers write "no second history".
    pub const NONE: ReplId = ReplId(Hex40([b'0'; 40]));

    /// Whether this is the placeholder that names no history.
    pub fn is_none(&self) -> bool {
        *self == ReplId::NONE
    }
}

// Servers compare ids without regard to case (protocol fact 4.1), so one lower-case form is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Hex40([u8; 40]);

impl Hex40 {
    fn parse(text: &str) -> Result<Hex40, ParseIdError> {
        let refused = || ParseIdError { text: text.chars().take(64).collect(), length: text.chars().count() };
        let mut digits: [u8; 40] = text.as_bytes().try_into().map_err(|_| refused())?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(refused());
        }
        digits.make_ascii_lowercase();
        Ok(Hex40(digits))
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only ASCII digits are stored")
    }
}

macro_rules! id_text {
    ($id:ident) => {
        impl $id {
            /// The 40 digits, lower case.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }

            /// The first eight digits, for logs and tables.
            pub fn short(&self) -> &str {
                &self.0.as_str()[..8]
            }
        }
        impl FromStr for $id {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                Hex40::parse(text).map($id)
            }
        }
        impl TryFrom<String> for $id {
            type Error = ParseIdError;
            fn try_from(text: String) -> Result<Self, ParseIdError> {
                text.parse()
            }
        }
        impl From<$id> for String {
            fn from(id: $id) -> String {
                id.as_str().to_owned()
            }
        }
        impl fmt::Display for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($id), self.short())
            }
        }
    };
}
id_text!(ReplId);
id_text!(RunId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_compare_without_regard_to_case() {
        let lower: ReplId = "ab".repeat(20).parse().expect("40 digits");
        let upper: ReplId = "AB".repeat(20).parse().expect("40 digits");
        assert_eq!(lower, upper);
        assert_eq!(upper.as_str(), "ab".repeat(20));
    }

    #[test]
    fn only_forty_hexadecimal_digits_are_an_id() {
        for text in ["", "?", &"a".repeat(39), &"a".repeat(41), &"g".repeat(40), &"é".repeat(20)] {
            assert!(text.parse::<ReplId>().is_err(), "{text:?} was taken for an id");
        }
    }
}
