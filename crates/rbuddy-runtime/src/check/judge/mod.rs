//! Facts in, findings out. Pure.
//!
//! | where | what |
//! | --- | --- |
//! | [`mod@identity`] | what makes `run` refuse: who is who, cluster mode |
//! | [`roles`] | reachable, whom it follows, whose keys it holds, what it can load |
//! | [`orders`] | what our login may do, `masterauth`, how a replica behaves while held |
//! | [`upkeep`] | restarts, memory, backlog, drift |
//! | [`sentinels`] | those that are asked for the primary, those that would interfere |

mod identity;
mod orders;
mod roles;
mod sentinels;
#[cfg(test)]
mod tests;
mod upkeep;

use super::facts::GroupFacts;
use super::finding::{Finding, Findings};

pub(super) use identity::identity;

/// Everything about one group, but for its identity.
pub(super) fn group(group: &GroupFacts) -> Vec<Finding> {
    let mut findings = Findings::new(&group.settings.policy.group);
    roles::judge(group, &mut findings);
    orders::judge(group, &mut findings);
    upkeep::judge(group, &mut findings);
    sentinels::judge(group, &mut findings);
    findings.into_list()
}

/// `64.0 MiB`
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if bytes < 1024 { format!("{bytes} bytes") } else { format!("{value:.1} {}", UNITS[unit]) }
}
