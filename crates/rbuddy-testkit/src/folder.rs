//! The temporary folder of a world: configuration, logs, data. A test that panics leaves it behind, and the ends of all logs on the screen.

use crate::report;
use rbuddy_lab::server::tail;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Lines of each log that are shown.
const LINES: usize = 60;

#[derive(Debug)]
pub(crate) struct Folder(Option<TempDir>);

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder(Some(tempfile::Builder::new().prefix("rbuddy-test-").tempdir().expect("a temporary folder")))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.as_ref().expect("only drop takes it").path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let Some(kept) = self.0.take().map(TempDir::keep) else { return };
        let folders = std::iter::once(kept.clone()).chain(children(&kept));
        let logs = folders.flat_map(|folder| children(&folder)).filter(|path| path.extension().is_some_and(|end| end == "log"));
        for log in logs {
            report(&format!("--- {}\n{}", log.display(), tail(&log, LINES)));
        }
        report(&format!("--- everything stays in {}", kept.display()));
    }
}

fn children(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = folder.read_dir().into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.sort();
    found
}
