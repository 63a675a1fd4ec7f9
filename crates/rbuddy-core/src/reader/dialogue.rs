//! One client's conversation with its server, as far as boundaries go: which request may be sent now, which is answered here, which
//! replies are due, and what can be asked again elsewhere when the server is lost.
//!
//! Promises: every request that is not refused goes to the server byte for byte; what is answered here stands in its place among the
//! replies; a request is asked again only if no byte of its reply has reached the client and nothing but reading is in it.
//!
//! Not here: sockets, buffers and waiting (the runtime's), and which server (the controller's).

use super::judge::{Judged, judge};
use super::session::{Effect, Pin, Session};
use crate::resp::frame::{ReplyFramer, ReplyKind, RequestFramer};
use crate::resp::request::ProtocolError;
use std::borrow::Cow;
use std::collections::VecDeque;

/// Whether a new request may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door<'a> {
    /// To a checked server.
    Open {
        /// It calls itself a primary: names that are not known to be reads are refused here.
        detached: bool,
    },
    /// The server is being left: only what brings the session nearer to a movable state.
    Leaving {
        /// As above.
        detached: bool,
    },
    /// There is no server.
    Shut,
    /// There was none for too long: requests get this error.
    Refuse(&'a str),
}

/// What to do with the bytes at the front of the client's input.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing can be said before more arrives.
    NeedBytes,
    /// A request waits for the replies before it.
    WaitReplies,
    /// A request waits for a server.
    WaitServer,
    /// So many belong to a request for the server.
    Forward(usize),
    /// So many are dropped: they belong to a request that is answered here, or to none.
    Skip(usize),
    /// The request that was dropped before gets this answer, here and now.
    Answer(Answer),
}

/// An answer of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The whole line, without its end.
    pub line: Cow<'static, str>,
    /// What follows.
    pub then: Then,
}

/// What follows an answer of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Nothing.
    GoOn,
    /// The connection to the server is given up, and with it a transaction.
    LeaveServer,
    /// The client's connection is closed.
    Close,
}

/// A reply that answers nothing. The server wants to say something before it closes, or is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// Not RESP.
    #[error("the server's reply cannot be framed")]
    Protocol(#[from] ProtocolError),
    /// Nobody asked.
    #[error("the server replied without being asked")]
    Unsolicited,
}

/// What is left to do when the server is lost.
#[derive(Debug, PartialEq, Eq)]
pub enum Loss {
    /// No reply is due: another server at the next request.
    Idle,
    /// [`Dialogue::kept`] must be asked again.
    AskAgain,
    /// The client must be told, or cut.
    Broken,
}

/// The conversation.
#[derive(Debug, Default)]
pub struct Dialogue {
    session: Session,
    current: Current,
    /// Requests that were at least begun and are not answered, oldest first.
    outstanding: VecDeque<Outstanding>,
    replies: ReplyFramer,
    /// Bytes of the reply (or push) that is being framed have reached the client.
    is_partly_delivered: bool,
    kept: Kept,
    asked_again: u32,
    requests: u64,
}

/// The request at the front of the client's input.
#[derive(Debug, Default)]
enum Current {
    #[default]
    None,
    /// It goes to the server.
    Forwarded(RequestFramer),
    /// It is dropped, and gets this answer when it ends.
    Dropped(RequestFramer, Answer),
    /// It has been dropped.
    Due(Answer),
}

#[derive(Debug)]
struct Outstanding {
    effect: Effect,
    bytes: usize,
}

