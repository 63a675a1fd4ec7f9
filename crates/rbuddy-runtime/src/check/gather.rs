//! Asks a server for the facts. What one server refuses to say is left out; only a server that gives no `INFO` is silent.

use super::Depth;
use super::facts::{Access, Server, ServerFacts, Silence};
use crate::admin::{AdminConnection, AdminError, text};
use crate::server_settings;
use crate::settings::Endpoint;
use rbuddy_core::info::ServerInfo;
use rbuddy_core::types::NodeAddress;
use redis::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, sleep};

/// Commands that a replica must know, each as it will be sent (with `CONFIG SET` of what rbuddy sets).
pub(super) const FOR_REPLICAS: &[(&str, &[&str])] = &[
    ("INFO", &["INFO"]),
    ("CONFIG GET", &["CONFIG", "GET", "replica-serve-stale-data"]),
    ("CONFIG SET", &["CONFIG", "SET", "replica-serve-stale-data", "no"]),
    ("CONFIG REWRITE", &["CONFIG", "REWRITE"]),
    ("REPLICAOF", &["REPLICAOF", "NO", "ONE"]),
    ("FLUSHALL", &["FLUSHALL", "ASYNC"]),
    ("FUNCTION FLUSH", &["FUNCTION", "FLUSH", "ASYNC"]),
    ("MULTI", &["MULTI"]),
    ("EXEC", &["EXEC"]),
    ("CLIENT ID", &["CLIENT", "ID"]),
    ("CLIENT KILL", &["CLIENT", "KILL", "ID", "1"]),
];

/// Commands that the primary must know: what a replica says to it, and the probe's `INFO`.
pub(super) const FOR_PRIMARY: &[(&str, &[&str])] =
    &[("PING", &["PING"]), ("REPLCONF", &["REPLCONF", "ACK", "0"]), ("PSYNC", &["PSYNC", "?", "-1"]), ("INFO", &["INFO"])];

const PARAMETERS: &[&str] = &["masterauth", "masteruser", "save", "replica-serve-stale-data", "replica-read-only", "repl-diskless-load"];

/// Everything about one server.
pub(super) async fn server(endpoint: &Endpoint, depth: Depth, is_primary: bool, timeout: Duration) -> Server {
    let facts = ask(endpoint, depth, is_primary, timeout)
        .await
        .map_err(|error| Silence { is_denied: matches!(error, AdminError::Denied { .. }), reason: error.to_string() });
    Server { address: endpoint.address.clone(), facts }
}

async fn ask(endpoint: &Endpoint, depth: Depth, is_primary: bool, timeout: Duration) -> Result<ServerFacts, AdminError> {
    let connection = AdminConnection::open(endpoint, timeout).await?;
    let (info, asked_at) = (connection.info().await?, Instant::now());
    let mut facts = ServerFacts { info, ..ServerFacts::default() };
    if depth == Depth::Identity {
        return Ok(facts);
    }
    let needed = if is_primary { FOR_PRIMARY } else { FOR_REPLICAS };
    facts.commands = commands(&connection, &facts.info, needed).await;
    for name in PARAMETERS {
        if let Ok(Some(value)) = connection.config_get(name).await {
            facts.config.insert(name, value);
        }
    }
    facts.settings = server_settings::ask(&connection).await.unwrap_or_default();
    facts.sentinels = answer(&connection, &["CLIENT", "LIST"]).await.and_then(|list| text(&list)).map_or(0, |list| sentinels(&list));
    if let Some(file) = &facts.info.config_file {
        facts.file_replicaof = replicaof_in_file(&endpoint.address, file).await;
    }
    if is_primary {
        facts.write_rate = write_rate(&connection, &facts.info, asked_at).await;
    }
    Ok(facts)
}

/// How fast the history grows, over a second.
async fn write_rate(connection: &AdminConnection, before: &ServerInfo, asked_at: Instant) -> Option<f64> {
    sleep(Duration::from_secs(1)).await;
    let after = connection.info().await.ok()?;
    let grown = before.offset?.bytes_behind(after.offset?).unwrap_or(0);
    (before.replid == after.replid).then(|| grown as f64 / asked_at.elapsed().as_secs_f64())
}

