//! The relay without a controller (`rbuddy relay`): it gives everybody what a primary would, and keeps a snapshot only as long as it is of use.
//!
//! It begins when the first replicas ask: where the lowest of them stands, or any other, if the primary can go on from there; a full resync that nobody
//! needs is not asked for. After a restart it waits a moment for the replicas that it had, as the primary covers least of what it forgot if it begins where
//! they are.

use super::{RelayConfig, RelayError};
use rbuddy_core::control::primary::{PrimaryAt, SentinelView};
use rbuddy_core::control::relay::{Previous, RelayOrders, RelayView, SessionState, SessionView, SnapshotState, Start, UpstreamState};
use rbuddy_core::replication::history::{History, Place, Standing};
use rbuddy_core::replication::psync::HoldReason;
use rbuddy_core::types::{Flavour, NodeAddress, Offset, Position, RdbVersion, ReplId, ServerVersion};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Runs a relay that serves every replica that comes, until cancelled. `sentinels` is what those say that know the primary.
pub async fn run_alone(
    config: RelayConfig,
    mut sentinels: watch::Receiver<SentinelView>,
    cancel: CancellationToken,
) -> Result<(), RelayError> {
    let (configured, own) = (config.primary.at(), config.settings.announce.clone());
    let relay = super::bind(RelayConfig { open: true, ..config }).await?;
    let mut view = relay.view();
    let (orders, received) = watch::channel(RelayOrders::default());
    let guide = async {
        let mut patience = pin!(sleep(COMEBACK_PATIENCE));
        let (mut is_patient, mut is_anybody_here) = (true, false);
        let mut format = Format::default();
        loop {
            if !is_anybody_here && view.borrow().previous.is_none() && !view.borrow().sessions.is_empty() {
                (is_patient, is_anybody_here) = (true, true);
                patience.as_mut().reset(Instant::now() + OTHERS_PATIENCE);
            }
            format.observe(&view.borrow());
            let mut next = guide(&view.borrow_and_update(), &orders.borrow(), is_patient, format);
            let told = primary_said(&configured, &view.borrow(), &sentinels.borrow_and_update());
            next.primary = told.filter(|told| *told != own).or(next.primary);
            orders.send_if_modified(|now| {
                let modified = *now != next;
                *now = next;
                modified
            });
            tokio::select! {
                // Nobody watches any more, or the relay stops: it is awaited below.
                Ok(()) = view.changed() => {}
                Ok(()) = sentinels.changed() => {}
                () = &mut patience, if is_patient => is_patient = false,
                else => return std::future::pending::<()>().await,
            }
        }
    };
    tokio::select! {
        ran = relay.run(received, cancel) => ran,
        () = guide => Ok(()),
    }
}

/// Where the primary is said to be. Sentinels that are asked know best; else what one of them tells the relay counts.
fn primary_said(configured: &PrimaryAt, view: &RelayView, sentinels: &SentinelView) -> Option<NodeAddress> {
    match configured {
        PrimaryAt::Named(_) => sentinels.named.clone(),
        PrimaryAt::Fixed(_) => view.told_to_follow.as_ref().map(|told| told.address.clone()),
    }
}

/// What the primary's snapshots are: of the last one, and in which history that was. Another primary may give others.
#[derive(Debug, Default, Clone, Copy)]
struct Format(Option<(ReplId, RdbVersion)>);

impl Format {
    fn observe(&mut self, view: &RelayView) {
        let live = view.live().map(History::replid);
        self.0 = self.0.filter(|(replid, _)| Some(*replid) == live);
        let rdb = view.ready_snapshot().and_then(|snapshot| snapshot.rdb);
        self.0 = live.zip(rdb).or(self.0);
    }

    /// Whether another snapshot would be of no use to a replica of this version either. (What only Valkey loads is given in an older format where others
    /// are known to be there.)
    fn is_beyond(&self, version: Option<ServerVersion>) -> bool {
        let known = self.0.map(|(_, rdb)| rdb).filter(|rdb| rdb.flavour == Flavour::Redis);
        version.zip(known).is_some_and(|(version, rdb)| !version.loads(rdb))
    }
}

