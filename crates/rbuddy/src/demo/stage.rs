//! What the demo plays with: a primary behind a link that can be cut, two replicas, rbuddy between them, and readers of two kinds.

use super::narrator::Narrator;
use anyhow::{Context as _, bail};
use rbuddy_core::control::status::{GroupStatus, Phase};
use rbuddy_lab::server::{make_rdb, tail};
use rbuddy_lab::{
    Binary, Dataset, FaultProxy, Port, Readers, ReadersOptions, Server, ServerOptions, Source, Tally, Writer, WriterOptions, wait_until,
};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};

/// How long rbuddy may take for one answer, for its start, and for a failover of a dataset that a demo would load.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const START_WITHIN: Duration = Duration::from_secs(30);
pub(crate) const FAILOVER_WITHIN: Duration = Duration::from_secs(180);

/// Everything that runs. Ends, and its folder with it, when dropped: rbuddy first, the servers after it.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) data: Dataset,
    pub(crate) writer: Writer,
    endpoint: Arc<Readers>,
    asking: Arc<Readers>,
    rbuddy: Child,
    pub(crate) primary: Server,
    pub(crate) link: FaultProxy,
    replicas: [Server; 2],
    /// The API's, the relay's and the reader endpoint's.
    ports: [Port; 3],
    pub(crate) newer_rdb: PathBuf,
    folder: TempDir,
    http: reqwest::Client,
}

/// What readers of both kinds saw since the last look.
#[derive(Debug)]
pub(crate) struct Tallies {
    pub(crate) endpoint: Tally,
    pub(crate) asking: Tally,
}

/// A second pair of eyes, for the live line.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    api: String,
    http: reqwest::Client,
    endpoint: Arc<Readers>,
    asking: Arc<Readers>,
}

impl Stage {
    /// Starts and loads everything, and waits until rbuddy calls it normal.
    pub(crate) async fn build(keys: u64, narrator: &Narrator) -> anyhow::Result<Stage> {
        let binary = Binary::find()?;
        let folder = tempfile::Builder::new().prefix("rbuddy-demo-").tempdir().context("create a temporary folder")?;
        narrator.tell(&format!("servers: {binary}, in {}", folder.path().display()));
        let data = Dataset { value_bytes: 60, ..Dataset::of(keys) };
        let primary = Server::start(&binary, folder.path().join("primary"), ServerOptions::default()).await?;
        data.load(&primary).await?;
        // A primary whose machine was lost comes back from somewhere else: from a dataset of another history. It is made now, so
        // that the outage is an outage and not the time that loading takes.
        let newer_rdb = make_rdb(&binary, &folder.path().join("elsewhere"), &data.newer()).await?;
        let link = FaultProxy::start(primary.address())?;
        let follows = ServerOptions::default().with("replicaof", link.address().replace(':', " "));
        let full = Server::start(&binary, folder.path().join("replica-1"), follows).await?;
        let empty = Server::start(&binary, folder.path().join("replica-2"), ServerOptions::default()).await?;
        follows_its_primary(&full).await?;
        let ports = [Port::reserve()?, Port::reserve()?, Port::reserve()?];
        narrator.tell(&format!(
            "primary {} has {keys} keys; replica {} follows it, replica {} is empty",
            primary.address(),
            full.address(),
            empty.address()
        ));
        let replicas = [full, empty];
        let config = config_text(folder.path(), &link, &replicas, &ports);
        let mut rbuddy = start_rbuddy(folder.path(), &config)?;
        let http = reqwest::Client::new();
        let [api, _, reader] = [ports[0].address(), ports[1].address(), ports[2].address()];
        let settled = |status: &GroupStatus| status.phase == Phase::Normal && !status.active.is_empty() && !status.standby.is_empty();
        wait_for(&http, &api, "rbuddy to take them over", START_WITHIN, Some(&mut rbuddy), settled)
            .await
            .with_context(|| format!("rbuddy's log ends with:\n{}", tail(&folder.path().join("rbuddy.log"), 20)))?;
        narrator.tell(&format!("rbuddy took them over; reader endpoint {reader}, API http://{api}"));
        let options = |connections, reads_per_second| ReadersOptions { connections, reads_per_second, keys };
        let endpoint = Arc::new(Readers::start(Source::Fixed(reader), options(20, 2000)).await?);
        let asking = Arc::new(Readers::start(Source::Asks(api), options(10, 500)).await?);
        let writer = Writer::start(primary.address(), WriterOptions { writes_per_second: 200, value_bytes: 50 });
        Ok(Stage { data, writer, endpoint, asking, rbuddy, primary, link, replicas, ports, newer_rdb, folder, http })
    }

    /// The status now.
    pub(crate) async fn status(&self) -> anyhow::Result<GroupStatus> {
        self.watch().status().await.map_err(anyhow::Error::msg)
    }

    /// Waits until rbuddy's status is so.
    pub(crate) async fn wait_for(&mut self, what: &str, holds: impl Fn(&GroupStatus) -> bool) -> anyhow::Result<GroupStatus> {
        wait_for(&self.http, &self.ports[0].address(), what, FAILOVER_WITHIN, Some(&mut self.rbuddy), holds).await
    }

    /// What the readers saw since the last call.
    pub(crate) fn take(&self) -> Tallies {
        Tallies { endpoint: self.endpoint.take(), asking: self.asking.take() }
    }

