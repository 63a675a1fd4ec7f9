//! Reachable, whom it follows, whose keys it holds, what it can load.

use super::super::facts::{GroupFacts, Server, ServerFacts};
use super::super::finding::{Findings, Severity, Topic};
use rbuddy_core::control::settings::{FreezeMode, StandbyMode};
use rbuddy_core::info::Role;
use rbuddy_core::types::{Flavour, NodeAddress, ReplId, ServerVersion};

pub(super) fn judge(group: &GroupFacts, findings: &mut Findings<'_>) {
    for server in group.primary.iter().chain(&group.replicas) {
        reachable(server, findings);
    }
    primary_role(group, findings);
    for (address, facts) in group.known_replicas() {
        replica_role(group, address, facts, findings);
        fence(group, address, facts, findings);
        if let Some((_, primary)) = group.known_primary() {
            data(group, address, facts, primary, findings);
        }
    }
    spare(group, findings);
    snapshot_format(group, findings);
}

fn reachable(server: &Server, findings: &mut Findings<'_>) {
    match &server.facts {
        Ok(facts) => {
            let version = facts.info.version.map_or("unknown version".to_owned(), |version| version.to_string());
            findings.ok(&server.address, Topic::Reachable, format!("{version}, {} keys", facts.info.keyspace.keys));
        }
        Err(silence) if silence.is_denied => {
            let remedy = match silence.reason.contains("NOPERM") {
                true => "grant our login there INFO and what else rbuddy sends: ACL SETUSER … +info; ask again to see the rest",
                false => "put the login into its URL: redis://user:password@host:port",
            };
            findings.error(&server.address, Topic::Reachable, &silence.reason, remedy);
        }
        Err(silence) => findings.error(&server.address, Topic::Reachable, &silence.reason, "start it, or correct its address"),
    }
}

fn primary_role(group: &GroupFacts, findings: &mut Findings<'_>) {
    let Some((address, facts)) = group.known_primary() else { return };
    let policy = &group.settings.policy;
    match (facts.info.role, &facts.info.master) {
        (Some(Role::Sentinel), _) => {
            findings.error(address, Topic::Role, "is a Sentinel", "ask it: primary = { sentinel = [\"HOST:26379\"], name = \"mymaster\" }");
        }
        (Some(Role::Slave), Some(master)) if *master == policy.relay || policy.replicas.contains(master) => {
            findings.error(
                address,
                Topic::Role,
                format!("follows {master}, which is ours: nobody would take the writes"),
                "name the server that takes the writes",
            );
        }
        (Some(Role::Slave), master) => {
            let master = master.as_ref().map(NodeAddress::to_string).unwrap_or_default();
            findings.warning(
                address,
                Topic::Role,
                format!("is itself a replica of {master}"),
                "name the server that takes the writes, unless you chain on purpose",
            );
        }
        (Some(Role::Master), _) => findings.ok(address, Topic::Role, "takes the writes"),
        (None, _) => findings.warning(address, Topic::Role, "does not say its role", "let the login use INFO"),
    }
    if facts.info.is_loading {
        findings.warning(address, Topic::Role, "is loading its dataset", "wait until it has");
    }
}

fn replica_role(group: &GroupFacts, address: &NodeAddress, facts: &ServerFacts, findings: &mut Findings<'_>) {
    let policy = &group.settings.policy;
    match (facts.info.role, &facts.info.master) {
        (Some(Role::Sentinel), _) => findings.error(address, Topic::Role, "is a Sentinel", "remove it from `replicas`"),
        (Some(Role::Slave), Some(master)) if *master == policy.relay => findings.ok(address, Topic::Role, "follows the relay"),
        (Some(Role::Slave), Some(master)) if Some(master) == group.primary.as_ref().map(|primary| &primary.address) => {
            findings.ok(address, Topic::Role, "follows the primary; the relay takes it over with a partial resync");
        }
        (Some(Role::Slave), Some(master)) => {
            let primary = group.primary.as_ref().map_or("the primary".to_owned(), |primary| primary.address.to_string());
            let message = format!("follows {master}, which is neither {primary} nor the relay {}", policy.relay);
            findings.warning(
                address,
                Topic::Role,
                message,
                "if that is the primary under another name, all is well; else let it follow the primary first",
            );
        }
        (Some(Role::Slave), None) => findings.warning(address, Topic::Role, "does not say whom it follows", ""),
        (Some(Role::Master), _) if facts.info.is_empty() => {
            findings.ok(address, Topic::Role, "follows nobody and is empty: will be filled")
        }
        (Some(Role::Master), _) => {
            findings.warning(address, Topic::Role, "follows nobody and takes writes", "let it follow the primary before rbuddy starts");
        }
        (None, _) => findings.warning(address, Topic::Role, "does not say its role", "let the login use INFO"),
    }
    if facts.info.is_loading {
        findings.warning(address, Topic::Role, "is loading its dataset", "wait until it has");
    } else if facts.info.is_sync_in_progress {
        findings.warning(address, Topic::Role, "is in the middle of a full resync", "wait until it is through");
    } else if facts.info.role == Some(Role::Slave) && !facts.info.is_link_up {
        findings.note(
            address,
            Topic::Role,
            "its replication link is down",
            "as it should be for a standby that rbuddy holds; else look at its log",
        );
    }
}

