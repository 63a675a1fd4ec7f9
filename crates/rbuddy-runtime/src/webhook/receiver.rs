//! Delivers to one URL, in order, until it is delivered.

use super::Delivered;
use super::message::message;
use crate::settings::NotifySettings;
use rbuddy_core::control::assignment::Notification;
use reqwest::StatusCode;
use reqwest::redirect::Policy;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

/// How long to wait, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For one attempt.
    pub(super) timeout: Duration,
    /// After the first failed attempt; doubles with each further one.
    pub(super) first_pause: Duration,
    /// Never longer than this.
    pub(super) longest_pause: Duration,
}

impl Default for Patience {
    fn default() -> Patience {
        Patience { timeout: Duration::from_secs(5), first_pause: Duration::from_millis(200), longest_pause: Duration::from_secs(30) }
    }
}

/// One URL and what it still has to get.
pub(super) struct Receiver {
    target: NotifySettings,
    patience: Patience,
    client: reqwest::Client,
    outbox: watch::Receiver<Arc<Vec<Notification>>>,
    delivered: mpsc::Sender<Delivered>,
    /// The outbox still lists what was just delivered, until the controller has written that down.
    done_up_to: Option<u64>,
}

impl Receiver {
    pub(super) fn new(
        target: NotifySettings,
        patience: Patience,
        outbox: watch::Receiver<Arc<Vec<Notification>>>,
        delivered: mpsc::Sender<Delivered>,
    ) -> Result<Receiver, reqwest::Error> {
        // A redirect would turn the POST into a GET without a body, and count as delivered.
        let mut builder = reqwest::Client::builder().timeout(patience.timeout).redirect(Policy::none()).user_agent("rbuddy");
        if is_on_this_machine(&target.url) {
            builder = builder.no_proxy();
        }
        Ok(Receiver { client: builder.build()?, target, patience, outbox, delivered, done_up_to: None })
    }

    /// Ends when the controller does. Cancel safety: dropped at any point, the worst is a second delivery.
    pub(super) async fn run(mut self) {
        while let Some(notification) = self.next().await {
            if !self.deliver(&notification).await {
                debug!(id = notification.id, "webhook message has become pointless");
                continue;
            }
            self.done_up_to = Some(notification.id);
            // The queue may be full while the controller is busy: the next message then waits, which costs nobody anything.
            if self.delivered.send(Delivered { id: notification.id, url: self.target.url.clone() }).await.is_err() {
                return;
            }
        }
    }

    /// The oldest message that this URL still has to get; `None` once there is no controller any more.
    async fn next(&mut self) -> Option<Notification> {
        loop {
            let waiting = self.waiting();
            if waiting.is_some() {
                return waiting;
            }
            self.outbox.changed().await.ok()?;
        }
    }

    fn waiting(&mut self) -> Option<Notification> {
        let outbox = Arc::clone(&self.outbox.borrow_and_update());
        outbox.iter().filter(|notification| self.is_for_us(notification)).min_by_key(|notification| notification.id).cloned()
    }

    fn is_for_us(&self, notification: &Notification) -> bool {
        self.done_up_to.is_none_or(|done| notification.id > done) && notification.pending.contains(&self.target.url)
    }

    /// Tries until it is delivered (`true`) or gone from the outbox (`false`).
    async fn deliver(&mut self, notification: &Notification) -> bool {
        let mut pause = self.patience.first_pause;
        let mut attempt = 1;
        loop {
            match self.attempt(notification).await {
                Ok(status) => {
                    info!(id = notification.id, generation = %notification.generation, attempt, status = status.as_u16(), "webhook delivered");
                    return true;
                }
                Err(failure) => {
                    warn!(id = notification.id, generation = %notification.generation, attempt, failure, "webhook not delivered, will try again");
                }
            }
            // Half of the pause is fixed and half is chance, so that receivers that failed together are not asked together again.
            let wait = pause.mul_f64(0.5 + fastrand::f64() / 2.0);
            if !self.still_wanted_after(wait, notification.id).await {
                return false;
            }
            pause = (pause * 2).min(self.patience.longest_pause);
            attempt += 1;
        }
    }

    async fn attempt(&self, notification: &Notification) -> Result<StatusCode, String> {
        let (content_type, body) = message(notification, self.target.format);
        let request = self.client.post(&self.target.url).header(reqwest::header::CONTENT_TYPE, content_type).body(body);
        // The URL may hold a key: it stays out of the error. The answer's body is nobody's business.
        let response = request.send().await.map_err(|error| chain(&error.without_url()))?;
        let status = response.status();
        if status.is_success() {
            return Ok(status);
        }
        let advice = if is_lasting(status) { ": it will not take this message unless it is changed" } else { "" };
        Err(format!("it answered {}{advice}", status.as_u16()))
    }

    /// Waits, and says whether the message is still in the outbox then. Ends early if it no longer is.
    async fn still_wanted_after(&mut self, wait: Duration, id: u64) -> bool {
        let until = Instant::now() + wait;
        loop {
            let is_wanted = self.outbox.borrow_and_update().iter().any(|other| other.id == id && other.pending.contains(&self.target.url));
            if !is_wanted {
                return false;
            }
            tokio::select! {
                () = sleep_until(until) => return true,
                changed = self.outbox.changed() => if changed.is_err() { return false },
            }
        }
    }
}

/// A 4xx that trying again will hardly change. It is tried again all the same: the receiver may be repaired.
fn is_lasting(status: StatusCode) -> bool {
    status.is_client_error() && !matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS)
}

fn is_on_this_machine(url: &str) -> bool {
    let Ok(url) = reqwest::Url::parse(url) else { return false };
    url.host_str().is_some_and(|host| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
    })
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
