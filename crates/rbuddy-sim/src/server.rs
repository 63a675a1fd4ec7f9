//! A model server: what Redis and Valkey do in the points that decisions rest on (replication ids, PSYNC, loading, restarts). Not here: who it talks to.

use crate::memory::{Evicted, Memory};
use crate::truth::{LineId, Point, Truth};
use rbuddy_core::control::action::{Outcome, ServerCommand};
use rbuddy_core::control::event::Probe;
use rbuddy_core::info::{Keyspace, Role, ServerInfo};
use rbuddy_core::types::{Flavour, NextByte, NodeAddress, Offset, Position, ReplId, RunId, ServerVersion, Time};

/// A place where a server runs, or does not.
#[derive(Debug, Clone)]
pub struct Server {
    /// What runs there.
    pub process: Option<Process>,
    /// What its configuration file says: whom it replicates, and whether it serves stale data.
    pub file: (Option<NodeAddress>, bool),
    /// What its last process left on disk.
    pub saved: Option<Saved>,
    /// What a process there may take of memory.
    pub memory: Memory,
}

/// A running server.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its id.
    pub run_id: RunId,
    /// Whom it replicates.
    pub master: Option<NodeAddress>,
    /// Id of its history.
    pub replid: ReplId,
    /// The id before, and up to which offset it is right.
    pub replid2: Option<(ReplId, u64)>,
    /// Bytes of its history.
    pub offset: u64,
    /// What it holds. `None`: nothing.
    pub data: Option<Point>,
    /// What that lacks.
    pub evicted: Evicted,
    /// Keys that this process has evicted, of whatever it held.
    pub evictions: u64,
    /// Offset behind which its backlog begins.
    pub backlog_from: u64,
    /// `replica-serve-stale-data`.
    pub serves_stale: bool,
    /// Its link to its master.
    pub link: Link,
    /// A dataset that is not in memory yet.
    pub loading: Option<Loading>,
    /// It runs and says nothing.
    pub hangs: bool,
    /// Detached, with writes fenced off.
    pub is_fenced: bool,
    /// rbuddy emptied it and nothing was loaded since.
    pub is_emptied: bool,
    /// Counts its connections to masters: a change of master closes one.
    pub connection: u64,
    /// Commands that reached it while it hung.
    pub stuck: Vec<ServerCommand>,
}

/// A replica's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// No stream, and maybe no connection.
    Down,
    /// A snapshot arrives.
    Receiving,
    /// It follows.
    Up,
}

/// A dataset on its way into memory.
#[derive(Debug, Clone, Copy)]
pub struct Loading {
    /// Done then.
    pub until: Time,
    /// What it is.
    pub data: Option<Point>,
    /// What that lacks.
    pub evicted: Evicted,
    /// Where it is, as its history counts.
    pub position: Position,
}

/// What a process left on disk.
#[derive(Debug, Clone, Copy)]
pub struct Saved {
    /// The dataset.
    pub data: Option<Point>,
    /// What that lacks.
    pub evicted: Evicted,
    /// Its position.
    pub position: Position,
}

/// A primary's answer to PSYNC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// `+CONTINUE` with this id.
    Continue(ReplId),
    /// `+FULLRESYNC` from here.
    Full(Position),
}

impl Process {
    /// One that was just started with this.
    pub fn new(run_id: RunId, position: Position, data: Option<Point>) -> Process {
        Process {
            run_id,
            master: None,
            replid: position.replid,
            replid2: None,
            offset: position.offset.get(),
            data,
            evicted: Evicted::default(),
            evictions: 0,
            backlog_from: position.offset.get(),
            serves_stale: true,
            link: Link::Down,
            loading: None,
            hangs: false,
            is_fenced: false,
            is_emptied: false,
            connection: 0,
            stuck: Vec::new(),
        }
    }

    /// Where it is.
    pub fn position(&self) -> Position {
        Position::new(self.replid, offset(self.offset))
    }

    /// The line that a primary writes to.
    pub fn line(&self) -> LineId {
        self.data.expect("a primary has a line, be it empty").line
    }

    /// Its answer to PSYNC (protocol fact 4.1).
    pub fn psync(&self, asked: Option<Position>) -> Answer {
        let knows =
            |at: &Position| at.replid == self.replid || self.replid2.is_some_and(|(id, limit)| at.replid == id && at.offset.get() <= limit);
        let covers = |at: &Position| (self.backlog_from..=self.offset).contains(&at.offset.get());
        match asked.filter(|at| knows(at) && covers(at)) {
            Some(_) => Answer::Continue(self.replid),
            None => Answer::Full(self.position()),
        }
    }

