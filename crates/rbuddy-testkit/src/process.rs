//! The `rbuddy` binary as a child process: started, asked, killed, started again. Its log goes to a file in the world's folder.

use crate::{Hosts, report};
use rbuddy_core::control::status::GroupStatus;
use rbuddy_lab::server::{send_signal, tail};
use rbuddy_lab::{LabError, WallClock, wait_until};
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::process::{Child, Command};

/// How long one answer of the API may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long it may take to start, and to end after SIGTERM.
const START_WITHIN: Duration = Duration::from_secs(20);
/// How long one call of the command line may take.
const CLI_WITHIN: Duration = Duration::from_secs(60);

/// A running (or killed) rbuddy.
#[derive(Debug)]
pub struct Rbuddy {
    config: PathBuf,
    log: PathBuf,
    api: String,
    child: Option<Child>,
    clock: Option<WallClock>,
    http: reqwest::Client,
    last_status: Mutex<String>,
}

/// What a call of the command line came to.
#[derive(Debug)]
pub struct CliOutput {
    /// Exit status; `None` after a signal.
    pub status: Option<i32>,
    /// Standard output and standard error.
    pub text: String,
}

impl Rbuddy {
    /// Starts `rbuddy run --config CONFIG` and waits until its API answers. `api` is the address that the configuration names; it lives by `clock`, if it
    /// is given one.
    pub async fn start(config: PathBuf, log: PathBuf, api: String, clock: Option<WallClock>) -> Rbuddy {
        let mut rbuddy = Rbuddy { config, log, api, child: None, clock, http: reqwest::Client::new(), last_status: Mutex::default() };
        rbuddy.launch().await;
        rbuddy
    }

    /// Starts it again after its end.
    pub async fn launch(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        self.child = Some(spawn(
            &["run", "--config", &self.config.display().to_string()],
            &self.log,
            self.clock.iter().flat_map(WallClock::environment),
        ));
        let answers = wait_until("rbuddy's API", START_WITHIN, async || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                panic!("rbuddy ended ({status}) instead of starting:\n{}", tail(&self.log, 40));
            }
            self.status().await.map(drop)
        });
        expect(answers.await);
    }

    /// Its clock, where it has one of its own.
    pub fn clock(&self) -> Option<&WallClock> {
        self.clock.as_ref()
    }

    /// Ends it at once (SIGKILL).
    pub async fn kill(&mut self) {
        self.child.take().expect("it runs").kill().await.expect("kill rbuddy");
    }

    /// Asks it to end (SIGTERM); gives its exit status.
    pub async fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("it runs");
        let process = child.id().expect("it has not been waited for");
        expect(send_signal(process, "TERM").await);
        let ended = tokio::time::timeout(START_WITHIN, child.wait()).await;
        ended.expect("rbuddy ends after SIGTERM").expect("wait for rbuddy").code()
    }

    /// `host:port` of its API.
    pub fn api(&self) -> &str {
        &self.api
    }

    /// The group's status, or why it cannot be had.
    pub async fn status(&self) -> Result<GroupStatus, String> {
        let request = self.http.get(format!("http://{}/v1/status", self.api)).timeout(ANSWER_WITHIN).send();
        let text = async { request.await?.error_for_status()?.text().await }.await.map_err(|error| format!("{error:?}"))?;
        let whole: serde_json::Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        let group = whole.get("groups").and_then(|groups| groups.get(0).or_else(|| groups.get("main")));
        let group = group.ok_or_else(|| format!("no group in {text}"))?;
        *self.last_status.lock().unwrap_or_else(PoisonError::into_inner) = format!("{group:#}");
        serde_json::from_value(group.clone()).map_err(|error| format!("{error}: {text}"))
    }

    /// Waits until the status is so; gives it. Panics with the last one seen.
    pub async fn wait_for(&self, what: &str, within: Duration, holds: impl Fn(&GroupStatus) -> bool) -> GroupStatus {
        let reached = wait_until(what, within, async || {
            let status = self.status().await?;
            if holds(&status) { Ok(status) } else { Err(format!("{} — {}", status.phase, status.explanation)) }
        });
        expect(reached.await)
    }

    /// `POST /v1/groups/main/{operation}` with a JSON body; gives status and answer.
    pub async fn post(&self, operation: &str, body: serde_json::Value) -> (u16, String) {
        let url = format!("http://{}/v1/groups/main/{operation}", self.api);
        let answer = self.http.post(url).json(&body).timeout(ANSWER_WITHIN).send().await.expect("the API answers");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    /// `GET /v1/groups/main/{what}`; gives status and answer.
    pub async fn get(&self, what: &str) -> (u16, String) {
        let url = format!("http://{}/v1/groups/main/{what}", self.api);
        let answer = self.http.get(url).timeout(ANSWER_WITHIN).send().await.expect("the API answers");
        (answer.status().as_u16(), answer.text().await.expect("a body"))
    }

    /// [`Rbuddy::post`] of something that must be accepted.
    pub async fn order(&self, operation: &str, body: serde_json::Value) {
        let (status, text) = self.post(operation, body).await;
        assert_eq!(status, 200, "{operation}: {text}");
    }

    /// Everything that it logged, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Rbuddy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let status = self.last_status.lock().unwrap_or_else(PoisonError::into_inner);
            report(&format!("--- last status seen\n{status}"));
        }
    }
}

/// Runs `rbuddy ARGUMENTS` to its end.
pub async fn cli(arguments: &[&str]) -> CliOutput {
    let mut command = Command::new(binary());
    command.args(arguments).env("NO_COLOR", "1").kill_on_drop(true).stdin(Stdio::null());
    let output = tokio::time::timeout(CLI_WITHIN, command.output()).await.expect("the command ends").expect("run rbuddy");
    let text = [output.stdout, output.stderr].concat();
    CliOutput { status: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
}

/// Starts `rbuddy ARGUMENTS` with this in its environment. What it says is appended to `log`.
pub(crate) fn spawn(arguments: &[&str], log: &Path, environment: impl IntoIterator<Item = (&'static str, OsString)>) -> Child {
    let mut command = Command::new(binary());
    command.envs(environment);
    spawn_by(command, arguments, log)
}

/// The same where names lead where that file says.
pub(crate) fn spawn_with_hosts(arguments: &[&str], log: &Path, hosts: &Hosts) -> Child {
    spawn_by(hosts.command(&binary()), arguments, log)
}

fn spawn_by(mut command: Command, arguments: &[&str], log: &Path) -> Child {
    let log = OpenOptions::new().create(true).append(true).open(log).expect("open rbuddy's log");
    let errors = log.try_clone().expect("a second handle of the log");
    command.args(arguments).env("NO_COLOR", "1").kill_on_drop(true).stdin(Stdio::null()).stdout(log).stderr(errors);
    command.spawn().unwrap_or_else(|error| panic!("run {}: {error}", binary().display()))
}

/// `RBUDDY_BIN`, else the binary beside the test's own folder (`target/debug/deps/…`).
fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("RBUDDY_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().expect("a test knows its own path");
    let built = test.parent().and_then(Path::parent).map(|folder| folder.join("rbuddy"));
    let built = built.filter(|path| path.is_file());
    built.unwrap_or_else(|| panic!("no rbuddy binary beside {}: run `cargo build --bin rbuddy`, or `make test`", test.display()))
}

/// The laboratory's errors end a test, with their causes.
pub(crate) fn expect<T>(result: Result<T, LabError>) -> T {
    result.unwrap_or_else(|error| match std::error::Error::source(&error) {
        Some(cause) => panic!("{error}: {cause}"),
        None => panic!("{error}"),
    })
}