/// What to order, given what is.
fn guide(view: &RelayView, now: &RelayOrders, is_patient: bool, format: Format) -> RelayOrders {
    let mut next = now.clone();
    next.start = now.start.clone().or_else(|| start(view, is_patient));
    next.places = places(view);
    // What a primary would do is what is wanted, as soon as somebody is there for whom.
    next.full_resync = view.upstream.full_resync_needed.filter(|_| !view.sessions.is_empty()).map(|need| need.replid);
    // Those on which a replica stands are kept all the same.
    next.discard_ended = view.histories.iter().filter(|history| !history.live).map(|history| history.end_position()).collect();
    let wants = |session: &SessionView| matches!(session.state, SessionState::Held(HoldReason::NeedsFullResync(_)));
    let is_wanted = view.sessions.values().any(|session| wants(session) && !format.is_beyond(session.version));
    let is_of_no_use = view.snapshot.as_ref().filter(|snapshot| match snapshot.state {
        SnapshotState::Receiving => false,
        SnapshotState::Ready => {
            let nobody_can_load_it = snapshot.rdb.is_some_and(|rdb| rdb.flavour == Flavour::Valkey) && any_held(view, cannot_load);
            nobody_can_load_it || !(is_wanted || is_kept(view))
        }
        // Another one in its place would cost the primary a fork.
        SnapshotState::Failed(_) => !is_wanted,
    });
    next.discard_snapshot = is_of_no_use.map(|snapshot| snapshot.dataset);
    let is_asked_for = now.snapshot_request > view.snapshot_request_done;
    if is_asked_for && !is_wanted {
        next.snapshot_request = view.snapshot_request_done;
    } else if is_wanted && view.snapshot.is_none() && !is_asked_for && view.upstream.state == UpstreamState::Streaming {
        next.snapshot_request = Some(now.snapshot_request.max(view.snapshot_request_done).unwrap_or(0) + 1);
    }
    next
}

/// How to begin; `None`: there is nobody yet to begin for.
fn start(view: &RelayView, is_patient: bool) -> Option<Start> {
    // A snapshot of a history that was left for another before the relay ended leads back to that.
    let is_of_last = |end: Position| view.previous.as_ref().is_none_or(|previous| previous.end.replid == end.replid);
    if view.resumable.is_some_and(|(_, end)| is_of_last(end)) {
        return Some(Start::Resume);
    }
    let mut stands: BTreeMap<&NodeAddress, Position> = BTreeMap::new();
    for (address, session) in &view.sessions {
        // A server that was never a replica names an id of its own and its first byte (protocol fact 1.1).
        if let Some(position) = session.asked.filter(|position| position.offset > Offset::ZERO) {
            stands.insert(address, position);
        }
    }
    match &view.previous {
        Some(previous) => begin_again(view, previous, &stands, is_patient),
        None if view.sessions.is_empty() => None,
        None => match most_stand_on(&stands) {
            None => Some(Start::Fresh),
            // Others may be further back, and they all serve what they have meanwhile.
            Some(_) if is_patient => None,
            Some(one) => Some(at(stands.values(), one, Vec::new())),
        },
    }
}

/// One of the positions on the history that most replicas have.
fn most_stand_on(stands: &BTreeMap<&NodeAddress, Position>) -> Option<Position> {
    let like = |one: &Position| stands.values().filter(|other| other.replid == one.replid).count();
    stands.values().copied().max_by_key(like)
}

/// Where the replicas of the run before are, once all are back; those that do not come in time are not waited for.
fn begin_again(view: &RelayView, previous: &Previous, stands: &BTreeMap<&NodeAddress, Position>, is_patient: bool) -> Option<Start> {
    let are_all_back = !previous.replicas.is_empty() && previous.replicas.iter().all(|replica| view.sessions.contains_key(replica));
    if is_patient && !are_all_back {
        return None;
    }
    // An earlier id names the same bytes as the present one, up to its limit.
    let current = |position: &&Position| {
        let known = previous.ids.iter().find(|known| known.replid == position.replid)?;
        let is_right = known.until.is_none_or(|until| position.offset <= until);
        is_right.then(|| Position::new(previous.end.replid, position.offset))
    };
    let known: Vec<Position> = stands.values().filter_map(|position| current(&position)).collect();
    let earlier = previous.ids.iter().filter(|known| known.until.is_some()).copied().collect();
    Some(at(known.iter(), previous.end, earlier))
}

