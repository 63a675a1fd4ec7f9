//! Asks servers what they are, for connections that were just made (promise P1).
//!
//! The client's own connection is never used for it: it would have to be logged in by us, and the client would get our rights. Instead a
//! second connection to the very same socket address asks `INFO`, and it asks *after* the first was made: had another process taken the
//! address in between, the first connection would be dead.
//!
//! Hence many connections can share one check, if it began after each of them was made: whoever comes while one runs waits for the next
//! one. At most one runs per address.

use crate::settings::Endpoint;
use bytes::BytesMut;
use rbuddy_core::info::ServerInfo;
use rbuddy_core::resp::encode;
use rbuddy_core::resp::frame::ReplyFramer;
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio_util::task::TaskTracker;

/// What a server said, or why it did not.
pub(super) type Outcome = Result<Arc<ServerInfo>, Arc<str>>;

/// The checks of one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Checks {
    queues: Arc<Mutex<BTreeMap<SocketAddr, Queue>>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Queue {
    turn: Arc<Semaphore>,
    /// The check that has not begun yet.
    next: Option<watch::Receiver<Option<Outcome>>>,
}

impl Checks {
    pub(super) fn new(tasks: TaskTracker) -> Checks {
        Checks { queues: Arc::default(), tasks }
    }

    /// What the server at this address says of itself, asked no earlier than this call.
    pub(super) async fn check(&self, at: SocketAddr, endpoint: &Endpoint) -> Outcome {
        let mut outcome = self.join(at, endpoint);
        match outcome.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err("the check gave nothing".into())),
            Err(_) => Err("the check was given up".into()),
        }
    }

    fn join(&self, at: SocketAddr, endpoint: &Endpoint) -> watch::Receiver<Option<Outcome>> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues.entry(at).or_insert_with(|| Queue { turn: Arc::new(Semaphore::new(1)), next: None });
        if let Some(next) = &queue.next {
            return next.clone();
        }
        let (sender, receiver) = watch::channel(None);
        queue.next = Some(receiver.clone());
        let turn = Arc::clone(&queue.turn);
        let checks = self.clone();
        let endpoint = endpoint.clone();
        // Ends by itself: each check before it has a deadline, and there is at most one.
        self.tasks.spawn(async move {
            let _turn = turn.acquire().await;
            checks.begins(at);
            let outcome = tokio::time::timeout(CHECK_TIMEOUT, ask(at, &endpoint)).await;
            sender.send_replace(Some(match outcome {
                Ok(Ok(outcome)) => outcome.map(Arc::new).map_err(Arc::from),
                Ok(Err(error)) => Err(format!("the check of {at} failed: {error}").into()),
                Err(_) => Err(format!("the check of {at} got no answer within {CHECK_TIMEOUT:?}").into()),
            }));
        });
        receiver
    }

    /// Whoever comes from now on needs a later check.
    fn begins(&self, at: SocketAddr) {
        if let Some(queue) = self.queues.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&at) {
            queue.next = None;
        }
    }
}

async fn ask(at: SocketAddr, endpoint: &Endpoint) -> io::Result<Result<ServerInfo, String>> {
    let mut stream = TcpStream::connect(at).await?;
    stream.set_nodelay(true)?;
    let mut requests = Vec::new();
    let mut replies = 0;
    if let Some(password) = &endpoint.password {
        let user = endpoint.user.as_deref();
        let words: Vec<&str> = ["AUTH"].into_iter().chain(user).chain([password.expose()]).collect();
        requests.extend(encode::request(&words));
        replies += 1;
    }
    // Servers before 7.0 take one section at a time.
    for section in ["server", "persistence", "replication"] {
        requests.extend(encode::request(&["INFO", section]));
        replies += 1;
    }
    stream.write_all(&requests).await?;
    let mut text = String::new();
    let mut refused_login = None;
    let mut framer = ReplyFramer::default();
    let mut buffer = BytesMut::new();
    let mut framed = 0;
    while replies > 0 {
        if buffer.len() > REPLY_BYTES_MAX || stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while framed < buffer.len() {
            let fed = framer.feed(&buffer[framed..]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            framed += fed.used;
            if fed.ended.is_none() {
                continue;
            }
            let reply = String::from_utf8_lossy(&buffer.split_to(framed)).into_owned();
            framed = 0;
            replies -= 1;
            match reply.strip_prefix('-') {
                // A server without a password refuses AUTH and then answers all the same, so only INFO counts.
                Some(error) if replies == 3 => refused_login = Some(error.trim_end().to_owned()),
                Some(error) => return Ok(Err(refused_login.unwrap_or_else(|| error.trim_end().to_owned()))),
                None => text.push_str(&reply),
            }
        }
    }
    Ok(Ok(ServerInfo::parse(&text)))
}

/// For connecting and asking. A server that takes longer cannot serve within a park either.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Three sections of INFO are a few KiB.
const REPLY_BYTES_MAX: usize = 256 * 1024;
