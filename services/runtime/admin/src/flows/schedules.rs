//! Schedules of the app: those that `oncue.toml` declares, as they stand in NATS, and those that stand there and that nobody
//! declares any more. With their next firings, their last ones, and what may be done: fire one now, pause it, resume it.
//!
//! A schedule is one message in the stream `timer`, on which the server acts. A pause is another message in its place, which is
//! no schedule to the server: so it holds over restarts of everything, and `oncue apply` leaves it alone.
//!
//! | question | source | cost |
//! |---|---|---|
//! | [what there is](read) | subjects of the stream `timer`, and the message of each | one request, and one for each schedule |
//! | [when it fired last](runs) | what it fired, in `timer` for 72 h, and then in its own stream | some requests for each schedule |

use std::time::Duration;

use futures_util::future::try_join_all;
use jiff::{Timestamp, ZonedDateTime};
use oncue_core::bus::layout::{FIRED_TTL, SchedulePause, StandingSchedule, TIMER};
use oncue_core::bus::{Bus, BusError, PubAck, PublishError, Slice, StoredMessage};
use oncue_core::config::{Bounds, Config, Cron, Schedule};
use oncue_proto::Catalog;
use oncue_proto::event::stream_of_type;
use oncue_proto::oncue::v1::Header;
use serde::Serialize;

use super::clock;
use super::{HandMadeEvent, Sender};
use crate::AdminError;
use crate::stores::streams::{Newest, SCHEDULER, newest};

/// Questions to the server for the firings of one schedule, which are looked for each time that somebody looks at it.
const QUESTIONS: usize = 20;
/// Header in which a stream says where it took a message from.
const TAKEN_FROM: &str = "Nats-Stream-Source";
/// Header with the time after which a message goes by itself.
const TTL: &str = "Nats-TTL";
/// How much sooner a stream may say it took a message than the stream it came from: of two servers, with two clocks.
const SKEW_MS: u64 = 2000;
/// Messages of a type that are looked through for the one that a firing became.
const NEIGHBOURS: usize = 256;

/// Standing of a schedule on the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Fires as it is declared.
    Set,
    /// Fires nothing until it is resumed.
    Paused,
    /// Declared, and not on the server: it fires nothing.
    Missing,
    /// On the server with another rule, zone or event than is declared, by which it fires.
    Different,
    /// On the server, where it fires, and declared by nobody.
    LeftOver,
    /// NATS does not answer.
    Unknown,
}

/// Schedule with everything that is known of it.
#[derive(Debug, Clone)]
pub struct ScheduleState {
    /// Name, unique in the app.
    pub name: String,
    /// Type of the event it fires.
    pub ty: String,
    /// Function it is meant for, where it names one.
    pub function: Option<String>,
    /// Rule in the words of the server: `@every 10s` or a cron line.
    pub rule: String,
    /// Time zone of the rule; UTC unless another is named.
    pub zone: String,
    /// Whether `oncue.toml` has it.
    pub declared: bool,
    /// How it stands on the server.
    pub standing: Standing,
    /// Pause, where it is paused.
    pub pause: Option<SchedulePause>,
    /// Next firings by the clock of its zone, the first first; none where that is not known, or it fires nothing.
    pub next: Vec<ZonedDateTime>,
}

/// Firing of a schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ScheduleRun {
    /// When, Unix milliseconds.
    pub at: u64,
    /// Flow that it began; `None` where its stream does not have the event, or has it no more.
    pub flow: Option<String>,
}

/// Reason for which nothing was done with a schedule; its text is for a person.
#[derive(Debug, thiserror::Error)]
pub enum ScheduleError {
    /// No such schedule is declared or stands on the server.
    #[error("there is no schedule {0:?}")]
    Unknown(String),
    /// Already as somebody wants it, or not to be made so.
    #[error("{0}")]
    Refused(String),
    /// Somebody else has changed it meanwhile.
    #[error("the schedule {0} has changed since it was looked at; nothing was done")]
    Changed(String),
    /// NATS did not do it.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// NATS did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// Rule of a schedule, read.
enum Rule {
    Every(Duration),
    Cron(Box<Cron>),
}

impl Rule {
    /// `None` for what this program cannot read, which a server of a later version may.
    fn of(text: &str) -> Option<Self> {
        if let Some(span) = text.strip_prefix("@every ") {
            let seconds = span.strip_suffix('s')?.parse().ok()?;
            return Some(Self::Every(Duration::from_secs(seconds)));
        }
        Some(Self::Cron(Box::new(text.parse().ok()?)))
    }

