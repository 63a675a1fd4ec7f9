//! When the Sentinels are asked, and what is published of it.

use super::question;
use super::verdict::choose;
use crate::admin::AdminConnection;
use crate::settings::{Endpoint, PrimarySettings, SentinelSettings};
use rbuddy_core::control::primary::SentinelView;
use rbuddy_core::info::Role;
use rbuddy_core::types::{GroupName, NodeAddress};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};

/// Asks again and again.
pub(super) struct Watcher {
    group: GroupName,
    primary: PrimarySettings,
    sentinels: SentinelSettings,
    /// Sentinels that the configured ones told of: asked when none of those answers.
    further: Vec<Endpoint>,
    /// The highest number of a failover that was believed.
    epoch: Option<u64>,
    ear: Option<Ear>,
    /// Whom to listen to next.
    next_ear: usize,
    hurry: Arc<Notify>,
    said: watch::Sender<SentinelView>,
}

/// A connection that hears of failovers at once.
struct Ear {
    connection: AdminConnection,
    is_lost: Arc<AtomicBool>,
}

impl Watcher {
    pub(super) fn new(
        group: GroupName,
        primary: PrimarySettings,
        sentinels: SentinelSettings,
        said: watch::Sender<SentinelView>,
    ) -> Watcher {
        let hurry = Arc::default();
        Watcher { group, primary, sentinels, further: Vec::new(), epoch: None, ear: None, next_ear: 0, hurry, said }
    }

    pub(super) async fn run(mut self) {
        loop {
            // First the ear, then the question: what happens in between is heard.
            self.keep_listening().await;
            let outcome = self.ask().await;
            let pause = if outcome.is_ok() && self.ear.is_some() { ASK_EVERY } else { ASK_IN_TROUBLE };
            self.publish(outcome);
            tokio::select! {
                () = self.hurry.notified() => tokio::time::sleep(AT_MOST_EVERY).await,
                // Jittered, so that several rbuddies do not ask in step.
                () = tokio::time::sleep(pause.mul_f64(0.75 + fastrand::f64() / 2.0)) => {}
            }
        }
    }

    /// One round of questions. `Err` says why what was published last may not be the whole truth.
    async fn ask(&mut self) -> Result<NodeAddress, String> {
        let name = self.sentinels.name.clone();
        let (mut answers, others) = question::ask_all(&self.sentinels.sentinels, &name, ANSWER_WITHIN).await;
        if answers.iter().all(|said| said.answer.is_err()) && !self.further.is_empty() {
            answers.extend(question::ask_all(&self.further, &name, ANSWER_WITHIN).await.0);
        }
        self.remember(others);
        let current = self.said.borrow().named.clone();
        let verdict = choose(&answers, self.sentinels.sentinels.len(), self.epoch, current.as_ref())?;
        if current.as_ref() != Some(&verdict.address) {
            self.verify(&verdict.address).await?;
        }
        self.epoch = verdict.epoch.or(self.epoch);
        Ok(verdict.address)
    }

    /// Sentinels name a primary that is down or not promoted yet as they name any other. Client libraries look at its role as well.
    async fn verify(&self, address: &NodeAddress) -> Result<(), String> {
        let words = |error: crate::admin::AdminError| format!("the Sentinels name {address}, and it cannot be asked: {error}");
        let connection = AdminConnection::open(&self.primary.endpoint(address.clone()), ANSWER_WITHIN).await.map_err(words)?;
        let info = connection.info().await.map_err(words)?;
        match info.role {
            Some(Role::Master) => Ok(()),
            Some(Role::Slave | Role::Sentinel) | None => Err(format!("the Sentinels name {address}, which does not call itself a master")),
        }
    }

    fn remember(&mut self, others: BTreeSet<NodeAddress>) {
        let Some(login) = self.sentinels.sentinels.first() else { return };
        for address in others {
            let is_known = self.sentinels.sentinels.iter().chain(&self.further).any(|known| known.address == address);
            if !is_known && self.further.len() < FURTHER_MAX {
                self.further.push(Endpoint { address, ..login.clone() });
            }
        }
    }

    /// A lost subscription moves on to the next Sentinel.
    async fn keep_listening(&mut self) {
        if let Some(ear) = &self.ear {
            let is_deaf = ear.is_lost.load(Ordering::Acquire) || ear.connection.command(&["PING"]).await.is_err();
            if !is_deaf {
                return;
            }
            debug!(group = %self.group, sentinel = %ear.connection.address(), "subscription lost");
            self.ear = None;
        }
        let candidates: Vec<Endpoint> = self.sentinels.sentinels.iter().chain(&self.further).cloned().collect();
        for _ in 0..candidates.len().min(EARS_TRIED) {
            let sentinel = &candidates[self.next_ear % candidates.len()];
            self.next_ear = self.next_ear.wrapping_add(1);
            match self.listen(sentinel).await {
                Ok(ear) => {
                    debug!(group = %self.group, sentinel = %sentinel.address, "listening for failovers");
                    self.ear = Some(ear);
                    return;
                }
                Err(error) => debug!(group = %self.group, sentinel = %sentinel.address, %error, "cannot listen there"),
            }
        }
    }

    async fn listen(&self, sentinel: &Endpoint) -> Result<Ear, crate::admin::AdminError> {
        let (hurry, is_lost) = (Arc::clone(&self.hurry), Arc::new(AtomicBool::new(false)));
        let (ours, lost) = (self.sentinels.name.clone(), Arc::clone(&is_lost));
        // Messages only tell when to ask; the answers count. A name that another one's message happens to hold costs one question.
        let heard = move |message: Option<&str>| match message {
            Some(message) if message.split(' ').all(|word| word != ours) => {}
            Some(_) => hurry.notify_one(),
            None => {
                lost.store(true, Ordering::Release);
                hurry.notify_one();
            }
        };
        let connection = AdminConnection::subscribe(sentinel, ANSWER_WITHIN, &NEWS, heard).await?;
        Ok(Ear { connection, is_lost })
    }

    /// Trouble is told when it changes.
    fn publish(&self, outcome: Result<NodeAddress, String>) {
        let before = self.said.borrow().clone();
        let after = match outcome {
            Ok(address) => SentinelView { named: Some(address), trouble: None },
            Err(trouble) => SentinelView { named: before.named.clone(), trouble: Some(trouble) },
        };
        if before == after {
            return;
        }
        match (&after.trouble, &after.named) {
            (Some(trouble), _) => warn!(group = %self.group, name = self.sentinels.name, trouble, "asking the Sentinels for the primary"),
            (None, Some(primary)) => info!(group = %self.group, name = self.sentinels.name, %primary, "the Sentinels name the primary"),
            (None, None) => {}
        }
        self.said.send_replace(after);
    }
}

/// The Sentinel that leads a failover names the promoted server from the second of these on. The first comes when all replicas follow that, or
/// after `failover-timeout`, which is minutes by default; other Sentinels have the first only.
const NEWS: [&str; 2] = ["+switch-master", "+failover-state-reconf-slaves"];
/// For each answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Between two questions when nothing happens: a failover is heard of, this is for what the ear missed.
const ASK_EVERY: Duration = Duration::from_secs(4);
/// Between two questions while nobody is listened to, or nobody is believed.
const ASK_IN_TROUBLE: Duration = Duration::from_secs(1);
/// Between two questions in a hurry.
const AT_MOST_EVERY: Duration = Duration::from_millis(50);
/// So many Sentinels are tried as ears in one round.
const EARS_TRIED: usize = 4;
/// More Sentinels than this are not worth knowing.
const FURTHER_MAX: usize = 16;
