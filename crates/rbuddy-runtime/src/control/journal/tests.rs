//! A journal on real files: rotated, cut off, without room. Whatever is left of it can be replayed.

use super::*;
use rbuddy_core::control::action::Output;
use rbuddy_core::control::event::{Event, Node, ProbeResult};
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::relay::RelayView;
use rbuddy_core::control::replay::{Replay, Step};
use rbuddy_core::control::settings::{FreezeMode, GroupPolicy, Guard, MaxLag, SnapshotFrom, StandbyMode};
use rbuddy_core::types::NodeAddress;
use std::path::Path;

const KEY: &str = "http://me:s3cret@hooks.example/s3cret";

fn policy() -> GroupPolicy {
    let address = |port| NodeAddress::new("127.0.0.1", port);
    GroupPolicy {
        group: "main".parse().expect("a name"),
        primary: PrimaryAt::Fixed(address(1)),
        replicas: vec![address(2), address(3)],
        actives: 1,
        relay: address(4),
        standby: StandbyMode::Empty,
        consistency: rbuddy_core::control::settings::Consistency::Rolling,
        max_unavailable: 1,
        freeze: FreezeMode::Hold,
        drain: Duration::from_secs(1),
        max_lag: MaxLag::default(),
        guard: Guard::default(),
        dead_after: Duration::from_secs(1),
        snapshot_from: SnapshotFrom::Primary,
        notify: vec![KEY.into()],
    }
}

/// A controller that is told things, and all that it was told and decided.
struct Told {
    controller: Controller,
    now: u64,
    entries: Vec<Entry>,
}

impl Told {
    fn new(now: u64) -> Told {
        let at = Time::from_unix_ms(now);
        let beginning = Entry::Begin(Box::new(Beginning { at, policy: policy(), state: None }));
        let mut told = Told { controller: Controller::new(policy(), None, at), now, entries: vec![beginning] };
        told.drain();
        told
    }

    fn drain(&mut self) {
        while let Output::Action(action) = self.controller.poll_output() {
            self.entries.push(Entry::Action(action));
        }
    }

    /// The next thing: counters move, a server is silent, time passes.
    fn hear(&mut self) {
        self.now += 50;
        let at = Time::from_unix_ms(self.now);
        let event = match self.now / 50 % 3 {
            0 => {
                let mut view = RelayView::default();
                view.backlog.memory_bytes = self.now;
                Event::Relay(Box::new(view))
            }
            1 => {
                let node = Node::Replica(policy().replicas[0].clone());
                Event::Probe { node, asked_at: at, result: ProbeResult::Failed(format!("silent at {}", self.now)) }
            }
            _ => Event::Tick,
        };
        self.entries.push(Entry::Event { at, event: event.clone() });
        self.controller.handle(at, event);
        self.drain();
    }

    fn taken(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.entries)
    }

    fn checkpoint(&self) -> Entry {
        Entry::Checkpoint(Box::new(Checkpoint { at: Time::from_unix_ms(self.now), lost: 0, controller: self.controller.clone() }))
    }
}

fn writer(folder: &Path, settings: JournalSettings) -> Writer {
    Writer {
        heading: Heading::new("main".parse().expect("a name")),
        folder: folder.to_owned(),
        settings,
        encoder: Encoder::masking([KEY.to_owned()]),
        wanted: Arc::default(),
        retry: Duration::ZERO,
        state: State::BrokenOff { lost: 0, retry_at: None },
    }
}

/// What stands in files, in order; headings left out.
fn read(files: &[PathBuf]) -> (Vec<Entry>, usize) {
    let (mut entries, mut cuts) = (Vec::new(), 0);
    for file in files {
        for item in JournalReader::open(file).expect("it is there") {
            match item.expect("a sound journal") {
                Item::Heading(_) => {}
                Item::Entry(entry) => entries.push(*entry),
                Item::Cut { .. } => cuts += 1,
            }
        }
    }
    (entries, cuts)
}

fn differing(entries: Vec<Entry>) -> Vec<Step> {
    let mut replay = Replay::default();
    let mut steps: Vec<Step> = entries.into_iter().filter_map(|entry| replay.take(entry)).collect();
    steps.extend(replay.finish());
    steps.retain(|step| step.difference.is_some());
    steps
}

