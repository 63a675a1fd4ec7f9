//! Moves bytes between a client and its server, as the dialogue says.
//!
//! Promises: both directions are bounded, so a slow reader slows its server and nobody else; a reply that fits is given to the client only
//! when it is whole, so that most losses of a server happen where the client has not seen a byte; nothing is lost when a poll is dropped,
//! since all state is in the struct.

use super::backend::Backend;
use super::counters::Counters;
use bytes::{Buf, BytesMut};
use rbuddy_core::reader::dialogue::{Dialogue, Door, Loss, ReplyFault, Step, Then};
use rbuddy_core::resp::request::ProtocolError;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why the pump stopped: somebody must decide.
#[derive(Debug)]
pub(super) enum Wake {
    /// The client closed its side; what it asked before is still answered.
    ClientEnded,
    /// The client's connection is broken.
    ClientGone,
    /// All that there is to say is said.
    Done,
    /// The client does not speak RESP.
    Protocol(ProtocolError),
    /// A request waits, and every reply is out.
    NeedsServer,
    /// The server's connection ended.
    ServerLost(String),
    /// The server must be left, and the session ends with it.
    LeaveServer,
    /// The server is being left, and this is a moment at which it can be.
    Boundary,
}

/// What the client's task wants to happen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Intent {
    /// No new request goes to the server.
    pub(super) leaving: bool,
}

/// Requests that have come get an error.
#[derive(Debug)]
struct Refusal {
    reason: String,
    /// The connection is closed behind them.
    closes: bool,
}

/// The client's side, with what was read and not yet passed on.
#[derive(Debug)]
pub(super) struct Pump {
    stream: TcpStream,
    pub(super) dialogue: Dialogue,
    from_client: BytesMut,
    /// Of these, bytes that go to the server.
    judged: usize,
    /// Bytes from servers and from us.
    to_client: BytesMut,
    /// Of these, bytes that the dialogue has seen.
    framed: usize,
    /// Of these, bytes that may go out.
    deliverable: usize,
    /// Requests to be asked again, before anything else goes to the server.
    again: BytesMut,
    must_ask_again: bool,
    refusing: Option<Refusal>,
    client_ended: bool,
    counters: Arc<Counters>,
    /// Of the dialogue's requests, those that are counted.
    counted: u64,
}

impl Pump {
    pub(super) fn new(stream: TcpStream, counters: Arc<Counters>) -> Pump {
        Pump {
            stream,
            dialogue: Dialogue::default(),
            from_client: BytesMut::new(),
            judged: 0,
            to_client: BytesMut::new(),
            framed: 0,
            deliverable: 0,
            again: BytesMut::new(),
            must_ask_again: false,
            refusing: None,
            client_ended: false,
            counters,
            counted: 0,
        }
    }

    /// Runs until somebody must decide.
    ///
    /// # Cancel safety
    /// Dropping it loses nothing.
    pub(super) async fn run(&mut self, mut backend: Option<&mut Backend>, intent: Intent) -> Wake {
        std::future::poll_fn(|cx| {
            let wake = self.poll(backend.as_deref_mut(), intent, cx);
            // Once per wake-up and not per request: clients share the counter's cache line.
            let requests = self.dialogue.requests();
            if requests > self.counted {
                self.counters.add_requests(requests - std::mem::replace(&mut self.counted, requests));
            }
            wake
        })
        .await
    }

