//! Walks the TOML tree: one key after the other, each with its place in the file. What was never asked for is an unknown key.
//!
//! Not serde: that stops at the first mistake, and operators want to hear of all of them at once.

use super::problem::Problems;
use super::units::{Listen, Wrong, duration, size};
use std::ops::{Range, RangeInclusive};
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Placed<T> {
    pub(crate) value: T,
    pub(crate) span: Range<usize>,
}

/// A table that is being read.
pub(crate) struct Fields<'t> {
    table: &'t DeTable<'t>,
    /// Its header, for what is missing.
    pub(crate) span: Range<usize>,
    /// `groups.main.relay`; empty for the top.
    path: String,
    known: Vec<&'static str>,
}

/// One value of a table.
#[derive(Clone)]
pub(crate) struct Field<'t> {
    value: &'t DeValue<'t>,
    pub(crate) span: Range<usize>,
    /// `groups.main.relay.listen`
    pub(crate) path: String,
}

impl<'t> Fields<'t> {
    /// Begins with the whole document.
    pub(crate) fn top(table: &'t DeTable<'t>) -> Fields<'t> {
        Fields { table, span: 0..0, path: String::new(), known: Vec::new() }
    }

    /// The value of a key, and from now on the key is known.
    pub(crate) fn take(&mut self, key: &'static str) -> Option<Field<'t>> {
        self.known.push(key);
        let value = self.table.get(key)?;
        Some(Field { value: value.get_ref(), span: value.span(), path: self.path_of(key) })
    }

    /// Like `take`, and says what is missing.
    pub(crate) fn need(&mut self, key: &'static str, remedy: &str, problems: &mut Problems) -> Option<Field<'t>> {
        let field = self.take(key);
        if field.is_none() {
            problems.error(self.span.clone(), format!("`{}` is missing", self.path_of(key)), remedy);
        }
        field
    }

    /// A duration under this key, if there is one.
    pub(crate) fn duration(&mut self, key: &'static str, range: RangeInclusive<Duration>, problems: &mut Problems) -> Option<Duration> {
        self.take(key).and_then(|field| field.duration(range, problems))
    }

    /// All keys with their places, for tables whose keys are names.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (Placed<String>, Field<'t>)> + '_ {
        self.table.iter().map(|(key, value)| {
            let name = Placed { value: key.get_ref().to_string(), span: key.span() };
            (name, Field { value: value.get_ref(), span: value.span(), path: self.path_of(key.get_ref()) })
        })
    }

    /// Says which keys nobody asked for.
    pub(crate) fn finish(self, problems: &mut Problems) {
        for (key, _) in self.table.iter() {
            let name: &str = key.get_ref();
            if self.known.contains(&name) {
                continue;
            }
            let place = if self.path.is_empty() { "at the top level".to_owned() } else { format!("in `{}`", self.path) };
            let remedy = match closest(name, &self.known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => format!("known here: {}", self.known.join(", ")),
            };
            problems.error(key.span(), format!("unknown key `{}` {place}", shortened(name)), remedy);
        }
    }

    fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}

impl<'t> Field<'t> {
    fn wrong_type(&self, wanted: &str, problems: &mut Problems) {
        let found = self.value.type_str();
        problems.error(self.span.clone(), format!("`{}` must be {wanted}, found {}", self.path, article(found)), "");
    }

