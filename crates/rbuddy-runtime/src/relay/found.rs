//! What an earlier run of the relay left in its folder: the snapshot, and what there is on disk of the stream. Whatever `relay.json` ([`super::state`]) does
//! not name is a remainder and is removed.
//!
//! Promise: nothing is taken for what it is not: not a file that is shorter than it was, nor a stream of which the machine may have lost the end.
//! Not here: how one goes on from it ([`super::upstream`]).

use super::files::{FileError, Spool, StoredFile};
use super::log::{LOG_PREFIX, Log};
use super::needs::DiskRoom;
use super::state::{FILE_NAME, SNAPSHOT_PREFIX, Saved, SavedSpool, SavedStream, TEMPORARY_NAME, boot_id, new_run_id};
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::relay::Previous;
use rbuddy_core::replication::history::{History, Place, Standing};
use rbuddy_core::types::{DatasetId, NodeAddress, Offset, Position, RunId};
use std::collections::BTreeMap;
use std::path::Path;

/// What a previous run left.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) run_id: RunId,
    /// Where the primary was, and what was configured then.
    pub(super) primary: Option<(NodeAddress, PrimaryAt)>,
    pub(super) left: Left,
    /// What it followed.
    pub(super) previous: Option<Previous>,
}

/// What can be gone on from.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// A complete snapshot, with the stream behind it.
    pub(super) spool: Option<(Spool, StoredStream)>,
    /// The stream alone, of the history that was live.
    pub(super) stream: Option<StoredStream>,
}

/// A history, with what is on disk of it.
#[derive(Debug)]
pub(super) struct StoredStream {
    pub(super) log: Option<Log>,
    /// It ends with the log's last byte.
    pub(super) history: History,
    /// What replicas had of it.
    pub(super) stands: BTreeMap<NodeAddress, Offset>,
}

impl Left {
    /// For the view: the snapshot, and where one would go on.
    pub(super) fn resumable(&self) -> Option<(DatasetId, Position)> {
        self.spool.as_ref().map(|(spool, stream)| (spool.dataset, stream.history.end_position()))
    }

    /// The one that has what comes behind this place, or else most of what comes before; with the snapshot, if there is one.
    pub(super) fn take_around(&mut self, place: &Place) -> Option<(Option<Spool>, StoredStream)> {
        let standing = |stream: &StoredStream| stream.history.standing(place.position);
        let spooled = self.spool.as_ref().map(|(_, stream)| standing(stream));
        let beside = self.stream.as_ref().map(standing);
        let (spool, mut stream) = match (spooled, beside) {
            (Some(Standing::Covered), _) => self.take_spooled()?,
            (_, Some(Standing::Covered)) => self.take_beside()?,
            // The last bytes were lost with the process: the primary has them, or goes on at the place itself.
            (Some(Standing::Ahead { end }), Some(Standing::Ahead { end: other })) if other > end => self.take_beside()?,
            (Some(Standing::Ahead { .. }), _) => self.take_spooled()?,
            (_, Some(Standing::Ahead { .. })) => self.take_beside()?,
            (_, _) => return None,
        };
        place.earlier.iter().for_each(|known| stream.history.remember(*known));
        Some((spool, stream))
    }

    pub(super) fn take_spooled(&mut self) -> Option<(Option<Spool>, StoredStream)> {
        self.spool.take().map(|(spool, stream)| (Some(spool), stream))
    }

    fn take_beside(&mut self) -> Option<(Option<Spool>, StoredStream)> {
        self.stream.take().map(|stream| (None, stream))
    }

    /// Nobody goes on from it: it is removed.
    pub(super) fn discard(self) {
        let Left { spool, stream } = self;
        let of_spool = spool.map(|(spool, stream)| {
            spool.snapshot.keep(false);
            stream
        });
        for log in [of_spool, stream].into_iter().flatten().filter_map(|stream| stream.log) {
            log.discard();
        }
    }

    fn file_names(&self) -> Vec<String> {
        let snapshot = self.spool.iter().map(|(spool, _)| spool.snapshot.name());
        let streams = self.spool.iter().map(|(_, stream)| stream).chain(&self.stream);
        snapshot.chain(streams.filter_map(|stream| stream.log.as_ref()).flat_map(Log::file_names)).collect()
    }
}

