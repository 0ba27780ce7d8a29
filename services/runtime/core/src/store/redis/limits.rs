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
    /// Takes one of what `who` may have of a limit: one is earned in each `interval`, and `burst` can be taken at once.
    pub async fn spend(
        &self,
        limit: &str,
        who: &str,
        interval: Duration,
        burst: u32,
    ) -> Result<Spent, StoreError> {
        let mut call = cmd("FCALL");
        call.arg(self.function.replace("commit", "spend"))
            .arg(1)
            .arg(self.keys.limit(limit, who))
            .arg(interval.as_micros() as u64)
            .arg(burst);
        let asked = call.query_async(&mut self.connection()).await;
        let (allowed, remaining, retry, reset): (u8, u32, u64, u64) = match asked {
            // Redis was emptied since this program began.
            Err(e) if is_library_missing(&e) => {
                self.load().await?;
                call.query_async(&mut self.connection()).await?
            }
            other => other?,
        };
        Ok(Spent {
            allowed: allowed == 1,
            remaining,
            retry: Duration::from_micros(retry),
            reset: Duration::from_micros(reset),
        })
    }
}