/// Where replicas are that wait for the relay and have more than it, or another history: the primary may be able to go on there.
fn places(view: &RelayView) -> Vec<Place> {
    let held = view.sessions.values().filter(|session| matches!(session.state, SessionState::Held(_)));
    let asked = held.filter_map(|session| session.asked).filter(|asked| asked.offset > Offset::ZERO);
    let live = view.live();
    // One history may be known by several ids.
    let places: BTreeSet<Position> = asked
        .filter_map(|asked| match live.map(|live| (live, live.standing(asked))) {
            Some((live, Standing::Ahead { .. })) => Some(Position::new(live.replid(), asked.offset)),
            Some((_, Standing::UnknownId)) | None => Some(asked),
            Some((_, Standing::Covered | Standing::PastLimit { .. } | Standing::TooOld { .. })) => None,
        })
        .collect();
    places.into_iter().map(Place::new).collect()
}

/// At the lowest of these positions that are of the same history as `of`; there, if there is none.
fn at<'a>(positions: impl Iterator<Item = &'a Position>, of: Position, earlier: Vec<rbuddy_core::replication::history::KnownId>) -> Start {
    let lowest = positions.filter(|position| position.replid == of.replid).min().copied().unwrap_or(of);
    Start::At(Place { position: lowest, earlier })
}

/// A snapshot serves those that come later, and lets the relay go on after a restart. Once the stream behind it has outgrown it, a new one would
/// cost less than keeping it.
fn is_kept(view: &RelayView) -> bool {
    let is_in_use = view.sessions.values().any(|session| match session.state {
        SessionState::Seeding { .. } | SessionState::Loading { .. } => true,
        SessionState::Held(_) | SessionState::Streaming { .. } => false,
    });
    is_in_use || view.live().is_none() || view.is_snapshot_cheap()
}

/// But it could load one that is taken while it is known to be there: that has an older format.
fn cannot_load(reason: HoldReason) -> bool {
    let older = RdbVersion { flavour: Flavour::Redis, number: 11 };
    matches!(reason, HoldReason::CannotLoad { version, .. } if version.is_none_or(|version| version.loads(older)))
}

fn any_held(view: &RelayView, reason: impl Fn(HoldReason) -> bool) -> bool {
    view.sessions.values().any(|session| matches!(session.state, SessionState::Held(held) if reason(held)))
}

