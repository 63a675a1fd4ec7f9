//! The way up to the answer to PSYNC: dial, hand-shake, look at what the primary says of itself, and only then ask.
//!
//! Promises: where the primary lets the relay look (`+info`), no full resync is asked for that was not permitted
//! ([`RelayOrders::full_resync`]), and elsewhere none while nothing is to be begun ([`RelayOrders::must_look`]), but behind a short break; a promoted
//! primary is asked exactly behind the last byte that both have (protocol fact 4.4); where it may not be looked at, behind the last whole command. A refusal
//! never becomes `PSYNC ? -1`. Not here: what is done with the answer ([`super::upstream`]).

use super::circle::Circle;
use super::hub::{Hub, Inner};
use super::link::{Link, LinkError, Purpose};
use super::resync_loop::ResyncLoop;
use super::spool;
use super::stretch::StretchKey;
use rbuddy_core::control::relay::{FullResyncNeed, RelayOrders, UpstreamState};
use rbuddy_core::info::ServerInfo;
use rbuddy_core::replication::answer::PsyncAnswer;
use rbuddy_core::replication::history::{History, Place};
use rbuddy_core::replication::prospect::{Gap, Joint, Prospect, beginning, prospect};
use rbuddy_core::types::{NodeAddress, Offset, Position};
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::info;

/// A PSYNC that was answered.
#[derive(Debug)]
pub(super) struct Inquiry {
    pub(super) link: Link,
    pub(super) answer: PsyncAnswer,
    /// What was asked for: the history, and the position behind which it may go on.
    pub(super) asked: Option<(StretchKey, Position)>,
    /// Why it had to come to a full resync, where that was seen before.
    pub(super) gap: Option<Gap>,
    /// [`Joint::common`].
    pub(super) common: Option<Offset>,
}

/// What is to be asked, and what was seen before; see [`Inquiry`].
#[derive(Default)]
struct Settled {
    asked: Option<(StretchKey, Position)>,
    /// Asked for in place of that, and where.
    anew: Option<(History, Position)>,
    gap: Option<Gap>,
    common: Option<Offset>,
}

/// What to ask for.
enum Question {
    /// A partial resync.
    Behind(StretchKey, Joint),
    /// The same at the end of this history, which begins at a replica: what was followed so far leads nowhere.
    Anew(History, Joint),
    /// As things are, this can only come to a full resync.
    Everything(Option<(StretchKey, Position)>, FullResyncNeed),
    /// What comes of it cannot be told.
    Blind(Option<(StretchKey, Position)>),
}

/// Asks the primary to go on, or, once that is permitted, for everything.
pub(super) async fn inquire(hub: &Hub, orders: &watch::Receiver<RelayOrders>, resync_loop: &ResyncLoop) -> Result<Inquiry, LinkError> {
    let primary = hub.primary()?;
    let mut link = Link::dial(&primary.address, hub.config.settings.upstream_timeout).await?;
    hub.upstream(UpstreamState::Handshake);
    link.shake_hands(&hub.config, &primary, Purpose::Follow, hub.version_to_announce()).await?;
    let Settled { mut asked, anew, gap, common } = settle(hub, &mut link, orders.clone(), resync_loop).await?;
    hub.update(|inner| inner.upstream.full_resync_needed = None);
    let position = anew.as_ref().map(|(_, at)| *at).or(asked.map(|(_, at)| at));
    let answer = link.psync(position).await?;
    // Not before: had it gone away instead, the next one may be able to go on where we are.
    if let (PsyncAnswer::Continue(_), Some((history, place))) = (&answer, anew) {
        info!(group = %hub.config.group, %place, "going on where a replica is, as only there the primary can");
        asked = Some((hub.update(|inner| inner.begin_anew(history, hub.config.settings.backlog_bytes)), place));
        // What lies between its stream and here is missing, and the next one wants its room.
        let useless = hub.lock().spool.as_ref().map(|(_, spool)| spool.dataset);
        if let Some(dataset) = useless {
            spool::remove(hub, dataset).await;
        }
    }
    Ok(Inquiry { link, answer, asked, gap, common })
}

/// Until it is clear what to ask for, and permitted. The primary is looked at again while the word is awaited: it may be another one by then.
async fn settle(
    hub: &Hub,
    link: &mut Link,
    mut orders: watch::Receiver<RelayOrders>,
    resync_loop: &ResyncLoop,
) -> Result<Settled, LinkError> {
    let mut looks = 0;
    loop {
        let info = link.info().await?;
        // Of one moment: whoever permits a full resync has looked for other places.
        let (places, permitted_of, must_look) = {
            let orders = orders.borrow_and_update();
            (orders.places.clone(), orders.full_resync, orders.must_look)
        };
        let need = match question(hub, info, link.own_ip(), &places)? {
            Question::Behind(key, Joint { at, common }) => return Ok(Settled { asked: Some((key, at)), common, ..Settled::default() }),
            Question::Anew(history, Joint { at, common }) => {
                return Ok(Settled { anew: Some((history, at)), common, ..Settled::default() });
            }
            Question::Blind(asked) if must_look && !(asked.is_some() && broke_lately(hub)) => None,
            Question::Blind(asked) => {
                resync_loop.check(None, Instant::now())?;
                return Ok(Settled { asked, ..Settled::default() });
            }
            Question::Everything(asked, need) if permitted_of == Some(need.replid) => {
                resync_loop.check(Some(need.replid), Instant::now())?;
                info!(group = %hub.config.group, primary = need.replid.short(), reason = %need.gap, "asking for a full resync");
                return Ok(Settled { asked, gap: Some(need.gap), ..Settled::default() });
            }
            Question::Everything(_, need) => Some(need),
        };
        hub.update(|inner| inner.upstream.full_resync_needed = need);
        looks += 1;
        if looks > LOOKS_MAX {
            return Err(need.map_or(LinkError::NotForeseen, |need| LinkError::NotPermitted(need.gap)));
        }
        // In time or not: what is right by now is looked at above.
        let _ = timeout(LOOK_EVERY, permitted(&mut orders, need)).await;
    }
}