    /// Next firings; of an interval only where it is known since when it counts.
    fn next(
        self,
        zone: Option<&str>,
        set: Option<u64>,
        now: Timestamp,
        count: usize,
    ) -> Vec<ZonedDateTime> {
        match self {
            Self::Every(every) => set.map_or_else(Vec::new, |set| {
                clock::beats(every, set, now).take(count).collect()
            }),
            Self::Cron(cron) => clock::named(zone).map_or_else(Vec::new, |zone| {
                clock::firings(*cron, zone, now).take(count).collect()
            }),
        }
    }
}

/// Every schedule that is declared or stands on the server, by name, with so many of its next firings.
///
/// # Errors
/// NATS does not answer.
pub async fn read(
    bus: &Bus,
    config: &Config,
    count: usize,
) -> Result<Vec<ScheduleState>, AdminError> {
    let standing = bus.standing_schedules().await?;
    Ok(all(config, Some(&standing), Timestamp::now(), count))
}

/// Schedules by what stands on the server; `None` where that is not known, since NATS does not answer.
pub fn all(
    config: &Config,
    standing: Option<&[StandingSchedule]>,
    now: Timestamp,
    count: usize,
) -> Vec<ScheduleState> {
    let declared = config
        .schedules
        .iter()
        .map(|schedule| of_file(schedule, config, standing, now, count));
    let left_over = standing.into_iter().flatten().filter(|one| {
        let mut declared = config.schedules.iter();
        !declared.any(|schedule| schedule.name() == one.name)
    });
    let left_over = left_over.map(|one| of_server(one, Standing::LeftOver, now, count));
    let mut all: Vec<ScheduleState> = declared.chain(left_over).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}

/// Declared schedule. Where it differs on the server, what is there counts for what it fires next.
fn of_file(
    schedule: &Schedule,
    config: &Config,
    standing: Option<&[StandingSchedule]>,
    now: Timestamp,
    count: usize,
) -> ScheduleState {
    let mut all = standing.into_iter().flatten();
    let there = all.find(|one| one.name == schedule.name());
    let standing = match there {
        None if standing.is_none() => Standing::Unknown,
        None => Standing::Missing,
        Some(one) if one.pause.is_some() => Standing::Paused,
        Some(one) if one.is_as(schedule, &config.app) => Standing::Set,
        Some(_) => Standing::Different,
    };
    let next = match (standing, there) {
        (Standing::Paused, _) => Vec::new(),
        (Standing::Different, Some(one)) => of_server(one, standing, now, count).next,
        _ => Rule::of(&schedule.rule()).map_or_else(Vec::new, |rule| {
            rule.next(schedule.zone(), there.map(|one| one.set), now, count)
        }),
    };
    ScheduleState {
        name: schedule.name(),
        ty: schedule.ty(),
        function: function(schedule),
        rule: schedule.rule(),
        zone: schedule.zone().unwrap_or("UTC").to_owned(),
        declared: true,
        standing,
        pause: there.and_then(|one| one.pause.clone()),
        next,
    }
}

/// Function that a schedule of the platform's own event is meant for.
fn function(schedule: &Schedule) -> Option<String> {
    let is_own = stream_of_type(&schedule.ty()) == TIMER;
    let payload = is_own.then(|| schedule.payload())?;
    payload["function"].as_str().map(str::to_owned)
}

/// Schedule as the server alone knows it.
fn of_server(
    one: &StandingSchedule,
    standing: Standing,
    now: Timestamp,
    count: usize,
) -> ScheduleState {
    let rule = Rule::of(&one.rule).filter(|_| one.pause.is_none());
    ScheduleState {
        name: one.name.clone(),
        ty: one.ty.clone(),
        function: None,
        rule: one.rule.clone(),
        zone: one.zone.clone().unwrap_or_else(|| "UTC".to_owned()),
        declared: false,
        standing,
        pause: one.pause.clone(),
        next: rule.map_or_else(Vec::new, |rule| {
            rule.next(one.zone.as_deref(), Some(one.set), now, count)
        }),
    }
}

/// Last firings of a schedule by the clock, the newest first; firings by hand are not among them. What it fired more than 72 h ago is
/// looked for among the newest events of its type.
///
/// # Errors
/// NATS does not answer.
pub async fn runs(
    bus: &Bus,
    schedule: &ScheduleState,
    most: usize,
) -> Result<Vec<ScheduleRun>, AdminError> {
    let ty = &schedule.ty;
    let stream = stream_of_type(ty);
    if stream == TIMER {
        let subjects = [ty.clone(), format!("{ty}.*")];
        let fired = fired(bus, TIMER, &subjects, schedule, most).await?;
        let created = created(bus, TIMER).await?;
        return Ok(fired.iter().map(|one| run(TIMER, created, one)).collect());
    }
    let fired_now = fired(bus, TIMER, &[format!("{TIMER}.due.{ty}")], schedule, most).await?;
    let created = created(bus, stream).await?;
    if created == 0 {
        // Without the stream nobody has taken it.
        let runs = fired_now.iter().map(|fired| ScheduleRun {
            at: fired.time,
            flow: None,
        });
        return Ok(runs.collect());
    }
    if fired_now.is_empty() {
        let kept = fired(bus, stream, std::slice::from_ref(ty), schedule, most).await?;
        return Ok(kept.iter().map(|one| run(stream, created, one)).collect());
    }
    let looked_up = fired_now.iter().map(|one| taken(bus, stream, ty, one));
    let taken = try_join_all(looked_up).await?;
    let runs = fired_now.iter().zip(&taken).map(|(fired, taken)| {
        let flow = taken
            .as_ref()
            .and_then(|one| run(stream, created, one).flow);
        ScheduleRun {
            at: fired.time,
            flow,
        }
    });
    Ok(runs.collect())
}

/// Creation time of a stream; 0 where there is none.
async fn created(bus: &Bus, stream: &str) -> Result<u64, AdminError> {
    match bus.stream_info(stream).await {
        Ok(info) => Ok(info.created_ms().unwrap_or(0)),
        Err(e) if e.is_not_found() => Ok(0),
        Err(e) => Err(AdminError::api(format!("stream {stream}"), e)),
    }
}

fn run(stream: &str, created: u64, message: &StoredMessage) -> ScheduleRun {
    let incoming = message.read(stream, created).ok();
    ScheduleRun {
        at: message.time,
        flow: incoming.map(|incoming| incoming.meta.flow),
    }
}

/// Newest messages of these subjects that a schedule has fired.
async fn fired(
    bus: &Bus,
    stream: &str,
    subjects: &[String],
    schedule: &ScheduleState,
    most: usize,
) -> Result<Vec<StoredMessage>, AdminError> {
    let scheduler = format!("{TIMER}.schedule.{}.{}", bus.app(), schedule.name);
    let mut found = Vec::new();
    for subject in subjects {
        let wanted = Newest {
            subject,
            below: None,
            most,
            questions: QUESTIONS,
        };
        let page = newest(bus, stream, &wanted, |message| {
            message.header(SCHEDULER) == Some(&scheduler)
        });
        match page.await {
            Ok(page) => found.extend(page.messages),
            // A stream that is not there yet has nothing.
            Err(AdminError::Api { source, .. }) if source.is_not_found() => {}
            Err(e) => return Err(e),
        }
    }
    found.sort_by_key(|message| std::cmp::Reverse(message.sequence));
    found.truncate(most);
    Ok(found)
}

/// Message that the stream of a type has made of one that was fired.
async fn taken(
    bus: &Bus,
    stream: &str,
    ty: &str,
    fired: &StoredMessage,
) -> Result<Option<StoredMessage>, BusError> {
    let slice = Slice {
        from: 0,
        since: Some(fired.time.saturating_sub(SKEW_MS)),
        subject: ty,
        messages: NEIGHBOURS,
        bytes: 0,
    };
    let near = bus.read_slice(stream, &slice).await?;
    let source = near.into_iter().find(|message| {
        // `STREAM SEQUENCE` and more, of the message it was.
        let mut words = message.header(TAKEN_FROM).unwrap_or_default().split(' ');
        words.next().is_some_and(|name| name.starts_with(TIMER))
            && words.next().and_then(|number| number.parse().ok()) == Some(fired.sequence)
    });
    Ok(source)
}

/// Event of a schedule, sent by hand.
#[derive(Debug)]
pub struct FiredByHand {
    /// Event, with its flow.
    pub event: HandMadeEvent,
    /// Place in its stream.
    pub ack: PubAck,
}

/// Sends the event of a declared schedule now, as an event of whoever asks: with an id and a source of its own. Whether the schedule
/// is paused does not matter, and its next firing stays as it is.
///
/// # Errors
/// It is not declared, its event is not as its contract has it, or NATS does not take it.
pub async fn fire(
    bus: &Bus,
    config: &Config,
    catalog: &Catalog,
    name: &str,
    source: &str,
) -> Result<FiredByHand, ScheduleError> {
    let schedule = declared(bus, config, name).await?;
    let mut event = made(schedule, catalog, &config.bounds, source)?;
    if stream_of_type(&schedule.ty()) == TIMER {
        // As what the server fires: the stream has no limit of its own.
        event.envelope.headers.push(Header {
            name: TTL.to_owned(),
            value: FIRED_TTL.to_owned(),
        });
    }
    let ack = bus.publish(&event.envelope).await?;
    Ok(FiredByHand { event, ack })
}

fn made(
    schedule: &Schedule,
    catalog: &Catalog,
    bounds: &Bounds,
    source: &str,
) -> Result<HandMadeEvent, ScheduleError> {
    let entry = catalog
        .get(&schedule.ty())
        .map_err(|e| ScheduleError::Refused(e.to_string()))?;
    let sender = Sender {
        source,
        id: None,
        traceparent: None,
        format: oncue_proto::Format::Json,
    };
    let event = sender.event(entry, &schedule.payload(), bounds);
    event.map_err(ScheduleError::Refused)
}

/// Schedule of the file; one that only stands on the server is told apart from one that there is not.
async fn declared<'c>(
    bus: &Bus,
    config: &'c Config,
    name: &str,
) -> Result<&'c Schedule, ScheduleError> {
    let mut schedules = config.schedules.iter();
    if let Some(schedule) = schedules.find(|schedule| schedule.name() == name) {
        return Ok(schedule);
    }
    let standing = bus.standing_schedules().await.map_err(AdminError::from)?;
    if standing.iter().any(|one| one.name == name) {
        let why = format!(
            "oncue.toml does not have the schedule {name}, which stands on the server; `oncue apply --prune` removes it"
        );
        return Err(ScheduleError::Refused(why));
    }
    Err(ScheduleError::Unknown(name.to_owned()))
}

