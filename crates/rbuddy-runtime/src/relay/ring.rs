//! The newest bytes of a stream, in memory, in pieces that sessions and the disk share without copying.
//!
//! Promises: what is kept has no gap, and is never less than the capacity once that much has arrived; it is bounded by the capacity and one piece, and
//! while the disk has yet to catch up by [`UNWRITTEN_BYTES_MAX`] more. Not here: locks, disks, who reads.

use bytes::{Bytes, BytesMut};
use rbuddy_core::types::Offset;
use std::collections::VecDeque;

/// A tail of a stream.
#[derive(Debug)]
pub(super) struct Ring {
    /// Oldest first, each with the offset before its first byte.
    pieces: VecDeque<(Offset, Bytes)>,
    /// What follows them: small reads, gathered.
    filling: Vec<u8>,
    /// Bytes before the first one of `filling`.
    filling_from: Offset,
    capacity: u64,
}

impl Ring {
    /// Empty; the first byte that it gets is the one after `start`.
    pub(super) fn new(start: Offset, capacity: u64) -> Ring {
        Ring { pieces: VecDeque::new(), filling: Vec::new(), filling_from: start, capacity }
    }

    /// Bytes before the first one that is kept.
    pub(super) fn start(&self) -> Offset {
        self.pieces.front().map_or(self.filling_from, |(start, _)| *start)
    }

    /// The last byte that is kept.
    pub(super) fn end(&self) -> Offset {
        self.filling_from.advance(self.filling.len() as u64)
    }

    pub(super) fn capacity(&self) -> u64 {
        self.capacity
    }

    /// How many bytes are kept.
    pub(super) fn bytes(&self) -> u64 {
        self.end().get() - self.start().get()
    }

    /// Takes what was read, and drops from the start what exceeds the capacity; `dropped` is told. What lies behind `unwritten_from` has yet to reach
    /// the disk: more of it is kept.
    pub(super) fn append(&mut self, read: &mut BytesMut, unwritten_from: Option<Offset>, mut dropped: impl FnMut(Offset, &Bytes)) {
        if read.len() >= SHARED_BYTES_MIN {
            // A large read becomes a piece as it is. (A small one would keep the whole allocation that it was read into.)
            self.close_filling();
            let piece = read.split().freeze();
            let start = self.filling_from;
            self.filling_from = start.advance(piece.len() as u64);
            self.pieces.push_back((start, piece));
        } else {
            self.gather(read);
            read.clear();
        }
        while let Some((start, piece)) = self.pieces.front().filter(|(start, piece)| self.is_too_much(*start, piece, unwritten_from)) {
            dropped(*start, piece);
            self.pieces.pop_front();
        }
    }

    fn gather(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filling.capacity() == 0 {
                self.filling.reserve_exact(BLOCK_BYTES);
            }
            let count = bytes.len().min(BLOCK_BYTES - self.filling.len());
            self.filling.extend_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            if self.filling.len() == BLOCK_BYTES {
                self.close_filling();
            }
        }
    }

    fn close_filling(&mut self) {
        if self.filling.is_empty() {
            return;
        }
        let mut block = std::mem::take(&mut self.filling);
        block.shrink_to_fit();
        let start = self.filling_from;
        self.filling_from = start.advance(block.len() as u64);
        self.pieces.push_back((start, Bytes::from(block)));
    }

    fn is_too_much(&self, start: Offset, oldest: &Bytes, unwritten_from: Option<Offset>) -> bool {
        let end = start.advance(oldest.len() as u64);
        let allowance = if unwritten_from.is_some_and(|from| from < end) { UNWRITTEN_BYTES_MAX } else { 0 };
        self.bytes() - oldest.len() as u64 >= self.capacity.saturating_add(allowance)
    }

    /// Bytes behind `from`, as many as lie together; empty at the end. `None` if they are no longer kept, or never were.
    pub(super) fn read(&self, from: Offset) -> Option<Bytes> {
        if let Some(within) = self.filling_from.bytes_behind(from) {
            // What is being filled is still ours to write, so what is read from it is copied: it is little.
            return self.filling.get(usize::try_from(within).ok()?..).map(Bytes::copy_from_slice);
        }
        let next = self.pieces.partition_point(|(start, _)| *start <= from);
        let (start, piece) = self.pieces.get(next.checked_sub(1)?)?;
        Some(piece.slice(usize::try_from(start.bytes_behind(from)?).ok()?..))
    }

    /// Whatever lies behind `offset` never was.
    pub(super) fn cut_back(&mut self, offset: Offset) {
        if let Some(left) = self.filling_from.bytes_behind(offset) {
            self.filling.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            return;
        }
        self.filling.clear();
        self.filling_from = offset;
        while self.pieces.back().is_some_and(|(start, _)| *start >= offset) {
            self.pieces.pop_back();
        }
        if let Some((start, piece)) = self.pieces.back_mut()
            && let Some(left) = start.bytes_behind(offset)
        {
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        }
    }
}

