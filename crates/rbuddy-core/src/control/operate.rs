//! What operators ask for. Each answer says what happens now, or why nothing does.

use super::action::StoryLevel;
use super::controller::Controller;
use super::state::Role;
use super::status::{Operation, OperationResult};
use crate::types::{DatasetId, NodeAddress, Time};

impl Controller {
    /// `None`: the answer comes later.
    pub(super) fn operate(&mut self, now: Time, request: u64, operation: &Operation) -> Option<OperationResult> {
        if let Some(alarm) = &self.alarm {
            return Some(Err(format!("no action after a broken invariant ({alarm}): report this, and restart rbuddy")));
        }
        Some(match operation {
            Operation::SetPrimary { address } => return self.name_primary(now, request, address),
            Operation::Failover if self.state.paused => Err("the group is paused: `rbuddy resume` it first".into()),
            Operation::Failover => self.plan_switch(now, self.serving(now).into_iter().take(1).collect()),
            Operation::Drain { replica } => self.take_out(now, replica),
            Operation::Return { replica } => self.take_back_in(now, replica),
            Operation::Approve { dataset } => self.approve(now, *dataset),
            Operation::Adopt { replica } => self.adopt(now, replica),
            Operation::Pause => {
                self.state.paused = true;
                // A stream that stands still for a switch must not do so for as long as the pause lasts.
                self.give_up_planned("paused");
                self.story(StoryLevel::Info, None, "paused by an operator".into());
                Ok("paused: what serves goes on serving, nothing is changed".into())
            }
            Operation::Resume => {
                self.state.paused = false;
                self.story(StoryLevel::Info, None, "resumed by an operator".into());
                Ok("resumed".into())
            }
        })
    }

    fn approve(&mut self, now: Time, dataset: DatasetId) -> OperationResult {
        let Some(refused) = self.refusal.as_ref().map(|refusal| refusal.dataset).or_else(|| self.hindered_dataset(now)) else {
            return Err("no dataset is refused at the moment, so there is nothing to approve".into());
        };
        if refused != dataset {
            return Err(format!("the refused dataset is {refused}, not {dataset}: approve names exactly the one it means"));
        }
        self.state.approved.push(dataset);
        self.refusal = None;
        self.story(StoryLevel::Warn, None, format!("dataset {dataset} approved by an operator"));
        Ok(format!("approved {dataset}: it will be promoted once a standby has it"))
    }

    fn adopt(&mut self, now: Time, replica: &NodeAddress) -> OperationResult {
        if !self.policy.replicas.contains(replica) {
            return Err(format!("{replica} is not in replicas"));
        }
        let Some(info) = self.world.sight(replica).filter(|sight| sight.is_answering()).and_then(|sight| sight.info().cloned()) else {
            return Err(format!("{replica} does not answer"));
        };
        let Some(run_id) = info.run_id else { return Err(format!("{replica} does not tell its run id")) };
        if self.world.primary.run_id().is_none() || self.is_primary(replica, &info) {
            return Err(format!("{replica} cannot be told from the primary, or is it: never emptied"));
        }
        match self.state.role(replica).clone() {
            Role::Standby | Role::Draining | Role::Emptying { .. } => Ok(format!("{replica} is rbuddy's already")),
            Role::Drained => Err(format!("{replica} was taken out by an operator: `rbuddy return` it first")),
            Role::Unknown => Err(format!("{replica} is not judged yet: a dataset is on its way into it")),
            Role::Refused { .. } => {
                self.record(replica).adopted = true;
                self.set_role(replica, Role::Emptying { run_id }, &format!("adopted with {} keys, to be emptied", info.keyspace.keys));
                Ok(format!("adopted {replica}: it is emptied and becomes a standby"))
            }
            Role::Active => {
                let Some(other) = self.who_else_serves(now, replica) else {
                    return Err(format!("{replica} is the only replica that serves: nothing else could take its readers"));
                };
                self.leave(now, replica, "adopted as standby", Some(other));
                let drain = self.policy.drain;
                Ok(format!("adopted {replica}: readers have {drain:?} to leave, then it is emptied and becomes a standby"))
            }
        }
    }
}
