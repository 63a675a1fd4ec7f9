//! What a server says of itself, typed: the fields of `INFO` that decisions rest on.
//!
//! Parsing never fails as a whole: a field that is missing or odd is `None`, and whoever needs it says so. Field meanings and the
//! versions that have them: protocol facts, section 10. Not here: asking (that is the runtime's), `CONFIG`.

use crate::types::{Flavour, NodeAddress, Offset, Position, ReplId, RunId, ServerVersion};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One answer to `INFO`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ServerInfo {
    /// Redis or Valkey, and which.
    pub version: Option<ServerVersion>,
    /// The process.
    pub run_id: Option<RunId>,
    /// `role:` as given.
    pub role: Option<Role>,
    /// `redis_mode:cluster` or `cluster_enabled:1`.
    pub is_cluster: bool,
    /// The server's configuration file, as it names it; `None` if it runs without one.
    pub config_file: Option<String>,
    /// Whom it replicates.
    pub master: Option<NodeAddress>,
    /// Its link is up: loaded, and the stream flows.
    pub is_link_up: bool,
    /// Seconds for which its link has been down.
    pub link_down_s: Option<u64>,
    /// A full resync arrives or is loaded.
    pub is_sync_in_progress: bool,
    /// The dataset is loading: reads are refused.
    pub is_loading: bool,
    /// The dataset is loading beside the old one (`swapdb` with the same history).
    pub is_async_loading: bool,
    /// `slave_read_only`.
    pub is_read_only: Option<bool>,
    /// Own id of the history.
    pub replid: Option<ReplId>,
    /// The id before.
    pub replid2: Option<ReplId>,
    /// First byte (as PSYNC counts) for which `replid2` is not right any more.
    pub second_offset: Option<u64>,
    /// Bytes of the history that were executed.
    pub offset: Option<Offset>,
    /// First byte in its backlog.
    pub backlog_first_byte: Option<u64>,
    /// Bytes in its backlog.
    pub backlog_histlen: Option<u64>,
    /// Size of its backlog.
    pub backlog_size: Option<u64>,
    /// Full resyncs that it has given.
    pub sync_full: Option<u64>,
    /// Bytes of memory in use.
    pub used_memory: Option<u64>,
    /// Its limit; 0 is none.
    pub max_memory: Option<u64>,
    /// The machine's memory.
    pub system_memory: Option<u64>,
    /// Keys that it has evicted, since it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted_keys: Option<u64>,
    /// Its eviction policy.
    pub max_memory_policy: Option<String>,
    /// Its modules, each with its version; `None` where `INFO` does not tell of modules (before 6.0).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modules: Option<BTreeMap<String, u64>>,
    /// The highest number of a database that has keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest_database: Option<u64>,
    /// Functions that it holds (7.0 and newer).
    pub functions: u64,
    /// Replicas attached to it.
    pub connected_replicas: u64,
    /// Unix time of its last complete save.
    pub last_save_s: Option<u64>,
    /// Whether it appends to an AOF.
    pub is_aof_enabled: bool,
    /// Its keys.
    pub keyspace: Keyspace,
}

/// `role:` of `INFO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `master`
    Master,
    /// `slave`, also in Valkey
    Slave,
    /// `sentinel`
    Sentinel,
}

/// Counts over all databases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Keyspace {
    /// Keys.
    pub keys: u64,
    /// Of these, keys with a TTL.
    pub expires: u64,
    /// Average TTL of these, weighted over the databases, in milliseconds; 0 where the server does not know.
    pub avg_ttl_ms: u64,
}

impl Keyspace {
    /// Keys that nothing but a command can remove.
    pub fn persistent(&self) -> u64 {
        self.keys.saturating_sub(self.expires)
    }
}

