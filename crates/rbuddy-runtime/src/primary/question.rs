//! What one Sentinel says of the primary that it knows by a name.

use super::verdict::Said;
use crate::admin::{AdminConnection, AdminError, text};
use crate::settings::Endpoint;
use rbuddy_core::types::NodeAddress;
use redis::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::task::JoinSet;

/// A Sentinel's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It watches nothing of this name.
    UnknownName,
    /// The primary is here.
    Names {
        /// Where.
        address: NodeAddress,
        /// `config-epoch`: the number of the failover that made it the primary. `None` where it may not be asked.
        epoch: Option<u64>,
    },
}

/// Asks all of them side by side; their answers in the same order, and the further Sentinels that they know.
pub(super) async fn ask_all(sentinels: &[Endpoint], name: &str, timeout: Duration) -> (Vec<Said>, BTreeSet<NodeAddress>) {
    let mut asking = JoinSet::new();
    for (at, sentinel) in sentinels.iter().enumerate() {
        let (sentinel, name) = (sentinel.clone(), name.to_owned());
        asking.spawn(async move { (at, ask(&sentinel, &name, timeout).await, sentinel.address) });
    }
    let (mut said, mut further) = (BTreeMap::new(), BTreeSet::new());
    while let Some(asked) = asking.join_next().await {
        let (at, answer, sentinel) = asked.expect("asking neither panics nor is cancelled");
        let answer = answer.map_err(|error| error.to_string()).map(|(answer, others)| {
            further.extend(others);
            answer
        });
        said.insert(at, Said { sentinel, answer });
    }
    (said.into_values().collect(), further)
}

async fn ask(sentinel: &Endpoint, name: &str, timeout: Duration) -> Result<(Answer, Vec<NodeAddress>), AdminError> {
    let connection = AdminConnection::open(sentinel, timeout).await?;
    // While a failover runs this already names the promoted server, which SENTINEL MASTER does not.
    let Some(address) = address(&connection.command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", name]).await?) else {
        return Ok((Answer::UnknownName, Vec::new()));
    };
    // A login that may ask for no more than the address is good enough.
    let epoch = match connection.command(&["SENTINEL", "MASTER", name]).await {
        Ok(master) => field(&master, "config-epoch").and_then(|epoch| epoch.parse().ok()),
        Err(AdminError::Refused { .. } | AdminError::Denied { .. }) => None,
        Err(error) => return Err(error),
    };
    let others = match connection.command(&["SENTINEL", "SENTINELS", name]).await {
        Ok(Value::Array(others)) => others.iter().filter_map(other).take(OTHERS_MAX).collect(),
        Ok(_) | Err(_) => Vec::new(),
    };
    Ok((Answer::Names { address, epoch }, others))
}

/// `[host, port]`; nil for an unknown name.
fn address(answer: &Value) -> Option<NodeAddress> {
    let Value::Array(parts) = answer else { return None };
    let [host, port] = parts.as_slice() else { return None };
    sound(text(host)?, &text(port)?)
}

fn other(sentinel: &Value) -> Option<NodeAddress> {
    sound(field(sentinel, "ip")?, &field(sentinel, "port")?)
}

fn sound(host: String, port: &str) -> Option<NodeAddress> {
    let port = port.parse().ok().filter(|port| *port != 0)?;
    (!host.is_empty() && !host.contains(char::is_whitespace)).then(|| NodeAddress::new(host, port))
}

/// A value of a flat list of names and values.
fn field(list: &Value, name: &str) -> Option<String> {
    let Value::Array(list) = list else { return None };
    let pair = list.chunks_exact(2).find(|pair| text(&pair[0]).as_deref() == Some(name))?;
    text(&pair[1])
}

/// More Sentinels than this are not worth knowing.
const OTHERS_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn list(texts: &[&str]) -> Value {
        Value::Array(texts.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn answers_of_a_peer_are_taken_only_where_they_make_sense() {
        assert_eq!(address(&list(&["10.0.0.1", "6379"])), Some(NodeAddress::new("10.0.0.1", 6379)));
        for odd in [Value::Nil, list(&[]), list(&["h"]), list(&["h", "0"]), list(&["h", "70000"]), list(&["", "1"]), list(&["a b", "1"])] {
            assert_eq!(address(&odd), None, "{odd:?}");
        }
        let master = list(&["name", "m", "ip", "h", "port", "1", "config-epoch", "7", "odd"]);
        assert_eq!(field(&master, "config-epoch").as_deref(), Some("7"));
        assert_eq!(other(&master), Some(NodeAddress::new("h", 1)));
        assert_eq!(field(&Value::Nil, "ip"), None);
    }
}