/// The primary goes on behind a short break, as a rule.
fn broke_lately(hub: &Hub) -> bool {
    let upstream = &hub.lock().upstream;
    // For how long nobody was there before a start is not known.
    upstream.has_answered() && upstream.down_since.is_none_or(|since| hub.now().since(since) < SHORT_BREAK)
}

async fn permitted(orders: &mut watch::Receiver<RelayOrders>, need: Option<FullResyncNeed>) {
    let is_permitted = |orders: &RelayOrders| match need {
        Some(need) => orders.full_resync == Some(need.replid),
        None => !orders.must_look,
    };
    let word = orders.wait_for(is_permitted).await.map(drop);
    if word.is_err() {
        // Whoever gives orders is gone: the relay is about to end.
        std::future::pending::<()>().await;
    }
}

/// What to ask a primary that says this of itself. What is followed may go on at these places as well.
fn question(hub: &Hub, info: Option<ServerInfo>, own_ip: Option<IpAddr>, places: &[Place]) -> Result<Question, LinkError> {
    let mut inner = hub.lock();
    let Some(info) = info else { return Ok(Question::Blind(inner.last_whole_command())) };
    look_for_circles(hub, &inner, &info, own_ip)?;
    let known = inner.candidate.and_then(|key| inner.stretch(key)).map(|stretch| (stretch.key, stretch.history.clone()));
    let ours = known.as_ref().map(|(_, history)| history);
    let found = prospect(ours, &info);
    if let (Some((key, _)), Some(replid)) = (&known, info.replid)
        && let Some(gap) = inner.loss(*key, &info, found)
    {
        return Ok(Question::Everything(None, FullResyncNeed { replid, gap }));
    }
    // Where the replicas are spread out, it goes on where the primary still can, without those that are further back.
    if let Prospect::FullResync(_) = found
        && let Some((begun, joint)) = beginning(ours, places, &info)
    {
        return Ok(Question::Anew(begun, joint));
    }
    let end = known.as_ref().map(|(key, history)| (*key, history.end_position()));
    match (found, end) {
        (Prospect::Continue(joint), Some((key, _))) => Ok(Question::Behind(key, joint)),
        (Prospect::NotNow(obstacle), _) => Err(LinkError::NotNow(obstacle)),
        // With what we have rather than `? -1`: should the primary be able to go on after all, it does.
        (Prospect::FullResync(gap), _) => match info.replid {
            Some(replid) => Ok(Question::Everything(end, FullResyncNeed { replid, gap })),
            None => Ok(Question::Blind(end)),
        },
        (Prospect::Continue(_), None) | (Prospect::Unknown, _) => Ok(Question::Blind(inner.last_whole_command())),
    }
}

impl Inner {
    /// A primary that has less of our history than we have was brought back from an older image. What that process has at our end as soon as it has as many
    /// bytes again are others, so it is not even asked for them: it would go on there, and nobody would notice.
    fn loss(&mut self, key: StretchKey, info: &ServerInfo, found: Prospect) -> Option<Gap> {
        let process = info.run_id?;
        match found {
            // One that is itself a replica may only be behind.
            Prospect::FullResync(gap @ Gap::AheadOfPrimary { .. }) if info.master.is_none() => self.lost = Some((key, process, gap)),
            Prospect::FullResync(_) | Prospect::Continue(_) => {}
            Prospect::NotNow(_) | Prospect::Unknown => return None,
        }
        self.lost.filter(|(of, by, _)| (*of, *by) == (key, process)).map(|(.., gap)| gap)
    }
}

/// A primary that is this relay, or is fed by it, would feed its own stream back to itself. It may know the relay by another address than the relay announces.
fn look_for_circles(hub: &Hub, inner: &Inner, info: &ServerInfo, own_ip: Option<IpAddr>) -> Result<(), Circle> {
    if info.run_id == Some(hub.run_id) {
        return Err(Circle::Itself);
    }
    let announce = &hub.config.settings.announce;
    let is_us =
        |from: &NodeAddress| from == announce || (from.port == announce.port && own_ip.is_some_and(|own| from.host.parse() == Ok(own)));
    let is_fed_by_us = |from: &&NodeAddress| is_us(from) || inner.sessions.contains_key(*from);
    match (info.master.as_ref().filter(is_fed_by_us), &inner.primary) {
        (Some(_), Some(primary)) => Err(Circle::Primary(primary.clone())),
        (Some(_) | None, _) => Ok(()),
    }
}

const SHORT_BREAK: Duration = Duration::from_secs(60);
/// Between two looks at a primary while permission is awaited.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Then the connection is made anew, so that one that died is noticed.
const LOOKS_MAX: u32 = 10;
