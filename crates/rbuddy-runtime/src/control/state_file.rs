//! The state file: written whole, to a temporary name, fsynced, renamed, the folder fsynced. After a crash at any moment either the old or the
//! new one is there. And the lock that keeps a second rbuddy away from the same `state_dir`.

use rbuddy_core::control::state::{DurableState, FORMAT};
use rbuddy_core::types::GroupName;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The state file of one group.
#[derive(Debug, Clone)]
pub struct StateFile {
    path: PathBuf,
    /// Held also by a thread that still writes when all else has ended: nobody else may begin before it is through.
    _lock: Option<Arc<StateDirLock>>,
}

/// Why state cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file system says no.
    #[error("{action} {path}: {source}. Check that the folder exists, has space and belongs to the user that runs rbuddy")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is not what this version writes.
    #[error(
        "read {path}: {why}. It is left as it is: restore it from a copy, or move it away to start without a state file (then nothing that holds keys is emptied until adopted)"
    )]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Another process holds the lock.
    #[error(
        "{path} is locked: another rbuddy runs with this folder. Stop that one, or give this one a folder of its own (`state_dir`; `--dir` of `rbuddy relay`)"
    )]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
}

impl StateFile {
    /// The group's file below `state_dir`. Nothing is made.
    pub fn below(state_dir: &Path, group: &GroupName) -> StateFile {
        StateFile { path: state_dir.join(group.as_str()).join("state.json"), _lock: None }
    }

    /// The same, to be written by whoever holds the lock, and its folder is made if it is missing.
    pub fn make_below(state_dir: &Path, group: &GroupName, lock: &Arc<StateDirLock>) -> Result<StateFile, StateError> {
        state_folder(state_dir.join(group.as_str()))?;
        Ok(StateFile { _lock: Some(Arc::clone(lock)), ..StateFile::below(state_dir, group) })
    }

    /// The state of the last run; `None` on the first.
    pub fn load(&self, group: &GroupName) -> Result<Option<DurableState>, StateError> {
        let text = match std::fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", &self.path)(error)),
        };
        let broken = |why: String| StateError::Broken { path: self.path.clone(), why };
        let value: serde_json::Value = serde_json::from_slice(&text).map_err(|error| broken(error.to_string()))?;
        // Looked at first, so that a newer format is named as such and not as some missing field.
        let format = value.get("format").and_then(serde_json::Value::as_u64);
        if format != Some(u64::from(FORMAT)) {
            return Err(broken(format!("its format is {format:?}, this version reads {FORMAT}")));
        }
        let state: DurableState = serde_json::from_value(value).map_err(|error| broken(error.to_string()))?;
        if state.group != *group {
            return Err(broken(format!("it belongs to group {}, not {group}", state.group)));
        }
        Ok(Some(state))
    }

    /// Writes it. When this returns `Ok`, it survives a power cut.
    pub fn store(&self, state: &DurableState) -> Result<(), StateError> {
        let text =
            serde_json::to_vec_pretty(state).map_err(|error| StateError::Broken { path: self.path.clone(), why: error.to_string() })?;
        let temporary = self.path.with_extension("json.new");
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)?;
            File::open(self.path.parent().unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(io_error("write", &self.path))
    }
}

/// Holds the lock on `state_dir` until it is dropped, or the process ends in whatever way.
#[derive(Debug)]
pub struct StateDirLock {
    _file: File,
}

impl StateDirLock {
    /// Takes the lock. The folder is made if it is missing.
    pub fn take(state_dir: &Path) -> Result<StateDirLock, StateError> {
        std::fs::create_dir_all(state_dir).map_err(io_error("create", state_dir))?;
        let path = state_dir.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => Ok(StateDirLock { _file: file }),
            Err(TryLockError::WouldBlock) => Err(StateError::Locked { path }),
            Err(TryLockError::Error(error)) => Err(io_error("lock", &path)(error)),
        }
    }
}

/// A folder below `state_dir`, made if it is missing.
pub fn state_folder(path: PathBuf) -> Result<PathBuf, StateError> {
    std::fs::create_dir_all(&path).map_err(io_error("create", &path))?;
    Ok(path)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError + use<> {
    let path = path.to_owned();
    move |source| StateError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> GroupName {
        "main".parse().expect("a name")
    }

    fn make_below(folder: &Path) -> StateFile {
        let lock = Arc::new(StateDirLock::take(folder).expect("free"));
        StateFile::make_below(folder, &group(), &lock).expect("made")
    }

    #[test]
    fn what_was_stored_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = make_below(folder.path());
        assert_eq!(file.load(&group()).expect("readable"), None);
        let mut state = DurableState::new(group());
        state.paused = true;
        file.store(&state).expect("written");
        assert_eq!(file.load(&group()).expect("readable"), Some(state));
    }

    #[test]
    fn a_broken_or_foreign_file_is_named_and_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = make_below(folder.path());
        for (text, word) in [("{\"format\":", "EOF"), ("{\"format\":99}", "99"), ("{}", "None")] {
            std::fs::write(&file.path, text).expect("written");
            let error = file.load(&group()).expect_err("not a state file").to_string();
            assert!(error.contains(word) && error.contains("state.json"), "{error}");
            assert_eq!(std::fs::read_to_string(&file.path).expect("still there"), text);
        }
        file.store(&DurableState::new("other".parse().expect("a name"))).expect("written");
        assert!(file.load(&group()).expect_err("another group's").to_string().contains("other"));
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = StateDirLock::take(folder.path()).expect("free");
        assert!(matches!(StateDirLock::take(folder.path()), Err(StateError::Locked { .. })));
        let file = StateFile::make_below(folder.path(), &group(), &Arc::new(first)).expect("made");
        assert!(matches!(StateDirLock::take(folder.path()), Err(StateError::Locked { .. })), "it may still be written");
        drop(file);
        StateDirLock::take(folder.path()).expect("free again");
    }
}
