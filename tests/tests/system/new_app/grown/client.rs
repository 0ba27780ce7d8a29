//! Client of the shop: places orders one after the other, while servers, gateway and functions come and go.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::time::sleep;

/// Customers of the orders that are placed in turn.
pub const CUSTOMERS: [&str; 3] = ["ann", "bob", "cy"];
/// Limit of the client that places orders.
const MOST_ORDERS: u64 = 10_000;
/// Pause between two orders.
const PACE: Duration = Duration::from_millis(40);
/// An order is sent once more after so many others.
const LATE: u64 = 50;

/// Customer of an order, by its number.
pub fn customer(n: u64) -> &'static str {
    CUSTOMERS[n as usize % CUSTOMERS.len()]
}

/// Whether an order is of anything: one in ten is not, and is rejected.
pub fn is_good(n: u64) -> bool {
    n % 10 != 9
}

/// Client of the gateway. An order's number makes its id.
pub struct Client {
    http: reqwest::Client,
    gateway: String,
    /// Orders that the gateway has taken.
    taken: AtomicU64,
    is_enough: AtomicBool,
}

impl Client {
    pub fn new(gateway: &str) -> Self {
        Self {
            http: reqwest::Client::new(),
            gateway: gateway.to_owned(),
            taken: AtomicU64::new(0),
            is_enough: AtomicBool::new(false),
        }
    }

    /// Has it place no further order.
    pub fn stop(&self) {
        self.is_enough.store(true, Ordering::Relaxed);
    }

    /// Places one order after the other, and one in seven once more, much later.
    pub async fn run(&self) {
        for n in 0..MOST_ORDERS {
            if self.is_enough.load(Ordering::Relaxed) {
                return;
            }
            self.place(n).await;
            if n % 7 == 0 && n >= LATE {
                self.place(n - LATE).await;
            }
            self.taken.store(n + 1, Ordering::Relaxed);
            sleep(PACE).await;
        }
    }

    async fn place(&self, n: u64) {
        let cents = if is_good(n) { 1000 } else { 0 };
        let customer = customer(n);
        let order = format!(r#"{{"order":"o{n}","customer":"{customer}","cents":{cents}}}"#);
        self.send(&format!("o{n}"), &order).await;
    }

    /// Sends an order again and again until it is taken: meanwhile the gateway may be away.
    pub async fn send(&self, id: &str, order: &str) {
        let url = format!("http://{}/v1/events/shop.order.placed", self.gateway);
        loop {
            let request = self.http.post(&url).body(order.to_owned());
            let request = request.header("content-type", "application/json");
            if let Ok(answer) = request.header("idempotency-key", id).send().await {
                let status = answer.status();
                if status == 202 {
                    return;
                }
                let why = answer.text().await.unwrap_or_default();
                assert!(status.is_server_error(), "{id}: {status} {why}");
            }
            sleep(PACE).await;
        }
    }

    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Row as the gateway shows it; `None` while there is none, or no gateway.
    pub async fn row(&self, table: &str, key: &str) -> Option<Value> {
        let url = format!("http://{}/v1/state/{table}/{key}", self.gateway);
        let answer = self.http.get(url).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }
}
