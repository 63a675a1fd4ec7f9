//! The situation in words and as status: derived from what is decided and seen, never stored.

use super::action::StoryLevel;
use super::controller::Controller;
use super::relay::{SessionState, SnapshotState, UpstreamState};
use super::settings::{Consistency, StandbyMode};
use super::state::Role;
use super::status::{GroupStatus, Phase, PrimaryStatus, ReplicaStatus, RoleName};
use crate::info::ServerInfo;
use crate::types::{NodeAddress, Time};
use std::fmt::Write as _;

/// A role's name for people.
pub(super) fn role_name(role: &Role) -> RoleName {
    match role {
        Role::Unknown => RoleName::Unknown,
        Role::Active => RoleName::Active,
        Role::Standby => RoleName::Standby,
        Role::Draining => RoleName::Draining,
        Role::Emptying { .. } => RoleName::Retiring,
        Role::Drained => RoleName::Drained,
        Role::Refused { .. } => RoleName::Refused,
    }
}

impl Controller {
    /// Finds the phase and its words; a change of phase is a line of the story.
    pub(super) fn describe(&mut self, now: Time) {
        let (phase, explanation) = self.find_phase(now);
        if phase != self.phase {
            self.remember();
            let level = match phase {
                Phase::Refused | Phase::NoActive | Phase::NoStandby | Phase::StateNotWritten | Phase::Alarm => StoryLevel::Error,
                Phase::Disconnected => StoryLevel::Warn,
                Phase::Starting
                | Phase::Bootstrapping
                | Phase::Normal
                | Phase::ReceivingSnapshot
                | Phase::SyncingStandby
                | Phase::Draining
                | Phase::Retiring
                | Phase::Paused => StoryLevel::Info,
            };
            // A refusal was told when it was decided.
            if phase != Phase::Refused {
                self.story(level, None, format!("{phase}: {explanation}"));
            }
        }
        (self.phase, self.explanation) = (phase, explanation);
    }

    fn find_phase(&self, now: Time) -> (Phase, String) {
        if let Some(alarm) = &self.alarm {
            return (Phase::Alarm, format!("{alarm}; what serves goes on serving. Report this, and restart rbuddy"));
        }
        let serving = self.serving(now);
        if self.begin.is_none() {
            return (Phase::Starting, self.explain_start());
        }
        if self.state.paused {
            let upstream = &self.world.relay.upstream;
            let waits = match (upstream.full_resync_needed, &upstream.last_error) {
                (Some(need), _) => format!("; a full resync from the primary waits for that ({})", need.gap),
                (None, Some(why)) if upstream.state != UpstreamState::Streaming => format!("; the primary is away ({why})"),
                (None, _) => String::new(),
            };
            return (Phase::Paused, format!("paused by an operator; `rbuddy resume` to go on{waits}"));
        }
        if let Some(refusal) = &self.refusal {
            let unserved = if serving.is_empty() { "no replica can be read, and " } else { "" };
            return (Phase::Refused, format!("{unserved}dataset {} refused: {}; {}", refusal.dataset, refusal.reason, refusal.remedy));
        }
        if self.is_short(now) {
            return self.explain_shortage(now, &serving);
        }
        if serving.is_empty() {
            return (Phase::NoActive, "no replica can be read; waiting whether the active comes back".into());
        }
        if let Some(replica) = self.having(|role| matches!(role, Role::Draining)).first() {
            let silence = self.world.sight(replica).and_then(|sight| sight.error.as_deref().filter(|_| !sight.is_answering()));
            let then = silence.map_or(String::new(), |error| format!("; it does not answer ({error}) and is emptied when it does again"));
            return (Phase::Draining, format!("readers leave {replica}{then}"));
        }
        if let Some(replica) = self.having(|role| matches!(role, Role::Emptying { .. })).first() {
            let error = self.last_error(replica).map(|error| format!(" (last attempt: {error})")).unwrap_or_default();
            return (Phase::Retiring, format!("{replica} is being emptied{error}"));
        }
        let upstream = &self.world.relay.upstream;
        if upstream.state != UpstreamState::Streaming {
            let Some(why) = upstream.last_error.as_deref() else { return (Phase::Starting, "connecting to the primary".into()) };
            return (Phase::Disconnected, format!("the primary is away ({why}); the actives serve what they have"));
        }
        (Phase::Normal, self.explain_normal())
    }

