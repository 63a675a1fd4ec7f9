//! A real server of our own: started on a reserved loopback port in its folder, killed when dropped.
//!
//! It has a configuration file, as servers in the field do, so that `CONFIG REWRITE` works and a restart does what the file then says.
//! Its log and its RDB stay in the folder, which belongs to the caller. Signals go out through `kill(1)`: no unsafe code here.

use crate::resp::{Connection, Value};
use crate::{Binary, LabError, Port, WallClock, wait_until};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long a server may take to answer one command of ours. `DEBUG DIGEST` of a million keys takes a second or two.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// How long it may take to start and load.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A running (or killed) server.
#[derive(Debug)]
pub struct Server {
    binary: Binary,
    folder: PathBuf,
    port: Port,
    child: Option<Child>,
    password: Option<String>,
    clock: Option<WallClock>,
}

/// How a server differs from the plain one.
#[derive(Debug, Clone, Default)]
pub struct ServerOptions {
    /// Lines of its configuration file: `("replicaof", "127.0.0.1 6379")`.
    pub config: Vec<(String, String)>,
    /// What clients must say.
    pub password: Option<String>,
    /// It has a wall clock of its own, that can be set.
    pub own_clock: bool,
}

/// What a server finds when it starts again.
#[derive(Debug, Clone, Copy)]
pub enum Data<'a> {
    /// The RDB that lies in its folder, if one does.
    Own,
    /// Nothing: its RDB is removed.
    Nothing,
    /// A copy of this RDB.
    Rdb(&'a Path),
}

impl ServerOptions {
    /// Adds a configuration line.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<String>) -> ServerOptions {
        self.config.push((name.to_owned(), value.into()));
        self
    }
}

impl Server {
    /// Starts one in `folder` (made if missing) and waits until it is ready.
    pub async fn start(binary: &Binary, folder: impl Into<PathBuf>, options: ServerOptions) -> Result<Server, LabError> {
        let port = Port::reserve()?;
        let folder = folder.into();
        fs::create_dir_all(&folder).map_err(LabError::io(format!("create {}", folder.display())))?;
        let config = config_text(binary, &folder, &port, &options);
        fs::write(folder.join("server.conf"), config).map_err(LabError::io("write the server's configuration"))?;
        let clock = if options.own_clock { Some(WallClock::right(&folder)?) } else { None };
        let mut server = Server { binary: binary.clone(), folder, port, child: None, password: options.password, clock };
        server.launch().await?;
        server.ready(READY_WITHIN).await?;
        Ok(server)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// `redis://…` as a configuration wants it.
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@{}", self.address()),
            None => format!("redis://{}", self.address()),
        }
    }

    /// Its binary.
    pub fn binary(&self) -> &Binary {
        &self.binary
    }

    /// Its folder: `server.conf`, `server.log`, `dump.rdb`.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its RDB, whether it exists or not.
    pub fn rdb(&self) -> PathBuf {
        self.folder.join("dump.rdb")
    }

    /// Its clock, where it has one of its own.
    pub fn clock(&self) -> Option<&WallClock> {
        self.clock.as_ref()
    }

    /// Its process, while one runs: for those who measure what it uses.
    pub fn process(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    /// Ends the process at once, as a crash does.
    pub async fn kill(&mut self) -> Result<(), LabError> {
        match self.child.take() {
            Some(mut child) => child.kill().await.map_err(LabError::io(format!("kill {}", self.address()))),
            None => Ok(()),
        }
    }

    /// Stops the process without ending it (SIGSTOP): its connections stay open, and nothing answers.
    pub async fn freeze(&self) -> Result<(), LabError> {
        self.signal("STOP").await
    }

    /// The opposite (SIGCONT).
    pub async fn thaw(&self) -> Result<(), LabError> {
        self.signal("CONT").await
    }

    /// Starts it again on the same port with the same configuration file and this data. Waits only until the process runs: see
    /// [`Server::ready`]. A server that still runs is killed first.
    pub async fn restart(&mut self, data: Data<'_>) -> Result<(), LabError> {
        self.kill().await?;
        match data {
            Data::Own => {}
            Data::Nothing if self.rdb().exists() => fs::remove_file(self.rdb()).map_err(LabError::io("remove the RDB"))?,
            Data::Nothing => {}
            Data::Rdb(path) => fs::copy(path, self.rdb()).map(drop).map_err(LabError::io("copy the RDB"))?,
        }
        self.launch().await
    }

    /// Waits until it answers and nothing loads.
    pub async fn ready(&mut self, within: Duration) -> Result<(), LabError> {
        let mut ended = None;
        let what = format!("{} to be ready", self.address());
        let ready = wait_until(&what, within, async || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                ended = Some(status.to_string());
                return Ok(());
            }
            // INFO and not PING: a replica that may not serve stale data answers PING with an error, and is ready all the same.
            let info = self.info("persistence").await.map_err(|error| error.to_string())?;
            if info.get("loading").is_some_and(|loading| loading == "0") { Ok(()) } else { Err("loading".to_owned()) }
        });
        ready.await?;
        match ended {
            Some(why) => Err(LabError::NotStarted { binary: self.binary.path.display().to_string(), why, log: self.log_tail(20) }),
            None => Ok(()),
        }
    }

    /// A new connection, logged in.
    pub async fn connect(&self) -> Result<Connection, LabError> {
        let what = || LabError::io(format!("connect to {}", self.address()));
        let mut connection = Connection::open(&self.address(), ANSWER_WITHIN).await.map_err(what())?;
        if let Some(password) = &self.password {
            connection.command(&["AUTH", password], ANSWER_WITHIN).await.map_err(what())?;
        }
        Ok(connection)
    }

    /// One command on a connection of its own. Error answers are errors.
    pub async fn command(&self, arguments: &[&str]) -> Result<Value, LabError> {
        let mut connection = self.connect().await?;
        let what = LabError::io(format!("ask {} for {}", self.address(), arguments.join(" ")));
        match connection.command(arguments, ANSWER_WITHIN).await.map_err(what)? {
            Value::Error(answer) => Err(LabError::Answer { address: self.address(), command: arguments.join(" "), answer }),
            value @ (Value::Simple(_) | Value::Integer(_) | Value::Bulk(_) | Value::Nil | Value::Array(_)) => Ok(value),
        }
    }

    /// INFO as a map.
    pub async fn info(&self, section: &str) -> Result<BTreeMap<String, String>, LabError> {
        let text = self.command(&["INFO", section]).await?.text().unwrap_or_default();
        let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
        Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// One number of INFO; 0 where it is absent.
    pub async fn info_number(&self, section: &str, field: &str) -> Result<u64, LabError> {
        Ok(self.info(section).await?.get(field).and_then(|value| value.parse().ok()).unwrap_or(0))
    }

    /// Full resyncs that it paid for since it started.
    pub async fn full_resyncs(&self) -> Result<u64, LabError> {
        self.info_number("stats", "sync_full").await
    }

    /// Keys in database 0.
    pub async fn keys(&self) -> Result<i64, LabError> {
        let answer = self.command(&["DBSIZE"]).await?;
        if let Value::Integer(keys) = answer {
            return Ok(keys);
        }
        Err(LabError::Answer { address: self.address(), command: "DBSIZE".into(), answer: format!("{answer:?}") })
    }

    /// A digest of the whole dataset: equal digests are equal datasets.
    pub async fn digest(&self) -> Result<String, LabError> {
        Ok(self.command(&["DEBUG", "DIGEST"]).await?.text().unwrap_or_default())
    }

    /// Writes the RDB.
    pub async fn save(&self) -> Result<(), LabError> {
        self.command(&["SAVE"]).await.map(drop)
    }

    /// The last lines of its log.
    pub fn log_tail(&self, lines: usize) -> String {
        tail(&self.folder.join("server.log"), lines)
    }

    async fn launch(&mut self) -> Result<(), LabError> {
        let mut command = Command::new(&self.binary.path);
        command.arg(self.folder.join("server.conf")).current_dir(&self.folder).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.envs(self.clock.iter().flat_map(WallClock::environment));
        let child = command.spawn().map_err(LabError::io(format!("run {}", self.binary.path.display())))?;
        self.child = Some(child);
        Ok(())
    }

    async fn signal(&self, name: &str) -> Result<(), LabError> {
        let Some(process) = self.process() else {
            return Err(LabError::NotStarted {
                binary: self.binary.path.display().to_string(),
                why: "it does not run".to_owned(),
                log: self.log_tail(5),
            });
        };
        send_signal(process, name).await
    }
}

