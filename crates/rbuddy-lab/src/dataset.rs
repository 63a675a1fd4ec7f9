//! Data whose every value can be checked: `key:{n}` holds `{version}:{n}:{checksum}` and a padding. A reader can tell a right value from a
//! wrong one, and an old dataset from a new one, without knowing what is loaded at the moment.
//!
//! The padding is noise, computed from version and number: servers compress values in their snapshots, and a snapshot must be as
//! large as its data for a slow link or a small disk to matter.

use crate::resp::{Value, encode};
use crate::{LabError, Server};
use std::time::Duration;

/// Requests that are sent before their answers are read. Their answers (5 bytes each) fit into the socket's buffer, so neither side blocks.
const BATCH: u64 = 1000;
/// How long one batch may take.
const BATCH_WITHIN: Duration = Duration::from_secs(30);

/// What is loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dataset {
    /// Keys `key:0` to `key:{keys - 1}`.
    pub keys: u64,
    /// Newer datasets have higher numbers.
    pub version: u64,
    /// Bytes of each value, at least as many as the checked part needs.
    pub value_bytes: usize,
    /// Keys of a cache have a TTL.
    pub ttl: Option<Duration>,
}

/// What is wrong with a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WrongValue {
    /// Not a value of ours, or that of another key.
    NotOfThisKey {
        /// What was read.
        found: String,
    },
    /// Right, but of an older dataset than what was read before.
    WentBack {
        /// The version read now.
        version: u64,
        /// The version seen before.
        after: u64,
    },
}

impl Dataset {
    /// `keys` keys of version 1 without TTL.
    pub fn of(keys: u64) -> Dataset {
        Dataset { keys, version: 1, value_bytes: 0, ttl: None }
    }

    /// The same keys with newer values.
    #[must_use]
    pub fn newer(self) -> Dataset {
        Dataset { version: self.version + 1, ..self }
    }

    /// Loads it into a server, over what is there.
    pub async fn load(&self, server: &Server) -> Result<(), LabError> {
        let mut connection = server.connect().await?;
        let what = || format!("load data into {}", server.address());
        for first in (0..self.keys).step_by(BATCH as usize) {
            let batch = first..self.keys.min(first + BATCH);
            let mut requests = Vec::new();
            for n in batch.clone() {
                let (key, value) = (key(n), self.value(n));
                match self.ttl {
                    Some(ttl) => encode(&["SET", &key, &value, "PX", &ttl.as_millis().to_string()], &mut requests),
                    None => encode(&["SET", &key, &value], &mut requests),
                }
            }
            let exchange = async {
                connection.send(&requests).await?;
                let mut refused = None;
                for _ in batch {
                    if let Value::Error(answer) = connection.receive().await? {
                        refused = Some(answer);
                    }
                }
                Ok(refused)
            };
            let outcome = tokio::time::timeout(BATCH_WITHIN, exchange).await.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
            if let Some(answer) = outcome.map_err(LabError::io(what()))? {
                return Err(LabError::Answer { address: server.address(), command: "SET".into(), answer });
            }
        }
        Ok(())
    }

    /// The value of key number `n`.
    pub fn value(&self, n: u64) -> String {
        value_of(self.version, n, self.value_bytes)
    }
}

/// Key number `n`.
pub fn key(n: u64) -> String {
    format!("key:{n}")
}

/// Checks the value of key number `n`; gives its dataset's version.
pub fn check(n: u64, value: &[u8], seen: u64) -> Result<u64, WrongValue> {
    let text = String::from_utf8_lossy(value);
    let version = text.split_once(':').and_then(|(version, _)| version.parse::<u64>().ok());
    let right = version.filter(|version| text == value_of(*version, n, text.len()));
    match right {
        None => Err(WrongValue::NotOfThisKey { found: text.chars().take(80).collect() }),
        Some(version) if version < seen => Err(WrongValue::WentBack { version, after: seen }),
        Some(version) => Ok(version),
    }
}

fn value_of(version: u64, n: u64, bytes: usize) -> String {
    // FNV-1a: no security, just a value that no accident makes.
    let fold = |sum: u64, byte: u8| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let sum = version.to_be_bytes().into_iter().chain(n.to_be_bytes()).fold(0xcbf2_9ce4_8422_2325, fold);
    let mut value = format!("{version}:{n}:{sum:016x}");
    let mut noise = fastrand::Rng::with_seed(sum);
    value.extend(std::iter::repeat_with(|| noise.alphanumeric()).take(bytes.saturating_sub(value.len())));
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_right_for_its_key_only_and_never_goes_back() {
        let old = Dataset { value_bytes: 100, ..Dataset::of(10) };
        let new = old.newer();
        assert_eq!(old.value(7).len(), 100);
        assert_eq!(check(7, old.value(7).as_bytes(), 0), Ok(1));
        assert_eq!(check(7, new.value(7).as_bytes(), 1), Ok(2));
        assert_eq!(check(7, old.value(7).as_bytes(), 2), Err(WrongValue::WentBack { version: 1, after: 2 }));
        assert!(check(8, old.value(7).as_bytes(), 0).is_err());
        assert!(check(7, b"", 0).is_err());
        assert!(check(7, b"1:7:0000000000000000", 0).is_err());
        assert!(check(7, &[0xff; 20], 0).is_err());
    }
}
