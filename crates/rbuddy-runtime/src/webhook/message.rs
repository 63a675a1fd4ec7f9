//! What a receiver gets.

use crate::settings::NotifyFormat;
use rbuddy_core::control::assignment::{Notification, NotificationEvent};
use rbuddy_core::types::{Generation, GroupName, NodeAddress, Time};
use serde::Serialize;

/// Content type and body.
pub(super) fn message(notification: &Notification, format: NotifyFormat) -> (&'static str, String) {
    match format {
        // As the first tool sent it. A host holds letters, digits, `.`, `-`, `_`, and in IPv6 `:` and `%`: only these two need escaping.
        NotifyFormat::Form => {
            let host = notification.new.host.replace('%', "%25").replace(':', "%3A");
            ("application/x-www-form-urlencoded", format!("host={host}&port={}", notification.new.port))
        }
        NotifyFormat::Json => {
            let body = Body {
                event: notification.event,
                group: &notification.group,
                generation: notification.generation,
                old: notification.old.as_ref().map(Place::of),
                new: Place::of(&notification.new),
                time: rfc3339(notification.time),
            };
            ("application/json", serde_json::to_string(&body).expect("plain fields have a JSON form"))
        }
    }
}

#[derive(Serialize)]
struct Body<'n> {
    event: NotificationEvent,
    group: &'n GroupName,
    generation: Generation,
    old: Option<Place<'n>>,
    new: Place<'n>,
    time: String,
}

#[derive(Serialize)]
struct Place<'n> {
    host: &'n str,
    port: u16,
}

impl<'n> Place<'n> {
    fn of(address: &'n NodeAddress) -> Place<'n> {
        Place { host: &address.host, port: address.port }
    }
}

fn rfc3339(time: Time) -> String {
    let ms = i64::try_from(time.unix_ms()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms).unwrap_or(jiff::Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notification(old: Option<&str>, new: &str) -> Notification {
        Notification {
            id: 1,
            event: NotificationEvent::Failover,
            group: "main".parse().expect("a name"),
            generation: Generation(7),
            old: old.map(|address| address.parse().expect("an address")),
            new: new.parse().expect("an address"),
            time: Time::from_unix_ms(1_795_341_600_123),
            pending: Vec::new(),
        }
    }

    #[test]
    fn the_form_is_that_of_the_first_tool() {
        let (_, body) = message(&notification(None, "10.0.0.2:6380"), NotifyFormat::Form);
        assert_eq!(body, "host=10.0.0.2&port=6380");
        let (_, body) = message(&notification(None, "[fe80::1%eth0]:1"), NotifyFormat::Form);
        assert_eq!(body, "host=fe80%3A%3A1%25eth0&port=1");
    }

    #[test]
    fn json_tells_everything() {
        let (_, body) = message(&notification(Some("10.0.0.1:6380"), "10.0.0.2:6380"), NotifyFormat::Json);
        assert_eq!(
            body,
            r#"{"event":"failover","group":"main","generation":7,"old":{"host":"10.0.0.1","port":6380},"new":{"host":"10.0.0.2","port":6380},"time":"2026-11-22T10:00:00.123Z"}"#
        );
    }
}
