//! What of a JSON value is not as in another one: a relay's view of 2 KB of which two counters moved becomes 100 bytes.
//!
//! Promise: `applied(old, delta(old, new)) == new` for all values, to the last null. (RFC 7386 does not keep that: its null removes a key.) Not here: which
//! values are held against each other.
//!
//! A delta is an object. Its keys are those of the object, or the places in the array, where something changed; `"-"` lists keys that are gone, `"="` replaces the
//! whole. A value that is no object stands for itself.

use serde_json::{Map, Value};

/// What leads from `old` to `new`.
pub(super) fn delta(old: &Value, new: &Value) -> Value {
    let changes = match (old, new) {
        (Value::Object(old), Value::Object(new)) if !old.keys().chain(new.keys()).any(|key| key == GONE || key == WHOLE) => {
            let mut changes: Map<String, Value> = new
                .iter()
                .filter_map(|(key, value)| match old.get(key) {
                    Some(before) if before == value => None,
                    Some(before) => Some((key.clone(), delta(before, value))),
                    None => Some((key.clone(), whole(value))),
                })
                .collect();
            let gone: Vec<Value> = old.keys().filter(|key| !new.contains_key(*key)).map(|key| Value::from(key.as_str())).collect();
            if !gone.is_empty() {
                changes.insert(GONE.into(), gone.into());
            }
            changes
        }
        (Value::Array(old), Value::Array(new)) if old.len() == new.len() => {
            let pairs = old.iter().zip(new).enumerate().filter(|(_, (before, value))| before != value);
            pairs.map(|(at, (before, value))| (at.to_string(), delta(before, value))).collect()
        }
        _ => return whole(new),
    };
    Value::Object(changes)
}

/// `old` with its changes; `None` if they are not of this value.
pub(super) fn applied(mut old: Value, changes: Value) -> Option<Value> {
    let mut changes = match changes {
        Value::Object(changes) => changes,
        new @ (Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_)) => return Some(new),
    };
    if let Some(whole) = changes.remove(WHOLE) {
        return Some(whole);
    }
    match &mut old {
        Value::Object(object) => {
            for key in changes.remove(GONE).and_then(|gone| gone.as_array().cloned()).unwrap_or_default() {
                object.remove(key.as_str()?)?;
            }
            for (key, change) in changes {
                let before = object.remove(&key).unwrap_or_default();
                object.insert(key, applied(before, change)?);
            }
        }
        Value::Array(array) => {
            for (at, change) in changes {
                let place = array.get_mut(at.parse::<usize>().ok()?)?;
                *place = applied(place.take(), change)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
    }
    Some(old)
}

fn whole(value: &Value) -> Value {
    if value.is_object() { Value::Object(Map::from_iter([(WHOLE.to_owned(), value.clone())])) } else { value.clone() }
}

const GONE: &str = "-";
const WHOLE: &str = "=";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (0..4u64).prop_map(Value::from),
            "[ab=-]{0,2}".prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab=0-]{0,1}", inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn every_value_comes_back_from_every_other(old in values(), new in values()) {
            prop_assert_eq!(applied(old.clone(), delta(&old, &new)), Some(new));
        }
    }

    #[test]
    fn a_counter_that_moved_is_all_that_is_written() {
        let view = |end: u64| json!({ "histories": [{ "end": end, "ids": ["a"] }], "sessions": { "b": { "acked": end } }, "error": null });
        assert_eq!(delta(&view(1), &view(2)), json!({ "histories": { "0": { "end": 2 } }, "sessions": { "b": { "acked": 2 } } }));
        assert_eq!(applied(json!(1), json!({ "a": 2 })), None, "a delta of something else");
    }
}
