//! What the controller wants, in plain words: one line for each action, telling what is new in it. Histories are called H1, H2, … in the order in which
//! they are told of. An active is told with the position below which nobody may read it (P10), where there is one. Not told: what the story says at level info (the actions say it), versions of servers, the outbox once it shrinks, and an assignment
//! in which only words or the least position moved.

use super::fault::name;
use super::{Scene, replid};
use rbuddy_core::control::action::{Action, StoryLevel};
use rbuddy_core::control::assignment::{ActiveReplica, Assignment, Notification};
use rbuddy_core::control::relay::{RelayOrders, Start};
use rbuddy_core::control::state::{DurableState, Role};
use rbuddy_core::replication::psync::Permit;
use rbuddy_core::types::{NodeAddress, Position, ReplId, Time};
use std::time::Duration;

/// Tells one action after another.
pub struct Teller {
    begin: Time,
    histories: Vec<ReplId>,
    state: Option<DurableState>,
    orders: RelayOrders,
    readers: String,
    /// The last notification.
    notified: u64,
}

impl Teller {
    /// Tells what is new from here on. The primary's history is the first.
    pub fn new(scene: &Scene) -> Teller {
        let notified = scene.disk.as_ref().map_or(0, |state| state.next_notification - 1);
        let (state, orders) = (scene.disk.clone(), scene.orders.clone());
        Teller { begin: scene.now, histories: vec![replid(1)], state, orders, readers: String::new(), notified }
    }

    /// `None`: nothing that is worth a line.
    pub fn tell(&mut self, action: &Action) -> Option<String> {
        match action {
            Action::Persist(state) => Some(format!("persist: {}", self.tell_state(state))),
            Action::Assign(assignment) => {
                let readers = self.tell_assignment(assignment, false);
                let known = std::mem::replace(&mut self.readers, readers.clone());
                (known != readers).then(|| format!("readers: {}", self.tell_assignment(assignment, true)))
            }
            Action::Orders(orders) => {
                let parts = self.tell_orders(orders);
                (!parts.is_empty()).then(|| format!("relay: {}", parts.join("; ")))
            }
            Action::Outbox(outbox) => self.tell_outbox(outbox),
            Action::Server { replica, command, .. } => Some(format!("{}: {command}", name(replica.port))),
            Action::Look(at) => Some(format!("look at {at}: is it a primary?")),
            Action::Reply { result: Ok(text), .. } => Some(format!("answer: {}", self.plain(text))),
            Action::Reply { result: Err(text), .. } => Some(format!("answer: no, {}", self.plain(text))),
            Action::Story { level: StoryLevel::Info, .. } => None,
            Action::Story { level, replica, text } => {
                let whom = replica.as_ref().map_or(String::new(), |replica| format!("{}: ", name(replica.port)));
                Some(format!("{}: {whom}{}", format!("{level:?}").to_lowercase(), self.plain(text)))
            }
        }
    }

    /// Where everything is in the end.
    pub fn tell_end(&mut self, scene: &Scene) -> Vec<String> {
        let mut lines = Vec::new();
        for (replica, server) in &scene.replicas {
            let role = scene.disk.as_ref().map_or("unknown", |state| role_name(state.role(replica)));
            let holds = match server.keys {
                0 => "nothing".to_owned(),
                keys => format!("{keys} keys of {}", self.history(server.replid)),
            };
            lines.push(format!("{} is {role} and holds {holds}{}", name(replica.port), if server.up { "" } else { ", but is dead" }));
        }
        lines.push(format!("phase {}; full resyncs asked of the primary: {}", scene.phase(), scene.sync_full));
        lines
    }

    fn tell_state(&mut self, state: &DurableState) -> String {
        let known = self.state.replace(state.clone()).unwrap_or_else(|| DurableState::new(state.group.clone()));
        let mut news = Vec::new();
        for (replica, record) in &state.replicas {
            if known.role(replica) != &record.role {
                news.push(format!("{} {}", name(replica.port), role_name(&record.role)));
            }
        }
        if state.generation != known.generation {
            news.push(format!("generation {}", state.generation));
        }
        if state.paused != known.paused {
            news.push(if state.paused { "paused" } else { "not paused" }.into());
        }
        let approved: Vec<_> = state.approved.iter().filter(|dataset| !known.approved.contains(dataset)).copied().collect();
        news.extend(approved.iter().map(|dataset| format!("{} approved", self.position(dataset.0))));
        if let Some(found) = state.primary.as_ref().filter(|found| Some(*found) != known.primary.as_ref()) {
            news.push(format!("the primary is at {}", found.address));
        }
        let ids: Vec<_> = state.ids.iter().filter(|id| !known.knows(id.replid)).map(|id| id.replid).collect();
        news.extend(ids.into_iter().map(|id| format!("{} is the group's own", self.history(id))));
        if news.is_empty() { "positions and counts of keys".into() } else { news.join(", ") }
    }

