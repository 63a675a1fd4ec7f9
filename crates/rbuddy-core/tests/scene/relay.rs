//! The relay of the scene: it follows the primary and answers its replicas as the real one does, by core's own decisions, a step at a time.

use super::server::{Server, server};
use super::{RELAY, Scene, address};
use rbuddy_core::control::relay::{
    FullResyncNeed, RelayView, SessionState, SessionView, SnapshotState, SnapshotView, Start, UpstreamState,
};
use rbuddy_core::replication::history::{History, Standing};
use rbuddy_core::replication::prospect::Gap;
use rbuddy_core::replication::psync::{Asked, HoldReason, Permit, Verdict, decide};
use rbuddy_core::types::{DatasetId, Flavour, Offset, Position, RdbVersion};

impl Scene {
    /// The relay gives up the old primary at once.
    fn go_where_ordered(&mut self) {
        let Some(to) = self.orders.primary.clone().filter(|to| *to != self.primary_at) else { return };
        let server = self.others.remove(&to).or(self.replicas.get(&to).cloned()).unwrap_or_else(|| Server { up: false, ..server(0, 0) });
        let old = std::mem::replace(&mut self.primary, server);
        self.others.insert(std::mem::replace(&mut self.primary_at, to), old);
        self.view.upstream.state = UpstreamState::Connecting;
    }

    pub(super) fn move_upstream(&mut self) {
        self.go_where_ordered();
        let Some(start) = self.orders.start.clone() else { return };
        if self.view.histories.is_empty() {
            match start {
                Start::At(place) => self.view.histories.push(History::starting_from(&place)),
                Start::Resume => {
                    let (dataset, end) = self.view.resumable.expect("ordered only if there");
                    let mut history = History::starting_at(dataset.0, Some(dataset));
                    history.end = end.offset;
                    self.view.histories.push(history);
                    self.view.snapshot = Some(snapshot(dataset, SnapshotState::Ready));
                }
                Start::Fresh => {}
            }
        }
        if !self.primary.up || self.link_cut {
            if self.view.upstream.state != UpstreamState::Connecting {
                self.view.upstream.state = UpstreamState::Connecting;
                self.view.upstream.down_since = Some(self.now);
                self.view.upstream.last_error = Some("the link is cut".into());
            }
            return;
        }
        if self.disk_is_full && self.has_no_room() {
            return;
        }
        if self.view.upstream.state == UpstreamState::ReceivingSnapshot {
            self.view.upstream.state = UpstreamState::Streaming;
            if let Some(snapshot) = &mut self.view.snapshot {
                snapshot.state = SnapshotState::Ready;
            }
        } else if self.view.upstream.state != UpstreamState::Streaming {
            self.dial();
            if self.view.upstream.state == UpstreamState::Handshake {
                // It waits for permission: nothing arrives.
                return;
            }
        }
        let end = Offset::new(self.primary.offset).expect("small");
        if let Some(live) = self.view.histories.iter_mut().find(|history| history.live) {
            live.end = end;
        }
        if let Some(number) = self.orders.snapshot_request.filter(|number| Some(*number) > self.view.snapshot_request_done) {
            self.view.snapshot_request_done = Some(number);
            self.view.snapshot_request_error = self.disk_is_full.then(|| "no room on the disk".into());
            if !self.disk_is_full {
                self.sync_full += 1;
                let dataset = DatasetId(Position::new(self.primary.replid, end));
                self.datasets.insert(dataset, (self.primary.keys, self.primary.expires));
                self.view.snapshot = Some(snapshot(dataset, SnapshotState::Ready));
            }
        }
        let discarded = self.orders.discard_snapshot;
        self.view.snapshot = self.view.snapshot.take().filter(|snapshot| Some(snapshot.dataset) != discarded);
        self.view.histories.retain(|history| history.live || !self.orders.discard_ended.contains(&history.end_position()));
    }

    /// A snapshot that arrives is given up, with the history that began with it, and not asked for again before there is room.
    fn has_no_room(&mut self) -> bool {
        if self.view.upstream.state == UpstreamState::ReceivingSnapshot {
            self.view.histories.retain(|history| !history.live);
            self.view.upstream.state = UpstreamState::Connecting;
            self.view.snapshot.iter_mut().for_each(|snapshot| snapshot.state = SnapshotState::Failed("no room on the disk".into()));
        }
        self.view.snapshot.as_ref().is_some_and(|snapshot| matches!(snapshot.state, SnapshotState::Failed(_)))
    }

