//! What `rbuddy init` writes: a configuration that runs after the addresses are filled in, with every key that is often changed.

/// The text. A test proves that it parses without a word of complaint.
pub(crate) const TEMPLATE: &str = r#"# rbuddy's configuration. Every key with its unit, range and default: docs/configuration.md
# `rbuddy check --config FILE` names every mistake and looks at the servers; it changes nothing.

state_dir = "/var/lib/rbuddy"         # state, snapshots, lock: room for one snapshot and the stream beside it

[api]
listen = "127.0.0.1:9999"             # GET /active, GET /v1/status; elsewhere than on loopback it needs a token
# token = "…"                         # operations then need `Authorization: Bearer …`; or RBUDDY_TOKEN for the command line

[groups.main]
# The server that takes the writes. rbuddy reads from it and never changes anything there.
primary = "redis://127.0.0.1:6379"    # redis://user:password@host:port if it wants a login
# primary = { sentinel = ["127.0.0.1:26379"], name = "mymaster" }    # instead, if Sentinels decide which server that is

# The servers that rbuddy manages: it tells them whom to follow, and empties the one that is to be filled anew.
replicas = ["redis://127.0.0.1:6380", "redis://127.0.0.1:6381"]

# Where replicas connect to instead of the primary.
relay = { listen = "127.0.0.1:6382", backlog = "64MiB" }
# announce = "HOST:PORT" inside `relay`, if replicas see it under another address than `listen`
# auth = "password"      inside `relay`: what replicas must say (their masterauth); default: the primary's login

# One stable redis:// address for applications that only read. Remove it if they ask GET /active.
reader = { listen = "127.0.0.1:6390" }

standby = "empty"                     # a standby costs no memory until it is needed; "warm": all replicas serve
drain   = "10s"                       # how long readers have to leave the old active
max_lag = { bytes = "1MiB", time = "2s" }              # a standby further behind is not promoted
guard   = { min_keys_ratio = 0.5, min_keys = 1000 }    # a dataset that shrank below half waits for `rbuddy approve`

# Told about each change of the active: POST host=..&port=..; format = "json" for more.
# notify = [{ url = "http://localhost:8002/failover" }]
"#;
