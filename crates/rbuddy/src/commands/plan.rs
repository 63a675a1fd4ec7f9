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
        Some(Room { needed_bytes, available_bytes, suffices }) => {
            let word = if suffices { "enough" } else { "NOT ENOUGH" };
            format!("a full resync; {filled} would be filled: {needed_bytes} bytes are needed, it may use {available_bytes}, {word}")
        }
        None => format!("a full resync; {filled} would be filled; whether it has the memory is not known"),
    }
}

fn outlook(then: &Outlook) -> Vec<String> {
    let served_by = then.served_by.iter().map(NodeAddress::to_string).collect::<Vec<_>>().join(", ");
    let served_by = if served_by.is_empty() { "nobody would serve".to_owned() } else { format!("{served_by} would serve") };
    vec![format!("  {served_by}"), format!("  {}: {}", then.phase, then.explanation)]
}
