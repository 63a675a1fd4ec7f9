//! What the relay says of itself to `INFO`, `ROLE` and `HELLO`: to Sentinels it must look like a replica that is never promoted (protocol facts 8.1,
//! 8.2), to a relay behind it like a server whose backlog it can judge.

use super::history::History;
use crate::resp::encode::bulk;
use crate::types::{NodeAddress, Position, RunId};
use std::fmt::Write;

/// The facts behind the answers.
#[derive(Debug, Clone)]
pub struct SelfReport {
    /// Stable over restarts.
    pub run_id: RunId,
    /// The primary as it is configured: a Sentinel that reads another address here reconfigures the relay again and again.
    pub primary: NodeAddress,
    /// The stream flows.
    pub is_link_up: bool,
    /// A snapshot arrives.
    pub is_sync_in_progress: bool,
    /// Seconds since the last byte from the primary.
    pub last_io_s: Option<u64>,
    /// Seconds for which the stream has been down.
    pub link_down_s: Option<u64>,
    /// The live history; `None` while there is none.
    pub history: Option<History>,
    /// What the backlog may hold in memory.
    pub backlog_bytes: u64,
    /// Replicas that follow.
    pub connected_replicas: usize,
}

impl SelfReport {
    /// The answer to `INFO [section …]`. None named means all; one that is not known is left out, as servers do.
    pub fn info(&self, wanted: &[Vec<u8>]) -> Vec<u8> {
        let is_wanted = |section: &str| {
            let names =
                |word: &Vec<u8>| [section, "default", "all", "everything"].iter().any(|name| word.eq_ignore_ascii_case(name.as_bytes()));
            wanted.is_empty() || wanted.iter().any(names)
        };
        let sections = [("server", self.server()), ("persistence", PERSISTENCE.to_owned()), ("replication", self.replication())];
        let chosen: Vec<String> = sections.into_iter().filter(|(name, _)| is_wanted(name)).map(|(_, text)| text).collect();
        let text = chosen.join("\r\n");
        let mut out = Vec::with_capacity(text.len() + 16);
        bulk(&mut out, text.as_bytes());
        out
    }

    fn server(&self) -> String {
        // Tools expect a server's version; replicas and Sentinels take different ways by it only where it is very old.
        format!(
            "# Server\r\nredis_version:{VERSION_SHOWN}\r\nredis_mode:standalone\r\nrun_id:{}\r\nrbuddy_version:{}\r\n",
            self.run_id,
            env!("CARGO_PKG_VERSION")
        )
    }

    fn replication(&self) -> String {
        let link = if self.is_link_up { "up" } else { "down" };
        let (replid, offset) = self.position().map_or((NO_ID.to_owned(), 0), |at| (at.replid.to_string(), at.offset.get()));
        let seconds = |known: Option<u64>| known.map_or("-1".to_owned(), |seconds| seconds.to_string());
        let mut text = format!("# Replication\r\nrole:slave\r\nmaster_host:{}\r\nmaster_port:{}\r\n", self.primary.host, self.primary.port);
        let _ = write!(text, "master_link_status:{link}\r\nmaster_last_io_seconds_ago:{}\r\n", seconds(self.last_io_s));
        let _ = write!(text, "master_sync_in_progress:{}\r\n", u8::from(self.is_sync_in_progress));
        let _ = write!(text, "slave_read_repl_offset:{offset}\r\nslave_repl_offset:{offset}\r\n");
        if let Some(down) = self.link_down_s.filter(|_| !self.is_link_up) {
            let _ = write!(text, "master_link_down_since_seconds:{down}\r\n");
        }
        // Priority 0 is what keeps a Sentinel from promoting the relay; replica_announced:0 would not (protocol fact 8.2).
        let _ = write!(
            text,
            "slave_priority:0\r\nslave_read_only:1\r\nreplica_announced:1\r\nconnected_slaves:{}\r\n",
            self.connected_replicas
        );
        let _ = write!(text, "master_failover_state:no-failover\r\nmaster_replid:{replid}\r\n{}", self.earlier_id());
        let _ = write!(text, "master_repl_offset:{offset}\r\n{}", self.backlog());
        text
    }

    /// The id before the current one. A server names the first byte for which it is wrong.
    fn earlier_id(&self) -> String {
        let earlier = self.history.as_ref().and_then(|history| history.ids().get(1));
        match earlier.and_then(|known| Some((known.replid, known.until?))) {
            Some((replid, until)) => format!("master_replid2:{replid}\r\nsecond_repl_offset:{}\r\n", until.next_byte()),
            None => format!("master_replid2:{NO_ID}\r\nsecond_repl_offset:-1\r\n"),
        }
    }

