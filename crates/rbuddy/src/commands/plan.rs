//! `rbuddy plan`: what would happen now. The controller's own answer, in words; nothing is computed here.

use super::client::{Api, ApiArgs};
use crate::exit::Failure;
use crate::out;
use anyhow::Context;
use clap::Args;
use rbuddy_core::control::plan::{LinkBreaks, NewPrimary, Outlook, Plan, Room};
use rbuddy_core::types::NodeAddress;

#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    api: ApiArgs,
    /// Everything as JSON, as GET /v1/groups/GROUP/plan sends it
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: &PlanArgs) -> Result<(), Failure> {
    let answer = Api::open(&args.api)?.plan(&args.api).await?;
    if args.json {
        out::result(&format!("{answer:#}"));
        return Ok(());
    }
    let plan: Plan = serde_json::from_value(answer).context("read the answer of another version of rbuddy")?;
    out::result(&render(&plan));
    Ok(())
}

fn render(plan: &Plan) -> String {
    let mut lines = vec![format!("group {}: what would happen now, if", plan.group)];
    lines.push("the link to the primary broke:".into());
    lines.push(format!("  {}", resync(&plan.link_breaks)));
    lines.extend(outlook(&plan.link_breaks.outlook));
    lines.push("the primary came back with as many keys and another history:".into());
    lines.push(format!("  {}", filling(&plan.new_primary)));
    if plan.new_primary.full_resync {
        lines.push(format!("  {}", storing(&plan.new_primary)));
        lines.push(format!("  {}", duration(&plan.new_primary)));
    }
    lines.extend(outlook(&plan.new_primary.outlook));
    for (replica, then) in &plan.replica_dies {
        lines.push(format!("{replica} died:"));
        lines.extend(outlook(then));
    }
    lines.join("\n")
}

fn resync(plan: &LinkBreaks) -> String {
    let Some(backlog) = plan.backlog_bytes else { return "the primary's backlog was not seen".into() };
    match (plan.partial_for_s, plan.bytes_per_second) {
        (Some(seconds), Some(rate)) => {
            format!(
                "a break of up to {seconds} s costs a partial resync only: the primary keeps {backlog} bytes and writes {rate} a second"
            )
        }
        (None, Some(_)) => {
            format!("a partial resync only, however long it lasts, while nothing is written; the primary keeps {backlog} bytes")
        }
        (_, None) => format!("the primary keeps {backlog} bytes; how fast it writes is not measured yet"),
    }
}

fn filling(plan: &NewPrimary) -> String {
    if !plan.full_resync {
        return "no full resync would be asked for".into();
    }
    let Some(filled) = &plan.filled else { return "a full resync; nobody would be filled with it".into() };
    match plan.memory {
        Some(room) => {
            let Room { needed_bytes, available_bytes, .. } = room;
            format!(
                "a full resync; {filled} would be filled: {needed_bytes} bytes are needed, it may use {available_bytes}, {}",
                word(room)
            )
        }
        None => format!("a full resync; {filled} would be filled; whether it has the memory is not known"),
    }
}

fn storing(plan: &NewPrimary) -> String {
    match plan.disk {
        Some(room) => {
            let Room { needed_bytes, available_bytes, .. } = room;
            format!("the snapshot needs about {needed_bytes} bytes on the relay's disk, {available_bytes} are to be had, {}", word(room))
        }
        None => "whether the relay's disk has room for the snapshot is not known".into(),
    }
}

fn word(room: Room) -> &'static str {
    if room.suffices { "enough" } else { "NOT ENOUGH" }
}

fn duration(plan: &NewPrimary) -> String {
    let time = |ms: Option<u64>| ms.map_or("not measured yet".to_owned(), |ms| format!("about {:.1} s", ms as f64 / 1000.0));
    format!(
        "until the snapshot is stored: {}; from there until it is loaded and followed: {}",
        time(plan.storing_ms),
        time(plan.filling_ms)
    )
}

fn outlook(then: &Outlook) -> Vec<String> {
    let served_by = then.served_by.iter().map(NodeAddress::to_string).collect::<Vec<_>>().join(", ");
    let served_by = if served_by.is_empty() { "nobody would serve".to_owned() } else { format!("{served_by} would serve") };
    vec![format!("  {served_by}"), format!("  {}: {}", then.phase, then.explanation)]
}
