//! Where requests and replies end, found by length headers alone, a piece at a time.
//!
//! Promises: no value is built and nothing is buffered, whatever the size; a frame may be cut anywhere; what is not RESP is an error and
//! never a panic; a request that passes here is read the same way by a server, since every place where servers are lenient (signs, leading
//! zeros, line ends that they skip unread) is refused.
//!
//! Not here: what a request means ([`crate::reader::rules`]), values. RESP3's streamed types (`$?`, `*?`) are errors: no server sends them.

use super::request::ProtocolError;

/// How far a framer came with a piece of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fed<E> {
    /// Bytes that belong to the frame. All of the input, unless the frame ended before.
    pub used: usize,
    /// What ended with the last of them.
    pub ended: Option<E>,
}

/// What a server sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyKind {
    /// The answer to a request.
    Reply,
    /// Likewise, and it is an error.
    Error,
    /// RESP3's out-of-band data: answers nothing.
    Push,
}

/// Finds the end of replies, RESP2 and RESP3.
///
/// Elements that are still to come are counted instead of stacked: an aggregate of n costs one and brings n, so nesting needs no memory.
#[derive(Debug, Clone, Default)]
pub struct ReplyFramer {
    missing: u64,
    kind: Option<ReplyKind>,
    state: ReplyState,
}

#[derive(Debug, Clone, Default)]
enum ReplyState {
    #[default]
    Type,
    /// `+ - : , # _ (`: up to the line's end.
    Line,
    Length(Header, Number),
    Body(Body),
}

#[derive(Debug, Clone, Copy)]
enum Header {
    Bulk,
    /// So many elements for each that is counted.
    Aggregate(u64),
    /// Pairs that stand before the element they describe: they do not count as that element.
    Attribute,
}

impl ReplyFramer {
    /// Whether the next byte begins a frame.
    pub fn is_between(&self) -> bool {
        self.missing == 0
    }

    /// Reads on. Stops at the end of a frame.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed<ReplyKind>, ProtocolError> {
        let mut used = 0;
        while let Some(byte) = input.get(used) {
            match &mut self.state {
                ReplyState::Type => {
                    self.begin_element(*byte)?;
                    used += 1;
                }
                ReplyState::Line => match memchr::memchr(b'\n', &input[used..]) {
                    None => used = input.len(),
                    Some(end) => {
                        used += end + 1;
                        self.end_element();
                    }
                },
                ReplyState::Length(header, number) => {
                    used += 1;
                    if let Some(length) = number.push(*byte)? {
                        let header = *header;
                        self.end_header(header, length)?;
                    }
                }
                ReplyState::Body(body) => {
                    let (taken, ended) = body.feed(&input[used..])?;
                    used += taken;
                    if ended {
                        self.end_element();
                    }
                }
            }
            if self.missing == 0 {
                return Ok(Fed { used, ended: self.kind.take() });
            }
        }
        Ok(Fed { used, ended: None })
    }

    fn begin_element(&mut self, byte: u8) -> Result<(), ProtocolError> {
        self.missing = self.missing.max(1);
        // Contents of an attribute begin while the element behind it is still missing, hence with two or more: only the frame's own
        // first byte (behind its attributes, if any) finds one missing and no kind yet.
        if self.missing == 1 && self.kind.is_none() && byte != b'|' {
            self.kind = Some(match byte {
                b'-' | b'!' => ReplyKind::Error,
                b'>' => ReplyKind::Push,
                _ => ReplyKind::Reply,
            });
        }
        self.state = match byte {
            b'+' | b'-' | b':' | b',' | b'#' | b'_' | b'(' => ReplyState::Line,
            b'$' | b'!' | b'=' => ReplyState::Length(Header::Bulk, Number::default()),
            b'*' | b'~' | b'>' => ReplyState::Length(Header::Aggregate(1), Number::default()),
            b'%' => ReplyState::Length(Header::Aggregate(2), Number::default()),
            b'|' => ReplyState::Length(Header::Attribute, Number::default()),
            _ => return Err(ProtocolError::UnknownType(byte)),
        };
        Ok(())
    }

    fn end_header(&mut self, header: Header, length: i64) -> Result<(), ProtocolError> {
        // A negative length is RESP2's null, and an element by itself.
        let length = u64::try_from(length).ok();
        match header {
            Header::Bulk => match length {
                None => self.end_element(),
                Some(length) => self.state = ReplyState::Body(Body::new(length)),
            },
            Header::Aggregate(each) => {
                self.add_missing(length.unwrap_or(0), each)?;
                self.end_element();
            }
            Header::Attribute => {
                self.add_missing(length.ok_or(ProtocolError::BadLength)?, 2)?;
                self.state = ReplyState::Type;
            }
        }
        Ok(())
    }

    fn add_missing(&mut self, count: u64, each: u64) -> Result<(), ProtocolError> {
        let more = count.checked_mul(each).ok_or(ProtocolError::BadLength)?;
        self.missing = self.missing.checked_add(more).ok_or(ProtocolError::BadLength)?;
        Ok(())
    }

    fn end_element(&mut self) {
        self.missing -= 1;
        self.state = ReplyState::Type;
    }
}

