//! Events, actions and what they change, in words for people who read a journal.
//!
//! Promise: differences, not dumps; nothing is decided here. Not here: which steps are worth showing, and how.

use super::action::Action;
use super::assignment::Assignment;
use super::controller::Controller;
use super::event::{Event, Node, ProbeResult};
use super::primary::SentinelView;
use super::relay::{RelayOrders, RelayView, SessionState, SnapshotState, Start, UpstreamState};
use super::report::role_name;
use super::status::{Operation, Phase, RoleName};
use super::world::World;
use crate::replication::psync::Permit;
use crate::types::{Generation, NodeAddress};
use std::collections::{BTreeMap, BTreeSet};

/// What an action does.
pub fn action_in_words(action: &Action) -> String {
    match action {
        Action::Persist(state) => format!("writes the state file (generation {})", state.generation),
        Action::Assign(assignment) => format!("publishes who may be read: {}", readable(assignment)),
        Action::Orders(_) => "publishes new orders to the relay".into(),
        Action::Outbox(outbox) => format!("has {} notifications to deliver", outbox.len()),
        Action::Server { id, replica, command, .. } => format!("tells {replica} to {command} (command {})", id.0),
        Action::Look(address) => format!("looks at {address}, which is said to be the primary"),
        Action::Reply { request, result: Ok(answer) } => format!("answers request {request}: {answer}"),
        Action::Reply { request, result: Err(refusal) } => format!("refuses request {request}: {refusal}"),
        Action::Story { replica: Some(replica), text, .. } => format!("{replica}: {text}"),
        Action::Story { replica: None, text, .. } => text.clone(),
    }
}

/// What happened, with what is new in it. `world` is what was seen before.
pub(super) fn event_in_words(world: &World, event: &Event) -> String {
    match event {
        Event::Relay(view) => relay_in_words(&world.relay, view),
        Event::Probe { node, result, .. } => format!("{} {}", node_in_words(node), result_in_words(result)),
        Event::Outcome { id, outcome } => format!("command {} ended: {outcome:?}", id.0),
        Event::Operator { request, operation } => format!("an operator wants {} (request {request})", operation_in_words(operation)),
        Event::Sentinels(SentinelView { named: Some(address), .. }) => format!("the Sentinels name {address}"),
        Event::Sentinels(SentinelView { named: None, trouble }) => {
            format!("the Sentinels name nobody ({})", trouble.as_deref().unwrap_or("not asked yet"))
        }
        Event::Delivered { id, .. } => format!("notification {id} was delivered"),
        Event::Tick => "time passed".into(),
    }
}

fn node_in_words(node: &Node) -> String {
    match node {
        Node::Primary(address) => format!("the primary {address}"),
        Node::Candidate(address) => format!("{address}, said to be the primary,"),
        Node::Replica(address) => format!("replica {address}"),
    }
}

fn result_in_words(result: &ProbeResult) -> String {
    let info = match result {
        ProbeResult::Failed(error) => return format!("does not answer: {error}"),
        ProbeResult::Answered(probe) => &probe.info,
    };
    let role = info.role.map_or("without a role".to_owned(), |role| format!("{role:?}").to_lowercase());
    let at = info.position().map(|position| format!(" at {position}")).unwrap_or_default();
    let conditions = [
        (info.is_loading, "loading"),
        (info.is_sync_in_progress, "taking a full resync"),
        (info.master.is_some() && !info.is_link_up, "its link is down"),
    ];
    let conditions: String = conditions.iter().filter(|(holds, _)| *holds).map(|(_, word)| format!(", {word}")).collect();
    format!("answers: {role}, {} keys{at}{conditions}", info.keyspace.keys)
}

fn operation_in_words(operation: &Operation) -> String {
    match operation {
        Operation::Failover => "a planned switch".into(),
        Operation::Approve { dataset } => format!("dataset {dataset} approved"),
        Operation::Adopt { replica } => format!("{replica} adopted"),
        Operation::Drain { replica } => format!("{replica} taken out"),
        Operation::Return { replica } => format!("{replica} taken back in"),
        Operation::SetPrimary { address } => format!("the primary at {address}"),
        Operation::Pause => "a pause".into(),
        Operation::Resume => "it to go on".into(),
    }
}

