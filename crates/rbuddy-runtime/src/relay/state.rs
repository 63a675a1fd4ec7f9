//! What survives the relay's process: `relay.json` (ids, snapshot and file names; written, fsynced and renamed, so a kill leaves the old one or the
//! new one), the snapshot and the log of the stream behind it, which it names. Whatever else lies in the folder is a remainder and is removed at start.
//!
//! The end of the stream is not written down: it is the last byte in the log.

use super::connected::Session;
use super::files::{FileError, Spool, StoredFile};
use super::hub::Hub;
use super::log::{LOG_PREFIX, Log};
use super::needs::DiskRoom;
use super::stretch::{Stretch, StretchKey};
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::relay::{Previous, SessionState};
use rbuddy_core::replication::history::History;
use rbuddy_core::replication::rdb::RdbFacts;
use rbuddy_core::types::{DatasetId, NodeAddress, Offset, RunId};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// `relay.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    run_id: RunId,
    /// The machine's boot during which this was written.
    boot: String,
    /// Where the primary was, and what was configured then.
    #[serde(default)]
    primary: Option<(NodeAddress, PrimaryAt)>,
    /// The live history, and where it was then.
    live: Option<History>,
    /// Who followed it.
    #[serde(default, deserialize_with = "those_that_are_addresses")]
    replicas: BTreeSet<NodeAddress>,
    spool: Option<SavedSpool>,
}

/// An odd name that somebody connected under is not to cost all the rest.
fn those_that_are_addresses<'a, D: Deserializer<'a>>(from: D) -> Result<BTreeSet<NodeAddress>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedSpool {
    dataset: DatasetId,
    facts: RdbFacts,
    snapshot: String,
    /// What its files' names begin with; there is none where nothing may be kept.
    log: Option<String>,
    /// What the files have behind that is not of this history: they are yet to be cut back to it.
    #[serde(default)]
    log_until: Option<Offset>,
    history: History,
}

/// What a previous run left.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) run_id: RunId,
    /// Where the primary was, and what was configured then.
    pub(super) primary: Option<(NodeAddress, PrimaryAt)>,
    pub(super) spool: Option<Resumable>,
    /// What it followed.
    pub(super) previous: Option<Previous>,
}

/// A complete snapshot with the stream behind it.
#[derive(Debug)]
pub(super) struct Resumable {
    pub(super) spool: Spool,
    pub(super) log: Option<Log>,
    /// It ends with the log's last byte.
    pub(super) history: History,
}

impl Resumable {
    /// Nobody goes on from it: it is removed.
    pub(super) fn discard(self) {
        self.spool.snapshot.keep(false);
        if let Some(mut log) = self.log {
            log.keep(false);
        }
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
            let spool = saved.spool.and_then(|spool| match reopen(room, spool, &saved.boot) {
                Ok(found) => Some(found),
                Err(reason) => {
                    tracing::info!(dir = %dir.display(), reason, "snapshot of an earlier run is of no use");
                    None
                }
            });
            let replicas = saved.replicas;
            let previous = saved.live.map(|live| Previous { ids: live.ids().to_vec(), end: live.end_position(), replicas });
            Found { run_id: saved.run_id, primary: saved.primary, spool, previous }
        }
        Err(reason) => {
            tracing::info!(dir = %dir.display(), reason, "no state of an earlier run");
            Found { run_id: new_run_id(), primary: None, spool: None, previous: None }
        }
    };
    sweep(dir, found.spool.as_ref())?;
    Ok(found)
}

