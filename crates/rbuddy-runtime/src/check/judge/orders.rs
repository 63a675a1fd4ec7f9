//! What our login may do, whether replicas can log in to the relay, and how they behave while they are held.

use super::super::facts::{Access, GroupFacts, ServerFacts};
use super::super::finding::{Findings, Topic};
use rbuddy_core::types::NodeAddress;

pub(super) fn judge(group: &GroupFacts, findings: &mut Findings<'_>) {
    if let Some((address, facts)) = group.known_primary() {
        commands(address, facts, findings);
        failover(group, address, facts, findings);
    }
    for (address, facts) in group.known_replicas() {
        commands(address, facts, findings);
        masterauth(group, address, facts, findings);
        behaviour(address, facts, findings);
    }
}

fn commands(address: &NodeAddress, facts: &ServerFacts, findings: &mut Findings<'_>) {
    let wanted = |name: &str| name != "FUNCTION FLUSH" || facts.info.version.is_none_or(|version| version.at_least(7, 0));
    let having = |access: &Access| -> Vec<&str> {
        facts.commands.iter().filter(|(name, found)| *found == access && wanted(name)).map(|(name, _)| *name).collect()
    };
    let (missing, denied, unknown) = (having(&Access::Missing), having(&Access::Denied), having(&Access::Unknown));
    for (names, what, remedy) in [
        (&missing, "has no command", "undo rename-command there: rbuddy needs it under its own name"),
        (&denied, "does not allow our login", "grant it: ACL SETUSER … +command"),
    ] {
        let (lasting, vital): (Vec<&str>, Vec<&str>) = names.iter().partition(|name| is_for_restarts(name));
        if !vital.is_empty() {
            findings.error(address, Topic::Commands, format!("{what} {}", vital.join(", ")), remedy);
        }
        if !lasting.is_empty() {
            let message = format!("{what} {}: its role will not outlive its own restart", lasting.join(", "));
            findings.warning(address, Topic::Commands, message, remedy);
        }
    }
    if !unknown.is_empty() {
        let message = format!("does not say whether our login may use {}", unknown.join(", "));
        findings.note(address, Topic::Commands, message, "allow ACL WHOAMI and ACL DRYRUN (7.0 and newer) to have it proven");
    }
    if missing.is_empty() && denied.is_empty() && unknown.is_empty() {
        findings.ok(address, Topic::Commands, "allows every command that rbuddy sends");
    }
}

fn is_for_restarts(command: &str) -> bool {
    command == "CONFIG REWRITE"
}

/// A replica says `masteruser` and `masterauth` to the relay as it would to the primary.
fn masterauth(group: &GroupFacts, address: &NodeAddress, facts: &ServerFacts, findings: &mut Findings<'_>) {
    let settings = &group.settings;
    let login = settings.relay.login(&settings.primary);
    let (user, password) = (login.as_ref().and_then(|login| login.user.as_deref()), login.as_ref().map(|login| &login.password));
    let Some(said_password) = facts.config("masterauth") else {
        findings.note(address, Topic::Masterauth, "does not show its masterauth", "allow CONFIG GET to have it compared with the relay's");
        return;
    };
    let said_user = facts.config("masteruser").filter(|user| !user.is_empty());
    let is_default = |user: Option<&str>| user.is_none_or(|user| user == "default");
    match password {
        None if said_password.is_empty() => findings.ok(address, Topic::Masterauth, "logs in to nobody, and the relay asks for no login"),
        None => {
            let remedy = "set `auth` of the relay to what the replicas say";
            findings.warning(address, Topic::Masterauth, "has a masterauth, and the relay has no password to compare it with", remedy);
        }
        Some(_) if said_password.is_empty() => {
            let remedy = "CONFIG SET masterauth there (and in its file) to the relay's `auth`, else the primary's password";
            findings.error(address, Topic::Masterauth, "has no masterauth, and the relay wants one", remedy);
        }
        Some(wanted) if wanted.expose() != said_password => {
            let remedy = "make its masterauth and the relay's `auth` (else the primary's password) the same";
            findings.error(address, Topic::Masterauth, "has another masterauth than the relay wants", remedy);
        }
        Some(_) if said_user != user && !(is_default(said_user) && is_default(user)) => {
            let message = format!("says masteruser {:?}, the relay wants {:?}", said_user.unwrap_or("default"), user.unwrap_or("default"));
            findings.error(address, Topic::Masterauth, message, "make its masteruser and the relay's user the same");
        }
        Some(_) => findings.ok(address, Topic::Masterauth, "will be let in by the relay"),
    }
}

/// `FAILOVER` may pick the relay, as it has all that was written. Then the primary logs in there to hand its role over; only behind that it hears that the
/// relay refuses it, and takes writes again.
fn failover(group: &GroupFacts, address: &NodeAddress, facts: &ServerFacts, findings: &mut Findings<'_>) {
    let settings = &group.settings;
    let Some(login) = settings.relay.login(&settings.primary) else { return };
    if facts.config("masterauth").is_some_and(|said| said != login.password.expose()) {
        let message = "says another masterauth than the relay wants: a FAILOVER that picks the relay would wait, without taking writes";
        let remedy = "give it the relay's password as masterauth, or always say which replica: FAILOVER TO host port TIMEOUT ms";
        findings.note(address, Topic::Masterauth, message, remedy);
    }
}

fn behaviour(address: &NodeAddress, facts: &ServerFacts, findings: &mut Findings<'_>) {
    match facts.config("replica-serve-stale-data") {
        Some("yes") => findings.ok(address, Topic::StaleReads, "answers reads while its link is down"),
        Some(_) => {
            let remedy = "nothing to do if it is a standby of rbuddy; else CONFIG SET replica-serve-stale-data yes";
            findings.note(
                address,
                Topic::StaleReads,
                "refuses reads while its link is down; rbuddy switches that on before it promotes",
                remedy,
            );
        }
        None => findings.warning(address, Topic::StaleReads, "does not show replica-serve-stale-data", "allow CONFIG GET"),
    }
    let read_only = facts.config("replica-read-only").map(|value| value == "yes").or(facts.info.is_read_only);
    match read_only {
        Some(true) => findings.ok(address, Topic::ReadOnly, "takes no writes while it is a replica"),
        Some(false) => {
            let message = "takes writes though it is a replica: its dataset may differ from the primary's";
            findings.error(address, Topic::ReadOnly, message, "CONFIG SET replica-read-only yes, there and in its file");
        }
        None => findings.note(address, Topic::ReadOnly, "does not show replica-read-only", "allow CONFIG GET"),
    }
}
