//! Where commands and transactions end in a replication stream: framing only, nothing is decoded but the words `MULTI` and `EXEC`.
//!
//! A promoted primary has executed whole commands, so a relay that holds half of one is "ahead" of it, and is refused, until it cuts itself back to a
//! boundary (protocol fact 4.4). Bytes that are not the protocol end the tracking, not the stream. Not here: cutting.

use crate::types::Offset;

/// Follows a stream from a known boundary on. Incremental: it finds the same boundaries however the bytes were cut.
#[derive(Debug, Clone)]
pub struct BoundaryScan {
    /// Up to here it was followed.
    position: Offset,
    /// Last boundary that was passed.
    boundary: Offset,
    /// Between `MULTI` and `EXEC`.
    in_transaction: bool,
    state: State,
}

/// ```text
/// Command ──`*n`──► Argument ──`$len`──► Content ──len + 2 bytes──► Argument or, behind the last one, Command
/// ```
#[derive(Debug, Clone)]
enum State {
    /// Inside the line that tells how many arguments follow.
    Command(Line),
    /// Inside the line that tells how long the next of `left` arguments is.
    Argument { left: u64, line: Line, word: Word },
    /// Inside an argument of which `bytes` are left, its line end counted.
    Content { left: u64, bytes: u64, word: Word },
    /// These bytes were no command: no boundary is known from here on.
    Lost,
}

/// A header line so far: its kind and number. Numbers are short, so nothing is stored.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    kind: u8,
    number: u64,
    digits: u8,
    has_return: bool,
}

/// A command that may be `MULTI` or `EXEC`: one argument, of four or five bytes, which are kept with the line end behind them.
#[derive(Debug, Clone, Copy, Default)]
struct Word {
    is_alone: bool,
    bytes: [u8; 7],
    length: u8,
}

impl BoundaryScan {
    /// A scan that begins at a boundary: a snapshot's offset, or what a replica has executed.
    pub fn starting_at(boundary: Offset) -> BoundaryScan {
        BoundaryScan { position: boundary, boundary, in_transaction: false, state: State::Command(Line::default()) }
    }

    /// The byte up to which it was fed.
    pub fn position(&self) -> Offset {
        self.position
    }

    /// The last place where no command and no transaction is open.
    pub fn boundary(&self) -> Offset {
        self.boundary
    }

    /// The next bytes of the stream.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() {
            match &mut self.state {
                State::Command(line) => {
                    let done = line.take(bytes[at]);
                    at += 1;
                    match done {
                        Step::More => {}
                        Step::Number(b'*', count) if count > 0 => {
                            let word = Word { is_alone: count == 1, ..Word::default() };
                            self.state = State::Argument { left: count, line: Line::default(), word };
                        }
                        Step::Number(..) | Step::Wrong => return self.lose(bytes.len()),
                    }
                }
                State::Argument { left, line, word } => {
                    let done = line.take(bytes[at]);
                    at += 1;
                    match done {
                        Step::More => {}
                        Step::Number(b'$', length) => {
                            word.is_alone &= matches!(length, 4 | 5);
                            self.state = State::Content { left: *left, bytes: length + 2, word: *word };
                        }
                        Step::Number(..) | Step::Wrong => return self.lose(bytes.len()),
                    }
                }
                State::Content { left, bytes: missing, word } => {
                    let taken = usize::try_from(*missing).unwrap_or(usize::MAX).min(bytes.len() - at);
                    if word.is_alone {
                        word.take(&bytes[at..at + taken]);
                    }
                    at += taken;
                    *missing -= taken as u64;
                    if *missing == 0 {
                        let (left, word) = (*left - 1, *word);
                        if left > 0 {
                            self.state = State::Argument { left, line: Line::default(), word };
                        } else {
                            self.end_of_command(word, at);
                        }
                    }
                }
                State::Lost => return self.lose(bytes.len()),
            }
        }
        self.position = self.position.advance(bytes.len() as u64);
    }

    /// A command ended with byte `at` of what is being fed.
    fn end_of_command(&mut self, word: Word, at: usize) {
        if word.is(b"MULTI") {
            self.in_transaction = true;
        } else if word.is(b"EXEC") {
            self.in_transaction = false;
        }
        if !self.in_transaction {
            self.boundary = self.position.advance(at as u64);
        }
        self.state = State::Command(Line::default());
    }

    fn lose(&mut self, fed: usize) {
        self.state = State::Lost;
        self.position = self.position.advance(fed as u64);
    }
}

enum Step {
    More,
    Number(u8, u64),
    Wrong,
}