const BLOCK_BYTES: usize = 64 * 1024;
/// From here on sharing is cheaper than copying, and what it may waste is bounded.
const SHARED_BYTES_MIN: usize = 16 * 1024;
/// What may be kept above the capacity while the disk catches up. A burst fits in; a disk that is slower than the stream for good must not cost more.
pub(super) const UNWRITTEN_BYTES_MAX: u64 = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(offset: u64) -> Offset {
        Offset::new(offset).expect("in range")
    }

    /// Each write gets bytes of its own, so that what was cut off is told from what took its place.
    fn bytes(number: u64, count: usize) -> BytesMut {
        (0..count as u64).map(|index| ((number * 131 + index * 31) % 251) as u8).collect()
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

    #[derive(Debug, Clone)]
    enum Step {
        Append(usize),
        CutBack(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let size = prop_oneof![1..100usize, 1..SHARED_BYTES_MIN, SHARED_BYTES_MIN..3 * BLOCK_BYTES];
        let step = prop_oneof![8 => size.prop_map(Step::Append), 1 => (0..200_000u64).prop_map(Step::CutBack)];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        /// The model is the whole stream in one vector.
        #[test]
        fn what_is_kept_is_what_arrived_and_nothing_else(steps in steps(), capacity in 1..300_000u64, probes in proptest::collection::vec(any::<u64>(), 8)) {
            const START: u64 = 1000;
            let (mut ring, mut model, mut largest) = (Ring::new(at(START), capacity), Vec::new(), BLOCK_BYTES);
            for (number, step) in steps.into_iter().enumerate() {
                let before = ring.start();
                match step {
                    Step::Append(size) => {
                        let mut read = bytes(number as u64, size);
                        model.extend_from_slice(&read);
                        largest = largest.max(size);
                        let mut told = before;
                        ring.append(&mut read, None, |start, piece| {
                            assert_eq!(start, told, "in order, without a gap");
                            told = start.advance(piece.len() as u64);
                        });
                        prop_assert_eq!((told, read.len()), (ring.start(), 0));
                        prop_assert!(ring.bytes() <= capacity + largest as u64 + BLOCK_BYTES as u64, "bounded");
                        prop_assert!(ring.bytes() >= capacity || ring.start() == before, "nothing is dropped before the capacity is reached");
                    }
                    Step::CutBack(by) => {
                        let left = (model.len() as u64).saturating_sub(by);
                        model.truncate(left as usize);
                        ring.cut_back(at(START + left));
                    }
                }
                let end = START + model.len() as u64;
                prop_assert_eq!(ring.end(), at(end));
                let (first, span) = (ring.start().get(), end - ring.start().get());
                for from in probes.iter().map(|probe| first + probe % (span + 1)).chain([first, end]) {
                    prop_assert!(read_all(&ring, at(from)).as_deref() == Some(&model[(from - START) as usize..]), "from {from} of {first}..{end}");
                }
                prop_assert_eq!(ring.read(at(end + 1)), None);
                prop_assert!(first == 0 || ring.read(at(first - 1)).is_none(), "what was dropped is not there");
            }
        }
    }

    #[test]
    fn what_the_disk_has_not_got_yet_is_kept_within_bounds() {
        let capacity = 2 * BLOCK_BYTES as u64;
        let mut ring = Ring::new(at(0), capacity);
        let mut grow = |unwritten_from: Option<Offset>, count: usize| {
            for number in 0..count {
                ring.append(&mut bytes(number as u64, BLOCK_BYTES), unwritten_from, |_, _| {});
            }
            (ring.start().get(), ring.end().get())
        };
        assert_eq!(grow(Some(at(10)), 10).0, 0);
        let (start, end) = grow(Some(at(10)), 2000);
        assert_eq!(end - start, capacity + UNWRITTEN_BYTES_MAX, "a disk that stands still is not waited for");
        let (start, end) = grow(None, 1);
        assert_eq!(end - start, capacity, "a disk that caught up needs nothing");
    }
}