    /// Goes on under another id of the same history.
    pub fn take_id(&mut self, replid: ReplId) {
        if replid != self.replid {
            self.replid2 = Some((self.replid, self.offset));
            self.replid = replid;
        }
    }

    /// It answers reads from whatever it holds.
    pub fn answers_reads(&self) -> bool {
        !self.hangs && self.loading.is_none() && (self.master.is_none() || self.link == Link::Up || self.serves_stale)
    }

    /// What a look at it shows.
    pub fn probe(&self, truth: &Truth) -> Probe {
        let is_loading = self.loading.is_some();
        let keys = if is_loading { 0 } else { self.keys(truth) };
        let info = ServerInfo {
            version: ServerVersion::parse(Flavour::Redis, "7.2.4").ok(),
            run_id: Some(self.run_id),
            role: Some(if self.master.is_some() { Role::Slave } else { Role::Master }),
            master: self.master.clone(),
            is_link_up: self.link == Link::Up && !is_loading,
            is_sync_in_progress: self.link == Link::Receiving,
            is_loading,
            replid: Some(self.replid),
            replid2: self.replid2.map(|(id, _)| id),
            second_offset: self.replid2.map(|(_, limit)| limit + 1),
            offset: Some(offset(self.offset)),
            backlog_first_byte: Some(self.backlog_from + 1),
            backlog_histlen: Some(self.offset - self.backlog_from),
            evicted_keys: Some(self.evictions),
            keyspace: Keyspace { keys, expires: 0, avg_ttl_ms: 0 },
            ..ServerInfo::default()
        };
        Probe { info, serve_stale: (self.master.is_some() && !is_loading).then_some(self.serves_stale), settings: None }
    }

    /// Carries out a command. `new_id`: an id that nobody has used yet.
    pub fn carry_out(
        &mut self,
        command: &ServerCommand,
        relay: &NodeAddress,
        new_id: ReplId,
        file: &mut (Option<NodeAddress>, bool),
    ) -> Outcome {
        let refused = |why: &str| Outcome::Refused(why.to_owned());
        match command {
            ServerCommand::Follow { .. } | ServerCommand::Empty { .. } | ServerCommand::Detach if self.loading.is_some() => {
                return refused("-LOADING");
            }
            ServerCommand::Follow { serve_stale } => {
                self.serves_stale = *serve_stale;
                self.follow(relay);
                *file = (Some(relay.clone()), *serve_stale);
            }
            ServerCommand::ServeStale(on) => (self.serves_stale, file.1) = (*on, *on),
            ServerCommand::Detach => {
                self.is_fenced = true;
                self.leave_master(new_id);
            }
            ServerCommand::DisconnectClients => {}
            ServerCommand::Empty { run_id, .. } if *run_id != self.run_id => return refused("another process"),
            ServerCommand::Empty { detached, .. } if *detached != self.master.is_none() => return refused("its role has changed"),
            ServerCommand::Empty { .. } => {
                self.leave_master(new_id);
                (self.data, self.evicted) = (None, Evicted::default());
                (self.is_emptied, self.is_fenced, self.serves_stale) = (true, false, false);
                self.follow(relay);
                *file = (Some(relay.clone()), false);
            }
        }
        Outcome::Done
    }

    fn follow(&mut self, master: &NodeAddress) {
        if self.master.as_ref() != Some(master) {
            (self.master, self.link) = (Some(master.clone()), Link::Down);
            self.connection += 1;
        }
    }

    fn leave_master(&mut self, new_id: ReplId) {
        if self.master.take().is_some() {
            self.take_id(new_id);
            self.link = Link::Down;
        }
    }

    /// The dataset is in memory now.
    pub fn finish_loading(&mut self) {
        if let Some(Loading { data, evicted, position, .. }) = self.loading.take() {
            (self.data, self.evicted) = (data, evicted);
            (self.replid, self.replid2) = (position.replid, None);
            (self.offset, self.backlog_from) = (position.offset.get(), position.offset.get());
            self.is_emptied &= data.is_none();
        }
    }
}

/// What a process leaves on disk.
pub fn leaves(process: &Process) -> Saved {
    match process.loading {
        // What it loads is a file.
        Some(Loading { data, evicted, position, .. }) => Saved { data, evicted, position },
        None => {
            let data = process.data.map(|data| Point { offset: process.offset, ..data });
            Saved { data, evicted: process.evicted, position: process.position() }
        }
    }
}

/// A number of the model as an offset.
pub fn offset(bytes: u64) -> Offset {
    Offset::new(bytes).expect("a run writes little")
}

/// What PSYNC asks for behind it.
pub fn next_byte(bytes: u64) -> NextByte {
    offset(bytes).next_byte()
}
