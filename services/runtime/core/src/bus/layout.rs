//! Streams, consumers and schedules: what they should be, what they are, and the difference in words.
//!
//! Only what is asked for is compared, field by field as the server's own JSON, so a server that knows more fields
//! than we do never looks different, and one that silently ignores a field always does.

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{ApiError, Bus, BusError, Outbound, PublishError, StoredMessage, failed};
use crate::app::{AppName, OWNER};
use crate::backoff::Backoff;
use crate::config::{Config, Limits, Schedule, StreamConfig};
use oncue_proto::event;

/// Stream of dead letters, with subjects `dlq.<app>.<function>`.
pub const DLQ: &str = "dlq";
/// Stream of schedules and of what they fire.
pub const TIMER: &str = "timer";
/// Time that a fired event stays in the timer stream; its own stream takes it over at once, unless it is full.
pub const FIRED_TTL: &str = "72h";
/// Header of a schedule with the time zone of its cron line.
const TIME_ZONE: &str = "Nats-Schedule-Time-Zone";
/// Header of a schedule with its rule, and of one that is paused, whose rule the server must not see.
const RULE: &str = "Nats-Schedule";
const PAUSED_RULE: &str = "Oncue-Paused-Rule";
/// Header of a paused schedule with the time zone of its rule.
const PAUSED_ZONE: &str = "Oncue-Paused-Time-Zone";
/// Headers of a paused schedule: since when, RFC 3339, and who paused it.
const PAUSED: &str = "Oncue-Paused";
const PAUSED_BY: &str = "Oncue-Paused-By";
/// Note of a consumer: name of the key that its function gives its events, empty for their own.
pub const KEY: &str = "oncue.key";
/// Note of a stream that was restored: creation time of the one in the backup, Unix milliseconds.
pub const CREATED: &str = "oncue.created";
/// Stream of the key-value bucket `oncue`: what apps keep there besides events.
pub const VALUES: &str = "KV_oncue";

/// Pauses while the servers of a cluster agree on what another process is just making.
const CREATE_BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(500),
    longest: Duration::from_secs(1),
};
/// Attempts to find or make a stream or consumer at start-up.
const CREATE_ATTEMPTS: u32 = 3;

/// Stream or consumer as it should be. Made by [`stream`], [`bucket`] or [`consumer`]; [`Bus::ensure`] compares it
/// with the server and creates or changes it.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// `stream web` or `consumer web/count-views`, for people.
    pub name: String,
    /// Request for the configuration as it is, without `$JS.API.`, as are the next two.
    info: String,
    /// Request that creates it.
    create: String,
    /// Request that changes it.
    update: String,
    /// Fields that are compared, and that an update changes.
    config: Map<String, Value>,
    /// Fields that count at creation only; the server does not let them change.
    fixed: Map<String, Value>,
    /// Whether oncue.toml says that another app declares it.
    is_of_another: bool,
}

/// Result of comparing a stream or consumer with what it should be, or, where the [`Mode`] allows it, of changing it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Same,
    /// Not there before.
    Created,
    /// There with another configuration.
    Different(Vec<Difference>),
    /// A stream of this other app, which alone may change it.
    Foreign(String),
}

/// Field of a configuration that is not as it should be, in the server's own JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Name of the field, as the server calls it.
    pub field: String,
    /// Value on the server; `null` where the field is absent.
    pub is: Value,
    /// Value that was asked for.
    pub should: Value,
}

/// How far [`Bus::ensure`] may go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Change nothing, report.
    Look,
    /// Create what is missing; report what is different.
    Create,
    /// Create what is missing and change what is different.
    Apply,
    /// Create and change, and remove schedules of the app that are not wanted any more.
    Prune,
}

/// Schedule that is not as the configuration has it, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduleChange {
    /// Missing or different; made anew as the [`Mode`] allows.
    Made(String),
    /// Of this app, and not in the configuration; removed with [`Mode::Prune`].
    LeftOver(String),
    /// Paused by somebody, so it stays as it is until it is resumed.
    Paused(String),
}

