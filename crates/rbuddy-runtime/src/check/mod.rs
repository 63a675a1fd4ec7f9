//! Looks at the servers of a configuration and says what `run` will need and does not find.
//!
//! | where | what |
//! | --- | --- |
//! | [`finding`] | what is said: a severity, a server, a remedy |
//! | [`facts`] | what was learnt of a server |
//! | [`gather`] | asks the servers |
//! | [`judge`] | facts in, findings out; pure |
//!
//! Promise: nothing is written to any server. Only `AUTH`, `INFO`, `CONFIG GET`, `COMMAND INFO`, `ACL WHOAMI`, `ACL DRYRUN`, `ACL
//! LIST` and `CLIENT LIST` are sent, and to Sentinels questions. Not here: the configuration file itself (the binary reads it first), words and colours (likewise).

mod facts;
mod finding;
mod gather;
mod judge;

pub use finding::{Finding, Severity, Topic};

use crate::control::StateFile;
use crate::primary::{self, Said};
use crate::settings::{Endpoint, GroupSettings, PrimaryPlace, Settings};
use facts::GroupFacts;
use rbuddy_core::types::ReplId;
use std::time::Duration;
use tokio::task::JoinSet;

/// Everything, in the order of the configuration. Takes a second or so (the primary's write rate is sampled), at most about ten.
pub async fn check(settings: &Settings) -> Vec<Finding> {
    let groups = look(settings, Depth::All).await;
    let mut findings = judge::identity(&groups);
    findings.extend(groups.iter().flat_map(judge::group));
    findings
}

/// Only what makes `run` refuse to start: a replica that is a primary, one replica under two names, cluster mode. Servers that do not
/// answer are no reason: they may come back.
pub async fn essential(settings: &Settings) -> Vec<Finding> {
    let groups = look(settings, Depth::Identity).await;
    judge::identity(&groups).into_iter().filter(|finding| finding.severity == Severity::Error).collect()
}

/// How much is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Depth {
    /// `INFO` only.
    Identity,
    /// All that is judged.
    All,
}

async fn look(settings: &Settings, depth: Depth) -> Vec<GroupFacts> {
    let mut named = Vec::new();
    for group in &settings.groups {
        named.push(find_primary(group).await);
    }
    let mut asking = JoinSet::new();
    for (group_at, group) in settings.groups.iter().enumerate() {
        let primary = named[group_at].0.iter().map(|primary| (0, primary));
        for (server_at, endpoint) in primary.chain((1..).zip(&group.replicas)) {
            let endpoint = endpoint.clone();
            asking.spawn(async move { ((group_at, server_at), gather::server(&endpoint, depth, server_at == 0, TIMEOUT).await) });
        }
    }
    let mut answers = std::collections::BTreeMap::new();
    while let Some(joined) = asking.join_next().await {
        let (place, facts) = joined.expect("asking neither panics nor is cancelled");
        answers.insert(place, facts);
    }
    let facts_of = |(group_at, group): (usize, &GroupSettings)| {
        let primary = answers.get(&(group_at, 0)).cloned();
        let replicas = answers.range((group_at, 1)..(group_at + 1, 0)).map(|(_, server)| server.clone()).collect();
        let sentinels = named[group_at].1.clone();
        GroupFacts { settings: group.clone(), primary, sentinels, replicas, own_ids: own_ids(settings, group) }
    };
    settings.groups.iter().enumerate().map(facts_of).collect()
}

/// Where the primary is, and what Sentinels said of that.
async fn find_primary(group: &GroupSettings) -> (Option<Endpoint>, Vec<Said>) {
    match &group.primary.place {
        PrimaryPlace::Fixed(address) => (Some(group.primary.endpoint(address.clone())), Vec::new()),
        PrimaryPlace::Sentinels(sentinels) => {
            let said = primary::ask_all(sentinels, TIMEOUT).await;
            let verdict = primary::choose(&said, said.len(), None, None).ok();
            (verdict.map(|verdict| group.primary.endpoint(verdict.address)), said)
        }
    }
}

/// From the state file, if there is one that can be read. `run` says what is wrong with one that cannot.
fn own_ids(settings: &Settings, group: &GroupSettings) -> Vec<ReplId> {
    let state = StateFile::below(&settings.state_dir, &group.policy.group).load(&group.policy.group);
    state.ok().flatten().map(|state| state.ids.iter().map(|known| known.replid).collect()).unwrap_or_default()
}

/// For connecting and for each answer.
const TIMEOUT: Duration = Duration::from_secs(3);