    fn dial(&mut self) {
        // A snapshot that broke off is of no use, and neither is its history.
        if self.view.snapshot.as_ref().is_some_and(|snapshot| snapshot.state == SnapshotState::Receiving) {
            self.view.snapshot = None;
            self.view.histories.retain(|history| !history.live);
        }
        let asked = self.view.live().map(History::end_position);
        let accepted = asked.is_some_and(|position| {
            (position.replid == self.primary.replid || Some(position.replid) == self.primary.replid2)
                && position.offset.get() <= self.primary.offset
                && position.offset.get() + 1 >= self.primary.backlog_from
        });
        if accepted {
            let replid = self.primary.replid;
            let live = self.view.histories.iter_mut().filter(|history| history.live);
            live.for_each(|live| live.rename(replid));
            self.view.upstream.partial_resyncs += 1;
            (self.view.upstream.state, self.view.upstream.down_since) = (UpstreamState::Streaming, None);
            return;
        }
        // The real relay looks at the primary's INFO and waits for the word.
        let replid = self.primary.replid;
        if self.orders.full_resync != Some(replid) {
            let gap = asked.map_or(Gap::NothingToContinue, |ours| Gap::OtherHistory { ours: ours.replid, theirs: replid });
            self.view.upstream.full_resync_needed = Some(FullResyncNeed { replid, gap });
            self.view.upstream.state = UpstreamState::Handshake;
            return;
        }
        (self.view.upstream.full_resync_needed, self.view.upstream.down_since) = (None, None);
        self.view.upstream.state = UpstreamState::ReceivingSnapshot;
        self.view.upstream.full_resyncs += 1;
        self.sync_full += 1;
        self.view.histories.iter_mut().for_each(|history| history.live = false);
        let position = Position::new(self.primary.replid, Offset::new(self.primary.offset).expect("small"));
        let dataset = DatasetId(position);
        self.datasets.insert(dataset, (self.primary.keys, self.primary.expires));
        self.view.histories.push(History::starting_at(position, Some(dataset)));
        self.view.snapshot = Some(snapshot(dataset, SnapshotState::Receiving));
    }

    pub(super) fn move_sessions(&mut self) {
        let ready = self.view.ready_snapshot().map(|snapshot| snapshot.dataset);
        for (replica, server) in &mut self.replicas {
            if !server.up || server.master != Some(address(RELAY)) {
                self.view.sessions.remove(replica);
                continue;
            }
            if server.hangs {
                // Its connection stays, and says nothing any more.
                continue;
            }
            if server.loading_steps > 0 {
                server.loading_steps -= 1;
                continue;
            }
            let position = Position::new(server.replid, Offset::new(server.offset).expect("small"));
            let asked = Asked::From(position.replid, position.offset.next_byte());
            let Some(permit) = self.orders.permits.get(replica).copied() else { continue };
            let known = self.view.sessions.get(replica).cloned();
            // One that was seeded in this session is known to be on the live history, whatever other history has its id.
            let seeded = known.as_ref().and_then(|known| seeded_with(&self.view, known));
            let may_be_meant = |history: &&History| history.live || seeded.is_none();
            let histories: Vec<History> = self.view.histories.iter().filter(may_be_meant).cloned().collect();
            let verdict = decide(asked, permit, &histories, ready);
            let state = match verdict {
                Verdict::Hold(reason) => {
                    server.link_up = false;
                    SessionState::Held(reason)
                }
                Verdict::Continue { history, announce, .. } => {
                    let history = &histories[history];
                    let is_paused = self.orders.paused_streams.contains(replica);
                    if !is_paused {
                        server.offset = history.end.get();
                        if history.live && self.view.upstream.state == UpstreamState::Streaming {
                            let lacking = server.evicted + server.evicted_before;
                            (server.keys, server.expires) = (self.primary.keys.saturating_sub(lacking), self.primary.expires);
                        }
                    }
                    server.replid = announce;
                    server.link_up = true;
                    let offset = Offset::new(server.offset).expect("small");
                    SessionState::Streaming { replid: announce, acked: offset, sent: offset, seeded }
                }
                Verdict::Full { .. } if self.orders.judged.get(replica) != Some(&server.run_id) => {
                    SessionState::Held(HoldReason::AnotherProcess)
                }
                Verdict::Full { dataset, .. } => {
                    (server.replid, server.offset) = (dataset.0.replid, dataset.0.offset.get());
                    (server.keys, server.expires) = self.datasets[&dataset];
                    (server.evicted, server.evicted_before) = (0, 0);
                    server.loading_steps = 5;
                    server.link_up = false;
                    SessionState::Loading { dataset }
                }
            };
            let since = match &known {
                Some(known) if std::mem::discriminant(&known.state) == std::mem::discriminant(&state) => known.since,
                _ => self.now,
            };
            let asked = matches!(state, SessionState::Held(_)).then_some(position);
            self.view.sessions.insert(replica.clone(), SessionView { asked, version: None, state, since });
        }
    }

    /// What the relay's hold looks like from here.
    pub fn held(&self, port: u16) -> Option<HoldReason> {
        match self.view.sessions.get(&address(port))?.state {
            SessionState::Held(reason) => Some(reason),
            _ => None,
        }
    }

    pub fn permit(&self, port: u16) -> Option<Permit> {
        self.orders.permits.get(&address(port)).copied()
    }
}

/// The dataset of the live history that it was given since it connected.
fn seeded_with(view: &RelayView, session: &SessionView) -> Option<DatasetId> {
    let dataset = match session.state {
        SessionState::Loading { dataset } => Some(dataset),
        SessionState::Streaming { seeded, .. } => seeded,
        SessionState::Held(_) | SessionState::Seeding { .. } => None,
    };
    dataset.filter(|dataset| view.live().is_some_and(|live| live.standing(dataset.0) == Standing::Covered))
}

fn snapshot(dataset: DatasetId, state: SnapshotState) -> SnapshotView {
    let rdb = RdbVersion { flavour: Flavour::Redis, number: 10 };
    SnapshotView { dataset, state, bytes: 1000, total_bytes: Some(1000), rdb: Some(rdb), keys_hint: None }
}
