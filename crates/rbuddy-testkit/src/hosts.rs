//! A hosts file that one process alone sees, so that a name can lead elsewhere while it runs. It needs a mount namespace, and that root; a test that cannot
//! have it says so.

use std::path::{Path, PathBuf};
use tokio::process::Command;

/// One.
#[derive(Debug)]
pub struct Hosts(PathBuf);

impl Hosts {
    /// Whether this machine allows it, and asks such a file.
    pub fn can_be_mounted() -> bool {
        let place = tempfile::tempdir().expect("a folder");
        let hosts = Hosts::new(place.path(), "somewhere.test", "127.0.0.9");
        let asked = hosts.command("getent").into_std().args(["hosts", "somewhere.test"]).output();
        asked.is_ok_and(|answer| String::from_utf8_lossy(&answer.stdout).contains("127.0.0.9"))
    }

    /// In this folder.
    pub fn new(folder: &Path, name: &str, address: &str) -> Hosts {
        let hosts = Hosts(folder.join("hosts"));
        hosts.point(name, address);
        hosts
    }

    /// The name leads there from now on.
    pub fn point(&self, name: &str, address: &str) {
        // In place: what is mounted is this very file.
        std::fs::write(&self.0, format!("127.0.0.1 localhost\n{address} {name}\n")).expect("write a hosts file");
    }

    /// Runs this program where the file is seen; its process is the program's.
    pub(crate) fn command(&self, program: &(impl AsRef<std::ffi::OsStr> + ?Sized)) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]).arg(&self.0).arg(program);
        command
    }
}
