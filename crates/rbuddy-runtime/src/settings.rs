//! The configuration as the runtime needs it: parsed, checked, every default filled in. Reading TOML and explaining
//! mistakes is the binary's business.

use rbuddy_core::control::primary::PrimaryAt;
use rbuddy_core::control::relay::AckPolicy;
use rbuddy_core::control::settings::GroupPolicy;
use rbuddy_core::types::NodeAddress;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// Everything.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where state, snapshots and the lock live. One process at a time.
    pub state_dir: PathBuf,
    /// The HTTP API.
    pub api: ApiSettings,
    /// The journals of the groups.
    pub journal: JournalSettings,
    /// At least one.
    pub groups: Vec<GroupSettings>,
}

/// The HTTP API.
#[derive(Debug, Clone)]
pub struct ApiSettings {
    /// `host:port`; port 0 takes a free one.
    pub listen: String,
    /// Bearer token for operations. Required when `listen` is not loopback.
    pub token: Option<Secret>,
}

/// What is kept of each group's story, for `rbuddy replay`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalSettings {
    /// A file of this size is followed by the next one.
    pub size_bytes: u64,
    /// So many are kept; 0: no journal is written.
    pub files: usize,
}

impl Default for JournalSettings {
    fn default() -> JournalSettings {
        JournalSettings { size_bytes: 16 << 20, files: 4 }
    }
}

/// One group.
#[derive(Debug, Clone)]
pub struct GroupSettings {
    /// What the controller needs to know.
    pub policy: GroupPolicy,
    /// The primary; `policy.primary` is its [`PrimarySettings::at`].
    pub primary: PrimarySettings,
    /// The replicas, in the order of `policy.replicas`.
    pub replicas: Vec<Endpoint>,
    /// The relay.
    pub relay: RelaySettings,
    /// The reader endpoint, where wanted.
    pub reader: Option<ReaderSettings>,
    /// Webhooks, in the order of `policy.notify`.
    pub notify: Vec<NotifySettings>,
}

/// The primary: how it is found, and how to log in there, wherever it is.
#[derive(Debug, Clone)]
pub struct PrimarySettings {
    /// How it is found.
    pub place: PrimaryPlace,
    /// ACL user; `None` is the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
}

/// How the primary is found.
#[derive(Debug, Clone)]
pub enum PrimaryPlace {
    /// It is here.
    Fixed(NodeAddress),
    /// Sentinels are asked.
    Sentinels(SentinelSettings),
}

/// Sentinels, and whom to ask them for.
#[derive(Debug, Clone)]
pub struct SentinelSettings {
    /// The name by which they know the primary.
    pub name: String,
    /// At least one, with the login that Sentinels want, which is not the primary's.
    pub sentinels: Vec<Endpoint>,
}

impl PrimarySettings {
    /// What the controller needs to know of it.
    pub fn at(&self) -> PrimaryAt {
        match &self.place {
            PrimaryPlace::Fixed(address) => PrimaryAt::Fixed(address.clone()),
            PrimaryPlace::Sentinels(sentinels) => PrimaryAt::Named(sentinels.name.clone()),
        }
    }

    /// The Sentinels, where they are asked.
    pub fn sentinels(&self) -> Option<&SentinelSettings> {
        match &self.place {
            PrimaryPlace::Fixed(_) => None,
            PrimaryPlace::Sentinels(sentinels) => Some(sentinels),
        }
    }

    /// The primary, if it is at this address.
    pub fn endpoint(&self, address: NodeAddress) -> Endpoint {
        Endpoint { address, user: self.user.clone(), password: self.password.clone() }
    }
}

impl From<Endpoint> for PrimarySettings {
    fn from(Endpoint { address, user, password }: Endpoint) -> PrimarySettings {
        PrimarySettings { place: PrimaryPlace::Fixed(address), user, password }
    }
}

/// A server and how to log in there.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where.
    pub address: NodeAddress,
    /// ACL user; `None` is the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
}

/// The relay of a group.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// `host:port` to listen on.
    pub listen: String,
    /// What replicas are told to follow, and the primary is told in `REPLCONF listening-port`.
    pub announce: NodeAddress,
    /// Bytes of stream kept in memory.
    pub backlog_bytes: u64,
    /// Bytes of stream kept on disk, at the most, for replicas that need more than memory has.
    pub backlog_disk_bytes: u64,
    /// What the primary is told.
    pub ack: AckPolicy,
    /// What replicas must say (their `masterauth`); `None`: the primary's credentials.
    pub auth: Option<Credentials>,
    /// A connection to the primary on which no byte arrives for this long is given up.
    pub upstream_timeout: Duration,
    /// A replica that is silent (no ACK, no newline) for this long is disconnected.
    pub replica_timeout: Duration,
}

impl RelaySettings {
    /// What replicas must say: the relay's own `auth`, else the primary's credentials (so that replicas that followed the primary need no change);
    /// `None` if neither is set.
    pub fn login(&self, primary: &PrimarySettings) -> Option<Credentials> {
        let of_primary = || Some(Credentials { user: primary.user.clone(), password: primary.password.clone()? });
        self.auth.clone().or_else(of_primary)
    }

    /// All defaults (docs/configuration.md).
    pub fn listening(listen: impl Into<String>, announce: NodeAddress) -> RelaySettings {
        RelaySettings {
            listen: listen.into(),
            announce,
            backlog_bytes: 64 << 20,
            backlog_disk_bytes: 4 << 30,
            ack: AckPolicy::default(),
            auth: None,
            upstream_timeout: Duration::from_secs(30),
            replica_timeout: Duration::from_secs(60),
        }
    }
}

/// User and password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// ACL user; `None` is the default user.
    pub user: Option<String>,
    /// Password.
    pub password: Secret,
}

/// The reader endpoint of a group.
#[derive(Debug, Clone)]
pub struct ReaderSettings {
    /// `host:port` to listen on.
    pub listen: String,
    /// Clients at the same time; more are refused with an error.
    pub max_clients: usize,
    /// How long a read waits at a boundary while there is no active, before it gets an error.
    pub park: Duration,
}

/// A receiver of notifications.
#[derive(Clone)]
pub struct NotifySettings {
    /// http:// or https://
    pub url: String,
    /// What it gets.
    pub format: NotifyFormat,
}

impl fmt::Debug for NotifySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NotifySettings").field("url", &shown_url(&self.url)).field("format", &self.format).finish()
    }
}

/// The body of a notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotifyFormat {
    /// `host=..&port=..` of the new active, as the first tool sent it.
    Form,
    /// event, group, generation, old, new, time.
    Json,
}

/// A URL as it may be shown: many receivers of webhooks put their key into the path, some into `user:password@`.
pub fn shown_url(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let path = if path.len() > 1 { "/…" } else { path };
    if scheme.is_empty() { format!("{host}{path}") } else { format!("{scheme}://{host}{path}") }
}

/// A text that never reaches a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text itself, for the wire.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::shown_url;

    #[test]
    fn shown_urls_keep_no_secret() {
        assert_eq!(shown_url("https://me:pw@hooks.example:1/T0/B1?k=2"), "https://hooks.example:1/…");
        assert_eq!(shown_url("http://localhost:8002/"), "http://localhost:8002/");
        assert_eq!(shown_url("http://localhost:8002?key=1"), "http://localhost:8002/…");
    }
}
