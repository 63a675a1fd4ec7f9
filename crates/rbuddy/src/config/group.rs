//! One `[groups.NAME]`: its keys, their defaults and ranges. What spans several keys or groups is in [`super::cross`].

use super::fields::{Field, Fields, Placed};
use super::problem::Problems;
use super::relay::{self, RelayDraft};
use super::server;
use super::units::{Listen, Wrong};
use rbuddy_core::control::settings::{Consistency, DriftGuard, FreezeMode, GroupPolicy, Guard, MaxLag, SnapshotFrom, StandbyMode};
use rbuddy_core::types::{GroupName, NodeAddress};
use rbuddy_runtime::settings::{
    Endpoint, GroupSettings, NotifyFormat, NotifySettings, PrimaryPlace, PrimarySettings, ReaderSettings, Secret, SentinelSettings,
};
use std::ops::Range;
use std::time::Duration;

/// What was read of a group. What was wrong or missing is `None`, so that the rest can still be judged.
pub(crate) struct GroupDraft {
    pub(crate) name: Option<GroupName>,
    pub(crate) span: Range<usize>,
    pub(crate) primary: Option<Placed<PrimarySettings>>,
    pub(crate) replicas: Vec<Placed<Endpoint>>,
    pub(crate) are_replicas_sound: bool,
    pub(crate) relay: Option<RelayDraft>,
    pub(crate) reader: Option<ReaderDraft>,
    actives: Option<u64>,
    standby: StandbyMode,
    consistency: Consistency,
    max_unavailable: Option<u64>,
    freeze: FreezeMode,
    drain: Duration,
    max_lag: MaxLag,
    guard: Guard,
    dead_after: Duration,
    snapshot_from: SnapshotFrom,
    notify: Vec<NotifySettings>,
}

/// `reader = { … }`
pub(crate) struct ReaderDraft {
    pub(crate) listen: Option<Placed<Listen>>,
    max_clients: u64,
    park: Duration,
}

/// Reads one group.
pub(crate) fn read(name: &Placed<String>, field: &Field<'_>, problems: &mut Problems) -> Option<GroupDraft> {
    let parsed_name = group_name(name, problems);
    let mut fields = field.table(problems)?;
    let primary = fields.need("primary", "primary = \"redis://127.0.0.1:6379\"", problems).and_then(|field| primary(&field, problems));
    let replicas_field = fields.need("replicas", "replicas = [\"redis://127.0.0.1:6380\", \"redis://127.0.0.1:6381\"]", problems);
    let (replicas, are_replicas_sound) = replicas_field.and_then(|field| replicas(&field, problems)).unwrap_or((Vec::new(), false));
    let actives_range = 1..=(replicas.len().max(1) as u64);
    // One goes on serving, however many may be resynced.
    let spare_range = 1..=(replicas.len().max(2) as u64 - 1);
    let standby = fields.take("standby").and_then(|field| field.choice(&STANDBY, problems)).unwrap_or_default();
    let actives = fields.take("active").filter(|_| are_replicas_sound).and_then(|field| field.count(actives_range, problems));
    let draft = GroupDraft {
        name: parsed_name,
        span: name.span.clone(),
        primary,
        replicas,
        are_replicas_sound,
        relay: fields.need("relay", "relay = { listen = \"127.0.0.1:6382\" }", problems).and_then(|field| relay::read(&field, problems)),
        reader: fields.take("reader").and_then(|field| reader(&field, problems)),
        actives,
        standby,
        consistency: fields.take("consistency").and_then(|field| field.choice(&CONSISTENCY, problems)).unwrap_or_default(),
        max_unavailable: fields.take("max_unavailable").filter(|_| are_replicas_sound).and_then(|field| field.count(spare_range, problems)),
        freeze: fields.take("freeze").and_then(|field| freeze(&field, problems)).unwrap_or_default(),
        drain: fields.take("drain").and_then(|field| drain(&field, problems)).unwrap_or(Duration::from_secs(10)),
        max_lag: fields.take("max_lag").and_then(|field| max_lag(&field, problems)).unwrap_or_default(),
        guard: fields.take("guard").and_then(|field| guard(&field, problems)).unwrap_or_default(),
        dead_after: fields.duration("dead_after", ms(500)..=s(60), problems).unwrap_or(s(3)),
        snapshot_from: fields.take("snapshot_from").and_then(|field| field.choice(&SNAPSHOT_FROM, problems)).unwrap_or_default(),
        notify: fields.take("notify").and_then(|field| notify(&field, problems)).unwrap_or_default(),
    };
    fields.finish(problems);
    Some(draft)
}