    fn explain_start(&self) -> String {
        let silent = |replica: &&NodeAddress| self.world.sight(replica).is_none_or(|sight| !sight.is_answering());
        let mut waiting: Vec<String> = self.policy.replicas.iter().filter(silent).map(|r| format!("{r} does not answer")).collect();
        waiting.extend(self.having(|role| matches!(role, Role::Unknown)).iter().map(|replica| format!("{replica} is not judged yet")));
        if self.primary_address().is_none() {
            let why = self.primary_note().unwrap_or_else(|| "not asked yet".into());
            waiting.push(format!("no Sentinel has named the primary yet ({why})"));
        } else if self.world.primary.probe.is_none() {
            let why = self.world.primary.error.as_deref().unwrap_or("not asked yet");
            waiting.push(format!("the primary has not answered ({why})"));
        }
        if waiting.is_empty() { "looking at the servers".into() } else { format!("looking at the servers: {}", waiting.join(", ")) }
    }

    fn explain_normal(&self) -> String {
        let actives = self.having(|role| matches!(role, Role::Active)).len();
        let standbys = self.having(|role| matches!(role, Role::Standby)).len();
        let mut text = format!("{actives} active, {standbys} standby");
        let takes_turns = self.policy.standby == StandbyMode::Warm && actives > 1;
        if takes_turns {
            text.push_str("; one after another takes a new dataset");
        } else if standbys == 0 {
            let advice = if actives > 1 { "`rbuddy adopt` one of the actives as standby" } else { "add a standby" };
            let _ = write!(text, "; nothing could take over after a full resync: {advice}");
        }
        for (replica, flapping) in self.policy.replicas.iter().filter_map(|replica| Some((replica, self.flapping(replica)?))) {
            let (falls, proof) = (flapping.falls, flapping.steady_for_s);
            let _ = write!(text, "; {replica} went out of service {falls} times within minutes, and is to be steady for {proof} s first");
        }
        for replica in self.having(|role| matches!(role, Role::Drained)) {
            let _ = write!(text, "; {replica} was taken out: `rbuddy return` it when it is back");
        }
        for replica in self.having(|role| matches!(role, Role::Active)).iter().filter(|replica| !self.world.fits_live(replica)) {
            let _ = write!(text, "; {replica} has an older dataset and is not read: `rbuddy adopt` it to have it resynced");
        }
        text
    }

    fn explain_shortage(&self, now: Time, serving: &[NodeAddress]) -> (Phase, String) {
        let serves = match serving {
            [] => "no replica can be read".to_owned(),
            [one] => format!("{one} serves"),
            several => format!("{} replicas serve", several.len()),
        };
        let old = if serving.iter().any(|replica| !self.world.fits_live(replica)) { " the old dataset" } else { "" };
        if let Some(why) = self.explain_hindrances(now).filter(|_| !serving.is_empty()) {
            return (Phase::NoStandby, format!("{serves}{old}; {why}"));
        }
        let has_standby = !self.having(|role| matches!(role, Role::Standby)).is_empty();
        // One of them is given up for the new dataset as soon as that is there: nothing is missing.
        let takes_turns = self.policy.standby == StandbyMode::Warm && serving.len() > 1 && !has_standby;
        let draining = self.having(|role| matches!(role, Role::Draining | Role::Emptying { .. }));
        if let Some(next) = draining.first().filter(|_| !has_standby) {
            return (Phase::Draining, format!("{serves}{old}; {next} will be seeded when readers have left it"));
        }
        if !has_standby && !takes_turns {
            let phase = if serving.is_empty() { Phase::NoActive } else { Phase::NoStandby };
            let advice = if serving.len() > 1 { "add a standby, or `rbuddy adopt` one of the actives" } else { "add a standby" };
            let drained = self.having(|role| matches!(role, Role::Drained));
            let or = drained.first().map(|replica| format!(", or `rbuddy return {replica}`")).unwrap_or_default();
            return (phase, format!("{serves}{old}, and nothing can take over: {advice}{or}"));
        }
        let (phase, doing) = match (&self.world.relay.snapshot, self.seeds.is_empty()) {
            (_, false) => (Phase::SyncingStandby, self.explain_seeds()),
            (Some(snapshot), true) => match &snapshot.state {
                SnapshotState::Receiving => {
                    (Phase::ReceivingSnapshot, format!("snapshot {}: {} bytes so far", snapshot.dataset, snapshot.bytes))
                }
                SnapshotState::Failed(why) => {
                    (Phase::ReceivingSnapshot, format!("the snapshot could not be stored: {why}; it is tried again"))
                }
                SnapshotState::Ready if takes_turns => (Phase::ReceivingSnapshot, "one after another takes the snapshot".into()),
                SnapshotState::Ready => self.explain_candidate(),
            },
            (None, true) => match self.having(|role| matches!(role, Role::Standby)).iter().find(|r| self.world.is_streaming_live(r)) {
                Some(standby) => (Phase::SyncingStandby, format!("{standby} catches up")),
                None => match self.choose_candidate(now).and_then(|next| self.explain_no_fork(&next)) {
                    Some(why) => (Phase::NoStandby, why),
                    None => (Phase::ReceivingSnapshot, self.explain_upstream()),
                },
            },
        };
        let phase = match (serving.is_empty(), self.state.generation.0) {
            (true, 0) => Phase::Bootstrapping,
            (true, _) => Phase::NoActive,
            (false, _) => phase,
        };
        (phase, format!("{serves}{old}; {doing}{}", self.explain_waiting(now, serving)))
    }

