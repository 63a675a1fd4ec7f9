//! What a connection to the relay says before PSYNC, and what it is answered.
//!
//! Replicas of every version speak here, RESP or inline; also Sentinels, monitors and people with `redis-cli`. Promises: without the password nothing
//! is given; whatever is said, what is kept of it is bounded; the relay is never made a primary. Not here: what PSYNC itself is answered
//! ([`super::psync`]), reading bytes ([`crate::resp::request`]), who may connect how often.
//!
//! | where | what |
//! | --- | --- |
//! | [`login`] | the password |
//! | [`introduction`] | REPLCONF, PSYNC |
//! | [`plain`] | commands with one reply: PING, INFO, SLAVEOF, PUBLISH … |
//! | [`transaction`] | MULTI … EXEC |
//! | [`subscriptions`] | SUBSCRIBE and what is delivered |

mod introduction;
mod login;
mod plain;
mod reply;
mod subscriptions;
mod transaction;

pub use introduction::Identity;
pub use login::Login;
pub use plain::OwnAddress;
pub use subscriptions::Subscriptions;

use super::psync::Asked;
use super::self_report::{SelfReport, VERSION_SHOWN};
use crate::resp::encode;
use crate::types::NodeAddress;
use introduction::psync;
use plain::{Label, Plain};
use reply::{error, ok, shown, unknown, wrong_number};
use subscriptions::By;
use transaction::Transaction;

/// One connection up to its PSYNC.
#[derive(Debug, Clone)]
pub struct Handshake {
    login: Option<Login>,
    is_authenticated: bool,
    identity: Identity,
    label: Label,
    subscriptions: Subscriptions,
    transaction: Option<Transaction>,
}

/// The relay around a connection.
pub trait Surroundings {
    /// What it says of itself.
    fn report(&self) -> SelfReport;
    /// It is told to follow this primary.
    fn follow(&mut self, primary: NodeAddress) -> Result<(), OwnAddress>;
    /// A message for all that listen to Sentinels' channel; how many do.
    fn publish(&mut self, message: &[u8]) -> u64;
}