/// Finds the end of requests: arrays of bulk strings, or inline lines.
#[derive(Debug, Clone, Default)]
pub struct RequestFramer {
    /// Arguments whose end has not been seen, once the count is known.
    missing: u64,
    state: RequestState,
}

#[derive(Debug, Clone, Default)]
enum RequestState {
    #[default]
    Start,
    Inline,
    Count(Number),
    Argument,
    Length(Number),
    Body(Body),
}

impl RequestFramer {
    /// Whether the next byte begins a request.
    pub fn is_between(&self) -> bool {
        matches!(self.state, RequestState::Start)
    }

    /// Reads on. Stops at the end of a request.
    pub fn feed(&mut self, input: &[u8]) -> Result<Fed<()>, ProtocolError> {
        let mut used = 0;
        while let Some(byte) = input.get(used) {
            match &mut self.state {
                RequestState::Start if *byte == b'*' => {
                    used += 1;
                    self.state = RequestState::Count(Number::default());
                }
                RequestState::Start => self.state = RequestState::Inline,
                RequestState::Inline => match memchr::memchr(b'\n', &input[used..]) {
                    None => used = input.len(),
                    Some(end) => {
                        self.state = RequestState::Start;
                        return Ok(Fed { used: used + end + 1, ended: Some(()) });
                    }
                },
                RequestState::Count(number) => {
                    used += 1;
                    if let Some(count) = number.push(*byte)? {
                        self.missing = argument_count(count)?;
                        self.state = if self.missing == 0 { RequestState::Start } else { RequestState::Argument };
                    }
                }
                RequestState::Argument if *byte == b'$' => {
                    used += 1;
                    self.state = RequestState::Length(Number::default());
                }
                RequestState::Argument => return Err(ProtocolError::ExpectedBulk(*byte)),
                RequestState::Length(number) => {
                    used += 1;
                    if let Some(length) = number.push(*byte)? {
                        self.state = RequestState::Body(Body::new(argument_length(length)?));
                    }
                }
                RequestState::Body(body) => {
                    let (taken, ended) = body.feed(&input[used..])?;
                    used += taken;
                    if ended {
                        self.missing -= 1;
                        self.state = if self.missing == 0 { RequestState::Start } else { RequestState::Argument };
                    }
                }
            }
            if used > 0 && self.is_between() {
                return Ok(Fed { used, ended: Some(()) });
            }
        }
        Ok(Fed { used, ended: None })
    }
}

/// The beginning of a request: enough to judge most of them before the rest has arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestHead<'a> {
    /// `*0` or an empty line. Servers give no reply to it.
    Empty {
        /// Its length.
        bytes: usize,
    },
    /// An array.
    Array {
        /// How many arguments, the name included.
        arguments: u64,
        /// The name; empty if it is longer than any.
        name: &'a [u8],
        /// Where the second argument begins.
        next: usize,
    },
    /// A whole line, its end included.
    Inline {
        /// The line.
        line: &'a [u8],
    },
}

/// The head of the request that `input` begins with; `None` while too little of it is there.
pub fn request_head(input: &[u8]) -> Result<Option<RequestHead<'_>>, ProtocolError> {
    match input.first() {
        None => Ok(None),
        Some(b'*') => {
            let Some((count, at)) = number_behind(input, 0)? else { return Ok(None) };
            let arguments = argument_count(count)?;
            if arguments == 0 {
                return Ok(Some(RequestHead::Empty { bytes: at }));
            }
            Ok(argument_at(input, at)?.map(|(name, next)| RequestHead::Array { arguments, name, next }))
        }
        Some(_) => {
            let Some(end) = memchr::memchr(b'\n', &input[..input.len().min(INLINE_BYTES_MAX)]) else {
                return if input.len() >= INLINE_BYTES_MAX { Err(ProtocolError::TooLong { max: INLINE_BYTES_MAX }) } else { Ok(None) };
            };
            let line = &input[..=end];
            let is_empty = line.iter().all(u8::is_ascii_whitespace);
            Ok(Some(if is_empty { RequestHead::Empty { bytes: line.len() } } else { RequestHead::Inline { line } }))
        }
    }
}

