//! Rules that span several keys: who must not be whom, and what must not be open to everybody.

use super::fields::Placed;
use super::group::GroupDraft;
use super::problem::Problems;
use super::units::{Listen, same_host};
use rbuddy_core::control::settings::StandbyMode;
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::settings::{Endpoint, PrimaryPlace};
use std::ops::Range;

/// An address that rbuddy binds.
struct Bound<'d> {
    listen: &'d Placed<Listen>,
    what: String,
}

/// Judges the file as a whole.
pub(crate) fn judge(api: Option<&Placed<Listen>>, groups: &[GroupDraft], problems: &mut Problems) {
    let bound = bound(api, groups);
    for (at, one) in bound.iter().enumerate() {
        if let Some(other) = bound[..at].iter().find(|other| other.listen.value.collides_with(&one.listen.value)) {
            let message = format!("{} listens where {} does", one.what, other.what);
            problems.error(one.listen.span.clone(), message, "give each its own port");
        }
    }
    for group in groups {
        servers_are_not_us(group, &bound, problems);
        replica_is_not_the_primary(group, groups, problems);
        relay_is_not_open(group, problems);
        something_can_take_over(group, problems);
        an_atomic_switch_has_standbys(group, problems);
        only_warm_replicas_take_turns(group, problems);
    }
    replicas_are_named_once(groups, problems);
}

fn bound<'d>(api: Option<&'d Placed<Listen>>, groups: &'d [GroupDraft]) -> Vec<Bound<'d>> {
    let mut bound: Vec<Bound<'d>> = api.map(|listen| Bound { listen, what: "the API".to_owned() }).into_iter().collect();
    for group in groups {
        let name = group.name.as_ref().map(ToString::to_string).unwrap_or_default();
        let relay = group.relay.as_ref().and_then(|relay| relay.listen.as_ref());
        let reader = group.reader.as_ref().and_then(|reader| reader.listen.as_ref());
        bound.extend(relay.map(|listen| Bound { listen, what: format!("the relay of group `{name}`") }));
        bound.extend(reader.map(|listen| Bound { listen, what: format!("the reader endpoint of group `{name}`") }));
    }
    bound
}

fn servers_are_not_us(group: &GroupDraft, bound: &[Bound<'_>], problems: &mut Problems) {
    let replicas = group.replicas.iter().map(|replica| (&replica.value.address, &replica.span));
    for (address, span) in of_primary(group).into_iter().chain(replicas) {
        if let Some(us) = bound.iter().find(|us| us.listen.value.answers(address)) {
            let message = format!("{address} is the address of {}", us.what);
            problems.error(span.clone(), message, "name the server's own address here, or listen elsewhere");
        }
    }
}

/// The primary, or the Sentinels that know it.
fn of_primary(group: &GroupDraft) -> Vec<(&NodeAddress, &Range<usize>)> {
    let Some(primary) = &group.primary else { return Vec::new() };
    match &primary.value.place {
        PrimaryPlace::Fixed(address) => vec![(address, &primary.span)],
        PrimaryPlace::Sentinels(settings) => settings.sentinels.iter().map(|sentinel| (&sentinel.address, &primary.span)).collect(),
    }
}

fn replica_is_not_the_primary(group: &GroupDraft, groups: &[GroupDraft], problems: &mut Problems) {
    for replica in &group.replicas {
        let is_primary_of = |other: &&GroupDraft| of_primary(other).iter().any(|(address, _)| is_same(address, &replica.value.address));
        let Some(other) = groups.iter().find(is_primary_of) else { continue };
        let whose = if std::ptr::eq(other, group) { String::new() } else { in_group("of", other) };
        let is_fixed = other.primary.as_ref().is_some_and(|primary| primary.value.sentinels().is_none());
        let what = if is_fixed { "the primary" } else { "a Sentinel" };
        let message = format!("the replica {} is {what}{whose}", replica.value.address);
        problems.error(replica.span.clone(), message, "remove it from `replicas`: rbuddy empties replicas and never touches a primary");
    }
}

fn replicas_are_named_once(groups: &[GroupDraft], problems: &mut Problems) {
    let all: Vec<(&GroupDraft, &Placed<Endpoint>)> =
        groups.iter().flat_map(|group| group.replicas.iter().map(move |replica| (group, replica))).collect();
    for (at, (group, replica)) in all.iter().enumerate() {
        let Some((other, _)) = all[..at].iter().find(|(_, earlier)| is_same(&earlier.value.address, &replica.value.address)) else {
            continue;
        };
        let whose = if std::ptr::eq(*other, *group) { String::new() } else { in_group("in", other) };
        problems.error(
            replica.span.clone(),
            format!("the replica {} is already named{whose}", replica.value.address),
            "name each replica once",
        );
    }
}

fn relay_is_not_open(group: &GroupDraft, problems: &mut Problems) {
    let Some(relay) = &group.relay else { return };
    let Some(listen) = relay.listen.as_ref().filter(|listen| !listen.value.is_loopback()) else { return };
    let Some(primary) = &group.primary else { return };
    if relay.auth.is_none() && !relay.is_auth_unreadable && primary.value.password.is_none() {
        let remedy = "add auth = \"password\" to the relay and set masterauth on the replicas to the same, or listen on 127.0.0.1";
        problems.error(listen.span.clone(), "whoever reaches the relay could read the whole dataset", remedy);
    }
}

fn something_can_take_over(group: &GroupDraft, problems: &mut Problems) {
    let (actives, standby) = group.serving();
    let replicas = group.replicas.len() as u64;
    if !group.are_replicas_sound || replicas == 0 || replicas > actives {
        return;
    }
    if replicas == 1 {
        let remedy = "add a second replica: with one there is nothing to swap";
        problems.warning(group.span.clone(), "the only replica keeps its old data when a full resync comes, until you decide", remedy);
    } else if standby == StandbyMode::Empty {
        let remedy = "lower `active`, add a replica, or choose standby = \"warm\"";
        problems.warning(group.span.clone(), "all replicas serve, so none is a standby", remedy);
    }
}

fn an_atomic_switch_has_standbys(group: &GroupDraft, problems: &mut Problems) {
    let (actives, standby) = group.serving();
    let replicas = group.replicas.len() as u64;
    if group.is_atomic() && group.are_replicas_sound && (standby == StandbyMode::Warm || replicas < 2 * actives) {
        let remedy = "choose consistency = \"rolling\", or standby = \"empty\" with twice as many replicas as `active` says";
        problems.error(group.span.clone(), "consistency = \"atomic\" needs a standby for each active", remedy);
    }
}

fn only_warm_replicas_take_turns(group: &GroupDraft, problems: &mut Problems) {
    let (_, standby) = group.serving();
    if group.limits_unavailable() && standby == StandbyMode::Empty {
        let remedy = "remove it, or choose standby = \"warm\"";
        problems.error(
            group.span.clone(),
            "`max_unavailable` says nothing where standbys take over: none of the actives is missed",
            remedy,
        );
    }
}

fn in_group(preposition: &str, group: &GroupDraft) -> String {
    group.name.as_ref().map(|name| format!(" {preposition} group `{name}`")).unwrap_or_default()
}

fn is_same(one: &NodeAddress, other: &NodeAddress) -> bool {
    one.port == other.port && same_host(&one.host, &other.host)
}
