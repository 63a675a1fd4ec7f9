//! What each command may do through the reader endpoint: a table of names.
//!
//! Promises: a command that writes, administers or replicates never reaches a server, whatever that server would say to it (promise P9
//! even if the replica is detached or misconfigured); names are compared as servers do, without regard to case. What the table does not
//! know (modules, newer versions) goes to the server as [`Rule::Unknown`]: a replica refuses writes by itself, and with a detached
//! one unknown names are refused here.
//!
//! Not here: whether a connection may move ([`super::session`]). The table is held against a real server's `COMMAND` in the runtime's tests.

use super::session::Pin;

/// What happens with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Goes to the server and changes nothing there that outlives its reply.
    Read,
    /// Goes to a replica, which refuses it should it write; is refused where the active is detached.
    Unknown,
    /// Answered here: `-READONLY`.
    Write,
    /// Answered here: not offered.
    Refused,
    /// Changes the session; its arguments are looked at once it is whole.
    Session,
    /// `MULTI`
    Multi,
    /// `EXEC`
    Exec,
    /// `DISCARD`
    Discard,
    /// `WATCH`
    Watch,
    /// `UNWATCH`
    Unwatch,
    /// `RESET`
    Reset,
    /// `QUIT`, answered here.
    Quit,
    /// Binds the connection to its server for good.
    Pin(Pin),
}

/// What a name alone says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByName {
    /// All there is to know.
    Rule(Rule),
    /// The second argument decides.
    Subcommands(&'static Subcommands),
}

/// The subcommands of a command that have a rule of their own.
#[derive(Debug, PartialEq, Eq)]
pub struct Subcommands {
    listed: &'static [(&'static str, Rule)],
    other: Rule,
}

impl Subcommands {
    /// The rule of one; an absent one is given as empty.
    pub fn rule(&self, name: &[u8]) -> Rule {
        let found = self.listed.iter().find(|(listed, _)| listed.as_bytes().eq_ignore_ascii_case(name));
        found.map_or(self.other, |(_, rule)| *rule)
    }
}

/// The rule of a command's name.
pub fn by_name(name: &[u8]) -> ByName {
    let mut upper = [0u8; NAME_BYTES_MAX];
    let Some(upper) = upper.get_mut(..name.len()) else { return ByName::Rule(Rule::Unknown) };
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    let in_list = |list: &[&str]| list.binary_search_by(|listed| listed.as_bytes().cmp(upper)).is_ok();
    // Reads first: they are what this endpoint is for.
    if in_list(READS) {
        ByName::Rule(Rule::Read)
    } else if let Ok(at) = OTHERS.binary_search_by(|(listed, _)| listed.as_bytes().cmp(upper)) {
        OTHERS[at].1
    } else if in_list(WRITES) {
        ByName::Rule(Rule::Write)
    } else if in_list(REFUSED) {
        ByName::Rule(Rule::Refused)
    } else {
        ByName::Rule(Rule::Unknown)
    }
}

/// Sorted. Without container commands whose subcommands differ.
#[rustfmt::skip] // one name a line would be three screens
const READS: &[&str] = &[
    "BITCOUNT", "BITFIELD_RO", "BITPOS", "COMMAND", "DBSIZE", "DIGEST", "DUMP", "ECHO", "EVALSHA_RO", "EVAL_RO", "EXISTS", "EXPIRETIME",
    "FCALL_RO", "GEODIST", "GEOHASH", "GEOPOS", "GEORADIUSBYMEMBER_RO", "GEORADIUS_RO", "GEOSEARCH", "GET", "GETBIT", "GETRANGE", "HEXISTS",
    "HEXPIRETIME", "HGET", "HGETALL", "HKEYS", "HLEN", "HMGET", "HPEXPIRETIME", "HPTTL", "HRANDFIELD", "HSCAN", "HSTRLEN", "HTTL", "HVALS",
    "INFO", "KEYS", "LASTSAVE", "LCS", "LINDEX", "LLEN", "LOLWUT", "LPOS", "LRANGE", "MGET", "OBJECT", "PEXPIRETIME", "PFCOUNT", "PING",
    "PTTL", "PUBLISH", "PUBSUB", "RANDOMKEY", "ROLE", "SCAN", "SCARD", "SDIFF", "SINTER", "SINTERCARD", "SISMEMBER", "SMEMBERS",
    "SMISMEMBER", "SORT_RO", "SPUBLISH", "SRANDMEMBER", "SSCAN", "STRLEN", "SUBSTR", "SUNION", "TIME", "TOUCH", "TTL", "TYPE", "VCARD",
    "VDIM", "VEMB", "VGETATTR", "VINFO", "VISMEMBER", "VLINKS", "VRANDMEMBER", "VRANGE", "VSIM", "WAIT", "WAITAOF", "XINFO", "XLEN",
    "XPENDING", "XRANGE", "XREAD", "XREVRANGE", "ZCARD", "ZCOUNT", "ZDIFF", "ZINTER", "ZINTERCARD", "ZLEXCOUNT", "ZMSCORE", "ZRANDMEMBER",
    "ZRANGE", "ZRANGEBYLEX", "ZRANGEBYSCORE", "ZRANK", "ZREVRANGE", "ZREVRANGEBYLEX", "ZREVRANGEBYSCORE", "ZREVRANK", "ZSCAN", "ZSCORE",
    "ZUNION",
];

