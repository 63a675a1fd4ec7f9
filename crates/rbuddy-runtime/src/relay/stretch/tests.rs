use super::*;
use proptest::prelude::*;
use rbuddy_core::types::Position;

fn at(offset: u64) -> Offset {
    Offset::new(offset).expect("in range")
}

fn stretch(start: u64, backlog_bytes: u64) -> Stretch {
    let position = Position::new("a".repeat(40).parse().expect("an id"), at(start));
    Stretch::new(StretchKey(1), History::starting_at(position, None), backlog_bytes)
}

/// Everything behind `from`, or the first byte that is kept if that is gone.
fn read_all(stretch: &Stretch, mut from: Offset) -> Result<Vec<u8>, NextByte> {
    let mut all = Vec::new();
    loop {
        let pieces = match stretch.read(from, None) {
            Piece::Memory(pieces) if pieces.is_empty() => return Ok(all),
            Piece::Memory(pieces) => pieces,
            Piece::Disk(found) => vec![found.file.read_at(found.at, found.bytes as usize).expect("it is there")],
            Piece::Overrun { oldest } => return Err(oldest),
        };
        for piece in pieces {
            from = from.advance(piece.len() as u64);
            all.extend_from_slice(&piece);
        }
    }
}

fn write_once(stretch: &mut Stretch, bytes_max: u64) -> bool {
    let Some((target, pieces)) = stretch.to_write(bytes_max) else { return false };
    stretch.wrote(target.write(&pieces).expect("the disk takes it"));
    true
}

fn command(words: &[&str]) -> Vec<u8> {
    rbuddy_core::resp::encode::request(words)
}

#[derive(Debug, Clone)]
enum Step {
    Append(usize),
    Begin,
    Write(u64),
    /// A write during which the stream is cut back by so much.
    CutDuringWrite(u64),
    CutBack(u64),
    Trim(u64),
    DropOldest,
    End,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (1..60_000usize).prop_map(Step::Append),
        2 => Just(Step::Begin),
        8 => (1..80_000u64).prop_map(Step::Write),
        1 => (0..60_000u64).prop_map(Step::CutDuringWrite),
        1 => (0..60_000u64).prop_map(Step::CutBack),
        2 => any::<u64>().prop_map(Step::Trim),
        1 => Just(Step::DropOldest),
        1 => Just(Step::End),
        1 => Just(Step::Restart),
    ]
}

const START: u64 = 5000;
const SEGMENT_BYTES: u64 = 30_000;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// The model is the whole stream in one vector: whatever memory and disk do, what is told to be kept is read back as it arrived, and what is not is
    /// told to be gone.
    #[test]
    fn memory_and_disk_together_are_one_stream_without_a_gap(
        steps in proptest::collection::vec(step(), 1..60),
        capacity in 1..100_000u64,
        probes in proptest::collection::vec(any::<u64>(), 6),
    ) {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut stretch, mut model) = (stretch(START, capacity), Vec::<u8>::new());
        for (number, step) in steps.into_iter().enumerate() {
            let oldest = stretch.history.oldest;
            match step {
                Step::Append(size) => {
                    let mut read: BytesMut = (0..size).map(|index| ((number * 131 + index * 31) % 251) as u8).collect();
                    model.extend_from_slice(&read);
                    prop_assert!(stretch.append(&mut read), "so little is always kept for the disk");
                    if let Some(log) = stretch.log() {
                        prop_assert!(stretch.history.oldest <= oldest.max(log.start().next_byte()), "what the log has is not lost");
                    }
                }
                Step::Begin if stretch.log().is_none() => stretch.begin_log(dir.path(), SEGMENT_BYTES),
                Step::Begin => {}
                Step::Write(bytes_max) => {
                    write_once(&mut stretch, bytes_max);
                }
                Step::CutDuringWrite(by) => {
                    let under_way = stretch.to_write(u64::MAX);
                    model.truncate(model.len().saturating_sub(by as usize));
                    stretch.cut_back(at(START + model.len() as u64));
                    if let Some((target, pieces)) = under_way {
                        stretch.wrote(target.write(&pieces).expect("the disk takes it"));
                    }
                }
                Step::CutBack(by) => {
                    model.truncate(model.len().saturating_sub(by as usize));
                    stretch.cut_back(at(START + model.len() as u64));
                }
                Step::Trim(place) => {
                    let kept = oldest.have().expect("not before the first").get();
                    let needed = at(kept + place % (START + model.len() as u64 - kept + 1));
                    stretch.trim_log(needed);
                    prop_assert!(stretch.history.oldest <= needed.next_byte(), "what is needed stays");
                }
                Step::DropOldest => stretch.drop_oldest_on_disk(),
                Step::End => stretch.end_log(),
                Step::Restart => {
                    let Some(log) = stretch.log() else { continue };
                    let (name, first) = (log.name().to_owned(), log.start());
                    stretch.keep_log(true);
                    while write_once(&mut stretch, 50_000) {}
                    let log = Log::open(dir.path(), &name, Some(first), SEGMENT_BYTES).expect("it is there");
                    prop_assert_eq!((log.start(), log.end()), (first, stretch.history.end));
                    let mut history = stretch.history.clone();
                    history.end = log.end();
                    stretch = Stretch::new(StretchKey(2), history, capacity);
                    stretch.resume(log);
                    stretch.keep_log(false);
                }
            }
            let end = START + model.len() as u64;
            prop_assert_eq!(stretch.history.end, at(end));
            let first = stretch.history.oldest.have().expect("not before the first").get();
            for from in probes.iter().map(|probe| START + probe % (end - START + 1)).chain([first, end]) {
                let expected = if from >= first { Ok(&model[(from - START) as usize..]) } else { Err(stretch.history.oldest) };
                let found = read_all(&stretch, at(from));
                prop_assert!(found.as_deref().map_err(|oldest| *oldest) == expected, "from {from}, kept {first}..{end}");
            }
            prop_assert!(read_all(&stretch, at(end + 7)).is_ok_and(|bytes| bytes.is_empty()), "one that has more than arrived waits");
        }
    }
}

