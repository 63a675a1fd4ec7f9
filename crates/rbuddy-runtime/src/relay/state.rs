//! What survives the relay's process: `relay.json` (ids, snapshot and file names; written, fsynced and renamed, so a kill leaves the old one or the
//! new one), the snapshot and the logs of streams, which it names. Reading it is [`super::found`]'s.
//!
//! The end of a stream is not written down: it is the last byte in its log.

use super::connected::Session;
use super::files::{FileError, Spool};
use super::hub::Hub;
use super::log::Log;
use super::stretch::{Stretch, StretchKey};
use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::relay::SessionState;
use rbuddy_core::replication::history::History;
use rbuddy_core::replication::rdb::RdbFacts;
use rbuddy_core::types::{DatasetId, NodeAddress, Offset, RunId};
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// `relay.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) run_id: RunId,
    /// The machine's boot during which this was written.
    pub(super) boot: String,
    /// Where the primary was, and what was configured then.
    #[serde(default)]
    pub(super) primary: Option<(NodeAddress, PrimaryAt)>,
    /// The live history, and where it was then.
    pub(super) live: Option<History>,
    /// Who followed it.
    #[serde(default, deserialize_with = "those_that_are_addresses")]
    pub(super) replicas: BTreeSet<NodeAddress>,
    pub(super) spool: Option<SavedSpool>,
    /// The history that is followed, where that is not the one behind the snapshot, and somebody needs what it has on disk.
    #[serde(default)]
    pub(super) stream: Option<SavedStream>,
}

/// An odd name that somebody connected under is not to cost all the rest.
fn those_that_are_addresses<'a, D: Deserializer<'a>>(from: D) -> Result<BTreeSet<NodeAddress>, D::Error> {
    let texts = Vec::<String>::deserialize(from)?;
    Ok(texts.iter().filter_map(|text| text.parse().ok()).collect())
}

/// The same, with where each stands.
fn those_with_addresses<'a, D: Deserializer<'a>>(from: D) -> Result<BTreeMap<NodeAddress, Offset>, D::Error> {
    let texts = BTreeMap::<String, Offset>::deserialize(from)?;
    Ok(texts.iter().filter_map(|(text, offset)| Some((text.parse().ok()?, *offset))).collect())
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedSpool {
    pub(super) dataset: DatasetId,
    pub(super) facts: RdbFacts,
    pub(super) snapshot: String,
    #[serde(flatten)]
    pub(super) stream: SavedStream,
}

/// A history, and what is on disk of it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SavedStream {
    /// What its files' names begin with; there is none where nothing may be kept.
    pub(super) log: Option<String>,
    /// What the files have behind that is not of this history: they are yet to be cut back to it.
    #[serde(default)]
    pub(super) log_until: Option<Offset>,
    pub(super) history: History,
    /// What replicas had of it.
    #[serde(default, deserialize_with = "those_with_addresses")]
    pub(super) stands: BTreeMap<NodeAddress, Offset>,
}

impl SavedStream {
    pub(super) fn of(stretch: &Stretch, history: History, stands: BTreeMap<NodeAddress, Offset>) -> SavedStream {
        // Behind its end a file may have what could not be written whole, or is being written just now: under a new id that is not of this history.
        let is_renamed = history.replid() != stretch.history.replid();
        let is_to_be_cut = |log: &&Log| is_renamed || log.is_tail_stale() || history.end < log.end();
        let log_until = stretch.log().filter(is_to_be_cut).map(|log| history.end.min(log.end()));
        SavedStream { log: stretch.log().map(|log| log.name().to_owned()), log_until, history, stands }
    }
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
            if let Some((_, spool)) = unnamed {
                // Sessions that still send it hold it; its files go with the last of them.
                spool.snapshot.keep(false);
            }
            inner.mark_logs();
            inner.spool.as_ref().is_some_and(|(_, current)| Arc::ptr_eq(current, spool))
        };
        drop(saving);
        // It was removed, or replaced by one whose turn comes, while this was written.
        if !is_offered {
            self.unname(spool).await;
        }
        written
    }

    /// Has relay.json written if it does not say what is so any more. Not waited for: a write of it may take as long as the disk has other work.
    pub(super) fn name_logs(&self) {
        if self.lock().is_state_stale {
            self.stale.notify_one();
        }
    }

    /// This snapshot is not offered any more: relay.json does not name it either.
    pub(super) async fn unname(&self, spool: &Arc<Spool>) {
        spool.snapshot.keep(false);
        {
            let mut inner = self.lock();
            if inner.named.take_if(|(_, named)| Arc::ptr_eq(named, spool)).is_none() {
                return;
            }
            inner.mark_logs();
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
            let stream = |stretch, history| SavedStream::of(stretch, history, inner.stands_on(stretch.key));
            let spool_key = spool.as_ref().map(|(key, _)| *key);
            // While a snapshot is on its way, this is not yet the live one.
            let followed = inner.candidate.and_then(|key| inner.stretch(key));
            let beside_it = followed.filter(|followed| Some(followed.key) != spool_key && followed.log().is_some());
            let beside_it = beside_it.map(|followed| stream(followed, history(followed)));
            let spool = spool.and_then(|(key, spool)| {
                // The ids under which its stream goes on. A snapshot that was taken in mid-history begins that history anew.
                let stretch = inner.stretch(key)?;
                let mut history = history(stretch);
                history.dataset = Some(spool.dataset);
                let (dataset, facts, snapshot) = (spool.dataset, spool.facts, spool.snapshot.name());
                Some(SavedSpool { dataset, facts, snapshot, stream: stream(stretch, history) })
            });
            let follows = |session: &Session| matches!(session.view.state, SessionState::Streaming { .. });
            let replicas = inner.sessions.iter().filter(|(_, session)| follows(session)).map(|(address, _)| address.clone()).collect();
            let primary = inner.primary.clone().map(|address| (address, self.config.primary.at()));
            Saved { run_id: self.run_id, boot: boot_id(), primary, live, replicas, spool, stream: beside_it }
        };
        let dir = self.config.dir.clone();
        let written = tokio::task::spawn_blocking(move || write(&dir, &saved)).await;
        written.unwrap_or_else(|join| {
            Err(FileError { verb: "write", path: self.config.dir.join(FILE_NAME), source: std::io::Error::other(join) })
        })
    }
}

/// Writes down where the relay is: when that is due, now and then, and at the end. A relay without a controller begins again by it.
pub(super) async fn save_regularly(hub: Arc<Hub>) {
    let mut written = None;
    loop {
        let is_last = tokio::select! {
            () = tokio::time::sleep(SAVE_EVERY) => false,
            () = hub.stale.notified() => false,
            () = hub.stopping.cancelled() => true,
        };
        let (now, is_stale) = {
            let mut inner = hub.lock();
            // An idle stream has replicas that come and go all the same.
            let now = inner.live().map(|live| (live.history.end_position(), inner.stands_on(live.key)));
            (now, std::mem::take(&mut inner.is_state_stale))
        };
        if is_stale || (now.is_some() && now != written) {
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

pub(super) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

pub(super) fn new_run_id() -> RunId {
    let digits: String = std::iter::repeat_with(|| fastrand::char('0'..='9')).take(40).collect();
    digits.parse().expect("40 digits are an id")
}

const SAVE_EVERY: Duration = Duration::from_secs(10);
pub(super) const FILE_NAME: &str = "relay.json";
pub(super) const TEMPORARY_NAME: &str = "relay.json.new";
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