/// What a view says that the one before did not.
fn relay_in_words(before: &RelayView, now: &RelayView) -> String {
    let mut news = Vec::new();
    if before.upstream.state != now.upstream.state {
        let why = now.upstream.last_error.as_deref().filter(|_| now.upstream.state != UpstreamState::Streaming);
        let why = why.map(|error| format!(" ({error})")).unwrap_or_default();
        news.push(format!("the link to the primary: {}{why}", upstream_in_words(now.upstream.state)));
    }
    if before.upstream.full_resync_needed != now.upstream.full_resync_needed
        && let Some(need) = now.upstream.full_resync_needed
    {
        news.push(format!("nothing but a full resync leads on: {}", need.gap));
    }
    if before.upstream.last_full_resync != now.upstream.last_full_resync
        && let Some(full) = now.upstream.last_full_resync
    {
        news.push(format!("the primary gave a full resync, {}", full.given));
    }
    let snapshot = |view: &RelayView| view.snapshot.as_ref().map(|snapshot| (snapshot.dataset, snapshot.state.clone()));
    if snapshot(before) != snapshot(now) {
        news.push(match snapshot(now) {
            None => "no snapshot any more".into(),
            Some((dataset, SnapshotState::Receiving)) => format!("snapshot {dataset} arrives"),
            Some((dataset, SnapshotState::Ready)) => format!("snapshot {dataset} is complete"),
            Some((dataset, SnapshotState::Failed(why))) => format!("snapshot {dataset} failed: {why}"),
        });
    }
    if before.backlog.disk_error != now.backlog.disk_error {
        let error = now.backlog.disk_error.as_deref();
        news.push(error.map_or("its disk takes the stream again".into(), |error| format!("its disk does not take the stream: {error}")));
    }
    if before.told_to_follow != now.told_to_follow
        && let Some(told) = &now.told_to_follow
    {
        news.push(format!("a Sentinel tells it to follow {}", told.address));
    }
    for (replica, session) in &now.sessions {
        let known = before.sessions.get(replica).map(|session| session_in_words(&session.state));
        let words = session_in_words(&session.state);
        if known.as_ref() != Some(&words) {
            news.push(format!("{replica} {words}"));
        }
    }
    for replica in before.sessions.keys().filter(|replica| !now.sessions.contains_key(*replica)) {
        let why = now.ended.get(replica).map(|end| format!(": {}", end.reason)).unwrap_or_default();
        news.push(format!("{replica} is gone{why}"));
    }
    if news.is_empty() { "the relay's counters moved".into() } else { format!("the relay: {}", news.join("; ")) }
}

fn upstream_in_words(state: UpstreamState) -> &'static str {
    match state {
        UpstreamState::Idle => "idle",
        UpstreamState::Connecting => "connecting",
        UpstreamState::Handshake => "handshake",
        UpstreamState::ReceivingSnapshot => "receiving a snapshot",
        UpstreamState::Streaming => "streaming",
    }
}

fn session_in_words(state: &SessionState) -> String {
    match state {
        SessionState::Held(reason) => format!("is held: {reason}"),
        SessionState::Seeding { dataset, .. } => format!("gets snapshot {dataset}"),
        SessionState::Loading { dataset } => format!("loads {dataset}"),
        SessionState::Streaming { replid, .. } => format!("follows {}", replid.short()),
    }
}

/// What people follow of a controller.
pub(super) struct Look {
    phase: Phase,
    explanation: String,
    generation: Generation,
    roles: BTreeMap<NodeAddress, RoleName>,
    assignment: Option<Assignment>,
    orders: RelayOrders,
}

impl Look {
    pub(super) fn of(controller: &Controller) -> Look {
        let role = |replica: &NodeAddress| (replica.clone(), role_name(controller.state.role(replica)));
        Look {
            phase: controller.phase,
            explanation: controller.explanation.clone(),
            generation: controller.state.generation,
            roles: controller.policy.replicas.iter().map(role).collect(),
            assignment: controller.assignment.clone(),
            orders: controller.orders.clone(),
        }
    }

    /// All of it, where nothing was known before.
    pub(super) fn as_new(&self) -> Vec<String> {
        let mut lines = vec![format!("generation {}", self.generation), format!("phase {}: {}", self.phase, self.explanation)];
        lines.extend(self.roles.iter().map(|(replica, role)| format!("{replica} is {role}")));
        lines.extend(self.assignment.as_ref().map(|assignment| format!("may be read: {}", readable(assignment))));
        lines
    }

