//! The table at the end, and the verdict.

use super::stage::Tallies;
use comfy_table::{CellAlignment, Table, presets};
use rbuddy_lab::Tally;
use std::time::Duration;

/// What the steps came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    rows: Vec<Row>,
    has_failed: bool,
}

#[derive(Debug)]
struct Row {
    step: &'static str,
    readers: &'static str,
    tally: Tally,
    fresh_after: Option<Duration>,
    full_resyncs: Option<u64>,
}

impl Report {
    /// What readers saw in a step, when each kind read fresh data first, and how many full resyncs the primary paid for.
    pub(crate) fn add(&mut self, step: &'static str, seen: Tallies, fresh_after: Option<(Duration, Duration)>, full_resyncs: Option<u64>) {
        let (fresh_endpoint, fresh_asking) = fresh_after.unzip();
        self.rows.push(Row { step, readers: "reader endpoint", tally: seen.endpoint, fresh_after: fresh_endpoint, full_resyncs });
        self.rows.push(Row { step: "", readers: "GET /active", tally: seen.asking, fresh_after: fresh_asking, full_resyncs: None });
    }

    /// A step did not go as it must.
    pub(crate) fn fails(&mut self) {
        self.has_failed = true;
    }

    /// Every step went as it must, and no read failed, was nil or wrong.
    pub(crate) fn is_success(&self) -> bool {
        !self.has_failed && !self.rows.is_empty() && self.rows.iter().all(|row| row.tally.ok > 0 && row.tally.is_clean())
    }

    /// For people.
    pub(crate) fn render(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::ASCII_MARKDOWN);
        table.set_header(["step", "readers", "reads", "failed", "wrong", "longest gap", "fresh data after", "full resyncs paid"]);
        for column in table.column_iter_mut().skip(2) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        for row in &self.rows {
            table.add_row([
                row.step.to_owned(),
                row.readers.to_owned(),
                row.tally.ok.to_string(),
                row.tally.failed.to_string(),
                (row.tally.wrong + row.tally.nil).to_string(),
                format!("{} ms", row.tally.longest_gap.as_millis()),
                row.fresh_after.map(|after| format!("{:.1} s", after.as_secs_f64())).unwrap_or_default(),
                row.full_resyncs.map(|count| count.to_string()).unwrap_or_default(),
            ]);
        }
        let complaints = self.rows.iter().flat_map(|row| &row.tally.complaints).take(10).map(|complaint| format!("\n  {complaint}"));
        let verdict = if self.is_success() { "No read failed, none was wrong." } else { "NOT as it must be." };
        format!("\n{table}\n\n{verdict}{}", complaints.collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn tally(ok: u64, failed: u64, nil: u64) -> Tally {
        let gap = Duration::from_millis(7);
        Tally {
            ok,
            failed,
            nil,
            wrong: 0,
            moves: 0,
            longest_gap: gap,
            longest_gap_of_one: gap,
            p50: gap,
            p99: gap,
            slowest: gap,
            first_read: BTreeMap::new(),
            complaints: Vec::new(),
        }
    }

    #[test]
    fn success_wants_reads_and_not_one_failure() {
        let with = |endpoint, asking| {
            let mut report = Report::default();
            report.add("1", Tallies { endpoint, asking }, None, Some(0));
            report
        };
        assert!(with(tally(10, 0, 0), tally(10, 0, 0)).is_success());
        assert!(!with(tally(10, 1, 0), tally(10, 0, 0)).is_success());
        assert!(!with(tally(10, 0, 0), tally(10, 0, 1)).is_success());
        assert!(!with(tally(10, 0, 0), tally(0, 0, 0)).is_success());
        assert!(!Report::default().is_success(), "nothing was shown");
        let mut report = with(tally(10, 0, 0), tally(10, 0, 0));
        report.fails();
        assert!(!report.is_success());
        assert!(report.render().contains("NOT as it must be"));
    }
}
