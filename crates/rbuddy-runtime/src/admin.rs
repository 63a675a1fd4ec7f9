//! One connection to a server, for questions and orders.
//!
//! Promises: every call has a deadline; an error says whether the order may have been carried out ([`AdminError::outcome_unknown`]);
//! it never reconnects by itself, so what is sent through one connection reaches one process. Not here: what to ask, and when to
//! dial again.

use crate::settings::Endpoint;
use rbuddy_core::info::ServerInfo;
use rbuddy_core::types::NodeAddress;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError, Value};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// A connection that is logged in. Calls may run side by side; answers come in the order of the calls.
#[derive(Debug)]
pub struct AdminConnection {
    address: NodeAddress,
    connection: MultiplexedConnection,
    timeout: Duration,
    /// Moves the bytes. Aborted with us: a server that does not answer must not keep a task alive.
    _driver: AbortOnDropHandle<()>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// No connection was made: nothing was sent.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// Whom.
        address: NodeAddress,
        /// Refused, no route, no such name, no answer in time.
        reason: String,
    },
    /// No answer in time. What was sent may still be carried out.
    #[error("{address} did not answer within {waited:?}")]
    Timeout {
        /// Who.
        address: NodeAddress,
        /// The deadline.
        waited: Duration,
    },
    /// The connection ended, or spoke nonsense, while an answer was awaited.
    #[error("the connection to {address} was lost: {reason}")]
    Lost {
        /// Whose.
        address: NodeAddress,
        /// How.
        reason: String,
    },
    /// `-LOADING`: nothing was done.
    #[error("{address} is loading its dataset")]
    Loading {
        /// Who.
        address: NodeAddress,
    },
    /// The login, or its permissions: nothing was done.
    #[error("{address} denies it: {reason}")]
    Denied {
        /// Who.
        address: NodeAddress,
        /// In the server's words.
        reason: String,
    },
    /// Any other error answer: nothing was done.
    #[error("{address} refuses: {reason}")]
    Refused {
        /// Who.
        address: NodeAddress,
        /// In the server's words.
        reason: String,
    },
}

impl AdminError {
    /// Whether the order may have been carried out all the same. Look at the server before anything else is decided.
    pub fn outcome_unknown(&self) -> bool {
        match self {
            AdminError::Timeout { .. } | AdminError::Lost { .. } => true,
            AdminError::Unreachable { .. } | AdminError::Loading { .. } | AdminError::Denied { .. } | AdminError::Refused { .. } => false,
        }
    }
}