/// Schedule as it stands in the timer stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StandingSchedule {
    /// Name, the last token of its subject.
    pub name: String,
    /// Type of the event it fires; empty where the message does not say.
    pub ty: String,
    /// Rule in the words of the server: `@every 10s` or a cron line.
    pub rule: String,
    /// Time zone of the rule, where it is not UTC.
    pub zone: Option<String>,
    /// When it was put there, Unix milliseconds: intervals count from it.
    pub set: u64,
    /// Pause, if somebody has paused it: it fires nothing then.
    pub pause: Option<SchedulePause>,
    /// Message that stands for it.
    message: StoredMessage,
}

/// Pause of a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchedulePause {
    /// Since when, Unix milliseconds.
    pub since: u64,
    /// Name of whoever paused it.
    pub by: String,
}

impl StandingSchedule {
    fn of(message: StoredMessage) -> Self {
        let pause = message.header(PAUSED).map(|since| SchedulePause {
            since: event::parse_time(since).unwrap_or(message.time),
            by: message.header(PAUSED_BY).unwrap_or_default().to_owned(),
        });
        let name = message.subject.rsplit('.').next().unwrap_or_default();
        let rule = message.header(RULE).or(message.header(PAUSED_RULE));
        let zone = message.header(TIME_ZONE).or(message.header(PAUSED_ZONE));
        Self {
            name: name.to_owned(),
            ty: message.header("ce-type").unwrap_or_default().to_owned(),
            rule: rule.unwrap_or_default().to_owned(),
            zone: zone.map(str::to_owned),
            set: message.time,
            pause,
            message,
        }
    }

    /// Whether it is as the configuration has it, paused or not.
    pub fn is_as(&self, schedule: &Schedule, app: &AppName) -> bool {
        if self.pause.is_none() {
            return schedule.is_message(&self.message, app);
        }
        self.ty == schedule.ty()
            && self.rule == schedule.rule()
            && self.zone.as_deref() == schedule.zone()
    }

    /// Message that takes its place while it is paused. It is no schedule to the server, which forgets the one before.
    fn paused(&self, by: &str) -> Outbound {
        let mut headers: super::headers::Headers = [
            ("ce-type", self.ty.as_str()),
            (PAUSED, &event::format_time(event::now_ms())),
            (PAUSED_BY, by),
            (PAUSED_RULE, &self.rule),
            ("Nats-Rollup", "sub"),
        ]
        .into_iter()
        .collect();
        if let Some(zone) = &self.zone {
            headers.push(PAUSED_ZONE, zone);
        }
        Outbound {
            subject: self.message.subject.clone(),
            headers,
            payload: self.message.payload.clone(),
        }
    }
}

/// A stream or consumer exists with another configuration. Prints a line for each difference.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} exists with another configuration; `oncue apply` changes it:\n{}",
    lines(differences)
)]
pub struct Mismatch {
    /// Name of the stream or consumer, for people.
    pub name: String,
    /// At least one.
    pub differences: Vec<Difference>,
}

/// Differences for people, a line each.
fn lines(differences: &[Difference]) -> String {
    let mut lines = String::new();
    for Difference { field, is, should } in differences {
        let _ = writeln!(lines, "  {field}: is {is}, should be {should}");
    }
    lines
}

/// Answer about a stream or consumer, of which only the configuration is looked at.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Existing {
    config: Map<String, Value>,
}