/// How long replicas of the run before are waited for: they try again every second.
const COMEBACK_PATIENCE: Duration = Duration::from_secs(3);
/// How long the first one waits for others to tell where they stand.
const OTHERS_PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use rbuddy_core::control::relay::{FullResyncNeed, SnapshotView, ToldToFollow};
    use rbuddy_core::replication::history::{History, KnownId};
    use rbuddy_core::replication::prospect::Gap;
    use rbuddy_core::replication::psync::FullResyncReason;
    use rbuddy_core::types::{DatasetId, ReplId, Time};

    fn id(digit: char) -> ReplId {
        digit.to_string().repeat(40).parse().expect("an id")
    }

    fn position(digit: char, offset: u64) -> Position {
        Position::new(id(digit), Offset::new(offset).expect("in range"))
    }

    fn view(asks: &[(u16, Option<Position>)]) -> RelayView {
        let held =
            |asked| SessionView { asked, version: None, state: SessionState::Held(HoldReason::UpstreamUnknown), since: Time::default() };
        let sessions = asks.iter().map(|(port, asked)| (NodeAddress::new("127.0.0.1", *port), held(*asked))).collect();
        RelayView { sessions, ..RelayView::default() }
    }

    fn previous(ports: &[u16]) -> Option<Previous> {
        Some(Previous {
            ids: vec![KnownId { replid: id('b'), until: None }, KnownId { replid: id('a'), until: Some(position('a', 50).offset) }],
            end: position('b', 70),
            replicas: ports.iter().map(|port| NodeAddress::new("127.0.0.1", *port)).collect(),
        })
    }

    fn begins(start: Option<Start>) -> Option<Position> {
        match start? {
            Start::At(place) => Some(place.position),
            Start::Resume | Start::Fresh => None,
        }
    }

    #[test]
    fn nothing_is_asked_of_the_primary_before_a_replica_comes() {
        assert_eq!(start(&view(&[]), false), None);
        assert_eq!(start(&view(&[(1, None)]), true), Some(Start::Fresh));
        assert_eq!(start(&view(&[(1, Some(position('c', 0)))]), true), Some(Start::Fresh), "it was never a replica");
        assert_eq!(start(&view(&[(1, Some(position('c', 9)))]), true), None, "others may be further back");
        assert_eq!(begins(start(&view(&[(1, Some(position('c', 9)))]), false)), Some(position('c', 9)));
        let several = view(&[(1, Some(position('d', 99))), (2, Some(position('c', 9))), (3, None), (4, Some(position('c', 5)))]);
        assert_eq!(begins(start(&several, false)), Some(position('c', 5)), "the lowest of the history that most have");
        let mut waiting = view(&[]);
        waiting.upstream.full_resync_needed = Some(FullResyncNeed { replid: id('c'), gap: Gap::NothingToContinue });
        assert_eq!(guide(&waiting, &RelayOrders::default(), false, Format::default()).full_resync, None);
        waiting.sessions = view(&[(1, None)]).sessions;
        assert_eq!(guide(&waiting, &RelayOrders::default(), false, Format::default()).full_resync, Some(id('c')));
    }

    #[test]
    fn after_a_restart_it_begins_where_the_lowest_of_its_replicas_stands() {
        let back = |asks: &[(u16, Option<Position>)], is_patient| {
            let mut view = view(asks);
            view.previous = previous(&[1, 2]);
            begins(start(&view, is_patient))
        };
        let both = [(1, Some(position('b', 90))), (2, Some(position('a', 40))), (3, Some(position('c', 5)))];
        assert_eq!(back(&both, true), Some(position('b', 40)), "under the present id");
        assert_eq!(back(&both[..1], true), None, "the second is still waited for");
        assert_eq!(back(&both[..1], false), Some(position('b', 90)));
        assert_eq!(back(&[(2, Some(position('a', 60)))], false), Some(position('b', 70)), "past its id's limit: another history");
        assert_eq!(back(&[], false), Some(position('b', 70)), "nobody came: where the relay was");
        let mut left = view(&both);
        (left.previous, left.resumable) = (previous(&[1, 2]), Some((DatasetId(position('c', 5)), position('c', 9))));
        assert_eq!(begins(start(&left, true)), Some(position('b', 40)), "its snapshot is of another history");
        left.resumable = Some((DatasetId(position('b', 5)), position('b', 70)));
        assert_eq!(start(&left, true), Some(Start::Resume));
    }

    #[test]
    fn those_that_have_more_are_places_to_go_on_at() {
        let mut view = view(&[(1, Some(position('b', 90))), (2, Some(position('a', 40))), (3, Some(position('c', 95))), (4, None)]);
        let all = [position('a', 40), position('b', 90), position('c', 95)].map(Place::new);
        assert_eq!(places(&view), all, "nothing is followed yet");
        let mut history = History::starting_at(position('b', 60), None);
        history.remember(KnownId { replid: id('a'), until: Some(position('a', 50).offset) });
        view.histories = vec![history];
        assert_eq!(places(&view), [position('b', 90), position('c', 95)].map(Place::new), "further on, and another history");
        for session in view.sessions.values_mut() {
            session.state = SessionState::Loading { dataset: DatasetId(position('b', 60)) };
        }
        assert_eq!(places(&view), [], "nobody waits for it");
    }

    fn needing(version: Option<&str>) -> RelayView {
        let mut view = view(&[(1, None)]);
        view.histories = vec![History::starting_at(position('b', 60), None)];
        view.upstream.state = UpstreamState::Streaming;
        for session in view.sessions.values_mut() {
            session.version = version.map(|text| ServerVersion::parse(Flavour::Redis, text).expect("a version"));
            session.state = SessionState::Held(HoldReason::NeedsFullResync(FullResyncReason::NothingToContinue));
        }
        view
    }

    fn snapshot(rdb: RdbVersion) -> Option<SnapshotView> {
        let dataset = DatasetId(position('b', 60));
        Some(SnapshotView { dataset, state: SnapshotState::Ready, bytes: 9, total_bytes: Some(9), rdb: Some(rdb), keys_hint: None })
    }

    #[test]
    fn the_primary_does_not_fork_for_one_that_can_load_none_of_its_snapshots() {
        let mut format = Format::default();
        let asks = |view: &RelayView, format| guide(view, &RelayOrders::default(), false, format).snapshot_request;
        assert_eq!(asks(&needing(Some("7.0.15")), format), Some(1), "nothing is known of them");
        let mut seen = needing(Some("7.0.15"));
        seen.snapshot = snapshot(RdbVersion { flavour: Flavour::Redis, number: 11 });
        format.observe(&seen);
        seen.snapshot = None;
        format.observe(&seen);
        assert_eq!(asks(&needing(Some("7.0.15")), format), None);
        assert_eq!(asks(&needing(Some("7.4.0")), format), Some(1), "another one can");
        assert_eq!(asks(&needing(None), format), Some(1), "perhaps it can");
        seen.histories = vec![History::starting_at(position('c', 60), None)];
        format.observe(&seen);
        assert_eq!(asks(&needing(Some("7.0.15")), format), Some(1), "another primary may give others");
    }

    #[test]
    fn what_only_valkey_loads_makes_room_for_what_all_can_load() {
        let only_valkey = RdbVersion { flavour: Flavour::Valkey, number: 80 };
        let mut view = needing(None);
        view.snapshot = snapshot(only_valkey);
        let dataset = view.snapshot.as_ref().map(|snapshot| snapshot.dataset);
        let discards = |view: &mut RelayView, version: Option<&str>| {
            let version = version.map(|text| ServerVersion::parse(Flavour::Redis, text).expect("a version"));
            let state = SessionState::Held(HoldReason::CannotLoad { rdb: only_valkey, version });
            view.sessions.values_mut().for_each(|session| session.state = state.clone());
            guide(view, &RelayOrders::default(), false, Format::default()).discard_snapshot
        };
        assert_eq!(discards(&mut view, Some("7.4.0")), dataset);
        assert_eq!(discards(&mut view, None), dataset, "a primary would give it the older format");
        assert_eq!(discards(&mut view, Some("6.2.0")), None, "that one loads neither");
    }

    #[test]
    fn a_snapshot_that_nobody_waits_for_any_more_is_not_asked_for() {
        let asked = guide(&needing(None), &RelayOrders::default(), false, Format::default());
        assert_eq!(asked.snapshot_request, Some(1));
        let mut left = needing(None);
        left.sessions.clear();
        let withdrawn = guide(&left, &asked, false, Format::default());
        assert_eq!(withdrawn.snapshot_request, None);
        // It may have been begun all the same.
        left.snapshot_request_done = Some(1);
        assert_eq!(guide(&left, &withdrawn, false, Format::default()).snapshot_request, None);
        let another = RelayView { snapshot_request_done: Some(1), ..needing(None) };
        assert_eq!(guide(&another, &withdrawn, false, Format::default()).snapshot_request, Some(2));
    }

    #[test]
    fn a_snapshot_that_was_lost_is_taken_anew_only_for_somebody() {
        let mut view = view(&[(1, None)]);
        let dataset = DatasetId(position('b', 60));
        let state = SnapshotState::Failed("the disk is too slow".to_owned());
        view.snapshot = Some(SnapshotView { dataset, state, bytes: 9, total_bytes: None, rdb: None, keys_hint: None });
        assert_eq!(guide(&view, &RelayOrders::default(), false, Format::default()).discard_snapshot, Some(dataset));
        let needs_it = HoldReason::NeedsFullResync(FullResyncReason::NothingToContinue);
        view.sessions.values_mut().for_each(|session| session.state = SessionState::Held(needs_it));
        assert_eq!(guide(&view, &RelayOrders::default(), false, Format::default()).discard_snapshot, None);
    }

    #[test]
    fn sentinels_that_are_asked_are_heard_and_else_what_they_tell_the_relay() {
        let at = |port| NodeAddress::new("10.0.0.1", port);
        let view = RelayView { told_to_follow: Some(ToldToFollow { address: at(2), number: 1 }), ..RelayView::default() };
        let sentinels = SentinelView { named: Some(at(3)), trouble: None };
        assert_eq!(primary_said(&PrimaryAt::Fixed(at(1)), &view, &sentinels), Some(at(2)));
        assert_eq!(primary_said(&PrimaryAt::Named("m".into()), &view, &sentinels), Some(at(3)));
        assert_eq!(primary_said(&PrimaryAt::Named("m".into()), &view, &SentinelView::default()), None);
    }
}