#[test]
fn files_follow_one_another_and_a_replay_may_begin_at_each() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(folder.path(), JournalSettings { size_bytes: 40_000, files: 3 });
    let mut told = Told::new(0);
    for _ in 0..3000 {
        told.taken().into_iter().for_each(|entry| writer.take(entry));
        if writer.wanted.swap(false, Ordering::AcqRel) {
            writer.take(told.checkpoint());
        }
        told.hear();
    }
    let files = journal_files(folder.path()).expect("readable");
    assert_eq!(files.len(), 3, "{files:?}");
    assert_ne!(files[0].file_name(), Some("000001.ndjson".as_ref()), "the oldest are gone");
    for file in &files {
        let bytes = file.metadata().expect("it is there").len();
        assert!(bytes < 60_000, "{file:?} has {bytes} bytes");
        assert_eq!(differing(read(std::slice::from_ref(file)).0), Vec::new(), "{file:?} alone");
    }
    assert_eq!(differing(read(&files).0), Vec::new(), "one after the other");
}

#[tokio::test]
async fn all_that_was_recorded_is_written_at_the_end_and_none_if_none_is_wanted() {
    let folder = tempfile::tempdir().expect("a folder");
    let begin = |files| {
        let mut told = Told::new(0);
        let Entry::Begin(beginning) = told.entries.remove(0) else { unreachable!("it begins") };
        let settings = JournalSettings { files, ..JournalSettings::default() };
        (told, Journal::start(folder.path().to_owned(), settings, *beginning).expect("a thread"))
    };
    assert!(begin(0).1.is_none());
    let (mut told, journal) = begin(1);
    let mut journal = journal.expect("wanted");
    (0..50).for_each(|_| told.hear());
    let recorded = told.taken();
    let count = recorded.len();
    recorded.into_iter().for_each(|entry| journal.record(entry));
    journal.end().await;
    let (entries, _) = read(&journal_files(folder.path()).expect("readable"));
    assert_eq!((entries.len(), differing(entries)), (1 + count, Vec::new()));
}

#[test]
fn half_a_line_is_told_and_all_before_and_behind_it_is_there_in_its_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut before, mut behind) = (Told::new(0), Told::new(1_000_000));
    (0..30).for_each(|_| before.hear());
    (0..30).for_each(|_| behind.hear());
    let (before, behind) = (before.taken(), behind.taken());
    let masked = |entries: &[Entry]| read_back(entries, folder.path());
    let (whole_before, whole_behind) = (masked(&before), masked(&behind));
    let file = folder.path().join("000001.ndjson");
    let write = |entries: &[Entry]| {
        let mut writer = writer(folder.path(), JournalSettings::default());
        entries.iter().cloned().for_each(|entry| writer.take(entry));
    };
    write(&before);
    let bytes = std::fs::read(&file).expect("written");
    for left in bytes.len() - 400..bytes.len() {
        std::fs::write(&file, &bytes[..left]).expect("cut");
        let (entries, cuts) = read(std::slice::from_ref(&file));
        assert!(cuts <= 1 && whole_before.starts_with(&entries), "{left} bytes are left");
        write(&behind);
        let (both, _) = read(std::slice::from_ref(&file));
        assert_eq!(both, [&entries[..], &whole_behind].concat(), "{left} bytes are left, and another run follows");
        assert_eq!(differing(both), Vec::new());
    }
}

/// As a journal gives them back: without the secrets of URLs.
fn read_back(entries: &[Entry], folder: &Path) -> Vec<Entry> {
    let folder = folder.join("aside");
    let mut writer = writer(&folder, JournalSettings::default());
    entries.iter().cloned().for_each(|entry| writer.take(entry));
    let files = journal_files(&folder).expect("readable");
    let entries = read(&files).0;
    std::fs::remove_dir_all(&folder).expect("removable");
    entries
}

