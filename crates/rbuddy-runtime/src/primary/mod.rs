//! Watches where the primary is, by asking Sentinels.
//!
//! | where | what |
//! | --- | --- |
//! | [`watcher`] | when to ask, and what is published |
//! | [`question`] | what one Sentinel says |
//! | [`verdict`] | whom to believe when they differ; pure |
//!
//! Promises: what is published was seen to call itself a master; a Sentinel that is cut off from the others does not lead back to a former primary;
//! the Sentinels are asked every few seconds and at once when one tells of a failover, whether one of them is away or not. Not here: what is made of
//! it (the controller's, or the relay's own where it runs alone).

mod question;
mod verdict;
mod watcher;

use crate::settings::PrimarySettings;
use rbuddy_core::control::primary::SentinelView;
use rbuddy_core::types::GroupName;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use question::Answer;
pub use verdict::{Said, Verdict, choose};

/// Runs until cancelled. Where no Sentinels are configured there is nothing to watch.
pub async fn watch(group: GroupName, primary: PrimarySettings, said: watch::Sender<SentinelView>, cancel: CancellationToken) {
    match primary.sentinels().cloned() {
        Some(sentinels) => cancel.run_until_cancelled(watcher::Watcher::new(group, primary, sentinels, said).run()).await.unwrap_or(()),
        None => cancel.cancelled().await,
    }
}

/// Asks every Sentinel once, side by side. For `rbuddy check`.
pub async fn ask_all(sentinels: &crate::settings::SentinelSettings, timeout: Duration) -> Vec<Said> {
    question::ask_all(&sentinels.sentinels, &sentinels.name, timeout).await.0
}
