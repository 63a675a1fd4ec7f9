//! `redis://[user:password@]host[:port]`: where a server is and how to log in; `redis-sentinel://…/NAME`: who knows where. Messages never repeat the text, since a mistake in it
//! may have put the password anywhere.

use super::units::{Wrong, bare_host, parse_port};
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::settings::{Endpoint, PrimaryPlace, PrimarySettings, Secret, SentinelSettings};

const FORM: &str = "write redis://host:port, redis://:password@host:port or redis://user:password@host:port";

const SENTINEL_SCHEMES: [&str; 3] = ["redis-sentinel", "redis+sentinel", "sentinel"];
const SENTINEL_FORM: &str = "write redis-sentinel://host:port,host:port/NAME";

/// Reads the URL of a server.
pub(crate) fn endpoint(text: &str) -> Result<Endpoint, Wrong> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Wrong::new("this is not a redis:// URL", FORM));
    };
    match scheme {
        "redis" => {}
        "rediss" => {
            return Err(Wrong::new(
                "rediss:// (TLS) is not yet in this version",
                "use redis:// over a trusted network or a tunnel (stunnel, spiped, WireGuard)",
            ));
        }
        scheme if SENTINEL_SCHEMES.contains(&scheme) => {
            return Err(Wrong::new("only the primary may be named by Sentinels", FORM));
        }
        _ => return Err(Wrong::new("the URL's scheme is not redis", FORM)),
    }
    // A password may hold `@` or `/` though it should not: the host begins behind the last `@`.
    let (credentials, place) = match rest.rsplit_once('@') {
        Some((credentials, place)) => (Some(credentials), place),
        None => (None, rest),
    };
    let address = address(place)?;
    let (user, password) = credentials.map_or(Ok((None, None)), login)?;
    Ok(Endpoint { address, user, password })
}

/// Reads the URL of a primary: a server's, or `redis-sentinel://[user:password@]host[:port][,host[:port]…]/NAME`, where the login is the primary's.
pub(crate) fn primary(text: &str) -> Result<PrimarySettings, Wrong> {
    let Some((_, rest)) = text.split_once("://").filter(|(scheme, _)| SENTINEL_SCHEMES.contains(scheme)) else {
        return endpoint(text).map(PrimarySettings::from);
    };
    let (credentials, place) = rest.rsplit_once('@').map_or((None, rest), |(credentials, place)| (Some(credentials), place));
    let (hosts, name) = place.split_once('/').ok_or_else(|| Wrong::new("the URL does not name the primary", SENTINEL_FORM))?;
    let name = sentinel_name(name)?;
    let (user, password) = credentials.map_or(Ok((None, None)), login)?;
    let mut sentinels = Vec::new();
    for host in hosts.split(',') {
        sentinels.push(Endpoint { address: sentinel(host)?, user: None, password: None });
    }
    Ok(PrimarySettings { place: PrimaryPlace::Sentinels(SentinelSettings { name, sentinels }), user, password })
}

/// `host[:port]` of a Sentinel, also as a URL.
pub(crate) fn sentinel(text: &str) -> Result<NodeAddress, Wrong> {
    let place = text.strip_prefix("redis://").unwrap_or(text).trim_end_matches('/');
    if place.contains('@') {
        return Err(Wrong::new("the login stands elsewhere", "write HOST:PORT here, and sentinel_user, sentinel_password beside it"));
    }
    host_and_port(place, 26379)
}

/// What Sentinels call a primary.
pub(crate) fn sentinel_name(text: &str) -> Result<String, Wrong> {
    let is_sound = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if is_sound { Ok(text.to_owned()) } else { Err(Wrong::new("this is no name that a Sentinel knows", "a name has A-Z a-z 0-9 . - _")) }
}

fn address(place: &str) -> Result<NodeAddress, Wrong> {
    let (authority, path) = place.split_once('/').unwrap_or((place, ""));
    if !matches!(path, "" | "0") {
        return Err(Wrong::new("the URL names a database or a path", "leave it out: replication carries all databases"));
    }
    host_and_port(authority, 6379)
}

fn host_and_port(authority: &str, default: u16) -> Result<NodeAddress, Wrong> {
    let has_port = authority.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if has_port => (host, parse_port(port)?),
        Some(_) | None => (authority, default),
    };
    if port == 0 {
        return Err(Wrong::new("there is no port 0 to connect to", "write a port from 1 to 65535"));
    }
    let host = bare_host(host).ok_or_else(|| Wrong::new("the URL names no host", FORM))?;
    Ok(NodeAddress::new(host, port))
}

fn login(credentials: &str) -> Result<(Option<String>, Option<Secret>), Wrong> {
    let Some((user, password)) = credentials.split_once(':') else {
        return Err(Wrong::new(
            "the URL names a user and no password",
            "write redis://user:password@host:port, or redis://:password@host:port for the default user",
        ));
    };
    let decode = |text: &str| {
        percent_decoded(text)
            .ok_or_else(|| Wrong::new("a % in the credentials is not followed by two hexadecimal digits", "write % itself as %25"))
    };
    let (user, password) = (decode(user)?, decode(password)?);
    if password.is_empty() {
        return Err(Wrong::new("the URL has an empty password", "leave the credentials out if the server wants none"));
    }
    Ok((Some(user).filter(|user| !user.is_empty()), Some(Secret::new(password))))
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if first != b'%' {
            bytes.push(first);
            rest = tail;
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok().filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> (String, Option<String>, Option<String>) {
        let endpoint = endpoint(text).expect("a server");
        (endpoint.address.to_string(), endpoint.user, endpoint.password.map(|password| password.expose().to_owned()))
    }

    #[test]
    fn urls_name_host_port_and_login() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(parts("redis://db"), ("db:6379".into(), None, None));
        assert_eq!(parts("redis://[::1]:7000/"), ("[::1]:7000".into(), None, None));
        assert_eq!(parts("redis://[::1]"), ("[::1]:6379".into(), None, None));
        assert_eq!(parts("redis://:secret@db:1/0"), ("db:1".into(), None, some("secret")));
        assert_eq!(parts("redis://me:a%40b@db:1"), ("db:1".into(), some("me"), some("a@b")));
        assert_eq!(parts("redis://me:a@b/c@db:1"), ("db:1".into(), some("me"), some("a@b/c")));
    }

    #[test]
    fn no_message_repeats_a_password() {
        for text in [
            "hunter2",
            "rediss://:hunter2@db",
            "http://:hunter2@db",
            "redis://hunter2@db",
            "redis://:hunter2@",
            "redis://:hunter2",
            "redis://:hunter2@db:99999",
            "redis://:hunter2@db:0",
            "redis://:hunter2%zz@db",
            "redis://:hunter2@db/3",
        ] {
            let wrong = endpoint(text).expect_err("it is wrong");
            assert!(!format!("{wrong:?}").contains("hunter2"), "{text}: {wrong:?}");
        }
    }
}