#[test]
fn a_disk_without_room_costs_the_story_only_and_it_goes_on_when_there_is_some() {
    let folder = tempfile::tempdir().expect("a folder");
    let full = folder.path().join("000001.ndjson");
    std::os::unix::fs::symlink("/dev/full", &full).expect("a disk without room");
    let mut writer = writer(folder.path(), JournalSettings::default());
    let mut told = Told::new(0);
    (0..20).for_each(|_| told.hear());
    let lost = told.taken();
    let count = lost.len() as u64;
    lost.into_iter().for_each(|entry| writer.take(entry));
    assert!(writer.wanted.swap(false, Ordering::AcqRel), "it asks for a checkpoint to go on from");
    writer.take(told.checkpoint());
    assert!(matches!(writer.state, State::BrokenOff { lost, .. } if lost == count + 1), "there is still no room");

    std::fs::remove_file(&full).expect("room");
    writer.take(told.checkpoint());
    (0..20).for_each(|_| told.hear());
    told.taken().into_iter().for_each(|entry| writer.take(entry));
    let (entries, cuts) = read(&journal_files(folder.path()).expect("readable"));
    assert!(matches!(&entries[0], Entry::Checkpoint(checkpoint) if checkpoint.lost == count + 1), "{:?}", entries[0]);
    assert_eq!((differing(entries), cuts), (Vec::new(), 0));
}

#[test]
fn a_folder_that_cannot_be_made_is_no_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = folder.path().join("journal");
    std::fs::write(&place, "in the way").expect("written");
    let mut writer = writer(&place, JournalSettings::default());
    let mut told = Told::new(0);
    told.taken().into_iter().for_each(|entry| writer.take(entry));
    assert!(matches!(writer.state, State::BrokenOff { .. }));
    std::fs::remove_file(&place).expect("out of the way");
    writer.take(told.checkpoint());
    assert_eq!(read(&journal_files(&place).expect("made")).0.len(), 1);
}

#[test]
fn what_finds_no_room_in_the_queue_is_counted_and_a_checkpoint_follows() {
    let (entries, queue) = sync_channel(1);
    let (_, ended) = oneshot::channel();
    let mut journal = Journal { entries, wanted: Arc::default(), lost: 0, ended };
    let mut told = Told::new(0);
    (0..5).for_each(|_| told.hear());
    let all = told.taken();
    let count = all.len() as u64;
    all.into_iter().for_each(|entry| journal.record(entry));
    journal.rest(Time::default(), &told.controller);
    assert_eq!(journal.lost, count - 1, "no room for the checkpoint either");
    assert!(matches!(queue.try_recv(), Ok(Entry::Begin(_))));
    journal.record(Entry::Event { at: Time::default(), event: Event::Tick });
    journal.rest(Time::default(), &told.controller);
    let Ok(Entry::Checkpoint(checkpoint)) = queue.try_recv() else { panic!("nothing is of use before a checkpoint") };
    assert_eq!((checkpoint.lost, checkpoint.controller == told.controller, journal.lost), (count, true, 0));
}

#[test]
fn another_format_and_what_is_no_journal_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("x.ndjson");
    let heading = serde_json::to_string(&Heading::new("main".parse().expect("a name"))).expect("plain data");
    for (text, words) in [
        ("{\"journal\":99,\"something\":1}\n".to_owned(), "format 99"),
        ("{\"action\":{}}\n".to_owned(), "line 1"),
        ("hello\n".to_owned(), "line 1"),
        (format!("{heading}\n{{\"half\n{{\"event\":1}}\n"), "line 2"),
        (format!("{heading}\n{{\"like\":\"relay\",\"but\":{{}}}}\n"), "relay"),
    ] {
        std::fs::write(&file, text).expect("written");
        let error = JournalReader::open(&file).expect("there").find_map(Result::err).expect("no journal").to_string();
        assert!(error.contains(words) && error.contains("x.ndjson"), "{error}");
    }
}

#[test]
fn no_part_of_a_webhooks_url_that_may_be_a_key_is_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = writer(folder.path(), JournalSettings::default());
    let mut told = Told::new(0);
    told.hear();
    told.taken().into_iter().for_each(|entry| writer.take(entry));
    writer.take(told.checkpoint());
    let text = std::fs::read_to_string(folder.path().join("000001.ndjson")).expect("written");
    assert!(text.contains("hooks.example") && !text.contains("s3cret"), "{text}");
}