/// Sorted. What servers flag `write`: a read-only replica refuses each of them, also where a form of it would only read (`SORT`).
#[rustfmt::skip] // one name a line would be three screens
const WRITES: &[&str] = &[
    "APPEND", "BITFIELD", "BITOP", "BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN", "COPY", "DECR",
    "DECRBY", "DEL", "DELEX", "DELIFEQ", "EXPIRE", "EXPIREAT", "FLUSHALL", "FLUSHDB", "GEOADD", "GEORADIUS", "GEORADIUSBYMEMBER",
    "GEOSEARCHSTORE", "GETDEL", "GETEX", "GETSET", "HDEL", "HEXPIRE", "HEXPIREAT", "HGETDEL", "HGETEX", "HINCRBY", "HINCRBYFLOAT", "HMSET",
    "HPERSIST", "HPEXPIRE", "HPEXPIREAT", "HSET", "HSETEX", "HSETNX", "INCR", "INCRBY", "INCRBYFLOAT", "LINSERT", "LMOVE", "LMPOP", "LPOP",
    "LPUSH", "LPUSHX", "LREM", "LSET", "LTRIM", "MOVE", "MSET", "MSETEX", "MSETNX", "PERSIST", "PEXPIRE", "PEXPIREAT", "PFADD", "PFMERGE",
    "PSETEX", "RENAME", "RENAMENX", "RPOP", "RPOPLPUSH", "RPUSH", "RPUSHX", "SADD", "SDIFFSTORE", "SET", "SETBIT", "SETEX", "SETNX",
    "SETRANGE", "SINTERSTORE", "SMOVE", "SORT", "SPOP", "SREM", "SUNIONSTORE", "UNLINK", "VADD", "VREM", "VSETATTR", "XACK", "XACKDEL",
    "XADD", "XAUTOCLAIM", "XCFGSET", "XCLAIM", "XDEL", "XDELEX", "XGROUP", "XREADGROUP", "XSETID", "XTRIM", "ZADD", "ZDIFFSTORE", "ZINCRBY",
    "ZINTERSTORE", "ZMPOP", "ZPOPMAX", "ZPOPMIN", "ZRANGESTORE", "ZREM", "ZREMRANGEBYLEX", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE",
    "ZUNIONSTORE",
];

/// Sorted. Administration and replication: rbuddy's or an operator's business, over another connection.
#[rustfmt::skip] // one name a line would be three screens
const REFUSED: &[&str] = &[
    "ASKING", "BGREWRITEAOF", "BGSAVE", "CLUSTER", "CLUSTERSCAN", "DEBUG", "FAILOVER", "HOTKEYS", "MIGRATE", "PFDEBUG", "PFSELFTEST",
    "PSYNC", "REPLCONF", "REPLICAOF", "RESTORE", "RESTORE-ASKING", "SAVE", "SENTINEL", "SHUTDOWN", "SLAVEOF", "SWAPDB", "SYNC", "TRIMSLOTS",
];

