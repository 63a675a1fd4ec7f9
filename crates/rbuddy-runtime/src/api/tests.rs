//! The API over a real socket, with groups made by hand.

use super::{Api, ApiConfig, bind};
use crate::handle::{GroupHandle, OperationRequest};
use crate::settings::{ApiSettings, Secret};
use rbuddy_core::control::assignment::{ActiveReplica, Assignment, Notification, NotificationEvent};
use rbuddy_core::control::primary::PrimarySource;
use rbuddy_core::control::relay::{BacklogView, UpstreamView};
use rbuddy_core::control::status::{GroupStatus, Operation, Phase, PrimaryStatus};
use rbuddy_core::types::{Generation, NodeAddress, Offset, Time};
use reqwest::{Method, RequestBuilder};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// A running API and the ends that a controller would hold.
struct World {
    base: String,
    client: reqwest::Client,
    assignments: Vec<watch::Sender<Arc<Assignment>>>,
    operations: Vec<mpsc::Receiver<OperationRequest>>,
    _statuses: Vec<watch::Sender<Arc<GroupStatus>>>,
    cancel: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

async fn world(names: &[&str], token: Option<&str>) -> World {
    let (mut groups, mut assignments, mut operations, mut statuses) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let (assignment_sender, assignment) =
            watch::channel(Arc::new(assignment(name, &["127.0.0.1:6380", "[::1]:6381"], Some("127.0.0.1:6382"))));
        let (status_sender, status) = watch::channel(Arc::new(status(name)));
        let (operation_sender, operation_receiver) = mpsc::channel(4);
        groups.push(GroupHandle {
            name: name.parse().expect("a name"),
            status,
            assignment,
            operations: operation_sender,
            plans: mpsc::channel(1).0,
        });
        assignments.push(assignment_sender);
        statuses.push(status_sender);
        operations.push(operation_receiver);
    }
    let settings = ApiSettings { listen: "127.0.0.1:0".to_owned(), token: token.map(Secret::new) };
    let api: Api = bind(ApiConfig { settings, groups }).await.expect("a free port");
    let base = format!("http://{}", api.local_addr());
    let cancel = CancellationToken::new();
    let ended = tokio::spawn(api.run(cancel.clone()));
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    World { base, client, assignments, operations, _statuses: statuses, cancel, ended }
}

fn assignment(group: &str, actives: &[&str], standby: Option<&str>) -> Assignment {
    let active = |address: &&str| ActiveReplica {
        address: address.parse().expect("an address"),
        run_id: "ab".repeat(20).parse().expect("40 digits"),
        detached: false,
        replids: Vec::new(),
        offset_at_least: Offset::ZERO,
        newer: Vec::new(),
    };
    Assignment {
        group: group.parse().expect("a name"),
        generation: Generation(3),
        actives: actives.iter().map(active).collect(),
        standby: standby.map(|address| address.parse().expect("an address")),
        draining: Vec::new(),
        reason: actives.is_empty().then(|| "no replica answers".to_owned()),
    }
}

fn status(group: &str) -> GroupStatus {
    let address: NodeAddress = "127.0.0.1:6379".parse().expect("an address");
    let undelivered = Notification {
        id: 1,
        event: NotificationEvent::Failover,
        group: group.parse().expect("a name"),
        generation: Generation(3),
        old: None,
        new: address.clone(),
        time: Time::default(),
        pending: vec!["https://hooks.example/secret/key".to_owned()],
    };
    GroupStatus {
        group: group.parse().expect("a name"),
        time: Time::default(),
        generation: Generation(3),
        phase: Phase::Normal,
        explanation: "all is well".to_owned(),
        paused: false,
        active: Vec::new(),
        standby: Vec::new(),
        draining: Vec::new(),
        refusal: None,
        primary: PrimaryStatus {
            address: Some(address),
            source: PrimarySource::Configured,
            note: None,
            reachable: true,
            error: None,
            version: None,
            run_id: None,
            position: None,
            keys: None,
        },
        upstream: UpstreamView::default(),
        position: None,
        snapshot: None,
        backlog: BacklogView::default(),
        replicas: Vec::new(),
        undelivered: vec![undelivered],
    }
}

