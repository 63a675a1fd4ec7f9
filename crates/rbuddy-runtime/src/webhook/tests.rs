//! Delivery to receivers that work, fail and hang.

use super::receiver::Patience;
use super::{Delivered, run_with};
use crate::settings::{NotifyFormat, NotifySettings};
use rbuddy_core::control::assignment::{Notification, NotificationEvent};
use rbuddy_core::types::{Generation, NodeAddress, Time};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A receiver that answers each request with the next of `codes` (the last one for ever); 0 means never.
struct Hook {
    url: String,
    /// Bodies in the order of their arrival.
    bodies: mpsc::UnboundedReceiver<String>,
    _task: JoinHandle<()>,
}

async fn hook(codes: &'static [u16]) -> Hook {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/hook?key=secret", listener.local_addr().expect("bound"));
    let (sender, bodies) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let mut hanging = Vec::new();
        for attempt in 0.. {
            let (mut stream, _) = listener.accept().await.expect("a connection");
            let code = codes[attempt.min(codes.len() - 1)];
            let body = request_body(&mut stream).await;
            if sender.send(body).is_err() {
                return;
            }
            if code == 0 {
                hanging.push(stream);
                continue;
            }
            let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\nlocation: /elsewhere\r\nconnection: close\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.expect("the sender still listens");
        }
    });
    Hook { url, bodies, _task: task }
}

async fn request_body(stream: &mut tokio::net::TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            if body.len() >= length.unwrap_or(0) {
                assert!(head.starts_with("POST "), "{head}");
                return body.to_owned();
            }
        }
        assert_ne!(stream.read_buf(&mut bytes).await.expect("readable"), 0, "the request is complete");
    }
}

struct World {
    outbox: watch::Sender<Arc<Vec<Notification>>>,
    delivered: mpsc::Receiver<Delivered>,
    cancel: CancellationToken,
    ended: JoinHandle<()>,
}

fn world(urls: &[&str], outbox: Vec<Notification>) -> World {
    let targets = urls.iter().map(|url| NotifySettings { url: (*url).to_owned(), format: NotifyFormat::Form }).collect();
    let patience =
        Patience { timeout: Duration::from_millis(200), first_pause: Duration::from_millis(5), longest_pause: Duration::from_millis(20) };
    let (outbox, outbox_receiver) = watch::channel(Arc::new(outbox));
    let (delivered_sender, delivered) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let ended = tokio::spawn(run_with(patience, targets, outbox_receiver, delivered_sender, cancel.clone()));
    World { outbox, delivered, cancel, ended }
}

fn notification(id: u64, urls: &[&str]) -> Notification {
    Notification {
        id,
        event: NotificationEvent::Failover,
        group: "main".parse().expect("a name"),
        generation: Generation(id),
        old: None,
        new: NodeAddress::new("h", 6000 + u16::try_from(id).expect("small")),
        time: Time::default(),
        pending: urls.iter().map(|url| (*url).to_owned()).collect(),
    }
}

async fn soon<T>(what: &str, future: impl Future<Output = Option<T>>) -> T {
    let arrived = tokio::time::timeout(Duration::from_secs(5), future).await;
    arrived.unwrap_or_else(|_| panic!("{what}: nothing within 5 s")).unwrap_or_else(|| panic!("{what}: ended"))
}

#[tokio::test]
async fn messages_arrive_in_order_and_are_reported() {
    let mut hook = hook(&[200]).await;
    let url = hook.url.clone();
    let mut world = world(&[&url], vec![notification(2, &[&url]), notification(1, &[&url]), notification(3, &["http://other"])]);
    assert_eq!(soon("report", world.delivered.recv()).await, Delivered { id: 1, url: url.clone() });
    assert_eq!(soon("report", world.delivered.recv()).await, Delivered { id: 2, url: url.clone() });
    assert_eq!(soon("body", hook.bodies.recv()).await, "host=h&port=6001");
    assert_eq!(soon("body", hook.bodies.recv()).await, "host=h&port=6002");
    world.outbox.send_replace(Arc::new(vec![notification(4, &[&url])]));
    assert_eq!(soon("report", world.delivered.recv()).await.id, 4, "a later change is seen too");
}

#[tokio::test]
async fn a_receiver_that_fails_is_asked_again_until_it_takes_the_message() {
    let mut hook = hook(&[500, 404, 302, 0, 204]).await;
    let url = hook.url.clone();
    let mut world = world(&[&url], vec![notification(1, &[&url])]);
    assert_eq!(soon("report", world.delivered.recv()).await.id, 1);
    for attempt in 1..=5 {
        assert_eq!(soon("body", hook.bodies.recv()).await, "host=h&port=6001", "attempt {attempt}");
    }
}

#[tokio::test]
async fn a_dead_or_hanging_receiver_delays_no_other() {
    let hanging = hook(&[0]).await;
    let working = hook(&[200]).await;
    let dead = {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        format!("http://{}/", listener.local_addr().expect("bound"))
    };
    let urls = [hanging.url.as_str(), dead.as_str(), working.url.as_str()];
    let outbox = (1..=5).map(|id| notification(id, &urls)).collect();
    let mut world = world(&urls, outbox);
    for id in 1..=5 {
        assert_eq!(soon("report", world.delivered.recv()).await, Delivered { id, url: working.url.clone() });
    }
}

#[tokio::test]
async fn a_message_that_left_the_outbox_is_given_up() {
    let mut hook = hook(&[500, 500, 200]).await;
    let url = hook.url.clone();
    let mut world = world(&[&url], vec![notification(1, &[&url])]);
    soon("first attempt", hook.bodies.recv()).await;
    world.outbox.send_replace(Arc::new(vec![notification(2, &[&url])]));
    assert_eq!(soon("report", world.delivered.recv()).await.id, 2, "only the message that is still wanted is delivered");
}

#[tokio::test]
async fn it_ends_at_once_though_a_receiver_hangs() {
    let mut hook = hook(&[0]).await;
    let url = hook.url.clone();
    let world = world(&[&url], vec![notification(1, &[&url])]);
    soon("attempt", hook.bodies.recv()).await;
    world.cancel.cancel();
    tokio::time::timeout(Duration::from_millis(150), world.ended).await.expect("before the attempt's own timeout").expect("no panic");
}

#[tokio::test]
async fn without_receivers_it_lasts_until_it_is_cancelled() {
    let world = world(&[], vec![notification(1, &["http://gone"])]);
    let mut ended = world.ended;
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut ended).await.is_err(), "it must not end by itself");
    world.cancel.cancel();
    tokio::time::timeout(Duration::from_secs(5), ended).await.expect("it ends when asked").expect("no panic");
}
