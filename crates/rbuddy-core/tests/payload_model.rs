//! The framing of a snapshot against the reference reader of the fuzz targets, which has the whole input: random snapshots with newlines before them, in
//! random cuts, and broken ones; every short snapshot in every cut.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

#[path = "../../../fuzz/src/cuts.rs"]
#[allow(unreachable_pub, dead_code, reason = "of another workspace")]
mod cuts;
#[path = "../../../fuzz/src/payload.rs"]
#[allow(unreachable_pub, dead_code, reason = "of another workspace")]
mod payload;

use payload::{MARK_BYTES, Outcome, assert_same, read, reference};
use proptest::prelude::*;

const MARK: [u8; MARK_BYTES] = *b"0123456789abcdef0123456789abcdef01234567";

/// What a primary sends: signs of life, the header, the snapshot, the stream.
#[derive(Debug, Clone)]
struct Sent {
    newlines: Vec<bool>,
    is_marked: bool,
    snapshot: Vec<u8>,
    stream: Vec<u8>,
}

impl Sent {
    fn bytes(&self) -> Vec<u8> {
        let newlines = self.newlines.iter().flat_map(|with_cr| if *with_cr { &b"\r\n"[..] } else { b"\n" });
        let mut bytes: Vec<u8> = newlines.copied().collect();
        if self.is_marked {
            bytes.extend([b"$EOF:", &MARK[..], b"\r\n", &self.snapshot, &MARK].concat());
        } else {
            bytes.extend([format!("${}\r\n", self.snapshot.len()).as_bytes(), &self.snapshot].concat());
        }
        bytes.extend(&self.stream);
        bytes
    }

    fn expected(&self) -> Outcome {
        let used = self.bytes().len() - self.stream.len();
        let announced = (!self.is_marked).then_some(self.snapshot.len() as u64);
        Outcome::Whole { snapshot: self.snapshot.clone(), announced, used }
    }
}

/// Bytes, and beginnings of the mark among them: the ones that are hard to tell from the end.
fn snapshot() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        proptest::collection::vec(any::<u8>(), 1..80),
        (1..MARK_BYTES).prop_map(|length| MARK[..length].to_vec()),
        (1..MARK_BYTES).prop_map(|start| MARK[start..].to_vec()),
    ];
    let whole = |bytes: &Vec<u8>| !bytes.windows(MARK_BYTES).any(|window| window == MARK);
    proptest::collection::vec(part, 1..12).prop_map(|parts| parts.concat()).prop_filter("the mark is in it", whole)
}

fn sent() -> impl Strategy<Value = Sent> {
    let newlines = proptest::collection::vec(any::<bool>(), 0..5);
    (newlines, any::<bool>(), snapshot(), proptest::collection::vec(any::<u8>(), 0..60))
        .prop_map(|(newlines, is_marked, snapshot, stream)| Sent { newlines, is_marked, snapshot, stream })
        // Parts of the mark at the end may make it come one turn earlier; then the reference decides, in the test of any bytes.
        .prop_filter("the mark comes early", |sent| !sent.is_marked || reference(&sent.bytes()) == sent.expected())
}

fn cut<'a>(bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([bytes.len()]).collect();
    ends.sort_unstable();
    ends.iter().scan(0, |at, end| Some(&bytes[std::mem::replace(at, *end)..*end])).collect()
}

proptest! {
    #[test]
    fn what_is_sent_is_read_however_it_is_cut(sent in sent(), cuts in proptest::collection::vec(any::<usize>(), 0..12)) {
        let bytes = sent.bytes();
        prop_assert_eq!(&reference(&bytes), &sent.expected());
        prop_assert_eq!(read(&cut(&bytes, &cuts)), sent.expected());
    }

    #[test]
    fn what_is_cut_short_or_broken_is_read_as_the_reference_reads_it(
        sent in sent(),
        end in any::<prop::sample::Index>(),
        broken in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
        cuts in proptest::collection::vec(any::<usize>(), 0..12),
    ) {
        let mut bytes = sent.bytes();
        bytes.truncate(end.index(bytes.len() + 1));
        if let (Some((at, byte)), false) = (broken, bytes.is_empty()) {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        assert_same(&read(&cut(&bytes, &cuts)), &reference(&bytes));
    }
}

#[test]
fn every_beginning_of_a_payload_in_every_cut_is_read_as_the_reference_reads_it() {
    for is_marked in [true, false] {
        let sent =
            Sent { newlines: vec![false, true], is_marked, snapshot: [&MARK[..3], &MARK[..39]].concat(), stream: b"*1\r\n".to_vec() };
        let bytes = sent.bytes();
        for length in 0..=bytes.len() {
            let expected = reference(&bytes[..length]);
            for first in 0..=length {
                for second in first..=length {
                    assert_same(&read(&cut(&bytes[..length], &[first, second])), &expected);
                }
            }
        }
    }
}
