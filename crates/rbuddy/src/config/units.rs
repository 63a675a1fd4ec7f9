//! Sizes, durations and addresses as people write them. Each function gives the value or what is wrong and the remedy.
//! Messages never repeat what could be a secret.

use rbuddy_core::types::NodeAddress;
use std::net::IpAddr;
use std::time::Duration;

/// What is wrong, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) remedy: String,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>, remedy: impl Into<String>) -> Wrong {
        Wrong { message: message.into(), remedy: remedy.into() }
    }
}

/// `64MiB`, `1GB`, `4096`. `K`, `M`, `G`, `T` count in thousands with `B`, in 1024s with `iB`.
pub(crate) fn size(text: &str) -> Result<u64, Wrong> {
    let wrong = |message: String| Wrong::new(message, "write a whole number with a unit: \"64MiB\", \"1GB\", \"4096B\"");
    let (number, unit) = split_unit(text);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000 * 1000,
        "gb" => 1000 * 1000 * 1000,
        "tb" => 1000 * 1000 * 1000 * 1000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(wrong(format!("{text:?} is not a size"))),
    };
    let number: u64 = number.parse().map_err(|_| wrong(format!("{text:?} is not a size")))?;
    number.checked_mul(factor).ok_or_else(|| wrong(format!("{text:?} is more than can be counted")))
}

/// `500ms`, `10s`, `2m`, `1h`.
pub(crate) fn duration(text: &str) -> Result<Duration, Wrong> {
    let wrong =
        || Wrong::new(format!("{text:?} is not a duration"), "write a whole number with a unit: \"500ms\", \"10s\", \"2m\", \"1h\"");
    let (number, unit) = split_unit(text);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => Some(number),
        "s" => number.checked_mul(1000),
        "m" => number.checked_mul(60 * 1000),
        "h" => number.checked_mul(60 * 60 * 1000),
        _ => None,
    };
    ms.map(Duration::from_millis).ok_or_else(wrong)
}

fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim_start())
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Without brackets.
    pub(crate) host: String,
    /// 0 takes a free one.
    pub(crate) port: u16,
}

impl Listen {
    /// `HOST:PORT`.
    pub(crate) fn parse(text: &str) -> Result<Listen, Wrong> {
        let example = "write HOST:PORT, for example \"127.0.0.1:6382\", \"0.0.0.0:6382\" or \"[::1]:6382\"";
        let (host, port) = text.rsplit_once(':').ok_or_else(|| Wrong::new(format!("{text:?} has no port"), example))?;
        let port = parse_port(port)?;
        let host = bare_host(host).ok_or_else(|| Wrong::new(format!("{text:?} names no address to listen on"), example))?;
        Ok(Listen { host, port })
    }

    /// Every address of the machine.
    pub(crate) fn is_wildcard(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
    }

    /// Only this machine can connect.
    pub(crate) fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }

    /// Whether somebody who dials `address` from this machine arrives here.
    pub(crate) fn answers(&self, address: &NodeAddress) -> bool {
        self.port != 0
            && self.port == address.port
            && (same_host(&self.host, &address.host) || (self.is_wildcard() && is_loopback(&address.host)))
    }

    /// Whether both cannot be bound at the same time.
    pub(crate) fn collides_with(&self, other: &Listen) -> bool {
        self.port != 0 && self.port == other.port && (same_host(&self.host, &other.host) || self.is_wildcard() || other.is_wildcard())
    }

    /// As `HOST:PORT`.
    pub(crate) fn text(&self) -> String {
        if self.host.contains(':') { format!("[{}]:{}", self.host, self.port) } else { format!("{}:{}", self.host, self.port) }
    }
}

/// A port, 0 included.
pub(crate) fn parse_port(text: &str) -> Result<u16, Wrong> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Wrong::new("what follows the last colon is not a port", "write a port from 1 to 65535"));
    }
    // The number is not repeated: behind a forgotten `@` it may be a password.
    text.parse().map_err(|_| Wrong::new("there is no such port", "write a port from 1 to 65535"))
}

/// A host without brackets; `None` if it is none.
pub(crate) fn bare_host(text: &str) -> Option<String> {
    let host = match text.strip_prefix('[') {
        Some(bracketed) => bracketed.strip_suffix(']').filter(|inner| inner.contains(':'))?,
        None if text.contains(':') => return None,
        None => text,
    };
    let is_sound = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '%'));
    is_sound.then(|| host.to_owned())
}

/// `localhost`, `127.0.0.0/8`, `::1`.
pub(crate) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether two hosts are surely one, without asking DNS: the same text, or `localhost` and a name of it. Two numeric loopback
/// addresses (127.0.0.1 and 127.0.0.2) may be two servers.
pub(crate) fn same_host(one: &str, other: &str) -> bool {
    let canonical = |host: &str| match host.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) if host.eq_ignore_ascii_case("localhost") => "127.0.0.1".to_owned(),
        Err(_) => host.to_ascii_lowercase(),
    };
    let (one, other) = (canonical(one), canonical(other));
    let is_local = |host: &str| host == "127.0.0.1" || host == "::1";
    one == other || (is_local(&one) && is_local(&other))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_thousands_or_in_1024s() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("64MiB", 64 << 20), ("1GB", 1_000_000_000), ("1 KiB", 1024), ("2kb", 2000)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.5GB", "-1", "64 M", "99999999999999999999", "20000000TiB"] {
            assert!(size(text).is_err(), "{text:?} was taken for a size");
        }
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for text in ["10", "", "s", "1.5s", "-1s", "10 sec", "18446744073709551615h"] {
            assert!(duration(text).is_err(), "{text:?} was taken for a duration");
        }
    }

    #[test]
    fn listen_addresses_collide_where_binding_would_fail() {
        let listen = |text: &str| Listen::parse(text).expect("an address");
        assert!(listen("0.0.0.0:1").collides_with(&listen("127.0.0.1:1")));
        assert!(listen("localhost:1").collides_with(&listen("[::1]:1")));
        assert!(!listen("127.0.0.1:0").collides_with(&listen("127.0.0.1:0")), "port 0 takes a free one");
        assert!(!listen("10.0.0.1:1").collides_with(&listen("10.0.0.2:1")));
        for text in ["6382", ":6382", "a:b", "a:70000", "::1:6382", "[::1:1", "a b:1"] {
            assert!(Listen::parse(text).is_err(), "{text:?} was taken for an address");
        }
    }
}
