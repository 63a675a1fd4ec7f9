//! The relay alone (`rbuddy relay`) as a child process: started, asked, frozen, killed, started again with the same folder. Its log goes to a file.

use crate::process::{expect, spawn, spawn_with_hosts};
use crate::{Hosts, SOON};
use rbuddy_core::info::ServerInfo;
use rbuddy_lab::resp::{Connection, Value};
use rbuddy_lab::server::{send_signal, tail};
use rbuddy_lab::{BadDisk, Port, wait_until};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Child;

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// How a relay is run.
#[derive(Debug, Clone, Copy)]
pub struct RelayOptions {
    /// `--backlog`
    pub backlog: &'static str,
    /// `--upstream-timeout`
    pub upstream_timeout: &'static str,
    /// `--replica-timeout`
    pub replica_timeout: &'static str,
    /// Its disk can fail.
    pub disk_can_fail: bool,
}

/// A running (or killed) relay.
#[derive(Debug)]
pub struct Relay {
    upstream: String,
    options: RelayOptions,
    port: Port,
    dir: PathBuf,
    log: PathBuf,
    child: Option<Child>,
    hosts: Option<Hosts>,
    disk: Option<BadDisk>,
}

impl Default for RelayOptions {
    fn default() -> RelayOptions {
        RelayOptions { backlog: "64MiB", upstream_timeout: "30s", replica_timeout: "60s", disk_can_fail: false }
    }
}

impl Relay {
    /// Starts one with a folder and a log in `place`, and waits until it answers.
    pub async fn start(upstream: String, place: &Path, options: RelayOptions) -> Relay {
        Relay::start_with(upstream, place, options, None).await
    }

    /// The same, with a hosts file of its own.
    pub async fn start_with(upstream: String, place: &Path, options: RelayOptions, hosts: Option<Hosts>) -> Relay {
        let port = expect(Port::reserve());
        let (dir, log) = (place.join("relay"), place.join("relay.log"));
        let disk = options.disk_can_fail.then(|| expect(BadDisk::good(place)));
        let mut relay = Relay { upstream, options, port, dir, log, child: None, hosts, disk };
        relay.launch().await;
        relay
    }

    /// Starts it again after its end.
    pub async fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let (listen, dir) = (self.address(), self.dir.display().to_string());
        let RelayOptions { backlog, upstream_timeout, replica_timeout, .. } = self.options;
        let arguments = ["relay", "--upstream", &self.upstream, "--listen", &listen, "--dir", &dir, "--backlog", backlog];
        let timeouts = ["--upstream-timeout", upstream_timeout, "--replica-timeout", replica_timeout];
        let arguments = [&arguments[..], &timeouts[..]].concat();
        self.child = Some(match &self.hosts {
            Some(hosts) => spawn_with_hosts(&arguments, &self.log, hosts),
            None => spawn(&arguments, &self.log, self.disk.iter().flat_map(BadDisk::environment)),
        });
        let answers = wait_until("the relay to answer", SOON, async || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("the relay ended ({status}) instead of starting:\n{}", tail(&self.log, 40));
            }
            self.info().await.map(drop)
        });
        expect(answers.await);
    }

    /// Ends it at once (SIGKILL).
    pub async fn kill(&mut self) {
        self.child.take().expect("it runs").kill().await.expect("kill the relay");
    }

    /// Stops the process without ending it (SIGSTOP): its connections stay open, and nothing answers.
    pub async fn freeze(&self) {
        self.signal("STOP").await;
    }

    /// The opposite (SIGCONT).
    pub async fn thaw(&self) {
        self.signal("CONT").await;
    }

    /// Where names lead for it, if that is its own.
    pub fn hosts(&self) -> &Hosts {
        self.hosts.as_ref().expect("it was started with a hosts file")
    }

    /// Its disk, if that can fail.
    pub fn disk(&self) -> &BadDisk {
        self.disk.as_ref().expect("it was started on a disk that can fail")
    }

    /// Whether it was started and not killed.
    pub fn runs(&self) -> bool {
        self.child.is_some()
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        self.port.address()
    }

    /// What it says of itself.
    pub async fn info(&self) -> Result<ServerInfo, String> {
        let exchange = async {
            let mut connection = Connection::open(&self.address(), ANSWER_WITHIN).await?;
            connection.command(&["INFO"], ANSWER_WITHIN).await
        };
        match exchange.await.map_err(|error| error.to_string())? {
            Value::Bulk(text) => Ok(ServerInfo::parse(&String::from_utf8_lossy(&text))),
            other @ (Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Nil | Value::Array(_)) => Err(format!("{other:?}")),
        }
    }

    /// Waits until its link to the primary is up.
    pub async fn is_up(&self, within: Duration) {
        let up = wait_until("the relay's link to the primary", within, async || {
            let info = self.info().await?;
            if info.is_link_up { Ok(()) } else { Err(format!("down, at {:?}", info.offset)) }
        });
        expect(up.await);
    }

    /// Everything that it logged, over all its lives.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Nothing that a human must look at was logged, and nothing panicked.
    pub fn logged_no_error(&self) {
        let log = self.log();
        let errors: Vec<&str> = log.lines().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
        assert!(errors.is_empty(), "the relay logged {errors:#?}");
    }

    async fn signal(&self, name: &str) {
        let process = self.child.as_ref().and_then(Child::id).expect("it runs");
        expect(send_signal(process, name).await);
    }
}