impl ServerInfo {
    /// Reads an answer to `INFO`, `INFO all` or any sections of it.
    pub fn parse(text: &str) -> ServerInfo {
        let mut info = ServerInfo::default();
        let mut master_host: Option<&str> = None;
        let mut master_port: Option<u16> = None;
        let mut replica_offset: Option<Offset> = None;
        let mut redis_version: Option<&str> = None;
        let mut valkey_version: Option<&str> = None;
        let mut ttl_sum: u128 = 0;
        for line in text.lines() {
            let line = line.trim_end();
            if line == "# Modules" {
                info.modules.get_or_insert_default();
            }
            let Some((key, value)) = line.split_once(':') else { continue };
            let flag = value == "1";
            match key {
                "redis_version" => redis_version = Some(value),
                "valkey_version" => valkey_version = Some(value),
                "redis_mode" | "server_mode" => info.is_cluster |= value == "cluster",
                "cluster_enabled" => info.is_cluster |= flag,
                "run_id" => info.run_id = value.parse().ok(),
                "config_file" => info.config_file = Some(value.to_owned()).filter(|file| !file.is_empty()),
                "role" => {
                    info.role = match value {
                        "master" => Some(Role::Master),
                        "slave" => Some(Role::Slave),
                        "sentinel" => Some(Role::Sentinel),
                        _ => None,
                    }
                }
                "master_host" => master_host = Some(value),
                "master_port" => master_port = value.parse().ok(),
                "master_link_status" => info.is_link_up = value == "up",
                "master_link_down_since_seconds" => info.link_down_s = value.parse().ok(),
                "master_sync_in_progress" => info.is_sync_in_progress = flag,
                "loading" => info.is_loading = flag,
                "async_loading" => info.is_async_loading = flag,
                "slave_read_only" => info.is_read_only = Some(flag),
                "master_replid" => info.replid = value.parse().ok(),
                "master_replid2" => info.replid2 = value.parse().ok().filter(|id: &ReplId| !id.is_none()),
                "second_repl_offset" => info.second_offset = value.parse().ok(),
                "master_repl_offset" => info.offset = value.parse().ok(),
                "slave_repl_offset" => replica_offset = value.parse().ok(),
                "repl_backlog_first_byte_offset" => info.backlog_first_byte = value.parse().ok(),
                "repl_backlog_histlen" => info.backlog_histlen = value.parse().ok(),
                "repl_backlog_size" => info.backlog_size = value.parse().ok(),
                "sync_full" => info.sync_full = value.parse().ok(),
                "used_memory" => info.used_memory = value.parse().ok(),
                "evicted_keys" => info.evicted_keys = value.parse().ok(),
                "maxmemory" => info.max_memory = value.parse().ok(),
                "total_system_memory" => info.system_memory = value.parse().ok(),
                "maxmemory_policy" => info.max_memory_policy = Some(value.to_owned()),
                "number_of_functions" => info.functions = value.parse().unwrap_or(0),
                "connected_slaves" => info.connected_replicas = value.parse().unwrap_or(0),
                "rdb_last_save_time" => info.last_save_s = value.parse().ok(),
                "aof_enabled" => info.is_aof_enabled = flag,
                "module" => info.modules.get_or_insert_default().extend(module(value)),
                _ if database(key).is_some() => {
                    let (keys, expires, avg_ttl_ms) = database_counts(value);
                    info.highest_database = info.highest_database.max(database(key).filter(|_| keys > 0));
                    info.keyspace.keys = info.keyspace.keys.saturating_add(keys);
                    info.keyspace.expires = info.keyspace.expires.saturating_add(expires);
                    ttl_sum = ttl_sum.saturating_add(u128::from(expires) * u128::from(avg_ttl_ms));
                }
                _ => {}
            }
        }
        info.version = match (valkey_version, redis_version) {
            (Some(text), _) => ServerVersion::parse(Flavour::Valkey, text).ok(),
            (None, Some(text)) => ServerVersion::parse(Flavour::Redis, text).ok(),
            (None, None) => None,
        };
        if let (Some(host), Some(port)) = (master_host, master_port) {
            // Through its text: what is no address there could be written down with this answer, and never be read again.
            info.master = NodeAddress::new(host, port).to_string().parse().ok();
        }
        // A replica's own count is slave_repl_offset; before 7.0 it shows a constant 1 while there is no link, hence the larger of the two.
        info.offset = info.offset.max(replica_offset);
        info.keyspace.avg_ttl_ms =
            ttl_sum.checked_div(u128::from(info.keyspace.expires)).and_then(|average| u64::try_from(average).ok()).unwrap_or(0);
        info
    }

    /// Own position in its history.
    pub fn position(&self) -> Option<Position> {
        Some(Position::new(self.replid?, self.offset?))
    }

    /// Whether reads are answered from a dataset that is all there.
    pub fn serves_a_complete_dataset(&self) -> bool {
        // While a payload arrives the old data is served (protocol fact 2.4), so a sync in progress alone does not count;
        // the load that follows it does.
        !self.is_loading
    }

    /// No keys and no functions: nothing that could be lost.
    pub fn is_empty(&self) -> bool {
        !self.is_loading && self.keyspace.keys == 0 && self.functions == 0
    }
}

