//! `INFO`: a field is the last line that names it, and nothing else in the text changes it.

use rbuddy_core::info::ServerInfo;
use rbuddy_core::types::ReplId;
use std::collections::BTreeSet;
use std::str::FromStr;

pub fn check(input: &[u8]) {
    let text = &String::from_utf8_lossy(input);
    let info = ServerInfo::parse(text);

    assert_eq!(info.run_id, last(text, "run_id"));
    assert_eq!(info.replid, last(text, "master_replid"));
    assert_eq!(info.replid2, last(text, "master_replid2").filter(|id: &ReplId| !id.is_none()));
    assert_eq!(info.offset, last(text, "master_repl_offset").max(last(text, "slave_repl_offset")));
    assert_eq!(info.position().is_some(), info.replid.is_some() && info.offset.is_some());
    assert_eq!((info.keyspace.keys, info.keyspace.expires), sums(text));
    assert!(info.keyspace.persistent() <= info.keyspace.keys);

    // Line ends, lines that say nothing, and, where no field is told twice, the order change nothing.
    let mut lines: Vec<&str> = text.lines().collect();
    let mut seen = BTreeSet::new();
    if lines.iter().all(|line| seen.insert(key(line))) {
        lines.reverse();
    }
    assert_eq!(ServerInfo::parse(&lines.join("\n# Section\nunknown_field:1\r\n")), info);
    // What a server says is part of the events that are written down to be replayed.
    let written = serde_json::to_string(&info).expect("plain data");
    assert_eq!(serde_json::from_str::<ServerInfo>(&written).expect("as it was written"), info);
}

fn key(line: &str) -> &str {
    line.split(':').next().unwrap_or("")
}

/// The last line of that name, if it is sound.
fn last<T: FromStr>(text: &str, name: &str) -> Option<T> {
    let mut values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    values.next_back()?.trim_end().parse().ok()
}

fn sums(text: &str) -> (u64, u64) {
    let databases =
        text.lines().filter_map(|line| line.trim_end().split_once(':')).filter(|(key, _)| key.strip_prefix("db").is_some_and(is_number));
    databases.fold((0u64, 0u64), |(keys, expires), (_, counts)| {
        (keys.saturating_add(count(counts, "keys=")), expires.saturating_add(count(counts, "expires=")))
    })
}

/// More databases than fit in 64 bits there are not.
fn is_number(digits: &str) -> bool {
    digits.chars().all(|digit| digit.is_ascii_digit()) && digits.parse::<u64>().is_ok()
}

fn count(counts: &str, name: &str) -> u64 {
    counts.split(',').filter_map(|field| field.strip_prefix(name)).find_map(|number| number.parse().ok()).unwrap_or(0)
}
