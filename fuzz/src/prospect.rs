//! What a primary's INFO promises of a PSYNC: never a byte that it has not, or that is not ours, and never a word about one that cannot answer.

use super::cuts::Dice;
use rbuddy_core::info::ServerInfo;
use rbuddy_core::replication::history::{History, Place};
use rbuddy_core::replication::prospect::{Gap, Joint, Prospect, beginning, prospect};
use rbuddy_core::types::{Offset, Position};

pub fn check(input: &[u8]) {
    let info = ServerInfo::parse(&String::from_utf8_lossy(input));
    let mut dice = Dice::of(input);
    if info.replid.is_some() && !info.is_loading && info.master.is_none() {
        assert_eq!(prospect(None, &info), Prospect::FullResync(Gap::NothingToContinue));
    }
    for replid in [info.replid, info.replid2, "f".repeat(40).parse().ok()].into_iter().flatten() {
        for _ in 0..HISTORIES {
            let (oldest, end) = span(&info, &mut dice);
            let mut history = History::starting_at(Position::new(replid, oldest), None);
            history.end = end;
            judge(&history, &info);
            history.rename("e".repeat(40).parse().expect("an id"));
            history.end = end.advance(dice.below(5) as u64);
            judge(&history, &info);
            let begun = History::starting_at(Position::new(replid, oldest), None);
            for place in [info.replid, info.replid2].into_iter().flatten() {
                begin(&begun, Position::new(place, end), &info);
            }
        }
    }
}

fn judge(history: &History, info: &ServerInfo) {
    let found = prospect(Some(history), info);
    assert_eq!(matches!(found, Prospect::NotNow(_)), info.is_loading || (info.master.is_some() && !info.is_link_up), "{found:?}");
    let Prospect::Continue(Joint { at, common }) = found else { return };
    let until = history.ids().iter().find(|known| known.replid == at.replid).expect("it is asked for one of ours").until;
    assert!(common.is_none_or(|common| at.offset <= common) && until.is_none_or(|until| common.is_some_and(|common| common <= until)));
    assert!(at.offset <= history.end && at.offset.next_byte() >= history.oldest, "{at} of {history:?}");
    assert!(info.backlog_first_byte.is_some_and(|first| first > 0 && at.offset.next_byte().get() >= first), "{at}");
    if info.replid == Some(at.replid) {
        assert!(info.offset.is_some_and(|theirs| at.offset <= theirs));
    } else {
        assert_eq!(info.replid2, Some(at.replid));
        assert!(info.second_offset.is_some_and(|second| at.offset.next_byte().get() <= second), "{at}");
    }
}

/// One may go on where the primary still can, behind the end or on another history.
fn begin(history: &History, place: Position, info: &ServerInfo) {
    let Some((begun, joint)) = beginning(Some(history), &[Place::new(place)], info) else { return };
    assert!(begun.end_position() == place && (place.offset > history.end || place.replid != history.replid()));
    assert_eq!((joint.at, prospect(Some(&begun), info)), (place, Prospect::Continue(joint)));
}

/// Near what the primary tells of itself, or anywhere.
fn span(info: &ServerInfo, dice: &mut Dice) -> (Offset, Offset) {
    let known = [info.offset.map_or(0, Offset::get), info.second_offset.unwrap_or(0), info.backlog_first_byte.unwrap_or(0), 1 << 20];
    let mut place = || known[dice.below(known.len())].saturating_add(dice.below(5) as u64).saturating_sub(2).min(i64::MAX as u64 - 2);
    let (one, other) = (place(), place());
    let offset = |place| Offset::new(place).expect("in range");
    (offset(one.min(other)), offset(one.max(other)))
}

const HISTORIES: usize = 8;
