//! The servers of the scene: what they hold, what becomes of them, what they say when asked, and what they do when told.

use super::{RELAY, Scene, address, replid, run_id};
use rbuddy_core::control::action::{Outcome, ServerCommand};
use rbuddy_core::control::event::{Probe, ProbeResult};
use rbuddy_core::control::relay::UpstreamState;
use rbuddy_core::info::{Keyspace, Role, ServerInfo};
use rbuddy_core::types::{Flavour, NodeAddress, Offset, ReplId, RunId, ServerVersion};

/// A server of the scene.
#[derive(Debug, Clone)]
pub struct Server {
    pub up: bool,
    pub run_id: RunId,
    pub master: Option<NodeAddress>,
    pub replid: ReplId,
    pub replid2: Option<ReplId>,
    pub offset: u64,
    /// First byte that its backlog covers, as a primary.
    pub backlog_from: u64,
    pub keys: u64,
    pub expires: u64,
    /// Keys that it has evicted of what it holds.
    pub evicted: u64,
    /// Those that processes before it have, which it does not count.
    pub evicted_before: u64,
    pub avg_ttl_ms: u64,
    pub serve_stale: bool,
    pub link_up: bool,
    /// Answers nothing, though it runs.
    pub hangs: bool,
    pub version: ServerVersion,
    /// Steps for which a new dataset still loads.
    pub loading_steps: u32,
    /// What it says of itself beside all this.
    pub says: Option<Box<Probe>>,
}

impl Scene {
    pub fn at(&mut self, port: u16) -> &mut Server {
        self.replicas.get_mut(&address(port)).expect("of the scene")
    }

    pub fn follow_primary(&mut self, port: u16) {
        let primary = self.primary.clone();
        let replica = self.at(port);
        replica.master = Some(address(6379));
        (replica.replid, replica.offset, replica.keys, replica.expires) = (primary.replid, primary.offset, primary.keys, primary.expires);
        replica.link_up = true;
    }

    /// The primary comes back with another history.
    pub fn replace_primary(&mut self, keys: u64) {
        let (run, id) = (self.next_id(), self.next_id());
        self.primary = Server { offset: 700, backlog_from: 701, ..server(run, keys) };
        self.primary.replid = replid(id);
        // Its old connection is gone.
        self.view.upstream.state = UpstreamState::Connecting;
    }

    /// A replica of the primary that was promoted in its place: the same data, a new id, the old one as its second.
    pub fn heir(&mut self) -> Server {
        let (run, id) = (self.next_id(), self.next_id());
        Server { run_id: run_id(run), replid: replid(id), replid2: Some(self.primary.replid), ..self.primary.clone() }
    }

    /// A replica's process is another one now, with or without its data.
    pub fn restart(&mut self, port: u16, with_data: bool) {
        let (run, id) = (self.next_id(), self.next_id());
        let replica = self.at(port);
        replica.run_id = run_id(run);
        replica.link_up = false;
        replica.evicted_before += std::mem::take(&mut replica.evicted);
        if !with_data {
            replica.evicted_before = 0;
            (replica.keys, replica.expires, replica.offset, replica.replid, replica.master) = (0, 0, 0, replid(id), None);
            replica.replid2 = None;
        }
        self.view.sessions.remove(&address(port));
    }

    pub(super) fn carry_out(&mut self, replica: &NodeAddress, command: &ServerCommand) -> Outcome {
        let id = self.next_id();
        let server = self.replicas.get_mut(replica).expect("of the scene");
        if !server.up || server.hangs {
            return Outcome::Refused("does not answer".into());
        }
        match command {
            ServerCommand::Follow { serve_stale } => {
                server.serve_stale = *serve_stale;
                if server.master != Some(address(RELAY)) {
                    (server.master, server.link_up) = (Some(address(RELAY)), false);
                }
            }
            ServerCommand::ServeStale(on) => server.serve_stale = *on,
            ServerCommand::Detach => {
                (server.replid2, server.replid, server.master, server.link_up) = (Some(server.replid), replid(id), None, false);
                self.view.sessions.remove(replica);
            }
            ServerCommand::DisconnectClients => {}
            ServerCommand::Empty { run_id, .. } => {
                if server.run_id != *run_id {
                    return Outcome::Refused("another process".into());
                }
                let old = server.replid;
                (server.keys, server.expires, server.replid, server.replid2) = (0, 0, replid(id), Some(old));
                (server.serve_stale, server.master, server.link_up) = (false, Some(address(RELAY)), false);
                self.view.sessions.remove(replica);
            }
        }
        Outcome::Done
    }

    pub(super) fn look(&self, server: &Server) -> ProbeResult {
        if !server.up || server.hangs {
            return ProbeResult::Failed("no answer".into());
        }
        let Probe { info: said, settings, .. } = server.says.as_deref().cloned().unwrap_or_default();
        let info = ServerInfo {
            version: Some(server.version),
            run_id: Some(server.run_id),
            role: Some(if server.master.is_some() { Role::Slave } else { Role::Master }),
            master: server.master.clone(),
            is_link_up: server.link_up && server.loading_steps == 0,
            is_loading: server.loading_steps > 0,
            replid: Some(server.replid),
            replid2: server.replid2,
            offset: Offset::new(server.offset),
            keyspace: Keyspace { keys: server.keys, expires: server.expires, avg_ttl_ms: server.avg_ttl_ms },
            backlog_size: Some(1 << 20),
            used_memory: Some(100 * server.keys),
            system_memory: Some(1 << 30),
            evicted_keys: Some(server.evicted),
            ..said
        };
        ProbeResult::Answered(Box::new(Probe { info, serve_stale: server.master.as_ref().map(|_| server.serve_stale), settings }))
    }
}

pub(super) fn server(id: u64, keys: u64) -> Server {
    Server {
        up: true,
        run_id: run_id(id),
        master: None,
        replid: replid(id),
        replid2: None,
        offset: 0,
        backlog_from: 1,
        keys,
        expires: 0,
        evicted: 0,
        evicted_before: 0,
        avg_ttl_ms: 0,
        serve_stale: true,
        link_up: false,
        hangs: false,
        version: ServerVersion::parse(Flavour::Redis, "7.0.15").expect("a version"),
        loading_steps: 0,
        says: None,
    }
}
