//! What hurts later: restarts, memory, backlog, drift.

use super::super::facts::{GroupFacts, ServerFacts};
use super::super::finding::{Findings, Severity, Topic};
use super::size;
use rbuddy_core::control::drift;
use rbuddy_core::control::settings::{DriftGuard, FreezeMode};
use rbuddy_core::control::status::Difference;
use rbuddy_core::types::NodeAddress;
use std::collections::BTreeMap;

pub(super) fn judge(group: &GroupFacts, findings: &mut Findings<'_>) {
    for (address, facts) in group.known_replicas() {
        restart(group, address, facts, findings);
    }
    if let Some((address, primary)) = group.known_primary() {
        if primary.persists() == Some(false) {
            let message = "keeps nothing over a restart: it would come back empty, which rbuddy refuses until `approve`";
            findings.note(address, Topic::Restart, message, "switch on RDB or AOF there");
        }
        backlog(group, address, primary, findings);
    }
    memory(group, findings);
    drift(group, findings);
}

/// What a server does on its own restart belongs to it: only its file and its command line decide.
fn restart(group: &GroupFacts, address: &NodeAddress, facts: &ServerFacts, findings: &mut Findings<'_>) {
    let relay = &group.settings.policy.relay;
    let comes_back = match facts.persists() {
        Some(true) => "with the keys of its last save",
        Some(false) => "empty",
        None => "with what it saved, if anything",
    };
    match (&facts.info.config_file, &facts.file_replicaof) {
        (None, _) => {
            let message =
                format!("runs without a configuration file: after its own restart it comes back {comes_back}, as its command line says");
            let remedy =
                format!("start it with a file, where rbuddy can write its role down, or with --replicaof {} {}", relay.host, relay.port);
            findings.warning(address, Topic::Restart, message, &remedy);
        }
        (Some(_), Some(Some(master))) if master == relay => {
            findings.ok(address, Topic::Restart, format!("comes back {comes_back} and follows the relay (read in its file)"));
        }
        (Some(file), Some(Some(master))) => {
            let message = format!("would come back {comes_back} and follow {master} ({file}) until rbuddy has written its role there");
            findings.note(address, Topic::Restart, message, "rbuddy does so with CONFIG REWRITE; the file must be writable for the server");
        }
        (Some(file), Some(None)) => {
            let message = format!("would come back {comes_back} and follow nobody ({file}) until rbuddy has written its role there");
            findings.note(address, Topic::Restart, message, "rbuddy does so with CONFIG REWRITE; the file must be writable for the server");
        }
        (Some(file), None) => {
            let message = format!("comes back {comes_back}, in the role that rbuddy writes to {file} with CONFIG REWRITE");
            findings.note(address, Topic::Restart, message, "see that the file is writable for the server");
        }
    }
}

/// How long a break the backlogs cover; a longer one costs a full resync.
fn backlog(group: &GroupFacts, address: &NodeAddress, primary: &ServerFacts, findings: &mut Findings<'_>) {
    let (Some(rate), Some(bytes)) = (primary.write_rate, primary.info.backlog_size) else { return };
    let kept = [
        (address, "the primary's backlog", bytes, "raise repl-backlog-size on the primary"),
        (&group.settings.policy.relay, "the relay's backlog", group.settings.relay.backlog_bytes, "raise `backlog` of the relay"),
    ];
    for (address, whose, bytes, remedy) in kept {
        if rate < 1.0 {
            findings.ok(address, Topic::Backlog, format!("{whose} holds {}; nothing was written while looking", size(bytes)));
            continue;
        }
        let seconds = bytes as f64 / rate;
        let message = format!("{whose} of {} covers a break of {seconds:.0} s at {}/s", size(bytes), size(rate as u64));
        if seconds < COVERED_SECONDS_MIN {
            findings.warning(address, Topic::Backlog, message, remedy);
        } else {
            findings.ok(address, Topic::Backlog, message);
        }
    }
}