impl World {
    fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.base))
    }

    fn post(&self, path: &str, body: &str) -> RequestBuilder {
        let request = self.client.request(Method::POST, format!("{}{path}", self.base));
        request.header("content-type", "application/json").body(body.to_owned())
    }

    /// Lets the "controller" of the only group answer the next operation.
    fn controller(&mut self, answer: Result<&'static str, &'static str>) -> tokio::task::JoinHandle<Operation> {
        let mut operations = self.operations.remove(0);
        tokio::spawn(async move {
            let request = operations.recv().await.expect("an operation arrives");
            let answer = answer.map(str::to_owned).map_err(str::to_owned);
            request.reply.send(answer).expect("the API waits for the answer");
            request.operation
        })
    }
}

async fn answer(request: RequestBuilder) -> (u16, String) {
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.text().await.expect("a body"))
}

#[tokio::test]
async fn applications_are_told_the_active_as_plain_text() {
    let world = world(&["main"], None).await;
    assert_eq!(answer(world.get("/active")).await, (200, "redis://127.0.0.1:6380/".to_owned()));
    assert_eq!(answer(world.get("/main/active")).await, (200, "redis://127.0.0.1:6380/".to_owned()));
    assert_eq!(answer(world.get("/main/actives")).await, (200, "redis://127.0.0.1:6380/\nredis://[::1]:6381/".to_owned()));
    assert_eq!(answer(world.get("/standby")).await, (200, "redis://127.0.0.1:6382/".to_owned()));
    assert_eq!(answer(world.get("/healthz")).await, (200, "ok".to_owned()));
    assert_eq!(answer(world.get("/other/active")).await, (404, "no such group; there is main".to_owned()));
    world.assignments[0].send_replace(Arc::new(assignment("main", &[], None)));
    assert_eq!(answer(world.get("/active")).await, (503, "no replica answers".to_owned()));
    assert_eq!(answer(world.get("/main/standby")).await, (503, "no replica is free as standby".to_owned()));
}

#[tokio::test]
async fn with_several_groups_one_must_be_named() {
    let world = world(&["a", "b"], None).await;
    assert_eq!(answer(world.get("/active")).await, (404, "there are several groups: ask /GROUP/active for one of a, b".to_owned()));
    assert_eq!(answer(world.get("/b/active")).await.0, 200);
}

#[tokio::test]
async fn status_is_json_without_the_keys_of_webhooks() {
    let world = world(&["a", "b"], None).await;
    let (code, body) = answer(world.get("/v1/status")).await;
    let all: serde_json::Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!((code, all["groups"].as_array().map(Vec::len)), (200, Some(2)));
    assert!(!body.contains("secret") && body.contains("https://hooks.example/…"), "{body}");
    let (code, body) = answer(world.get("/v1/groups/b")).await;
    let one: GroupStatus = serde_json::from_str(&body).expect("a group's status");
    assert_eq!((code, one.group.as_str(), one.phase), (200, "b", Phase::Normal));
    assert_eq!(answer(world.get("/v1/groups/c")).await.0, 404);
}

