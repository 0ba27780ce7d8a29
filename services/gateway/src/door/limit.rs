//! One `[limit.NAME]`: counted in Redis for all gateways. While Redis does not answer, each gateway counts for itself, so that
//! n gateways let n times as much through, and nobody is refused for it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use oncue_core::config::{LimitBy, LimitConfig};
use oncue_core::store::{Spent, Store};
use oncue_http::address::ClientAddress;
use oncue_http::rate::{Rate, Verdict};
use parking_lot::Mutex;

use super::identity::Identity;
use super::refusal::seconds;
use super::spender::Spender;
use crate::problem::{LIMITED, Problem};

/// Headers of the draft [draft-ietf-httpapi-ratelimit-headers-10].
const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const STATE: HeaderName = HeaderName::from_static("ratelimit");
/// Longest wait for Redis, which answers in less than a millisecond or not at all.
const SPEND_TIMEOUT: Duration = Duration::from_millis(250);
/// Time for which Redis is not asked again after it did not answer.
const AWAY_PAUSE: Duration = Duration::from_secs(1);
/// Number left from which on Redis is not asked for every request, and time after which it is asked again: whoever is far from the
/// limit costs it little.
const FAR: u32 = 64;
const TRUSTED: Duration = Duration::from_millis(20);
/// Clients that are counted here while Redis is away; beyond them everybody begins anew.
const MOST_CLIENTS: usize = 10_000;

/// Limit on how often somebody may come.
pub struct Limit {
    name: String,
    rate: Rate,
    by: LimitBy,
    policy: HeaderValue,
    spender: Spender,
    local: Mutex<Local>,
}

/// Counts of this gateway alone.
struct Local {
    began: Instant,
    /// Until when Redis is not asked.
    until: Option<Instant>,
    paid: HashMap<String, Duration>,
    /// Clients that are far from the limit.
    far: HashMap<String, Far>,
}

/// Last answer of Redis about a client, less the requests that were let through since.
struct Far {
    at: Instant,
    remaining: u32,
    reset: Duration,
    owed: u32,
}

/// Origin of a request, as far as it is known.
pub struct Requester<'r> {
    pub client: Option<ClientAddress>,
    pub identity: Option<&'r Identity>,
    /// Path as the gateway has it, not as the client wrote it.
    pub route: &'r str,
}

