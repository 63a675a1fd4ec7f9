//! The HTTP API: who is active, what is going on, and an operator's orders. Reference: `docs/api.md`.
//!
//! | where | what |
//! | --- | --- |
//! | [`follow`] | `GET /active` and its like, for applications |
//! | [`groups`] | `/v1/…`, for operators and tools |
//! | [`guard`] | who may ask: Host, Origin, token, content type |
//! | [`connections`] | how many at once, and for how long |
//!
//! Promises: an answer never waits for another group; an order is answered within [`REQUEST_TIMEOUT`] or called unknown; a page in an
//! operator's browser can neither order nor read anything. Not here: TLS (put a proxy before it), decisions (the controller's).

mod connections;
mod follow;
mod groups;
mod guard;
#[cfg(test)]
mod tests;

use crate::handle::GroupHandle;
use crate::settings::ApiSettings;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use connections::Connections;
use rbuddy_core::types::GroupName;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// What the API needs.
#[derive(Debug)]
pub struct ApiConfig {
    /// Where it listens and who may order.
    pub settings: ApiSettings,
    /// At least one.
    pub groups: Vec<GroupHandle>,
}

/// It listens, and does not answer yet.
#[derive(Debug)]
pub struct Api {
    listener: TcpListener,
    local_addr: SocketAddr,
    state: Arc<State>,
}

/// The API cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listen for the API on {listen}")]
pub struct BindError {
    listen: String,
    #[source]
    source: std::io::Error,
}

/// What every answer is made from.
#[derive(Debug)]
struct State {
    settings: ApiSettings,
    groups: Vec<GroupHandle>,
}

/// Listens. From here on connections are accepted by the kernel; they are answered once [`Api::run`] runs.
pub async fn bind(config: ApiConfig) -> Result<Api, BindError> {
    let refused = |source| BindError { listen: config.settings.listen.clone(), source };
    let listener = TcpListener::bind(&config.settings.listen).await.map_err(refused)?;
    let local_addr = listener.local_addr().map_err(refused)?;
    Ok(Api { listener, local_addr, state: Arc::new(State { settings: config.settings, groups: config.groups }) })
}

impl Api {
    /// Where it listens, also where port 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers until `cancel`, then lets running answers end, for at most [`SHUTDOWN_TIMEOUT`].
    pub async fn run(self, cancel: CancellationToken) {
        let connections = Connections::new(self.listener, MAX_CONNECTIONS, IDLE_TIMEOUT);
        let asked_to_end = cancel.clone();
        let serving = axum::serve(connections, router(self.state)).with_graceful_shutdown(async move { asked_to_end.cancelled().await });
        let too_late = async {
            cancel.cancelled().await;
            tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
        };
        tokio::select! {
            ended = serving.into_future() => if let Err(error) = ended { warn!(%error, "api ended") },
            () = too_late => warn!("api ended with answers still running"),
        }
    }
}

fn router(state: Arc<State>) -> Router {
    // The last wall that is added is the first that a request meets.
    let operate =
        post(groups::operate).route_layer(from_fn(guard::json_only)).route_layer(from_fn_with_state(Arc::clone(&state), guard::token));
    let operators = Router::new()
        .route("/v1/status", get(groups::all))
        .route("/v1/groups/{group}", get(groups::one))
        .route("/v1/groups/{group}/replicas/{replica}/may-stop", get(groups::may_stop))
        .route("/v1/groups/{group}/plan", get(groups::plan))
        .route("/v1/groups/{group}/{operation}", operate)
        .layer(from_fn_with_state(Arc::clone(&state), guard::same_site));
    Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/active", get(follow::active_of_the_only_group))
        .route("/standby", get(follow::standby_of_the_only_group))
        .route("/{group}/active", get(follow::active))
        .route("/{group}/actives", get(follow::actives))
        .route("/{group}/standby", get(follow::standby))
        .merge(operators)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn(deadline))
        .with_state(state)
}

async fn deadline(request: axum::extract::Request, next: axum::middleware::Next) -> Response {
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let seconds = REQUEST_TIMEOUT.as_secs();
        let message = format!("no answer within {seconds} s; whether anything was done is unknown: look at GET /v1/status");
        groups::error(StatusCode::GATEWAY_TIMEOUT, message)
    })
}

impl State {
    fn group(&self, name: &str) -> Option<&GroupHandle> {
        self.groups.iter().find(|group| group.name.as_str() == name)
    }

    fn names(&self) -> String {
        self.groups.iter().map(|group| GroupName::as_str(&group.name)).collect::<Vec<_>>().join(", ")
    }
}

/// Longer bodies are refused with 413; orders have some dozen bytes.
const MAX_BODY_BYTES: usize = 16 << 10;
/// From the request's head to its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// More connections wait in the kernel's queue until one ends.
const MAX_CONNECTIONS: usize = 1024;
/// A connection on which nothing arrives for this long is closed. Longer than any answer takes.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Running answers are waited for.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
