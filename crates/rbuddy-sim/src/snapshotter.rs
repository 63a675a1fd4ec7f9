//! Snapshots on demand over a second connection: when the controller asks, and by the relay itself when a wanted one was lost to a full disk.

use crate::relay::{Arrival, Relay, Spool};
use crate::truth::Point;
use crate::upstream::NAMED_WITHIN_MS;
use crate::world::World;
use rbuddy_core::control::relay::UpstreamState;
use rbuddy_core::types::{DatasetId, NodeAddress};

impl World {
    /// One breath of the snapshotter.
    pub fn breathe_snapshotter(&mut self) {
        let Some(mut relay) = self.take_relay() else { return };
        match relay.arrival.clone() {
            Some(arrival) if arrival.failed.is_none() => {
                if arrival.on_demand.is_some() {
                    self.go_on(&mut relay, arrival);
                }
            }
            Some(_) | None => self.begin_if_due(&mut relay),
        }
        self.put_relay(relay);
    }

    fn begin_if_due(&mut self, relay: &mut Relay) {
        let request = relay.orders.snapshot_request.filter(|request| relay.request_done.is_none_or(|done| *request > done));
        let is_lost = relay.arrival.is_some() && self.now >= relay.snapshot_at;
        // A full resync that came meanwhile has brought what was asked for.
        let (asked, before) = match request {
            Some(request) => *relay.request_waits.get_or_insert((request, relay.upstream.full_resyncs)),
            None => (0, relay.upstream.full_resyncs),
        };
        if relay.upstream.state != UpstreamState::Streaming || (request.is_none() && !is_lost) {
            return;
        }
        relay.request_waits = None;
        if before != relay.upstream.full_resyncs && relay.arrival.is_none() {
            (relay.request_done, relay.request_error) = (Some(asked), None);
            return;
        }
        if let Err(error) = self.take(relay, request) {
            self.give_up(relay, request, error);
        }
    }

    /// The history of a snapshot on its way over the second connection ends.
    pub fn interrupt_snapshot(&mut self, relay: &mut Relay) {
        if let Some((_, request)) = relay.arrival.take().and_then(|arrival| arrival.on_demand.filter(|_| arrival.failed.is_none())) {
            self.give_up(relay, request, "the history that the snapshot belongs to is no longer the live one".to_owned());
        }
    }

    fn give_up(&mut self, relay: &mut Relay, request: Option<u64>, error: String) {
        self.tell(format!("relay: snapshot not taken: {error}"));
        relay.snapshot_at = self.now.after(self.dice.millis(1000, 4000));
        if request.is_some() {
            (relay.request_done, relay.request_error) = (request, Some(error));
        }
    }

    fn take(&mut self, relay: &mut Relay, request: Option<u64>) -> Result<(), String> {
        if self.weather.disk_full {
            return Err("a snapshot wants room on disk".to_owned());
        }
        let (key, replid) = relay.live().map(|live| (live.key, live.history.replid())).ok_or("no history")?;
        let from_replica = relay.orders.snapshot_source.clone().filter(|replica| self.is_well(replica));
        let from_primary = relay.primary.clone().filter(|primary| self.is_well(primary) && !self.weather.upstream_cut);
        let at = from_replica.clone().or(from_primary).ok_or("nobody to take it from")?;
        if from_replica.is_none() {
            self.check_snapshot(relay);
        }
        let process = self.server_at(&at).ok_or("no answer")?;
        if process.replid != replid {
            return Err("it belongs to another history".to_owned());
        }
        let data = process.data.map(|data| Point { offset: process.offset, ..data }).ok_or("it holds nothing")?;
        let (evicted, run_id) = (process.evicted, process.run_id);
        let dataset = DatasetId(process.position());
        let until = self.now.after(self.dice.millis(100, 2000));
        self.tell(format!("relay: takes snapshot {dataset} from {at}"));
        relay.arrival = Some(Arrival { key, dataset, data, evicted, until, failed: None, on_demand: Some((run_id, request)) });
        Ok(())
    }

    fn go_on(&mut self, relay: &mut Relay, arrival: Arrival) {
        let Arrival { key, dataset, data, evicted, until, on_demand, .. } = arrival;
        let Some((run_id, request)) = on_demand else { return };
        let is_live = relay.live().is_some_and(|live| live.key == key);
        let is_there =
            self.servers.values().any(|server| server.process.as_ref().is_some_and(|process| process.run_id == run_id && !process.hangs));
        let has_reached = relay.live().is_some_and(|live| live.history.end >= dataset.0.offset);
        let is_late = self.now.since(until) > REACH_PATIENCE;
        let result = match (is_live, is_there || self.now >= until) {
            (false, _) => Err("the history that the snapshot belongs to is no longer the live one".to_owned()),
            (true, false) => Err("the connection broke".to_owned()),
            (true, true) if self.weather.disk_full && self.now >= until => Err("no space left on device".to_owned()),
            (true, true) if self.now < until || (!has_reached && !is_late) => return,
            (true, true) => {
                let named_at = self.now.after(self.dice.millis(0, NAMED_WITHIN_MS));
                relay.install(Spool { key, dataset, data, evicted }, named_at)
            }
        };
        match result {
            Ok(()) => {
                if request.is_some() {
                    (relay.request_done, relay.request_error) = (request, None);
                }
            }
            Err(error) => {
                let is_disk = error.starts_with("no space");
                relay.arrival = Some(Arrival { failed: Some(error.clone()), ..arrival }).filter(|_| is_disk);
                self.give_up(relay, request, error);
            }
        }
    }

    fn is_well(&self, at: &NodeAddress) -> bool {
        self.server_at(at).is_some_and(|process| !process.hangs && process.loading.is_none())
    }
}

/// How long the stream may take to reach a snapshot.
const REACH_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