/// Pauses a schedule, declared or left over: it fires nothing until it is resumed.
///
/// # Errors
/// There is none of that name, it is paused already, or somebody has changed it meanwhile.
pub async fn pause(bus: &Bus, config: &Config, name: &str, by: &str) -> Result<(), ScheduleError> {
    let there = standing(bus, config, name).await?;
    if there.pause.is_some() {
        let why = format!("the schedule {name} is paused already");
        return Err(ScheduleError::Refused(why));
    }
    let paused = bus.pause_schedule(&there, by).await;
    changed(paused, name)
}

/// Resumes a declared schedule that is paused. An interval counts from now on.
///
/// # Errors
/// It is not declared or not paused, or somebody has changed it meanwhile.
pub async fn resume(bus: &Bus, config: &Config, name: &str) -> Result<(), ScheduleError> {
    let schedule = declared(bus, config, name).await?;
    let there = paused(bus, config, name).await?;
    let resumed = bus.resume_schedule(schedule, &there).await;
    changed(resumed, name)
}

/// As [`resume`], for a program that may have read `oncue.toml` long ago: with the rule that was paused, and no other.
///
/// # Errors
/// As there; and the rule is another one than that of the file as it was read.
pub async fn resume_as_paused(bus: &Bus, config: &Config, name: &str) -> Result<(), ScheduleError> {
    let schedule = declared(bus, config, name).await?;
    let there = paused(bus, config, name).await?;
    if !there.is_as(schedule, &config.app) {
        let why = format!(
            "the schedule {name} was paused with another rule than this program knows; `oncue schedule resume {name}` \
             takes the one of oncue.toml as it is now"
        );
        return Err(ScheduleError::Refused(why));
    }
    let resumed = bus.resume_schedule(schedule, &there).await;
    changed(resumed, name)
}