    fn backlog(&self) -> String {
        let size = self.backlog_bytes;
        let Some(history) = &self.history else {
            return format!(
                "repl_backlog_active:0\r\nrepl_backlog_size:{size}\r\nrepl_backlog_first_byte_offset:0\r\nrepl_backlog_histlen:0\r\n"
            );
        };
        let kept = history.oldest.have().and_then(|before| before.bytes_behind(history.end)).unwrap_or(0);
        let oldest = history.oldest;
        format!(
            "repl_backlog_active:1\r\nrepl_backlog_size:{size}\r\nrepl_backlog_first_byte_offset:{oldest}\r\nrepl_backlog_histlen:{kept}\r\n"
        )
    }

    /// The answer to `ROLE`.
    pub fn role(&self) -> Vec<u8> {
        let state = match (self.is_link_up, self.is_sync_in_progress) {
            (true, _) => "connected",
            (false, true) => "sync",
            (false, false) => "connect",
        };
        let mut out = b"*5\r\n".to_vec();
        bulk(&mut out, b"slave");
        bulk(&mut out, self.primary.host.as_bytes());
        out.extend_from_slice(format!(":{}\r\n", self.primary.port).as_bytes());
        bulk(&mut out, state.as_bytes());
        let offset = self.position().map_or("-1".to_owned(), |at| at.offset.to_string());
        out.extend_from_slice(format!(":{offset}\r\n").as_bytes());
        out
    }

    fn position(&self) -> Option<Position> {
        self.history.as_ref().map(History::end_position)
    }
}

/// The server version that the relay's answers are those of.
pub(super) const VERSION_SHOWN: &str = "7.0.0";
const PERSISTENCE: &str = "# Persistence\r\nloading:0\r\nasync_loading:0\r\n";
const NO_ID: &str = "0000000000000000000000000000000000000000";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{Role, ServerInfo};
    use crate::types::Offset;

    fn report() -> SelfReport {
        let begun = Position::new("ab".repeat(20).parse().expect("an id"), Offset::new(100).expect("in range"));
        let mut history = History::starting_at(begun, None);
        history.end = Offset::new(105).expect("in range");
        history.rename("ef".repeat(20).parse().expect("an id"));
        history.end = Offset::new(110).expect("in range");
        SelfReport {
            run_id: "cd".repeat(20).parse().expect("an id"),
            primary: NodeAddress::new("127.0.0.1", 6379),
            is_link_up: true,
            is_sync_in_progress: false,
            last_io_s: Some(1),
            link_down_s: None,
            history: Some(history),
            backlog_bytes: 4096,
            connected_replicas: 2,
        }
    }

    fn info(report: &SelfReport, sections: &[&str]) -> String {
        let sections: Vec<Vec<u8>> = sections.iter().map(|section| section.as_bytes().to_vec()).collect();
        String::from_utf8(report.info(&sections)).expect("text")
    }

    #[test]
    fn the_relay_looks_like_a_replica_that_is_never_promoted() {
        let report = report();
        let text = info(&report, &[]);
        let info = ServerInfo::parse(&text);
        assert_eq!((info.role, info.master.clone(), info.is_link_up), (Some(Role::Slave), Some(report.primary.clone()), true));
        assert_eq!((info.position(), info.connected_replicas), (report.position(), 2));
        assert!(text.contains("slave_priority:0\r\n") && text.contains("replica_announced:1\r\n"));
        assert_eq!(report.role(), b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:110\r\n");
    }

    #[test]
    fn a_relay_behind_it_can_tell_what_it_would_continue() {
        let info = ServerInfo::parse(&info(&report(), &["replication"]));
        assert_eq!((info.replid2, info.second_offset), ("ab".repeat(20).parse().ok(), Some(106)));
        assert_eq!((info.backlog_first_byte, info.backlog_histlen, info.backlog_size), (Some(101), Some(10), Some(4096)));
        let nothing_yet = SelfReport { history: None, is_link_up: false, ..report() };
        let info = ServerInfo::parse(&String::from_utf8(nothing_yet.info(&[])).expect("text"));
        assert_eq!((info.offset.map(Offset::get), info.backlog_histlen, info.is_link_up), (Some(0), Some(0), false));
    }

    #[test]
    fn info_gives_the_sections_that_are_asked_for() {
        let report = report();
        let heads = |sections: &[&str]| -> Vec<String> {
            info(&report, sections).lines().filter(|line| line.starts_with("# ")).map(str::to_owned).collect()
        };
        assert_eq!(heads(&[]), ["# Server", "# Persistence", "# Replication"]);
        for all in ["all", "Default", "EVERYTHING"] {
            assert_eq!(heads(&[all]), heads(&[]), "{all}");
        }
        assert_eq!(heads(&["REPLICATION"]), ["# Replication"]);
        assert_eq!(heads(&["replication", "server", "replication"]), ["# Server", "# Replication"]);
        assert_eq!(info(&report, &["keyspace"]), "$0\r\n\r\n");
    }
}