/// While a standby is filled, each replica of a host holds the whole dataset.
fn memory(group: &GroupFacts, findings: &mut Findings<'_>) {
    let Some((primary, dataset)) = group.known_primary().and_then(|(address, facts)| Some((address, facts.info.used_memory?))) else {
        return;
    };
    let mut hosts: BTreeMap<&str, Vec<(&NodeAddress, &ServerFacts)>> = BTreeMap::new();
    for (address, facts) in group.known_replicas() {
        hosts.entry(&address.host).or_default().push((address, facts));
        if let Some(limit) = facts.info.max_memory.filter(|limit| *limit > 0 && *limit < dataset) {
            let message = format!("has maxmemory {}, the primary uses {}", size(limit), size(dataset));
            findings.warning(address, Topic::Memory, message, "raise maxmemory there: it must hold the whole dataset");
        }
    }
    for (host, servers) in hosts {
        let Some(room) = servers.iter().filter_map(|(_, facts)| facts.info.system_memory).max() else { continue };
        let needed = servers.iter().fold(0u64, |sum, (_, facts)| sum.saturating_add(facts.info.used_memory.unwrap_or(0).max(dataset)));
        let here = if primary.host == host { needed.saturating_add(dataset) } else { needed };
        let message = format!("needs {} during a failover, its machine has {}", size(here), size(room));
        let address = servers[0].0;
        if here > room {
            findings.warning(address, Topic::Memory, message, "give the machine more memory, or put the replicas on several");
        } else {
            findings.ok(address, Topic::Memory, message);
        }
    }
}

/// A replica takes over for another: what differs between them changes for the readers at a failover, or forbids it.
fn drift(group: &GroupFacts, findings: &mut Findings<'_>) {
    let mut drifts = 0;
    for (here_at, (here, facts)) in group.known_replicas().enumerate() {
        for (there_at, (there, others)) in group.known_replicas().enumerate().filter(|(there_at, _)| *there_at != here_at) {
            for difference in differences(group, facts, others) {
                let Difference { setting, hurts, reason, remedy } = difference;
                if hurts {
                    let (what, or) = match group.settings.policy.guard.drift {
                        DriftGuard::Refuse => ("would not be promoted in the place of", ", or allow it by guard.drift = \"warn\""),
                        DriftGuard::Warn => ("would be promoted all the same in the place of", ""),
                    };
                    findings.warning(here, Topic::Drift, format!("{what} {there}: {reason}"), &format!("{remedy}{or}"));
                } else if here_at > there_at && !differences(group, others, facts).iter().any(|back| back.hurts && back.setting == setting)
                {
                    findings.note(here, Topic::Drift, format!("differs from {there}: {reason}"), &remedy);
                } else {
                    continue;
                }
                drifts += 1;
            }
        }
    }
    if let Some((_, primary)) = group.known_primary() {
        drifts += against_primary(group, primary, findings);
    }
    if drifts == 0 && group.known_replicas().count() > 1 {
        findings.about_group(Severity::Ok, Topic::Drift, "the replicas are alike", "");
    }
}

fn differences(group: &GroupFacts, here: &ServerFacts, there: &ServerFacts) -> Vec<Difference> {
    drift::compare(here.seen(), there.seen(), group.settings.policy.freeze == FreezeMode::Detach)
}

/// A snapshot with a database or a module type that the replica does not have ends its loading, or its process.
fn against_primary(group: &GroupFacts, primary: &ServerFacts, findings: &mut Findings<'_>) -> usize {
    let mut drifts = 0;
    for (address, facts) in group.known_replicas() {
        if let Some(lacking) = drift::cannot_load(facts.seen(), &primary.info) {
            findings.error(address, Topic::Drift, format!("could not load the primary's data: {}", lacking.reason), &lacking.remedy);
            drifts += 1;
        } else if let (Some(here), Some(there)) = (facts.settings.databases, primary.settings.databases)
            && here < there
        {
            let message = format!("has {here} databases, the primary {there}: it could not load a snapshot that uses them all");
            findings.error(address, Topic::Drift, message, "raise `databases` in its file and restart it");
            drifts += 1;
        }
    }
    drifts
}

/// Shorter breaks are ordinary: a restart of a switch, of the primary, of rbuddy.
const COVERED_SECONDS_MIN: f64 = 60.0;