impl AdminConnection {
    /// Connects and logs in; `timeout` is also the deadline of each later call.
    pub async fn open(endpoint: &Endpoint, timeout: Duration) -> Result<AdminConnection, AdminError> {
        // RESP2 and no CLIENT SETINFO: the library then sends nothing of its own, which also old servers and strict ACLs bear.
        let nothing_of_its_own = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP2).set_skip_set_lib_name();
        let connection = AdminConnection::connect(endpoint, timeout, nothing_of_its_own, AsyncConnectionConfig::new()).await?;
        connection.log_in(endpoint).await?;
        Ok(connection)
    }

    /// Connects, logs in and listens to channels (6.0 and newer). `heard` gets each message, and `None` when the connection is lost.
    pub async fn subscribe(
        endpoint: &Endpoint,
        timeout: Duration,
        channels: &[&str],
        heard: impl Fn(Option<&str>) + Send + Sync + 'static,
    ) -> Result<AdminConnection, AdminError> {
        // Messages arrive beside answers in RESP3 only, and HELLO takes the login along.
        let mut login = RedisConnectionInfo::default().set_protocol(ProtocolVersion::RESP3).set_skip_set_lib_name();
        if let Some(password) = &endpoint.password {
            login = login.set_username(endpoint.user.as_deref().unwrap_or("default")).set_password(password.expose());
        }
        let config = AsyncConnectionConfig::new().set_push_sender(move |push: PushInfo| {
            if push.kind == PushKind::Disconnection {
                heard(None);
            } else if push.kind == PushKind::Message
                && let Some(message) = push.data.last().and_then(text)
            {
                heard(Some(&message));
            }
            Ok::<(), redis::aio::SendError>(())
        });
        let connection = AdminConnection::connect(endpoint, timeout, login, config).await?;
        let mut subscriber = connection.connection.clone();
        match tokio::time::timeout(timeout, subscriber.subscribe(channels)).await {
            Ok(Ok(())) => Ok(connection),
            Ok(Err(error)) => Err(connection.lost(&error)),
            Err(_) => Err(AdminError::Timeout { address: connection.address.clone(), waited: timeout }),
        }
    }

    async fn connect(
        endpoint: &Endpoint,
        timeout: Duration,
        login: RedisConnectionInfo,
        config: AsyncConnectionConfig,
    ) -> Result<AdminConnection, AdminError> {
        let address = endpoint.address.clone();
        let unreachable = |reason: String| AdminError::Unreachable { address: address.clone(), reason };
        let dialled = tokio::time::timeout(timeout, TcpStream::connect((address.host.as_str(), address.port))).await;
        let stream = match dialled {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(unreachable(format!("no answer within {timeout:?}"))),
        };
        stream.set_nodelay(true).map_err(|error| unreachable(error.to_string()))?;
        // When we give up on a connection, or die, what the kernel has not delivered yet must die with it: an order that arrives minutes later
        // could empty a replica that serves by then.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).map_err(|error| unreachable(error.to_string()))?;
        // Deadlines are ours: the library's default of half a second would cut an order short.
        let config = config.set_connection_timeout(None).set_response_timeout(None);
        let connecting = tokio::time::timeout(timeout, MultiplexedConnection::new_with_config(&login, stream, config)).await;
        let connecting = connecting.map_err(|_| AdminError::Timeout { address: address.clone(), waited: timeout })?;
        let (connection, driver) = connecting.map_err(|error| unreachable(error.to_string()))?;
        let driver = AbortOnDropHandle::new(tokio::spawn(driver));
        Ok(AdminConnection { address, connection, timeout, _driver: driver })
    }

    /// The server.
    pub fn address(&self) -> &NodeAddress {
        &self.address
    }

    /// What the server says of itself. All that [`ServerInfo`] knows is in the default sections.
    pub async fn info(&self) -> Result<ServerInfo, AdminError> {
        let answer = self.command(&["INFO"]).await?;
        text(&answer).map(|text| ServerInfo::parse(&text)).ok_or_else(|| self.nonsense())
    }

    /// One parameter; `None` where the server does not know it.
    pub async fn config_get(&self, name: &str) -> Result<Option<String>, AdminError> {
        let Value::Array(pair) = self.command(&["CONFIG", "GET", name]).await? else { return Err(self.nonsense()) };
        match pair.as_slice() {
            [] => Ok(None),
            [..] => pair.get(1).and_then(text).map(Some).ok_or_else(|| self.nonsense()),
        }
    }

    /// This connection's id at the server (5.0 and newer), by which it can be killed.
    pub async fn client_id(&self) -> Result<i64, AdminError> {
        let Value::Int(id) = self.command(&["CLIENT", "ID"]).await? else { return Err(self.nonsense()) };
        Ok(id)
    }

    /// Any command. An error answer is an error.
    pub async fn command(&self, args: &[&str]) -> Result<Value, AdminError> {
        let mut answers = self.pipeline(&[args]).await?;
        answers.pop().unwrap_or_else(|| Err(self.nonsense()))
    }

    /// Several commands in one write, so that they arrive together or not at all; their answers in order. The outer error is the
    /// connection's: then no single outcome is known. Errors *inside* the answer to `EXEC` are its elements ([`Value::ServerError`]).
    pub async fn pipeline(&self, commands: &[&[&str]]) -> Result<Vec<Result<Value, AdminError>>, AdminError> {
        let mut pipeline = redis::Pipeline::with_capacity(commands.len());
        for args in commands {
            let mut command = redis::Cmd::new();
            for arg in *args {
                command.arg(arg);
            }
            pipeline.add_command(command);
        }
        let mut connection = self.connection.clone();
        let answers = connection.send_packed_commands(&pipeline, 0, commands.len());
        let answers = match tokio::time::timeout(self.timeout, answers).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(self.lost(&error)),
            Err(_) => return Err(AdminError::Timeout { address: self.address.clone(), waited: self.timeout }),
        };
        Ok(answers.into_iter().map(|answer| self.judge(answer)).collect())
    }

    async fn log_in(&self, endpoint: &Endpoint) -> Result<(), AdminError> {
        let Some(password) = &endpoint.password else { return Ok(()) };
        let mut args = vec!["AUTH"];
        args.extend(endpoint.user.as_deref());
        args.push(password.expose());
        match self.command(&args).await {
            Ok(_) => Ok(()),
            // Servers before 6.0 have no code of its own for a wrong password, and none has one for a password too many.
            Err(AdminError::Refused { address, reason }) => Err(AdminError::Denied { address, reason }),
            Err(error) => Err(error),
        }
    }

    fn judge(&self, answer: Value) -> Result<Value, AdminError> {
        let Value::ServerError(error) = answer else { return Ok(answer) };
        let address = self.address.clone();
        let reason = match error.details() {
            Some(details) => format!("{} {details}", error.code()),
            None => error.code().to_owned(),
        };
        Err(match error.code() {
            "LOADING" => AdminError::Loading { address },
            "NOAUTH" | "WRONGPASS" | "NOPERM" | "DENIED" => AdminError::Denied { address, reason },
            _ => AdminError::Refused { address, reason },
        })
    }

    fn lost(&self, error: &RedisError) -> AdminError {
        let address = self.address.clone();
        if error.is_timeout() {
            return AdminError::Timeout { address, waited: self.timeout };
        }
        AdminError::Lost { address, reason: error.to_string() }
    }

    fn nonsense(&self) -> AdminError {
        AdminError::Lost { address: self.address.clone(), reason: "it gave an answer of another kind".to_owned() }
    }
}

/// A text answer, bytes that are no UTF-8 replaced.
#[expect(clippy::wildcard_enum_match_arm, reason = "the library's enum; whatever else an answer may be, it is no text")]
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => Some(text.clone()),
        Value::Okay => Some("OK".to_owned()),
        _ => None,
    }
}
