//! Readers that behave like an application and check every answer.
//!
//! They come in three kinds ([`Source`]): one fixed address (the reader endpoint); a client that asks `GET /active` once a second and
//! reads there directly; a client that listens for the webhook and reads there directly. Direct clients read from their
//! address until told otherwise. When a direct connection breaks, the client asks `/active` again and retries this read once; only
//! if that fails too the read has failed. An error that a server *answers* is a failure at once, for every kind, and so is a broken
//! connection to a fixed address.
//!
//! A connection remembers the newest dataset that it has read and calls anything older wrong (promise P10). It keeps that memory
//! when it moves because it was told to, and begins anew when it broke.
//!
//! Reads are paced: a read that takes long does not make up for lost ones afterwards. So watch the gaps, not only the latencies.

use crate::resp::{Connection, Value};
use crate::tally::{Count, Miss};
use crate::{LabError, Tally, dataset, http};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// How long an application waits for an answer before it gives up.
const READ_WITHIN: Duration = Duration::from_secs(2);
/// How long it waits for rbuddy's API.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// How often it asks.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// How readers know where to read.
#[derive(Debug, Clone)]
pub enum Source {
    /// Always here: `host:port`.
    Fixed(String),
    /// `GET /active` of this API, `host:port`, once a second.
    Asks(String),
    /// By webhook; at the start, and when a connection broke, by `GET /active` of this API.
    Told {
        /// The API.
        api: String,
        /// See [`crate::WebhookReceiver::active`].
        active: watch::Receiver<Option<String>>,
    },
}

/// How many read how much.
#[derive(Debug, Clone, Copy)]
pub struct ReadersOptions {
    /// At the same time.
    pub connections: usize,
    /// By all of them together.
    pub reads_per_second: u32,
    /// Reads go to `key:0` to `key:{keys - 1}`.
    pub keys: u64,
}

/// Running readers. End when dropped.
#[derive(Debug)]
pub struct Readers {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    options: ReadersOptions,
    source: Source,
    /// Where a direct client reads, as far as this client knows.
    address: watch::Sender<String>,
    count: Mutex<Count>,
}

/// Why a read did not succeed.
enum Failure {
    /// The connection is of no use any more.
    Broken(io::Error),
    /// The answer is not what it must be.
    Answer(Miss, String),
}

impl Readers {
    /// Starts reading. Direct clients must learn an address first, so this fails where `/active` does.
    pub async fn start(source: Source, options: ReadersOptions) -> Result<Readers, LabError> {
        let first = match &source {
            Source::Fixed(address) => address.clone(),
            Source::Asks(api) | Source::Told { api, .. } => {
                http::active(api, ASK_WITHIN).await.map_err(LabError::io("ask for the active"))?
            }
        };
        let shared = Arc::new(Shared {
            options,
            source: source.clone(),
            address: watch::Sender::new(first),
            count: Mutex::new(Count::new(options.connections)),
        });
        let mut tasks = JoinSet::new();
        match source {
            Source::Fixed(_) => {}
            Source::Asks(api) => drop(tasks.spawn(keep_asking(api, Arc::clone(&shared)))),
            Source::Told { active, .. } => drop(tasks.spawn(keep_listening(active, Arc::clone(&shared)))),
        }
        for connection in 0..options.connections {
            tasks.spawn(Reader::new(connection, Arc::clone(&shared)).run());
        }
        Ok(Readers { shared, tasks })
    }

    /// What they saw until now.
    pub fn tally(&self) -> Tally {
        self.shared.count().tally()
    }

    /// What they saw until now; they begin a new count.
    pub fn take(&self) -> Tally {
        let new = Count::new(self.shared.options.connections);
        std::mem::replace(&mut *self.shared.count(), new).tally()
    }

    /// Ends them.
    pub async fn stop(mut self) -> Tally {
        let tally = self.tally();
        self.tasks.shutdown().await;
        tally
    }
}

impl Shared {
    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn learn(&self, address: String) {
        self.address.send_if_modified(|known| {
            *known != address && {
                *known = address;
                true
            }
        });
    }

