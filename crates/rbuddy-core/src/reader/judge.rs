//! Looks at the beginning of a request and says what happens with it: the table's rule, and the answers that are given here.

use super::dialogue::{Answer, Then};
use super::rules::{ByName, Rule, by_name};
use super::session::{Effect, Pin, Session, SessionRequest, session_request};
use crate::resp::frame::{RequestHead, argument_at, request_head};
use crate::resp::request::{Arguments, ProtocolError, RequestLimits, parse};
use std::borrow::Cow;

/// What happens with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Judged {
    /// More of it must arrive.
    Incomplete,
    /// No request: nobody answers it.
    Empty {
        /// Its length.
        bytes: usize,
    },
    /// It does not reach a server.
    Answer(Answer),
    /// It goes to the server.
    Forward {
        /// What its reply will change.
        effect: Effect,
        /// Whether it binds the connection.
        pin: Option<Pin>,
    },
}

/// Judges the request that `input` begins with.
pub(super) fn judge(input: &[u8], session: &Session, detached: bool) -> Result<Judged, ProtocolError> {
    let Some(head) = request_head(input)? else { return Ok(Judged::Incomplete) };
    match head {
        RequestHead::Empty { bytes } => Ok(Judged::Empty { bytes }),
        RequestHead::Inline { line } => judge_inline(line, session, detached),
        RequestHead::Array { arguments, name, next } => {
            let rule = match by_name(name) {
                ByName::Rule(Rule::Session) => return judge_session(name, input, session, detached),
                ByName::Rule(rule) => rule,
                ByName::Subcommands(subcommands) if arguments < 2 => subcommands.rule(b""),
                ByName::Subcommands(subcommands) => match argument_at(input, next)? {
                    Some((subcommand, _)) => subcommands.rule(subcommand),
                    None => return Ok(Judged::Incomplete),
                },
            };
            Ok(by_rule(rule, name, session, detached))
        }
    }
}

fn judge_session(name: &[u8], input: &[u8], session: &Session, detached: bool) -> Result<Judged, ProtocolError> {
    let Some((arguments, _)) = parse(input, RequestLimits::SMALL)? else { return Ok(Judged::Incomplete) };
    Ok(by_session_request(&arguments, name, session, detached))
}

fn by_session_request(arguments: &[Vec<u8>], name: &[u8], session: &Session, detached: bool) -> Judged {
    match session_request(arguments) {
        SessionRequest::Changes(changes) => Judged::Forward { effect: Effect::Changes(changes), pin: None },
        SessionRequest::Rule(rule) => by_rule(rule, name, session, detached),
    }
}

/// An inline request: what a person types. Its words must be the same here and at the server, so what servers treat in a way of their own
/// (quotes, control characters) is refused.
fn judge_inline(line: &[u8], session: &Session, detached: bool) -> Result<Judged, ProtocolError> {
    let text = line.strip_suffix(b"\n").unwrap_or(line);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.iter().any(|byte| matches!(byte, b'"' | b'\'') || (byte.is_ascii_control() && *byte != b'\t')) {
        let line = Cow::Borrowed("-ERR rbuddy: quotes in inline requests are not offered through the reader endpoint");
        return Ok(Judged::Answer(Answer { line, then: Then::GoOn }));
    }
    let words: Arguments = text.split(|byte| matches!(byte, b' ' | b'\t')).filter(|word| !word.is_empty()).map(<[u8]>::to_vec).collect();
    let Some(name) = words.first() else { return Ok(Judged::Empty { bytes: line.len() }) };
    let rule = match by_name(name) {
        ByName::Rule(Rule::Session) => return Ok(by_session_request(&words, name, session, detached)),
        ByName::Rule(rule) => rule,
        ByName::Subcommands(subcommands) => subcommands.rule(words.get(1).map_or(&[], Vec::as_slice)),
    };
    Ok(by_rule(rule, name, session, detached))
}

fn by_rule(rule: Rule, name: &[u8], session: &Session, detached: bool) -> Judged {
    let forward = |effect| Judged::Forward { effect, pin: None };
    let answer = |line, then| Judged::Answer(Answer { line, then });
    match rule {
        Rule::Unknown if detached => answer(Cow::Borrowed(READ_ONLY), Then::GoOn),
        Rule::Read | Rule::Unknown => forward(Effect::None),
        Rule::Write => answer(Cow::Borrowed(READ_ONLY), Then::GoOn),
        // What is not malformed has been turned into another rule before.
        Rule::Session => forward(Effect::None),
        Rule::Refused => {
            let name = String::from_utf8_lossy(name).to_ascii_uppercase();
            answer(Cow::Owned(format!("-ERR rbuddy: {name} is not offered through the reader endpoint")), Then::GoOn)
        }
        Rule::Multi => forward(Effect::Multi),
        // The server does not know that a request of this transaction was refused here. Leaving it ends the transaction there.
        Rule::Exec if session.is_aborted() => {
            let then = if session.pinned().is_some() { Then::Close } else { Then::LeaveServer };
            answer(Cow::Borrowed("-EXECABORT Transaction discarded because of previous errors."), then)
        }
        Rule::Exec => forward(Effect::Exec),
        Rule::Discard => forward(Effect::Discard),
        Rule::Watch => forward(Effect::Watch),
        Rule::Unwatch => forward(Effect::Unwatch),
        Rule::Reset => forward(Effect::Reset),
        Rule::Quit => answer(Cow::Borrowed("+OK"), Then::Close),
        Rule::Pin(pin) => Judged::Forward { effect: Effect::None, pin: Some(pin) },
    }
}

const READ_ONLY: &str = "-READONLY You can't write against a read only replica.";