#[tokio::test]
async fn an_order_is_answered_by_the_controller() {
    let mut world = world(&["main"], None).await;
    let controller = world.controller(Ok("switching to 127.0.0.1:6382"));
    let replid = "cd".repeat(20);
    let said = answer(world.post("/v1/groups/main/approve", &format!("{{\"dataset\":\"{replid}:17\"}}"))).await;
    assert_eq!(said, (200, r#"{"result":"switching to 127.0.0.1:6382"}"#.to_owned()));
    let dataset = format!("{replid}:17").parse().expect("a dataset");
    assert_eq!(controller.await.expect("no panic"), Operation::Approve { dataset });
}

#[tokio::test]
async fn a_refused_order_is_a_conflict() {
    let mut world = world(&["main"], None).await;
    let controller = world.controller(Err("it is the active"));
    let said = answer(world.post("/v1/groups/main/adopt", r#"{"replica":"127.0.0.1:6380"}"#)).await;
    assert_eq!(said, (409, r#"{"error":"it is the active"}"#.to_owned()));
    assert_eq!(controller.await.expect("no panic"), Operation::Adopt { replica: NodeAddress::new("127.0.0.1", 6380) });
}

#[tokio::test]
async fn orders_that_are_none_are_refused_before_the_controller_hears_of_them() {
    let mut world = world(&["main"], None).await;
    for (path, body, code) in [
        ("/v1/groups/main/adopt", r#"{"replica":"nonsense"}"#, 400),
        ("/v1/groups/main/adopt", "{}", 400),
        ("/v1/groups/main/set-primary", r#"{"address":"nonsense"}"#, 400),
        ("/v1/groups/main/failover", r#"{"force":true}"#, 400),
        ("/v1/groups/main/failover", "{", 400),
        ("/v1/groups/main/explode", "{}", 404),
        ("/v1/groups/other/failover", "{}", 404),
    ] {
        assert_eq!(answer(world.post(path, body)).await.0, code, "{path} {body}");
    }
    let long = format!("{{\"replica\":\"{}\"}}", "a".repeat(17 << 10));
    assert_eq!(answer(world.post("/v1/groups/main/adopt", &long)).await.0, 413);
    assert_eq!(answer(world.get("/v1/groups/main/failover")).await.0, 405);
    let untyped = world.client.post(format!("{}/v1/groups/main/failover", world.base)).body("{}");
    assert_eq!(answer(untyped).await.0, 415);
    let form = world.client.post(format!("{}/v1/groups/main/failover", world.base)).header("content-type", "text/plain");
    assert_eq!(answer(form).await.0, 415);
    assert!(world.operations[0].try_recv().is_err(), "nothing may have reached the controller");
}

#[tokio::test]
async fn web_pages_of_others_can_neither_order_nor_read() {
    let mut world = world(&["main"], None).await;
    let host = world.base.trim_start_matches("http://").to_owned();
    assert_eq!(answer(world.post("/v1/groups/main/failover", "{}").header("host", "evil.example")).await.0, 403);
    assert_eq!(answer(world.get("/v1/status").header("host", "evil.example")).await.0, 403);
    assert_eq!(answer(world.post("/v1/groups/main/failover", "{}").header("origin", "http://evil.example")).await.0, 403);
    assert_eq!(answer(world.post("/v1/groups/main/failover", "{}").header("origin", "null")).await.0, 403);
    assert!(world.operations[0].try_recv().is_err(), "nothing may have reached the controller");
    assert_eq!(answer(world.get("/active").header("host", "alias.internal")).await.0, 200, "applications may use any name");
    let controller = world.controller(Ok("done"));
    assert_eq!(answer(world.post("/v1/groups/main/failover", "{}").header("origin", format!("http://{host}"))).await.0, 200);
    assert_eq!(controller.await.expect("no panic"), Operation::Failover);
}

#[tokio::test]
async fn with_a_token_orders_need_it_and_any_host_name_will_do() {
    let mut world = world(&["main"], Some("s3cret")).await;
    let order = |world: &World| world.post("/v1/groups/main/pause", "{}").header("host", "buddy.internal");
    assert_eq!(answer(order(&world)).await.0, 401);
    assert_eq!(answer(order(&world).header("authorization", "Bearer s3cre")).await.0, 401);
    assert_eq!(answer(order(&world).header("authorization", "Basic s3cret")).await.0, 401);
    assert!(world.operations[0].try_recv().is_err(), "nothing may have reached the controller");
    let controller = world.controller(Ok("paused"));
    assert_eq!(answer(order(&world).header("authorization", "Bearer s3cret")).await.0, 200);
    assert_eq!(controller.await.expect("no panic"), Operation::Pause);
}

#[tokio::test]
async fn a_controller_that_is_gone_is_said_so() {
    let mut world = world(&["main"], None).await;
    world.operations.clear();
    assert_eq!(answer(world.post("/v1/groups/main/failover", "{}")).await, (503, r#"{"error":"the group is shutting down"}"#.to_owned()));
}

#[tokio::test]
async fn it_ends_though_a_client_keeps_its_connection() {
    let world = world(&["main"], None).await;
    assert_eq!(answer(world.get("/healthz")).await.0, 200);
    let address = world.base.trim_start_matches("http://").to_owned();
    let _silent = tokio::net::TcpStream::connect(address).await.expect("accepted");
    world.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), world.ended).await.expect("it ends by itself").expect("no panic");
}