/// Fields of a literal object.
fn object(value: Value) -> Map<String, Value> {
    match value {
        // `json!({..})` is one.
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Stream of one domain: limits retention, and full means refused, never silently dropped.
///
/// The server allows message schedules only on a stream that may discard old messages. So schedules have a stream of
/// their own, without a limit that could make it discard; each domain's stream sources from there what is due in it.
/// When that stream is full the server waits and goes on where it stopped.
///
/// It is of `app`, unless `config` names another one; then it is never made here, and never changed.
pub fn stream(app: &AppName, domain: &str, config: &StreamConfig) -> Wanted {
    let mut fields = object(json!({
        "name": domain,
        "subjects": [format!("{domain}.>")],
        "retention": "limits",
        "storage": "file",
        "max_age": 0,
        "num_replicas": config.replicas,
        "duplicate_window": config.duplicate_window.0.as_nanos() as u64,
        "allow_direct": true,
        "allow_atomic": domain != TIMER,
    }));
    if domain == TIMER {
        fields.extend(object(json!({
            "discard": "old",
            "max_bytes": -1,
            "allow_msg_schedules": true,
            "allow_msg_ttl": true,
        })));
    } else {
        fields.extend(object(
            json!({ "discard": "new", "max_bytes": config.max_bytes.0 }),
        ));
    }
    if domain != TIMER && domain != DLQ {
        let due =
            json!({ "src": format!("{TIMER}.due.{domain}.>"), "dest": format!("{domain}.>") });
        fields.insert(
            "sources".into(),
            json!([{ "name": TIMER, "subject_transforms": [due] }]),
        );
        // The key token is for those who subscribe. Kept, each key would be a subject of the stream, and to find the next
        // event for a consumer of several subjects the server goes through all of them: 20 times the CPU at 5,000 keys.
        let keyed = format!("{domain}.*.*.*");
        let bare = format!("{domain}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}");
        fields.insert(
            "subject_transform".into(),
            json!({ "src": keyed, "dest": bare }),
        );
    }
    let owner = config.app.as_ref().unwrap_or(app);
    Wanted {
        is_of_another: owner != app,
        ..wanted_stream(owner, domain, fields)
    }
}

/// Object store bucket for the app's files, in the layout every NATS client knows [ADR-20].
pub fn bucket(app: &AppName, config: &StreamConfig) -> Wanted {
    let name = app.bucket();
    let fields = json!({
        "name": format!("OBJ_{name}"),
        "subjects": [format!("$O.{name}.C.>"), format!("$O.{name}.M.>")],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_bytes": config.max_bytes.0,
        "num_replicas": config.replicas,
        "allow_rollup_hdrs": true,
        "allow_direct": true,
    });
    wanted_stream(app, &format!("OBJ_{name}"), object(fields))
}

/// Key-value bucket that all apps share, in the layout every NATS client knows [ADR-8].
pub fn values(app: &AppName) -> Wanted {
    let fields = json!({
        "name": VALUES,
        "subjects": ["$KV.oncue.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "max_msgs_per_subject": 1,
        "allow_rollup_hdrs": true,
        "deny_delete": true,
        "allow_direct": true,
    });
    wanted_stream(app, VALUES, object(fields))
}

/// Stream of an app, of these fields, all of which an update may change.
fn wanted_stream(app: &AppName, name: &str, mut config: Map<String, Value>) -> Wanted {
    config.insert("metadata".into(), json!({ OWNER: app }));
    Wanted {
        name: format!("stream {name}"),
        info: format!("STREAM.INFO.{name}"),
        create: format!("STREAM.CREATE.{name}"),
        update: format!("STREAM.UPDATE.{name}"),
        config,
        fixed: Map::new(),
        is_of_another: false,
    }
}

/// Durable pull consumer of one function, shared by all its workers: explicit acks, deliveries without end (attempts
/// are counted in Redis, and a worker dead-letters, not the server), and at most `reserved_concurrency` events in
/// flight. `name` is what [`AppName::consumer`] makes of the function's.
pub fn consumer(name: &str, stream: &str, filters: &[String], limits: &Limits) -> Wanted {
    let config = json!({
        "durable_name": name,
        "ack_policy": "explicit",
        "ack_wait": limits.ack_wait.0.as_nanos() as u64,
        "max_deliver": -1,
        "max_ack_pending": limits.reserved_concurrency,
        "filter_subjects": filters,
    });
    Wanted {
        name: format!("consumer {stream}/{name}"),
        info: format!("CONSUMER.INFO.{stream}.{name}"),
        create: format!("CONSUMER.CREATE.{stream}.{name}"),
        update: format!("CONSUMER.CREATE.{stream}.{name}"),
        config: object(config),
        fixed: object(
            json!({ "deliver_policy": limits.start.policy(), "replay_policy": "instant" }),
        ),
        is_of_another: false,
    }
}

/// Subjects of types: of each the bare one, and the one with a key token.
pub fn filters(types: &[&str]) -> Vec<String> {
    types
        .iter()
        .flat_map(|ty| [(*ty).to_owned(), format!("{ty}.*")])
        .collect()
}

/// Whether filters as [`filters`] makes them match a subject.
pub fn matches(filters: &[String], subject: &str) -> bool {
    filters
        .iter()
        .any(|filter| match filter.strip_suffix(".*") {
            Some(ty) => subject
                .strip_prefix(ty)
                .and_then(|key| key.strip_prefix('.'))
                .is_some_and(|key| !key.contains('.')),
            None => subject == filter,
        })
}

impl Wanted {
    /// With a note in its metadata.
    #[must_use]
    pub fn noting(mut self, name: &str, value: &str) -> Self {
        let notes = self.config.entry("metadata").or_insert_with(|| json!({}));
        notes[name] = value.into();
        self
    }

    /// A stream that so many servers of a cluster hold.
    #[must_use]
    pub fn with_copies(mut self, copies: u32) -> Self {
        self.config.insert("num_replicas".to_owned(), copies.into());
        self
    }

    /// Stream of a consumer; `None` for a stream.
    fn stream_of_consumer(&self) -> Option<&str> {
        let name = self.create.strip_prefix("CONSUMER.CREATE.")?;
        name.split('.').next()
    }

    /// Request that creates it.
    fn create_body(&self) -> Value {
        let mut config = self.config.clone();
        config.extend(self.fixed.clone());
        self.body(config, "create")
    }

    /// Request that updates it. An update replaces the whole configuration, so fields that we have no opinion on are
    /// carried over from the `existing` one.
    fn update_body(&self, existing: &Map<String, Value>) -> Value {
        let mut config = self.config.clone();
        for (field, value) in existing {
            match (config.get_mut(field), value) {
                // What others have noted there stays.
                (Some(Value::Object(ours)), Value::Object(theirs)) => {
                    for (name, value) in theirs {
                        ours.entry(name.clone()).or_insert_with(|| value.clone());
                    }
                }
                (Some(_), _) => {}
                (None, value) => {
                    config.insert(field.clone(), value.clone());
                }
            }
        }
        if self.stream_of_consumer().is_some() {
            config.remove("filter_subject"); // excludes filter_subjects
        }
        self.body(config, "update")
    }

    /// Body of a request: the configuration, for a consumer with its stream and what to do.
    fn body(&self, config: Map<String, Value>, action: &str) -> Value {
        match self.stream_of_consumer() {
            Some(stream) => json!({ "stream_name": stream, "config": config, "action": action }),
            None => Value::Object(config),
        }
    }

    /// Fields that are not as they should be.
    fn differences(&self, existing: &Map<String, Value>) -> Vec<Difference> {
        let mut differences = Vec::new();
        for (field, should) in &self.config {
            let is = existing.get(field).unwrap_or(&Value::Null);
            let is_same = is_as(is, should) || (is_unset(is) && is_unset(should));
            if !is_same {
                differences.push(Difference {
                    field: field.clone(),
                    is: is.clone(),
                    should: should.clone(),
                });
            }
        }
        differences
    }
}

/// App that a stream is of, by its metadata; `None` where nothing is noted, and for consumers.
pub fn owner(config: &Map<String, Value>) -> Option<&str> {
    config.get("metadata")?.get(OWNER)?.as_str()
}

/// Whether a value is as asked for; an object may hold more, since the server adds notes of its own.
fn is_as(is: &Value, should: &Value) -> bool {
    match (is, should) {
        (Value::Object(is), Value::Object(should)) => should
            .iter()
            .all(|(name, value)| is.get(name) == Some(value)),
        _ => is == should,
    }
}

/// Absent, null, false and zero are one to the server.
fn is_unset(value: &Value) -> bool {
    matches!(value, Value::Null | Value::Bool(false)) || value.as_i64() == Some(0)
}

impl Bus {
    /// Compares a stream or consumer with what it should be, and acts as `mode` allows. Says what it found: with
    /// [`Mode::Look`] [`Outcome::Created`] means that it is missing. Fails with the server's refusal.
    pub async fn ensure(&self, wanted: &Wanted, mode: Mode) -> Result<Outcome, ApiError> {
        let existing = match self.existing(wanted).await {
            Ok(existing) => existing.config,
            Err(e) if e.is_not_found() && !wanted.is_of_another => {
                if mode != Mode::Look {
                    self.create(wanted).await?;
                }
                return Ok(Outcome::Created);
            }
            Err(e) => return Err(e),
        };
        if let Some(owner) = owner(&existing)
            && owner != self.app().as_str()
        {
            return Ok(Outcome::Foreign(owner.to_owned()));
        }
        let differences = wanted.differences(&existing);
        if differences.is_empty() {
            return Ok(Outcome::Same);
        }
        if matches!(mode, Mode::Apply | Mode::Prune) {
            let body = wanted.update_body(&existing);
            self.api(&wanted.update, &body).await?;
        }
        Ok(Outcome::Different(differences))
    }

    /// Configuration as it is; a 404 where there is none.
    async fn existing(&self, wanted: &Wanted) -> Result<Existing, ApiError> {
        self.ask(&wanted.info, &Value::Null).await
    }

    /// Several workers of one function may start at once: the second finds what the first has made.
    async fn create(&self, wanted: &Wanted) -> Result<(), ApiError> {
        let made: Existing = match self.ask(&wanted.create, &wanted.create_body()).await {
            Ok(made) => made,
            Err(e) => match self.existing(wanted).await {
                Ok(there) => there,
                Err(_) => return Err(e),
            },
        };
        // An older server drops fields it does not know without a word.
        match wanted.differences(&made.config).first() {
            None => Ok(()),
            Some(Difference { field, is, should }) => Err(ApiError {
                code: 500,
                err_code: 0,
                description: format!("the server made {field} {is} where {should} was asked"),
            }),
        }
    }

    /// For the start of a program: refuses what is missing, and what is different with a [`Mismatch`]; takes what is of
    /// another app as it is.
    pub async fn require(&self, wanted: &Wanted) -> Result<(), BusError> {
        self.compare(wanted, Mode::Look).await
    }

    /// For operators' programs: creates what is missing, refuses what is different with a [`Mismatch`], takes what is of
    /// another app as it is.
    pub async fn provide(&self, wanted: &Wanted) -> Result<(), BusError> {
        self.compare(wanted, Mode::Create).await
    }

    /// Compares until there is an answer: in a cluster, what is just being made does not answer until its servers have
    /// agreed.
    async fn compare(&self, wanted: &Wanted, mode: Mode) -> Result<(), BusError> {
        for attempt in 1.. {
            match self.ensure(wanted, mode).await {
                Ok(Outcome::Created) if mode == Mode::Look => {
                    let name = &wanted.name;
                    return Err(BusError(format!(
                        "{name} is missing; `oncue apply` makes it"
                    )));
                }
                Ok(Outcome::Same | Outcome::Created | Outcome::Foreign(_)) => break,
                Ok(Outcome::Different(differences)) => {
                    let mismatch = Mismatch {
                        name: wanted.name.clone(),
                        differences,
                    };
                    return Err(BusError(mismatch.to_string()));
                }
                Err(e) if e.code == 503 && attempt < CREATE_ATTEMPTS => {
                    tokio::time::sleep(CREATE_BACKOFF.delay(attempt)).await;
                }
                Err(e) => return Err(failed(&wanted.name, e)),
            }
        }
        Ok(())
    }

    /// Creation time of a stream in Unix milliseconds: part of the identity of plain messages, so that a stream that
    /// was deleted and made anew does not repeat identities.
    pub async fn stream_created(&self, stream: &str) -> Result<u64, BusError> {
        let info = self
            .stream_info(stream)
            .await
            .map_err(|e| failed(stream, e))?;
        info.created_ms()
            .ok_or_else(|| BusError(format!("stream {stream} does not say when it was created")))
    }

    /// Puts the recurring schedules of the configuration into the timer stream, in place of those under the same
    /// names that differ, and with [`Mode::Prune`] removes others of the app. Returns what was (or, as the mode has it,
    /// would be) done.
    pub async fn ensure_schedules(
        &self,
        config: &Config,
        mode: Mode,
    ) -> Result<Vec<ScheduleChange>, BusError> {
        let mut done = Vec::new();
        for schedule in &config.schedules {
            done.extend(self.ensure_schedule(schedule, config, mode).await?);
        }
        for subject in self.schedules_left_over(config).await? {
            done.push(ScheduleChange::LeftOver(format!("schedule {subject}")));
            if mode == Mode::Prune {
                let purge = self
                    .api(
                        &format!("STREAM.PURGE.{TIMER}"),
                        &json!({ "filter": subject }),
                    )
                    .await;
                purge.map_err(|e| failed(&subject, e))?;
            }
        }
        Ok(done)
    }

    /// Puts one schedule there, unless it is there already, or paused.
    async fn ensure_schedule(
        &self,
        schedule: &Schedule,
        config: &Config,
        mode: Mode,
    ) -> Result<Option<ScheduleChange>, BusError> {
        let zone = schedule.zone().map(|zone| format!(" {zone}"));
        let what = format!(
            "schedule {} {}{}",
            schedule.name(),
            schedule.rule(),
            zone.unwrap_or_default()
        );
        for attempt in 1.. {
            let wanted = schedule.message(&config.app);
            let subject = wanted.subject.clone();
            let there = self.last_message(TIMER, &subject).await;
            let there = there.map_err(|e| failed(&subject, e))?;
            if let Some(there) = &there {
                if there.header(PAUSED).is_some() {
                    return Ok(Some(ScheduleChange::Paused(what)));
                }
                if schedule.is_message(there, &config.app) {
                    return Ok(None);
                }
            }
            if mode == Mode::Look {
                break;
            }
            // In place of what was looked at, and else looked at again: somebody may have paused it since, or put it there as
            // well.
            let last = there.map_or(0, |there| there.sequence);
            match self.put_schedule(wanted, last).await {
                Ok(()) => break,
                Err(PublishError::Outdated(_)) if attempt < CREATE_ATTEMPTS => {}
                Err(e) => return Err(failed(subject, e)),
            }
        }
        Ok(Some(ScheduleChange::Made(what)))
    }

    /// Schedules of the app as they stand in the timer stream, by name; none where there is no such stream.
    ///
    /// # Errors
    /// NATS does not answer.
    pub async fn standing_schedules(&self) -> Result<Vec<StandingSchedule>, BusError> {
        let filter = format!("{TIMER}.schedule.{}.*", self.app());
        let subjects = match self.stream_subjects(TIMER, &filter).await {
            Ok(subjects) => subjects,
            Err(e) if e.is_not_found() => return Ok(Vec::new()),
            Err(e) => return Err(failed(TIMER, e)),
        };
        let asked = subjects
            .keys()
            .map(|subject| self.last_message(TIMER, subject));
        let found = try_join_all(asked).await.map_err(|e| failed(TIMER, e))?;
        let found = found.into_iter().flatten();
        Ok(found.map(StandingSchedule::of).collect())
    }

    /// Pauses a schedule: it stands there still and fires nothing, over restarts and `oncue apply`, until it is resumed.
    ///
    /// # Errors
    /// Somebody has changed the schedule since it was read, or NATS does not take it.
    pub async fn pause_schedule(
        &self,
        standing: &StandingSchedule,
        by: &str,
    ) -> Result<(), PublishError> {
        self.put_schedule(standing.paused(by), standing.message.sequence)
            .await
    }

    /// Puts a schedule of the configuration in the place of `standing`, paused or not: it fires from now on. Intervals count from
    /// now.
    ///
    /// # Errors
    /// As of [`pause_schedule`](Self::pause_schedule).
    pub async fn resume_schedule(
        &self,
        schedule: &Schedule,
        standing: &StandingSchedule,
    ) -> Result<(), PublishError> {
        self.put_schedule(schedule.message(self.app()), standing.message.sequence)
            .await
    }

    /// Publishes what stands for a schedule, if what stood there is still the last of its subject.
    async fn put_schedule(&self, mut message: Outbound, last: u64) -> Result<(), PublishError> {
        message
            .headers
            .push("Nats-Expected-Last-Subject-Sequence", &last.to_string());
        self.publish_each(vec![message]).await.remove(0).map(|_| ())
    }

    /// Subjects of schedules in the timer stream that the configuration does not have.
    async fn schedules_left_over(&self, config: &Config) -> Result<Vec<String>, BusError> {
        let wanted: Vec<String> = config
            .schedules
            .iter()
            .map(|s| s.message(&config.app).subject)
            .collect();
        let filter = format!("{TIMER}.schedule.{}.*", config.app);
        match self.stream_subjects(TIMER, &filter).await {
            Ok(subjects) => Ok(subjects
                .into_keys()
                .filter(|subject| !wanted.contains(subject))
                .collect()),
            Err(e) if e.is_not_found() => Ok(Vec::new()),
            Err(e) => Err(failed(TIMER, e)),
        }
    }
}

/// Message that stands in the timer stream as a schedule, one for each `subject`, and fires `event` by `rule`
/// (`@every 10s`, `@at TIME` or a cron line) [NATS ADR-51]. It fires into the timer stream, from where the stream of
/// `ty` takes it over. The server drops the message id of what it fires, so an id must be in the event's own headers.
pub fn scheduled(
    subject: String,
    rule: &str,
    ty: &str,
    key: &str,
    mut event: Outbound,
) -> Outbound {
    let own = event::stream_of_type(ty) == TIMER;
    let target = if own {
        event::subject(ty, key)
    } else {
        format!("{TIMER}.due.{ty}")
    };
    event.subject = subject;
    event.headers.push(RULE, rule);
    event.headers.push("Nats-Schedule-Target", &target);
    event.headers.push("Nats-Schedule-TTL", FIRED_TTL);
    event
}

impl Schedule {
    /// `[[schedule]]` as the message that stands for it: without id and time, so that each firing gets its own.
    pub fn message(&self, app: &AppName) -> Outbound {
        let ty = self.ty();
        let headers = [
            ("ce-specversion", "1.0"),
            ("ce-type", ty.as_str()),
            ("ce-source", "/schedule"),
            ("ce-datacontenttype", "application/json"),
        ];
        let headers = headers.into_iter().collect();
        let event = Outbound {
            subject: String::new(),
            headers,
            payload: self.payload().to_string().into(),
        };
        let mut message = scheduled(
            format!("{TIMER}.schedule.{app}.{}", self.name()),
            &self.rule(),
            &ty,
            self.key(),
            event,
        );
        if let Some(zone) = self.zone() {
            message.headers.push(TIME_ZONE, zone);
        }
        message
    }

    /// Whether a message in the timer stream stands for it. The server adds headers of its own; ours must be there.
    fn is_message(&self, there: &StoredMessage, app: &AppName) -> bool {
        let wanted = self.message(app);
        there.payload == wanted.payload
            && wanted
                .headers
                .iter()
                .all(|(name, value)| there.header(name) == Some(value))
            && there.header(TIME_ZONE) == self.zone()
    }
}
