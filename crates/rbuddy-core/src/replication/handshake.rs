//! What a connection to the relay says before PSYNC, and what it is answered.
//!
//! Replicas of every version speak here, RESP or inline; also Sentinels and people with `redis-cli`. Not here: what PSYNC itself is answered
//! ([`super::psync`]), reading bytes ([`crate::resp::request`]).

use super::psync::Asked;
use super::self_report::SelfReport;
use crate::resp::encode;
use crate::types::{Flavour, NextByte, ServerVersion};
use std::fmt;

/// One connection up to its PSYNC.
#[derive(Debug, Clone)]
pub struct Handshake {
    login: Option<Login>,
    is_authenticated: bool,
    identity: Identity,
}

/// What a connection must say before it gets anything.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// ACL user; `None` is the default user.
    pub user: Option<String>,
    /// Password.
    pub password: String,
}

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

/// What to do with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send this.
    Reply(Vec<u8>),
    /// Send nothing.
    Silence,
    /// The handshake is over: answer this PSYNC.
    Psync(Asked),
    /// Send this, if anything, and close.
    Close {
        /// Last words; may be empty.
        reply: Vec<u8>,
        /// For the log.
        reason: &'static str,
    },
}

impl Handshake {
    /// A fresh connection. `None`: no password is asked for.
    pub fn new(login: Option<Login>) -> Handshake {
        Handshake { is_authenticated: login.is_none(), login, identity: Identity::default() }
    }

    /// What was said so far.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Answers one request. `report` is asked for only by `INFO` and `ROLE`.
    pub fn answer(&mut self, arguments: &[Vec<u8>], report: impl FnOnce() -> SelfReport) -> Answer {
        let Some(command) = arguments.first() else { return Answer::Silence };
        let command = String::from_utf8_lossy(command).to_ascii_uppercase();
        match command.as_str() {
            "AUTH" => return self.auth(&arguments[1..]),
            "QUIT" => return Answer::Close { reply: b"+OK\r\n".to_vec(), reason: "it said QUIT" },
            // Every replica version goes on to AUTH after this error (protocol fact 1.2).
            _ if !self.is_authenticated => return error("NOAUTH Authentication required."),
            _ => {}
        }
        match command.as_str() {
            "PING" => ping(&arguments[1..]),
            "REPLCONF" => self.replconf(&arguments[1..]),
            "PSYNC" => psync(&arguments[1..]),
            // A replica sends SYNC when it took PSYNC for unknown: it would get a full resync without a word. Closing loses nothing (fact 1.4).
            "SYNC" => Answer::Close { reply: Vec::new(), reason: "it asked for SYNC, which is not served" },
            "INFO" => Answer::Reply(report().info()),
            "ROLE" => Answer::Reply(report().role()),
            "CLIENT" => client(&arguments[1..]),
            "COMMAND" => Answer::Reply(b"*0\r\n".to_vec()),
            "SELECT" => error("ERR rbuddy's relay holds no data"),
            _ => error(&format!("ERR unknown command '{}'", command.chars().take(NAME_SHOWN_MAX).collect::<String>())),
        }
    }

    fn auth(&mut self, arguments: &[Vec<u8>]) -> Answer {
        let (user, password): (&[u8], &[u8]) = match arguments {
            [password] => (b"default", password),
            [user, password] => (user, password),
            [..] => return error("ERR wrong number of arguments for 'auth' command"),
        };
        if let Some(login) = &self.login {
            let expected = login.user.as_deref().unwrap_or("default");
            // Both are compared whole, so that the time taken tells nothing about where they differ.
            if !(same_bytes(user, expected.as_bytes()) & same_bytes(password, login.password.as_bytes())) {
                return error("WRONGPASS invalid username-password pair or user is disabled.");
            }
        }
        // Without a password configured any is right: a replica that is refused here would retry for ever.
        self.is_authenticated = true;
        ok()
    }

