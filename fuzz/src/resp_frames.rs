//! Where replies and requests end: found a piece at a time by the framers, and by a reader here that has it all and simply recurses.

use super::cuts;
use rbuddy_core::resp::frame::{Fed, ReplyFramer, ReplyKind, RequestFramer, RequestHead, request_head};
use rbuddy_core::resp::request::{ProtocolError, RequestLimits, parse};

/// The frames' ends and kinds, and whether what follows them is no frame or only not all there.
type Frames<E> = (Vec<(usize, E)>, Result<(), ProtocolError>);

pub fn check(input: &[u8]) {
    let replies = all(input, reply);
    let requests = all(input, request);
    for pieces in cuts::ways(input) {
        let mut framer = ReplyFramer::default();
        assert_eq!(framed(&pieces, |piece| framer.feed(piece)), replies);
        let mut framer = RequestFramer::default();
        assert_eq!(framed(&pieces, |piece| framer.feed(piece)), requests);
    }
    assert_heads_are_of_frames(input, &requests.0);
}

fn framed<E>(pieces: &[&[u8]], mut feed: impl FnMut(&[u8]) -> Result<Fed<E>, ProtocolError>) -> Frames<E> {
    let (mut frames, mut at) = (Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        while !rest.is_empty() {
            match feed(rest) {
                Err(error) => return (frames, Err(error)),
                Ok(fed) => {
                    assert!(fed.used == rest.len() || fed.ended.is_some());
                    at += fed.used;
                    rest = &rest[fed.used..];
                    frames.extend(fed.ended.map(|ended| (at, ended)));
                }
            }
        }
    }
    (frames, Ok(()))
}

/// Of each request: what is told of its beginning, and what the reader of whole requests makes of it, agree with where it ends.
fn assert_heads_are_of_frames(input: &[u8], requests: &[(usize, ())]) {
    let mut start = 0;
    for (end, ()) in requests {
        let frame = &input[start..*end];
        start = *end;
        let (arguments, used) = parse(frame, RequestLimits::SMALL).expect("sound").expect("whole");
        assert_eq!(used, frame.len());
        match request_head(frame).expect("sound").expect("whole") {
            RequestHead::Empty { bytes } => assert!(bytes == frame.len() && arguments.iter().flatten().all(u8::is_ascii_whitespace)),
            RequestHead::Inline { line } => assert_eq!(line, frame),
            RequestHead::Array { arguments: count, name, .. } => {
                assert_eq!(count, arguments.len() as u64);
                assert_eq!(name, if arguments[0].len() > 64 { b"" } else { arguments[0].as_slice() });
            }
        }
    }
}

/// Why there is no frame.
enum Stop {
    MoreMustArrive,
    Refused(ProtocolError),
}

fn all<E>(input: &[u8], one: impl Fn(&[u8], usize) -> Result<(usize, E), Stop>) -> Frames<E> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < input.len() {
        match one(input, at) {
            Ok((end, kind)) => {
                frames.push((end, kind));
                at = end;
            }
            Err(Stop::MoreMustArrive) => break,
            Err(Stop::Refused(error)) => return (frames, Err(error)),
        }
    }
    (frames, Ok(()))
}

fn reply(input: &[u8], at: usize) -> Result<(usize, ReplyKind), Stop> {
    element(input, at, 0)
}