impl Line {
    fn take(&mut self, byte: u8) -> Step {
        match byte {
            b'*' | b'$' if self.kind == 0 => self.kind = byte,
            // Counts and lengths are far below eighteen digits, so the number cannot overflow.
            b'0'..=b'9' if self.kind != 0 && self.digits < 18 && !self.has_return => {
                self.number = self.number * 10 + u64::from(byte - b'0');
                self.digits += 1;
            }
            b'\r' if self.digits > 0 && !self.has_return => self.has_return = true,
            b'\n' if self.has_return => return Step::Number(self.kind, self.number),
            _ => return Step::Wrong,
        }
        Step::More
    }
}

impl Word {
    fn take(&mut self, bytes: &[u8]) {
        for byte in bytes {
            if let Some(place) = self.bytes.get_mut(usize::from(self.length)) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn is(&self, word: &[u8]) -> bool {
        let kept = &self.bytes[..usize::from(self.length)];
        self.is_alone && kept.strip_suffix(b"\r\n").is_some_and(|kept| kept.eq_ignore_ascii_case(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::encode;
    use proptest::prelude::*;

    fn start() -> Offset {
        Offset::new(1000).expect("in range")
    }

    /// The stream of these commands, and after each byte the boundary that is right: worked out from the commands, not from the bytes.
    fn stream(commands: &[Vec<&[u8]>]) -> (Vec<u8>, Vec<u64>) {
        let (mut bytes, mut boundaries, mut boundary, mut is_open) = (Vec::new(), Vec::new(), start().get(), false);
        for command in commands {
            bytes.extend_from_slice(&encode::request(command));
            boundaries.resize(bytes.len() - 1, boundary);
            match command.as_slice() {
                [word] if word.eq_ignore_ascii_case(b"multi") => is_open = true,
                [word] if word.eq_ignore_ascii_case(b"exec") => is_open = false,
                _ => {}
            }
            if !is_open {
                boundary = start().get() + bytes.len() as u64;
            }
            boundaries.push(boundary);
        }
        (bytes, boundaries)
    }

    fn check(commands: &[Vec<&[u8]>], cuts: &[usize]) {
        let (bytes, boundaries) = stream(commands);
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
        ends.sort_unstable();
        let (mut scan, mut at) = (BoundaryScan::starting_at(start()), 0);
        for end in ends {
            scan.feed(&bytes[at..end]);
            at = end;
            let expected = if end == 0 { start().get() } else { boundaries[end - 1] };
            assert_eq!((scan.boundary().get(), scan.position().get()), (expected, start().get() + end as u64), "after {end} bytes");
        }
    }

    #[test]
    fn a_transaction_is_one_piece_however_the_bytes_are_cut() {
        let commands: [Vec<&[u8]>; 9] = [
            vec![b"SELECT", b"3"],
            vec![b"PING"],
            vec![b"MULTI"],
            vec![b"SET", b"k", b"*1\r\n$4\r\nEXEC\r\n"],
            vec![b"SET", b"", b"MULTI"],
            vec![b"exec"],
            vec![b"EX\rEC"],
            vec![b"MULTIPLY"],
            vec![b"REPLCONF", b"GETACK", b"*"],
        ];
        let (bytes, _) = stream(&commands);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                check(&commands, &[first, second]);
            }
        }
    }

    #[test]
    fn bytes_that_are_no_command_end_the_tracking_at_the_last_boundary() {
        for wrong in
            [&b"hello\r\n"[..], b"\n", b"*0\r\n", b"*x\r\n", b"*1\r\n*1\r\n", b"*1\r\n$-1\r\n", b"*9999999999999999999\r\n", b"*\r\n"]
        {
            let mut scan = BoundaryScan::starting_at(start());
            scan.feed(b"*1\r\n$4\r\nPING\r\n");
            scan.feed(wrong);
            scan.feed(b"*1\r\n$4\r\nPING\r\n");
            assert_eq!(scan.boundary().get(), 1014, "{wrong:?}");
            assert_eq!(scan.position().get(), 1028 + wrong.len() as u64);
        }
    }

    proptest! {
        #[test]
        fn any_commands_in_any_cuts(words in proptest::collection::vec(proptest::collection::vec(0usize..6, 1..4), 1..12), cuts in proptest::collection::vec(0usize..4000, 0..10)) {
            const WORDS: [&[u8]; 6] = [b"MULTI", b"EXEC", b"SET", b"", b"a longer value with \r\n in it", b"$5\r\nMULTI\r\n"];
            let commands: Vec<Vec<&[u8]>> = words.iter().map(|command| command.iter().map(|word| WORDS[*word]).collect()).collect();
            check(&commands, &cuts);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let mut scan = BoundaryScan::starting_at(start());
            scan.feed(&bytes);
            prop_assert!(scan.boundary() <= scan.position());
        }
    }
}
