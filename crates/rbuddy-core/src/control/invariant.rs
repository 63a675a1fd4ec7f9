//! What must hold whenever the controller has decided, by name. Checked after every event, in tests and in production: a broken one
//! raises an alarm and stops automatic action, and readers stay where they are.

use super::action::ServerCommand;
use super::assignment::Assignment;
use super::relay::RelayOrders;
use super::state::{DurableState, Role};
use crate::replication::psync::Permit;
use crate::types::NodeAddress;

/// Checks everything that is about to be persisted, ordered, published and commanded. `Err` names what is broken.
pub fn check(
    state: &DurableState,
    orders: &RelayOrders,
    assignment: &Assignment,
    commands: &[(NodeAddress, ServerCommand)],
    before: Option<&Assignment>,
) -> Result<(), String> {
    readers_are_sent_to_actives_only(state, assignment)?;
    only_standbys_are_resynced(state, orders)?;
    emptying_has_a_persisted_intent(state, commands)?;
    the_primary_is_never_commanded(state, commands)?;
    the_drained_are_left_alone(state, commands)?;
    the_generation_never_falls(assignment, before)?;
    every_change_of_the_active_has_a_generation(assignment, before)
}

fn readers_are_sent_to_actives_only(state: &DurableState, assignment: &Assignment) -> Result<(), String> {
    match assignment.actives.iter().find(|active| *state.role(&active.address) != Role::Active) {
        None => Ok(()),
        Some(active) => Err(format!("P1 readers_are_sent_to_actives_only: {} is {:?}", active.address, state.role(&active.address))),
    }
}

fn only_standbys_are_resynced(state: &DurableState, orders: &RelayOrders) -> Result<(), String> {
    let may_resync = |permit: &Permit| matches!(permit, Permit::Seed(_) | Permit::Auto);
    match orders.permits.iter().find(|(replica, permit)| may_resync(permit) && *state.role(replica) != Role::Standby) {
        None => Ok(()),
        Some((replica, permit)) => Err(format!("P2 only_standbys_are_resynced: {replica} is {:?} and has {permit:?}", state.role(replica))),
    }
}

fn emptying_has_a_persisted_intent(state: &DurableState, commands: &[(NodeAddress, ServerCommand)]) -> Result<(), String> {
    for (replica, command) in commands {
        if let ServerCommand::Empty { run_id, .. } = command
            && *state.role(replica) != (Role::Emptying { run_id: *run_id })
        {
            return Err(format!("P3 emptying_has_a_persisted_intent: {replica} is {:?}", state.role(replica)));
        }
    }
    Ok(())
}

/// Wherever it was found: Sentinels may have made a managed replica the primary.
fn the_primary_is_never_commanded(state: &DurableState, commands: &[(NodeAddress, ServerCommand)]) -> Result<(), String> {
    let primary = state.primary.as_ref().map(|found| &found.address);
    match commands.iter().find(|(replica, _)| Some(replica) == primary) {
        None => Ok(()),
        Some((replica, command)) => Err(format!("P3 the_primary_is_never_commanded: {replica} is told to {command}")),
    }
}

/// Its operator may be at work on it.
fn the_drained_are_left_alone(state: &DurableState, commands: &[(NodeAddress, ServerCommand)]) -> Result<(), String> {
    match commands.iter().find(|(replica, _)| *state.role(replica) == Role::Drained) {
        None => Ok(()),
        Some((replica, command)) => Err(format!("P3 the_drained_are_left_alone: {replica} is told to {command}")),
    }
}

fn the_generation_never_falls(assignment: &Assignment, before: Option<&Assignment>) -> Result<(), String> {
    match before {
        Some(before) if assignment.generation < before.generation => {
            Err(format!("P10 the_generation_never_falls: {} after {}", assignment.generation, before.generation))
        }
        Some(_) | None => Ok(()),
    }
}

/// A replica may drop out of the assignment and come back; another one comes in under a new generation only.
fn every_change_of_the_active_has_a_generation(assignment: &Assignment, before: Option<&Assignment>) -> Result<(), String> {
    let Some(before) = before.filter(|before| before.generation == assignment.generation && !before.actives.is_empty()) else {
        return Ok(());
    };
    let is_new = |address: &NodeAddress| before.draining.iter().any(|draining| draining.address == *address);
    match assignment.actives.iter().find(|active| is_new(&active.address)) {
        None => Ok(()),
        Some(active) => Err(format!("P10 every_change_of_the_active_has_a_generation: {} came back without one", active.address)),
    }
}
