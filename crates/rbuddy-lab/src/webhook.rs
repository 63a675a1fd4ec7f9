//! A receiver of webhooks, as an application that follows the active by notification would have one.

use crate::{LabError, Port, http};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// How long a sender may take for its request.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// One notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What `content-type` said.
    pub content_type: String,
    /// The body as it came.
    pub body: String,
    /// `host:port` of the new active, where the body is the form that the first tool sent.
    pub active: Option<String>,
}

/// How it treats senders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manners {
    /// Answers 200.
    Answers,
    /// Takes the request and never answers.
    Hangs,
}

/// A running receiver. Ends when dropped.
#[derive(Debug)]
pub struct WebhookReceiver {
    port: Port,
    received: Arc<Mutex<Vec<Notice>>>,
    active: watch::Receiver<Option<String>>,
    manners: watch::Sender<Manners>,
    task: JoinHandle<()>,
}

impl WebhookReceiver {
    /// Starts one.
    pub fn start() -> Result<WebhookReceiver, LabError> {
        let port = Port::reserve()?;
        let listener = port.listen()?;
        let received = Arc::new(Mutex::new(Vec::new()));
        let (publish, active) = watch::channel(None);
        let (manners, watched) = watch::channel(Manners::Answers);
        let log = Arc::clone(&received);
        let task = tokio::spawn(async move {
            let mut senders = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                senders.spawn(serve(stream, Arc::clone(&log), publish.clone(), watched.clone()));
                while senders.try_join_next().is_some() {}
            }
        });
        Ok(WebhookReceiver { port, received, active, manners, task })
    }

    /// What to write into `notify`.
    pub fn url(&self) -> String {
        format!("http://{}/failover", self.port.address())
    }

    /// Everything that came so far.
    pub fn received(&self) -> Vec<Notice> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The active of the last notification.
    pub fn active(&self) -> watch::Receiver<Option<String>> {
        self.active.clone()
    }

    /// Changes how it treats senders from now on; those that hang already are answered.
    pub fn set(&self, manners: Manners) {
        self.manners.send_replace(manners);
    }
}

impl Drop for WebhookReceiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    received: Arc<Mutex<Vec<Notice>>>,
    publish: watch::Sender<Option<String>>,
    mut manners: watch::Receiver<Manners>,
) {
    let Ok(Ok((head, body))) = tokio::time::timeout(REQUEST_WITHIN, http::receive_request(&mut stream)).await else { return };
    let notice = Notice { content_type: content_type(&head), active: active_of_form(&body), body };
    // One that hangs has not taken the notification: the sender must try again.
    if manners.wait_for(|manners| *manners == Manners::Answers).await.is_err() {
        return;
    }
    if notice.active.is_some() {
        publish.send_replace(notice.active.clone());
    }
    received.lock().unwrap_or_else(PoisonError::into_inner).push(notice);
    // A sender that has gone away meanwhile is its own business.
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").await;
}

fn content_type(head: &str) -> String {
    let headers = head.lines().filter_map(|line| line.split_once(':'));
    let mut types = headers.filter(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    types.next().map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// `host=127.0.0.1&port=6380`
fn active_of_form(body: &str) -> Option<String> {
    let field = |wanted: &str| body.trim().split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted);
    let port: u16 = field("port")?.1.parse().ok()?;
    Some(format!("{}:{port}", field("host")?.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_notification_in_two_pieces_tells_the_new_active() {
        let receiver = WebhookReceiver::start().expect("a receiver");
        let address = receiver.url().trim_start_matches("http://").trim_end_matches("/failover").to_owned();
        let mut stream = TcpStream::connect(&address).await.expect("connect");
        stream.write_all(b"POST /failover HTTP/1.1\r\ncontent-length: 24\r\n\r\nhost=127.0").await.expect("write");
        stream.write_all(b".0.1&port=6380").await.expect("write");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert_eq!(receiver.active().borrow().as_deref(), Some("127.0.0.1:6380"));
        assert_eq!(receiver.received().len(), 1);
    }
}