/// Schedule as it stands on the server, paused.
async fn paused(bus: &Bus, config: &Config, name: &str) -> Result<StandingSchedule, ScheduleError> {
    let there = standing(bus, config, name).await?;
    if there.pause.is_none() {
        let why = format!("the schedule {name} is not paused");
        return Err(ScheduleError::Refused(why));
    }
    Ok(there)
}

/// Schedule as it stands on the server, of the app's own by its name.
async fn standing(
    bus: &Bus,
    config: &Config,
    name: &str,
) -> Result<StandingSchedule, ScheduleError> {
    let all = bus.standing_schedules().await.map_err(AdminError::from)?;
    if let Some(there) = all.into_iter().find(|one| one.name == name) {
        return Ok(there);
    }
    let mut declared = config.schedules.iter();
    if declared.any(|schedule| schedule.name() == name) {
        let why = format!("the schedule {name} is not on the server; run `oncue apply`");
        return Err(ScheduleError::Refused(why));
    }
    Err(ScheduleError::Unknown(name.to_owned()))
}

/// Outcome of a change that holds only for what was read.
fn changed(outcome: Result<(), PublishError>, name: &str) -> Result<(), ScheduleError> {
    match outcome {
        Err(PublishError::Outdated(_)) => Err(ScheduleError::Changed(name.to_owned())),
        other => Ok(other?),
    }
}