impl Dialogue {
    /// The next step with `input`, the client's bytes that were not yet used. Call again after it was carried out.
    pub fn step(&mut self, input: &[u8], door: Door<'_>) -> Result<Step, ProtocolError> {
        if let Current::Due(answer) = &self.current {
            if !self.is_between_replies() {
                return Ok(Step::WaitReplies);
            }
            let answer = answer.clone();
            return Ok(self.give(answer));
        }
        if input.is_empty() {
            return Ok(Step::NeedBytes);
        }
        if let Current::None = self.current
            && let Some(step) = self.begin(input, door)?
        {
            return Ok(step);
        }
        match &mut self.current {
            Current::None | Current::Due(_) => Ok(Step::NeedBytes),
            Current::Forwarded(framer) => {
                let fed = framer.feed(input)?;
                if fed.ended.is_some() {
                    self.current = Current::None;
                }
                if !self.is_tunnel() {
                    self.keep(&input[..fed.used]);
                }
                Ok(Step::Forward(fed.used))
            }
            Current::Dropped(framer, answer) => {
                let fed = framer.feed(input)?;
                if fed.ended.is_some() {
                    self.current = Current::Due(answer.clone());
                }
                Ok(Step::Skip(fed.used))
            }
        }
    }

    fn give(&mut self, answer: Answer) -> Step {
        self.current = Current::None;
        match answer.then {
            Then::GoOn => self.session.refused(),
            Then::LeaveServer => self.leave_server(),
            Then::Close => {}
        }
        Step::Answer(answer)
    }

    /// Decides over the request that `input` begins with. `None`: it is now the current one.
    fn begin(&mut self, input: &[u8], door: Door<'_>) -> Result<Option<Step>, ProtocolError> {
        let detached = match door {
            Door::Open { detached } | Door::Leaving { detached } => detached,
            Door::Shut | Door::Refuse(_) => false,
        };
        let (effect, pin) = match judge(input, &self.session, detached)? {
            Judged::Incomplete => return Ok(Some(Step::NeedBytes)),
            Judged::Empty { bytes } => return Ok(Some(Step::Skip(bytes))),
            Judged::Answer(answer) => return Ok(self.begin_answer(answer)),
            Judged::Forward { effect, pin } => (effect, pin),
        };
        match door {
            Door::Open { .. } => {}
            Door::Leaving { .. } if !self.session.will_be_movable() => {}
            Door::Leaving { .. } => return Ok(Some(Step::WaitReplies)),
            Door::Shut => return Ok(Some(Step::WaitServer)),
            Door::Refuse(reason) => return Ok(self.begin_answer(no_server(reason))),
        }
        self.session.sent(&effect);
        if let Some(pin) = pin {
            self.session.pin(pin);
        }
        if self.is_tunnel() {
            // Nothing is counted from here on, also not what was asked before: bytes pass, and the client reads them as it likes.
            self.outstanding.clear();
            self.kept = Kept::default();
        } else {
            self.outstanding.push_back(Outstanding { effect, bytes: 0 });
        }
        self.requests += 1;
        self.current = Current::Forwarded(RequestFramer::default());
        Ok(None)
    }

    fn begin_answer(&mut self, mut answer: Answer) -> Option<Step> {
        if !self.is_between_replies() {
            return Some(Step::WaitReplies);
        }
        if self.is_tunnel() {
            // Whether replies are still on their way is not known in a tunnel, so an answer that the client could go on after might
            // stand in the wrong place.
            answer.then = Then::Close;
        }
        self.requests += 1;
        self.current = Current::Dropped(RequestFramer::default(), answer);
        None
    }

    /// Reads bytes from the server up to the end of one frame; how many were used, and whether it ended.
    pub fn reply(&mut self, input: &[u8]) -> Result<(usize, bool), ReplyFault> {
        let fed = self.replies.feed(input)?;
        let Some(kind) = fed.ended else { return Ok((fed.used, false)) };
        if kind != ReplyKind::Push && !self.is_tunnel() {
            let answered = self.outstanding.pop_front().ok_or(ReplyFault::Unsolicited)?;
            self.kept.release(answered.bytes);
            self.session.answered(answered.effect, kind == ReplyKind::Error);
            self.asked_again = 0;
            if self.outstanding.is_empty() {
                self.session.settled();
                self.kept.restart(matches!(self.current, Current::Forwarded(_)));
            }
        }
        self.is_partly_delivered = false;
        Ok((fed.used, true))
    }

    /// The bytes of an unfinished frame that were read so far go to the client.
    pub fn delivers_a_part(&mut self) {
        self.is_partly_delivered |= !self.replies.is_between();
    }

