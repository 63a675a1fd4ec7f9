//! What is wrong with a configuration, and how it is shown: file, line, column, the line itself, a remedy.
//!
//! Promise: no password, token or webhook path is ever shown (see [`super::redact`]). Not here: finding problems.

use super::redact;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::fmt;
use std::ops::Range;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Severity {
    /// Worth knowing.
    Note,
    /// Works, but likely not as meant.
    Warning,
    /// rbuddy does not start with it.
    Error,
}

/// One thing about a place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) severity: Severity,
    /// Bytes of the text.
    pub(crate) span: Range<usize>,
    pub(crate) message: String,
    pub(crate) remedy: Option<String>,
}

/// All that was found in one file, in the order of the file.
#[derive(Debug, Clone)]
pub(crate) struct Problems {
    file: String,
    /// The text with every secret masked, byte for byte, so that spans still fit.
    text: String,
    list: Vec<Problem>,
}

impl Problems {
    /// Nothing yet.
    pub(crate) fn new(file: &str, text: &str) -> Problems {
        Problems { file: file.to_owned(), text: redact::redact(text), list: Vec::new() }
    }

    /// rbuddy cannot start with this.
    pub(crate) fn error(&mut self, span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Error, span, message.into(), remedy.into());
    }

    /// It can, but somebody should look.
    pub(crate) fn warning(&mut self, span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Warning, span, message.into(), remedy.into());
    }

    /// Worth knowing.
    pub(crate) fn note(&mut self, span: Range<usize>, message: impl Into<String>, remedy: impl Into<String>) {
        self.add(Severity::Note, span, message.into(), remedy.into());
    }

    fn add(&mut self, severity: Severity, span: Range<usize>, message: String, remedy: String) {
        let remedy = Some(remedy).filter(|remedy| !remedy.is_empty());
        let end = span.end.min(self.text.len());
        self.list.push(Problem { severity, span: span.start.min(end)..end, message, remedy });
    }

    /// Whether rbuddy must not start.
    pub(crate) fn has_errors(&self) -> bool {
        self.list.iter().any(|problem| problem.severity == Severity::Error)
    }

    /// In the order of the file.
    pub(crate) fn sorted(mut self) -> Problems {
        self.list.sort_by_key(|problem| (problem.span.start, std::cmp::Reverse(problem.severity)));
        self
    }

    /// The file's name.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Nothing to say.
    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// One line each, for machines and tests: `file:line:column: error: message (remedy)`.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.list.iter().map(|problem| self.line(problem)).collect()
    }

    fn line(&self, problem: &Problem) -> String {
        let before = &self.text[..floor_char_boundary(&self.text, problem.span.start)];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        let remedy = problem.remedy.as_ref().map(|remedy| format!(" ({remedy})")).unwrap_or_default();
        format!("{}:{line}:{column}: {}: {}{remedy}", self.file, problem.severity, problem.message)
    }

    /// For people: every problem with its line and a remedy.
    pub(crate) fn render(&self, with_colour: bool) -> String {
        let renderer = if with_colour { Renderer::styled() } else { Renderer::plain() };
        self.list.iter().map(|problem| self.render_one(&renderer, problem)).collect::<Vec<_>>().join("\n\n")
    }

    fn render_one(&self, renderer: &Renderer, problem: &Problem) -> String {
        let level = match problem.severity {
            Severity::Note => Level::NOTE,
            Severity::Warning => Level::WARNING,
            Severity::Error => Level::ERROR,
        };
        let span = floor_char_boundary(&self.text, problem.span.start)..floor_char_boundary(&self.text, problem.span.end);
        let snippet = Snippet::source(self.text.as_str()).path(self.file.as_str()).annotation(AnnotationKind::Primary.span(span));
        let mut group = level.primary_title(problem.message.as_str()).element(snippet);
        if let Some(remedy) = &problem.remedy {
            group = group.element(Level::HELP.message(remedy.as_str()));
        }
        renderer.render(&[group])
    }
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Error => "error",
        })
    }
}