    /// All that could be promoted is ready, or would be given up for the new dataset, but for what hinders it.
    fn explain_hindrances(&self, now: Time) -> Option<String> {
        let is_warm_roll = self.may_be_given_up() > 0 && self.out_of_service().is_empty();
        let mut ready = if is_warm_roll { self.stranded(now) } else { self.choose_candidates(now) };
        ready.retain(|standby| is_warm_roll || self.world.is_streaming_live(standby));
        let hindrances: Option<Vec<String>> = ready.iter().map(|standby| self.explain_hindrance(now, standby)).collect();
        hindrances.filter(|hindrances| !hindrances.is_empty()).map(|hindrances| hindrances.join("; "))
    }

    fn explain_waiting(&self, now: Time, serving: &[NodeAddress]) -> String {
        let (missing, there) = (self.missing(now), self.choose_candidates(now).len());
        if self.policy.consistency == Consistency::Rolling || serving.is_empty() || missing <= there {
            return String::new();
        }
        format!(
            "; the switch is to be made at once by {missing}, and {there} standbys can be filled: add another, or choose consistency = \"rolling\""
        )
    }

    fn explain_no_fork(&self, next: &NodeAddress) -> Option<String> {
        let flapping = self.flapping(next).filter(|_| self.is_worth_no_fork(next))?;
        let (falls, proof) = (flapping.falls, flapping.steady_for_s);
        Some(format!(
            "{next} went out of service {falls} times within minutes, and a snapshot is asked for when it has been steady for {proof} s"
        ))
    }

    fn explain_upstream(&self) -> String {
        let upstream = &self.world.relay.upstream;
        match (&upstream.state, &upstream.last_error) {
            (UpstreamState::Streaming, _) => "a fresh snapshot is on its way".into(),
            (UpstreamState::ReceivingSnapshot, _) => "a snapshot is on its way".into(),
            (_, Some(error)) => format!("waiting for the primary: {error}"),
            (_, None) => "waiting for the primary".into(),
        }
    }

    fn explain_candidate(&self) -> (Phase, String) {
        let is_vouched_for = self.world.relay.live().is_none_or(|live| self.is_vouched_for(live.replid()));
        match self.first_usable_standby() {
            Some(standby) if !is_vouched_for => (
                Phase::SyncingStandby,
                format!("{standby} will be seeded once the primary has said that what is on disk is of its history"),
            ),
            Some(standby) => (Phase::SyncingStandby, format!("{standby} will be seeded")),
            None => {
                let errors: Vec<String> = self.having(|role| matches!(role, Role::Standby)).iter().map(|r| self.why_unusable(r)).collect();
                (Phase::NoStandby, format!("no standby can take the snapshot: {}", errors.join(", ")))
            }
        }
    }

    fn first_usable_standby(&self) -> Option<NodeAddress> {
        let usable = |replica: &&NodeAddress| self.world.sight(replica).is_some_and(|sight| sight.is_answering()) && self.can_load(replica);
        self.having(|role| matches!(role, Role::Standby)).iter().find(usable).cloned()
    }

    fn why_unusable(&self, replica: &NodeAddress) -> String {
        match self.world.sight(replica) {
            Some(sight) if sight.is_answering() => {
                if let Some(why) = self.explain_cannot_load(replica) {
                    return why;
                }
                let version = sight.info().and_then(|info| info.version).map_or("its version".to_owned(), |version| version.to_string());
                let rdb = self.world.relay.snapshot.as_ref().and_then(|snapshot| snapshot.rdb);
                format!("{replica} ({version}) cannot load {}", rdb.map_or("it".to_owned(), |rdb| rdb.to_string()))
            }
            Some(sight) => format!("{replica} does not answer ({})", sight.error.as_deref().unwrap_or("not asked yet")),
            None => format!("{replica} is not known"),
        }
    }

