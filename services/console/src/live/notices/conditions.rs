//! Conditions that somebody is told of: the verdicts that colour the map, the causes of the dead letters, the servers,
//! and the certificates as `oncue doctor` reads them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use oncue_core::config::NoticeKind;
use serde_json::Value;

use super::notice::Notice;
use crate::App;
use crate::api::doctor;
use crate::snapshot::{Health, Measured};

/// How long a thing must be so before it is told: what mends itself meanwhile wakes nobody.
const STILL: Duration = Duration::from_secs(30);
const SLOW: Duration = Duration::from_mins(5);
const SERVER: Duration = Duration::from_secs(10);
/// Between two looks at the certificates, which have days; each is a process.
const DOCTOR_INTERVAL: Duration = Duration::from_mins(5);
/// Causes of dead letters that are told one by one.
const MAX_CAUSES: usize = 100;

/// One thing that is wrong.
#[derive(Debug, Clone)]
pub struct Condition {
    /// Stable name, `functions/count-views/stuck`.
    pub name: String,
    pub kind: NoticeKind,
    /// Sentence on what is wrong.
    pub text: String,
    /// Way out; empty where the text says it.
    pub advice: String,
    /// Part of the page's address behind the `#`.
    pub link: String,
    /// Since when it is so, Unix milliseconds; where nobody knows, since it was first seen.
    since: Option<u64>,
    /// How long it must be so before it counts.
    after: Duration,
}

/// Outcome of a look.
#[derive(Debug, Default)]
pub struct Findings {
    /// Things that are wrong, and have been for as long as each needs.
    pub conditions: Vec<Condition>,
    /// Kinds that could be judged: of others nothing is over only because it is not seen.
    pub judged: BTreeSet<NoticeKind>,
}

/// Memory of the looks before.
#[derive(Default)]
pub struct Watch {
    /// When each condition was first seen without a break, Unix milliseconds.
    since: BTreeMap<String, u64>,
    asked: Option<Instant>,
    /// Findings about certificates, of the last time the doctor was asked.
    certificates: Vec<Condition>,
    knows_certificates: bool,
}

impl Watch {
    /// Looks. What somebody was told of counts at once, however long this console has seen it.
    pub async fn look(
        &mut self,
        app: &App,
        known: &BTreeMap<String, Notice>,
        now: u64,
    ) -> Findings {
        let measured = app.snapshot.measured();
        let mut seen = Findings::default();
        servers(&measured, &mut seen);
        let sees_nats = !measured.blind && measured.servers.nats.is_none() && measured.at > 0;
        if sees_nats {
            functions(&measured, &mut seen);
            letters(app, &mut seen).await;
        }
        if measured.servers.redis.is_none() {
            store(&measured, &mut seen);
            // They are asked together.
            if sees_nats {
                seen.judged.insert(NoticeKind::Store);
            }
        }
        self.certificates(app, &mut seen).await;
        let names: BTreeSet<&String> = seen.conditions.iter().map(|one| &one.name).collect();
        self.since.retain(|name, _| names.contains(name));
        for condition in &seen.conditions {
            let since = condition.since.unwrap_or(now);
            self.since.entry(condition.name.clone()).or_insert(since);
        }
        seen.conditions.retain(|condition| {
            let known = known.get(&condition.name);
            if known.is_some_and(|notice| notice.ended.is_none()) {
                return true;
            }
            let since = self.since.get(&condition.name).copied().unwrap_or(now);
            u128::from(now.saturating_sub(since)) >= condition.after.as_millis()
        });
        seen
    }

    async fn certificates(&mut self, app: &App, seen: &mut Findings) {
        if self
            .asked
            .is_none_or(|asked| asked.elapsed() > DOCTOR_INTERVAL)
        {
            self.asked = Some(Instant::now());
            let said = doctor::answer(app).await;
            let findings = said["findings"].as_array().cloned().unwrap_or_default();
            // A doctor that could not be asked has no verdict on anything.
            self.knows_certificates = said["promised"].is_array();
            if self.knows_certificates {
                self.certificates = findings.iter().filter_map(certificate).collect();
            }
        }
        if self.knows_certificates {
            seen.judged.insert(NoticeKind::Certificates);
        }
        seen.conditions.extend(self.certificates.iter().cloned());
    }
}

