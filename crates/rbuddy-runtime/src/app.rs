//! Joins the parts: each group's relay, reader endpoint, controller and webhooks, and the API over all of them, by bounded channels and
//! watched states that carry core types.
//!
//! Order at the start: everything is bound before anything is sent to a server, so that a port that is taken changes nothing. Order at the
//! end: the API and readers stop taking, controllers finish what is under way, relays go last; replicas keep serving what they have.

use crate::api::{self, Api, ApiConfig};
use crate::clock::Clock;
use crate::control::{Driver, DriverConfig, Faces, StateDirLock, StateError, StateFile, state_folder};
use crate::handle::GroupHandle;
use crate::primary;
use crate::reader::{self, Reader, ReaderConfig, ReaderError};
use crate::relay::{self, Relay, RelayConfig, RelayError};
use crate::settings::{GroupSettings, NotifySettings, PrimarySettings, Settings};
use crate::webhook;
use rbuddy_core::control::primary::SentinelView;
use rbuddy_core::types::GroupName;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Why rbuddy could not start, or had to end.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state cannot be read, or another process holds it.
    #[error(transparent)]
    State(#[from] StateError),
    /// A relay could not start, or ended.
    #[error("relay of group {group}")]
    Relay {
        /// Which.
        group: GroupName,
        /// The cause.
        source: RelayError,
    },
    /// A reader endpoint could not start, or ended.
    #[error("reader endpoint of group {group}")]
    Reader {
        /// Which.
        group: GroupName,
        /// The cause.
        source: ReaderError,
    },
    /// The API could not start.
    #[error(transparent)]
    Api(#[from] api::BindError),
    /// A part ended that must not, or panicked.
    #[error("{0} ended although nobody asked it to: report this")]
    Ended(String),
}

/// Runs until cancelled, or until a part fails that cannot be done without.
pub async fn run(settings: Settings, cancel: CancellationToken) -> Result<(), AppError> {
    let lock = Arc::new(StateDirLock::take(&settings.state_dir)?);
    let clock = Clock::start();
    let mut groups = Vec::new();
    for group in &settings.groups {
        groups.push(Group::bind(group.clone(), &settings, clock, &lock).await?);
    }
    let handles = groups.iter().map(|group| group.handle.clone()).collect();
    let api = api::bind(ApiConfig { settings: settings.api.clone(), groups: handles }).await?;
    announce(&api, &groups);

    let mut stages = Stages::new();
    stages.front.spawn({
        let token = stages.front_token.clone();
        async move {
            api.run(token).await;
            ("API".to_owned(), Ok(()))
        }
    });
    for group in groups {
        group.spawn(&mut stages);
    }
    stages.run(cancel).await
}

/// Runs a relay without a controller until cancelled. The primary may be one that Sentinels name.
pub async fn run_relay_alone(config: RelayConfig, cancel: CancellationToken) -> Result<(), RelayError> {
    let (said, sentinels) = watch::channel(SentinelView::default());
    let watch_token = cancel.child_token();
    let watching = primary::watch(config.group.clone(), config.primary.clone(), said, watch_token.clone());
    let running = async {
        let ran = relay::run_alone(config, sentinels, cancel).await;
        watch_token.cancel();
        ran
    };
    tokio::join!(running, watching).0
}

/// A group whose listeners are bound and whose state is read.
struct Group {
    name: GroupName,
    relay: Relay,
    reader: Option<Reader>,
    driver: Driver,
    faces: Faces,
    handle: GroupHandle,
    primary: PrimarySettings,
    sentinels: watch::Sender<SentinelView>,
    notify: Vec<NotifySettings>,
    delivered: mpsc::Sender<webhook::Delivered>,
}

impl Group {
    async fn bind(settings: GroupSettings, all: &Settings, clock: Clock, lock: &Arc<StateDirLock>) -> Result<Group, AppError> {
        let state_dir = &all.state_dir;
        let name = settings.policy.group.clone();
        let file = StateFile::make_below(state_dir, &name, lock)?;
        let dir = state_folder(state_dir.join(name.as_str()).join("relay"))?;
        let config = RelayConfig {
            group: name.clone(),
            primary: settings.primary.clone(),
            settings: settings.relay.clone(),
            replicas: settings.replicas.clone(),
            dir,
            clock,
            open: false,
        };
        let relay = relay::bind(config).await.map_err(|source| AppError::Relay { group: name.clone(), source })?;
        let reader = match settings.reader.clone() {
            None => None,
            Some(reader) => {
                let (replicas, fed) = (settings.replicas.clone(), relay.fed());
                let config = ReaderConfig { group: name.clone(), clock, settings: reader, replicas, fed };
                Some(reader::bind(config).await.map_err(|source| AppError::Reader { group: name.clone(), source })?)
            }
        };
        let (operations, plans) = (mpsc::channel(OPERATIONS), mpsc::channel(OPERATIONS));
        let delivered = mpsc::channel(DELIVERED);
        let (notify, primary) = (settings.notify.clone(), settings.primary.clone());
        let (said, sentinels) = watch::channel(SentinelView::default());
        let config = DriverConfig {
            settings,
            file,
            journal: (all.journal.clone(), state_dir.join(name.as_str()).join("journal")),
            clock,
            relay: relay.view(),
            sentinels,
            operations: operations.1,
            plans: plans.1,
            delivered: delivered.1,
        };
        let (driver, faces) = Driver::new(config)?;
        let handle = GroupHandle {
            name: name.clone(),
            status: faces.status.clone(),
            assignment: faces.assignment.clone(),
            operations: operations.0,
            plans: plans.0,
        };
        Ok(Group { name, relay, reader, driver, faces, handle, primary, sentinels: said, notify, delivered: delivered.0 })
    }

    fn spawn(self, stages: &mut Stages) {
        let Group { name, relay, reader, driver, faces, handle: _, primary, sentinels, notify, delivered } = self;
        if let Some(reader) = reader {
            let (token, group, assignment) = (stages.front_token.clone(), name.clone(), faces.assignment.clone());
            stages.front.spawn(async move {
                let result = reader.run(assignment, token).await;
                (format!("reader endpoint of {group}"), result.map_err(|source| AppError::Reader { group, source }))
            });
        }
        let (token, group) = (stages.middle_token.clone(), name.clone());
        stages.middle.spawn(async move {
            primary::watch(group.clone(), primary, sentinels, token).await;
            (format!("watch on the primary of {group}"), Ok(()))
        });
        let token = stages.middle_token.clone();
        let (group, outbox) = (name.clone(), faces.outbox.clone());
        if !notify.is_empty() {
            stages.middle.spawn(async move {
                webhook::run(notify, outbox, delivered, token).await;
                (format!("webhooks of {group}"), Ok(()))
            });
        }
        let (token, group) = (stages.middle_token.clone(), name.clone());
        stages.middle.spawn(async move {
            driver.run(token).await;
            (format!("controller of {group}"), Ok(()))
        });
        let (token, group) = (stages.back_token.clone(), name);
        stages.back.spawn(async move {
            let result = relay.run(faces.orders, token).await;
            (format!("relay of {group}"), result.map_err(|source| AppError::Relay { group, source }))
        });
    }
}

/// What a part gives back when it ends: its name, and why.
type Ending = (String, Result<(), AppError>);

/// The parts in the order in which they end.
struct Stages {
    front: JoinSet<Ending>,
    middle: JoinSet<Ending>,
    back: JoinSet<Ending>,
    front_token: CancellationToken,
    middle_token: CancellationToken,
    back_token: CancellationToken,
}

impl Stages {
    /// Each stage has a token of its own, which is cancelled when the stage before it has ended.
    fn new() -> Stages {
        Stages {
            front: JoinSet::new(),
            middle: JoinSet::new(),
            back: JoinSet::new(),
            front_token: CancellationToken::new(),
            middle_token: CancellationToken::new(),
            back_token: CancellationToken::new(),
        }
    }

    async fn run(mut self, cancel: CancellationToken) -> Result<(), AppError> {
        let first = tokio::select! {
            () = cancel.cancelled() => None,
            Some(ended) = self.front.join_next() => Some(ended),
            Some(ended) = self.middle.join_next() => Some(ended),
            Some(ended) = self.back.join_next() => Some(ended),
        };
        let result = match first {
            None => Ok(()),
            // No part ends by itself: a part that did, even without an error, takes the whole down, and the service manager starts it anew.
            Some(Ok((_, Err(error)))) => Err(error),
            Some(Ok((name, Ok(())))) => Err(AppError::Ended(name)),
            Some(Err(panic)) => Err(AppError::Ended(format!("a part ({panic})"))),
        };
        info!("ending");
        end(&self.front_token, &mut self.front).await;
        end(&self.middle_token, &mut self.middle).await;
        end(&self.back_token, &mut self.back).await;
        result
    }
}

async fn end(token: &CancellationToken, parts: &mut JoinSet<Ending>) {
    token.cancel();
    let wait = async {
        while let Some(ended) = parts.join_next().await {
            match ended {
                Ok((_, Ok(()))) => {}
                Ok((name, Err(error))) => warn!(part = name, %error, "ended with an error"),
                Err(panic) => error!(%panic, "a part panicked"),
            }
        }
    };
    if tokio::time::timeout(STAGE_END, wait).await.is_err() {
        warn!(left = parts.len(), "parts did not end in time");
        parts.shutdown().await;
    }
}

fn announce(api: &Api, groups: &[Group]) {
    info!(address = %api.local_addr(), "API listens");
    for group in groups {
        info!(group = %group.name, address = %group.relay.local_addr(), "relay listens");
        if let Some(reader) = &group.reader {
            info!(group = %group.name, address = %reader.local_addr(), "reader endpoint listens");
        }
    }
}

/// Operators' requests that wait. When full, the API's own deadline tells the asker.
const OPERATIONS: usize = 16;
/// Delivered notifications that wait. When full, webhooks wait.
const DELIVERED: usize = 64;
/// How long the parts of one stage may take to end.
const STAGE_END: Duration = Duration::from_secs(8);
