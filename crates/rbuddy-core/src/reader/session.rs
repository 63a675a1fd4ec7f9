//! What a server knows of a client's connection, as far as another server has to be told it when the connection moves; and whether
//! it can move at all.
//!
//! Promises: only what a server has accepted is remembered; what is replayed gives the state that the client last saw; secrets are in
//! the replay and nowhere else (no `Debug` shows them).

use super::rules::Rule;
use crate::resp::encode;
use std::collections::BTreeMap;
use std::fmt;

/// Why a connection stays with its server for good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// The server holds state that cannot be rebuilt elsewhere (`CLIENT TRACKING`); replies still answer requests one by one.
    Counted,
    /// From here on replies cannot be matched with requests (subscriptions, `MONITOR`, `CLIENT REPLY OFF`): bytes pass as in a tunnel.
    Tunnel,
}

/// One thing that a server remembers, in the order in which it is replayed: first who it is, since the rest may need the right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// `AUTH`
    Auth,
    /// `HELLO` with the version only.
    Protocol,
    /// `CLIENT SETNAME`
    Name,
    /// `CLIENT SETINFO LIB-NAME`
    LibraryName,
    /// `CLIENT SETINFO LIB-VER`
    LibraryVersion,
    /// `CLIENT NO-EVICT`
    NoEvict,
    /// `CLIENT NO-TOUCH`
    NoTouch,
    /// `CLIENT CAPA`
    Capabilities,
    /// `READONLY` or `READWRITE`
    ReadOnly,
    /// `SELECT`
    Database,
}

/// Requests to remember once the server has accepted them.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Changes(Vec<(Slot, Vec<u8>)>);

/// What a request of [`Rule::Session`] turns out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionRequest {
    /// It changes the session so.
    Changes(Changes),
    /// Another rule holds for it.
    Rule(Rule),
}

/// What a reply of the server changes, if it is no error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// A transaction is open.
    Multi,
    /// It is closed.
    Exec,
    /// Likewise.
    Discard,
    /// Keys are watched.
    Watch,
    /// None is.
    Unwatch,
    /// All is as on a new connection.
    Reset,
    /// These are remembered.
    Changes(Changes),
}

/// What binds a connection to its server for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Transaction {
    /// Between `MULTI` and `EXEC` or `DISCARD`.
    pub is_open: bool,
    /// Keys are watched.
    pub is_watching: bool,
}

impl Transaction {
    /// As it will be when the server accepts a request with this effect.
    fn after(self, effect: &Effect) -> Transaction {
        match effect {
            Effect::None | Effect::Changes(_) => self,
            Effect::Multi => Transaction { is_open: true, ..self },
            Effect::Exec | Effect::Discard | Effect::Reset => Transaction::default(),
            Effect::Watch => Transaction { is_watching: true, ..self },
            // Inside a transaction it is only queued, and the transaction's end unwatches anyway.
            Effect::Unwatch if self.is_open => self,
            Effect::Unwatch => Transaction { is_watching: false, ..self },
        }
    }

    /// Whether anything binds.
    pub fn binds(self) -> bool {
        self.is_open || self.is_watching
    }
}

/// A client's state at its server.
#[derive(Debug, Default)]
pub struct Session {
    remembered: Remembered,
    /// As the server has confirmed it.
    confirmed: Transaction,
    /// As it will be when all requests that were sent are answered.
    predicted: Transaction,
    /// A request inside the open transaction was refused here, so it must not be executed.
    is_aborted: bool,
    pin: Option<Pin>,
}

#[derive(Default)]
struct Remembered(BTreeMap<Slot, Vec<u8>>);

impl Session {
    /// A request with this effect was sent.
    pub fn sent(&mut self, effect: &Effect) {
        self.predicted = self.predicted.after(effect);
    }

    /// The connection is bound for good.
    pub fn pin(&mut self, pin: Pin) {
        // A tunnel stays one: what was lost count of is not found again.
        if self.pin != Some(Pin::Tunnel) {
            self.pin = Some(pin);
        }
    }

