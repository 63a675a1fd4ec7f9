//! Sentinels: those that are to be asked for the primary, and those that would interfere.

use super::super::facts::GroupFacts;
use super::super::finding::{Findings, Severity, Topic};
use crate::primary::{Answer, choose};
use rbuddy_core::types::NodeAddress;
use std::collections::BTreeSet;

pub(super) fn judge(group: &GroupFacts, findings: &mut Findings<'_>) {
    if let Some(settings) = group.settings.primary.sentinels() {
        asked(group, &settings.name, findings);
    }
    watching(group, findings);
}

/// Each Sentinel's answer, and whether they agree.
fn asked(group: &GroupFacts, name: &str, findings: &mut Findings<'_>) {
    let mut named: BTreeSet<&NodeAddress> = BTreeSet::new();
    for said in &group.sentinels {
        match &said.answer {
            Ok(Answer::Names { address, epoch }) => {
                named.insert(address);
                let number = epoch.map(|epoch| format!(" (failover number {epoch})")).unwrap_or_default();
                findings.ok(&said.sentinel, Topic::Sentinel, format!("names {address} as `{name}`{number}"));
            }
            Ok(Answer::UnknownName) => {
                let message = format!("watches no primary of the name `{name}`");
                findings.error(
                    &said.sentinel,
                    Topic::Sentinel,
                    message,
                    "correct `name`, or let this Sentinel watch it (SENTINEL MONITOR)",
                );
            }
            Err(why) => findings.warning(&said.sentinel, Topic::Sentinel, why, "start it, or correct its address or login"),
        }
    }
    match choose(&group.sentinels, group.sentinels.len(), None, None) {
        Ok(verdict) if named.len() > 1 => {
            let all = named.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let message = format!("the Sentinels name different primaries ({all}); rbuddy believes {}", verdict.address);
            let remedy = "right after a failover this passes by itself; else look at SENTINEL MASTER on each of them";
            findings.about_group(Severity::Warning, Topic::Sentinel, message, remedy);
        }
        Ok(_) => {}
        Err(why) => findings.about_group(
            Severity::Error,
            Topic::Sentinel,
            format!("nobody says where the primary is: {why}"),
            "rbuddy would serve what the replicas have, and wait",
        ),
    }
}

/// A Sentinel that knows a replica re-points it to the primary, past the relay.
fn watching(group: &GroupFacts, findings: &mut Findings<'_>) {
    let watching = group.known_primary().map(|(address, facts)| (address, facts.sentinels)).filter(|(_, count)| *count > 0);
    if let Some((address, count)) = watching.filter(|_| group.settings.primary.sentinels().is_none()) {
        let message = format!("{count} Sentinel(s) watch the primary");
        let remedy =
            "name them, so that rbuddy need not wait to be told of a failover: primary = { sentinel = [\"HOST:26379\"], name = \"…\" }";
        findings.note(address, Topic::Sentinel, message, remedy);
    }
    for (address, facts) in group.known_replicas().filter(|(_, facts)| facts.sentinels > 0) {
        let message = format!("{} Sentinel(s) know this replica and would re-point it to the primary, past the relay", facts.sentinels);
        let remedy = "once the relay has taken the replicas over: SENTINEL RESET <name> on every Sentinel";
        findings.warning(address, Topic::Sentinel, message, remedy);
    }
}
