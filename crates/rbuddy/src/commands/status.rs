//! `rbuddy status`: a group at a glance. What is wrong, and what to do, stands above the table.

use super::client::{Api, ApiArgs, groups};
use crate::exit::{Exit, Failure};
use crate::out;
use clap::Args;
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use jiff::{Timestamp, tz::TimeZone};
use rbuddy_core::control::primary::PrimarySource;
use rbuddy_core::control::relay::{SessionState, UpstreamState, UpstreamView};
use rbuddy_core::control::status::{GroupStatus, ReplicaStatus};
use rbuddy_core::types::{Position, Time};

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// Everything as JSON, as GET /v1/status sends it
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: &StatusArgs) -> Result<(), Failure> {
    let mut status = Api::open(&args.api)?.status().await?;
    if let (Some(wanted), Some(list)) = (&args.api.group, status["groups"].as_array_mut()) {
        list.retain(|group| group["group"] == wanted.as_str());
        if list.is_empty() {
            return Err(Failure::new(Exit::Usage, format!("there is no group {wanted}")));
        }
    }
    if args.json {
        out::result(&format!("{status:#}"));
        return Ok(());
    }
    let rendered: Vec<String> = groups(&status)?.iter().map(render).collect();
    out::result(&rendered.join("\n\n"));
    Ok(())
}

fn render(status: &GroupStatus) -> String {
    let paused = if status.paused { ", paused" } else { "" };
    let mut lines = vec![
        format!("group {}: {}{paused}, generation {}, {}", status.group, status.phase, status.generation, clock_time(status.time)),
        format!("  {}", status.explanation),
        primary(status),
        upstream(&status.upstream, status.position.as_ref()),
    ];
    if let Some(snapshot) = &status.snapshot {
        let total = snapshot.total_bytes.map_or("?".to_owned(), bytes);
        lines.push(format!("  snapshot {}: {} of {total}", snapshot.dataset, bytes(snapshot.bytes)));
    }
    if let Some(error) = &status.backlog.disk_error {
        lines.push(format!("  the relay's disk does not take the stream, which is tried again: {error}"));
    }
    if let Some(refusal) = &status.refusal {
        lines.push(format!("  REFUSED dataset {}: {}", refusal.dataset, refusal.reason));
        lines.push(format!("  → {}", refusal.remedy));
    }
    if !status.undelivered.is_empty() {
        lines.push(format!("  {} webhook messages are not delivered yet", status.undelivered.len()));
    }
    lines.push(replicas(&status.replicas));
    lines.join("\n")
}

fn primary(status: &GroupStatus) -> String {
    let primary = &status.primary;
    let version = primary.version.map(|version| format!(", {version}")).unwrap_or_default();
    let keys = primary.keys.map(|keys| format!(", {keys} keys")).unwrap_or_default();
    let note = primary.note.as_ref().map(|note| format!("\n  {note}")).unwrap_or_default();
    let Some(address) = &primary.address else { return format!("  primary: no Sentinel has named it yet{note}") };
    let source = match primary.source {
        PrimarySource::Configured => String::new(),
        source @ (PrimarySource::Sentinels | PrimarySource::ToldRelay | PrimarySource::Operator) => format!(" ({source})"),
    };
    match &primary.error {
        Some(error) if !primary.reachable => format!("  primary {address}{source}: {error}{note}"),
        Some(_) | None if !primary.reachable => format!("  primary {address}{source}: not reachable{note}"),
        Some(_) | None => format!("  primary {address}{source}{version}{keys}{note}"),
    }
}

fn upstream(upstream: &UpstreamView, position: Option<&Position>) -> String {
    let state = match upstream.state {
        UpstreamState::Idle => "idle",
        UpstreamState::Connecting => "connecting",
        UpstreamState::Handshake => "handshake",
        UpstreamState::ReceivingSnapshot => "receiving a snapshot",
        UpstreamState::Streaming => "streaming",
    };
    let since = upstream.down_since.map(|since| format!(", down since {}", clock_time(since))).unwrap_or_default();
    let error =
        upstream.last_error.as_ref().filter(|_| upstream.down_since.is_some()).map(|error| format!(": {error}")).unwrap_or_default();
    let at = position.map(|position| format!(" at {}", short(position))).unwrap_or_default();
    let resyncs = format!("{} full and {} partial resyncs", upstream.full_resyncs, upstream.partial_resyncs);
    format!("  upstream {state}{at}{since}{error}; {resyncs}")
}

fn replicas(replicas: &[ReplicaStatus]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(["replica", "role", "state", "version", "position", "behind", "keys", "note"]);
    for replica in replicas {
        table.add_row([
            replica.address.to_string(),
            replica.role.to_string(),
            state(replica),
            replica.version.map(|version| version.to_string()).unwrap_or_default(),
            replica.position.as_ref().map(short).unwrap_or_default(),
            replica.lag_bytes.map(bytes).unwrap_or_default(),
            replica.keys.map(|keys| keys.to_string()).unwrap_or_default(),
            replica.note.clone().unwrap_or_default(),
        ]);
    }
    for column in [5, 6] {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn state(replica: &ReplicaStatus) -> String {
    if !replica.reachable {
        return "unreachable".to_owned();
    }
    match &replica.session {
        Some(SessionState::Held(_)) => "held".to_owned(),
        Some(SessionState::Seeding { sent_bytes, total_bytes, .. }) => {
            format!("seeding {}%", sent_bytes.saturating_mul(100).checked_div(*total_bytes).unwrap_or(0))
        }
        Some(SessionState::Loading { .. }) => "loading".to_owned(),
        None | Some(SessionState::Streaming { .. }) if replica.loading => "loading".to_owned(),
        Some(SessionState::Streaming { .. }) => "streaming".to_owned(),
        None => "not connected".to_owned(),
    }
}

/// The first digits of the id are enough for people; `--json` has all.
fn short(position: &Position) -> String {
    format!("{}:{}", position.replid.short(), position.offset)
}

fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        1024..1_048_576 => format!("{:.1} KiB", count as f64 / 1024.0),
        1_048_576..1_073_741_824 => format!("{:.1} MiB", count as f64 / 1_048_576.0),
        1_073_741_824.. => format!("{:.1} GiB", count as f64 / 1_073_741_824.0),
    }
}

fn clock_time(time: Time) -> String {
    let ms = i64::try_from(time.unix_ms()).unwrap_or(i64::MAX);
    let stamp = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX);
    stamp.to_zoned(TimeZone::system()).strftime("%F %T").to_string()
}