/// Reads the folder and removes what is of no use. Blocking.
pub(super) fn load(room: &DiskRoom) -> Result<Found, FileError> {
    let dir = room.dir.as_path();
    let path = dir.join(FILE_NAME);
    let saved = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice::<Saved>(&text).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("there is none yet".to_owned()),
        Err(source) => return Err(FileError { verb: "read", path, source }),
    };
    let found = match saved {
        Ok(saved) => {
            let left = reopen(room, &saved.boot, saved.spool, saved.stream);
            let replicas = saved.replicas;
            let previous = saved.live.map(|live| Previous { ids: live.ids().to_vec(), end: live.end_position(), replicas });
            Found { run_id: saved.run_id, primary: saved.primary, left, previous }
        }
        Err(reason) => {
            tracing::info!(dir = %dir.display(), reason, "no state of an earlier run");
            Found { run_id: new_run_id(), primary: None, left: Left::default(), previous: None }
        }
    };
    sweep(dir, &found.left.file_names())?;
    Ok(found)
}

fn reopen(room: &DiskRoom, boot: &str, spool: Option<SavedSpool>, stream: Option<SavedStream>) -> Left {
    // The stream is written, not fsynced, byte by byte: that survives every end of this process, but not of the machine.
    if boot != boot_id() {
        tracing::info!(dir = %room.dir.display(), "the machine was restarted since: what an earlier run kept of the stream may lack its end, and is of no use");
        return Left::default();
    }
    Left {
        spool: spool.and_then(|spool| of_use("snapshot", room, reopen_spool(room, spool))),
        stream: stream.and_then(|stream| of_use("stream", room, reopen_stream(room, stream, None))),
    }
}

fn of_use<T>(what: &str, room: &DiskRoom, reopened: Result<T, String>) -> Option<T> {
    reopened.inspect_err(|reason| tracing::info!(dir = %room.dir.display(), reason, "{what} of an earlier run is of no use")).ok()
}

fn reopen_spool(room: &DiskRoom, saved: SavedSpool) -> Result<(Spool, StoredStream), String> {
    let SavedSpool { dataset, facts, snapshot, stream } = saved;
    let snapshot = StoredFile::open(room.dir.join(&snapshot)).map_err(in_words)?;
    let stream = reopen_stream(room, stream, Some(dataset.0.offset))?;
    let bytes = snapshot.bytes().map_err(in_words)?;
    if bytes != facts.bytes {
        return Err(format!("it has {bytes} bytes, {} were checked", facts.bytes));
    }
    Ok((Spool { dataset, facts, snapshot }, stream))
}

/// With what lies behind `needed`, or else with the last that there is without a gap.
fn reopen_stream(room: &DiskRoom, saved: SavedStream, needed: Option<Offset>) -> Result<StoredStream, String> {
    let SavedStream { log, log_until, mut history, stands } = saved;
    let mut log = log.map(|name| Log::open(&room.dir, &name, needed, room.segment_bytes)).transpose().map_err(in_words)?;
    let start = needed.or(log.as_ref().filter(|log| log.bytes() > 0).map(Log::start)).ok_or("nothing of it reached the disk")?;
    match (&mut log, log_until) {
        (_, Some(until)) if until < start && (needed.is_none() || history.end < start) => {
            return Err(format!("the primary went on at {until}, before its end"));
        }
        // All that counts of it lies before what is needed.
        (Some(log), Some(until)) if until < start => log.begin_anew(start),
        (Some(log), Some(until)) => log.cut_back(until),
        (Some(_) | None, _) => {}
    }
    // A log that was begun and never written is where the snapshot is.
    (history.end, history.oldest) = log.as_ref().map_or((start, start.next_byte()), |log| (log.end(), log.start().next_byte()));
    Ok(StoredStream { log, history, stands })
}

fn in_words(error: FileError) -> String {
    error.to_string()
}

fn sweep(dir: &Path, needed: &[String]) -> Result<(), FileError> {
    for entry in std::fs::read_dir(dir).map_err(FileError::at("list", dir))? {
        let entry = entry.map_err(FileError::at("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name.starts_with(SNAPSHOT_PREFIX) || name.starts_with(LOG_PREFIX) || name == TEMPORARY_NAME;
        if is_ours && !needed.contains(&name) {
            match std::fs::remove_file(entry.path()) {
                // Whoever held it last was quicker.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed.map_err(FileError::at("remove", &entry.path()))?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