#[test]
fn files_go_with_the_need_for_them_and_stay_for_a_next_run_where_they_are_to() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = || std::fs::read_dir(dir.path()).expect("a folder").count();
    let mut stretch = stretch(0, 1000);
    stretch.begin_log(dir.path(), 100);
    for _ in 0..10 {
        stretch.append(&mut BytesMut::from(&[7; 100][..]));
        write_once(&mut stretch, u64::MAX);
    }
    assert_eq!((files(), stretch.bytes()), (10, (1000, 1000)));
    stretch.trim_log(at(450));
    assert_eq!(files(), 6, "the segment that is needed in part stays whole");
    stretch.keep_log(true);
    stretch.trim_log(at(550));
    assert_eq!(files(), 5, "what is not needed goes, whatever becomes of the rest");
    let name = stretch.log().expect("just begun").name().to_owned();
    drop(stretch);
    assert_eq!(files(), 5);
    // One in the middle is missing: what lies behind it leads nowhere.
    let lost = std::fs::read_dir(dir.path()).expect("a folder").map(|entry| entry.expect("an entry").path());
    let lost = lost.into_iter().find(|path| path.to_string_lossy().contains("-00000000000000000700-")).expect("it was written");
    std::fs::remove_file(lost).expect("it was there");
    let reopened = |needed: Option<u64>| {
        let log = Log::open(dir.path(), &name, needed.map(at), 100).expect("it opens");
        (log.start(), log.end())
    };
    assert_eq!(reopened(Some(620)), (at(500), at(700)), "also what lies before it");
    assert_eq!(reopened(Some(300)), (at(300), at(300)), "nothing behind that is left");
    assert_eq!(reopened(None), (at(800), at(1000)));
}

#[test]
fn a_disk_that_stands_still_costs_the_log_and_never_the_stream() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut stretch = stretch(0, 1 << 20);
    stretch.begin_log(dir.path(), 1 << 20);
    let mut appended: u64 = 0;
    while stretch.append(&mut BytesMut::zeroed(1 << 20)) {
        appended += 1 << 20;
        assert!(appended < 1 << 30, "memory is bounded");
    }
    assert!(stretch.log().is_none());
    assert!(matches!(stretch.read(at(0), None), Piece::Overrun { .. }));
    assert_eq!(stretch.history.end, at(appended + (1 << 20)));
}

#[test]
fn boundaries_are_found_lazily_from_a_known_one_or_from_an_ack() {
    let mut stretch = stretch(100, 1 << 20);
    let (ping, set) = (command(&["PING"]), command(&["SET", "k", "v"]));
    let stream = [&ping[..], &set, &set[..9]].concat();
    stretch.append(&mut BytesMut::from(&stream[..]));
    let whole = at(100 + (ping.len() + set.len()) as u64);
    assert_eq!(stretch.boundary(), Some(whole));
    stretch.cut_back(whole);
    assert_eq!((stretch.history.end, stretch.boundary()), (whole, Some(whole)));

    // What follows has no commands that could be found, and memory loses it: only an ACK tells a boundary again.
    for _ in 0..20 {
        stretch.append(&mut BytesMut::zeroed(100_000));
    }
    assert!(stretch.boundary().is_some_and(|boundary| boundary <= whole));
    let executed = stretch.history.end;
    stretch.note_boundary(executed.advance(1));
    stretch.note_boundary(executed);
    stretch.append(&mut BytesMut::from(&set[..]));
    assert_eq!(stretch.boundary(), Some(executed.advance(set.len() as u64)));
    // Replicas tell one every second: what memory loses meanwhile is not looked at.
    for _ in 0..20 {
        stretch.append(&mut BytesMut::zeroed(100_000));
    }
    assert_eq!(stretch.boundary(), None);
}

#[test]
fn nothing_is_read_beyond_what_an_old_id_is_right_for() {
    let mut stretch = stretch(0, 1 << 20);
    let old = stretch.history.replid();
    stretch.append(&mut BytesMut::from(&b"before"[..]));
    stretch.history.rename("b".repeat(40).parse().expect("an id"));
    stretch.append(&mut BytesMut::from(&b"behind"[..]));
    let bytes = |known_as| match stretch.read(at(2), Some(known_as)) {
        Piece::Memory(pieces) => pieces.concat(),
        Piece::Disk(_) | Piece::Overrun { .. } => panic!("it is in memory"),
    };
    assert_eq!(bytes(old), b"fore");
    assert_eq!(bytes(stretch.history.replid()), b"forebehind");
}