impl GroupDraft {
    /// The settings, if nothing that they need is missing.
    pub(crate) fn settings(self) -> Option<GroupSettings> {
        let relay = self.relay?.settings()?;
        let primary = self.primary?.value;
        let replicas: Vec<Endpoint> = self.replicas.into_iter().map(|replica| replica.value).collect();
        let policy = GroupPolicy {
            group: self.name?,
            primary: primary.at(),
            replicas: replicas.iter().map(|replica| replica.address.clone()).collect(),
            actives: usize::try_from(self.actives.unwrap_or(1)).ok()?,
            relay: relay.announce.clone(),
            standby: self.standby,
            consistency: self.consistency,
            max_unavailable: usize::try_from(self.max_unavailable.unwrap_or(1)).ok()?,
            freeze: self.freeze,
            drain: self.drain,
            max_lag: self.max_lag,
            guard: self.guard,
            dead_after: self.dead_after,
            snapshot_from: self.snapshot_from,
            notify: self.notify.iter().map(|target| target.url.clone()).collect(),
        };
        let reader = match self.reader {
            None => None,
            Some(reader) => Some(ReaderSettings {
                listen: reader.listen?.value.text(),
                max_clients: usize::try_from(reader.max_clients).ok()?,
                park: reader.park,
            }),
        };
        Some(GroupSettings { policy, primary, replicas, relay, reader, notify: self.notify })
    }

    /// Several actives are to come to a new dataset at once.
    pub(crate) fn is_atomic(&self) -> bool {
        self.consistency == Consistency::Atomic
    }

    /// It says how many replicas may be resynced at a time.
    pub(crate) fn limits_unavailable(&self) -> bool {
        self.max_unavailable.is_some()
    }

    /// How many replicas serve and what the rest is.
    pub(crate) fn serving(&self) -> (u64, StandbyMode) {
        (self.actives.unwrap_or(1), self.standby)
    }
}

fn group_name(name: &Placed<String>, problems: &mut Problems) -> Option<GroupName> {
    // It stands in the API's paths, where /v1 is taken.
    if name.value == "v1" {
        problems.error(name.span.clone(), "a group cannot be named `v1`", "choose another name: the API's own paths begin with /v1");
        return None;
    }
    let parsed = name.value.parse();
    if parsed.is_err() {
        problems.error(name.span.clone(), "this cannot name a group", "a group's name has 1 to 64 of a-z A-Z 0-9 _ -");
    }
    parsed.ok()
}

/// Its URL, or `{ sentinel = […], name = "…" }`.
fn primary(field: &Field<'_>, problems: &mut Problems) -> Option<Placed<PrimarySettings>> {
    if !field.is_table() {
        return field.parsed(problems, server::primary);
    }
    let mut fields = field.table(problems)?;
    let example = "primary = { sentinel = [\"127.0.0.1:26379\"], name = \"mymaster\" }";
    let sentinels = fields.need("sentinel", example, problems).and_then(|field| sentinels(&field, problems));
    let name = fields.need("name", example, problems).and_then(|field| field.parsed(problems, server::sentinel_name));
    let own_login = login(&mut fields, "user", "password", problems);
    let sentinel_login = login(&mut fields, "sentinel_user", "sentinel_password", problems);
    fields.finish(problems);
    let (user, password) = sentinel_login?;
    let endpoint = |address| Endpoint { address, user: user.clone(), password: password.clone() };
    let sentinels = SentinelSettings { name: name?.value, sentinels: sentinels?.into_iter().map(endpoint).collect() };
    let (user, password) = own_login?;
    Some(Placed { value: PrimarySettings { place: PrimaryPlace::Sentinels(sentinels), user, password }, span: field.span.clone() })
}

/// `None` if it is wrong; a user alone is.
fn login(
    fields: &mut Fields<'_>,
    user: &'static str,
    password: &'static str,
    problems: &mut Problems,
) -> Option<(Option<String>, Option<Secret>)> {
    let (user, password_field) = (fields.take(user), fields.take(password));
    if let (Some(user), None) = (&user, &password_field) {
        problems.error(user.span.clone(), format!("`{}` has no password", user.path), format!("add {password} = \"…\""));
        return None;
    }
    let user = user.map(|field| field.text(problems).map(str::to_owned));
    let password = password_field.map(|field| field.text(problems).map(Secret::new));
    // Present and wrong is not the same as absent.
    match (user, password) {
        (Some(None), _) | (_, Some(None)) => None,
        (user, password) => Some((user.flatten(), password.flatten())),
    }
}

/// The Sentinels, each once.
fn sentinels(field: &Field<'_>, problems: &mut Problems) -> Option<Vec<NodeAddress>> {
    let mut sentinels: Vec<NodeAddress> = Vec::new();
    let elements = field.array(problems)?;
    if elements.is_empty() {
        problems.error(
            field.span.clone(),
            format!("`{}` names no Sentinel", field.path),
            "name at least one; all, so that any may be away",
        );
        return None;
    }
    let mut are_sound = true;
    for element in elements {
        match element.parsed(problems, server::sentinel) {
            None => are_sound = false,
            Some(twice) if sentinels.contains(&twice.value) => {
                problems.error(twice.span, "this Sentinel is named twice", "remove one");
                are_sound = false;
            }
            Some(sentinel) => sentinels.push(sentinel.value),
        }
    }
    are_sound.then_some(sentinels)
}

