//! `relay = { … }` of a group: where it listens, what it keeps, when silence counts as an end.

use super::fields::{Field, Fields, Placed};
use super::problem::Problems;
use super::units::{Listen, Wrong, bare_host, parse_port};
use rbuddy_core::control::relay::AckPolicy;
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::settings::{Credentials, RelaySettings, Secret};
use std::time::Duration;

/// What was read of it.
pub(crate) struct RelayDraft {
    pub(crate) listen: Option<Placed<Listen>>,
    announce: Option<NodeAddress>,
    backlog_bytes: u64,
    backlog_disk_bytes: u64,
    ack: AckPolicy,
    pub(crate) auth: Option<Credentials>,
    /// It is there but wrong: nothing follows from its absence.
    pub(crate) is_auth_unreadable: bool,
    upstream_timeout: Duration,
    replica_timeout: Duration,
}

impl RelayDraft {
    /// The settings, if nothing that they need is missing.
    pub(crate) fn settings(self) -> Option<RelaySettings> {
        Some(RelaySettings {
            listen: self.listen?.value.text(),
            announce: self.announce?,
            backlog_bytes: self.backlog_bytes,
            backlog_disk_bytes: self.backlog_disk_bytes,
            ack: self.ack,
            auth: self.auth,
            upstream_timeout: self.upstream_timeout,
            replica_timeout: self.replica_timeout,
        })
    }
}

/// Reads it.
pub(crate) fn read(field: &Field<'_>, problems: &mut Problems) -> Option<RelayDraft> {
    let mut fields = field.table(problems)?;
    let listen = fields.need("listen", "listen = \"127.0.0.1:6382\"", problems).and_then(|field| field.listen(problems));
    let announce = announce(fields.take("announce"), listen.as_ref(), problems);
    let backlog = fields.take("backlog").and_then(|field| field.size((16 << 10)..=(1 << 40), problems));
    let backlog_disk = fields.take("backlog_disk_max").and_then(|field| field.size(0..=(1 << 50), problems));
    let auth_field = fields.take("auth");
    let auth = auth_field.as_ref().and_then(|field| credentials(field, problems));
    let upstream_timeout = upstream_timeout(&mut fields, problems);
    let draft = RelayDraft {
        listen,
        announce,
        backlog_bytes: backlog.unwrap_or(64 << 20),
        backlog_disk_bytes: backlog_disk.unwrap_or(4 << 30),
        ack: fields.take("ack").and_then(|field| field.choice(&ACK, problems)).unwrap_or_default(),
        is_auth_unreadable: auth_field.is_some() && auth.is_none(),
        auth,
        upstream_timeout: upstream_timeout.unwrap_or(s(30)),
        replica_timeout: fields.duration("replica_timeout", s(2)..=s(3600), problems).unwrap_or(s(60)),
    };
    fields.finish(problems);
    Some(draft)
}

fn upstream_timeout(fields: &mut Fields<'_>, problems: &mut Problems) -> Option<Duration> {
    let field = fields.take("upstream_timeout")?;
    let value = field.duration(s(1)..=s(3600), problems)?;
    if value <= s(10) {
        // An idle primary sends nothing but a PING every repl-ping-replica-period, 10 s by default.
        let remedy = "choose more than 10s, or lower repl-ping-replica-period on the primary";
        problems.warning(field.span, "an idle primary is silent for 10 s at a time", remedy);
    }
    Some(value)
}

/// What replicas are told to follow: as written, or where we listen if that is one address.
fn announce(field: Option<Field<'_>>, listen: Option<&Placed<Listen>>, problems: &mut Problems) -> Option<NodeAddress> {
    if let Some(field) = field {
        return field.parsed(problems, node_address).map(|placed| placed.value);
    }
    let listen = listen?;
    if listen.value.port == 0 {
        problems.error(
            listen.span.clone(),
            "the relay cannot take a free port: replicas must find it again",
            "write a port from 1 to 65535",
        );
        return None;
    }
    if listen.value.is_wildcard() {
        let remedy = "add announce = \"HOST:PORT\": the relay's address as the replicas see it";
        problems.error(listen.span.clone(), "replicas cannot be told to follow a wildcard address", remedy);
        return None;
    }
    Some(NodeAddress::new(listen.value.host.clone(), listen.value.port))
}

fn node_address(text: &str) -> Result<NodeAddress, Wrong> {
    let wrong = || Wrong::new("this is not one address", "write HOST:PORT with a port from 1 to 65535");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = parse_port(port)?;
    let host = bare_host(host).filter(|_| port != 0).ok_or_else(wrong)?;
    Ok(NodeAddress::new(host, port))
}

fn credentials(field: &Field<'_>, problems: &mut Problems) -> Option<Credentials> {
    if field.is_text() {
        let text = field.text(problems)?;
        let (user, password) = text.split_once(':').map_or((None, text), |(user, password)| (Some(user), password));
        if password.is_empty() {
            problems.error(
                field.span.clone(),
                format!("`{}` has an empty password", field.path),
                "write \"password\" or \"user:password\"",
            );
            return None;
        }
        return Some(Credentials { user: user.filter(|user| !user.is_empty()).map(str::to_owned), password: Secret::new(password) });
    }
    let mut fields = field.table(problems)?;
    let user = fields.take("user").and_then(|field| field.text(problems).map(str::to_owned));
    let password = fields.need("password", "auth = { user = \"…\", password = \"…\" }", problems);
    let password = password.and_then(|field| field.text(problems).map(Secret::new));
    fields.finish(problems);
    Some(Credentials { user, password: password? })
}

const ACK: [(&str, AckPolicy); 2] = [("replicated", AckPolicy::Replicated), ("received", AckPolicy::Received)];

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
