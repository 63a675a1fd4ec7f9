//! A wall clock that can be set while a process runs by it, as an administrator or NTP sets that of a machine. The monotonic clock goes on.
//!
//! A small library is loaded into the process ([`crate::preload`]).

use crate::{LabError, preload};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The clock of one process.
#[derive(Debug, Clone)]
pub struct WallClock {
    library: PathBuf,
    shift: PathBuf,
}

/// Which way a clock is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jump {
    /// Later than it is.
    Ahead(Duration),
    /// Earlier than it is.
    Back(Duration),
}

impl WallClock {
    /// A clock that is right. Its files are made in `folder`, which exists.
    pub fn right(folder: &Path) -> Result<WallClock, LabError> {
        let clock = WallClock { library: preload::compile(folder, "clock", include_str!("shim.c"))?, shift: folder.join("clock") };
        clock.write(0)?;
        Ok(clock)
    }

    /// Sets it, from right.
    pub fn set(&self, jump: Jump) -> Result<(), LabError> {
        let nanos = |by: Duration| i64::try_from(by.as_nanos()).unwrap_or(i64::MAX);
        self.write(match jump {
            Jump::Ahead(by) => nanos(by),
            Jump::Back(by) => -nanos(by),
        })
    }

    /// Right again.
    pub fn set_right(&self) -> Result<(), LabError> {
        self.write(0)
    }

    /// What a process is to be started with to run by this clock.
    pub fn environment(&self) -> [(&'static str, OsString); 2] {
        [("LD_PRELOAD", self.library.clone().into()), ("LAB_CLOCK", self.shift.clone().into())]
    }

    /// In place: processes have the file mapped.
    fn write(&self, nanos: i64) -> Result<(), LabError> {
        use std::io::Write;
        let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&self.shift);
        let written = file.and_then(|mut file| file.write_all(&nanos.to_ne_bytes()));
        written.map_err(LabError::io(format!("write {}", self.shift.display())))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::{SystemTime, UNIX_EPOCH};

    fn told(clock: &WallClock) -> f64 {
        let output = Command::new("date").arg("+%s.%N").envs(clock.environment()).output().expect("date runs");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("seconds")
    }

    fn now() -> f64 {
        SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64()
    }

    #[test]
    fn a_process_lives_by_its_clock() {
        let folder = tempfile::tempdir().expect("a folder");
        let clock = WallClock::right(folder.path()).expect("it compiles");
        let half_an_hour = Duration::from_millis(1_800_700);
        for (set, expected) in [(None, 0.0), (Some(Jump::Ahead(half_an_hour)), 1800.7), (Some(Jump::Back(half_an_hour)), -1800.7)] {
            set.map_or_else(|| clock.set_right(), |jump| clock.set(jump)).expect("it is set");
            let (before, told, after) = (now(), told(&clock), now());
            assert!(told >= before + expected - 0.001 && told <= after + expected + 0.001, "{set:?}: {told} at {before}");
        }
    }
}
