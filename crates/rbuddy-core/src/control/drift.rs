//! What differs between a server that is to take over and one whose readers would come to it, and whether that would hurt them.
//!
//! Promise: what is not known differs in nothing, so a server that may not be asked is never held back for it; each difference that hurts says both sides'
//! numbers and how to mend it. Not here: what is done about it (`hindrance.rs`), asking.

use super::status::{Difference, Setting};
use crate::info::ServerInfo;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// What a server is set to, where `INFO` does not tell.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Settings {
    /// `databases`; `None` where it may not be asked.
    pub databases: Option<u64>,
    /// `replica-ignore-maxmemory` (5.0 and newer): as a replica it keeps to no limit and evicts nothing.
    pub ignores_limit: Option<bool>,
    /// Who may log in, by name (6.0 and newer).
    pub users: Option<BTreeMap<String, User>>,
}

/// A user of a server. Passwords and rights are digests under a key that lives as long as rbuddy's process: they compare, and tell nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct User {
    /// It can log in at all.
    pub is_on: bool,
    /// With any password.
    pub is_open: bool,
    /// Else with one of these.
    pub passwords: BTreeSet<u64>,
    /// What it may do, as the server's version words it.
    pub rights: u64,
}

/// A server as it was seen.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// What it says of itself.
    pub info: &'a ServerInfo,
    /// What it is set to, if it was asked.
    pub settings: Option<&'a Settings>,
}

/// What readers of `there` would find otherwise `here`. `keeps_limit`: it will evict by itself whatever it is set to (`freeze = "detach"`).
pub fn compare(here: Seen<'_>, there: Seen<'_>, keeps_limit: bool) -> Vec<Difference> {
    let mut found = Vec::new();
    memory(here, there, keeps_limit, &mut found);
    version(here.info, there.info, &mut found);
    found.extend(databases(here, there));
    let (lacking, older) = modules(here.info, there.info);
    found.extend(lacking.into_iter().map(lacks_module));
    found.extend(older);
    if let (Some(ours), Some(theirs)) = (users(here), users(there)) {
        let same_words = is_same_line(here.info, there.info);
        found.extend(
            theirs.iter().filter(|(_, user)| user.is_on).filter_map(|(name, user)| missed_user(name, user, ours.get(name), same_words)),
        );
    }
    found
}

/// What a server lacks to load this primary's snapshot: given that, it empties itself or dies.
pub fn cannot_load(here: Seen<'_>, primary: &ServerInfo) -> Option<Difference> {
    let primary = Seen { info: primary, settings: None };
    let lacking = || modules(here.info, primary.info).0.into_iter().next().map(lacks_module);
    databases(here, primary).filter(|difference| difference.hurts).or_else(lacking)
}

fn memory(here: Seen<'_>, there: Seen<'_>, keeps_limit: bool, found: &mut Vec<Difference>) {
    let policy = |info: &ServerInfo| info.max_memory_policy.clone().unwrap_or_else(|| EVICTS_NOTHING.into());
    let Some(ours) = here.info.max_memory else { return };
    let theirs = there.info.max_memory.unwrap_or(0);
    let is_less = ours > 0 && (theirs == 0 || ours < theirs);
    // Before 5.0 there is no such setting, and every replica keeps to its limit. Where nobody may ask, the default is taken for true.
    let ignores = here.settings.and_then(|settings| settings.ignores_limit);
    let obeys = keeps_limit || ignores == Some(false) || here.info.version.is_some_and(|version| !version.at_least(5, 0));
    let data = here.info.used_memory.max(there.info.used_memory).unwrap_or(0);
    let evicts = obeys && policy(here.info) != EVICTS_NOTHING;
    if is_less && ours < data {
        let reason = format!("its maxmemory of {ours} bytes is less than the {data} bytes that the dataset takes");
        found.push(Difference::hurting(Setting::Maxmemory, reason, "raise maxmemory there (CONFIG SET, and in its file)"));
    } else if ours != theirs {
        let reason =
            format!("its maxmemory is {ours} bytes instead of {theirs}{}", if is_less && evicts { ": it would evict earlier" } else { "" });
        found.push(Difference::new(
            Setting::Maxmemory,
            is_less && evicts,
            reason,
            "set the same maxmemory there (CONFIG SET, and in its file)",
        ));
    }
    let is_limited = ours > 0 || theirs > 0;
    if policy(here.info) != policy(there.info) && is_limited {
        let one_evicts = (policy(here.info) == EVICTS_NOTHING) != (policy(there.info) == EVICTS_NOTHING);
        let hurts = obeys && one_evicts && ours > 0;
        let ignored = if obeys { "" } else { ", which a replica that ignores maxmemory does not use" };
        let reason = format!("its maxmemory-policy is {} instead of {}{ignored}", policy(here.info), policy(there.info));
        found.push(Difference::new(
            Setting::MaxmemoryPolicy,
            hurts,
            reason,
            "set the same maxmemory-policy there (CONFIG SET, and in its file)",
        ));
    }
}

