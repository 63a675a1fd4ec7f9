//! The primary moves: whose word on that counts, and what a server must be to be followed.
//!
//! ```text
//! a word: Sentinels asked · a Sentinel told the relay · an operator
//!    │ is it news?                      (not the address that is followed; not what an operator overruled)
//!    ▼
//! candidate ──looked at once──► a primary, none of ours, no Cluster ──► state file ──► orders: the relay goes there
//!    ▲                     └──► an operator is refused; a Sentinel's word is looked at again: it may come before the promotion shows
//!    └──────────────────────────────────────────┘
//! ```
//!
//! Whose word counts: the latest that is news. Configured Sentinels are asked, so what a Sentinel tells the relay counts only where none are configured.
//! An operator's word overrules what Sentinels say at that time, also over a restart, until they name something else.
//!
//! Nothing here resyncs anything: the relay continues at its position where the new primary lets it, and guards judge whatever else comes of it.

use super::action::{Action, StoryLevel};
use super::controller::Controller;
use super::event::{Probe, ProbeResult};
use super::primary::{FoundPrimary, PrimaryAt, PrimarySource};
use super::status::OperationResult;
use super::world::Sight;
use crate::info::{Role as ServerRole, ServerInfo};
use crate::types::{NodeAddress, Time};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A server that is said to be the primary.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Candidate {
    /// Where.
    address: NodeAddress,
    /// Who said so.
    source: PrimarySource,
    /// The operator's request that waits for an answer.
    request: Option<u64>,
    /// A look at it is under way.
    is_looked_at: bool,
    /// The next look.
    not_before: Time,
    /// Why it was not followed at the last look.
    trouble: Option<String>,
}

impl Controller {
    /// Where the primary is, if anybody has said.
    pub(super) fn primary_address(&self) -> Option<&NodeAddress> {
        self.state.primary.as_ref().map(|found| &found.address).or(self.policy.primary.fixed())
    }

    /// Who said so.
    pub(super) fn primary_source(&self) -> PrimarySource {
        self.state.primary.as_ref().map_or(PrimarySource::Configured, |found| found.source)
    }

    /// What an operator should know of another place.
    pub(super) fn primary_note(&self) -> Option<String> {
        if let Some((candidate, trouble)) = self.candidate.as_ref().and_then(|candidate| Some((candidate, candidate.trouble.as_ref()?))) {
            return Some(format!("not at {} though {}: {trouble}", candidate.address, said_by(candidate.source)));
        }
        if let Some(overruled) = self.state.primary.as_ref().and_then(|found| found.overruled.as_ref())
            && self.sentinels_word().is_some_and(|(word, _)| word == *overruled)
        {
            return Some(format!("Sentinels say {overruled}, which an operator overruled"));
        }
        self.world.sentinels.trouble.clone()
    }

    /// An operator says where the primary is. Answered once that server was looked at.
    pub(super) fn name_primary(&mut self, now: Time, request: u64, address: &NodeAddress) -> Option<OperationResult> {
        if *address == self.policy.relay {
            return Some(Err(format!("{address} is the relay itself")));
        }
        let candidate = Candidate::new(address.clone(), PrimarySource::Operator, Some(request), now);
        if let Some(earlier) = self.candidate.replace(candidate).and_then(|earlier| earlier.request) {
            self.reply(earlier, Err(format!("given up: {address} was named meanwhile")));
        }
        None
    }

    /// Takes in what Sentinels say and looks at whatever is said to be the primary now.
    pub(super) fn follow_primary(&mut self, now: Time) {
        self.hear_sentinels(now);
        let is_paused = self.state.paused;
        let Some(candidate) = &mut self.candidate else { return };
        // A pause begins nothing by itself; an operator's word is an operator's word.
        let is_waiting = candidate.is_looked_at || now < candidate.not_before || (is_paused && candidate.request.is_none());
        if !is_waiting {
            candidate.is_looked_at = true;
            let look = Action::Look(candidate.address.clone());
            self.looks.push(look);
        }
    }

    fn hear_sentinels(&mut self, now: Time) {
        let is_operators = |candidate: &Candidate| candidate.request.is_some();
        let Some((word, source)) = self.sentinels_word() else { return };
        let is_agreed = Some(&word) == self.primary_address();
        if is_agreed && let Some(found) = &mut self.state.primary {
            found.overruled = None;
        }
        let is_overruled = self.state.primary.as_ref().is_some_and(|found| found.overruled.as_ref() == Some(&word));
        if is_agreed || is_overruled || word == self.policy.relay {
            self.candidate.take_if(|candidate| !is_operators(candidate));
        } else if !self.candidate.as_ref().is_some_and(|candidate| is_operators(candidate) || candidate.address == word) {
            self.candidate = Some(Candidate::new(word, source, None, now));
        }
    }

    /// What Sentinels say now, of those whose word counts.
    fn sentinels_word(&self) -> Option<(NodeAddress, PrimarySource)> {
        match &self.policy.primary {
            PrimaryAt::Named(_) => Some((self.world.sentinels.named.clone()?, PrimarySource::Sentinels)),
            PrimaryAt::Fixed(_) => Some((self.world.relay.told_to_follow.as_ref()?.address.clone(), PrimarySource::ToldRelay)),
        }
    }