    /// A text that is not empty.
    pub(crate) fn text(&self, problems: &mut Problems) -> Option<&'t str> {
        match self.value.as_str() {
            Some("") => {
                problems.error(self.span.clone(), format!("`{}` is empty", self.path), "");
                None
            }
            Some(text) => Some(text),
            None => {
                self.wrong_type("a string", problems);
                None
            }
        }
    }

    /// A table.
    pub(crate) fn table(&self, problems: &mut Problems) -> Option<Fields<'t>> {
        let table = self.value.as_table();
        if table.is_none() {
            self.wrong_type("a table", problems);
        }
        table.map(|table| Fields { table, span: self.span.clone(), path: self.path.clone(), known: Vec::new() })
    }

    /// Whether it is a string, where several types are possible.
    pub(crate) fn is_text(&self) -> bool {
        self.value.is_str()
    }

    /// Whether it is a table, where several types are possible.
    pub(crate) fn is_table(&self) -> bool {
        self.value.is_table()
    }

    /// The elements of an array.
    pub(crate) fn array(&self, problems: &mut Problems) -> Option<Vec<Field<'t>>> {
        let Some(array) = self.value.as_array() else {
            self.wrong_type("an array", problems);
            return None;
        };
        let element = |(at, value): (usize, &'t Spanned<DeValue<'t>>)| Field {
            value: value.get_ref(),
            span: value.span(),
            path: format!("{}[{at}]", self.path),
        };
        Some(array.iter().enumerate().map(element).collect())
    }

    /// A text that `read` understands.
    pub(crate) fn parsed<T>(&self, problems: &mut Problems, read: impl FnOnce(&str) -> Result<T, Wrong>) -> Option<Placed<T>> {
        match read(self.text(problems)?) {
            Ok(value) => Some(Placed { value, span: self.span.clone() }),
            Err(wrong) => {
                problems.error(self.span.clone(), format!("`{}`: {}", self.path, wrong.message), wrong.remedy);
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, choices: &[(&str, T)], problems: &mut Problems) -> Option<T> {
        let words = choices.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ");
        let read = |text: &str| {
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| Wrong::new("no such choice", format!("write {words}")))
        };
        self.parsed(problems, read).map(|placed| placed.value)
    }

    /// Where to listen.
    pub(crate) fn listen(&self, problems: &mut Problems) -> Option<Placed<Listen>> {
        self.parsed(problems, Listen::parse)
    }

    /// A duration within a range.
    pub(crate) fn duration(&self, range: RangeInclusive<Duration>, problems: &mut Problems) -> Option<Duration> {
        if let Some(number) = self.value.as_integer() {
            let remedy = format!("say which unit: \"{number}s\" or \"{number}ms\"");
            problems.error(self.span.clone(), format!("`{}` is a number without a unit", self.path), remedy);
            return None;
        }
        let value = self.parsed(problems, duration)?.value;
        self.within(value, &range, |value| format!("{value:?}"), problems)
    }

    /// A count of bytes within a range: a number, or a text with a unit.
    pub(crate) fn size(&self, range: RangeInclusive<u64>, problems: &mut Problems) -> Option<u64> {
        let value = if self.value.is_integer() { self.whole_number(problems)? } else { self.parsed(problems, size)?.value };
        self.within(value, &range, |bytes| format!("{bytes} bytes"), problems)
    }

    /// A count within a range.
    pub(crate) fn count(&self, range: RangeInclusive<u64>, problems: &mut Problems) -> Option<u64> {
        if !self.value.is_integer() {
            self.wrong_type("a whole number", problems);
            return None;
        }
        let value = self.whole_number(problems)?;
        self.within(value, &range, u64::to_string, problems)
    }

    /// A number with a fraction within a range.
    pub(crate) fn ratio(&self, range: RangeInclusive<f64>, problems: &mut Problems) -> Option<f64> {
        let text = self.value.as_float().map(|float| float.as_str()).or_else(|| self.value.as_integer().map(|integer| integer.as_str()));
        let Some(value) = text.and_then(|text| text.replace('_', "").parse::<f64>().ok()) else {
            self.wrong_type("a number", problems);
            return None;
        };
        self.within(value, &range, f64::to_string, problems)
    }

    fn whole_number(&self, problems: &mut Problems) -> Option<u64> {
        let integer = self.value.as_integer()?;
        let value = u64::from_str_radix(&integer.as_str().replace('_', ""), integer.radix()).ok();
        if value.is_none() {
            problems.error(self.span.clone(), format!("`{}` must not be negative or beyond 64 bits", self.path), "");
        }
        value
    }

    fn within<T: PartialOrd>(
        &self,
        value: T,
        range: &RangeInclusive<T>,
        show: impl Fn(&T) -> String,
        problems: &mut Problems,
    ) -> Option<T> {
        if range.contains(&value) {
            return Some(value);
        }
        let remedy = format!("choose from {} to {}", show(range.start()), show(range.end()));
        problems.error(self.span.clone(), format!("`{}` is out of range", self.path), remedy);
        None
    }
}

fn article(type_name: &str) -> String {
    let article = if type_name.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {type_name}")
}

fn shortened(name: &str) -> String {
    name.chars().take(40).collect()
}

/// The known key that a typo most likely meant.
fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = 1 + name.len() / 5;
    known.iter().map(|key| (edits(name, key), *key)).filter(|(edits, _)| *edits <= allowed).min().map(|(_, key)| key)
}

/// Insertions, deletions, replacements and swaps of neighbours between two short texts.
fn edits(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) = (one.chars().take(64).collect(), other.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=other.len()).collect()];
    for i in 1..=one.len() {
        let mut row = vec![i];
        for j in 1..=other.len() {
            let change = usize::from(one[i - 1] != other[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && one[i - 1] == other[j - 2] && one[i - 2] == other[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[one.len()][other.len()]
}

#[cfg(test)]
mod tests {
    use super::closest;

    #[test]
    fn a_typo_finds_the_key_that_was_meant() {
        let known = ["drain", "dead_after", "replicas", "primary"];
        assert_eq!(closest("drian", &known), Some("drain"));
        assert_eq!(closest("replica", &known), Some("replicas"));
        assert_eq!(closest("dead-after", &known), Some("dead_after"));
        assert_eq!(closest("colour", &known), None);
    }
}
