//! Limits that all gateways share.

use std::time::Duration;

use redis::cmd;

use super::{Store, is_library_missing};
use crate::store::StoreError;

/// Answer to taking one from a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spent {
    /// Whether it was there.
    pub allowed: bool,
    /// How many could be taken now.
    pub remaining: u32,
    /// Time until one may be taken; zero where it was.
    pub retry: Duration,
    /// Time until all may be taken again.
    pub reset: Duration,
}

impl Store {
    /// Takes one of what each of `who` may have of a limit, and as many more as were let through without asking: one is earned in each
    /// `interval`, and `burst` can be taken at once.
    pub async fn spend(
        &self,
        limit: &str,
        who: impl Iterator<Item = (&str, u32)>,
        interval: Duration,
        burst: u32,
    ) -> Result<Vec<Spent>, StoreError> {
        let (keys, owed): (Vec<String>, Vec<u32>) = who
            .map(|(who, owed)| (self.keys.limit(limit, who), owed))
            .unzip();
        let mut call = cmd("FCALL");
        call.arg(self.function.replace("commit", "spend"))
            .arg(keys.len())
            .arg(keys)
            .arg(interval.as_micros() as u64)
            .arg(burst)
            .arg(owed);
        let asked = call.query_async(&mut self.connection()).await;
        let spent: Vec<(u8, u32, u64, u64)> = match asked {
            // Redis was emptied since this program began.
            Err(e) if is_library_missing(&e) => {
                self.load().await?;
                call.query_async(&mut self.connection()).await?
            }
            other => other?,
        };
        let spent = spent
            .into_iter()
            .map(|(allowed, remaining, retry, reset)| Spent {
                allowed: allowed == 1,
                remaining,
                retry: Duration::from_micros(retry),
                reset: Duration::from_micros(reset),
            });
        Ok(spent.collect())
    }
}
