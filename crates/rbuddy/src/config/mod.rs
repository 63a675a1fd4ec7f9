//! The configuration file: TOML into [`Settings`], with every mistake named at once, each with its line and a remedy.
//!
//! | where | what |
//! | --- | --- |
//! | [`fields`] | walks the TOML tree, knows which keys were asked for |
//! | [`units`], [`server`] | sizes, durations, addresses, server URLs |
//! | [`group`], [`relay`] | the keys of a group, and those of its relay |
//! | [`cross`] | rules that span several keys |
//! | [`problem`], [`redact`] | how mistakes are shown, and what never is |
//! | [`template`] | what `rbuddy init` writes |
//!
//! Promise: nothing is bound or dialled while a file has an error. Every key with unit, range and default: `docs/configuration.md`.

mod cross;
mod fields;
mod group;
mod problem;
mod redact;
mod relay;
mod server;
pub(crate) mod template;
#[cfg(test)]
mod tests;
mod units;

pub(crate) use problem::Problems;
pub(crate) use server::primary;
pub(crate) use units::{Listen, Wrong, duration, size};

use fields::{Field, Fields, Placed};
use group::GroupDraft;
use rbuddy_runtime::settings::{ApiSettings, JournalSettings, Secret, Settings};
use std::path::{Path, PathBuf};
use toml::de::DeTable;

/// Settings that can be run, and what is still worth saying about them.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) settings: Settings,
    pub(crate) remarks: Problems,
}

/// A configuration that cannot be run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// There is no such file, or it may not be read.
    #[error("read the configuration {path}")]
    Read {
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// It has mistakes.
    #[error("{} has mistakes", .0.file())]
    Wrong(Problems),
}

/// Reads a file.
pub(crate) fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: name.clone(), source })?;
    parse(&name, &text).map_err(ConfigError::Wrong)
}

/// Reads a text; `file` is its name in messages.
pub(crate) fn parse(file: &str, text: &str) -> Result<Loaded, Problems> {
    let mut problems = Problems::new(file, text);
    let (tree, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        // The parser's words name what it expected, never what it found.
        problems.error(error.span().unwrap_or(0..0), error.message(), "");
    }
    // What a broken line was meant to say is unknown, so nothing is concluded from the tree.
    let settings = if syntax.is_empty() { top(Fields::top(tree.get_ref()), &mut problems) } else { None };
    let problems = problems.sorted();
    match settings {
        Some(settings) if !problems.has_errors() => Ok(Loaded { settings, remarks: problems }),
        Some(_) | None => Err(problems),
    }
}

/// `[api]`
struct ApiDraft {
    listen: Option<Placed<Listen>>,
    token: Option<Secret>,
}

fn top(mut fields: Fields<'_>, problems: &mut Problems) -> Option<Settings> {
    let state_dir = match fields.take("state_dir") {
        Some(field) => field.text(problems).map(PathBuf::from),
        None => Some(PathBuf::from("/var/lib/rbuddy")),
    };
    let api = api(fields.take("api"), problems);
    if let Some(sentinel) = fields.take("sentinel") {
        let remedy = "remove [sentinel]: follow the active by `reader`, by GET /active or by `notify`";
        problems.error(sentinel.span, "the Sentinel endpoint is not yet in this version", remedy);
    }
    let journal = fields.take("journal").map_or_else(|| Some(JournalSettings::default()), |field| journal(&field, problems));
    let groups = groups(&mut fields, problems);
    fields.finish(problems);
    cross::judge(api.listen.as_ref(), &groups, problems);
    let groups: Option<Vec<_>> = groups.into_iter().map(GroupDraft::settings).collect();
    let api = ApiSettings { listen: api.listen?.value.text(), token: api.token };
    Some(Settings { state_dir: state_dir?, api, journal: journal?, groups: groups? })
}

/// `journal = { size, files }`
fn journal(field: &Field<'_>, problems: &mut Problems) -> Option<JournalSettings> {
    let default = JournalSettings::default();
    let mut fields = field.table(problems)?;
    let size = fields.take("size").map_or(Some(default.size_bytes), |field| field.size((64 << 10)..=(1 << 40), problems));
    let files = fields.take("files").map_or(Some(default.files as u64), |field| field.count(0..=1000, problems));
    fields.finish(problems);
    Some(JournalSettings { size_bytes: size?, files: usize::try_from(files?).ok()? })
}

fn api(field: Option<Field<'_>>, problems: &mut Problems) -> ApiDraft {
    let default = Placed { value: Listen { host: "127.0.0.1".to_owned(), port: 9999 }, span: 0..0 };
    let Some(field) = field else { return ApiDraft { listen: Some(default), token: None } };
    let Some(mut fields) = field.table(problems) else { return ApiDraft { listen: None, token: None } };
    let listen = match fields.take("listen") {
        Some(field) => field.listen(problems),
        None => Some(default),
    };
    let token_field = fields.take("token");
    let token = token_field.as_ref().and_then(|field| field.parsed(problems, token)).map(|token| token.value);
    fields.finish(problems);
    if let Some(listen) = listen.as_ref().filter(|listen| token_field.is_none() && !listen.value.is_loopback()) {
        let remedy = "add token = \"…\" to [api], or listen on 127.0.0.1";
        problems.error(listen.span.clone(), "whoever reaches the API could order a failover", remedy);
    }
    ApiDraft { listen, token }
}

fn token(text: &str) -> Result<Secret, Wrong> {
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Wrong::new("the token cannot be sent in a header", "use printable ASCII without spaces"));
    }
    Ok(Secret::new(text))
}

fn groups(fields: &mut Fields<'_>, problems: &mut Problems) -> Vec<GroupDraft> {
    let Some(field) =
        fields.need("groups", "add [groups.main] with primary, replicas and relay; `rbuddy init` writes an example", problems)
    else {
        return Vec::new();
    };
    let Some(table) = field.table(problems) else { return Vec::new() };
    let groups: Vec<GroupDraft> = table.entries().filter_map(|(name, field)| group::read(&name, &field, problems)).collect();
    if table.entries().next().is_none() {
        problems.error(field.span, "`groups` is empty", "add [groups.main]; `rbuddy init` writes an example");
    }
    groups
}