impl Limit {
    pub fn new(name: &str, config: &LimitConfig, store: &Store) -> Self {
        let rate = Rate {
            interval: config.interval(),
            burst: config.burst(),
        };
        let window = (rate.interval * rate.burst).as_secs_f64().ceil();
        let policy = format!("\"{name}\";q={};w={window}", rate.burst);
        Self {
            name: name.to_owned(),
            by: config.by.clone(),
            policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("")),
            spender: Spender::new(name, rate, store.clone()),
            rate,
            local: Mutex::new(Local {
                began: Instant::now(),
                until: None,
                paid: HashMap::new(),
                far: HashMap::new(),
            }),
        }
    }

    /// Whether it can be counted before it is known who comes. Then it is, since that costs less.
    pub fn is_before_auth(&self) -> bool {
        matches!(self.by, LimitBy::Address | LimitBy::Route)
    }

    /// Counts a request; the headers say how things stand.
    ///
    /// # Errors
    /// 429 with the time to wait.
    pub async fn count(&self, requester: &Requester<'_>) -> Result<HeaderMap, Problem> {
        let verdict = self.take(&self.who(requester)).await;
        let state = format!(
            "\"{}\";r={};t={}",
            self.name,
            verdict.remaining,
            verdict.reset.as_secs_f64().ceil()
        );
        let state = HeaderValue::from_str(&state).unwrap_or(HeaderValue::from_static(""));
        if verdict.allowed {
            return Ok([(POLICY, self.policy.clone()), (STATE, state)]
                .into_iter()
                .collect());
        }
        let why = format!(
            "the limit {:?} lets no more through for now; nothing was taken",
            self.name
        );
        Err(Problem::new(LIMITED, why)
            .with_header(header::RETRY_AFTER, seconds(verdict.retry))
            .with_header(POLICY, self.policy.clone())
            .with_header(STATE, state))
    }

    /// Name under which a request counts. Kinds begin differently, so that no claim can be an address.
    fn who(&self, requester: &Requester<'_>) -> String {
        let identity = requester.identity;
        let claimed = match &self.by {
            LimitBy::Route => return format!("r {}", requester.route),
            LimitBy::Address => return of_address(requester),
            LimitBy::Identity => None,
            LimitBy::Claim(name) => identity.and_then(|identity| identity.claim(name)),
        };
        match (claimed, identity) {
            (Some(claim), _) => format!("c {claim}"),
            (None, Some(identity)) => format!("i {}", identity.subject),
            (None, None) => of_address(requester),
        }
    }

    async fn take(&self, who: &str) -> Verdict {
        if self.is_away() {
            return self.take_here(who);
        }
        let owed = match self.local.lock().pass(who) {
            Ok(verdict) => return verdict,
            Err(owed) => owed,
        };
        let spend = self.spender.spend(who, owed);
        let why = match tokio::time::timeout(SPEND_TIMEOUT, spend).await {
            Ok(Ok(spent)) => {
                self.local.lock().hear(who, &spent);
                return Verdict {
                    allowed: spent.allowed,
                    remaining: spent.remaining,
                    retry: spent.retry,
                    reset: spent.reset,
                };
            }
            Ok(Err(why)) => why,
            Err(_) => "Redis does not answer".to_owned(),
        };
        tracing::warn!(
            limit = self.name,
            "counting for this gateway alone for now: {why}"
        );
        self.local.lock().until = Some(Instant::now() + AWAY_PAUSE);
        self.take_here(who)
    }

    fn is_away(&self) -> bool {
        let until = self.local.lock().until;
        until.is_some_and(|until| Instant::now() < until)
    }

    fn take_here(&self, who: &str) -> Verdict {
        let mut local = self.local.lock();
        let now = local.began.elapsed();
        if local.paid.len() >= MOST_CLIENTS {
            local.paid.retain(|_, paid| *paid > now);
            if local.paid.len() >= MOST_CLIENTS {
                local.paid.clear();
            }
        }
        self.rate
            .take(local.paid.entry(who.to_owned()).or_default(), now)
    }
}

impl Local {
    /// Lets a client through that is far from the limit; otherwise says how many of it Redis has not counted yet.
    fn pass(&mut self, who: &str) -> Result<Verdict, u32> {
        let Some(far) = self.far.get_mut(who) else {
            return Err(0);
        };
        if far.remaining < FAR || far.at.elapsed() > TRUSTED {
            return Err(std::mem::take(&mut far.owed));
        }
        far.remaining -= 1;
        far.owed += 1;
        Ok(Verdict {
            allowed: true,
            remaining: far.remaining,
            retry: Duration::ZERO,
            reset: far.reset,
        })
    }

    /// Remembers what Redis says of a client that is far from the limit.
    fn hear(&mut self, who: &str, spent: &Spent) {
        if spent.remaining < FAR {
            self.far.remove(who);
            return;
        }
        if let Some(far) = self.far.get_mut(who) {
            // Let through while Redis was asked.
            far.remaining = spent.remaining.saturating_sub(far.owed);
            far.at = Instant::now();
            far.reset = spent.reset;
            return;
        }
        if self.far.len() >= MOST_CLIENTS {
            self.far.clear();
        }
        let far = Far {
            at: Instant::now(),
            remaining: spent.remaining,
            reset: spent.reset,
            owed: 0,
        };
        self.far.insert(who.to_owned(), far);
    }
}

fn of_address(requester: &Requester<'_>) -> String {
    match requester.client {
        Some(client) => format!("a {client}"),
        // A proxy that does not say for whom it asks.
        None => "a".to_owned(),
    }
}
