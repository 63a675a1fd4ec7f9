//! Whom to believe when Sentinels differ. Pure.
//!
//! Sentinels give every failover a number that only a majority of them can hand out (`config-epoch`), and themselves go by the highest they hear
//! of. So do we: right after a failover one of them knows of it, and the majority does not yet. Where numbers tell nothing, the
//! majority is believed. A number lower than one that was seen already is that of a Sentinel which was cut off, unless a majority of the
//! configured ones says so: then they were set up anew.

use super::question::Answer;
use rbuddy_core::types::NodeAddress;
use std::collections::BTreeMap;

/// A Sentinel and what it said, or why it said nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Which.
    pub sentinel: NodeAddress,
    /// What.
    pub answer: Result<Answer, String>,
}

/// Who is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The primary.
    pub address: NodeAddress,
    /// The number of the failover that made it the primary.
    pub epoch: Option<u64>,
}

/// Who is the primary. `configured` counts the Sentinels of the configuration, `seen` is the highest number of a failover that was believed so far, `current` the
/// primary that was. `Err` says why nobody is believed.
pub fn choose(said: &[Said], configured: usize, seen: Option<u64>, current: Option<&NodeAddress>) -> Result<Verdict, String> {
    let mut votes: BTreeMap<&NodeAddress, usize> = BTreeMap::new();
    let mut best: BTreeMap<&NodeAddress, Option<u64>> = BTreeMap::new();
    for said in said {
        if let Ok(Answer::Names { address, epoch }) = &said.answer {
            *votes.entry(address).or_default() += 1;
            let known = best.entry(address).or_insert(*epoch);
            *known = (*known).max(*epoch);
        }
    }
    let of = |address: &NodeAddress| votes.get(address).copied().unwrap_or(0);
    let chosen = best.iter().max_by_key(|(address, epoch)| (**epoch, of(address), Some(**address) == current));
    let Some((address, epoch)) = chosen else { return Err(silence(said)) };
    let is_old = *epoch < seen;
    if is_old && of(address) * 2 <= configured {
        return Err(format!("a Sentinel names {address}, which was the primary before the last failover: it is not believed alone"));
    }
    Ok(Verdict { address: (*address).clone(), epoch: *epoch })
}

/// Why nobody names a primary.
fn silence(said: &[Said]) -> String {
    let knows_no_name = |said: &&Said| matches!(said.answer, Ok(Answer::UnknownName));
    if let Some(ignorant) = said.iter().find(knows_no_name) {
        return format!("the Sentinel {} watches no primary of that name", ignorant.sentinel);
    }
    let errors: Vec<&str> = said.iter().filter_map(|said| said.answer.as_ref().err().map(String::as_str)).collect();
    format!("no Sentinel answers: {}", errors.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> NodeAddress {
        NodeAddress::new("10.0.0.1", port)
    }

    fn names(port: u16, epoch: Option<u64>) -> Result<Answer, String> {
        Ok(Answer::Names { address: at(port), epoch })
    }

    fn chosen(answers: &[Result<Answer, String>], seen: Option<u64>) -> Result<u16, String> {
        let said: Vec<Said> = answers.iter().map(|answer| Said { sentinel: at(26379), answer: answer.clone() }).collect();
        choose(&said, 3, seen, Some(&at(1))).map(|verdict| verdict.address.port)
    }

    #[test]
    fn the_latest_failover_is_believed_though_most_have_not_heard_of_it() {
        assert_eq!(chosen(&[names(1, Some(4)), names(1, Some(4)), names(2, Some(5))], Some(4)), Ok(2));
    }

    #[test]
    fn without_numbers_the_majority_is_believed_and_then_what_was() {
        assert_eq!(chosen(&[names(2, None), names(1, None), names(2, None)], None), Ok(2));
        assert_eq!(chosen(&[names(2, None), names(1, None)], None), Ok(1));
        assert_eq!(chosen(&[names(2, Some(0)), names(1, Some(0))], Some(0)), Ok(1));
    }

    #[test]
    fn one_that_was_cut_off_does_not_lead_back() {
        let silent = || Err("10.0.0.2:26379 did not answer".to_owned());
        let words = chosen(&[names(9, Some(3)), silent(), silent()], Some(4)).expect_err("not believed");
        assert!(words.contains("10.0.0.1:9") && words.contains("alone"), "{words}");
        assert_eq!(chosen(&[names(9, Some(0)), names(9, Some(0)), silent()], Some(4)), Ok(9), "they were set up anew");
    }

    #[test]
    fn silence_is_explained() {
        let silent = || Err("10.0.0.2:26379 did not answer".to_owned());
        assert!(chosen(&[silent(), silent()], None).expect_err("nobody").contains("no Sentinel answers: 10.0.0.2:26379"));
        assert!(chosen(&[silent(), Ok(Answer::UnknownName)], None).expect_err("nobody").contains("no primary of that name"));
    }
}
