//! A replica of a measurement, and when it came to serve.

use crate::primary::{info, number};
use anyhow::Context;
use rbuddy_lab::resp::{Connection, Value};
use rbuddy_lab::{Binary, Server, ServerOptions, wait_until_polled};
use std::fs;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long one answer may take. A replica that empties itself or loads answers late.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// How closely a resync is watched.
const POLL_EVERY: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(crate) struct Replica {
    server: Server,
    asked: Connection,
    _folder: TempDir,
}

/// The phases of a full resync as the replica shows them, from the start of the clock. One too short to be seen is absent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Phases {
    pub(crate) first_byte: Option<Duration>,
    pub(crate) loads: Option<Duration>,
    /// Link up, nothing loading, all keys there.
    pub(crate) serves: Duration,
}

impl Replica {
    pub(crate) async fn start(binary: &Binary, folder: TempDir) -> anyhow::Result<Replica> {
        let server = Server::start(binary, folder.path(), ServerOptions::default()).await.context("start a replica")?;
        let asked = server.connect().await?;
        Ok(Replica { server, asked, _folder: folder })
    }

    pub(crate) fn server(&self) -> &Server {
        &self.server
    }

    /// REPLICAOF.
    pub(crate) async fn follow(&mut self, address: &str) -> anyhow::Result<()> {
        let (host, port) = address.split_once(':').context("an address without port")?;
        let answer = self.asked.command(&["REPLICAOF", host, port], ANSWER_WITHIN).await.context("send REPLICAOF")?;
        anyhow::ensure!(answer == Value::Simple("OK".to_owned()), "REPLICAOF gave {answer:?}");
        Ok(())
    }

    /// How far it has applied the stream.
    pub(crate) async fn offset(&mut self) -> anyhow::Result<u64> {
        number(&info(&mut self.asked, "replication").await?, "slave_repl_offset")
    }

    /// Waits until it serves `keys` keys; tells its phases from `started` on.
    pub(crate) async fn until_it_serves(&mut self, keys: u64, started: Instant, within: Duration) -> anyhow::Result<Phases> {
        let (mut first_byte, mut loads) = (None, None);
        let asked = &mut self.asked;
        let served = wait_until_polled("a replica to serve", within, POLL_EVERY, async || {
            let info = info(asked, "everything").await.map_err(|error| format!("{error:#}"))?;
            let at = started.elapsed();
            let field = |name: &str| info.get(name).map_or("-", String::as_str);
            if number(&info, "master_sync_read_bytes").is_ok_and(|bytes| bytes > 0) {
                first_byte.get_or_insert(at);
            }
            if field("loading") == "1" {
                loads.get_or_insert(at);
            }
            let names = ["master_link_status", "master_sync_in_progress", "loading"];
            let seen = names.map(field);
            if seen != ["up", "0", "0"] {
                return Err(names.iter().zip(seen).map(|(name, value)| format!("{name}:{value} ")).collect());
            }
            match asked.command(&["DBSIZE"], ANSWER_WITHIN).await.map_err(|error| error.to_string())? {
                Value::Integer(found) if found.cast_unsigned() == keys => Ok(started.elapsed()),
                other @ (Value::Integer(_) | Value::Error(_) | Value::Simple(_) | Value::Bulk(_) | Value::Nil | Value::Array(_)) => {
                    Err(format!("DBSIZE gave {other:?} instead of {keys}"))
                }
            }
        });
        let serves = served.await.with_context(|| format!("the end of the replica's log:\n{}", self.server.log_tail(8)))?;
        Ok(Phases { first_byte, loads, serves })
    }

    /// Full resyncs that it took since it started.
    pub(crate) fn full_resyncs(&self) -> usize {
        // It counts only those that it gives. Its log is the same in this point in all versions of both families.
        let log = fs::read_to_string(self.server.folder().join("server.log")).unwrap_or_default();
        log.matches("Full resync from ").count()
    }

    /// Ends it and waits for that, so that its end is no part of the next measurement.
    pub(crate) async fn end(mut self) -> anyhow::Result<()> {
        Ok(self.server.kill().await?)
    }
}

/// Waits until all serve; gives the phases of the first one, with the moment when the last one served. They are watched one after
/// another: the last one is seen as it happens, whoever it is.
pub(crate) async fn until_all_serve(replicas: &mut [Replica], keys: u64, started: Instant, within: Duration) -> anyhow::Result<Phases> {
    let mut all: Option<Phases> = None;
    for replica in replicas {
        let phases = replica.until_it_serves(keys, started, within).await?;
        all = Some(Phases { serves: phases.serves, ..all.unwrap_or(phases) });
    }
    all.context("no replicas")
}

/// Ends them all.
pub(crate) async fn end_all(replicas: impl IntoIterator<Item = Replica>) -> anyhow::Result<()> {
    for replica in replicas {
        replica.end().await?;
    }
    Ok(())
}
