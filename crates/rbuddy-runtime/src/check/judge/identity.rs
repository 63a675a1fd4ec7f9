//! What makes `run` refuse to start. A name can lie (DNS, two addresses of one machine); the run id cannot.

use super::super::facts::{GroupFacts, ServerFacts};
use super::super::finding::{Finding, Findings, Topic};
use rbuddy_core::types::{NodeAddress, RunId};

/// Across all groups: a replica that is a primary, one replica under two names, cluster mode.
pub(in crate::check) fn identity(groups: &[GroupFacts]) -> Vec<Finding> {
    let primaries: Vec<(&NodeAddress, RunId)> =
        groups.iter().filter_map(GroupFacts::known_primary).filter_map(|(address, facts)| Some((address, run_id(facts)?))).collect();
    let mut seen: Vec<(&NodeAddress, RunId)> = Vec::new();
    let mut list = Vec::new();
    for group in groups {
        let mut findings = Findings::new(&group.settings.policy.group);
        for (address, _) in group.known_primary().into_iter().chain(group.known_replicas()).filter(|(_, facts)| facts.info.is_cluster) {
            let remedy = "use a server with cluster-enabled no: in a cluster the nodes decide themselves who follows whom";
            findings.error(address, Topic::Cluster, "runs in cluster mode", remedy);
        }
        for (address, facts) in group.known_replicas() {
            let Some(run_id) = run_id(facts) else { continue };
            if let Some((primary, _)) = primaries.iter().find(|(_, id)| *id == run_id) {
                let message = format!("is the primary {primary} itself (run id {})", run_id.short());
                let remedy = "remove it from `replicas`: rbuddy empties replicas and never touches a primary";
                // Sentinels may have promoted it while rbuddy was away. It is left alone, and the others must be served all the same.
                if group.settings.primary.sentinels().is_some() {
                    findings.warning(address, Topic::Identity, message, remedy);
                } else {
                    findings.error(address, Topic::Identity, message, remedy);
                }
            } else if let Some((other, _)) = seen.iter().find(|(_, id)| *id == run_id) {
                let message = format!("is the same server as {other} (run id {})", run_id.short());
                findings.error(address, Topic::Identity, message, "name each replica once, under one address");
            }
            seen.push((address, run_id));
        }
        list.extend(findings.into_list());
    }
    list
}

fn run_id(facts: &ServerFacts) -> Option<RunId> {
    facts.info.run_id
}
