//! `/v1/…`: the whole state as JSON, and an operator's orders.
//!
//! An order is answered by the controller: 200 `{"result": …}` says what happens now, 409 `{"error": …}` why nothing does.

use super::State;
use crate::handle::{GroupHandle, OperationRequest};
use crate::settings::shown_url;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State as Extract};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use rbuddy_core::control::status::{GroupStatus, MayStop, Operation};
use rbuddy_core::types::{DatasetId, NodeAddress};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::oneshot;
use tracing::info;

pub(super) async fn all(Extract(state): Extract<Arc<State>>) -> Response {
    let groups: Vec<GroupStatus> = state.groups.iter().map(shown).collect();
    Json(json!({ "groups": groups })).into_response()
}

pub(super) async fn one(Extract(state): Extract<Arc<State>>, Path(name): Path<String>) -> Response {
    match state.group(&name) {
        Some(group) => Json(shown(group)).into_response(),
        None => no_such_group(&state),
    }
}

/// 200: nobody would notice; 409: somebody would.
pub(super) async fn may_stop(Extract(state): Extract<Arc<State>>, Path((name, replica)): Path<(String, String)>) -> Response {
    let Some(group) = state.group(&name) else { return no_such_group(&state) };
    let status = group.status.borrow().clone();
    let Some(replica) = status.replicas.iter().find(|known| known.address.to_string() == replica) else {
        let known = status.replicas.iter().map(|replica| replica.address.to_string()).collect::<Vec<_>>().join(", ");
        return error(StatusCode::NOT_FOUND, format!("no such replica; there is {known}"));
    };
    let MayStop { allowed, reason } = &replica.may_stop;
    let code = if *allowed { StatusCode::OK } else { StatusCode::CONFLICT };
    (code, Json(json!({ "may_stop": allowed, "reason": reason }))).into_response()
}

/// What would happen now. The controller answers between two events.
pub(super) async fn plan(Extract(state): Extract<Arc<State>>, Path(name): Path<String>) -> Response {
    let Some(group) = state.group(&name) else { return no_such_group(&state) };
    let (reply, answer) = oneshot::channel();
    match group.plans.send(reply).await {
        Ok(()) => answer.await.map_or_else(|_| shutting_down(), |plan| Json(plan).into_response()),
        Err(_) => shutting_down(),
    }
}

fn shutting_down() -> Response {
    error(StatusCode::SERVICE_UNAVAILABLE, "the group is shutting down".to_owned())
}

/// Status is open to whoever reaches the API; the keys in webhook URLs are not.
fn shown(group: &GroupHandle) -> GroupStatus {
    let mut status = GroupStatus::clone(&group.status.borrow());
    for url in status.undelivered.iter_mut().flat_map(|notification| &mut notification.pending) {
        *url = shown_url(url);
    }
    status
}

pub(super) async fn operate(
    Extract(state): Extract<Arc<State>>,
    Path((name, operation)): Path<(String, String)>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Response {
    let Some(group) = state.group(&name) else { return no_such_group(&state) };
    let body = match body {
        Ok(body) => body,
        Err(rejection) => return error(rejection.status(), rejection.body_text()),
    };
    let operation = match parse(&operation, &body) {
        Ok(operation) => operation,
        Err((status, message)) => return error(status, message),
    };
    let (reply, answer) = oneshot::channel();
    if group.operations.send(OperationRequest { operation: operation.clone(), reply }).await.is_err() {
        return shutting_down();
    }
    match answer.await {
        Ok(Ok(result)) => {
            info!(group = %group.name, ?operation, result, "operation accepted");
            Json(json!({ "result": result })).into_response()
        }
        Ok(Err(refused)) => {
            info!(group = %group.name, ?operation, refused, "operation refused");
            error(StatusCode::CONFLICT, refused)
        }
        Err(_) => shutting_down(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Approve {
    dataset: DatasetId,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Replica {
    replica: NodeAddress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SetPrimary {
    address: NodeAddress,
}

fn parse(operation: &str, body: &[u8]) -> Result<Operation, (StatusCode, String)> {
    match operation {
        "failover" => fields::<Nothing>(body).map(|_| Operation::Failover),
        "pause" => fields::<Nothing>(body).map(|_| Operation::Pause),
        "resume" => fields::<Nothing>(body).map(|_| Operation::Resume),
        "approve" => fields::<Approve>(body).map(|approve| Operation::Approve { dataset: approve.dataset }),
        "adopt" => fields::<Replica>(body).map(|Replica { replica }| Operation::Adopt { replica }),
        "drain" => fields::<Replica>(body).map(|Replica { replica }| Operation::Drain { replica }),
        "return" => fields::<Replica>(body).map(|Replica { replica }| Operation::Return { replica }),
        "set-primary" => fields::<SetPrimary>(body).map(|set| Operation::SetPrimary { address: set.address }),
        _ => {
            let known = "failover, approve, adopt, drain, return, set-primary, pause, resume";
            Err((StatusCode::NOT_FOUND, format!("no such operation; there is {known}")))
        }
    }
}

/// An empty body is `{}`.
fn fields<T: DeserializeOwned>(body: &[u8]) -> Result<T, (StatusCode, String)> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| (StatusCode::BAD_REQUEST, format!("the body does not fit the operation: {error}")))
}

fn no_such_group(state: &State) -> Response {
    error(StatusCode::NOT_FOUND, format!("no such group; there is {}", state.names()))
}

/// A refusal in the form that all of `/v1` uses.
pub(super) fn error(status: StatusCode, message: String) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}
