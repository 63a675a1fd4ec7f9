//! The connection to a server, against real ones.

mod common;

use common::Server;
use rbuddy_core::info::Role;
use rbuddy_runtime::admin::{AdminConnection, AdminError};
use redis::Value;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

#[tokio::test]
async fn questions_are_answered() {
    let server = Server::start(&["--maxmemory", "50mb"]).await;
    let connection = AdminConnection::open(&server.endpoint(), PATIENCE).await.expect("it runs");
    let info = connection.info().await.expect("INFO");
    assert_eq!((info.role, info.keyspace.keys, info.is_cluster), (Some(Role::Master), 0, false));
    assert!(info.version.is_some() && info.run_id.is_some() && info.used_memory.is_some() && info.sync_full.is_some());
    assert_eq!(connection.config_get("maxmemory").await.expect("CONFIG GET").as_deref(), Some("52428800"));
    assert_eq!(connection.config_get("no-such-thing").await.expect("CONFIG GET"), None);
    assert!(connection.client_id().await.expect("CLIENT ID") > 0);
    let clients = connection.command(&["CLIENT", "LIST"]).await.expect("CLIENT LIST");
    let clients = rbuddy_runtime::admin::text(&clients).expect("text");
    assert!(clients.contains("lib-name= ") || !clients.contains("lib-name"), "no name of a library: {clients}");
}

#[tokio::test]
async fn a_pipeline_has_one_answer_per_command() {
    let server = Server::start(&[]).await;
    let connection = AdminConnection::open(&server.endpoint(), PATIENCE).await.expect("it runs");
    let commands: [&[&str]; 5] = [&["MULTI"], &["SET", "a", "1"], &["LPUSH", "a", "x"], &["NOSUCHCOMMAND"], &["EXEC"]];
    let answers = connection.pipeline(&commands).await.expect("the connection holds");
    assert!(matches!(answers[0], Ok(Value::Okay)));
    assert!(matches!(&answers[3], Err(AdminError::Refused { reason, .. }) if reason.starts_with("ERR unknown command")), "{answers:?}");
    assert!(matches!(&answers[4], Err(AdminError::Refused { reason, .. }) if reason.starts_with("EXECABORT")), "{answers:?}");
    let answers = connection.pipeline(&commands[..3]).await.expect("the connection holds");
    assert_eq!(answers.len(), 3);
    let answer = connection.command(&["EXEC"]).await.expect("EXEC itself goes through");
    let Value::Array(elements) = answer else { panic!("{answer:?}") };
    assert!(matches!(elements[1], Value::ServerError(_)), "errors inside EXEC are its elements: {elements:?}");
}

#[tokio::test]
async fn errors_say_what_is_known() {
    let mut server = Server::start(&["--requirepass", "pw"]).await;
    let anonymous = AdminConnection::open(&server.endpoint(), PATIENCE).await.expect("connecting needs no password");
    assert!(matches!(anonymous.info().await, Err(AdminError::Denied { .. })));
    let wrong = AdminConnection::open(&server.with_password(None, "hunter2"), PATIENCE).await.expect_err("a wrong password");
    assert!(matches!(wrong, AdminError::Denied { .. }) && !format!("{wrong} {wrong:?}").contains("hunter2"), "{wrong:?}");
    let connection = AdminConnection::open(&server.with_password(Some("default"), "pw"), PATIENCE).await.expect("the right one");
    connection.command(&["ACL", "SETUSER", "weak", "on", ">pw", "~*", "+@all", "-flushall"]).await.expect("ACL");
    let weak = AdminConnection::open(&server.with_password(Some("weak"), "pw"), PATIENCE).await.expect("logged in");
    assert!(matches!(weak.command(&["FLUSHALL"]).await, Err(AdminError::Denied { reason, .. }) if reason.starts_with("NOPERM")));
    server.kill();
    let lost = connection.command(&["PING"]).await.expect_err("it is dead");
    assert!(matches!(lost, AdminError::Lost { .. }) && lost.outcome_unknown(), "{lost:?}");
    let unreachable = AdminConnection::open(&server.endpoint(), PATIENCE).await.expect_err("it is dead");
    assert!(matches!(unreachable, AdminError::Unreachable { .. }) && !unreachable.outcome_unknown(), "{unreachable:?}");
}

#[tokio::test]
async fn a_password_too_many_is_denied() {
    let server = Server::start(&[]).await;
    let error = AdminConnection::open(&server.with_password(None, "pw"), PATIENCE).await.expect_err("no password is set there");
    assert!(matches!(error, AdminError::Denied { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_deadline() {
    let server = Server::start(&[]).await;
    let connection = AdminConnection::open(&server.endpoint(), Duration::from_millis(100)).await.expect("it runs");
    server.freeze();
    let error = connection.command(&["PING"]).await.expect_err("it is stopped");
    assert!(matches!(error, AdminError::Timeout { .. }) && error.outcome_unknown(), "{error:?}");
}

#[tokio::test]
async fn a_loading_server_is_told_from_a_broken_one() {
    let server = Server::start(&["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"]).await;
    let connection = AdminConnection::open(&server.endpoint(), PATIENCE).await.expect("it runs");
    connection.command(&["DEBUG", "POPULATE", "5000", "key", "100"]).await.expect("DEBUG");
    let other = AdminConnection::open(&server.endpoint(), PATIENCE).await.expect("it runs");
    let reload = tokio::spawn(async move { connection.command(&["DEBUG", "RELOAD"]).await.map(|_| ()) });
    // The reload takes 5000 × 2 ms; it has begun as soon as a command is refused for it.
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match other.command(&["GET", "x"]).await {
            Err(AdminError::Loading { .. }) => break,
            answer => assert!(tokio::time::Instant::now() < deadline, "never loading, last {answer:?}"),
        }
    }
    assert!(other.info().await.expect("INFO is answered while loading").is_loading);
    reload.abort();
}
