//! A section's table and its bars, as Markdown.

use std::fmt::Write;

/// What a section came to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    title: String,
    notes: Vec<String>,
    tables: Vec<Table>,
    bars: Vec<Bar>,
}

#[derive(Debug)]
struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug)]
struct Bar {
    what: String,
    bar: String,
    measured: String,
    verdict: Verdict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Met,
    Missed,
    /// What it is compared with was not there, or no number is asked for.
    Open,
}

impl From<bool> for Verdict {
    fn from(is_met: bool) -> Verdict {
        if is_met { Verdict::Met } else { Verdict::Missed }
    }
}

impl Report {
    pub(crate) fn new(title: impl Into<String>) -> Report {
        Report { title: title.into(), ..Report::default() }
    }

    /// What one must know to read the figures.
    pub(crate) fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Begins a table.
    pub(crate) fn table<const COLUMNS: usize>(&mut self, head: [&str; COLUMNS]) {
        self.tables.push(Table { head: head.map(str::to_owned).to_vec(), rows: Vec::new() });
    }

    /// Adds a row to the last table.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        if let Some(table) = self.tables.last_mut() {
            table.rows.push(cells.into_iter().collect());
        }
    }

    /// Holds a figure against its bar.
    pub(crate) fn bar(
        &mut self,
        what: impl Into<String>,
        bar: impl Into<String>,
        measured: impl Into<String>,
        verdict: impl Into<Verdict>,
    ) {
        self.bars.push(Bar { what: what.into(), bar: bar.into(), measured: measured.into(), verdict: verdict.into() });
    }

    pub(crate) fn render(&self) -> String {
        let mut text = format!("## {}\n", self.title);
        for note in &self.notes {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n{note}\n");
        }
        for table in &self.tables {
            text.push('\n');
            text.push_str(&render(&table.head, &table.rows));
        }
        if !self.bars.is_empty() {
            let head = ["what", "bar", "measured", "met"].map(str::to_owned);
            let rows: Vec<Vec<String>> = self.bars.iter().map(Bar::cells).collect();
            text.push('\n');
            text.push_str(&render(&head, &rows));
        }
        text
    }
}

impl Bar {
    fn cells(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Verdict::Met => "yes",
            Verdict::Missed => "**no**",
            Verdict::Open => "–",
        };
        vec![self.what.clone(), self.bar.clone(), self.measured.clone(), verdict.to_owned()]
    }
}

/// Columns are as wide as they need to be, so that it reads well as it is too. The first one names things, the others hold figures.
fn render(head: &[String], rows: &[Vec<String>]) -> String {
    let lines = || std::iter::once(head).chain(rows.iter().map(Vec::as_slice));
    let cell_width = |line: &[String], column: usize| line.get(column).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = (0..head.len()).map(|column| lines().map(|line| cell_width(line, column)).max().unwrap_or(0).max(3)).collect();
    let mut text = String::new();
    for (number, line) in lines().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell:<width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            widths.iter().for_each(|width| text.push_str(&format!("| {} ", "-".repeat(*width))));
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown_and_bars_say_whether_they_are_met() {
        let mut report = Report::new("thing");
        report.note("A word.");
        report.table(["way", "s"]);
        report.row(["direct".to_owned(), "1.0".to_owned()]);
        report.bar("ratio", "≤ 1.15", "1.20", 1.20 <= 1.15);
        report.bar("other", "≤ 2", "1", true);
        report.bar("third", "≤ the pipe's", "1", Verdict::Open);
        let expected = "## thing\n\nA word.\n\n\
            | way    | s   |\n| ------ | --- |\n| direct | 1.0 |\n\n\
            | what  | bar          | measured | met    |\n| ----- | ------------ | -------- | ------ |\n\
            | ratio | ≤ 1.15       | 1.20     | **no** |\n| other | ≤ 2          | 1        | yes    |\n\
            | third | ≤ the pipe's | 1        | –      |\n";
        assert_eq!(report.render(), expected);
    }
}