    /// What the readers saw since [`Stage::take`].
    pub(crate) fn look(&self) -> Tallies {
        Tallies { endpoint: self.endpoint.tally(), asking: self.asking.tally() }
    }

    pub(crate) fn watch(&self) -> Watch {
        Watch {
            api: self.ports[0].address(),
            http: self.http.clone(),
            endpoint: Arc::clone(&self.endpoint),
            asking: Arc::clone(&self.asking),
        }
    }

    /// From now on the folder outlives the demo.
    pub(crate) fn keep_folder(&mut self) -> &Path {
        self.folder.disable_cleanup(true);
        self.folder.path()
    }

    /// What somebody can try who has it all running.
    pub(crate) fn invitation(&self) -> String {
        let config = self.folder.path().join("rbuddy.toml");
        let port = |address: String| address.rsplit(':').next().unwrap_or_default().to_owned();
        format!(
            "Everything runs until Ctrl-C. Things to try:\n\
             \x20 rbuddy status --config {config}\n\
             \x20 curl http://{api}/active\n\
             \x20 redis-cli -p {reader} GET key:1        # the reader endpoint\n\
             \x20 redis-cli -p {primary} DBSIZE          # the primary\n\
             \x20 redis-cli -p {first} INFO replication  # the replicas\n\
             \x20 redis-cli -p {second} INFO replication\n\
             \x20 less {log}",
            config = config.display(),
            api = self.ports[0].address(),
            reader = self.ports[2].number(),
            primary = port(self.primary.address()),
            first = port(self.replicas[0].address()),
            second = port(self.replicas[1].address()),
            log = self.folder.path().join("rbuddy.log").display(),
        )
    }
}

impl Watch {
    pub(crate) async fn status(&self) -> Result<GroupStatus, String> {
        status(&self.http, &self.api).await
    }

    /// The live line's figures.
    pub(crate) fn counts(&self) -> String {
        let (one, other) = (self.endpoint.tally(), self.asking.tally());
        let misses = |tally: &Tally| tally.failed + tally.nil + tally.wrong;
        let gap = one.longest_gap.max(other.longest_gap);
        format!("{} reads · {} failed or wrong · longest gap {} ms", one.ok + other.ok, misses(&one) + misses(&other), gap.as_millis())
    }
}

async fn follows_its_primary(replica: &Server) -> anyhow::Result<()> {
    let follows = wait_until("the first replica to follow the primary", FAILOVER_WITHIN, async || {
        let info = replica.info("replication").await.map_err(|error| error.to_string())?;
        let link = info.get("master_link_status").cloned().unwrap_or_default();
        if link == "up" { Ok(()) } else { Err(format!("its link is {link:?}")) }
    });
    Ok(follows.await?)
}

fn config_text(folder: &Path, link: &FaultProxy, replicas: &[Server; 2], ports: &[Port; 3]) -> String {
    let [api, relay, reader] = ports.each_ref().map(Port::address);
    format!(
        "# Written by `rbuddy demo`.\n\
         state_dir = {state:?}\n\n\
         [api]\n\
         listen = {api:?}\n\n\
         [groups.main]\n\
         primary  = \"redis://{primary}\"   # a proxy that the demo cuts\n\
         replicas = [{first:?}, {second:?}]\n\
         relay    = {{ listen = {relay:?} }}\n\
         reader   = {{ listen = {reader:?} }}\n\
         drain    = \"3s\"                  # short, so that the demo is\n",
        state = folder.join("state").display().to_string(),
        primary = link.address(),
        first = replicas[0].url(),
        second = replicas[1].url(),
    )
}

/// Runs this very executable.
fn start_rbuddy(folder: &Path, config: &str) -> anyhow::Result<Child> {
    let path = folder.join("rbuddy.toml");
    std::fs::write(&path, config).with_context(|| format!("write {}", path.display()))?;
    let log = File::create(folder.join("rbuddy.log")).context("create rbuddy's log")?;
    let mut command = Command::new(std::env::current_exe().context("find this executable")?);
    command.arg("run").arg("--config").arg(&path).env("NO_COLOR", "1").kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(log.try_clone().context("a second handle of the log")?).stderr(log);
    command.spawn().context("start rbuddy")
}

async fn wait_for(
    http: &reqwest::Client,
    api: &str,
    what: &str,
    within: Duration,
    mut rbuddy: Option<&mut Child>,
    holds: impl Fn(&GroupStatus) -> bool,
) -> anyhow::Result<GroupStatus> {
    let reached = wait_until(what, within, async || {
        if let Some(Ok(Some(ended))) = rbuddy.as_mut().map(|child| child.try_wait()) {
            return Ok(Err(ended));
        }
        let status = status(http, api).await?;
        if holds(&status) { Ok(Ok(status)) } else { Err(format!("{}: {}", status.phase, status.explanation)) }
    });
    match reached.await? {
        Ok(status) => Ok(status),
        Err(ended) => bail!("rbuddy ended ({ended}) while we waited for {what}"),
    }
}

async fn status(http: &reqwest::Client, api: &str) -> Result<GroupStatus, String> {
    #[derive(serde::Deserialize)]
    struct Whole {
        groups: Vec<GroupStatus>,
    }
    let ask = async {
        let answer = http.get(format!("http://{api}/v1/status")).timeout(ANSWER_WITHIN).send().await?;
        answer.error_for_status()?.json::<Whole>().await
    };
    let whole = ask.await.map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
    whole.groups.into_iter().next().ok_or_else(|| "rbuddy shows no group".to_owned())
}