    /// What a direct client does when its connection broke. Where rbuddy does not answer, the address that it knows stays good.
    async fn ask_again(&self) {
        match &self.source {
            Source::Fixed(_) => {}
            Source::Asks(api) | Source::Told { api, .. } => {
                if let Ok(address) = http::active(api, ASK_WITHIN).await {
                    self.learn(address);
                }
            }
        }
    }
}

async fn keep_asking(api: String, shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(ASK_EVERY);
    loop {
        ticks.tick().await;
        if let Ok(address) = http::active(&api, ASK_WITHIN).await {
            shared.learn(address);
        }
    }
}

async fn keep_listening(mut active: watch::Receiver<Option<String>>, shared: Arc<Shared>) {
    // What was told before these readers began is not news.
    active.mark_unchanged();
    while active.changed().await.is_ok() {
        let told = active.borrow_and_update().clone();
        if let Some(address) = told {
            shared.learn(address);
        }
    }
}

/// One connection of the application.
struct Reader {
    number: usize,
    shared: Arc<Shared>,
    address: watch::Receiver<String>,
    connection: Option<Connection>,
    newest_version: u64,
    random: fastrand::Rng,
}

impl Reader {
    fn new(number: usize, shared: Arc<Shared>) -> Reader {
        let address = shared.address.subscribe();
        Reader { number, shared, address, connection: None, newest_version: 0, random: fastrand::Rng::with_seed(number as u64) }
    }

    async fn run(mut self) {
        let options = self.shared.options;
        let pause = Duration::from_secs(1) * options.connections as u32 / options.reads_per_second;
        // Spread evenly, so that the whole set reads at a steady rate.
        let first = tokio::time::Instant::now() + pause * self.number as u32 / options.connections as u32;
        let mut ticks = tokio::time::interval_at(first, pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            self.read_and_count().await;
        }
    }

    async fn read_and_count(&mut self) {
        let n = self.random.u64(0..self.shared.options.keys);
        let started = Instant::now();
        let mut outcome = self.read(n).await;
        if matches!(outcome, Err(Failure::Broken(_))) && !matches!(self.shared.source, Source::Fixed(_)) {
            self.shared.ask_again().await;
            outcome = self.read(n).await;
        }
        let where_read = self.address.borrow().clone();
        let complaint = |why: String| format!("connection {} to {where_read}, {}: {why}", self.number, dataset::key(n));
        match outcome {
            Ok(version) => {
                self.newest_version = version;
                self.shared.count().right(self.number, version, started.elapsed());
            }
            Err(Failure::Answer(miss, why)) => self.shared.count().miss(miss, complaint(why)),
            Err(Failure::Broken(error)) => self.shared.count().miss(Miss::Failed, complaint(error.to_string())),
        }
    }

    async fn read(&mut self, n: u64) -> Result<u64, Failure> {
        if self.address.has_changed().unwrap_or(false) && self.connection.take().is_some() {
            self.shared.count().moved();
        }
        let answer = match self.exchange(&dataset::key(n)).await {
            Ok(answer) => answer,
            Err(error) => {
                self.connection = None;
                self.newest_version = 0;
                return Err(Failure::Broken(error));
            }
        };
        match answer {
            Value::Bulk(value) => {
                dataset::check(n, &value, self.newest_version).map_err(|wrong| Failure::Answer(Miss::Wrong, format!("{wrong:?}")))
            }
            Value::Nil => Err(Failure::Answer(Miss::Nil, "nil".to_owned())),
            Value::Error(error) => Err(Failure::Answer(Miss::Failed, error)),
            Value::Simple(_) | Value::Integer(_) | Value::Array(_) => Err(Failure::Answer(Miss::Wrong, format!("{answer:?}"))),
        }
    }

    async fn exchange(&mut self, key: &str) -> io::Result<Value> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let address = self.address.borrow_and_update().clone();
                Connection::open(&address, READ_WITHIN).await?
            }
        };
        let answer = connection.command(&["GET", key], READ_WITHIN).await?;
        self.connection = Some(connection);
        Ok(answer)
    }
}
