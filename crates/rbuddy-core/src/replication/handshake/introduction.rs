//! `REPLCONF` and `PSYNC`: what a replica says of itself, and what it asks for.

use super::Answer;
use super::plain::host_and_port;
use super::reply::{error, ok};
use crate::replication::psync::Asked;
use crate::types::{Flavour, NextByte, ServerVersion};

/// What a replica said of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    /// `REPLCONF listening-port`.
    pub listening_port: Option<u16>,
    /// `REPLCONF ip-address`: an address or a name.
    pub ip_address: Option<String>,
    /// It understands `+CONTINUE <id>`: 4.0 and newer.
    pub has_psync2: bool,
    /// It understands `$EOF:` framing. The relay never needs it.
    pub has_eof: bool,
    /// `REPLCONF version`: Valkey 8 and newer.
    pub version: Option<ServerVersion>,
}

impl Identity {
    pub(super) fn replconf(&mut self, arguments: &[Vec<u8>]) -> Answer {
        if !arguments.len().is_multiple_of(2) {
            return Answer::Reply(error("ERR syntax error"));
        }
        for pair in arguments.chunks_exact(2) {
            let option = String::from_utf8_lossy(&pair[0]).to_ascii_lowercase();
            let value = String::from_utf8_lossy(&pair[1]);
            match option.as_str() {
                // These never get an answer (protocol fact 1.2).
                "ack" | "getack" => return Answer::Silence,
                "listening-port" => match value.parse() {
                    Ok(port) => self.listening_port = Some(port).filter(|port| *port != 0),
                    Err(_) => return Answer::Reply(error("ERR value is not an integer or out of range")),
                },
                // It is shown, compared and written down as it stands.
                "ip-address" if value.is_empty() || host_and_port(&value, 1).is_some() => self.ip_address = Some(value.into_owned()),
                "ip-address" => return Answer::Reply(error("ERR REPLCONF ip-address is neither an address nor a name")),
                "capa" if value.eq_ignore_ascii_case("psync2") => self.has_psync2 = true,
                "capa" if value.eq_ignore_ascii_case("eof") => self.has_eof = true,
                // Only Valkey announces a version.
                "version" => self.version = ServerVersion::parse(Flavour::Valkey, &value).ok(),
                // Replicas log a refusal and go on, so what is unknown is accepted: it changes nothing here.
                _ => {}
            }
        }
        Answer::Reply(ok())
    }
}

pub(super) fn psync(arguments: &[Vec<u8>]) -> Answer {
    match arguments {
        [id, next] => Answer::Psync(asked(&String::from_utf8_lossy(id), &String::from_utf8_lossy(next))),
        // `PSYNC id offset FAILOVER`: the primary wants to hand its role over to the relay. Any answer but this error leaves the set-up without a
        // writable primary (protocol fact 9).
        [_, _, ..] => Answer::Close {
            reply: error("ERR rbuddy's relay cannot become a primary"),
            reason: "it wanted the relay to take over as primary (PSYNC … FAILOVER)",
        },
        [..] => Answer::Reply(error("ERR wrong number of arguments for 'psync' command")),
    }
}

/// An id that is none (`?`, or a wrong length) cannot be continued; a number that is none is "no such byte", which is never continued either.
fn asked(id: &str, next: &str) -> Asked {
    match id.parse() {
        Ok(replid) => Asked::From(replid, next.parse::<NextByte>().unwrap_or(NextByte::NONE)),
        Err(_) => Asked::Nothing,
    }
}
