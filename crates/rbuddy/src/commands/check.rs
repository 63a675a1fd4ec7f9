//! `rbuddy check`: the configuration first, then the servers. Writes nothing anywhere.

use super::load;
use crate::config::{self, ConfigError};
use crate::exit::{Exit, Failure};
use crate::out;
use clap::Args;
use rbuddy_core::types::NodeAddress;
use rbuddy_runtime::check::{Finding, Severity, check};
use serde_json::json;
use std::path::PathBuf;

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration
    #[arg(long, short, value_name = "FILE")]
    config: PathBuf,
    /// Everything as JSON on stdout: an object with `config` (lines) and `findings` (objects)
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(args: &CheckArgs) -> Result<(), Failure> {
    let loaded = if args.json { load_as_json(args)? } else { load(&args.config)? };
    let findings = check(&loaded.settings).await;
    if args.json {
        out::result(&json!({ "config": loaded.remarks.lines(), "findings": findings }).to_string());
    } else {
        out::result(&render(&findings));
        out::result(&sum(&findings));
    }
    if findings.iter().any(|finding| finding.severity == Severity::Error) {
        return Err(Failure::said(Exit::Refused));
    }
    Ok(())
}

fn load_as_json(args: &CheckArgs) -> Result<config::Loaded, Failure> {
    config::load(&args.config).map_err(|error| match error {
        ConfigError::Wrong(problems) => {
            out::result(&json!({ "config": problems.lines(), "findings": [] }).to_string());
            Failure::said(Exit::Usage)
        }
        read @ ConfigError::Read { .. } => Failure { exit: Exit::Usage, error: Some(read.into()) },
    })
}

/// By group and server, in the order of the findings, remedies below.
pub(super) fn render(findings: &[Finding]) -> String {
    let mut lines: Vec<String> = Vec::new();
    for (at, finding) in findings.iter().enumerate() {
        if findings[..at].iter().any(|earlier| place(earlier) == place(finding)) {
            continue;
        }
        lines.push(title(finding));
        for finding in findings.iter().filter(|other| place(other) == place(finding)) {
            lines.push(format!("  {:<8} {}", finding.severity, finding.message));
            lines.extend(finding.remedy.iter().map(|remedy| format!("           → {remedy}")));
        }
    }
    lines.join("\n")
}

fn place(finding: &Finding) -> (&str, Option<&NodeAddress>) {
    (finding.group.as_str(), finding.server.as_ref())
}

fn title(finding: &Finding) -> String {
    match &finding.server {
        Some(server) => format!("{} {server}", finding.group),
        None => format!("{}", finding.group),
    }
}

fn sum(findings: &[Finding]) -> String {
    let count = |severity: Severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let counted = |severity: Severity| format!("{} {severity}{}", count(severity), if count(severity) == 1 { "" } else { "s" });
    format!("{}, {}, {}; nothing was changed", counted(Severity::Error), counted(Severity::Warning), counted(Severity::Note))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rbuddy_runtime::check::Topic;

    #[test]
    fn findings_stand_under_their_server_with_a_remedy() {
        let finding = |severity, port, message: &str, remedy: Option<&str>| Finding {
            severity,
            group: "main".parse().expect("a name"),
            server: Some(NodeAddress::new("h", port)),
            topic: Topic::Role,
            message: message.to_owned(),
            remedy: remedy.map(str::to_owned),
        };
        let findings = [
            finding(Severity::Error, 1, "is a Sentinel", Some("remove it")),
            finding(Severity::Ok, 2, "is well", None),
            finding(Severity::Note, 1, "is odd", None),
        ];
        let expected = "\
main h:1
  error    is a Sentinel
           → remove it
  note     is odd
main h:2
  ok       is well";
        assert_eq!(render(&findings), expected);
        assert_eq!(sum(&findings), "1 error, 0 warnings, 1 note; nothing was changed");
    }
}