/// The older one may not know what clients ask for. Between families nothing follows from the numbers.
fn version(here: &ServerInfo, there: &ServerInfo, found: &mut Vec<Difference>) {
    let (Some(ours), Some(theirs)) = (here.version, there.version) else { return };
    if ours != theirs {
        let hurts = ours.flavour == theirs.flavour && !ours.at_least(theirs.major, theirs.minor);
        found.push(Difference::new(
            Setting::Version,
            hurts,
            format!("it is {ours} instead of {theirs}"),
            "upgrade it: a newer version may take over",
        ));
    }
}

fn databases(here: Seen<'_>, there: Seen<'_>) -> Option<Difference> {
    let set = |seen: Seen<'_>| seen.settings.and_then(|settings| settings.databases);
    let ours = set(here)?;
    let used = there.info.highest_database.map_or(0, |highest| highest.saturating_add(1));
    let remedy = "raise `databases` in its file and restart it";
    if ours < used {
        return Some(Difference::hurting(Setting::Databases, format!("it has {ours} databases, and {used} are in use"), remedy));
    }
    let theirs = set(there).filter(|theirs| *theirs != ours)?;
    Some(Difference::new(Setting::Databases, false, format!("it has {ours} databases instead of {theirs}"), remedy))
}

/// Which of the modules `there` are missing, and which are older.
fn modules(here: &ServerInfo, there: &ServerInfo) -> (Vec<String>, Vec<Difference>) {
    let (Some(ours), Some(theirs)) = (&here.modules, &there.modules) else { return Default::default() };
    let is_engine = |name: &String| ENGINES.contains(&name.as_str());
    let missing = theirs.keys().filter(|name| !ours.contains_key(*name) && !is_engine(name)).cloned().collect();
    let older = theirs.iter().filter_map(|(name, theirs)| {
        let ours = ours.get(name).filter(|ours| *ours < theirs && !is_engine(name))?;
        let reason = format!("its module {name} is of version {ours} instead of {theirs}");
        Some(Difference::new(Setting::Modules, false, reason, "load the same version there"))
    });
    (missing, older.collect())
}

fn lacks_module(name: String) -> Difference {
    Difference::hurting(Setting::Modules, format!("it lacks the module {name}"), "load it there (loadmodule in its file) and restart it")
}

fn users(seen: Seen<'_>) -> Option<&BTreeMap<String, User>> {
    seen.settings?.users.as_ref()
}

fn missed_user(name: &str, theirs: &User, ours: Option<&User>, same_words: bool) -> Option<Difference> {
    let lets_in = |ours: &User| ours.is_open || (!theirs.is_open && theirs.passwords.is_subset(&ours.passwords));
    let remedy = "give it the same users (ACL SETUSER or its ACL file)";
    let hurting = |reason: String| Some(Difference::hurting(Setting::Users, reason, remedy));
    match ours {
        None => hurting(format!("it has no user {name}")),
        Some(ours) if !ours.is_on => hurting(format!("its user {name} is off")),
        Some(ours) if !lets_in(ours) => hurting(format!("its user {name} has other passwords")),
        // Versions word the same rights differently.
        Some(ours) if ours.rights != theirs.rights && same_words => hurting(format!("its user {name} has other rights")),
        Some(_) => None,
    }
}

fn is_same_line(here: &ServerInfo, there: &ServerInfo) -> bool {
    let line = |info: &ServerInfo| info.version.map(|version| (version.flavour, version.major, version.minor));
    line(here) == line(there)
}

impl Difference {
    fn hurting(setting: Setting, reason: String, remedy: &str) -> Difference {
        Difference::new(setting, true, reason, remedy)
    }

    fn new(setting: Setting, hurts: bool, reason: String, remedy: &str) -> Difference {
        Difference { setting, hurts, reason, remedy: remedy.to_owned() }
    }
}

const EVICTS_NOTHING: &str = "noeviction";
/// Modules that bring a language for scripts and no type of data: Valkey's Lua is one since 9.1, and built in elsewhere.
const ENGINES: &[&str] = &["lua"];
