//! The newest bytes of a stream, in memory, in blocks that sessions share without copying.
//!
//! Promises: what is kept has no gap; memory is bounded by the capacity and one block, and while the disk has yet to catch up by twice that. Not here: locks,
//! disks, who reads.

use bytes::Bytes;
use rbuddy_core::types::Offset;
use std::collections::VecDeque;

/// A tail of a stream.
#[derive(Debug)]
pub(super) struct Ring {
    /// Full blocks, `BLOCK_BYTES` each, oldest first.
    blocks: VecDeque<Bytes>,
    /// What follows them, being filled.
    filling: Vec<u8>,
    /// Bytes before the first one that is kept.
    start: Offset,
    capacity: u64,
}

impl Ring {
    /// Empty; the first byte that it gets is the one after `start`.
    pub(super) fn new(start: Offset, capacity: u64) -> Ring {
        Ring { blocks: VecDeque::new(), filling: Vec::new(), start, capacity }
    }

    /// Empty again; the first byte that it gets is the one after `start`.
    pub(super) fn begin_at(&mut self, start: Offset) {
        *self = Ring::new(start, self.capacity);
    }

    /// Bytes before the first one that is kept.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// The last byte that is kept.
    pub(super) fn end(&self) -> Offset {
        self.start.advance((self.blocks.len() * BLOCK_BYTES + self.filling.len()) as u64)
    }

    /// Adds to the end and drops from the start what exceeds the capacity. What lies behind `needed_from` is still to be written to disk: it is
    /// dropped only when the capacity is exceeded twice.
    pub(super) fn append(&mut self, mut bytes: &[u8], needed_from: Option<Offset>) {
        while !bytes.is_empty() {
            let count = bytes.len().min(BLOCK_BYTES - self.filling.len());
            self.filling.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.filling.len() == BLOCK_BYTES {
                let full = std::mem::replace(&mut self.filling, Vec::with_capacity(BLOCK_BYTES));
                self.blocks.push_back(Bytes::from(full));
            }
            while self.is_oldest_too_much(needed_from) && self.blocks.pop_front().is_some() {
                self.start = self.start.advance(BLOCK_BYTES as u64);
            }
        }
    }

    fn is_oldest_too_much(&self, needed_from: Option<Offset>) -> bool {
        let kept = (self.blocks.len() * BLOCK_BYTES) as u64;
        let is_needed = needed_from.is_some_and(|from| from < self.start.advance(BLOCK_BYTES as u64));
        kept > if is_needed { self.capacity.saturating_mul(2) } else { self.capacity }
    }

    /// Bytes behind `from`, as many as lie together; empty at the end. `None` if they are no longer kept, or never were.
    pub(super) fn read(&self, from: Offset) -> Option<Bytes> {
        let skip = usize::try_from(self.start.bytes_behind(from)?).ok()?;
        let (block, within) = (skip / BLOCK_BYTES, skip % BLOCK_BYTES);
        match self.blocks.get(block) {
            Some(bytes) => Some(bytes.slice(within..)),
            // The block that is being filled is still ours to write, so what is read from it is copied: it is little.
            None if block == self.blocks.len() => self.filling.get(within..).map(Bytes::copy_from_slice),
            None => None,
        }
    }
}

const BLOCK_BYTES: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(offset: u64) -> Offset {
        Offset::new(offset).expect("in range")
    }

    /// Byte n of the test's stream.
    fn byte(number: u64) -> u8 {
        (number * 31 % 251) as u8
    }

    fn read_all(ring: &Ring, mut from: Offset) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let piece = ring.read(from)?;
            if piece.is_empty() {
                return Some(all);
            }
            from = from.advance(piece.len() as u64);
            all.extend_from_slice(&piece);
        }
    }

    #[test]
    fn what_is_kept_is_read_back_from_every_kind_of_place() {
        let mut ring = Ring::new(at(1000), 3 * BLOCK_BYTES as u64);
        let mut number = 1000;
        for size in [1, 14, BLOCK_BYTES, BLOCK_BYTES - 1, 5 * BLOCK_BYTES + 7, 100].into_iter().cycle().take(30) {
            let bytes: Vec<u8> = (number..number + size as u64).map(byte).collect();
            ring.append(&bytes, None);
            number += size as u64;
            assert_eq!(ring.end(), at(number));
            for from in [ring.start().get(), ring.start().get() + 1, number - 1, number] {
                let expected: Vec<u8> = (from..number).map(byte).collect();
                assert!(read_all(&ring, at(from)) == Some(expected), "from {from} of {}..{number}", ring.start());
            }
            assert!(ring.end().get() - ring.start().get() <= 4 * BLOCK_BYTES as u64, "memory is bounded");
            assert_eq!(ring.read(at(number + 1)), None);
        }
        assert_eq!(ring.read(at(ring.start().get() - 1)), None, "what was dropped is not there");
    }

    #[test]
    fn what_the_disk_has_not_got_yet_is_kept_within_bounds() {
        let capacity = 2 * BLOCK_BYTES as u64;
        let mut ring = Ring::new(at(0), capacity);
        let block = vec![7; BLOCK_BYTES];
        (0..4).for_each(|_| ring.append(&block, Some(at(10))));
        assert_eq!(ring.start(), at(0));
        ring.append(&block, Some(at(10)));
        assert_eq!(ring.start(), at(BLOCK_BYTES as u64), "a disk that stands still is not waited for");
        ring.append(&block, Some(ring.end()));
        assert_eq!(ring.end().get() - ring.start().get(), capacity, "a disk that caught up needs nothing");
    }
}