    fn replconf(&mut self, arguments: &[Vec<u8>]) -> Answer {
        if !arguments.len().is_multiple_of(2) {
            return error("ERR syntax error");
        }
        for pair in arguments.chunks_exact(2) {
            let option = String::from_utf8_lossy(&pair[0]).to_ascii_lowercase();
            let value = String::from_utf8_lossy(&pair[1]);
            match option.as_str() {
                // These never get an answer (protocol fact 1.2).
                "ack" | "getack" => return Answer::Silence,
                "listening-port" => match value.parse() {
                    Ok(port) => self.identity.listening_port = Some(port).filter(|port| *port != 0),
                    Err(_) => return error("ERR value is not an integer or out of range"),
                },
                "ip-address" if value.len() <= ADDRESS_BYTES_MAX => self.identity.ip_address = Some(value.into_owned()),
                "ip-address" => return error("ERR REPLCONF ip-address provided by replica instance is too long"),
                "capa" if value.eq_ignore_ascii_case("psync2") => self.identity.has_psync2 = true,
                "capa" if value.eq_ignore_ascii_case("eof") => self.identity.has_eof = true,
                // Only Valkey announces a version.
                "version" => self.identity.version = ServerVersion::parse(Flavour::Valkey, &value).ok(),
                // Replicas log a refusal and go on, so what is unknown is accepted: it changes nothing here.
                _ => {}
            }
        }
        ok()
    }
}

fn ping(arguments: &[Vec<u8>]) -> Answer {
    match arguments {
        [] => Answer::Reply(b"+PONG\r\n".to_vec()),
        [text] => {
            let mut out = Vec::new();
            encode::bulk(&mut out, text);
            Answer::Reply(out)
        }
        [..] => error("ERR wrong number of arguments for 'ping' command"),
    }
}

fn psync(arguments: &[Vec<u8>]) -> Answer {
    match arguments {
        [id, next] => Answer::Psync(asked(&String::from_utf8_lossy(id), &String::from_utf8_lossy(next))),
        // `PSYNC id offset FAILOVER`: the primary wants to hand its role over to the relay. Any answer but this error leaves the set-up without a
        // writable primary (protocol fact 9).
        [_, _, ..] => {
            let mut reply = Vec::new();
            encode::error(&mut reply, "ERR rbuddy's relay cannot become a primary");
            Answer::Close { reply, reason: "it wanted the relay to take over as primary (PSYNC … FAILOVER)" }
        }
        [..] => error("ERR wrong number of arguments for 'psync' command"),
    }
}

/// An id that is none (`?`, or a wrong length) cannot be continued; a number that is none is "no such byte", which is never continued either.
fn asked(id: &str, next: &str) -> Asked {
    match id.parse() {
        Ok(replid) => Asked::From(replid, next.parse::<NextByte>().unwrap_or(NextByte::NONE)),
        Err(_) => Asked::Nothing,
    }
}

fn client(arguments: &[Vec<u8>]) -> Answer {
    let what = arguments.first().map(|word| word.to_ascii_uppercase());
    match what.as_deref() {
        Some(b"SETNAME" | b"SETINFO") => ok(),
        _ => error("ERR unknown subcommand"),
    }
}

fn same_bytes(given: &[u8], expected: &[u8]) -> bool {
    let differences = expected.iter().enumerate().fold(0, |sum, (index, byte)| sum | (byte ^ given.get(index).unwrap_or(&!byte)));
    (differences == 0) & (given.len() == expected.len())
}

fn ok() -> Answer {
    Answer::Reply(b"+OK\r\n".to_vec())
}

fn error(text: &str) -> Answer {
    let mut out = Vec::new();
    encode::error(&mut out, text);
    Answer::Reply(out)
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login {{ user: {:?}, password: *** }}", self.user)
    }
}

