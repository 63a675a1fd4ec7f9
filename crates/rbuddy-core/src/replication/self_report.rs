//! What the relay says of itself to `INFO` and `ROLE`: to Sentinels it must look like a replica that is never promoted (protocol facts 8.1, 8.2).

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
    /// Where the relay stands; `None` while it does not know.
    pub position: Option<Position>,
    /// Replicas that follow.
    pub connected_replicas: usize,
}

impl SelfReport {
    /// The answer to `INFO`: every section that is asked for is in one text.
    pub fn info(&self) -> Vec<u8> {
        let link = if self.is_link_up { "up" } else { "down" };
        let (replid, offset) = self.position.map_or(("0".repeat(40), 0), |at| (at.replid.to_string(), at.offset.get()));
        let seconds = |known: Option<u64>| known.map_or("-1".to_owned(), |seconds| seconds.to_string());
        let mut text = String::new();
        // Every tool that asks expects a server's version; replicas and Sentinels take different ways by it only where it is very old.
        let _ = write!(text, "# Server\r\nredis_version:7.0.0\r\nredis_mode:standalone\r\nrun_id:{}\r\n", self.run_id);
        let _ = write!(text, "rbuddy_version:{}\r\n", env!("CARGO_PKG_VERSION"));
        let _ = write!(text, "# Persistence\r\nloading:0\r\nasync_loading:0\r\n");
        let _ = write!(text, "# Replication\r\nrole:slave\r\nmaster_host:{}\r\nmaster_port:{}\r\n", self.primary.host, self.primary.port);
        let _ = write!(text, "master_link_status:{link}\r\nmaster_last_io_seconds_ago:{}\r\n", seconds(self.last_io_s));
        let _ = write!(text, "master_sync_in_progress:{}\r\n", u8::from(self.is_sync_in_progress));
        if let Some(down) = self.link_down_s.filter(|_| !self.is_link_up) {
            let _ = write!(text, "master_link_down_since_seconds:{down}\r\n");
        }
        // Priority 0 is what keeps a Sentinel from promoting the relay; replica_announced:0 would not (protocol fact 8.2).
        let _ = write!(text, "slave_repl_offset:{offset}\r\nslave_priority:0\r\nslave_read_only:1\r\nreplica_announced:1\r\n");
        let _ = write!(text, "connected_slaves:{}\r\nmaster_replid:{replid}\r\nmaster_repl_offset:{offset}\r\n", self.connected_replicas);
        let mut out = Vec::with_capacity(text.len() + 16);
        bulk(&mut out, text.as_bytes());
        out
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
        let offset = self.position.map_or("-1".to_owned(), |at| at.offset.to_string());
        out.extend_from_slice(format!(":{offset}\r\n").as_bytes());
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::info::{Role, ServerInfo};
    use crate::types::Offset;

    #[test]
    fn the_relay_looks_like_a_replica_that_is_never_promoted() {
        let primary = NodeAddress::new("127.0.0.1", 6379);
        let position = Position::new("ab".repeat(20).parse().expect("an id"), Offset::new(105).expect("in range"));
        let report = SelfReport {
            run_id: "cd".repeat(20).parse().expect("an id"),
            primary: primary.clone(),
            is_link_up: true,
            is_sync_in_progress: false,
            last_io_s: Some(1),
            link_down_s: None,
            position: Some(position),
            connected_replicas: 2,
        };
        let text = String::from_utf8(report.info()).expect("text");
        let info = ServerInfo::parse(&text);
        assert_eq!((info.role, info.master.clone(), info.is_link_up), (Some(Role::Slave), Some(primary), true));
        assert_eq!((info.position(), info.connected_replicas), (Some(position), 2));
        assert!(text.contains("slave_priority:0\r\n"));
        assert_eq!(report.role(), b"*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:105\r\n");
    }
}