/// Sends a signal to a process that the caller started.
pub async fn send_signal(process: u32, name: &str) -> Result<(), LabError> {
    let what = format!("send SIG{name} to process {process}");
    let status = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status().await;
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(LabError::Io { what, source: std::io::Error::other(status.to_string()) }),
        Err(source) => Err(LabError::Io { what, source }),
    }
}

/// The last lines of a file; says so where it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    match fs::read(path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(error) => format!("({}: {error})", path.display()),
    }
}

/// Makes an RDB of `dataset` with a server of its own. Its history has nothing in common with any other server's, so a primary that
/// comes back with it must give everybody a full resync.
pub async fn make_rdb(binary: &Binary, folder: &Path, dataset: &crate::Dataset) -> Result<PathBuf, LabError> {
    let server = Server::start(binary, folder, ServerOptions::default()).await?;
    dataset.load(&server).await?;
    server.save().await?;
    Ok(server.rdb())
}

fn config_text(binary: &Binary, folder: &Path, port: &Port, options: &ServerOptions) -> String {
    let mut lines = vec![
        format!("port {}", port.number()),
        "bind 127.0.0.1".to_owned(),
        format!("dir {}", folder.display()),
        format!("logfile {}", folder.join("server.log").display()),
        "save \"\"".to_owned(),
        "appendonly no".to_owned(),
        // The snapshot begins at once, instead of waiting five seconds for more replicas.
        "repl-diskless-sync-delay 0".to_owned(),
    ];
    if binary.wants_debug_enabled() {
        lines.push("enable-debug-command yes".to_owned());
    }
    if let Some(password) = &options.password {
        lines.push(format!("requirepass {password}"));
        lines.push(format!("masterauth {password}"));
    }
    lines.extend(options.config.iter().map(|(name, value)| format!("{name} {value}")));
    lines.join("\n") + "\n"
}