    fn tell_assignment(&mut self, assignment: &Assignment, with_least: bool) -> String {
        let tell_active = |active: &ActiveReplica| {
            let newer = active.newer.first().map_or(String::new(), |newer| format!(", for who has not read {} yet", self.history(*newer)));
            let least = active.offset_at_least.get();
            let least = if with_least && least > 0 { format!(" once it is at {least}") } else { String::new() };
            format!("{}{least}{newer}", name(active.address.port))
        };
        let actives: Vec<String> = assignment.actives.iter().map(tell_active).collect();
        let mut text = if actives.is_empty() { "nobody".to_owned() } else { actives.join(", ") };
        for draining in &assignment.draining {
            let until = draining.until.map_or(String::new(), |until| format!(" until {}", self.seconds(until)));
            text += &format!("; {} is left{until}", name(draining.address.port));
        }
        if let Some(standby) = &assignment.standby {
            text += &format!("; standby {}", name(standby.port));
        }
        text
    }

    fn tell_orders(&mut self, orders: &RelayOrders) -> Vec<String> {
        let known = std::mem::replace(&mut self.orders, orders.clone());
        let mut news = Vec::new();
        if orders.start != known.start {
            news.extend(orders.start.as_ref().map(|start| match start {
                Start::At(place) => format!("ask the primary to continue at {}", self.position(place.position)),
                Start::Resume => "go on from the snapshot on disk".into(),
                Start::Fresh => "begin with nothing".into(),
            }));
        }
        if orders.primary != known.primary && known.primary.is_some() {
            news.extend(orders.primary.as_ref().map(|primary| format!("go to the primary at {primary}")));
        }
        if orders.full_resync != known.full_resync {
            news.extend(orders.full_resync.map(|id| format!("a full resync into {} may be asked for", self.history(id))));
        }
        for (replica, permit) in orders.permits.iter().filter(|(replica, permit)| known.permits.get(*replica) != Some(permit)) {
            let may = match permit {
                Permit::Hold => "is held".to_owned(),
                Permit::Keep => "may follow, but not be resynced".into(),
                Permit::Seed(dataset) => format!("may be given snapshot {}", self.position(dataset.0)),
                Permit::Auto => "may have anything".into(),
            };
            news.push(format!("{} {may}", name(replica.port)));
        }
        let stopped = orders.paused_streams.difference(&known.paused_streams);
        news.extend(stopped.map(|replica| format!("{}'s stream stands still", name(replica.port))));
        let moving = known.paused_streams.difference(&orders.paused_streams);
        news.extend(moving.map(|replica| format!("{}'s stream goes on", name(replica.port))));
        if orders.required != known.required {
            news.push(format!("ACKs count of {}", names(&orders.required)));
        }
        if orders.snapshot_request != known.snapshot_request {
            news.push("take a fresh snapshot over a second connection".into());
        }
        if let Some(dataset) = orders.discard_snapshot.filter(|_| orders.discard_snapshot != known.discard_snapshot) {
            news.push(format!("snapshot {} is of no use any more", self.position(dataset.0)));
        }
        let ended: Vec<_> = orders.discard_ended.difference(&known.discard_ended).copied().collect();
        news.extend(ended.into_iter().map(|end| format!("nobody needs what ended at {}", self.position(end))));
        news
    }

    fn tell_outbox(&mut self, outbox: &[Notification]) -> Option<String> {
        let new = outbox.last().filter(|notification| notification.id > self.notified)?;
        self.notified = new.id;
        let from = new.old.as_ref().map_or(String::new(), |old| format!(" from {}", name(old.port)));
        Some(format!(
            "webhooks: {}{from} to {}, generation {}",
            format!("{:?}", new.event).to_lowercase(),
            name(new.new.port),
            new.generation
        ))
    }

    fn history(&mut self, id: ReplId) -> String {
        let number = self.histories.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.histories.push(id);
            self.histories.len() - 1
        });
        format!("H{}", number + 1)
    }

    fn position(&mut self, position: Position) -> String {
        format!("{}:{}", self.history(position.replid), position.offset.get())
    }

    /// Text for people with names in place of addresses and ids.
    fn plain(&mut self, text: &str) -> String {
        let mut words = Vec::new();
        for word in text.split(' ') {
            let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric());
            let id = bare.split(':').next().and_then(|id| id.parse::<ReplId>().ok());
            let address = bare.parse::<NodeAddress>().ok().filter(|address| address.host == "127.0.0.1");
            words.push(match (id, address) {
                (Some(id), _) => word.replace(id.as_str(), &self.history(id)),
                (None, Some(address)) => word.replace(bare, name(address.port)),
                (None, None) => word.to_owned(),
            });
        }
        words.join(" ")
    }

    /// Since the beginning.
    pub fn seconds(&self, time: Time) -> String {
        format!("{:.1}", Duration::as_secs_f64(&time.since(self.begin)))
    }
}

fn names<'a>(replicas: impl IntoIterator<Item = &'a NodeAddress>) -> String {
    let names: Vec<&str> = replicas.into_iter().map(|replica| name(replica.port)).collect();
    if names.is_empty() { "nobody".into() } else { names.join(", ") }
}

fn role_name(role: &Role) -> &'static str {
    match role {
        Role::Unknown => "unknown",
        Role::Active => "active",
        Role::Standby => "standby",
        Role::Draining => "draining",
        Role::Emptying { .. } => "to be emptied",
        Role::Drained => "drained",
        Role::Refused { .. } => "refused",
    }
}
