//! Reads a journal's file, line by line.
//!
//! Promise: half a line where the writer was cut off (at the end, or before the next part) is told and is no error; anything else that is not what this version writes is,
//! with its line.

use super::line::{Decoder, FORMAT, Heading};
use rbuddy_core::control::journal::Entry;
use serde::Deserialize as _;
use serde_json::Value;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};

/// Gives the items of one file in order.
#[derive(Debug)]
pub struct JournalReader {
    path: PathBuf,
    file: BufReader<File>,
    /// Number of the last line read.
    line: u64,
    /// Read ahead: the first line of the next part.
    ahead: Option<Heading>,
    decoder: Decoder,
    has_heading: bool,
}

/// What stands in a file.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A part begins.
    Heading(Heading),
    /// One entry.
    Entry(Box<Entry>),
    /// Half a line: here the writer was cut off.
    Cut {
        /// Which.
        line: u64,
    },
}

/// Why a journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system says no.
    #[error("read {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// It is of another format.
    #[error(
        "{path}, line {line}: this is a journal of format {found}, and this version of rbuddy reads {FORMAT}: replay it with the version that wrote it"
    )]
    Format {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: u64,
        /// Its format.
        found: u64,
    },
    /// It is no journal, or a broken one.
    #[error("{path}, line {line}: this is no line of a journal: {why}")]
    Broken {
        /// Which file.
        path: PathBuf,
        /// Where.
        line: u64,
        /// What is wrong.
        why: String,
    },
}

impl JournalReader {
    /// Opens a file.
    pub fn open(path: &Path) -> Result<JournalReader, JournalError> {
        let file = File::open(path).map_err(|source| JournalError::Io { path: path.to_owned(), source })?;
        let (file, decoder) = (BufReader::new(file), Decoder::default());
        Ok(JournalReader { path: path.to_owned(), file, line: 0, ahead: None, decoder, has_heading: false })
    }

    fn item(&mut self) -> Result<Option<Item>, JournalError> {
        if let Some(heading) = self.ahead.take() {
            return Ok(Some(self.begin_part(heading)));
        }
        let Some(text) = self.text()? else { return Ok(None) };
        match serde_json::from_str::<Value>(&text) {
            Ok(value) if value.get("journal").is_some() => {
                let heading = self.heading(value)?;
                Ok(Some(self.begin_part(heading)))
            }
            Ok(value) if self.has_heading => {
                let entry = self.decoder.entry(value).map_err(|why| self.broken(why))?;
                Ok(Some(Item::Entry(Box::new(entry))))
            }
            Ok(_) => Err(self.broken("the first line must say {\"journal\": …}".into())),
            Err(error) => self.cut_or(&error).map(Some),
        }
    }

    /// Half a line is what a writer leaves that was cut off. It writes no more after that, but what the next one begins with.
    fn cut_or(&mut self, error: &serde_json::Error) -> Result<Item, JournalError> {
        let (line, broken) = (self.line, self.broken(error.to_string()));
        if !self.has_heading {
            return Err(broken);
        }
        if let Some(next) = self.text()? {
            match serde_json::from_str::<Value>(&next) {
                Ok(value) if value.get("journal").is_some() => self.ahead = Some(self.heading(value)?),
                Ok(_) | Err(_) => return Err(broken),
            }
        }
        Ok(Item::Cut { line })
    }

    fn begin_part(&mut self, heading: Heading) -> Item {
        self.decoder.begin_part();
        self.has_heading = true;
        Item::Heading(heading)
    }

    fn heading(&self, value: Value) -> Result<Heading, JournalError> {
        // Looked at first, so that a newer format is named as such and not as some missing field.
        match value.get("journal").and_then(Value::as_u64) {
            Some(found) if found != u64::from(FORMAT) => Err(JournalError::Format { path: self.path.clone(), line: self.line, found }),
            Some(_) | None => Heading::deserialize(value).map_err(|error| self.broken(error.to_string())),
        }
    }

    fn text(&mut self) -> Result<Option<String>, JournalError> {
        let mut bytes = Vec::new();
        let read = self.file.read_until(b'\n', &mut bytes);
        let count = read.map_err(|source| JournalError::Io { path: self.path.clone(), source })?;
        self.line += 1;
        // What is not text is no JSON either, and is told as that.
        Ok((count > 0).then(|| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn broken(&self, why: String) -> JournalError {
        JournalError::Broken { path: self.path.clone(), line: self.line, why }
    }
}

impl Iterator for JournalReader {
    type Item = Result<Item, JournalError>;

    fn next(&mut self) -> Option<Result<Item, JournalError>> {
        self.item().transpose()
    }
}