/// The sound ones, and whether all are.
fn replicas<'t>(field: &Field<'t>, problems: &mut Problems) -> Option<(Vec<Placed<Endpoint>>, bool)> {
    let elements = field.array(problems)?;
    if elements.is_empty() {
        problems.error(
            field.span.clone(),
            format!("`{}` names no replica", field.path),
            "name at least one; two, so that one can take over",
        );
        return None;
    }
    let count = elements.len();
    let sound: Vec<_> = elements.into_iter().filter_map(|element| element.parsed(problems, server::endpoint)).collect();
    let are_sound = sound.len() == count;
    Some((sound, are_sound))
}

fn reader(field: &Field<'_>, problems: &mut Problems) -> Option<ReaderDraft> {
    let mut fields = field.table(problems)?;
    let draft = ReaderDraft {
        listen: fields.need("listen", "listen = \"127.0.0.1:6390\"", problems).and_then(|field| field.listen(problems)),
        max_clients: fields.take("max_clients").and_then(|field| field.count(1..=1_000_000, problems)).unwrap_or(10_000),
        park: fields.duration("park", s(0)..=s(60), problems).unwrap_or(s(5)),
    };
    fields.finish(problems);
    Some(draft)
}

fn freeze(field: &Field<'_>, problems: &mut Problems) -> Option<FreezeMode> {
    let mode = field.choice(&FREEZE, problems)?;
    if mode == FreezeMode::Detach {
        let remedy = "prefer \"hold\": a detached replica calls itself a master, and expires and evicts keys by itself";
        problems.note(field.span.clone(), "actives are detached (REPLICAOF NO ONE) while a new dataset arrives", remedy);
    }
    Some(mode)
}

fn drain(field: &Field<'_>, problems: &mut Problems) -> Option<Duration> {
    let value = field.duration(s(0)..=s(3600), problems)?;
    if value < s(7) {
        problems.warning(field.span.clone(), "under 7 s some clients that follow by Sentinel are cut off", "choose 7s or more");
    }
    Some(value)
}

fn max_lag(field: &Field<'_>, problems: &mut Problems) -> Option<MaxLag> {
    let mut fields = field.table(problems)?;
    let default = MaxLag::default();
    let max_lag = MaxLag {
        bytes: fields.take("bytes").and_then(|field| field.size(1..=(1 << 40), problems)).unwrap_or(default.bytes),
        // Replicas send one ACK a second: less than that could never be kept.
        time: fields.duration("time", ms(1100)..=s(3600), problems).unwrap_or(default.time),
    };
    fields.finish(problems);
    Some(max_lag)
}

fn guard(field: &Field<'_>, problems: &mut Problems) -> Option<Guard> {
    let mut fields = field.table(problems)?;
    let default = Guard::default();
    let guard = Guard {
        min_keys_ratio: fields.take("min_keys_ratio").and_then(|field| field.ratio(0.0..=1.0, problems)).unwrap_or(default.min_keys_ratio),
        min_keys: fields.take("min_keys").and_then(|field| field.count(0..=u64::MAX, problems)).unwrap_or(default.min_keys),
        drift: fields.take("drift").and_then(|field| field.choice(&DRIFT, problems)).unwrap_or(default.drift),
    };
    fields.finish(problems);
    Some(guard)
}

fn notify(field: &Field<'_>, problems: &mut Problems) -> Option<Vec<NotifySettings>> {
    let mut targets: Vec<NotifySettings> = Vec::new();
    for element in field.array(problems)? {
        let Some(mut fields) = element.table(problems) else { continue };
        let url = fields.need("url", "notify = [{ url = \"http://localhost:8002/failover\" }]", problems);
        let url = url.and_then(|field| field.parsed(problems, webhook_url));
        let format = fields.take("format").and_then(|field| field.choice(&FORMAT, problems)).unwrap_or(NotifyFormat::Form);
        fields.finish(problems);
        let Some(url) = url else { continue };
        if targets.iter().any(|target| target.url == url.value) {
            problems.error(url.span, "this receiver is named twice", "remove one");
            continue;
        }
        targets.push(NotifySettings { url: url.value, format });
    }
    Some(targets)
}

fn webhook_url(text: &str) -> Result<String, Wrong> {
    let wrong = |message| Wrong::new(message, "write http://host:port/path or https://host/path");
    let url = reqwest::Url::parse(text).map_err(|_| wrong("this is not a URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("the URL's scheme is neither http nor https"));
    }
    Ok(text.to_owned())
}

const STANDBY: [(&str, StandbyMode); 2] = [("empty", StandbyMode::Empty), ("warm", StandbyMode::Warm)];
const CONSISTENCY: [(&str, Consistency); 2] = [("rolling", Consistency::Rolling), ("atomic", Consistency::Atomic)];
const SNAPSHOT_FROM: [(&str, SnapshotFrom); 2] = [("primary", SnapshotFrom::Primary), ("replica", SnapshotFrom::Replica)];
const FREEZE: [(&str, FreezeMode); 2] = [("hold", FreezeMode::Hold), ("detach", FreezeMode::Detach)];
const DRIFT: [(&str, DriftGuard); 2] = [("refuse", DriftGuard::Refuse), ("warn", DriftGuard::Warn)];
const FORMAT: [(&str, NotifyFormat); 2] = [("form", NotifyFormat::Form), ("json", NotifyFormat::Json)];

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