/// Sorted.
const OTHERS: &[(&str, ByName)] = &[
    ("ACL", ByName::Subcommands(&ACL)),
    ("AUTH", ByName::Rule(Rule::Session)),
    ("CLIENT", ByName::Rule(Rule::Session)),
    ("COMMANDLOG", ByName::Subcommands(&LOGS)),
    ("CONFIG", ByName::Subcommands(&CONFIG)),
    ("DISCARD", ByName::Rule(Rule::Discard)),
    ("EVAL", ByName::Rule(Rule::Unknown)),
    ("EVALSHA", ByName::Rule(Rule::Unknown)),
    ("EXEC", ByName::Rule(Rule::Exec)),
    ("FCALL", ByName::Rule(Rule::Unknown)),
    ("FUNCTION", ByName::Subcommands(&FUNCTION)),
    ("HELLO", ByName::Rule(Rule::Session)),
    ("LATENCY", ByName::Subcommands(&LOGS)),
    ("MEMORY", ByName::Subcommands(&MEMORY)),
    ("MODULE", ByName::Subcommands(&MODULE)),
    ("MONITOR", ByName::Rule(Rule::Pin(Pin::Tunnel))),
    ("MULTI", ByName::Rule(Rule::Multi)),
    ("PSUBSCRIBE", ByName::Rule(Rule::Pin(Pin::Tunnel))),
    ("PUNSUBSCRIBE", ByName::Rule(Rule::Pin(Pin::Tunnel))),
    ("QUIT", ByName::Rule(Rule::Quit)),
    ("READONLY", ByName::Rule(Rule::Session)),
    ("READWRITE", ByName::Rule(Rule::Session)),
    ("RESET", ByName::Rule(Rule::Reset)),
    ("SCRIPT", ByName::Subcommands(&SCRIPT)),
    ("SELECT", ByName::Rule(Rule::Session)),
    ("SLOWLOG", ByName::Subcommands(&LOGS)),
    ("SSUBSCRIBE", ByName::Rule(Rule::Pin(Pin::Tunnel))),
    ("SUBSCRIBE", ByName::Rule(Rule::Pin(Pin::Tunnel))),
    ("SUNSUBSCRIBE", ByName::Rule(Rule::Pin(Pin::Tunnel))),
    ("UNSUBSCRIBE", ByName::Rule(Rule::Pin(Pin::Tunnel))),
    ("UNWATCH", ByName::Rule(Rule::Unwatch)),
    ("WATCH", ByName::Rule(Rule::Watch)),
];

static ACL: Subcommands = Subcommands {
    listed: &[("SETUSER", Rule::Refused), ("DELUSER", Rule::Refused), ("LOAD", Rule::Refused), ("SAVE", Rule::Refused)],
    other: Rule::Read,
};
// What a later version adds to these containers is administration too, hence only what is known to be harmless passes.
static CONFIG: Subcommands = Subcommands { listed: &[("GET", Rule::Read), ("HELP", Rule::Read)], other: Rule::Refused };
static MODULE: Subcommands = Subcommands { listed: &[("LIST", Rule::Read), ("HELP", Rule::Read)], other: Rule::Refused };
static LOGS: Subcommands = Subcommands { listed: &[("RESET", Rule::Refused)], other: Rule::Read };
static MEMORY: Subcommands = Subcommands { listed: &[("PURGE", Rule::Refused)], other: Rule::Read };
static SCRIPT: Subcommands = Subcommands { listed: &[("KILL", Rule::Refused), ("DEBUG", Rule::Refused)], other: Rule::Read };
static FUNCTION: Subcommands = Subcommands {
    listed: &[("DELETE", Rule::Write), ("FLUSH", Rule::Write), ("KILL", Rule::Refused), ("LOAD", Rule::Write), ("RESTORE", Rule::Write)],
    other: Rule::Read,
};

const NAME_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sorted_and_a_name_is_in_one_of_them() {
        let others: Vec<&str> = OTHERS.iter().map(|(name, _)| *name).collect();
        for list in [READS, WRITES, REFUSED, &others] {
            assert!(list.windows(2).all(|pair| pair[0] < pair[1]), "{list:?}");
            assert!(list.iter().all(|name| name.len() <= NAME_BYTES_MAX && *name == name.to_ascii_uppercase()));
        }
        let mut all: Vec<&str> = [READS, WRITES, REFUSED, &others].concat();
        all.sort_unstable();
        assert!(all.windows(2).all(|pair| pair[0] != pair[1]));
    }

    #[test]
    fn names_are_found_without_regard_to_case() {
        assert_eq!(by_name(b"gEt"), ByName::Rule(Rule::Read));
        assert_eq!(by_name(b"set"), ByName::Rule(Rule::Write));
        assert_eq!(by_name(b"slaveof"), ByName::Rule(Rule::Refused));
        assert_eq!(by_name(b"json.set"), ByName::Rule(Rule::Unknown));
        assert_eq!(by_name(b""), ByName::Rule(Rule::Unknown));
        assert_eq!(by_name(&[b'a'; 100]), ByName::Rule(Rule::Unknown));
    }

    #[test]
    fn subcommands_have_their_own_rules() {
        let rule = |name: &[u8], sub: &[u8]| match by_name(name) {
            ByName::Subcommands(subcommands) => subcommands.rule(sub),
            ByName::Rule(rule) => rule,
        };
        assert_eq!(rule(b"config", b"get"), Rule::Read);
        assert_eq!(rule(b"config", b"set"), Rule::Refused);
        assert_eq!(rule(b"config", b""), Rule::Refused);
        assert_eq!(rule(b"function", b"load"), Rule::Write);
        assert_eq!(rule(b"function", b"list"), Rule::Read);
        assert_eq!(rule(b"script", b"load"), Rule::Read);
        assert_eq!(rule(b"acl", b"whoami"), Rule::Read);
        assert_eq!(rule(b"acl", b"setuser"), Rule::Refused);
    }
}
