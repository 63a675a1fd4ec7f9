//! The relay's files: a snapshot, and the stream that follows it. A file lives as long as somebody holds it and is removed with the last holder, unless
//! it was told to stay: whatever breaks on the way, nothing half-done is left behind. (What a kill leaves is removed at the next start.)

use rbuddy_core::replication::rdb::RdbFacts;
use rbuddy_core::types::{DatasetId, Offset};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// A file on disk, removed when dropped, unless kept.
#[derive(Debug)]
pub(super) struct StoredFile {
    path: PathBuf,
    file: File,
    is_kept: AtomicBool,
}

/// The stream from a snapshot's offset on. It grows while somebody holds it ([`super::stream_writer`]).
#[derive(Debug)]
pub(super) struct StreamFile {
    stored: StoredFile,
    start: Offset,
    written: AtomicU64,
    given_up: AtomicBool,
}

/// A complete, checked snapshot with its stream.
#[derive(Debug)]
pub(super) struct Spool {
    /// Which dataset.
    pub(super) dataset: DatasetId,
    /// What the checks found.
    pub(super) facts: RdbFacts,
    /// The snapshot.
    pub(super) snapshot: StoredFile,
    /// The stream behind it.
    pub(super) stream: Arc<StreamFile>,
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

    /// A file of an earlier run.
    pub(super) fn open(path: PathBuf) -> Result<StoredFile, FileError> {
        let file = File::options().read(true).write(true).open(&path).map_err(FileError::at("open", &path))?;
        Ok(StoredFile { path, file, is_kept: AtomicBool::new(true) })
    }

    /// Whether it outlives its last holder.
    pub(super) fn keep(&self, keep: bool) {
        self.is_kept.store(keep, Ordering::Relaxed);
    }

    /// The name within the relay's folder.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    pub(super) fn bytes(&self) -> Result<u64, FileError> {
        Ok(self.file.metadata().map_err(FileError::at("look at", &self.path))?.len())
    }

    pub(super) fn write_at(&self, bytes: &[u8], at: u64) -> Result<(), FileError> {
        self.file.write_all_at(bytes, at).map_err(FileError::at("write", &self.path))
    }

    pub(super) fn read_at(&self, at: u64, count: usize) -> Result<Vec<u8>, FileError> {
        let mut bytes = vec![0; count];
        self.file.read_exact_at(&mut bytes, at).map_err(FileError::at("read", &self.path))?;
        Ok(bytes)
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
        let remove = move || {
            if let Err(error) = std::fs::remove_file(&path) {
                tracing::warn!(path = %path.display(), %error, "a file that is no longer needed could not be removed");
            }
        };
        // Freeing gigabytes takes a while: not on a thread that moves bytes.
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(remove)),
            Err(_) => remove(),
        }
    }
}

impl StreamFile {
    /// A stream that begins behind `start`.
    pub(super) fn new(stored: StoredFile, start: Offset) -> Result<StreamFile, FileError> {
        let written = AtomicU64::new(start.advance(stored.bytes()?).get());
        Ok(StreamFile { stored, start, written, given_up: AtomicBool::new(false) })
    }

    pub(super) fn stored(&self) -> &StoredFile {
        &self.stored
    }

    /// Bytes before the first one in the file.
    pub(super) fn start(&self) -> Offset {
        self.start
    }

    /// The last byte in the file.
    pub(super) fn written(&self) -> Offset {
        self.start.advance(self.written.load(Ordering::Acquire) - self.start.get())
    }

    /// It will not grow any more, and so its snapshot leads nowhere.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Adds to the end. Only the one writer calls this.
    pub(super) fn append(&self, bytes: &[u8]) -> Result<(), FileError> {
        let written = self.written.load(Ordering::Relaxed);
        self.stored.write_at(bytes, written - self.start.get())?;
        // Released after the bytes are there: who sees the number can read them.
        self.written.store(written + bytes.len() as u64, Ordering::Release);
        Ok(())
    }

    /// Bytes behind `from`, at most `max`.
    pub(super) fn read(&self, from: Offset, max: usize) -> Result<Vec<u8>, FileError> {
        let left = from.bytes_behind(self.written()).unwrap_or(0);
        let count = usize::try_from(left).unwrap_or(max).min(max);
        self.stored.read_at(from.get() - self.start.get(), count)
    }
}

impl Spool {
    /// Whether the files outlive their last holder.
    pub(super) fn keep(&self, keep: bool) {
        self.snapshot.keep(keep);
        self.stream.stored.keep(keep);
    }
}