/// `db7`
fn database(key: &str) -> Option<u64> {
    key.strip_prefix("db").filter(|number| number.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()
}

/// `name=search,ver=20612,api=1,…`
fn module(value: &str) -> Option<(String, u64)> {
    let field = |name: &str| value.split(',').find_map(|field| field.split_once('=').filter(|(key, _)| *key == name)).map(|(_, text)| text);
    Some((field("name")?.to_owned(), field("ver")?.parse().ok()?))
}

/// `keys=3,expires=1,avg_ttl=1000` (newer versions add more).
fn database_counts(value: &str) -> (u64, u64, u64) {
    let count =
        |name: &str| value.split(',').find_map(|field| field.split_once('=').filter(|(key, _)| *key == name)?.1.parse().ok()).unwrap_or(0);
    (count("keys"), count("expires"), count("avg_ttl"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD_REPLICA: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:00000000000000000000000000000000000000aa\r\n\
        config_file:\r\n# Persistence\r\nloading:0\r\nasync_loading:0\r\n# Stats\r\nsync_full:0\r\nevicted_keys:7\r\n# Replication\r\nrole:slave\r\n\
        master_host:127.0.0.1\r\nmaster_port:6382\r\nmaster_link_status:down\r\nmaster_sync_in_progress:0\r\n\
        slave_repl_offset:105\r\nmaster_link_down_since_seconds:7\r\nslave_read_only:1\r\nconnected_slaves:0\r\n\
        master_replid:ab00000000000000000000000000000000000000\r\nmaster_replid2:0000000000000000000000000000000000000000\r\n\
        master_repl_offset:105\r\nsecond_repl_offset:-1\r\n# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=1000\r\ndb7:keys=1,expires=1,avg_ttl=3000,subexpiry=0\r\n";

    #[test]
    fn a_held_replica_is_read() {
        let info = ServerInfo::parse(HELD_REPLICA);
        assert_eq!(info.role, Some(Role::Slave));
        assert_eq!(info.master, Some(NodeAddress::new("127.0.0.1", 6382)));
        assert!(!info.is_link_up && !info.is_loading && !info.is_cluster);
        assert_eq!((info.link_down_s, info.evicted_keys), (Some(7), Some(7)));
        assert_eq!(info.offset.map(Offset::get), Some(105));
        assert_eq!(info.replid2, None, "forty zeros name no history");
        assert_eq!(info.config_file, None);
        assert_eq!(info.keyspace, Keyspace { keys: 4, expires: 2, avg_ttl_ms: 2000 });
        assert_eq!(info.keyspace.persistent(), 2);
        assert_eq!((info.highest_database, info.modules), (Some(7), None));
    }

    #[test]
    fn modules_are_told_from_a_server_that_does_not_speak_of_them() {
        assert_eq!(ServerInfo::parse("# Modules\r\n").modules, Some(BTreeMap::new()));
        let text =
            "# Modules\r\nmodule:name=lua,ver=1,api=1,filters=0,usedby=[],using=[],options=[a|b]\r\nmodule:name=ReJSON,ver=20609,api=1\r\n";
        let modules = ServerInfo::parse(text).modules.expect("told");
        assert_eq!(modules, BTreeMap::from([("ReJSON".to_owned(), 20609), ("lua".to_owned(), 1)]));
    }

    #[test]
    fn valkey_is_told_from_redis() {
        let info = ServerInfo::parse("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.2\r\n");
        assert_eq!(info.version.map(|version| version.to_string()).as_deref(), Some("Valkey 9.1.2"));
    }

    #[test]
    fn what_was_read_can_be_written_and_read_again() {
        for host in ["", " ", "a b", "a\rb", "a\u{7f}", "[a", "::1", "a:b", "redis.example"] {
            let info = ServerInfo::parse(&format!("master_host:{host}\r\nmaster_port:6379\r\n"));
            let written = serde_json::to_string(&info).expect("plain data");
            assert_eq!(serde_json::from_str::<ServerInfo>(&written).expect("as it was written"), info, "{host:?}");
        }
        let address = NodeAddress::new("::1", 6379);
        assert_eq!(ServerInfo::parse("master_host:::1\nmaster_port:6379").master, Some(address));
    }

    #[test]
    fn nonsense_is_no_information_and_no_panic() {
        let text = "role:bishop\r\nrun_id:xyz\r\ndb0:keys=-4,expires=9999999999999999999999\r\nmaster_port:99999\r\n:::\r\nmaster_repl_offset:-1\r\ndb:keys=3";
        assert_eq!(ServerInfo::parse(text), ServerInfo::default());
    }
}
