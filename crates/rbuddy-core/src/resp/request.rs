//! One request as a server reads it: a RESP array of bulk strings, or an inline line (replicas up to 4.0 shake hands inline).
//!
//! For small requests whose arguments matter: handshakes, admin commands. The reader endpoint frames its traffic without building
//! arguments.

/// A request's arguments; empty for an empty line or `*0`.
pub type Arguments = Vec<Vec<u8>>;

/// A peer that does not speak RESP. Its connection cannot be used any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// A length header is not a number.
    #[error("a length header is not a number")]
    BadLength,
    /// More arguments than allowed.
    #[error("a request has {found} arguments, more than {max}")]
    TooManyArguments {
        /// How many.
        found: u64,
        /// How many may be.
        max: u64,
    },
    /// More bytes than allowed.
    #[error("a request or line is longer than {max} bytes")]
    TooLong {
        /// How many may be.
        max: usize,
    },
    /// An argument does not start with `$`.
    #[error("expected '$', found byte {0:#04x}")]
    ExpectedBulk(u8),
    /// CR LF is missing where it must be.
    #[error("CR LF is missing behind an argument")]
    MissingCrLf,
    /// A reply starts with a byte that no RESP version knows.
    #[error("no reply starts with byte {0:#04x}")]
    UnknownType(u8),
}

/// What one request may measure.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Arguments.
    pub arguments: u64,
    /// Bytes, headers included; also of an inline line.
    pub bytes: usize,
}

impl RequestLimits {
    /// For peers that only shake hands or administer.
    pub const SMALL: RequestLimits = RequestLimits { arguments: 64, bytes: 64 * 1024 };
}

/// The first request in `input`, and how many bytes it takes; `None` while it is incomplete. Never looks past `limits`.
pub fn parse(input: &[u8], limits: RequestLimits) -> Result<Option<(Arguments, usize)>, ProtocolError> {
    // Else a request of many arguments that is too long would pass if one read brought all of it, and be refused if two did.
    let input = &input[..input.len().min(limits.bytes)];
    let complete = match input.first() {
        None => return Ok(None),
        Some(b'*') => parse_array(input, limits)?,
        Some(_) => parse_inline(input),
    };
    if complete.is_none() && input.len() >= limits.bytes {
        return Err(ProtocolError::TooLong { max: limits.bytes });
    }
    Ok(complete)
}

fn parse_array(input: &[u8], limits: RequestLimits) -> Result<Option<(Arguments, usize)>, ProtocolError> {
    let Some((count, mut at)) = header(input, 0)? else { return Ok(None) };
    let count = u64::try_from(count).unwrap_or(0);
    if count > limits.arguments {
        return Err(ProtocolError::TooManyArguments { found: count, max: limits.arguments });
    }
    let mut arguments = Arguments::new();
    for _ in 0..count {
        match input.get(at) {
            None => return Ok(None),
            Some(b'$') => {}
            Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
        }
        let Some((length, start)) = header(input, at)? else { return Ok(None) };
        let length = usize::try_from(length).map_err(|_| ProtocolError::BadLength)?;
        if length > limits.bytes {
            return Err(ProtocolError::TooLong { max: limits.bytes });
        }
        let end = start + length;
        match input.get(end..end + 2) {
            None => return Ok(None),
            Some(b"\r\n") => {}
            Some(_) => return Err(ProtocolError::MissingCrLf),
        }
        arguments.push(input[start..end].to_vec());
        at = end + 2;
    }
    Ok(Some((arguments, at)))
}

/// The number behind the type byte at `at`, and where the line ends.
fn header(input: &[u8], at: usize) -> Result<Option<(i64, usize)>, ProtocolError> {
    let line = &input[at + 1..];
    let Some(end) = memchr::memchr(b'\n', &line[..line.len().min(HEADER_BYTES_MAX)]) else {
        return if line.len() >= HEADER_BYTES_MAX { Err(ProtocolError::BadLength) } else { Ok(None) };
    };
    let digits = line[..end].strip_suffix(b"\r").ok_or(ProtocolError::BadLength)?;
    let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok()).ok_or(ProtocolError::BadLength)?;
    Ok(Some((number, at + 1 + end + 1)))
}

/// An inline line is split at spaces; quoting is not understood, as replicas do not use it.
fn parse_inline(input: &[u8]) -> Option<(Arguments, usize)> {
    let end = memchr::memchr(b'\n', input)?;
    let line = input[..end].strip_suffix(b"\r").unwrap_or(&input[..end]);
    let arguments = line.split(|b| *b == b' ' || *b == b'\t').filter(|part| !part.is_empty()).map(<[u8]>::to_vec).collect();
    Some((arguments, end + 1))
}

/// A type byte's number with its CR LF: 20 digits are more than any.
const HEADER_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(input: &[u8]) -> Option<(Vec<String>, usize)> {
        parse(input, RequestLimits::SMALL)
            .expect("sound")
            .map(|(arguments, used)| (arguments.iter().map(|a| String::from_utf8_lossy(a).into_owned()).collect(), used))
    }

    #[test]
    fn arrays_and_lines_are_read_one_at_a_time() {
        let input = b"*2\r\n$4\r\nPING\r\n$2\r\na\n\r\nREPLCONF  capa eof\r\n\r\nSYNC\n";
        let (arguments, used) = parsed(input).expect("complete");
        assert_eq!((arguments, used), (vec!["PING".into(), "a\n".into()], 22));
        let (arguments, more) = parsed(&input[used..]).expect("complete");
        assert_eq!(arguments, ["REPLCONF", "capa", "eof"]);
        assert_eq!(parsed(&input[used + more..]), Some((vec![], 2)));
        assert_eq!(parsed(b"SYNC\n"), Some((vec!["SYNC".into()], 5)));
    }

    #[test]
    fn every_prefix_of_a_request_is_incomplete_and_no_error() {
        let input = b"*3\r\n$5\r\nPSYNC\r\n$1\r\n?\r\n$2\r\n-1\r\n";
        for length in 0..input.len() {
            assert_eq!(parsed(&input[..length]), None, "{length} bytes");
        }
        assert_eq!(parsed(input).map(|(arguments, used)| (arguments.len(), used)), Some((3, input.len())));
    }

    #[test]
    fn a_request_that_is_too_long_is_refused_however_it_arrives() {
        let input = b"*3\r\n$4\r\nPING\r\n$4\r\nPING\r\n$4\r\nPING\r\n";
        let refused = Err(ProtocolError::TooLong { max: 30 });
        for length in 0..=input.len() {
            let expected = if length < 30 { Ok(None) } else { refused.clone() };
            assert_eq!(parse(&input[..length], RequestLimits { arguments: 3, bytes: 30 }), expected, "{length} bytes");
        }
    }

    #[test]
    fn what_is_not_resp_is_an_error() {
        for input in [&b"*x\r\n"[..], b"*1\r\n+OK\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$1\r\nabc", b"*65\r\n", b"*1\r\n$999999\r\n", &[b'*'; 40]]
        {
            assert!(parse(input, RequestLimits::SMALL).is_err(), "{:?}", String::from_utf8_lossy(input));
        }
        assert!(parse(&[b'a'; 64 * 1024], RequestLimits::SMALL).is_err(), "an endless line");
    }
}