/// What to do with one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Send this.
    Reply(Vec<u8>),
    /// Send this, but not at once: whoever guesses passwords shall wait.
    WrongPassword(Vec<u8>),
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
    /// A fresh connection and its number (`CLIENT ID`). No `login`: no password is asked for.
    pub fn new(login: Option<Login>, number: u64) -> Handshake {
        Handshake {
            is_authenticated: login.is_none(),
            login,
            identity: Identity::default(),
            label: Label { number, name: Vec::new() },
            subscriptions: Subscriptions::default(),
            transaction: None,
        }
    }

    /// What was said so far.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// It said the password, or none is asked for.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated
    }

    /// What it listens to.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// Answers one request.
    pub fn answer(&mut self, arguments: &[Vec<u8>], surroundings: &mut impl Surroundings) -> Answer {
        let Some((command, arguments)) = arguments.split_first() else { return Answer::Silence };
        let command = String::from_utf8_lossy(command).to_ascii_uppercase();
        match command.as_str() {
            "QUIT" => return Answer::Close { reply: ok(), reason: "it said QUIT" },
            "RESET" => return self.reset(),
            "AUTH" if self.transaction.is_none() => return self.auth(arguments),
            "HELLO" if self.transaction.is_none() => return self.hello(arguments),
            // Every replica version goes on to AUTH after this error (protocol fact 1.2).
            _ if !self.is_authenticated => return Answer::Reply(error("NOAUTH Authentication required.")),
            _ => {}
        }
        if let Some(answer) = self.of_transaction(&command, arguments, surroundings) {
            return answer;
        }
        if !self.subscriptions.is_empty() {
            return Answer::Reply(self.while_subscribed(&command, arguments));
        }
        match command.as_str() {
            "REPLCONF" => self.identity.replconf(arguments),
            "PSYNC" => psync(arguments),
            // A replica sends SYNC when it took PSYNC for unknown: it would get a full resync without a word. Closing loses nothing (fact 1.4).
            "SYNC" => Answer::Close { reply: Vec::new(), reason: "it asked for SYNC, which is not served" },
            _ => Answer::Reply(match self.subscription(&command, arguments) {
                Some(reply) => reply,
                None => match Plain::named(&command) {
                    Some(plain) => plain.carry_out(arguments, &mut self.label, surroundings),
                    None => unknown(&command),
                },
            }),
        }
    }

    fn auth(&mut self, arguments: &[Vec<u8>]) -> Answer {
        match arguments {
            [password] => self.log_in(b"default", password).unwrap_or_else(|| Answer::Reply(ok())),
            [user, password] => self.log_in(user, password).unwrap_or_else(|| Answer::Reply(ok())),
            [..] => Answer::Reply(wrong_number("auth")),
        }
    }

    /// `Some`: the refusal. Without a password configured any is right: a replica that is refused here would retry for ever.
    fn log_in(&mut self, user: &[u8], password: &[u8]) -> Option<Answer> {
        if self.login.as_ref().is_some_and(|login| !login.is(user, password)) {
            return Some(Answer::WrongPassword(error("WRONGPASS invalid username-password pair or user is disabled.")));
        }
        self.is_authenticated = true;
        None
    }

    /// RESP2 only: a library that wants RESP3 reads so and goes on with what it has, as with servers before 6.0.
    fn hello(&mut self, arguments: &[Vec<u8>]) -> Answer {
        let (version, mut options) = arguments.split_first().map_or((None, arguments), |(version, options)| (Some(version), options));
        if version.is_some_and(|version| version != b"2") {
            return Answer::Reply(error("NOPROTO unsupported protocol version"));
        }
        let mut name = None;
        while let Some(option) = options.first() {
            options = match (option.to_ascii_uppercase().as_slice(), &options[1..]) {
                (b"AUTH", [user, password, rest @ ..]) => match self.log_in(user, password) {
                    Some(refusal) => return refusal,
                    None => rest,
                },
                (b"SETNAME", [given, rest @ ..]) => {
                    name = Some(given);
                    rest
                }
                _ => return Answer::Reply(error("ERR Syntax error in HELLO")),
            };
        }
        if !self.is_authenticated {
            return Answer::Reply(error("NOAUTH HELLO must be called with the client already authenticated, or with AUTH user password"));
        }
        match name.map(|name| self.label.set_name(name)) {
            Some(refusal) if refusal.starts_with(b"-") => Answer::Reply(refusal),
            _ => Answer::Reply(self.greeting()),
        }
    }

    fn greeting(&self) -> Vec<u8> {
        let mut out = b"*14\r\n".to_vec();
        let text = |out: &mut Vec<u8>, name: &str, value: &str| [name, value].iter().for_each(|word| encode::bulk(out, word.as_bytes()));
        text(&mut out, "server", "redis");
        text(&mut out, "version", VERSION_SHOWN);
        encode::bulk(&mut out, b"proto");
        out.extend_from_slice(b":2\r\n");
        encode::bulk(&mut out, b"id");
        out.extend_from_slice(format!(":{}\r\n", self.label.number).as_bytes());
        text(&mut out, "mode", "standalone");
        text(&mut out, "role", "replica");
        encode::bulk(&mut out, b"modules");
        out.extend_from_slice(b"*0\r\n");
        out
    }

    /// As a fresh connection, the password forgotten.
    fn reset(&mut self) -> Answer {
        *self = Handshake::new(self.login.take(), self.label.number);
        Answer::Reply(b"+RESET\r\n".to_vec())
    }

    /// `None`: it is no matter of transactions.
    fn of_transaction(&mut self, command: &str, arguments: &[Vec<u8>], surroundings: &mut impl Surroundings) -> Option<Answer> {
        let answer = match (command, self.transaction.take()) {
            ("MULTI", None) if self.subscriptions.is_empty() => {
                self.transaction = Some(Transaction::default());
                ok()
            }
            ("EXEC" | "DISCARD", None) => error(&format!("ERR {command} without MULTI")),
            (_, None) => return None,
            ("EXEC", Some(transaction)) => transaction.exec(&mut self.label, surroundings),
            ("DISCARD", Some(_)) => ok(),
            ("MULTI", open @ Some(_)) => {
                self.transaction = open;
                error("ERR MULTI calls can not be nested")
            }
            (_, Some(mut transaction)) => {
                let answer = transaction.queue(command, arguments);
                self.transaction = Some(transaction);
                return Some(answer);
            }
        };
        Some(Answer::Reply(answer))
    }

    fn while_subscribed(&mut self, command: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
        match (command, arguments) {
            ("PING", []) => subscriptions::pong(b""),
            ("PING", [text]) => subscriptions::pong(text),
            ("PING", [..]) => wrong_number("ping"),
            _ => self.subscription(command, arguments).unwrap_or_else(|| {
                let command = shown(command).to_ascii_lowercase();
                error(&format!(
                    "ERR Can't execute '{command}': only (P)SUBSCRIBE / (P)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
                ))
            }),
        }
    }

    /// `None`: it is no matter of subscriptions.
    fn subscription(&mut self, command: &str, arguments: &[Vec<u8>]) -> Option<Vec<u8>> {
        Some(match command {
            "SUBSCRIBE" | "PSUBSCRIBE" if arguments.is_empty() => wrong_number(command),
            "SUBSCRIBE" => self.subscriptions.subscribe(By::Name, arguments),
            "PSUBSCRIBE" => self.subscriptions.subscribe(By::Pattern, arguments),
            "UNSUBSCRIBE" => self.subscriptions.unsubscribe(By::Name, arguments),
            "PUNSUBSCRIBE" => self.subscriptions.unsubscribe(By::Pattern, arguments),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests;