async fn commands(connection: &AdminConnection, info: &ServerInfo, needed: &[(&'static str, &[&str])]) -> BTreeMap<&'static str, Access> {
    let user = answer(connection, &["ACL", "WHOAMI"]).await.and_then(|user| text(&user));
    let has_acl = info.version.is_none_or(|version| version.at_least(6, 0));
    let mut access = BTreeMap::new();
    for (name, sample) in needed {
        let verdict = match exists(connection, sample[0]).await {
            Some(false) => Access::Missing,
            // Before 6.0 there are no permissions: what exists may be used.
            Some(true) if !has_acl => Access::Allowed,
            Some(true) | None => dry_run(connection, user.as_deref(), sample).await,
        };
        access.insert(*name, verdict);
    }
    access
}

/// `COMMAND INFO` answers nil for what the server does not know, which is also how a renamed command looks.
async fn exists(connection: &AdminConnection, command: &str) -> Option<bool> {
    let Value::Array(answers) = answer(connection, &["COMMAND", "INFO", command]).await? else { return None };
    answers.first().map(|answer| !matches!(answer, Value::Nil))
}

/// `ACL DRYRUN` (7.0 and newer) says whether a user may, without doing it.
async fn dry_run(connection: &AdminConnection, user: Option<&str>, sample: &[&str]) -> Access {
    let Some(user) = user else { return Access::Unknown };
    let mut args = vec!["ACL", "DRYRUN", user];
    args.extend_from_slice(sample);
    match answer(connection, &args).await {
        Some(Value::Okay) => Access::Allowed,
        Some(_) => Access::Denied,
        None => Access::Unknown,
    }
}

/// What the server says, if it says anything.
async fn answer(connection: &AdminConnection, args: &[&str]) -> Option<Value> {
    connection.command(args).await.ok()
}

/// A Sentinel names its connections `sentinel-<id>-cmd` and `sentinel-<id>-pubsub`.
fn sentinels(client_list: &str) -> usize {
    let name = |line: &str| line.split(' ').find_map(|field| field.strip_prefix("name=").map(str::to_owned));
    client_list.lines().filter_map(name).filter(|name| name.starts_with("sentinel-") && name.ends_with("-cmd")).count()
}

/// The last `replicaof` of a configuration file, if the server runs on this machine and the file can be read.
async fn replicaof_in_file(server: &NodeAddress, file: &str) -> Option<Option<NodeAddress>> {
    let is_here = server.host == "localhost" || server.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if !is_here || !tokio::fs::metadata(file).await.ok()?.is_file() {
        return None;
    }
    // The path is the server's word: whatever it names, no more than this is read.
    let mut text = String::new();
    tokio::fs::File::open(file).await.ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).await.ok()?;
    Some(text.lines().filter_map(replicaof).next_back())
}

fn replicaof(line: &str) -> Option<NodeAddress> {
    let mut words = line.split_whitespace();
    let directive = words.next()?.to_ascii_lowercase();
    let (host, port) = (words.next()?.trim_matches('"'), words.next()?.parse().ok()?);
    matches!(directive.as_str(), "replicaof" | "slaveof").then(|| NodeAddress::new(host, port))
}

/// The longest default file has some 120 KiB.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentinels_are_counted_by_their_command_connection() {
        let list = "id=3 addr=127.0.0.1:1 name=sentinel-ab12-cmd age=1\nid=4 name=sentinel-ab12-pubsub age=1\nid=5 name= age=1\nid=6 name=sentinel age=1\n";
        assert_eq!(sentinels(list), 1);
    }

    #[tokio::test]
    async fn the_last_replicaof_of_a_file_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("redis.conf");
        std::fs::write(&file, "# replicaof a 1\nreplicaof b 2\nSLAVEOF \"c\" 3\nport 1\n").expect("writable");
        let path = file.to_str().expect("a path in ASCII");
        assert_eq!(replicaof_in_file(&NodeAddress::new("127.0.0.1", 1), path).await, Some(Some(NodeAddress::new("c", 3))));
        assert_eq!(replicaof_in_file(&NodeAddress::new("db", 1), path).await, None, "the file of another machine is not ours to judge");
        assert_eq!(replicaof_in_file(&NodeAddress::new("127.0.0.1", 1), "/no/such/file").await, None);
    }
}
