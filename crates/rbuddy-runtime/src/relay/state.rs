//! What survives the relay's process: `relay.json` (ids, snapshot and file names; written, fsynced and renamed, so a kill leaves the old one or the
//! new one) and the two files that it names. Whatever else lies in the folder is a remainder and is removed at start.
//!
//! The end of the stream is not written down: it is the last byte in the stream file.

use super::files::{FileError, Spool, StoredFile, StreamFile};
use super::hub::Hub;
use super::stretch::StretchKey;
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::replication::history::History;
use rbuddy_core::replication::rdb::RdbFacts;
use rbuddy_core::types::{DatasetId, NodeAddress, RunId};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// `relay.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    run_id: RunId,
    /// The machine's boot during which this was written.
    boot: String,
    /// Where the primary was, and what was configured then.
    #[serde(default)]
    primary: Option<(NodeAddress, PrimaryAt)>,
    /// The live history's ids, for people who look.
    live: Option<History>,
    spool: Option<SavedSpool>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSpool {
    dataset: DatasetId,
    facts: RdbFacts,
    snapshot: String,
    stream: String,
    history: History,
}

/// What a previous run left.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) run_id: RunId,
    /// Where the primary was, and what was configured then.
    pub(super) primary: Option<(NodeAddress, PrimaryAt)>,
    /// A complete snapshot with its stream, and its history, which ends with the stream's last byte.
    pub(super) spool: Option<(Spool, History)>,
}

/// Reads the folder and removes what is of no use. Blocking.
pub(super) fn load(dir: &Path) -> Result<Found, FileError> {
    let path = dir.join(FILE_NAME);
    let saved = match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice::<Saved>(&text).map_err(|error| error.to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Err("there is none yet".to_owned()),
        Err(source) => return Err(FileError { verb: "read", path, source }),
    };
    let found = match saved {
        Ok(saved) => {
            let spool = saved.spool.and_then(|spool| match reopen(dir, spool, &saved.boot) {
                Ok(found) => Some(found),
                Err(reason) => {
                    tracing::info!(dir = %dir.display(), reason, "snapshot of an earlier run is of no use");
                    None
                }
            });
            Found { run_id: saved.run_id, primary: saved.primary, spool }
        }
        Err(reason) => {
            tracing::info!(dir = %dir.display(), reason, "no state of an earlier run");
            Found { run_id: new_run_id(), primary: None, spool: None }
        }
    };
    sweep(dir, found.spool.as_ref().map(|(spool, _)| spool))?;
    Ok(found)
}

fn reopen(dir: &Path, saved: SavedSpool, boot: &str) -> Result<(Spool, History), String> {
    // The stream is written, not fsynced, byte by byte: that survives every end of this process, but not of the machine.
    if boot != boot_id() {
        return Err("the machine was restarted since".to_owned());
    }
    let words = |error: FileError| error.to_string();
    let snapshot = StoredFile::open(dir.join(&saved.snapshot)).map_err(words)?;
    let stream = StoredFile::open(dir.join(&saved.stream)).map_err(words)?;
    let bytes = snapshot.bytes().map_err(words)?;
    if bytes != saved.facts.bytes {
        return Err(format!("it has {bytes} bytes, {} were checked", saved.facts.bytes));
    }
    let stream = StreamFile::new(stream, saved.dataset.0.offset).map_err(words)?;
    let mut history = saved.history;
    (history.end, history.oldest) = (stream.written(), stream.start().next_byte());
    Ok((Spool { dataset: saved.dataset, facts: saved.facts, snapshot, stream: Arc::new(stream) }, history))
}

fn sweep(dir: &Path, spool: Option<&Spool>) -> Result<(), FileError> {
    let needed = spool.map(|spool| [spool.snapshot.name(), spool.stream.stored().name()]).unwrap_or_default();
    for entry in std::fs::read_dir(dir).map_err(FileError::at("list", dir))? {
        let entry = entry.map_err(FileError::at("list", dir))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_ours = name.starts_with(SNAPSHOT_PREFIX) || name.starts_with(STREAM_PREFIX) || name == TEMPORARY_NAME;
        if is_ours && !needed.contains(&name) {
            std::fs::remove_file(entry.path()).map_err(FileError::at("remove", &entry.path()))?;
        }
    }
    Ok(())
}

impl Hub {
    /// Writes `relay.json` as things are now. Returns when it is on disk.
    pub(super) async fn save(&self) -> Result<(), FileError> {
        let saving = self.saving.lock().await;
        let current = self.lock().spool.clone();
        self.write_state(&saving, current).await
    }

    /// Writes `relay.json` with `spool` as the snapshot to go on from. Whoever changes which that is holds `saving` until it is true, or
    /// another writer could bring the old one back.
    pub(super) async fn write_state(
        &self,
        _saving: &tokio::sync::MutexGuard<'_, ()>,
        spool: Option<(StretchKey, Arc<Spool>)>,
    ) -> Result<(), FileError> {
        let saved = {
            let inner = self.lock();
            let live = inner.live().map(|stretch| stretch.history.clone());
            let spool = spool.and_then(|(key, spool)| {
                // The ids under which its stream goes on. A snapshot that was taken in mid-history begins that history anew.
                let mut history = inner.stretch(key)?.history.clone();
                history.dataset = Some(spool.dataset);
                Some(SavedSpool {
                    dataset: spool.dataset,
                    facts: spool.facts,
                    snapshot: spool.snapshot.name(),
                    stream: spool.stream.stored().name(),
                    history,
                })
            });
            let primary = inner.primary.clone().map(|address| (address, self.config.primary.at()));
            Saved { run_id: self.run_id, boot: boot_id(), primary, live, spool }
        };
        let dir = self.config.dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&dir, &saved)).await;
        written.unwrap_or_else(|join| {
            Err(FileError { verb: "write", path: self.config.dir.join(FILE_NAME), source: std::io::Error::other(join) })
        })
    }
}

fn write(dir: &Path, saved: &Saved) -> Result<(), FileError> {
    let (path, temporary) = (dir.join(FILE_NAME), dir.join(TEMPORARY_NAME));
    let text = serde_json::to_vec_pretty(saved).map_err(std::io::Error::other);
    let text = text.map_err(FileError::at("encode", &path))?;
    let mut file = File::create(&temporary).map_err(FileError::at("create", &temporary))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(FileError::at("write", &temporary))?;
    std::fs::rename(&temporary, &path).map_err(FileError::at("rename", &temporary))?;
    // A rename is on disk when its folder is.
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(FileError::at("fsync", dir))
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

fn new_run_id() -> RunId {
    let digits: String = std::iter::repeat_with(|| fastrand::char('0'..='9')).take(40).collect();
    digits.parse().expect("40 digits are an id")
}

/// File name of a snapshot or stream: unlike any other, as an older one may still be in use.
pub(super) fn new_name(prefix: &str) -> String {
    format!("{prefix}{:016x}", fastrand::u64(..))
}

const FILE_NAME: &str = "relay.json";
const TEMPORARY_NAME: &str = "relay.json.new";
pub(super) const SNAPSHOT_PREFIX: &str = "snapshot-";
pub(super) const STREAM_PREFIX: &str = "stream-";