/// The element at `at`, behind which `owed` more are missing. More than a 64-bit count of them is what no server sends.
fn element(input: &[u8], at: usize, owed: u128) -> Result<(usize, ReplyKind), Stop> {
    let first = *input.get(at).ok_or(Stop::MoreMustArrive)?;
    let kind = match first {
        b'-' | b'!' => ReplyKind::Error,
        b'>' => ReplyKind::Push,
        _ => ReplyKind::Reply,
    };
    let end = match first {
        b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(' => {
            at + 1 + input[at..].iter().position(|byte| *byte == b'\n').ok_or(Stop::MoreMustArrive)?
        }
        b'$' | b'!' | b'=' => match number(input, at + 1)? {
            (None, end) => end,
            (Some(length), end) => body(input, end, length)?,
        },
        b'*' | b'~' | b'>' | b'%' => {
            let (count, end) = number(input, at + 1)?;
            elements(input, end, u128::from(count.unwrap_or(0)) * if first == b'%' { 2 } else { 1 }, owed)?
        }
        b'|' => {
            let (count, end) = number(input, at + 1)?;
            let count = count.ok_or(Stop::Refused(ProtocolError::BadLength))?;
            let end = elements(input, end, u128::from(count) * 2, owed)?;
            return element(input, end, owed);
        }
        other => return Err(Stop::Refused(ProtocolError::UnknownType(other))),
    };
    Ok((end, kind))
}

fn elements(input: &[u8], mut at: usize, count: u128, owed: u128) -> Result<usize, Stop> {
    if owed + 1 + count > u128::from(u64::MAX) {
        return Err(Stop::Refused(ProtocolError::BadLength));
    }
    for missing in (0..count).rev() {
        (at, _) = element(input, at, owed + 1 + missing)?;
    }
    Ok(at)
}

fn request(input: &[u8], at: usize) -> Result<(usize, ()), Stop> {
    if input[at] != b'*' {
        let line = input[at..].iter().position(|byte| *byte == b'\n').ok_or(Stop::MoreMustArrive)?;
        return Ok((at + line + 1, ()));
    }
    let (count, mut end) = number(input, at + 1)?;
    let count = count.unwrap_or(0);
    if count > i32::MAX as u64 {
        return Err(Stop::Refused(ProtocolError::TooManyArguments { found: count, max: i32::MAX as u64 }));
    }
    for _ in 0..count {
        match input.get(end) {
            None => return Err(Stop::MoreMustArrive),
            Some(b'$') => {}
            Some(other) => return Err(Stop::Refused(ProtocolError::ExpectedBulk(*other))),
        }
        let (length, start) = number(input, end + 1)?;
        end = body(input, start, length.ok_or(Stop::Refused(ProtocolError::BadLength))?)?;
    }
    Ok((end, ()))
}

/// A length and its CR LF: -1 (which is none), or digits without a leading zero. The first byte that cannot belong to one is refused at once.
fn number(input: &[u8], at: usize) -> Result<(Option<u64>, usize), Stop> {
    let rest = &input[at..];
    let length = rest.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'-')).unwrap_or(rest.len());
    let text = std::str::from_utf8(&rest[..length]).unwrap_or_default();
    let is_sound = match text.strip_prefix('-').unwrap_or(text) {
        "" | "0" => true,
        digits => digits.len() <= 18 && !digits.starts_with('0') && !digits.contains('-'),
    };
    let refused = Err(Stop::Refused(ProtocolError::BadLength));
    match &rest[length..] {
        _ if !is_sound => refused,
        [] => Err(Stop::MoreMustArrive),
        [b'\r', ..] if text.is_empty() || text == "-" => refused,
        [b'\r'] => Err(Stop::MoreMustArrive),
        [b'\r', b'\n', ..] => match (text, text.parse()) {
            ("-1", _) => Ok((None, at + length + 2)),
            (_, Ok(length_told)) => Ok((Some(length_told), at + length + 2)),
            (_, Err(_)) => refused,
        },
        _ => refused,
    }
}

fn body(input: &[u8], start: usize, length: u64) -> Result<usize, Stop> {
    let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length)).ok_or(Stop::MoreMustArrive)?;
    match input.get(end..) {
        Some([b'\r', b'\n', ..]) => Ok(end + 2),
        None | Some([] | [b'\r']) => Err(Stop::MoreMustArrive),
        Some(_) => Err(Stop::Refused(ProtocolError::MissingCrLf)),
    }
}
