//! A configuration with one group, as TOML text: what a user would write, with ports and times that fit a test.

use rbuddy_lab::sentinel::NAME;
use std::fmt::Write as _;

/// One group named `main`.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// Where state and snapshots go.
    pub state_dir: String,
    /// `host:port` of the API.
    pub api: String,
    /// URL of the primary.
    pub primary: String,
    /// `host:port` of Sentinels that are asked for it instead.
    pub sentinels: Vec<String>,
    /// URLs of the replicas.
    pub replicas: Vec<String>,
    /// `host:port` of the relay.
    pub relay: String,
    /// Stream that the relay keeps in memory.
    pub backlog: String,
    /// When a silent primary counts as gone.
    pub upstream_timeout: String,
    /// `host:port` of the reader endpoint.
    pub reader: String,
    /// How long readers have to leave the old active.
    pub drain: String,
    /// URLs of receivers of notifications, in the first tool's form.
    pub notify: Vec<String>,
    /// Further lines of the group.
    pub extra: Vec<String>,
}

impl GroupConfig {
    /// The text.
    pub fn toml(&self) -> String {
        let list = |items: &[String]| items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(", ");
        let notify = self.notify.iter().map(|url| format!("{{ url = {url:?} }}")).collect::<Vec<_>>().join(", ");
        let mut text = String::new();
        let lines = [
            format!("state_dir = {:?}", self.state_dir),
            "[api]".to_owned(),
            format!("listen = {:?}", self.api),
            "[groups.main]".to_owned(),
            match self.sentinels.as_slice() {
                [] => format!("primary = {:?}", self.primary),
                sentinels => format!("primary = {{ sentinel = [{}], name = {NAME:?} }}", list(sentinels)),
            },
            format!("replicas = [{}]", list(&self.replicas)),
            format!(
                "relay = {{ listen = {:?}, backlog = {:?}, upstream_timeout = {:?} }}",
                self.relay, self.backlog, self.upstream_timeout
            ),
            format!("reader = {{ listen = {:?} }}", self.reader),
            format!("drain = {:?}", self.drain),
            format!("notify = [{notify}]"),
        ];
        for line in lines.iter().chain(&self.extra) {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{line}");
        }
        text
    }
}