/// The argument whose `$` stands at `at`, and where the next begins; `None` while it has not arrived. One that is longer than any name is
/// given as empty and without waiting for it: nobody compares it with anything.
pub fn argument_at(input: &[u8], at: usize) -> Result<Option<(&[u8], usize)>, ProtocolError> {
    match input.get(at) {
        None => return Ok(None),
        Some(b'$') => {}
        Some(other) => return Err(ProtocolError::ExpectedBulk(*other)),
    }
    let Some((length, start)) = number_behind(input, at)? else { return Ok(None) };
    let length = argument_length(length)?;
    match usize::try_from(length) {
        Ok(length) if length <= NAME_BYTES_MAX => Ok(input.get(start..start + length).map(|name| (name, start + length + 2))),
        _ => Ok(Some((&[], start))),
    }
}

fn number_behind(input: &[u8], at: usize) -> Result<Option<(i64, usize)>, ProtocolError> {
    let mut number = Number::default();
    for (index, byte) in input.iter().enumerate().skip(at + 1) {
        if let Some(value) = number.push(*byte)? {
            return Ok(Some((value, index + 1)));
        }
    }
    Ok(None)
}

fn argument_count(count: i64) -> Result<u64, ProtocolError> {
    // Servers take a negative count as an empty request.
    let count = u64::try_from(count).unwrap_or(0);
    if count > ARGUMENTS_MAX { Err(ProtocolError::TooManyArguments { found: count, max: ARGUMENTS_MAX }) } else { Ok(count) }
}

fn argument_length(length: i64) -> Result<u64, ProtocolError> {
    u64::try_from(length).map_err(|_| ProtocolError::BadLength)
}

/// A length header's number with its CR LF, digit by digit: bounded without a buffer.
#[derive(Debug, Clone, Copy, Default)]
struct Number {
    value: i64,
    digits: u8,
    is_negative: bool,
    has_cr: bool,
}

impl Number {
    fn push(&mut self, byte: u8) -> Result<Option<i64>, ProtocolError> {
        match byte {
            b'\n' if self.has_cr => {
                return match (self.is_negative, self.value) {
                    (false, value) => Ok(Some(value)),
                    (true, 1) => Ok(Some(-1)),
                    // No other negative length means anything.
                    (true, _) => Err(ProtocolError::BadLength),
                };
            }
            _ if self.has_cr => return Err(ProtocolError::BadLength),
            b'-' if self.digits == 0 && !self.is_negative => self.is_negative = true,
            // The servers' own number parser refuses leading zeros and signs, so what passes here means the same there.
            b'0'..=b'9' if self.digits < DIGITS_MAX && !(self.digits > 0 && self.value == 0) => {
                self.value = self.value * 10 + i64::from(byte - b'0');
                self.digits += 1;
            }
            b'\r' if self.digits > 0 => self.has_cr = true,
            _ => return Err(ProtocolError::BadLength),
        }
        Ok(None)
    }
}

/// The bytes of a bulk string and the CR LF behind them, which servers skip without a look and we do not.
#[derive(Debug, Clone, Copy)]
struct Body {
    left: u64,
    has_cr: bool,
}

impl Body {
    fn new(length: u64) -> Body {
        Body { left: length, has_cr: false }
    }

    /// Bytes taken of a piece that is not empty, and whether the end was among them.
    fn feed(&mut self, input: &[u8]) -> Result<(usize, bool), ProtocolError> {
        let skipped = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len());
        self.left -= skipped as u64;
        let mut taken = skipped;
        for byte in &input[skipped..] {
            taken += 1;
            match (self.has_cr, byte) {
                (false, b'\r') => self.has_cr = true,
                (true, b'\n') => return Ok((taken, true)),
                (_, _) => return Err(ProtocolError::MissingCrLf),
            }
        }
        Ok((taken, false))
    }
}

/// 18 digits are more than any length and cannot overflow.
const DIGITS_MAX: u8 = 18;
/// As in the servers.
const ARGUMENTS_MAX: u64 = i32::MAX as u64;
/// As in the servers.
const INLINE_BYTES_MAX: usize = 64 * 1024;
/// Longer than any command's or subcommand's name.
const NAME_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests;