    fn poll(&mut self, mut backend: Option<&mut Backend>, intent: Intent, cx: &mut Context<'_>) -> Poll<Wake> {
        loop {
            let mut progressed = match self.poll_client(cx) {
                Ok(progressed) => progressed,
                Err(wake) => return Poll::Ready(wake),
            };
            if let Some(backend) = backend.as_deref_mut() {
                match self.poll_server(backend, cx) {
                    Ok(more) => progressed |= more,
                    Err(reason) => return Poll::Ready(Wake::ServerLost(reason)),
                }
            }
            match self.judge(backend.as_deref(), intent) {
                Ok(more) => progressed |= more,
                Err(wake) => return Poll::Ready(wake),
            }
            if !progressed {
                return Poll::Pending;
            }
        }
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Result<bool, Wake> {
        let mut progressed = false;
        if self.deliverable > 0
            && let Poll::Ready(written) = poll_write(&mut self.stream, &self.to_client[..self.deliverable], cx)
        {
            let written = written.map_err(|_| Wake::ClientGone)?;
            self.to_client.advance(written);
            self.deliverable -= written;
            self.framed -= written;
            progressed = true;
        }
        if !self.client_ended
            && self.from_client.len() < BUFFER_BYTES_MAX
            && let Poll::Ready(read) = poll_read(&mut self.stream, &mut self.from_client, cx)
        {
            match read {
                Ok(0) => {
                    self.client_ended = true;
                    return Err(Wake::ClientEnded);
                }
                Ok(_) => progressed = true,
                Err(_) => return Err(Wake::ClientGone),
            }
        }
        Ok(progressed)
    }

    fn poll_server(&mut self, backend: &mut Backend, cx: &mut Context<'_>) -> Result<bool, String> {
        let mut progressed = false;
        if self.to_client.len() < BUFFER_BYTES_MAX
            && let Poll::Ready(read) = poll_read(&mut backend.stream, &mut self.to_client, cx)
        {
            match read {
                Ok(0) => return Err(format!("{} closed the connection", backend.address)),
                Ok(_) => self.frame_replies().map_err(|fault| format!("{}: {fault}", backend.address))?,
                Err(error) => return Err(format!("{}: {error}", backend.address)),
            }
            progressed = true;
        }
        let requests = if self.again.is_empty() { &self.from_client[..self.judged] } else { &self.again[..] };
        if !requests.is_empty()
            && let Poll::Ready(written) = poll_write(&mut backend.stream, requests, cx)
        {
            let written = written.map_err(|error| format!("{}: {error}", backend.address))?;
            if self.again.is_empty() {
                self.from_client.advance(written);
                self.judged -= written;
            } else {
                self.again.advance(written);
            }
            progressed = true;
        }
        Ok(progressed)
    }

    fn frame_replies(&mut self) -> Result<(), ReplyFault> {
        while self.framed < self.to_client.len() {
            let (used, ended) = self.dialogue.reply(&self.to_client[self.framed..])?;
            self.framed += used;
            if ended {
                self.deliverable = self.framed;
            }
        }
        if self.framed - self.deliverable > HELD_BACK_BYTES_MAX {
            self.deliverable = self.framed;
            self.dialogue.delivers_a_part();
        }
        Ok(())
    }

    /// Carries out the dialogue's steps as far as they go; whether there were any.
    fn judge(&mut self, backend: Option<&Backend>, intent: Intent) -> Result<bool, Wake> {
        let mut progressed = false;
        loop {
            let door = match (backend, &self.refusing) {
                (Some(Backend { detached, .. }), _) if intent.leaving => Door::Leaving { detached: *detached },
                (Some(Backend { detached, .. }), _) => Door::Open { detached: *detached },
                (None, Some(refusal)) => Door::Refuse(&refusal.reason),
                (None, None) => Door::Shut,
            };
            match self.dialogue.step(&self.from_client[self.judged..], door).map_err(Wake::Protocol)? {
                Step::Forward(bytes) => self.judged += bytes,
                Step::Skip(bytes) => self.remove(bytes),
                Step::Answer(answer) => {
                    self.say(&answer.line);
                    match answer.then {
                        Then::GoOn => {}
                        Then::LeaveServer => return Err(Wake::LeaveServer),
                        Then::Close => return Err(Wake::Done),
                    }
                }
                Step::NeedBytes => {
                    // Whatever had come before the wait ended is refused; who asks from now on waits anew.
                    match self.refusing.take() {
                        Some(Refusal { closes: true, .. }) => return Err(Wake::Done),
                        Some(_) | None => break,
                    }
                }
                Step::WaitReplies => break,
                Step::WaitServer if self.deliverable == 0 => return Err(Wake::NeedsServer),
                Step::WaitServer => break,
            }
            progressed = true;
        }
        if self.deliverable > 0 {
            return Ok(progressed);
        }
        if self.must_ask_again && backend.is_none() {
            return Err(Wake::NeedsServer);
        }
        if !progressed && self.again.is_empty() && self.judged == 0 && self.dialogue.is_at_boundary() {
            if self.client_ended {
                return Err(Wake::Done);
            }
            if intent.leaving && self.dialogue.session().is_movable() {
                return Err(Wake::Boundary);
            }
        }
        Ok(progressed)
    }

    /// Removes bytes of a request that does not go to the server, which stand behind those that do.
    fn remove(&mut self, bytes: usize) {
        if self.judged == 0 {
            self.from_client.advance(bytes);
        } else {
            let rest = self.from_client.split_off(self.judged + bytes);
            self.from_client.truncate(self.judged);
            self.from_client.unsplit(rest);
        }
    }

    /// Gives the client a line of ours. Only between two replies.
    fn say(&mut self, line: &str) {
        if self.deliverable < self.to_client.len() {
            return;
        }
        if line.starts_with('-') {
            self.counters.add_error();
        }
        // A line break inside would be one reply more than was asked for.
        self.to_client.extend(line.bytes().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
        self.to_client.extend_from_slice(b"\r\n");
        self.framed = self.to_client.len();
        self.deliverable = self.framed;
    }

    /// The server is gone: what of its replies is whole stays the client's.
    pub(super) fn lose_server(&mut self) -> Loss {
        self.forget_half_replies();
        self.forget_sent();
        let loss = self.dialogue.lose_server();
        self.must_ask_again = loss == Loss::AskAgain;
        loss
    }

    /// The server is left at a boundary.
    pub(super) fn leave_server(&mut self) {
        self.forget_sent();
        self.dialogue.leave_server();
    }

    /// What was meant for a server must never reach another one by itself. Usually nothing is left of it, but a server may answer with an error
    /// before it has read a whole request; the rest, read by the next server as if it began there, would be requests that nobody judged.
    fn forget_sent(&mut self) {
        self.from_client.advance(std::mem::take(&mut self.judged));
        self.again.clear();
    }

    /// There is a server again.
    pub(super) fn has_server(&mut self) {
        if std::mem::take(&mut self.must_ask_again) {
            self.again.extend_from_slice(self.dialogue.kept());
        }
    }

    /// Ends when the client has closed its side and everything that it sent was read. For the time when the pump does not run.
    ///
    /// # Cancel safety
    /// It only looks.
    pub(super) async fn is_closed(&self) {
        let has_ended = !self.client_ended && self.stream.peek(&mut [0]).await.is_ok_and(|peeked| peeked == 0);
        if !has_ended {
            std::future::pending().await
        }
    }

    /// The client has closed its side: [`Pump::is_closed`] saw it.
    pub(super) fn client_ended(&mut self) {
        self.client_ended = true;
    }

    /// There is none, for too long or for good: everything that was asked gets an error.
    pub(super) fn refuse(&mut self, reason: &str, closes: bool) {
        self.must_ask_again = false;
        for _ in 0..self.dialogue.fail_outstanding(reason) {
            self.say(&format!("-MASTERDOWN rbuddy: {reason}"));
        }
        self.refusing = Some(Refusal { reason: reason.to_owned(), closes });
    }

    /// The connection will be closed: an error for each of the `due` replies.
    pub(super) fn fail(&mut self, due: usize, line: &str) {
        if due > 0 {
            self.forget_half_replies();
        }
        for _ in 0..due {
            self.say(line);
        }
    }

    /// The client speaks something else: one error, as a server gives it, unless it would be taken for a reply that is due.
    pub(super) fn fail_protocol(&mut self, error: &ProtocolError) {
        if self.dialogue.errors_due() == 0 {
            self.say(&format!("-ERR Protocol error: {error}"));
        }
    }

    fn forget_half_replies(&mut self) {
        self.to_client.truncate(self.deliverable);
        self.framed = self.deliverable;
    }

    /// Gives the client what is its own, says that there is no more, and waits a moment for it to close: closing a socket with unread
    /// input would reset the connection and destroy what is still under way.
    pub(super) async fn finish(mut self) {
        let last = async {
            self.stream.write_all(&self.to_client[..self.deliverable]).await?;
            self.stream.shutdown().await
        };
        if !matches!(timeout(FLUSH_WITHIN, last).await, Ok(Ok(()))) {
            return;
        }
        let closed = async {
            while self.stream.read_buf(&mut self.from_client).await.is_ok_and(|read| read > 0) {
                self.from_client.clear();
            }
        };
        let _ = timeout(CLOSE_WITHIN, closed).await;
    }
}

// `read_buf` keeps nothing in its future, so it may be made anew for each poll.
fn poll_read(stream: &mut TcpStream, buffer: &mut BytesMut, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    buffer.reserve(READ_BYTES);
    pin!(stream.read_buf(buffer)).poll(cx)
}

fn poll_write(stream: &mut TcpStream, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    match ready!(Pin::new(stream).poll_write(cx, bytes)) {
        Ok(0) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
        written => Poll::Ready(written),
    }
}

/// In each direction. When full, the socket behind it is not read: its sender waits. Larger than any request that must be seen as a whole.
const BUFFER_BYTES_MAX: usize = 128 * 1024;
const READ_BYTES: usize = 16 * 1024;
/// A reply up to this size is held back until it is whole.
const HELD_BACK_BYTES_MAX: usize = 16 * 1024;
/// For the last bytes to a client that is closed.
const FLUSH_WITHIN: Duration = Duration::from_millis(700);
const CLOSE_WITHIN: Duration = Duration::from_millis(300);
