//! Boundaries of a replication stream: the same however the bytes were cut, and the same as who reads the whole stream at once finds.

use super::cuts;
use rbuddy_core::replication::boundary::BoundaryScan;
use rbuddy_core::types::Offset;

pub fn check(stream: &[u8]) {
    let start = Offset::new(1000).expect("in range");
    let expected = start.get() + last_boundary(stream) as u64;
    for pieces in cuts::ways(stream) {
        let mut scan = BoundaryScan::starting_at(start);
        let mut at = start.get();
        for piece in pieces {
            let before = scan.boundary();
            scan.feed(piece);
            at += piece.len() as u64;
            assert_eq!(scan.position().get(), at);
            assert!(before <= scan.boundary() && scan.boundary() <= scan.position());
        }
        assert_eq!(scan.boundary().get(), expected);
    }
}

/// Behind the last byte at which no command and no transaction is open.
fn last_boundary(stream: &[u8]) -> usize {
    let (mut at, mut boundary, mut is_open) = (0, 0, false);
    while let Some((words, end)) = command(stream, at) {
        match words.as_slice() {
            [word] if word.eq_ignore_ascii_case(b"MULTI\r\n") => is_open = true,
            [word] if word.eq_ignore_ascii_case(b"EXEC\r\n") => is_open = false,
            _ => {}
        }
        at = end;
        if !is_open {
            boundary = end;
        }
    }
    boundary
}

/// The words of the command that begins there, with the line ends behind them, if it is whole.
fn command(stream: &[u8], at: usize) -> Option<(Vec<&[u8]>, usize)> {
    let (count, mut at) = header(stream, at, b'*').filter(|(count, _)| *count > 0)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, begin) = header(stream, at, b'$')?;
        let end = begin.checked_add(length)?;
        at = end.checked_add(2).filter(|at| *at <= stream.len())?;
        words.push(&stream[begin..at]);
    }
    Some((words, at))
}

/// The number in the line that begins there, and where the next one does.
fn header(stream: &[u8], at: usize, kind: u8) -> Option<(usize, usize)> {
    let line = stream.get(at..)?.strip_prefix(&[kind])?;
    let length = line.iter().position(|byte| !byte.is_ascii_digit())?;
    let is_sound = (1..=18).contains(&length) && line[length..].starts_with(b"\r\n");
    let number = std::str::from_utf8(&line[..length]).ok()?.parse().ok()?;
    is_sound.then_some((number, at + 1 + length + 2))
}
