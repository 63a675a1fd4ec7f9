//! A real Sentinel of our own: any server binary with `--sentinel`. It writes its own configuration file, as Sentinels do.

use crate::resp::{Connection, Value};
use crate::server::tail;
use crate::{Binary, LabError, Port, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// What Sentinels call the primary.
pub const NAME: &str = "mymaster";
/// How long it may take to start, or to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// A running (or killed) Sentinel.
#[derive(Debug)]
pub struct Sentinel {
    folder: PathBuf,
    port: Port,
    child: Option<Child>,
}

impl Sentinel {
    /// Starts one that watches the primary at `127.0.0.1:primary` as [`NAME`] and takes it for dead after a second. `quorum` Sentinels must agree.
    pub async fn start(binary: &Binary, folder: impl Into<PathBuf>, primary: u16, quorum: usize) -> Result<Sentinel, LabError> {
        let (port, folder) = (Port::reserve()?, folder.into());
        fs::create_dir_all(&folder).map_err(LabError::io(format!("create {}", folder.display())))?;
        let file = folder.join("sentinel.conf");
        let lines = [
            format!("port {}", port.number()),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", folder.display()),
            format!("logfile {}", folder.join("sentinel.log").display()),
            format!("sentinel monitor {NAME} 127.0.0.1 {primary} {quorum}"),
            format!("sentinel down-after-milliseconds {NAME} 1000"),
            format!("sentinel failover-timeout {NAME} 10000"),
        ];
        fs::write(&file, lines.join("\n") + "\n").map_err(LabError::io("write the Sentinel's configuration"))?;
        let mut command = Command::new(&binary.path);
        command.arg(&file).arg("--sentinel").current_dir(&folder).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(LabError::io(format!("run {}", binary.path.display())))?;
        let sentinel = Sentinel { folder, port, child: Some(child) };
        let ready = wait_until("the Sentinel to answer", ANSWER_WITHIN, async || {
            sentinel.primary().await.map(drop).map_err(|error| error.to_string())
        });
        ready.await?;
        Ok(sentinel)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Its folder: `sentinel.conf`, `sentinel.log`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// One command on a connection of its own. Error answers are errors.
    pub async fn command(&self, arguments: &[&str]) -> Result<Value, LabError> {
        let what = || LabError::io(format!("ask the Sentinel {} for {}", self.address(), arguments.join(" ")));
        let mut connection = Connection::open(&self.address(), ANSWER_WITHIN).await.map_err(what())?;
        match connection.command(arguments, ANSWER_WITHIN).await.map_err(what())? {
            Value::Error(answer) => Err(LabError::Answer { address: self.address(), command: arguments.join(" "), answer }),
            value @ (Value::Simple(_) | Value::Integer(_) | Value::Bulk(_) | Value::Nil | Value::Array(_)) => Ok(value),
        }
    }

    /// The port of the primary that it names.
    pub async fn primary(&self) -> Result<u16, LabError> {
        let answer = self.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await?;
        let port = match &answer {
            Value::Array(parts) => parts.get(1).and_then(|port| port.text()).and_then(|port| port.parse().ok()),
            Value::Simple(_) | Value::Integer(_) | Value::Bulk(_) | Value::Nil | Value::Error(_) => None,
        };
        let command = "SENTINEL GET-MASTER-ADDR-BY-NAME".to_owned();
        port.ok_or_else(|| LabError::Answer { address: self.address(), command, answer: format!("{answer:?}") })
    }

    /// Replicas that it knows and takes for well.
    pub async fn replicas(&self) -> Result<usize, LabError> {
        match self.command(&["SENTINEL", "REPLICAS", NAME]).await? {
            Value::Array(replicas) => Ok(replicas.len()),
            Value::Simple(_) | Value::Integer(_) | Value::Bulk(_) | Value::Nil | Value::Error(_) => Ok(0),
        }
    }

    /// Ends the process at once.
    pub async fn kill(&mut self) -> Result<(), LabError> {
        match self.child.take() {
            Some(mut child) => child.kill().await.map_err(LabError::io(format!("kill the Sentinel {}", self.address()))),
            None => Ok(()),
        }
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.folder.join("sentinel.log"), lines)
    }
}
