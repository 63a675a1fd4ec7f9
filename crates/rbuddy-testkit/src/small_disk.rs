//! A small disk for one folder, that can be full. A tmpfs: mounting one needs root, and a test that cannot have it says so.
//!
//! After a panic it stays mounted, as everything else stays that may tell why.

use std::fs::{File, OpenOptions, remove_file};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How soon what becomes free is taken again.
const GREEDY_EVERY: Duration = Duration::from_millis(2);

/// A mounted one.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

/// The disk is full until this is dropped: whatever becomes free is taken at once.
#[derive(Debug)]
pub struct Full {
    file: PathBuf,
    filling: Option<(Sender<()>, JoinHandle<()>)>,
}

impl SmallDisk {
    /// Whether this machine allows it.
    pub fn can_be_mounted() -> bool {
        let place = tempfile::tempdir().expect("a folder");
        let is_mounted = mount(&["-t", "tmpfs", "rbuddy-test"], place.path());
        if is_mounted {
            unmount(place.path());
        }
        is_mounted
    }

    /// Mounts one at `place`, which is made.
    pub fn mount(place: PathBuf, megabytes: u32) -> SmallDisk {
        std::fs::create_dir_all(&place).expect("a folder for a disk");
        assert!(
            mount(&["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "rbuddy-test"], &place),
            "mount a tmpfs at {}",
            place.display()
        );
        SmallDisk(place)
    }

    /// It has this size from now on.
    pub fn grow(&self, megabytes: u32) {
        assert!(mount(&["-o", &format!("remount,size={megabytes}m")], &self.0), "remount {}", self.0.display());
    }

    /// Nobody can write anything more to it: it is so when this returns.
    pub fn fill(&self) -> Full {
        let file = self.0.join("filler");
        let mut filler = OpenOptions::new().create_new(true).append(true).open(&file).expect("a file that fills the disk");
        take_all(&mut filler);
        let (sender, is_over) = channel();
        let filling = std::thread::spawn(move || {
            while is_over.recv_timeout(GREEDY_EVERY) == Err(RecvTimeoutError::Timeout) {
                take_all(&mut filler);
            }
        });
        Full { file, filling: Some((sender, filling)) }
    }
}

impl Drop for Full {
    fn drop(&mut self) {
        if let Some((sender, filling)) = self.filling.take() {
            drop(sender);
            // What it panicked of is on the screen already.
            let _ = filling.join();
        }
        let _ = remove_file(&self.file);
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            unmount(&self.0);
        }
    }
}

fn take_all(filler: &mut File) {
    let zeros = [0; 64 << 10];
    loop {
        match filler.write_all(&zeros) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("fill a disk: {error}"),
        }
    }
}

fn mount(arguments: &[&str], place: &Path) -> bool {
    Command::new("mount").args(arguments).arg(place).output().is_ok_and(|output| output.status.success())
}

/// Lazily: a process that has just been killed must not keep it.
fn unmount(place: &Path) {
    let _ = Command::new("umount").arg("-l").arg(place).status();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::skip;

    #[test]
    fn a_full_disk_takes_nothing_until_it_is_no_longer_full() {
        if !SmallDisk::can_be_mounted() {
            return skip("mounting a small tmpfs needs root");
        }
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().join("disk");
        let disk = SmallDisk::mount(place.clone(), 2);
        std::fs::write(place.join("before"), [1; 100_000]).expect("there is room");
        let full = disk.fill();
        let write = || std::fs::write(place.join("after"), [1; 10_000]);
        assert_eq!(write().expect_err("no room").kind(), ErrorKind::StorageFull);
        drop(full);
        write().expect("room again");
        drop(disk);
        assert!(!place.join("before").exists(), "unmounted");
    }
}