/// A finding of the doctor about a certificate that has to be seen to.
fn certificate(finding: &Value) -> Option<Condition> {
    if finding["topic"] != "certificates" || finding["verdict"] != "fix" {
        return None;
    }
    let text = finding["text"].as_str()?;
    Some(Condition {
        name: format!("certificates/{text}"),
        kind: NoticeKind::Certificates,
        text: text.to_owned(),
        advice: finding["advice"].as_str().unwrap_or_default().to_owned(),
        link: "map".to_owned(),
        since: None,
        after: Duration::ZERO,
    })
}

fn servers(measured: &Measured, seen: &mut Findings) {
    seen.judged.insert(NoticeKind::Servers);
    let servers = [
        ("nats", &measured.servers.nats),
        ("redis", &measured.servers.redis),
    ];
    for (name, away) in servers {
        let Some(away) = away else { continue };
        seen.conditions.push(Condition {
            name: format!("servers/{name}"),
            kind: NoticeKind::Servers,
            text: away.why.clone(),
            advice: away.advice.clone(),
            link: "map".to_owned(),
            since: Some(away.since),
            after: SERVER,
        });
    }
}

/// Losses that the other server remembers: of Redis, as workers have found out, and of NATS.
fn store(measured: &Measured, seen: &mut Findings) {
    let losses = [
        ("regression", &measured.redis.regression),
        ("streams", &measured.lost),
    ];
    for (name, loss) in losses {
        let Some(why) = loss else { continue };
        seen.conditions.push(Condition {
            name: format!("store/{name}"),
            kind: NoticeKind::Store,
            text: why.clone(),
            advice: "until then no worker starts".to_owned(),
            link: "map".to_owned(),
            since: None,
            after: Duration::ZERO,
        });
    }
}

fn functions(measured: &Measured, seen: &mut Findings) {
    seen.judged.insert(NoticeKind::Functions);
    for (name, function) in &measured.functions {
        let health = function.status.health();
        let is_ending = function.status.is_ending_again_and_again();
        let trouble = match health {
            _ if is_ending => Some(("ends", Duration::ZERO)),
            Health::Stuck => Some(("stuck", STILL)),
            Health::Blocked => Some(("blocked", STILL)),
            Health::Failing => Some(("failing", SLOW)),
            Health::Behind => Some(("behind", SLOW)),
            Health::Ok | Health::Paused | Health::Off | Health::Asleep => None,
        };
        let Some((word, after)) = trouble else {
            continue;
        };
        seen.conditions.push(Condition {
            name: format!("functions/{name}/{word}"),
            kind: NoticeKind::Functions,
            text: format!(
                "{name}: {}",
                function.status.sentence(name).unwrap_or_default()
            ),
            advice: String::new(),
            link: format!("map/{name}"),
            since: None,
            after,
        });
    }
}

/// Name of the notice that a cause of dead letters has.
pub fn of_letters(group: &str) -> String {
    format!("letters/{group}")
}

async fn letters(app: &App, seen: &mut Findings) {
    let Ok(index) = app.letters.look(app).await else {
        return;
    };
    // Half an index knows half of the causes.
    if index.unread() > 0 {
        return;
    }
    seen.judged.insert(NoticeKind::Letters);
    for group in index.causes().into_iter().take(MAX_CAUSES) {
        let cause = &group.cause;
        let site = if cause.site.is_empty() {
            String::new()
        } else {
            format!(" at {}", cause.site)
        };
        seen.conditions.push(Condition {
            name: of_letters(&group.name),
            kind: NoticeKind::Letters,
            // Not its text, which may quote the event: this goes out to chats and mail.
            text: format!(
                "{} sets events aside, {}{site}",
                cause.function, cause.reason
            ),
            advice: format!(
                "`oncue dlq show {}` has one whole; mended, `oncue dlq redrive {}`",
                group.name, group.name
            ),
            link: format!("letters/{}", group.name),
            since: None,
            after: Duration::ZERO,
        });
    }
}
