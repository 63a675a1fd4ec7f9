//! Talks to a running rbuddy over its API: where it is, who we are, which group is meant, and what its answers mean for the exit code.

use super::load;
use crate::exit::{Exit, Failure};
use crate::out;
use anyhow::{Context, anyhow};
use clap::Args;
use rbuddy_core::control::status::{GroupStatus, Operation};
use rbuddy_core::types::{GroupName, NodeAddress};
use rbuddy_runtime::settings::Secret;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Which rbuddy, and which group.
#[derive(Debug, Args)]
pub(crate) struct ApiArgs {
    /// Where rbuddy's API is [default: http://127.0.0.1:9999]. The token, where one is needed, is read from RBUDDY_TOKEN or --config
    #[arg(long, value_name = "URL")]
    api: Option<String>,
    /// Take the API's address and token from this configuration
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which group; may be left out if there is one only
    #[arg(long, value_name = "NAME")]
    pub(super) group: Option<GroupName>,
}

/// A running rbuddy.
pub(super) struct Api {
    base: String,
    token: Option<Secret>,
    http: reqwest::Client,
}

/// Sends an operator's order and shows the answer.
pub(crate) async fn order(args: &ApiArgs, operation: Operation) -> Result<(), Failure> {
    let api = Api::open(args)?;
    let group = api.group(args).await?;
    let (name, body) = match operation {
        Operation::Failover => ("failover", json!({})),
        Operation::Approve { dataset } => ("approve", json!({ "dataset": dataset })),
        Operation::Adopt { replica } => ("adopt", json!({ "replica": replica })),
        Operation::Drain { replica } => ("drain", json!({ "replica": replica })),
        Operation::Return { replica } => ("return", json!({ "replica": replica })),
        Operation::SetPrimary { address } => ("set-primary", json!({ "address": address })),
        Operation::Pause => ("pause", json!({})),
        Operation::Resume => ("resume", json!({})),
    };
    let request = api.http.post(format!("{}/v1/groups/{group}/{name}", api.base)).json(&body);
    let answer = api.ask(request).await?;
    out::result(answer["result"].as_str().unwrap_or("done"));
    Ok(())
}

/// Whether a replica may be stopped now. The exit code says so as well.
pub(crate) async fn may_stop(args: &ApiArgs, replica: &NodeAddress) -> Result<(), Failure> {
    let api = Api::open(args)?;
    let group = api.group(args).await?;
    let groups = groups(&api.status().await?)?;
    let replicas = groups.iter().filter(|known| known.group == group).flat_map(|known| &known.replicas);
    let Some(known) = replicas.into_iter().find(|known| known.address == *replica) else {
        return Err(Failure::new(Exit::Usage, format!("{replica} is not a replica of the group {group}")));
    };
    let reason = &known.may_stop.reason;
    if !known.may_stop.allowed {
        return Err(Failure::new(Exit::Refused, format!("{replica} may not be stopped now: {reason}")));
    }
    out::result(&format!("{replica} may be stopped: {reason}"));
    Ok(())
}

impl Api {
    pub(super) fn open(args: &ApiArgs) -> Result<Api, Failure> {
        let settings = args.config.as_deref().map(load).transpose()?.map(|loaded| loaded.settings.api);
        let from_environment = std::env::var("RBUDDY_TOKEN").ok().filter(|token| !token.is_empty()).map(Secret::new);
        let base = match (&args.api, &settings) {
            (Some(url), _) => url.trim_end_matches('/').to_owned(),
            (None, Some(settings)) => format!("http://{}", reachable(&settings.listen)),
            (None, None) => "http://127.0.0.1:9999".to_owned(),
        };
        let base = if base.contains("://") { base } else { format!("http://{base}") };
        // No proxy: what the environment names for the internet has no business between us and our own process.
        let http = reqwest::Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT).timeout(ANSWER_TIMEOUT).build();
        let http = http.context("set up the HTTP client")?;
        Ok(Api { base, token: from_environment.or_else(|| settings.and_then(|settings| settings.token)), http })
    }

    /// The whole state as it is sent.
    pub(super) async fn status(&self) -> Result<Value, Failure> {
        self.ask(self.http.get(format!("{}/v1/status", self.base))).await
    }

    /// What would happen to a group, as it is sent.
    pub(super) async fn plan(&self, args: &ApiArgs) -> Result<Value, Failure> {
        let group = self.group(args).await?;
        self.ask(self.http.get(format!("{}/v1/groups/{group}/plan", self.base))).await
    }

    /// The one that is named, or the only one.
    async fn group(&self, args: &ApiArgs) -> Result<GroupName, Failure> {
        match &args.group {
            Some(group) => Ok(group.clone()),
            None => self.only_group().await,
        }
    }

    async fn only_group(&self) -> Result<GroupName, Failure> {
        let groups = groups(&self.status().await?)?;
        match groups.as_slice() {
            [only] => Ok(only.group.clone()),
            [..] => {
                let names = groups.iter().map(|group| group.group.to_string()).collect::<Vec<_>>().join(", ");
                Err(Failure::new(Exit::Usage, format!("say which group with --group: {names}")))
            }
        }
    }

    async fn ask(&self, request: RequestBuilder) -> Result<Value, Failure> {
        let request = match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        };
        let response = request.send().await.map_err(|error| self.unreachable(error))?;
        let status = response.status();
        let text = response.text().await.map_err(|error| self.unreachable(error))?;
        let body: Value = serde_json::from_str(&text).unwrap_or(Value::Null);
        if status.is_success() && !body.is_null() {
            return Ok(body);
        }
        let exit = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::CONFLICT => Exit::Refused,
            StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST => Exit::Usage,
            _ => Exit::Failed,
        };
        let message = match body["error"].as_str() {
            Some(error) => error.to_owned(),
            None => format!("{} answers {status}, and not as rbuddy does: is --api right?", self.base),
        };
        Err(Failure::new(exit, message))
    }

    fn unreachable(&self, error: reqwest::Error) -> Failure {
        // After the request went out, an order may have been carried out.
        let advice = if error.is_connect() {
            "is it running, and is --api right?"
        } else {
            "whether it did anything is unknown: see `rbuddy status`"
        };
        let message = format!("rbuddy cannot be reached at {}: {advice}", self.base);
        Failure { exit: Exit::Unreachable, error: Some(anyhow!(error.without_url()).context(message)) }
    }
}

/// The groups of `GET /v1/status`.
pub(super) fn groups(status: &Value) -> Result<Vec<GroupStatus>, Failure> {
    let groups = serde_json::from_value(status["groups"].clone());
    Ok(groups.context("read rbuddy's status: is it of another version?")?)
}

/// Where to connect to what listens there: a wildcard is reached on this machine.
fn reachable(listen: &str) -> String {
    let Some((host, port)) = listen.rsplit_once(':') else { return listen.to_owned() };
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) if address.is_unspecified() => format!("127.0.0.1:{port}"),
        Ok(IpAddr::V6(address)) if address.is_unspecified() => format!("[::1]:{port}"),
        Ok(_) | Err(_) => listen.to_owned(),
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the API's own deadline, so that its word arrives.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::reachable;

    #[test]
    fn a_wildcard_is_reached_on_this_machine() {
        assert_eq!(reachable("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(reachable("[::]:1"), "[::1]:1");
        assert_eq!(reachable("10.0.0.1:1"), "10.0.0.1:1");
        assert_eq!(reachable("buddy:1"), "buddy:1");
    }
}
