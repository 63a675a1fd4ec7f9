//! The switch that an operator asks for: the old active's stream stands still until the standby has all that it was sent (P10).

use super::action::StoryLevel;
use super::controller::{Controller, Planned};
use super::relay::UpstreamState;
use super::state::Role;
use crate::types::{NodeAddress, Time};
use std::collections::BTreeSet;
use std::time::Duration;

impl Controller {
    /// Starts a planned switch away from `old`. `Err` says why it cannot be.
    pub(super) fn plan_switch(&mut self, now: Time, old: BTreeSet<NodeAddress>) -> Result<String, String> {
        if self.planned.is_some() || self.is_short(now) {
            return Ok("a failover is under way already".into());
        }
        let standby = self.choose_candidate(now).ok_or("there is no standby that answers: add one, or `rbuddy adopt` a replica")?;
        if let Some(why) = self.explain_hindrance(now, &standby) {
            return Err(why);
        }
        if self.world.relay.upstream.state != UpstreamState::Streaming {
            return Err("the primary is not reachable, so no standby can be seeded".into());
        }
        let from = old.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        self.planned = Some(Planned { since: now, old, paused_since: None, not_before: now });
        self.story(StoryLevel::Info, Some(&standby), format!("planned switch away from {from}"));
        Ok(format!("switching from {from} to {standby}"))
    }

    /// A planned switch never stops a stream for long, and is given up when nobody is left to switch to.
    pub(super) fn watch_planned(&mut self, now: Time) {
        let Some(planned) = &self.planned else { return };
        let is_overdue = planned.paused_since.is_some_and(|since| now.since(since) >= PAUSE_MAX);
        let is_dead = |standby: &NodeAddress| self.world.sight(standby).is_some_and(|sight| sight.is_dead(now, self.policy.dead_after));
        if self.choose_candidate(now).is_none() && self.having(|role| matches!(role, Role::Standby)).iter().all(is_dead) {
            self.give_up_planned("no standby that answers is left");
        } else if is_overdue {
            self.story(StoryLevel::Warn, None, "planned switch: the standby did not catch up in time, trying again".into());
            self.pause_streams(now, false);
        }
    }

    /// A planned switch: the old actives' streams are stopped, and the standby must have what they were sent.
    pub(super) fn is_planned_switch_ready(&mut self, now: Time) -> bool {
        let Some(planned) = &self.planned else { return true };
        let since = match planned.paused_since {
            None => {
                if now >= planned.not_before {
                    self.pause_streams(now, true);
                }
                return false;
            }
            Some(since) => since,
        };
        // The relay's view must be younger than the order, or `sent` could still move; then `has_reached_floor` says the rest.
        planned.old.iter().all(|replica| self.orders.paused_streams.contains(replica)) && now.since(since) >= PAUSE_SETTLES
    }

    pub(super) fn pause_streams(&mut self, now: Time, on: bool) {
        if let Some(planned) = &mut self.planned {
            planned.paused_since = on.then_some(now);
            planned.not_before = if on { planned.not_before } else { now.after(PAUSE_MAX) };
        }
    }
}

/// The longest that a planned switch stops a stream. Far below any `repl-timeout`.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A relay view that was on its way when a stream was stopped has arrived by then.
const PAUSE_SETTLES: Duration = Duration::from_millis(150);