fn reopen(room: &DiskRoom, saved: SavedSpool, boot: &str) -> Result<Resumable, String> {
    // The stream is written, not fsynced, byte by byte: that survives every end of this process, but not of the machine.
    if boot != boot_id() {
        return Err("the machine was restarted since".to_owned());
    }
    let words = |error: FileError| error.to_string();
    let offset = saved.dataset.0.offset;
    let snapshot = StoredFile::open(room.dir.join(&saved.snapshot)).map_err(words)?;
    let log = saved.log.map(|name| Log::open(&room.dir, &name, offset, room.segment_bytes)).transpose().map_err(words)?;
    let log = match (log, saved.log_until) {
        (_, Some(until)) if until < offset => return Err(format!("the primary went on at {until}, before its end")),
        (Some(mut log), Some(until)) => {
            log.cut_back(until);
            Some(log)
        }
        (log, _) => log,
    };
    let bytes = snapshot.bytes().map_err(words)?;
    if bytes != saved.facts.bytes {
        return Err(format!("it has {bytes} bytes, {} were checked", saved.facts.bytes));
    }
    let mut history = saved.history;
    // A log that was begun and never written is where the snapshot is.
    (history.end, history.oldest) = log.as_ref().map_or((offset, offset.next_byte()), |log| (log.end(), log.start().next_byte()));
    let spool = Spool { dataset: saved.dataset, facts: saved.facts, snapshot };
    Ok(Resumable { spool, log, history })
}

fn sweep(dir: &Path, found: Option<&Resumable>) -> Result<(), FileError> {
    let logged = found.and_then(|found| found.log.as_ref()).map(Log::file_names).unwrap_or_default();
    let needed: Vec<String> = found.map(|found| found.spool.snapshot.name()).into_iter().chain(logged).collect();
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

impl Hub {
    /// Writes `relay.json` as things are now. Returns when it is on disk.
    pub(super) async fn save(&self) -> Result<(), FileError> {
        let saving = self.saving.lock().await;
        let current = self.lock().named.clone();
        self.write_state(&saving, current, None).await
    }

    /// Writes `relay.json` as things will be once this history has its new id.
    pub(super) async fn save_renamed(&self, key: StretchKey, history: &History) -> Result<(), FileError> {
        let saving = self.saving.lock().await;
        let current = self.lock().named.clone();
        self.write_state(&saving, current, Some((key, history))).await
    }

    /// Has relay.json name this snapshot, which is on disk, in place of the one before, if it is still the one that is offered. Returns when it does.
    pub(super) async fn name_spool(&self, key: StretchKey, spool: &Arc<Spool>) -> Result<(), FileError> {
        let saving = self.saving.lock().await;
        {
            let mut inner = self.lock();
            if inner.spool.as_ref().is_none_or(|(_, current)| !Arc::ptr_eq(current, spool)) {
                return Ok(());
            }
            // Before the write: should we be stopped in it, the files that are named must be there. Those that are not are swept at the next start.
            spool.snapshot.keep(true);
            if let Some(stretch) = inner.stretch_mut(key) {
                stretch.keep_log(true);
            }
        }
        let written = self.write_state(&saving, Some((key, Arc::clone(spool))), None).await;
        let is_offered = {
            let mut inner = self.lock();
            let unnamed = match written {
                Ok(()) => inner.named.replace((key, Arc::clone(spool))),
                Err(_) => Some((key, Arc::clone(spool))),
            };
            let named_key = inner.named.as_ref().map(|(key, _)| *key);
            if let Some((key, spool)) = unnamed {
                // Sessions that still send it hold it; its files go with the last of them.
                spool.snapshot.keep(false);
                if let Some(stretch) = inner.stretch_mut(key).filter(|stretch| Some(stretch.key) != named_key) {
                    stretch.keep_log(false);
                }
            }
            inner.spool.as_ref().is_some_and(|(_, current)| Arc::ptr_eq(current, spool))
        };
        drop(saving);
        // It was removed, or replaced by one whose turn comes, while this was written.
        if !is_offered {
            self.unname(spool).await;
        }
        written
    }

    /// This snapshot is not offered any more: relay.json does not name it either.
    pub(super) async fn unname(&self, spool: &Arc<Spool>) {
        spool.snapshot.keep(false);
        {
            let mut inner = self.lock();
            let Some((key, _)) = inner.named.take_if(|(_, named)| Arc::ptr_eq(named, spool)) else { return };
            if let Some(stretch) = inner.stretch_mut(key) {
                stretch.keep_log(false);
            }
        }
        if let Err(error) = self.save().await {
            tracing::warn!(group = %self.config.group, %error, "state of the relay not written");
        }
    }

    /// Writes `relay.json` with `spool` as the snapshot to go on from. Whoever changes which that is holds `saving` until it is true, or
    /// another writer could bring the old one back.
    async fn write_state(
        &self,
        _saving: &tokio::sync::MutexGuard<'_, ()>,
        spool: Option<(StretchKey, Arc<Spool>)>,
        upcoming: Option<(StretchKey, &History)>,
    ) -> Result<(), FileError> {
        let saved = {
            let inner = self.lock();
            let history = |stretch: &Stretch| {
                let upcoming = upcoming.filter(|(key, _)| *key == stretch.key);
                upcoming.map_or_else(|| stretch.history.clone(), |(_, history)| history.clone())
            };
            let live = inner.live().map(history);
            let spool = spool.and_then(|(key, spool)| {
                // The ids under which its stream goes on. A snapshot that was taken in mid-history begins that history anew.
                let stretch = inner.stretch(key)?;
                let mut history = history(stretch);
                history.dataset = Some(spool.dataset);
                let is_to_be_cut = |log: &&Log| log.is_tail_stale() || history.end < log.end();
                let log_until = stretch.log().filter(is_to_be_cut).map(|log| history.end.min(log.end()));
                Some(SavedSpool {
                    dataset: spool.dataset,
                    facts: spool.facts,
                    snapshot: spool.snapshot.name(),
                    log: stretch.log().map(|log| log.name().to_owned()),
                    log_until,
                    history,
                })
            });
            let follows = |session: &Session| matches!(session.view.state, SessionState::Streaming { .. });
            let replicas = inner.sessions.iter().filter(|(_, session)| follows(session)).map(|(address, _)| address.clone()).collect();
            let primary = inner.primary.clone().map(|address| (address, self.config.primary.at()));
            Saved { run_id: self.run_id, boot: boot_id(), primary, live, replicas, spool }
        };
        let dir = self.config.dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&dir, &saved)).await;
        written.unwrap_or_else(|join| {
            Err(FileError { verb: "write", path: self.config.dir.join(FILE_NAME), source: std::io::Error::other(join) })
        })
    }
}

