//! The relay's files. A file lives as long as somebody holds it and is removed with the last holder, unless it was told to stay: whatever breaks on the
//! way, nothing half-done is left behind. (What a kill leaves is removed at the next start.)

use bytes::Bytes;
use rbuddy_core::replication::rdb::RdbFacts;
use rbuddy_core::types::DatasetId;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// A file on disk, removed when dropped, unless kept.
#[derive(Debug)]
pub(super) struct StoredFile {
    path: PathBuf,
    file: File,
    is_kept: AtomicBool,
}

/// A complete, checked snapshot. The stream behind it is its history's.
#[derive(Debug)]
pub(super) struct Spool {
    /// Which dataset.
    pub(super) dataset: DatasetId,
    /// What the checks found.
    pub(super) facts: RdbFacts,
    /// The snapshot.
    pub(super) snapshot: StoredFile,
}

/// A file operation that failed, and where.
#[derive(Debug, thiserror::Error)]
#[error("{verb} {path}: {source}", path = path.display())]
pub(super) struct FileError {
    pub(super) verb: &'static str,
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

impl FileError {
    /// For `map_err`.
    pub(super) fn at(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError + use<> {
        let path = path.to_owned();
        move |source| FileError { verb, path, source }
    }
}

impl StoredFile {
    /// A new, empty file.
    pub(super) fn create(path: PathBuf) -> Result<StoredFile, FileError> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(FileError::at("create", &path))?;
        Ok(StoredFile { path, file, is_kept: AtomicBool::new(false) })
    }

    /// A file of an earlier run. It stays, for now.
    pub(super) fn open(path: PathBuf) -> Result<StoredFile, FileError> {
        let file = File::options().read(true).write(true).open(&path).map_err(FileError::at("open", &path))?;
        Ok(StoredFile { path, file, is_kept: AtomicBool::new(true) })
    }

    /// The same file once more, for who writes nothing and removes nothing.
    pub(super) fn again(&self) -> Result<StoredFile, FileError> {
        let file = self.file.try_clone().map_err(FileError::at("open", &self.path))?;
        Ok(StoredFile { path: self.path.clone(), file, is_kept: AtomicBool::new(true) })
    }

    /// Whether it outlives its last holder.
    pub(super) fn keep(&self, keep: bool) {
        self.is_kept.store(keep, Ordering::Relaxed);
    }

    /// The name within the relay's folder.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(super) fn as_file(&self) -> &File {
        &self.file
    }

    pub(super) fn bytes(&self) -> Result<u64, FileError> {
        Ok(self.file.metadata().map_err(FileError::at("look at", &self.path))?.len())
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), FileError> {
        self.file.write_all_at(bytes, at).map_err(FileError::at("write", &self.path))
    }

    pub(super) fn truncate(&self, bytes: u64) -> Result<(), FileError> {
        self.file.set_len(bytes).map_err(FileError::at("truncate", &self.path))
    }

    pub(super) fn read_at(&self, at: u64, count: usize) -> Result<Bytes, FileError> {
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, at).map_err(FileError::at("read", &self.path))?;
        Ok(Bytes::from(bytes))
    }

    /// Removed when this returns. Blocking.
    pub(super) fn remove(self) {
        self.keep(true);
        remove(&self.path);
    }

    /// Returns when the content is on the disk itself.
    pub(super) fn sync(&self) -> Result<(), FileError> {
        self.file.sync_data().map_err(FileError::at("fsync", &self.path))
    }
}

impl Drop for StoredFile {
    fn drop(&mut self) {
        if self.is_kept.load(Ordering::Relaxed) {
            return;
        }
        let path = std::mem::take(&mut self.path);
        // Freeing gigabytes takes a while: not on a thread that moves bytes.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(move || remove(&path))),
            Err(_) => remove(&path),
        }
    }
}

fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "a file that is no longer needed could not be removed");
    }
}

/// Bytes that may still be written to the disk under `dir`. Blocking.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, FileError> {
    let found = rustix::fs::statvfs(dir).map_err(|errno| FileError::at("look at the disk under", dir)(errno.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// File name of a snapshot or log: unlike any other, as an older one may still be in use.
pub(super) fn new_name(prefix: &str) -> String {
    format!("{prefix}{:016x}", fastrand::u64(..))
}
