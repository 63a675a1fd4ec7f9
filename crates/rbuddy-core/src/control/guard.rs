//! Guards: is a dataset plausible (P4), and may a replica's data be overwritten (P3)?

use super::settings::Guard;
use super::state::{DurableState, Reference};
use crate::info::{Keyspace, ServerInfo};
use crate::types::RunId;
use std::time::Duration;

/// Holds a new dataset's counts against what was served before. `Err` says why it is not plausible, with both sides' numbers.
///
/// Keys without a TTL only go away by commands, so their count is compared. Keys with a TTL are compared only if the break was
/// shorter than their average TTL: a held replica never reaps, so its own count stays high for ever (protocol fact 5.1).
/// The average is the primary's; where it is not known the keys are compared, since refusing can be undone and promoting cannot.
pub fn plausible(new: Keyspace, reference: Option<Reference>, gap: Duration, guard: Guard) -> Result<(), String> {
    let Some(reference) = reference else { return Ok(()) };
    let old = reference.keyspace;
    let expired_meanwhile = old.avg_ttl_ms > 0 && gap >= Duration::from_millis(old.avg_ttl_ms);
    let expected = if expired_meanwhile { old.persistent() } else { old.keys };
    // An empty dataset is never plausible where there was one, however small: it is what a lost disk looks like.
    if new.keys == 0 && expected > 0 {
        return Err(format!("the new dataset has no keys, the old one has {} ({} without a TTL)", old.keys, old.persistent()));
    }
    compare("keys without a TTL", new.persistent(), old.persistent(), guard)?;
    if expired_meanwhile { Ok(()) } else { compare("keys with a TTL", new.expires, old.expires, guard) }
}

fn compare(what: &str, new: u64, old: u64, guard: Guard) -> Result<(), String> {
    if old < guard.min_keys.max(1) {
        return Ok(());
    }
    #[expect(clippy::cast_precision_loss, reason = "a ratio of counts needs no exact integers")]
    let ratio = new as f64 / old as f64;
    if ratio >= guard.min_keys_ratio {
        return Ok(());
    }
    Err(format!(
        "the new dataset has {new} {what}, the old one has {old}: {:.0} % where guard.min_keys_ratio asks for {:.0} %",
        ratio * 100.0,
        guard.min_keys_ratio * 100.0
    ))
}

/// Whether all that a replica holds is proven rbuddy's own, so that it may be emptied or overwritten (P3). `Err` says why not.
pub fn owned(info: &ServerInfo, primary: Option<RunId>, state: &DurableState, adopted: bool) -> Result<(), String> {
    if info.run_id.is_some() && info.run_id == primary {
        return Err("it is the primary itself: remove it from replicas".into());
    }
    if info.is_loading {
        return Err("it is loading, so nobody knows yet what it holds".into());
    }
    let known = |id: Option<_>| id.is_some_and(|id| state.knows(id));
    if info.is_empty() || adopted || known(info.replid) || known(info.replid2) {
        return Ok(());
    }
    Err(format!(
        "it holds {} keys and {} functions of a history that is not this group's ({}): `rbuddy adopt` it if rbuddy may empty it",
        info.keyspace.keys,
        info.functions,
        info.replid.map_or_else(|| "unknown".to_owned(), |id| id.short().to_owned()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Offset, Position, ReplId, Time};

    fn keyspace(persistent: u64, expires: u64, avg_ttl_ms: u64) -> Keyspace {
        Keyspace { keys: persistent + expires, expires, avg_ttl_ms }
    }

    fn judge(new: Keyspace, old: Keyspace, gap_s: u64) -> Result<(), String> {
        let replid: ReplId = "a".repeat(40).parse().expect("an id");
        let reference = Reference { position: Position::new(replid, Offset::ZERO), keyspace: old, at: Time::default() };
        plausible(new, Some(reference), Duration::from_secs(gap_s), Guard::default())
    }

    #[test]
    fn an_empty_or_shrunken_dataset_is_not_plausible() {
        let old = keyspace(20_000, 0, 0);
        assert!(judge(keyspace(0, 0, 0), old, 5).is_err());
        let reason = judge(keyspace(2_000, 0, 0), old, 5).expect_err("10 %");
        assert!(reason.contains("2000") && reason.contains("20000") && reason.contains("10 %"), "{reason}");
        assert!(judge(keyspace(10_000, 0, 0), old, 5).is_ok());
    }

    #[test]
    fn a_cache_whose_keys_expired_during_the_break_is_plausible() {
        let old = keyspace(0, 20_000, 4_000);
        assert!(judge(keyspace(0, 0, 0), old, 5).is_ok());
        assert!(judge(keyspace(0, 0, 0), old, 3).is_err(), "they cannot all have expired in 3 s");
        assert!(judge(keyspace(0, 0, 0), keyspace(5_000, 20_000, 4_000), 5).is_err(), "the others did not expire");
    }

    #[test]
    fn small_datasets_are_not_judged_by_ratio_but_empty_ones_are_refused() {
        assert!(judge(keyspace(1, 0, 0), keyspace(999, 0, 0), 5).is_ok());
        assert!(judge(keyspace(0, 0, 0), keyspace(1, 0, 0), 5).is_err());
        assert!(judge(keyspace(0, 0, 0), keyspace(0, 0, 0), 5).is_ok());
        assert!(judge(keyspace(50_000, 0, 0), keyspace(50_000, 1, 60_000), 5).is_ok(), "one session more or less says nothing");
    }

    #[test]
    fn foreign_keys_and_the_primary_itself_are_not_ours() {
        let group = "main".parse().expect("a name");
        let mut state = DurableState::new(group);
        let ours: ReplId = "a".repeat(40).parse().expect("an id");
        state.record(crate::replication::history::History::starting_at(Position::new(ours, Offset::ZERO), None).ids());
        let run: RunId = "1".repeat(40).parse().expect("an id");
        let mut info = ServerInfo { run_id: Some(run), replid: "b".repeat(40).parse().ok(), ..ServerInfo::default() };
        assert!(owned(&info, None, &state, false).is_ok(), "nothing to lose");
        assert!(owned(&info, Some(run), &state, true).is_err(), "never the primary, whatever was said");
        info.functions = 1;
        assert!(owned(&info, None, &state, false).is_err(), "functions count");
        info.keyspace.keys = 5;
        assert!(owned(&info, None, &state, false).expect_err("foreign").contains("adopt"));
        assert!(owned(&info, None, &state, true).is_ok());
        info.replid2 = Some(ours);
        assert!(owned(&info, None, &state, false).is_ok(), "replid2 is ours");
        info.is_loading = true;
        assert!(owned(&info, None, &state, false).is_err());
    }
}