/// Writes down where the relay is, now and then and at the end: a relay without a controller begins again by it.
pub(super) async fn save_regularly(hub: Arc<Hub>) {
    let mut written = None;
    loop {
        let is_last = tokio::select! {
            () = tokio::time::sleep(SAVE_EVERY) => false,
            () = hub.stopping.cancelled() => true,
        };
        let now = hub.lock().live().map(|live| live.history.end_position());
        if now.is_some() && now != written {
            match hub.save().await {
                Ok(()) => written = now,
                Err(error) => tracing::warn!(group = %hub.config.group, %error, "state of the relay not written"),
            }
        }
        if is_last {
            return;
        }
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

const SAVE_EVERY: Duration = Duration::from_secs(10);
const FILE_NAME: &str = "relay.json";
const TEMPORARY_NAME: &str = "relay.json.new";
pub(super) const SNAPSHOT_PREFIX: &str = "snapshot-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_odd_name_does_not_cost_the_rest() {
        let text = format!(
            r#"{{ "run_id": "{}", "boot": "b", "live": null, "replicas": ["a:1", "a b:2", "[c:3"], "spool": null }}"#,
            "1".repeat(40)
        );
        let saved: Saved = serde_json::from_str(&text).expect("it is readable");
        assert_eq!(saved.replicas, [NodeAddress::new("a", 1)].into());
    }
}
