//! What may go wrong, what ends it, and what operators say: as data, with words. The words are what transcripts are written in and what a failed
//! exploration is told with. What each does to the world is said by [`super::trial`].

use super::Fate;
use std::fmt;

/// One thing that happens to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its process is gone.
    Dies(u16),
    /// Another process runs where it was, or in its place.
    Restarts(u16, Memory),
    /// It answers nothing, though it runs.
    Hangs(u16),
    GoesOn(u16),
    PrimaryDies,
    /// The same primary, after a break in which the stream lost nothing.
    PrimaryReturns,
    /// Another history.
    AnotherPrimary(Contents),
    /// The primary that was there before the last one, as it was.
    PrimaryBefore,
    /// The break was too long for the primary's backlog.
    PrimaryOverruns,
    /// Somebody restored an image of its machine: the same id, less of it.
    PrimaryRestored(Image),
    /// The primary replicates, but answers nothing else.
    PrimaryIsSilent,
    PrimarySpeaks,
    /// It moved: a replica of it was promoted elsewhere, and a Sentinel says so.
    PrimaryMoves,
    LinkBreaks,
    LinkMends,
    /// Killed, and started again with what is on disk.
    RbuddyRestarts,
    /// What becomes of commands from now on.
    Commands(Fate),
    /// Answers to probes arrive a step after they were given.
    ProbesAreLate,
    ProbesAreInTime,
    DiskIsFull,
    DiskHasRoom,
    Says(Word),
}

/// What a replica still has after a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    All,
    /// But for the last 50 bytes of the stream.
    Older,
    /// Nothing, but its configuration file says whom it follows.
    Nothing,
    /// Not even that.
    NotItsPrimary,
}

/// What another primary holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contents {
    Whole,
    /// A tenth.
    Shrunken,
    Nothing,
}

/// What the image of a machine lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Image {
    /// Little: the primary is soon where it was.
    Recent,
    /// More than it writes while all comes to rest.
    Old,
}

/// What an operator says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Failover,
    Pause,
    Resume,
    Adopt(u16),
    Drain(u16),
    Return(u16),
    /// The dataset that is refused right now.
    Approve,
}

impl Fault {
    /// All that can happen to a group with these replicas.
    pub fn all(ports: &[u16]) -> Vec<Fault> {
        let memories = [Memory::All, Memory::Older, Memory::Nothing, Memory::NotItsPrimary];
        let mut all = Vec::new();
        for port in ports.iter().copied() {
            all.extend([Fault::Dies(port), Fault::Hangs(port), Fault::GoesOn(port), Fault::Says(Word::Adopt(port))]);
            all.extend([Word::Drain(port), Word::Return(port)].map(Fault::Says));
            all.extend(memories.map(|memory| Fault::Restarts(port, memory)));
        }
        all.extend([Contents::Whole, Contents::Shrunken, Contents::Nothing].map(Fault::AnotherPrimary));
        all.extend([Fault::PrimaryDies, Fault::PrimaryReturns, Fault::PrimaryBefore, Fault::PrimaryOverruns]);
        all.extend([Image::Recent, Image::Old].map(Fault::PrimaryRestored));
        all.extend([Fault::PrimaryIsSilent, Fault::PrimarySpeaks, Fault::PrimaryMoves, Fault::LinkBreaks, Fault::LinkMends]);
        all.extend([Fault::RbuddyRestarts, Fault::ProbesAreLate, Fault::ProbesAreInTime, Fault::DiskIsFull, Fault::DiskHasRoom]);
        all.extend([Fate::Told, Fate::DoneUnknown, Fate::LostUnknown, Fate::EmptyingDone, Fate::EmptyingLost].map(Fault::Commands));
        all.extend([Word::Failover, Word::Pause, Word::Resume, Word::Approve].map(Fault::Says));
        all
    }

    /// The one that is told with these words.
    pub fn told(words: &str, ports: &[u16]) -> Option<Fault> {
        Fault::all(ports).into_iter().find(|fault| fault.to_string() == words)
    }
}

/// A replica's name in stories.
pub fn name(port: u16) -> &'static str {
    match port {
        super::A => "A",
        super::B => "B",
        super::C => "C",
        6384 => "D",
        6385 => "E",
        super::RELAY => "the relay",
        _ => "the primary",
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Fault::Dies(port) => return write!(f, "{} dies", name(*port)),
            Fault::Restarts(port, Memory::All) => return write!(f, "{} restarts with its data", name(*port)),
            Fault::Restarts(port, Memory::Older) => return write!(f, "{} restarts with slightly older data", name(*port)),
            Fault::Restarts(port, Memory::Nothing) => return write!(f, "{} restarts empty", name(*port)),
            Fault::Restarts(port, Memory::NotItsPrimary) => return write!(f, "{} restarts empty, and as a master", name(*port)),
            Fault::Hangs(port) => return write!(f, "{} hangs", name(*port)),
            Fault::GoesOn(port) => return write!(f, "{} goes on", name(*port)),
            Fault::Says(Word::Adopt(port)) => return write!(f, "an operator adopts {}", name(*port)),
            Fault::Says(Word::Drain(port)) => return write!(f, "an operator drains {}", name(*port)),
            Fault::Says(Word::Return(port)) => return write!(f, "an operator returns {}", name(*port)),
            Fault::PrimaryDies => "the primary dies",
            Fault::PrimaryReturns => "the primary is back, and lost nothing",
            Fault::AnotherPrimary(Contents::Whole) => "the primary is back with a new dataset",
            Fault::AnotherPrimary(Contents::Shrunken) => "the primary is back with a tenth of its keys",
            Fault::AnotherPrimary(Contents::Nothing) => "the primary is back empty",
            Fault::PrimaryBefore => "the primary before is back",
            Fault::PrimaryOverruns => "the primary's backlog overruns",
            Fault::PrimaryRestored(Image::Recent) => "the primary is restored from an image",
            Fault::PrimaryRestored(Image::Old) => "the primary is restored from an old image",
            Fault::PrimaryIsSilent => "the primary answers no probe",
            Fault::PrimarySpeaks => "the primary answers probes",
            Fault::PrimaryMoves => "the primary moves, and a Sentinel says so",
            Fault::LinkBreaks => "the link breaks",
            Fault::LinkMends => "the link mends",
            Fault::RbuddyRestarts => "rbuddy is killed and starts again",
            Fault::Commands(Fate::Told) => "commands end well",
            Fault::Commands(Fate::DoneUnknown) => "commands are carried out, and nobody learns it",
            Fault::Commands(Fate::LostUnknown) => "commands are lost, and nobody learns it",
            Fault::Commands(Fate::EmptyingDone) => "emptying is carried out, and nobody learns it",
            Fault::Commands(Fate::EmptyingLost) => "emptying is lost, and nobody learns it",
            Fault::ProbesAreLate => "probes are late",
            Fault::ProbesAreInTime => "probes are in time",
            Fault::DiskIsFull => "the disk is full",
            Fault::DiskHasRoom => "the disk has room",
            Fault::Says(Word::Failover) => "an operator orders a failover",
            Fault::Says(Word::Pause) => "an operator pauses",
            Fault::Says(Word::Resume) => "an operator resumes",
            Fault::Says(Word::Approve) => "an operator approves the refused dataset",
        };
        f.write_str(words)
    }
}
