//! Where a server is: `host:port`, also the name under which a replica is known everywhere in rbuddy.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// `host:port`. The host is a name, an IPv4 address, or an IPv6 address (written in brackets).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// 1..=65535.
    pub port: u16,
}

/// A text that is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT with a port from 1 to 65535, found {0:?}")]
pub struct ParseNodeAddressError(String);

impl NodeAddress {
    /// An address from its parts.
    pub fn new(host: impl Into<String>, port: u16) -> NodeAddress {
        NodeAddress { host: host.into(), port }
    }
}

impl FromStr for NodeAddress {
    type Err = ParseNodeAddressError;
    fn from_str(text: &str) -> Result<NodeAddress, ParseNodeAddressError> {
        let refused = || ParseNodeAddressError(text.chars().take(128).collect());
        let (host, port) = text.rsplit_once(':').ok_or_else(refused)?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => bracketed.strip_suffix(']').ok_or_else(refused)?,
            None if host.contains(':') => return Err(refused()),
            None => host,
        };
        let port: u16 = port.parse().map_err(|_| refused())?;
        if host.is_empty() || port == 0 || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(refused());
        }
        Ok(NodeAddress::new(host, port))
    }
}

impl TryFrom<String> for NodeAddress {
    type Error = ParseNodeAddressError;
    fn try_from(text: String) -> Result<NodeAddress, ParseNodeAddressError> {
        text.parse()
    }
}

impl From<NodeAddress> for String {
    fn from(address: NodeAddress) -> String {
        address.to_string()
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') { write!(f, "[{}]:{}", self.host, self.port) } else { write!(f, "{}:{}", self.host, self.port) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_read() {
        for text in ["127.0.0.1:6379", "redis.example:1", "[::1]:65535"] {
            assert_eq!(text.parse::<NodeAddress>().expect("an address").to_string(), text);
        }
    }

    #[test]
    fn what_is_not_host_and_port_is_refused() {
        for text in ["", "6379", "host:", ":6379", "host:0", "host:65536", "::1:6379", "[::1:6379", "a b:1"] {
            assert!(text.parse::<NodeAddress>().is_err(), "{text:?} was taken for an address");
        }
    }
}