    /// The server replied to a request with this effect.
    pub fn answered(&mut self, effect: Effect, is_error: bool) {
        let ends_transaction = matches!(effect, Effect::Exec) || (!is_error && matches!(effect, Effect::Discard | Effect::Reset));
        // EXEC ends a transaction also where it answers an error (EXECABORT).
        if !is_error || ends_transaction {
            let was_open = self.confirmed.is_open;
            self.confirmed = self.confirmed.after(&effect);
            match effect {
                Effect::Changes(changes) => self.accept(changes, was_open),
                Effect::Reset => self.remembered.0.clear(),
                Effect::None | Effect::Multi | Effect::Exec | Effect::Discard | Effect::Watch | Effect::Unwatch => {}
            }
        }
        if ends_transaction {
            self.is_aborted = false;
        }
    }

    fn accept(&mut self, changes: Changes, in_transaction: bool) {
        for (slot, request) in changes.0 {
            match (in_transaction, slot) {
                (false, _) => {
                    self.remembered.0.insert(slot, request);
                }
                // Whether it is carried out is buried in EXEC's reply, which is not read. Rare, so the connection simply stays where it is.
                (true, _) => self.pin(Pin::Counted),
            }
        }
    }

    /// Every request sent is answered: facts replace predictions.
    pub fn settled(&mut self) {
        self.predicted = self.confirmed;
    }

    /// A request was refused here: an open transaction must fail at `EXEC`, as it would at the server.
    pub fn refused(&mut self) {
        self.is_aborted |= self.confirmed.is_open;
    }

    /// Whether `EXEC` must fail.
    pub fn is_aborted(&self) -> bool {
        self.is_aborted
    }

    /// The server was left: transaction and watches are gone with it.
    pub fn left_server(&mut self) {
        self.confirmed = Transaction::default();
        self.predicted = Transaction::default();
        self.is_aborted = false;
    }

    /// Whether another server can be given this state, as far as is confirmed.
    pub fn is_movable(&self) -> bool {
        self.pin.is_none() && !self.confirmed.binds()
    }

    /// Whether it will be movable once everything sent is answered.
    pub fn will_be_movable(&self) -> bool {
        self.pin.is_none() && !self.predicted.binds()
    }

    /// Bound for good, and how.
    pub fn pinned(&self) -> Option<Pin> {
        self.pin
    }

    /// The requests that bring a new connection into this state, and how many they are.
    pub fn replay(&self) -> (Vec<u8>, usize) {
        let requests: Vec<&[u8]> = self.remembered.0.values().map(Vec::as_slice).collect();
        (requests.concat(), requests.len())
    }
}

/// Reads a request of [`Rule::Session`]. What is malformed changes nothing: the server will refuse it.
pub fn session_request(arguments: &[Vec<u8>]) -> SessionRequest {
    let words: Vec<Vec<u8>> = arguments.iter().take(3).map(|word| word.to_ascii_uppercase()).collect();
    let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
    let whole = |slot| SessionRequest::Changes(Changes(vec![(slot, encode::request(arguments))]));
    match words.as_slice() {
        [b"AUTH", _, ..] => whole(Slot::Auth),
        [b"SELECT", _] => whole(Slot::Database),
        [b"READONLY" | b"READWRITE"] => whole(Slot::ReadOnly),
        [b"HELLO", _, ..] => SessionRequest::Changes(hello(arguments)),
        [b"CLIENT", b"SETNAME", _] => whole(Slot::Name),
        [b"CLIENT", b"SETINFO", b"LIB-NAME", ..] => whole(Slot::LibraryName),
        [b"CLIENT", b"SETINFO", b"LIB-VER", ..] => whole(Slot::LibraryVersion),
        [b"CLIENT", b"NO-EVICT", _] => whole(Slot::NoEvict),
        [b"CLIENT", b"NO-TOUCH", _] => whole(Slot::NoTouch),
        [b"CLIENT", b"CAPA", ..] => whole(Slot::Capabilities),
        [b"CLIENT", b"REPLY", b"OFF" | b"SKIP"] => SessionRequest::Rule(Rule::Pin(Pin::Tunnel)),
        [b"CLIENT", b"TRACKING", b"ON", ..] => SessionRequest::Rule(Rule::Pin(Pin::Counted)),
        [b"CLIENT", b"KILL" | b"PAUSE" | b"UNPAUSE", ..] => SessionRequest::Rule(Rule::Refused),
        [..] => SessionRequest::Rule(Rule::Read),
    }
}