    /// A line for each thing that is not the same in `now`. Words of one phase that count something are not news.
    pub(super) fn changes_to(&self, now: &Look) -> Vec<String> {
        let mut lines = Vec::new();
        if self.generation != now.generation {
            lines.push(format!("generation {} → {}", self.generation, now.generation));
        }
        if self.phase != now.phase {
            lines.push(format!("phase {} → {}: {}", self.phase, now.phase, now.explanation));
        } else if without_digits(&self.explanation) != without_digits(&now.explanation) {
            lines.push(format!("phase {}: {}", now.phase, now.explanation));
        }
        for (replica, role) in &now.roles {
            match self.roles.get(replica) {
                Some(before) if before == role => {}
                Some(before) => lines.push(format!("{replica}: {before} → {role}")),
                None => lines.push(format!("{replica} is {role}")),
            }
        }
        let readable_before = self.assignment.as_ref().map(readable);
        let readable_now = now.assignment.as_ref().map(readable);
        if readable_before != readable_now {
            let words = |text: Option<String>| text.unwrap_or_else(|| "not told yet".into());
            lines.push(format!("may be read: {} → {}", words(readable_before), words(readable_now)));
        }
        lines.extend(order_changes(&self.orders, &now.orders));
        lines
    }
}

fn without_digits(text: &str) -> String {
    text.chars().filter(|c| !c.is_ascii_digit()).collect()
}

fn readable(assignment: &Assignment) -> String {
    let list = |addresses: Vec<String>| if addresses.is_empty() { "nobody".to_owned() } else { addresses.join(", ") };
    let actives = list(assignment.actives.iter().map(|active| active.address.to_string()).collect());
    let draining: Vec<String> = assignment.draining.iter().map(|draining| draining.address.to_string()).collect();
    if draining.is_empty() { actives } else { format!("{actives}, readers leave {}", draining.join(", ")) }
}

fn order_changes(before: &RelayOrders, now: &RelayOrders) -> Vec<String> {
    let mut lines = Vec::new();
    let mut changed = |name: &str, before: String, now: String| {
        if before != now {
            lines.push(format!("order {name}: {before} → {now}"));
        }
    };
    let start = |orders: &RelayOrders| orders.start.as_ref().map_or("none".to_owned(), start_in_words);
    changed("start", start(before), start(now));
    let places = |orders: &RelayOrders| listed(orders.places.iter().map(|place| place.position.to_string()));
    changed("places to go on at", places(before), places(now));
    changed("primary", shown(&before.primary), shown(&now.primary));
    changed("full resync", shown(&before.full_resync), shown(&now.full_resync));
    for replica in now.permits.keys().chain(before.permits.keys().filter(|replica| !now.permits.contains_key(*replica))) {
        let permit = |orders: &RelayOrders| {
            let permit = orders.permits.get(replica);
            let judged = orders.judged.get(replica).filter(|_| matches!(permit, Some(Permit::Seed(_))));
            let whom = judged.map_or(String::new(), |process| format!(", process {process} only"));
            permit.map_or("none".to_owned(), permit_in_words) + &whom
        };
        changed(&format!("permit of {replica}"), permit(before), permit(now));
    }
    changed("paused streams", all(&before.paused_streams), all(&now.paused_streams));
    changed("required", all(&before.required), all(&now.required));
    changed("snapshot request", shown(&before.snapshot_request), shown(&now.snapshot_request));
    changed("snapshot source", shown(&before.snapshot_source), shown(&now.snapshot_source));
    changed("discard snapshot", shown(&before.discard_snapshot), shown(&now.discard_snapshot));
    changed("discard ended histories", all(&before.discard_ended), all(&now.discard_ended));
    lines
}

fn permit_in_words(permit: &Permit) -> String {
    match permit {
        Permit::Hold => "hold".into(),
        Permit::Keep => "keep".into(),
        Permit::Seed(dataset) => format!("seed with {dataset}"),
        Permit::Auto => "auto".into(),
    }
}

fn start_in_words(start: &Start) -> String {
    match start {
        Start::At(place) => format!("at {}", place.position),
        Start::Resume => "with what is on disk".into(),
        Start::Fresh => "fresh".into(),
    }
}

fn shown(value: &Option<impl ToString>) -> String {
    value.as_ref().map_or("none".into(), ToString::to_string)
}

fn all<T: ToString>(values: &BTreeSet<T>) -> String {
    listed(values.iter().map(T::to_string))
}

fn listed(values: impl Iterator<Item = String>) -> String {
    let words = values.collect::<Vec<_>>().join(", ");
    if words.is_empty() { "none".into() } else { words }
}
