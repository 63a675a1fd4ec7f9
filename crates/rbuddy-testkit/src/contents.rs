//! What a server holds, key by key, in a form that is the same for every version and family: DEBUG DIGEST and DUMP are not. For small datasets.

use rbuddy_lab::resp::Value;
use rbuddy_lab::{LabError, Server};
use std::collections::BTreeMap;

/// Databases that are looked at.
const DATABASES: u8 = 16;

/// Database and name of each key; its type, whether it expires, and its value.
pub type Contents = BTreeMap<(u8, String), (String, bool, Value)>;

/// Everything that it holds.
pub async fn contents(server: &Server) -> Result<Contents, LabError> {
    let mut contents = Contents::new();
    let mut ask = Asker::new(server).await?;
    for database in 0..DATABASES {
        ask.of(&["SELECT", &database.to_string()]).await?;
        for key in texts(ask.of(&["KEYS", "*"]).await?) {
            let kind = ask.of(&["TYPE", &key]).await?.text().unwrap_or_default();
            let expires = ask.of(&["PTTL", &key]).await? != Value::Integer(-1);
            let value = match kind.as_str() {
                "string" => ask.of(&["GET", &key]).await?,
                "list" => ask.of(&["LRANGE", &key, "0", "-1"]).await?,
                "set" => sorted(ask.of(&["SMEMBERS", &key]).await?, 1),
                "hash" => sorted(ask.of(&["HGETALL", &key]).await?, 2),
                "zset" => ask.of(&["ZRANGE", &key, "0", "-1", "WITHSCORES"]).await?,
                "stream" => ask.of(&["XRANGE", &key, "-", "+"]).await?,
                // Gone since it was listed.
                _ => continue,
            };
            contents.insert((database, key), (kind, expires, value));
        }
    }
    Ok(contents)
}

/// The first difference, in words.
pub fn difference(one: &Contents, other: &Contents) -> Option<String> {
    let keys = one.keys().chain(other.keys());
    keys.map(|key| (key, one.get(key), other.get(key)))
        .find(|(_, one, other)| one != other)
        .map(|(key, one, other)| format!("{key:?}: {one:?} and {other:?}"))
}

/// One connection: the database is a connection's.
struct Asker<'a> {
    server: &'a Server,
    connection: rbuddy_lab::resp::Connection,
}

impl<'a> Asker<'a> {
    async fn new(server: &'a Server) -> Result<Asker<'a>, LabError> {
        Ok(Asker { server, connection: server.connect().await? })
    }

    async fn of(&mut self, arguments: &[&str]) -> Result<Value, LabError> {
        let what = LabError::io(format!("ask {} for {}", self.server.address(), arguments.join(" ")));
        match self.connection.command(arguments, crate::SOON).await.map_err(what)? {
            Value::Error(answer) => Err(LabError::Answer { address: self.server.address(), command: arguments.join(" "), answer }),
            value @ (Value::Simple(_) | Value::Integer(_) | Value::Bulk(_) | Value::Nil | Value::Array(_)) => Ok(value),
        }
    }
}

fn texts(value: Value) -> Vec<String> {
    match value {
        Value::Array(items) => items.iter().filter_map(Value::text).collect(),
        Value::Simple(_) | Value::Error(_) | Value::Integer(_) | Value::Bulk(_) | Value::Nil => Vec::new(),
    }
}

/// Sets and hashes have no order: theirs is that of the texts, `width` at a time.
fn sorted(value: Value, width: usize) -> Value {
    let texts = texts(value);
    let mut groups: Vec<&[String]> = texts.chunks(width).collect();
    groups.sort();
    Value::Array(groups.concat().into_iter().map(|text| Value::Bulk(text.into_bytes())).collect())
}
