//! What a connection to the relay says before PSYNC: the same requests however they are cut, one whole reply to each, and nothing without the password.

use super::cuts;
use rbuddy_core::replication::handshake::{Answer, Handshake, Login};
use rbuddy_core::replication::psync::Asked;
use rbuddy_core::replication::self_report::SelfReport;
use rbuddy_core::resp::frame::{ReplyFramer, ReplyKind};
use rbuddy_core::resp::request::{Arguments, ProtocolError, RequestLimits, parse};
use rbuddy_core::types::NodeAddress;

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
    let mut handshake = Handshake::new(password.map(|password| Login { user: None, password: password.to_owned() }));
    let mut is_known = password.is_none();
    for request in requests {
        let name = request.first().map(|name| name.to_ascii_uppercase()).unwrap_or_default();
        let mut was_reported = false;
        let answer = handshake.answer(request, || {
            was_reported = true;
            report()
        });
        let is_refusal = assert_whole(&answer);
        if name == b"AUTH" {
            let is_right = is_password(&request[1..]);
            is_known |= is_right;
            assert!(password.is_none() || is_right != is_refusal, "{request:?} got {answer:?}");
        } else if !is_known && !request.is_empty() && name != b"QUIT" {
            assert!(is_refusal && !was_reported, "without a password {request:?} got {answer:?}");
        }
        if let Answer::Psync(asked) = &answer {
            assert_asked(request, asked);
        }
        if matches!(answer, Answer::Psync(_) | Answer::Close { .. }) {
            return;
        }
    }
}

fn is_password(arguments: &[Vec<u8>]) -> bool {
    match arguments {
        [secret] => secret == PASSWORD.as_bytes(),
        [user, secret] => user == b"default" && secret == PASSWORD.as_bytes(),
        _ => false,
    }
}

/// An answer is nothing, or exactly one reply; whether it is an error. Replicas read an error as a line, and into 256 bytes (protocol fact 1.2).
fn assert_whole(answer: &Answer) -> bool {
    let reply = match answer {
        Answer::Reply(reply) => reply,
        Answer::Close { reply, .. } if !reply.is_empty() => reply,
        Answer::Close { .. } | Answer::Silence | Answer::Psync(_) => return false,
    };
    let fed = ReplyFramer::default().feed(reply).expect("a reply");
    assert_eq!(fed.used, reply.len(), "{answer:?}");
    let kind = fed.ended.expect("a whole reply");
    assert!(kind == ReplyKind::Reply || reply.len() < 255, "too long for a replica: {answer:?}");
    kind == ReplyKind::Error
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

fn report() -> SelfReport {
    SelfReport {
        run_id: "cd".repeat(20).parse().expect("an id"),
        primary: NodeAddress::new("127.0.0.1", 6379),
        is_link_up: true,
        is_sync_in_progress: false,
        last_io_s: Some(1),
        link_down_s: None,
        position: None,
        connected_replicas: 1,
    }
}

/// As the seeds have it.
const PASSWORD: &str = "secret";
