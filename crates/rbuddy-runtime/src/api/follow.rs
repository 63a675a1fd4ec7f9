//! `GET /active`, `GET /standby`: a `redis://` address as plain text without a newline, as the first tool answered. Applications that
//! cannot be changed to do more ask here and connect.
//!
//! No active or standby is 503 with the reason, never an empty answer. Several groups: `/{group}/active`; the short form is then 404.

use super::State;
use crate::handle::GroupHandle;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use rbuddy_core::control::assignment::Assignment;
use rbuddy_core::types::NodeAddress;
use std::sync::Arc;

/// What is answered: a text with a status, also when there is nothing to name.
type Answer = (StatusCode, String);

pub(super) async fn active_of_the_only_group(Extract(state): Extract<Arc<State>>) -> Answer {
    only(&state, "active").map_or_else(|refused| refused, first_active)
}

pub(super) async fn standby_of_the_only_group(Extract(state): Extract<Arc<State>>) -> Answer {
    only(&state, "standby").map_or_else(|refused| refused, first_standby)
}

pub(super) async fn active(Extract(state): Extract<Arc<State>>, Path(name): Path<String>) -> Answer {
    named(&state, &name).map_or_else(|refused| refused, first_active)
}

pub(super) async fn standby(Extract(state): Extract<Arc<State>>, Path(name): Path<String>) -> Answer {
    named(&state, &name).map_or_else(|refused| refused, first_standby)
}

pub(super) async fn actives(Extract(state): Extract<Arc<State>>, Path(name): Path<String>) -> Answer {
    named(&state, &name).map_or_else(|refused| refused, all_actives)
}

/// One a line.
fn all_actives(group: &GroupHandle) -> Answer {
    let assignment = Arc::clone(&group.assignment.borrow());
    let urls: Vec<String> = assignment.actives.iter().map(|active| url(&active.address)).collect();
    if urls.is_empty() { nothing_active(&assignment) } else { (StatusCode::OK, urls.join("\n")) }
}

/// The first of them: with several, the order of the assignment stays the same while the assignment does.
fn first_active(group: &GroupHandle) -> Answer {
    let assignment = Arc::clone(&group.assignment.borrow());
    match assignment.actives.first() {
        Some(active) => (StatusCode::OK, url(&active.address)),
        None => nothing_active(&assignment),
    }
}

fn first_standby(group: &GroupHandle) -> Answer {
    match &group.assignment.borrow().standby {
        Some(standby) => (StatusCode::OK, url(standby)),
        None => (StatusCode::SERVICE_UNAVAILABLE, "no replica is free as standby".to_owned()),
    }
}

fn nothing_active(assignment: &Assignment) -> Answer {
    let reason = assignment.reason.clone().unwrap_or_else(|| "no replica is active".to_owned());
    (StatusCode::SERVICE_UNAVAILABLE, reason)
}

fn only<'s>(state: &'s State, what: &str) -> Result<&'s GroupHandle, Answer> {
    match state.groups.as_slice() {
        [group] => Ok(group),
        [..] => Err((StatusCode::NOT_FOUND, format!("there are several groups: ask /GROUP/{what} for one of {}", state.names()))),
    }
}

fn named<'s>(state: &'s State, name: &str) -> Result<&'s GroupHandle, Answer> {
    state.group(name).ok_or_else(|| (StatusCode::NOT_FOUND, format!("no such group; there is {}", state.names())))
}

fn url(address: &NodeAddress) -> String {
    format!("redis://{address}/")
}
