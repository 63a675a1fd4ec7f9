//! Which server this is, and which snapshot formats it can load.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The two families of servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavour {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// A server's family and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ServerVersion {
    /// Redis or Valkey.
    pub flavour: Flavour,
    /// `7` of 7.0.15.
    pub major: u16,
    /// `0` of 7.0.15.
    pub minor: u16,
    /// `15` of 7.0.15.
    pub patch: u16,
}

/// Format of a snapshot, from the first nine bytes of the RDB: `REDIS0010`, `VALKEY080`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RdbVersion {
    /// Which magic.
    pub flavour: Flavour,
    /// The number behind it.
    pub number: u16,
}

/// A text that is not a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a version as 7.0.15, found {0:?}")]
pub struct ParseVersionError(String);

impl ServerVersion {
    /// A version from its family and text (`7.0.15`, `9.1.2-rc1`: what follows the third number is ignored).
    pub fn parse(flavour: Flavour, text: &str) -> Result<ServerVersion, ParseVersionError> {
        let refused = || ParseVersionError(text.chars().take(64).collect());
        let mut parts = text.trim().splitn(3, '.');
        let mut number = |required: bool| -> Result<u16, ParseVersionError> {
            let part = parts.next().unwrap_or("");
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            if digits.is_empty() { if required { Err(refused()) } else { Ok(0) } } else { digits.parse().map_err(|_| refused()) }
        };
        Ok(ServerVersion { flavour, major: number(true)?, minor: number(true)?, patch: number(false)? })
    }

    /// At least this version number, whatever the family.
    pub fn at_least(&self, major: u16, minor: u16) -> bool {
        (self.major, self.minor) >= (major, minor)
    }

    /// Can this server load such a snapshot? (Protocol facts 1.3 and 2.4.) A server that is given one it cannot load empties
    /// itself or dies, so the answer is "no" wherever it is not known to be "yes".
    pub fn loads(&self, rdb: RdbVersion) -> bool {
        match (self.flavour, rdb.flavour) {
            (Flavour::Redis, Flavour::Redis) => rdb.number <= self.newest_redis_rdb(),
            // Valkey forked at Redis 7.2 (number 11) and treats the numbers that Redis gave out later as foreign.
            (Flavour::Valkey, Flavour::Redis) => rdb.number <= 11,
            (Flavour::Valkey, Flavour::Valkey) => self.at_least(9, 0) && rdb.number <= 80,
            (Flavour::Redis, Flavour::Valkey) => false,
        }
    }

    /// What this server writes when it is a primary: the newest it may write for any peer.
    pub fn writes(&self) -> RdbVersion {
        match self.flavour {
            Flavour::Redis => RdbVersion { flavour: Flavour::Redis, number: self.newest_redis_rdb() },
            Flavour::Valkey if self.at_least(9, 0) => RdbVersion { flavour: Flavour::Valkey, number: 80 },
            Flavour::Valkey => RdbVersion { flavour: Flavour::Redis, number: 11 },
        }
    }

    /// What this server, as a primary, would write for peers that announce at least `peers` (Valkey 9 writes `REDIS0011` unless its
    /// peer announces 9.0 or newer).
    pub fn writes_for(&self, peers: ServerVersion) -> RdbVersion {
        let newest = self.writes();
        if newest.flavour == Flavour::Valkey && !(peers.flavour == Flavour::Valkey && peers.at_least(9, 0)) {
            return RdbVersion { flavour: Flavour::Redis, number: 11 };
        }
        newest
    }

    fn newest_redis_rdb(&self) -> u16 {
        match (self.major, self.minor) {
            (0..=2, _) => 6,
            (3, _) => 7,
            (4, _) => 8,
            (5..=6, _) => 9,
            (7, 0 | 1) => 10,
            (7, 2 | 3) => 11,
            // 7.4, 8.0 and 8.2 write 12. Newer ones were not seen: 12 is what they can surely load.
            (7.., _) => 12,
        }
    }
}

impl RdbVersion {
    /// From the first nine bytes of a snapshot.
    pub fn from_header(header: &[u8; 9]) -> Option<RdbVersion> {
        let (flavour, digits) = match header {
            [b'R', b'E', b'D', b'I', b'S', digits @ ..] => (Flavour::Redis, digits.as_slice()),
            [b'V', b'A', b'L', b'K', b'E', b'Y', digits @ ..] => (Flavour::Valkey, digits.as_slice()),
            [..] => return None,
        };
        if !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = digits.iter().fold(0u16, |sum, digit| sum * 10 + u16::from(digit - b'0'));
        Some(RdbVersion { flavour, number })
    }
}

impl fmt::Display for Flavour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Flavour::Redis => "Redis",
            Flavour::Valkey => "Valkey",
        })
    }
}

impl fmt::Display for ServerVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}.{}.{}", self.flavour, self.major, self.minor, self.patch)
    }
}

impl fmt::Display for RdbVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.flavour {
            Flavour::Redis => write!(f, "REDIS{:04}", self.number),
            Flavour::Valkey => write!(f, "VALKEY{:03}", self.number),
        }
    }
}

impl FromStr for RdbVersion {
    type Err = ParseVersionError;
    fn from_str(text: &str) -> Result<RdbVersion, ParseVersionError> {
        let header: Option<&[u8; 9]> = text.as_bytes().try_into().ok();
        header.and_then(RdbVersion::from_header).ok_or_else(|| ParseVersionError(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(flavour: Flavour, text: &str) -> ServerVersion {
        ServerVersion::parse(flavour, text).expect("a version")
    }

    #[test]
    fn a_replica_is_offered_only_what_it_can_load() {
        let redis70 = version(Flavour::Redis, "7.0.15");
        let redis74 = version(Flavour::Redis, "7.4.1");
        let valkey91 = version(Flavour::Valkey, "9.1.2");
        let redis62 = version(Flavour::Redis, "6.2.5");
        assert!(redis70.loads(redis62.writes()));
        assert!(redis74.loads(redis70.writes()));
        assert!(valkey91.loads(redis70.writes()));
        assert!(!valkey91.loads(redis74.writes()));
        assert!(!redis70.loads(redis74.writes()));
        assert!(!redis70.loads(valkey91.writes()));
        assert!(!redis70.loads(valkey91.writes_for(redis70)), "REDIS0011 is newer than Redis 7.0 loads");
        assert!(valkey91.loads(valkey91.writes_for(valkey91)));
    }

    #[test]
    fn the_header_names_the_format() {
        assert_eq!(RdbVersion::from_header(b"REDIS0010").expect("known").to_string(), "REDIS0010");
        assert_eq!(RdbVersion::from_header(b"VALKEY080").expect("known").to_string(), "VALKEY080");
        assert_eq!(RdbVersion::from_header(b"REDISabcd"), None);
        assert_eq!(RdbVersion::from_header(b"HTTP/1.1 "), None);
    }

    #[test]
    fn versions_with_suffixes_are_read() {
        let version = version(Flavour::Valkey, "9.1.0-rc2");
        assert_eq!((version.major, version.minor, version.patch), (9, 1, 0));
        assert!(ServerVersion::parse(Flavour::Redis, "unstable").is_err());
    }
}