    /// The server's connection has ended, or is given up. The replies that were read whole are the client's; the rest is forgotten.
    pub fn lose_server(&mut self) -> Loss {
        self.replies = ReplyFramer::default();
        if !self.session.is_movable() || self.is_partly_delivered {
            return Loss::Broken;
        }
        if self.outstanding.is_empty() && !matches!(self.current, Current::Forwarded(_)) {
            self.session.left_server();
            return Loss::Idle;
        }
        // A request that takes its server down with it must not be carried to the next one, and the next.
        if self.kept.is_incomplete || self.asked_again >= ASK_AGAIN_MAX {
            return Loss::Broken;
        }
        self.asked_again += 1;
        Loss::AskAgain
    }

    /// Everything that was sent and is not answered, also a request's beginning.
    pub fn kept(&self) -> &[u8] {
        self.kept.bytes()
    }

    /// No server will answer what is outstanding: how many whole requests get an error instead. One that is still coming in gets `reason`
    /// when it ends.
    pub fn fail_outstanding(&mut self, reason: &str) -> usize {
        let mut failed = self.outstanding.len();
        self.outstanding.clear();
        self.kept = Kept::default();
        self.session.left_server();
        if let Current::Forwarded(framer) = &mut self.current {
            let framer = std::mem::take(framer);
            self.current = Current::Dropped(framer, no_server(reason));
            failed = failed.saturating_sub(1);
        }
        failed
    }

    /// How many replies are due, where that is known and the next byte would begin one.
    pub fn errors_due(&self) -> usize {
        if self.is_partly_delivered || self.is_tunnel() { 0 } else { self.outstanding.len() }
    }

    /// Between two requests: nothing is due, nothing has begun.
    pub fn is_at_boundary(&self) -> bool {
        matches!(self.current, Current::None) && self.is_between_replies()
    }

    /// Requests that were begun so far.
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// The client's state at its server.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The server is left at a boundary.
    pub fn leave_server(&mut self) {
        self.session.left_server();
        self.replies = ReplyFramer::default();
    }

    fn is_between_replies(&self) -> bool {
        self.outstanding.is_empty() && self.replies.is_between()
    }

    fn is_tunnel(&self) -> bool {
        self.session.pinned() == Some(Pin::Tunnel)
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.kept.push(bytes);
        // The reply may come before the request's end only from a server that gives up on it; then there is no entry any more.
        if let Some(last) = self.outstanding.back_mut() {
            last.bytes += bytes.len();
        }
    }
}

/// A read that found no server in time. `MASTERDOWN` is what a replica says that must not serve what it has, and clients know it.
fn no_server(reason: &str) -> Answer {
    Answer { line: Cow::Owned(format!("-MASTERDOWN rbuddy: {reason}")), then: Then::GoOn }
}

/// A copy of the requests that are not answered.
#[derive(Default)]
struct Kept {
    bytes: Vec<u8>,
    /// Bytes before this belong to answered requests.
    start: usize,
    /// Something did not fit, so nothing can be asked again before everything is answered.
    is_incomplete: bool,
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        if self.is_incomplete {
            return;
        }
        if self.bytes.len() - self.start + bytes.len() > KEPT_BYTES_MAX {
            *self = Kept { is_incomplete: true, ..Kept::default() };
            return;
        }
        if self.start >= KEPT_BYTES_MAX {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn release(&mut self, bytes: usize) {
        if !self.is_incomplete {
            self.start = (self.start + bytes).min(self.bytes.len());
        }
    }

    /// Nothing is outstanding. If a request is still going out it was answered early, and its end alone is worth nothing.
    fn restart(&mut self, is_mid_request: bool) {
        self.bytes.clear();
        self.start = 0;
        self.is_incomplete = is_mid_request;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept({} bytes, incomplete: {})", self.bytes().len(), self.is_incomplete)
    }
}

/// More unanswered requests than this are not asked again: the client is told instead.
const KEPT_BYTES_MAX: usize = 64 * 1024;
/// How often one request is asked again.
const ASK_AGAIN_MAX: u32 = 2;

#[cfg(test)]
mod tests;
