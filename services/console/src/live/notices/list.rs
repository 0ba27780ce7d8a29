//! List of the notices. One console leads: it enters what is wrong and what is over, and tells; the others read along, and
//! one of them leads once it is gone. While Redis is away each leads by itself, and what they have told by then is merged
//! afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use oncue_core::store::Store;
use oncue_proto::event;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::conditions::{Condition, Findings};
use super::message::Message;
use super::notice::Notice;
use super::receiver::Receiver;
use crate::App;

/// How long a thing must not have been seen before it is over: what comes and goes is one notice.
const OVER_MS: u64 = 60_000;
/// Time for Redis.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lease of the console that leads. Longer than a round with receivers that do not answer.
const LEADER: &str = "notices";
const LEADER_SECONDS: u64 = 60;

/// The list, as this console knows it.
pub struct Notices {
    /// Name of this console, for the lease.
    me: String,
    state: Mutex<ListState>,
}

#[derive(Default)]
struct ListState {
    /// By name.
    list: BTreeMap<String, Notice>,
    /// Until when each is kept to itself, Unix milliseconds.
    silent: BTreeMap<String, u64>,
    /// Since when each that is open was not seen, in looks that could have seen it.
    absent: BTreeMap<String, u64>,
    leads: bool,
}

/// List as Redis holds it.
struct Kept {
    list: BTreeMap<String, Notice>,
    silent: BTreeMap<String, u64>,
}

/// Notice that is another than Redis has.
struct Change {
    name: String,
    notice: Notice,
}

impl Default for Notices {
    fn default() -> Self {
        Self {
            me: event::new_id(),
            state: Mutex::default(),
        }
    }
}

impl Notices {
    /// By name.
    pub fn all(&self) -> BTreeMap<String, Notice> {
        self.state.lock().list.clone()
    }

    /// Until when each is kept to itself, Unix milliseconds.
    pub fn silent(&self) -> BTreeMap<String, u64> {
        self.state.lock().silent.clone()
    }

    /// Takes in a look.
    pub async fn take(&self, store: &Store, seen: &Findings, now: u64) {
        let lease = store.lead(LEADER, &self.me, LEADER_SECONDS);
        let leads = timeout(PATIENCE, lease).await.ok().and_then(Result::ok);
        let kept = match leads {
            Some(_) => read(store).await,
            None => None,
        };
        let changes = {
            let mut state = self.state.lock();
            state.leads = leads.unwrap_or(true);
            let mut changes = kept.map_or_else(Vec::new, |kept| state.join(kept));
            if state.leads {
                changes.extend(state.changes(seen, now));
            }
            changes
        };
        if leads == Some(true) {
            write(store, &changes).await;
        }
    }

    /// Tells every receiver what it does not know, one message for all of it.
    pub async fn tell(&self, app: &App, receivers: &mut [Receiver], now: u64) {
        if !self.state.lock().leads {
            return;
        }
        for receiver in receivers.iter_mut().filter(|receiver| receiver.is_due(now)) {
            let message = self.message(app, receiver, now);
            if message.notices.is_empty() || !receiver.tell(&message, now).await {
                continue;
            }
            let changes = self.state.lock().enter(&message, &receiver.name);
            write(&app.store, &changes).await;
        }
        let swept = self.state.lock().swept(receivers, now);
        for name in swept {
            let removed = timeout(PATIENCE, app.store.remove_notice(&name)).await;
            if !matches!(removed, Ok(Ok(()))) {
                break;
            }
        }
    }

    fn message(&self, app: &App, receiver: &Receiver, now: u64) -> Message {
        let state = self.state.lock();
        let wanted = state.list.iter().filter(|(name, notice)| {
            receiver.wants(notice.kind)
                && !state.is_silent(name, now)
                && notice.is_news_to(&receiver.name)
        });
        Message {
            app: app.config.app.to_string(),
            page: page(app),
            notices: wanted
                .map(|(name, notice)| (name.clone(), notice.clone()))
                .collect(),
        }
    }

    /// Keeps a notice to itself until then; `false` where there is none of that name, and it is no cause of letters.
    pub async fn silence(&self, store: &Store, name: &str, until: u64, is_cause: bool) -> bool {
        {
            let mut state = self.state.lock();
            if !is_cause && !state.list.contains_key(name) {
                return false;
            }
            state.silent.insert(name.to_owned(), until);
        }
        let _ = timeout(PATIENCE, store.silence_notice(name, until)).await;
        true
    }
}

impl ListState {
    fn is_silent(&self, name: &str, now: u64) -> bool {
        self.silent.get(name).is_some_and(|until| *until > now)
    }