/// Promise P3: what is not proven ours is not emptied.
fn data(group: &GroupFacts, address: &NodeAddress, replica: &ServerFacts, primary: &ServerFacts, findings: &mut Findings<'_>) {
    if replica.info.is_empty() {
        findings.ok(address, Topic::Data, "is empty: rbuddy may fill it");
        return;
    }
    let ids: Vec<ReplId> = primary.info.replid.into_iter().chain(primary.info.replid2).collect();
    let is_of_primary = |id: Option<ReplId>| id.is_some_and(|id| ids.contains(&id));
    if is_of_primary(replica.info.replid) {
        findings.ok(address, Topic::Data, format!("holds {} keys of the primary's history", replica.info.keyspace.keys));
        return;
    }
    let is_own = |id: Option<ReplId>| id.is_some_and(|id| group.own_ids.contains(&id));
    if is_own(replica.info.replid) || is_own(replica.info.replid2) {
        findings.ok(address, Topic::Data, format!("holds {} keys of the group's earlier history", replica.info.keyspace.keys));
        return;
    }
    if is_of_primary(replica.info.replid2) {
        let remedy = "let it follow the primary again before rbuddy starts";
        findings.warning(address, Topic::Data, "holds the primary's history and has gone its own way since", remedy);
        return;
    }
    let short = |id: Option<ReplId>| id.map_or("unknown".to_owned(), |id| id.short().to_owned());
    let message = format!(
        "holds {} keys of another history (replid {}) than the primary's (replid {}, {} keys): rbuddy leaves it alone",
        replica.info.keyspace.keys,
        short(replica.info.replid),
        short(primary.info.replid),
        primary.info.keyspace.keys,
    );
    let remedy = format!("if these keys may be lost: `rbuddy adopt {address}` once rbuddy runs; else remove it from `replicas`");
    findings.error(address, Topic::Data, message, &remedy);
}

/// Without a state file nothing that holds keys is emptied: then there is no standby until one is adopted.
fn spare(group: &GroupFacts, findings: &mut Findings<'_>) {
    let policy = &group.settings.policy;
    let all_known = group.known_replicas().count() == group.replicas.len();
    let full = group.known_replicas().filter(|(_, facts)| !facts.info.is_empty()).count();
    if policy.standby == StandbyMode::Empty && all_known && group.replicas.len() > 1 && full == group.replicas.len() {
        let message = format!("all {full} replicas hold keys: on a first start all of them stay active and none is a standby");
        let remedy = "release one with `rbuddy adopt HOST:PORT` once rbuddy runs, or choose standby = \"warm\"";
        findings.about_group(Severity::Note, Topic::Data, message, remedy);
    }
}

/// The fence of a detached replica must refuse writes of scripts too, which 7.0 was the first to do (protocol fact 6).
fn fence(group: &GroupFacts, address: &NodeAddress, facts: &ServerFacts, findings: &mut Findings<'_>) {
    let is_fenced = facts.info.version.is_none_or(|version| version.at_least(7, 0));
    if group.settings.policy.freeze == FreezeMode::Detach && !is_fenced {
        let remedy = "use freeze = \"hold\", or a server of 7.0 or newer";
        findings.error(address, Topic::Version, "cannot be detached safely: before 7.0 scripts still write behind the fence", remedy);
    }
}

/// A server that is given a snapshot it cannot load empties itself or dies.
fn snapshot_format(group: &GroupFacts, findings: &mut Findings<'_>) {
    let Some(primary) = group.known_primary().and_then(|(_, facts)| facts.info.version) else { return };
    let versions: Vec<(&NodeAddress, ServerVersion)> =
        group.known_replicas().filter_map(|(address, facts)| Some((address, facts.info.version?))).collect();
    // The relay announces the least of its replicas, since one snapshot serves all.
    let takes_newest = |version: &ServerVersion| version.flavour == Flavour::Valkey && version.at_least(9, 0);
    let Some(least) = versions.iter().map(|(_, version)| *version).min_by_key(|version| takes_newest(version)) else { return };
    let format = primary.writes_for(least);
    for (address, version) in versions {
        if version.loads(format) {
            findings.ok(address, Topic::Version, format!("{version} loads the snapshots ({format}) of {primary}"));
        } else {
            let message = format!("{version} cannot load the snapshots ({format}) of the primary's {primary}");
            findings.error(address, Topic::Version, message, "upgrade this replica, or give it a primary that is not newer");
        }
    }
}
