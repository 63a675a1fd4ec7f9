//! The primary of a measurement, and what it paid.

use crate::process;
use anyhow::Context;
use rbuddy_lab::resp::{Connection, Value};
use rbuddy_lab::{Binary, Server, ServerOptions, wait_until};
use std::collections::BTreeMap;
use std::time::Duration;
use tempfile::TempDir;

/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take to notice that its replicas have gone, and to end a child that saves.
const AT_REST_WITHIN: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Primary {
    server: Server,
    asked: Connection,
    _folder: TempDir,
}

/// What replication has cost it so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Paid {
    pub(crate) forks: u64,
    /// With its children.
    pub(crate) cpu: Duration,
    pub(crate) sent: u64,
    pub(crate) full_resyncs: u64,
}

impl Primary {
    pub(crate) async fn start(binary: &Binary, folder: TempDir, config: &[(&str, &str)]) -> anyhow::Result<Primary> {
        let options = config.iter().fold(ServerOptions::default(), |options, (name, value)| options.with(name, *value));
        let server = Server::start(binary, folder.path(), options).await.context("start a primary")?;
        let asked = server.connect().await?;
        Ok(Primary { server, asked, _folder: folder })
    }

    pub(crate) fn address(&self) -> String {
        self.server.address()
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// How far its replication stream goes.
    pub(crate) async fn offset(&mut self) -> anyhow::Result<u64> {
        number(&info(&mut self.asked, "replication").await?, "master_repl_offset")
    }

    /// What it has paid since it started.
    pub(crate) async fn paid(&mut self) -> anyhow::Result<Paid> {
        let stats = info(&mut self.asked, "stats").await?;
        let process = self.server.process().context("the primary has ended")?;
        // Replication by itself is counted since 7.0. Before that our few questions are in it too.
        let sent = number(&stats, "total_net_repl_output_bytes").or_else(|_| number(&stats, "total_net_output_bytes"))?;
        let (forks, full_resyncs) = (number(&stats, "total_forks")?, number(&stats, "sync_full")?);
        Ok(Paid { forks, cpu: process::cpu(process)?, sent, full_resyncs })
    }

    /// Waits until nobody replicates from it and it has no child: where each measurement begins.
    pub(crate) async fn until_at_rest(&self) -> anyhow::Result<()> {
        let at_rest = wait_until("the primary to be at rest", AT_REST_WITHIN, async || {
            let info = self.server.info("everything").await.map_err(|error| error.to_string())?;
            let seen = ["connected_slaves", "rdb_bgsave_in_progress"].map(|name| info.get(name).map_or("", String::as_str));
            if seen == ["0", "0"] { Ok(()) } else { Err(format!("replicas: {}, saves: {}", seen[0], seen[1])) }
        });
        Ok(at_rest.await?)
    }

    /// Has it send something to its replicas that changes no data.
    pub(crate) async fn speak(&mut self) -> anyhow::Result<()> {
        let answer = self.asked.command(&["PUBLISH", "bench", "begin"], ANSWER_WITHIN).await.context("publish to the primary")?;
        anyhow::ensure!(matches!(answer, Value::Integer(_)), "PUBLISH gave {answer:?}");
        Ok(())
    }

    /// CONFIG SET; tells whether the server knows the name.
    pub(crate) async fn set_if_known(&mut self, name: &str, value: &str) -> anyhow::Result<bool> {
        let answer = self.asked.command(&["CONFIG", "SET", name, value], ANSWER_WITHIN).await.context("configure the primary")?;
        Ok(answer == Value::Simple("OK".to_owned()))
    }

    /// Ends it and waits for that.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        Ok(self.server.kill().await?)
    }
}

impl std::ops::Sub for Paid {
    type Output = Paid;

    fn sub(self, before: Paid) -> Paid {
        Paid {
            forks: self.forks.saturating_sub(before.forks),
            cpu: self.cpu.saturating_sub(before.cpu),
            sent: self.sent.saturating_sub(before.sent),
            full_resyncs: self.full_resyncs.saturating_sub(before.full_resyncs),
        }
    }
}

/// INFO over a connection that stays open.
pub(crate) async fn info(connection: &mut Connection, section: &str) -> anyhow::Result<BTreeMap<String, String>> {
    let answer = connection.command(&["INFO", section], ANSWER_WITHIN).await.context("ask a server for INFO")?;
    let text = match answer {
        Value::Bulk(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Value::Error(_) | Value::Simple(_) | Value::Integer(_) | Value::Nil | Value::Array(_) => anyhow::bail!("INFO gave {answer:?}"),
    };
    let pairs = text.lines().filter_map(|line| line.trim_end().split_once(':'));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}

/// A number that must be there.
pub(crate) fn number(info: &BTreeMap<String, String>, field: &str) -> anyhow::Result<u64> {
    let value = info.get(field).with_context(|| format!("INFO has no {field}"))?;
    value.parse().with_context(|| format!("INFO says {field}:{value}"))
}