    /// Takes what Redis holds; whoever leads adds what it knows besides, from when Redis was away.
    fn join(&mut self, kept: Kept) -> Vec<Change> {
        let own = std::mem::replace(&mut self.list, kept.list);
        self.silent = kept.silent;
        let mut changes = Vec::new();
        if !self.leads {
            self.absent.clear();
            return changes;
        }
        for (name, notice) in own {
            let merged = match self.list.get(&name) {
                Some(kept) => notice.and(kept.clone()),
                None => notice,
            };
            if self.list.get(&name) != Some(&merged) {
                self.list.insert(name.clone(), merged.clone());
                changes.push(Change {
                    name,
                    notice: merged,
                });
            }
        }
        changes
    }

    /// Enters what is seen, and what is over; the notices that are others then.
    fn changes(&mut self, seen: &Findings, now: u64) -> Vec<Change> {
        let mut changes = Vec::new();
        for condition in &seen.conditions {
            self.absent.remove(&condition.name);
            let known = self.list.get(&condition.name);
            // It goes on, or it is back, and a new one.
            if known.is_some_and(|notice| notice.ended.is_none()) {
                continue;
            }
            let begun = begun(condition, now);
            self.list.insert(condition.name.clone(), begun.clone());
            changes.push(Change {
                name: condition.name.clone(),
                notice: begun,
            });
        }
        for (name, notice) in &mut self.list {
            let is_seen = seen.conditions.iter().any(|one| one.name == *name);
            if is_seen || notice.ended.is_some() || !seen.judged.contains(&notice.kind) {
                self.absent.remove(name);
                continue;
            }
            let since = *self.absent.entry(name.clone()).or_insert(now);
            if now.saturating_sub(since) >= OVER_MS {
                self.absent.remove(name);
                notice.ended = Some(now);
                changes.push(Change {
                    name: name.clone(),
                    notice: notice.clone(),
                });
            }
        }
        changes
    }

    /// Enters that a receiver knows of these.
    fn enter(&mut self, message: &Message, receiver: &str) -> Vec<Change> {
        let mut changes = Vec::new();
        for (name, told) in &message.notices {
            let Some(notice) = self.list.get_mut(name) else {
                continue;
            };
            let set = if told.ended.is_some() {
                &mut notice.told_end
            } else {
                &mut notice.told
            };
            set.insert(receiver.to_owned());
            changes.push(Change {
                name: name.clone(),
                notice: notice.clone(),
            });
        }
        changes
    }

    /// Forgets what is over and of which nobody who is still there has to hear; the names of those.
    fn swept(&mut self, receivers: &[Receiver], now: u64) -> Vec<String> {
        let mut done = Vec::new();
        for (name, notice) in &self.list {
            let has_to_hear = receivers
                .iter()
                .any(|receiver| receiver.wants(notice.kind) && notice.is_news_to(&receiver.name));
            if notice.ended.is_some() && !has_to_hear && !self.is_silent(name, now) {
                done.push(name.clone());
            }
        }
        for name in &done {
            self.list.remove(name);
            self.silent.remove(name);
        }
        done
    }
}

/// Notice of a condition that has been seen.
fn begun(condition: &Condition, now: u64) -> Notice {
    Notice {
        kind: condition.kind,
        text: condition.text.clone(),
        advice: condition.advice.clone(),
        link: condition.link.clone(),
        since: now,
        ended: None,
        told: BTreeSet::new(),
        told_end: BTreeSet::new(),
    }
}

/// Address of the page, for links.
fn page(app: &App) -> String {
    let console = &app.config.console;
    let scheme = if console.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let listens = format!("{scheme}://{}", console.listen);
    console.url.clone().unwrap_or(listens)
}

/// The list in Redis; `None` where it does not answer.
async fn read(store: &Store) -> Option<Kept> {
    let kept = timeout(PATIENCE, store.notices()).await.ok()?.ok()?;
    let read = kept.all.into_iter();
    // One of a newer version may say it in other words.
    let read = read.filter_map(|(name, notice)| Some((name, serde_json::from_str(&notice).ok()?)));
    Some(Kept {
        list: read.collect(),
        silent: kept.silent,
    })
}

/// Writes what is new, until Redis does not answer: then it is written once it is back.
async fn write(store: &Store, changes: &[Change]) {
    for Change { name, notice } in changes {
        let Ok(json) = serde_json::to_string(notice) else {
            continue;
        };
        let written = timeout(PATIENCE, store.set_notice(name, &json)).await;
        if !matches!(written, Ok(Ok(()))) {
            return;
        }
    }
}