    fn explain_seeds(&self) -> String {
        self.seeds.iter().map(|(replica, seed)| self.explain_seed(replica, seed)).collect::<Vec<_>>().join("; ")
    }

    fn explain_seed(&self, replica: &NodeAddress, seed: &super::controller::Seed) -> String {
        let tries = if seed.attempts > 0 { format!(" (attempt {})", seed.attempts + 1) } else { String::new() };
        let error = self.last_error(replica).map(|error| format!("; last command failed: {error}")).unwrap_or_default();
        let doing = match self.world.session(replica).map(|session| &session.state) {
            Some(SessionState::Seeding { sent_bytes, total_bytes, .. }) => {
                format!("gets the snapshot, {sent_bytes} of {total_bytes} bytes")
            }
            Some(SessionState::Loading { .. }) => "loads the snapshot".into(),
            Some(SessionState::Streaming { .. }) => {
                format!("catches up, {} bytes behind", self.world.lag_bytes(replica).unwrap_or(0))
            }
            Some(SessionState::Held(reason)) => format!("waits: {reason}"),
            None => "is not connected to the relay yet".into(),
        };
        format!("{replica} {doing}{tries}{error}")
    }

    /// The whole, for people and tools.
    pub fn status(&self, now: Time) -> GroupStatus {
        let primary = &self.world.primary;
        let info = primary.info();
        GroupStatus {
            group: self.policy.group.clone(),
            time: now,
            generation: self.state.generation,
            phase: self.phase,
            explanation: self.explanation.clone(),
            paused: self.state.paused,
            active: self.assignment.iter().flat_map(|assignment| assignment.actives.iter().map(|active| active.address.clone())).collect(),
            standby: self.having(|role| matches!(role, Role::Standby)),
            draining: self.assignment.as_ref().map(|assignment| assignment.draining.clone()).unwrap_or_default(),
            refusal: self.refusal.clone(),
            primary: PrimaryStatus {
                address: self.primary_address().cloned(),
                source: self.primary_source(),
                note: self.primary_note(),
                reachable: primary.is_answering(),
                error: primary.error.clone(),
                version: info.and_then(|info| info.version),
                run_id: info.and_then(|info| info.run_id),
                position: info.and_then(ServerInfo::position),
                keys: info.map(|info| info.keyspace.keys),
            },
            upstream: self.world.relay.upstream.clone(),
            position: self.world.relay.live().map(|live| live.end_position()),
            snapshot: self.world.relay.snapshot.clone(),
            backlog: self.world.relay.backlog.clone(),
            replicas: self.policy.replicas.iter().map(|replica| self.replica_status(now, replica)).collect(),
            undelivered: self.state.outbox.clone(),
        }
    }

    fn replica_status(&self, now: Time, replica: &NodeAddress) -> ReplicaStatus {
        let sight = self.world.sight(replica);
        let info = sight.and_then(|sight| sight.info());
        let refused = match self.state.role(replica) {
            Role::Refused { reason } => Some(reason.clone()),
            Role::Unknown | Role::Active | Role::Standby | Role::Draining | Role::Emptying { .. } | Role::Drained => None,
        };
        let silent = sight.filter(|sight| !sight.is_answering()).and_then(|sight| sight.error.clone());
        let is_standby = *self.state.role(replica) == Role::Standby;
        let hindered = || self.explain_hindrance(now, replica).filter(|_| is_standby);
        ReplicaStatus {
            address: replica.clone(),
            role: role_name(self.state.role(replica)),
            reachable: sight.is_some_and(|sight| sight.is_answering()),
            loading: info.is_some_and(|info| info.is_loading),
            note: refused.or(silent).or_else(|| self.last_error(replica).map(str::to_owned)).or_else(hindered),
            version: info.and_then(|info| info.version),
            run_id: info.and_then(|info| info.run_id),
            position: self.world.position(replica),
            lag_bytes: self.world.lag_bytes(replica),
            keys: info.map(|info| info.keyspace.keys),
            session: self.world.session(replica).map(|session| session.state.clone()),
            may_stop: self.may_stop(now, replica),
            flapping: self.flapping(replica),
            drift: if is_standby { self.drifts(now, replica) } else { Vec::new() },
        }
    }
}