/// `HELLO version [AUTH user password] [SETNAME name]` is taken apart, so that a later `AUTH` or `CLIENT SETNAME` replaces its part of it.
fn hello(arguments: &[Vec<u8>]) -> Changes {
    let mut changes = vec![(Slot::Protocol, encode::request(&arguments[..2]))];
    let mut rest = &arguments[2..];
    loop {
        rest = match rest {
            [option, user, password, rest @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                changes.push((Slot::Auth, encode::request(&[b"AUTH", user.as_slice(), password.as_slice()])));
                rest
            }
            [option, name, rest @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                changes.push((Slot::Name, encode::request(&[b"CLIENT", b"SETNAME".as_slice(), name.as_slice()])));
                rest
            }
            [..] => return Changes(changes),
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(slot, _)| slot)).finish()
    }
}

impl fmt::Debug for Remembered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(words: &[&str]) -> SessionRequest {
        let arguments: Vec<Vec<u8>> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
        session_request(&arguments)
    }

    fn say(session: &mut Session, words: &[&str], is_error: bool) {
        let SessionRequest::Changes(changes) = request(words) else { panic!("{words:?} changes nothing") };
        session.answered(Effect::Changes(changes), is_error);
    }

    fn replayed(session: &Session) -> String {
        String::from_utf8(session.replay().0).expect("text")
    }

    #[test]
    fn the_last_accepted_values_are_replayed_in_an_order_that_works() {
        let mut session = Session::default();
        say(&mut session, &["SELECT", "3"], false);
        say(&mut session, &["HELLO", "3", "auth", "bob", "old", "SETNAME", "first"], false);
        say(&mut session, &["AUTH", "alice", "new"], false);
        say(&mut session, &["AUTH", "alice", "wrong"], true);
        say(&mut session, &["SELECT", "99"], true);
        say(&mut session, &["client", "setname", "second"], false);
        let expected = [
            encode::request(&["AUTH", "alice", "new"]),
            encode::request(&["HELLO", "3"]),
            encode::request(&["client", "setname", "second"]),
            encode::request(&["SELECT", "3"]),
        ];
        assert_eq!(replayed(&session).into_bytes(), expected.concat());
        assert_eq!(session.replay().1, 4);
        assert!(!format!("{session:?}").contains("new"), "secrets are not shown");
        session.answered(Effect::Reset, false);
        assert_eq!(replayed(&session), "");
    }

    #[test]
    fn a_transaction_binds_until_it_ends() {
        let mut session = Session::default();
        for effect in [Effect::Watch, Effect::Multi] {
            session.sent(&effect);
            assert!(!session.will_be_movable());
            session.answered(effect, false);
            assert!(!session.is_movable());
        }
        session.sent(&Effect::Exec);
        assert!(session.will_be_movable() && !session.is_movable());
        session.answered(Effect::Exec, true);
        assert!(session.is_movable(), "EXECABORT ends it too");
    }

    #[test]
    fn a_prediction_that_fails_is_replaced_by_the_fact() {
        let mut session = Session::default();
        session.sent(&Effect::Multi);
        session.answered(Effect::Multi, true);
        assert!(!session.will_be_movable());
        session.settled();
        assert!(session.will_be_movable());
    }

    #[test]
    fn select_and_auth_in_a_transaction_pin_since_nobody_reads_what_came_of_them() {
        for words in [["SELECT", "4"], ["AUTH", "x"]] {
            let mut session = Session::default();
            session.answered(Effect::Multi, false);
            say(&mut session, &words, false);
            // With a watched key changed, EXEC answers nil, which is no error, and nothing was carried out.
            session.answered(Effect::Exec, false);
            assert_eq!(replayed(&session), "");
            assert!(!session.is_movable(), "{words:?}");
        }
    }

    #[test]
    fn what_loses_count_of_replies_is_a_tunnel_for_good() {
        assert_eq!(request(&["CLIENT", "REPLY", "off"]), SessionRequest::Rule(Rule::Pin(Pin::Tunnel)));
        assert_eq!(request(&["CLIENT", "REPLY", "ON"]), SessionRequest::Rule(Rule::Read));
        assert_eq!(request(&["CLIENT", "TRACKING", "on", "BCAST"]), SessionRequest::Rule(Rule::Pin(Pin::Counted)));
        assert_eq!(request(&["CLIENT", "KILL", "ID", "3"]), SessionRequest::Rule(Rule::Refused));
        assert_eq!(request(&["SELECT"]), SessionRequest::Rule(Rule::Read));
        let mut session = Session::default();
        session.pin(Pin::Tunnel);
        session.pin(Pin::Counted);
        assert_eq!(session.pinned(), Some(Pin::Tunnel));
    }
}
