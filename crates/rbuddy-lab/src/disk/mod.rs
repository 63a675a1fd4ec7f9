//! A disk that does not take what was written to some files: `fsync` fails, as it does when a device is broken. It can be mended while a process runs on it.
//!
//! A small library is loaded into the process ([`crate::preload`]).

use crate::{LabError, preload};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The disk of one process.
#[derive(Debug, Clone)]
pub struct BadDisk {
    library: PathBuf,
    bad: PathBuf,
}

impl BadDisk {
    /// One that is good, so far. Its files are made in `folder`, which exists.
    pub fn good(folder: &Path) -> Result<BadDisk, LabError> {
        let disk = BadDisk { library: preload::compile(folder, "bad-disk", include_str!("shim.c"))?, bad: folder.join("bad-disk") };
        disk.mend()?;
        Ok(disk)
    }

    /// No file whose path contains this is taken any more, which is noticed after so long.
    pub fn fail_for(&self, part_of_path: &str, after: Duration) -> Result<(), LabError> {
        self.say(&format!("{} {part_of_path}", after.as_millis()))
    }

    /// All files are taken.
    pub fn mend(&self) -> Result<(), LabError> {
        self.say("")
    }

    fn say(&self, words: &str) -> Result<(), LabError> {
        // In one step: a process may look at any moment.
        let new = self.bad.with_extension("new");
        let written = fs::write(&new, words).and_then(|()| fs::rename(&new, &self.bad));
        written.map_err(LabError::io(format!("write {}", self.bad.display())))
    }

    /// What a process is to be started with to run on this disk.
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", self.library.clone().into()), ("LAB_BAD_DISK", self.bad.clone().into())]
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_what_is_bad_is_not_taken() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = BadDisk::good(folder.path()).expect("it compiles");
        let takes = |file: &str| {
            let path = folder.path().join(file);
            fs::write(&path, "something").expect("written");
            Command::new("sync").arg(&path).envs(disk.environment()).status().expect("sync runs").success()
        };
        assert!(takes("one") && takes("other"));
        disk.fail_for("/one", Duration::from_millis(1)).expect("it breaks");
        assert!(!takes("one") && takes("other"));
        disk.mend().expect("it is mended");
        assert!(takes("one"));
    }
}