    /// What came of the look at a candidate.
    pub(super) fn take_look(&mut self, now: Time, asked_at: Time, address: &NodeAddress, result: ProbeResult) {
        let Some(candidate) = self.candidate.take_if(|candidate| candidate.address == *address && candidate.is_looked_at) else { return };
        let why = match self.judge_candidate(address, result) {
            Ok(probe) => return self.move_primary(now, asked_at, &candidate, probe),
            Err(why) => why,
        };
        if let Some(request) = candidate.request {
            return self.reply(request, Err(why));
        }
        if candidate.trouble.as_ref() != Some(&why) {
            let text = format!("the primary is said to be at {address} ({}), which is not followed yet: {why}", candidate.source);
            self.story(StoryLevel::Warn, None, text);
        }
        let not_before = now.after(LOOK_AGAIN);
        self.candidate = Some(Candidate { is_looked_at: false, not_before, trouble: Some(why), ..candidate });
    }

    /// Whether it can be the primary. `Err` says why not.
    fn judge_candidate(&self, address: &NodeAddress, result: ProbeResult) -> Result<Probe, String> {
        let probe = match result {
            ProbeResult::Answered(probe) => *probe,
            ProbeResult::Failed(error) => return Err(error),
        };
        let info = &probe.info;
        if info.is_cluster {
            return Err(format!("{address} runs in cluster mode, which rbuddy does not support"));
        }
        match (info.role, &info.master) {
            (Some(ServerRole::Master), _) => {}
            (Some(ServerRole::Slave), Some(master)) if *master == self.policy.relay => {
                return Err(format!("{address} follows the relay: nobody would take the writes"));
            }
            (Some(ServerRole::Slave), master) => {
                let master = master.as_ref().map_or("another server".to_owned(), NodeAddress::to_string);
                return Err(format!("{address} is itself a replica of {master}: name the server that takes the writes"));
            }
            (Some(ServerRole::Sentinel), _) => return Err(format!("{address} is a Sentinel: name the server that takes the writes")),
            (None, _) => return Err(format!("{address} does not say its role: let the login use INFO")),
        }
        if info.is_loading {
            return Err(format!("{address} is loading its dataset"));
        }
        match self.managed(address, info) {
            Some(replica) if self.is_detached(&replica) => Err(format!("{address} is a replica of this group that rbuddy detached")),
            Some(_) if info.is_empty() => Err(format!("{address} is a replica of this group, and holds nothing")),
            Some(_) | None => Ok(probe),
        }
    }

    /// This replica is the primary itself: the same process, or whatever process runs where the primary is now.
    pub(super) fn is_primary(&self, replica: &NodeAddress, info: &ServerInfo) -> bool {
        let is_same_process = info.run_id.is_some() && info.run_id == self.world.primary.run_id();
        is_same_process || Some(replica) == self.primary_address()
    }

    /// The managed replica that this server is, under whatever address.
    fn managed(&self, address: &NodeAddress, info: &ServerInfo) -> Option<NodeAddress> {
        let is_it = |replica: &&NodeAddress| {
            let run_id = self.world.sight(replica).and_then(Sight::run_id);
            *replica == address || (run_id.is_some() && run_id == info.run_id)
        };
        self.policy.replicas.iter().find(is_it).cloned()
    }

    fn move_primary(&mut self, now: Time, asked_at: Time, candidate: &Candidate, probe: Probe) {
        let (to, source, from) = (candidate.address.clone(), candidate.source, self.primary_address().cloned());
        let overruled = match source {
            PrimarySource::Operator => self.sentinels_word().map(|(word, _)| word).or(from.clone()).filter(|word| *word != to),
            PrimarySource::Configured | PrimarySource::Sentinels | PrimarySource::ToldRelay => None,
        };
        let configured = self.policy.primary.clone();
        self.state.primary = Some(FoundPrimary { address: to.clone(), source, configured, overruled });
        let text = match &from {
            Some(from) if *from == to => format!("the primary stays at {to}: {source}"),
            Some(from) => format!("following the primary from {from} to {to}: {source}"),
            None => format!("the primary is {to}: {source}"),
        };
        self.story(StoryLevel::Info, None, text.clone());
        if let Some(replica) = self.managed(&to, &probe.info) {
            // It takes writes of its own from here on. It is no copy to be read, and never one to be emptied (P3).
            let reason = "it is the primary now, and left alone: remove it from `replicas` and add another".to_owned();
            self.refuse(&replica, reason);
        }
        // What was seen of the former primary says nothing of this one.
        self.world.primary = Sight::default();
        self.world.primary.take(now, asked_at, ProbeResult::Answered(Box::new(probe)));
        if let Some(request) = candidate.request {
            self.reply(request, Ok(text));
        }
    }
}

impl Candidate {
    fn new(address: NodeAddress, source: PrimarySource, request: Option<u64>, now: Time) -> Candidate {
        Candidate { address, source, request, is_looked_at: false, not_before: now, trouble: None }
    }
}

fn said_by(source: PrimarySource) -> &'static str {
    match source {
        PrimarySource::Operator => "an operator says so",
        PrimarySource::Configured | PrimarySource::Sentinels | PrimarySource::ToldRelay => "Sentinels say so",
    }
}

/// Between two looks at a server that a Sentinel names and that is not a primary yet.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
