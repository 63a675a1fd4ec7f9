//! What may stand between primary and replica: nothing, the relay, or a TCP pipe. A running one is killed when dropped, with its workers.

use crate::bench::Tools;
use crate::process::{self, Memory};
use anyhow::Context;
use rbuddy_lab::server::tail;
use rbuddy_lab::{Port, wait_until_polled};
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

/// How long one may take until it listens.
const LISTENS_WITHIN: Duration = Duration::from_secs(20);
/// The clock often runs already while we wait for that.
const POLL_EVERY: Duration = Duration::from_millis(2);
/// What socat takes in one read. Its default of 8 KiB makes it slower than it needs to be.
const SOCAT_BUFFER: &str = "262144";

/// How a replica reaches the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Direct,
    Relay,
    Socat,
    HaProxy,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Way::Direct => "direct",
            Way::Relay => "relay",
            Way::Socat => "socat",
            Way::HaProxy => "HAProxy",
        })
    }
}

/// A way that is open.
#[derive(Debug)]
pub(crate) struct Pipe {
    address: String,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    way: Way,
    child: Child,
    log: PathBuf,
    /// The relay's own.
    dir: PathBuf,
    _port: Port,
}

impl Pipe {
    /// Opens it and waits until it listens. `folder` is for its configuration, log and data, and must be its own.
    pub(crate) async fn open(way: Way, tools: &Tools, primary: &str, folder: &Path) -> anyhow::Result<Pipe> {
        let port = Port::reserve()?;
        let address = port.address();
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        let (log, dir) = (folder.join(format!("{way}.log")), folder.join("relay"));
        let mut command = match way {
            Way::Direct => return Ok(Pipe { address: primary.to_owned(), running: None }),
            Way::Relay => relay(tools, primary, &address, &dir),
            Way::Socat => socat(tools, primary, &port)?,
            Way::HaProxy => haproxy(tools, primary, &address, folder)?,
        };
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let errors = file.try_clone().context("a second handle of the log")?;
        command.kill_on_drop(true).env("NO_COLOR", "1").stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = command.spawn().with_context(|| format!("run {way}"))?;
        let mut pipe = Pipe { address, running: Some(Running { way, child, log, dir, _port: port }) };
        pipe.until_it_listens().await?;
        Ok(pipe)
    }

    /// Where replicas connect.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// CPU time so far; `None` where nothing stands in between.
    pub(crate) fn cpu(&self) -> anyhow::Result<Option<Duration>> {
        self.running.as_ref().map(|running| process::cpu(running.process()?).with_context(|| running.describe())).transpose()
    }

    /// Memory of its process; `None` where nothing stands in between.
    pub(crate) fn memory(&self) -> anyhow::Result<Option<Memory>> {
        self.running.as_ref().map(|running| process::memory(running.process()?).with_context(|| running.describe())).transpose()
    }

    /// Bytes in the relay's folder.
    pub(crate) fn disk(&self) -> u64 {
        self.running.as_ref().map_or(0, |running| size_of_folder(&running.dir))
    }

    /// What it has to say when a measurement broke.
    pub(crate) fn log_tail(&self) -> String {
        self.running.as_ref().map_or_else(String::new, Running::describe)
    }

    /// Ends it and waits for that, so that its end is no part of the next measurement.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        running.kill_workers();
        running.child.kill().await.with_context(|| format!("kill {}", running.way))
    }

    async fn until_it_listens(&mut self) -> anyhow::Result<()> {
        let Some(running) = self.running.as_mut() else { return Ok(()) };
        let mut ended = None;
        let what = format!("{} to listen on {}", running.way, self.address);
        let listens = wait_until_polled(&what, LISTENS_WITHIN, POLL_EVERY, async || {
            ended = running.child.try_wait().ok().flatten();
            match ended {
                Some(_) => Ok(()),
                None => TcpStream::connect(&self.address).await.map(drop).map_err(|error| error.to_string()),
            }
        });
        listens.await.with_context(|| running.describe())?;
        match ended {
            Some(status) => anyhow::bail!("{} ended ({status}) instead of listening\n{}", running.way, running.describe()),
            None => Ok(()),
        }
    }
}

impl Running {
    fn process(&self) -> anyhow::Result<u32> {
        self.child.id().with_context(|| format!("{} has ended", self.way))
    }

    fn describe(&self) -> String {
        format!("the end of the log of {}:\n{}", self.way, tail(&self.log, 15))
    }

    /// socat forks a worker for each connection, which would live on without its parent.
    fn kill_workers(&self) {
        let workers = self.child.id().map(process::descendants).unwrap_or_default();
        for worker in workers {
            // One that has gone by itself is as good.
            let _ = std::process::Command::new("kill").args(["-KILL", &worker.to_string()]).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill_workers();
    }
}

fn relay(tools: &Tools, primary: &str, address: &str, dir: &Path) -> Command {
    let mut command = Command::new(&tools.rbuddy);
    command.args(["relay", "--upstream", primary, "--listen", address, "--backlog", BACKLOG]).arg("--dir").arg(dir);
    command
}

/// The relay's own default, given all the same: a figure about memory must not change its meaning with the default.
pub(crate) const BACKLOG: &str = "64MiB";
pub(crate) const BACKLOG_BYTES: u64 = 64 * 1024 * 1024;

fn socat(tools: &Tools, primary: &str, port: &Port) -> anyhow::Result<Command> {
    let program = tools.socat.as_ref().context("socat is not installed")?;
    let mut command = Command::new(program);
    command.args(["-b", SOCAT_BUFFER]);
    command.arg(format!("TCP-LISTEN:{},bind=127.0.0.1,reuseaddr,fork,nodelay", port.number())).arg(format!("TCP:{primary},nodelay"));
    Ok(command)
}

/// Everything that it does not need to be told stays at its default.
fn haproxy(tools: &Tools, primary: &str, address: &str, folder: &Path) -> anyhow::Result<Command> {
    let program = tools.haproxy.as_ref().context("HAProxy is not installed")?;
    let config = folder.join("haproxy.cfg");
    let text = format!(
        "defaults\n  mode tcp\n  timeout connect 10s\n  timeout client 1h\n  timeout server 1h\n\
         listen replication\n  bind {address}\n  server primary {primary}\n"
    );
    fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
    let mut command = Command::new(program);
    // In the foreground: one process, whose threads we count.
    command.args(["-db", "-f"]).arg(config);
    Ok(command)
}

fn size_of_folder(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    // Files come and go while this is read.
    let size = |entry: fs::DirEntry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size_of_folder(&entry.path()),
        Ok(metadata) => metadata.len(),
        Err(_) => 0,
    };
    entries.map(size).sum()
}
