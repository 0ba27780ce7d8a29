//! List of the notices: since when, whether it is over, who has been told.

use std::collections::BTreeMap;
use std::time::Duration;

use oncue_core::store::Store;
use parking_lot::Mutex;
use tokio::time::timeout;

use super::conditions::Findings;
use super::message::Message;
use super::notice::Notice;
use super::receiver::Receiver;
use crate::App;

/// How long a thing must not have been seen before it is over: what comes and goes is one notice.
const OVER_MS: u64 = 60_000;
/// Time for Redis.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lease of the console that tells, and its time in seconds.
const TELLER: &str = "notices";
const TELLER_SECONDS: u64 = 4;

/// The list, as this console knows it.
#[derive(Default)]
pub struct Notices(Mutex<BTreeMap<String, Notice>>);

impl Notices {
    /// By name.
    pub fn all(&self) -> BTreeMap<String, Notice> {
        self.0.lock().clone()
    }

    /// Takes in a look.
    pub async fn take(&self, store: &Store, seen: &Findings, now: u64) {
        if let Some(kept) = read(store).await {
            // Where Redis was away, this console has some of its own.
            let mut known = self.0.lock();
            let own = std::mem::replace(&mut *known, kept);
            for (name, notice) in own {
                if seen.conditions.iter().any(|one| one.name == name) {
                    known.entry(name).or_insert(notice);
                }
            }
        }
        let changed = self.changed(seen, now);
        for (name, notice) in changed {
            write(store, &name, &notice).await;
        }
    }

    /// Enters what is seen, and what is over; the notices that are others then.
    fn changed(&self, seen: &Findings, now: u64) -> Vec<(String, Notice)> {
        let mut known = self.0.lock();
        let mut changed = Vec::new();
        for condition in &seen.conditions {
            let before = known.get(&condition.name);
            let notice = match before {
                // It goes on. Written now and then, so that every console knows when it was seen.
                Some(notice) if notice.ended.is_none() => {
                    let is_due = now.saturating_sub(notice.seen) > OVER_MS / 4;
                    if !is_due {
                        continue;
                    }
                    Notice {
                        seen: now,
                        text: condition.text.clone(),
                        ..notice.clone()
                    }
                }
                // It is back, and a new one.
                Some(notice) => Notice {
                    silent_until: notice.silent_until,
                    ..Notice::new(condition, now)
                },
                None => Notice::new(condition, now),
            };
            known.insert(condition.name.clone(), notice.clone());
            changed.push((condition.name.clone(), notice));
        }
        for (name, notice) in known.iter_mut() {
            let is_over = notice.ended.is_none()
                && seen.judged.contains(&notice.kind)
                && now.saturating_sub(notice.seen) > OVER_MS;
            if is_over {
                notice.ended = Some(now);
                changed.push((name.clone(), notice.clone()));
            }
        }
        changed
    }

    /// Tells every receiver what it does not know, one message for all of it.
    pub async fn tell(&self, app: &App, receivers: &mut [Receiver], now: u64) {
        // One console tells at a time; without Redis each does.
        let mine = timeout(PATIENCE, app.store.lease(TELLER, TELLER_SECONDS)).await;
        if matches!(mine, Ok(Ok(false))) {
            return;
        }
        for receiver in receivers.iter_mut().filter(|receiver| receiver.is_due(now)) {
            let message = self.message(app, receiver, now);
            if message.notices.is_empty() || !receiver.tell(&message, now).await {
                continue;
            }
            for name in self.enter(&message, &receiver.name) {
                if let Some(notice) = self.all().get(&name) {
                    write(&app.store, &name, notice).await;
                }
            }
        }
        for name in self.swept() {
            let _ = timeout(PATIENCE, app.store.remove_notice(&name)).await;
        }
    }

    fn message(&self, app: &App, receiver: &Receiver, now: u64) -> Message {
        let known = self.0.lock();
        let wanted = known
            .iter()
            .filter(|(_, notice)| receiver.wants(notice.kind));
        let notices = wanted.filter(|(_, notice)| notice.untold(&receiver.name, now).is_some());
        Message {
            app: app.config.app.to_string(),
            page: page(app),
            notices: notices
                .map(|(name, notice)| (name.clone(), notice.clone()))
                .collect(),
        }
    }

    /// Enters that a receiver knows of these.
    fn enter(&self, message: &Message, receiver: &str) -> Vec<String> {
        let mut known = self.0.lock();
        let mut entered = Vec::new();
        for (name, told) in &message.notices {
            let Some(notice) = known.get_mut(name) else {
                continue;
            };
            let set = if told.ended.is_some() {
                &mut notice.told_end
            } else {
                &mut notice.told
            };
            set.insert(receiver.to_owned());
            entered.push(name.clone());
        }
        entered
    }

    /// Forgets what is over and known to be; the names of those.
    fn swept(&self) -> Vec<String> {
        let mut known = self.0.lock();
        let done = known.iter().filter(|(_, notice)| notice.is_done());
        let done: Vec<String> = done.map(|(name, _)| name.clone()).collect();
        for name in &done {
            known.remove(name);
        }
        done
    }

    /// Keeps a notice to itself until then; `false` where there is none of that name.
    pub async fn silence(&self, store: &Store, name: &str, until: u64) -> bool {
        let silenced = {
            let mut known = self.0.lock();
            let Some(notice) = known.get_mut(name) else {
                return false;
            };
            notice.silent_until = until;
            notice.clone()
        };
        write(store, name, &silenced).await;
        true
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
async fn read(store: &Store) -> Option<BTreeMap<String, Notice>> {
    let kept = timeout(PATIENCE, store.notices()).await.ok()?.ok()?;
    let read = kept.into_iter();
    // One of a newer version may say it in other words.
    let read = read.filter_map(|(name, notice)| Some((name, serde_json::from_str(&notice).ok()?)));
    Some(read.collect())
}

/// Writes one. Redis that is away has it written once it is back.
async fn write(store: &Store, name: &str, notice: &Notice) {
    if let Ok(json) = serde_json::to_string(notice) {
        let _ = timeout(PATIENCE, store.set_notice(name, &json)).await;
    }
}