/// Replicas read a line of at most 255 bytes (protocol fact 1.2), and a character may take four.
const NAME_SHOWN_MAX: usize = 50;
/// As servers limit it (INET6_ADDRSTRLEN is less, names may be longer).
const ADDRESS_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::NodeAddress;
    use proptest::prelude::*;

    fn report() -> SelfReport {
        SelfReport {
            run_id: "cd".repeat(20).parse().expect("an id"),
            primary: NodeAddress::new("127.0.0.1", 6379),
            is_link_up: false,
            is_sync_in_progress: false,
            last_io_s: None,
            link_down_s: Some(3),
            position: None,
            connected_replicas: 0,
        }
    }

    fn say(handshake: &mut Handshake, line: &str) -> Answer {
        let arguments: Vec<Vec<u8>> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        handshake.answer(&arguments, report)
    }

    fn reply(text: &str) -> Answer {
        Answer::Reply(format!("{text}\r\n").into_bytes())
    }

    #[test]
    fn a_replica_introduces_itself() {
        let mut handshake = Handshake::new(None);
        assert_eq!(say(&mut handshake, "PING"), reply("+PONG"));
        for line in [
            "REPLCONF listening-port 6380",
            "replconf ip-address 10.0.0.7",
            "REPLCONF capa eof capa psync2 capa new",
            "REPLCONF version 9.1.2",
        ] {
            assert_eq!(say(&mut handshake, line), reply("+OK"), "{line}");
        }
        let expected = Identity {
            listening_port: Some(6380),
            ip_address: Some("10.0.0.7".into()),
            has_psync2: true,
            has_eof: true,
            version: ServerVersion::parse(Flavour::Valkey, "9.1.2").ok(),
        };
        assert_eq!(handshake.identity(), &expected);
        let id = "AB".repeat(20);
        let from = Asked::From(id.parse().expect("an id"), "101".parse().expect("a byte"));
        assert_eq!(say(&mut handshake, &format!("pSyNc {id} 101")), Answer::Psync(from));
    }

    #[test]
    fn what_cannot_be_continued_never_looks_as_if_it_could() {
        let mut handshake = Handshake::new(None);
        assert_eq!(say(&mut handshake, "PSYNC ? -1"), Answer::Psync(Asked::Nothing));
        assert_eq!(say(&mut handshake, "PSYNC abc 5"), Answer::Psync(Asked::Nothing));
        let id = "ab".repeat(20);
        for next in ["-1", "0", "x", "9223372036854775808"] {
            let Answer::Psync(Asked::From(_, byte)) = say(&mut handshake, &format!("PSYNC {id} {next}")) else { panic!("{next}") };
            assert_eq!(byte.have(), None, "{next}");
        }
    }

    #[test]
    fn nothing_is_given_without_the_password() {
        let login = Login { user: None, password: "se cret".into() };
        let mut handshake = Handshake::new(Some(login.clone()));
        for line in ["PING", "PSYNC ? -1", "INFO", "REPLCONF capa eof"] {
            assert_eq!(say(&mut handshake, line), reply("-NOAUTH Authentication required."), "{line}");
        }
        let wrong = reply("-WRONGPASS invalid username-password pair or user is disabled.");
        for attempt in [["AUTH", "secret"].as_slice(), &["AUTH", ""], &["AUTH", "se cret2"], &["AUTH", "admin", "se cret"]] {
            let arguments: Vec<Vec<u8>> = attempt.iter().map(|word| word.as_bytes().to_vec()).collect();
            assert_eq!(handshake.answer(&arguments, report), wrong, "{attempt:?}");
        }
        let arguments = [b"auth".to_vec(), b"default".to_vec(), b"se cret".to_vec()];
        assert_eq!(handshake.answer(&arguments, report), reply("+OK"));
        assert_eq!(say(&mut handshake, "PING"), reply("+PONG"));
        assert!(!format!("{handshake:?}").contains("se cret"));
    }

    #[test]
    fn an_unknown_command_is_refused_in_a_line_that_replicas_can_read() {
        let Answer::Reply(line) = say(&mut Handshake::new(None), &"\u{1f980}".repeat(100)) else { panic!("no reply") };
        assert!(line.starts_with(b"-ERR unknown command") && line.len() < 255, "{} bytes", line.len());
    }

    #[test]
    fn a_primary_that_wants_to_hand_over_is_refused_with_an_error() {
        let mut handshake = Handshake::new(None);
        let answer = say(&mut handshake, &format!("PSYNC {} 101 FAILOVER", "ab".repeat(20)));
        assert!(matches!(answer, Answer::Close { ref reply, .. } if reply.starts_with(b"-ERR")), "{answer:?}");
        assert!(matches!(say(&mut handshake, "SYNC"), Answer::Close { ref reply, .. } if reply.is_empty()));
    }

    proptest! {
        #[test]
        fn no_request_makes_it_panic(arguments in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..20), 0..6), which in 0usize..8) {
            let mut handshake = Handshake::new(None);
            let mut arguments = arguments;
            let command = ["PING", "AUTH", "REPLCONF", "PSYNC", "INFO", "CLIENT", "SELECT", "ROLE"][which];
            arguments.insert(0, command.as_bytes().to_vec());
            handshake.answer(&arguments, report);
        }
    }
}
