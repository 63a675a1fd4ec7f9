//! What a connection to the relay says before PSYNC: the same requests however they are cut, whole replies to each, and nothing without the password.

use super::cuts;
use rbuddy_core::replication::handshake::{Answer, Handshake, Login, OwnAddress, Surroundings};
use rbuddy_core::replication::psync::Asked;
use rbuddy_core::replication::self_report::SelfReport;
use rbuddy_core::resp::frame::{ReplyFramer, ReplyKind};
use rbuddy_core::resp::request::{Arguments, ProtocolError, RequestLimits, parse};
use rbuddy_core::types::NodeAddress;
use std::cell::Cell;

pub fn check(input: &[u8]) {
    // Small limits are met by small inputs; the real ones are the same code.
    for limits in [RequestLimits { arguments: 6, bytes: 120 }, RequestLimits::SMALL] {
        let mut all = cuts::ways(input).map(|pieces| requests(&pieces, limits));
        let whole = all.next().expect("at least one way");
        all.for_each(|other| assert_eq!(other, whole, "limits {limits:?}"));
        let longest = whole.0.iter().map(|request| request.iter().map(Vec::len).sum()).max();
        assert!(longest <= Some(limits.bytes), "a request of {longest:?} bytes");
        talk(&whole.0, None);
        talk(&whole.0, Some(PASSWORD));
    }
}

/// Reads as the relay's listener does: every piece is added to what is left of those before.
fn requests(pieces: &[&[u8]], limits: RequestLimits) -> (Vec<Arguments>, Result<usize, ProtocolError>) {
    let (mut buffer, mut requests) = (Vec::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parse(&buffer, limits) {
                Ok(Some((arguments, used))) => {
                    assert!((1..=buffer.len()).contains(&used));
                    buffer.drain(..used);
                    requests.push(arguments);
                }
                Ok(None) => break,
                Err(error) => return (requests, Err(error)),
            }
        }
        assert!(buffer.len() < limits.bytes, "{} bytes are kept", buffer.len());
    }
    (requests, Ok(buffer.len()))
}

fn talk(requests: &[Arguments], password: Option<&str>) {
    let mut handshake = Handshake::new(password.map(|password| Login { user: None, password: password.to_owned() }), 7);
    // Whoever has not said the password since the beginning, or since a RESET, gets errors and nothing else.
    let mut has_said_it = password.is_none();
    for request in requests {
        let name = request.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        let mut relay = Relay::default();
        let answer = handshake.answer(request, &mut relay);
        let kinds = assert_whole(&answer);
        let is_refusal = kinds == [ReplyKind::Error];
        has_said_it |= request.iter().any(|word| word == PASSWORD.as_bytes()) && (name == b"AUTH" || name == b"HELLO");
        if !has_said_it && !request.is_empty() && name != b"QUIT" && name != b"RESET" {
            assert!(is_refusal && !relay.was_touched.get(), "without a password {request:?} got {answer:?}");
        }
        assert!(has_said_it || !handshake.is_authenticated(), "{request:?} let it in");
        if name == b"RESET" {
            has_said_it = password.is_none();
        }
        if password.is_some() && matches!(answer, Answer::WrongPassword(_)) {
            assert!(is_refusal && (name == b"AUTH" || name == b"HELLO"), "{request:?} got {answer:?}");
        }
        if let Answer::Psync(asked) = &answer {
            assert_asked(request, asked);
        }
        let message = handshake.subscriptions().deliver(b"a Sentinel");
        assert_eq!(message.is_empty(), !handshake.subscriptions().hear_hello());
        assert!(frames(&message).iter().all(|kind| *kind == ReplyKind::Reply));
        if matches!(answer, Answer::Psync(_) | Answer::Close { .. }) {
            return;
        }
    }
}

/// An answer is nothing, or whole replies; only what is subscribed to is answered one by one. Replicas read an error as a line, and into 256 bytes
/// (protocol fact 1.2).
fn assert_whole(answer: &Answer) -> Vec<ReplyKind> {
    let reply = match answer {
        Answer::Reply(reply) | Answer::WrongPassword(reply) | Answer::Close { reply, .. } => reply,
        Answer::Silence | Answer::Psync(_) => return Vec::new(),
    };
    let kinds = frames(reply);
    assert!(!kinds.is_empty() || matches!(answer, Answer::Close { .. }), "an empty reply");
    assert!(kinds != [ReplyKind::Error] || reply.len() < 255, "too long for a replica: {answer:?}");
    kinds
}

fn frames(mut bytes: &[u8]) -> Vec<ReplyKind> {
    let (mut framer, mut kinds) = (ReplyFramer::default(), Vec::new());
    while !bytes.is_empty() {
        let fed = framer.feed(bytes).expect("a reply");
        kinds.push(fed.ended.expect("a whole reply"));
        bytes = &bytes[fed.used..];
    }
    kinds
}

/// `PSYNC <id> <offset>`: an id that is none can never be continued, nor a byte that is none.
fn assert_asked(request: &Arguments, asked: &Asked) {
    assert_eq!(request.len(), 3);
    let is_id = request[1].len() == 40 && request[1].iter().all(u8::is_ascii_hexdigit);
    match asked {
        Asked::Nothing => assert!(!is_id, "{request:?}"),
        Asked::From(replid, next) => {
            assert!(is_id && replid.as_str().as_bytes() == request[1].to_ascii_lowercase());
            let number = std::str::from_utf8(&request[2]).ok().and_then(|text| text.parse::<i64>().ok()).filter(|number| *number > 0);
            assert_eq!(next.have().map(|have| have.get() + 1), number.map(i64::unsigned_abs), "{request:?}");
        }
    }
}

/// A relay that notices whether anything was asked of it.
#[derive(Default)]
struct Relay {
    was_touched: Cell<bool>,
}

impl Surroundings for Relay {
    fn report(&self) -> SelfReport {
        self.was_touched.set(true);
        SelfReport {
            run_id: "cd".repeat(20).parse().expect("an id"),
            primary: NodeAddress::new("127.0.0.1", 6379),
            is_link_up: true,
            is_sync_in_progress: false,
            last_io_s: Some(1),
            link_down_s: None,
            history: None,
            backlog_bytes: 0,
            connected_replicas: 1,
        }
    }

    fn follow(&mut self, primary: NodeAddress) -> Result<(), OwnAddress> {
        self.was_touched.set(true);
        assert_eq!(primary.to_string().parse().as_ref(), Ok(&primary), "an address that cannot be written down");
        if primary.port == 6380 { Err(OwnAddress) } else { Ok(()) }
    }

    fn publish(&mut self, _message: &[u8]) -> u64 {
        self.was_touched.set(true);
        2
    }
}

/// As the seeds have it.
const PASSWORD: &str = "secret";
