//! What became of every order: rows, events and dead letters, counted one against the other.

use std::collections::{BTreeMap, BTreeSet};

use oncue_core::bus::{Bus, StoredMessage};
use oncue_tests::cluster::until;
use serde_json::Value;

use super::client::{CUSTOMERS, customer, is_good};
use super::{SINGLE, Shop};
use crate::new_app::text;

const SENT: &str = "billing.invoice.sent";
const DUE: &str = "billing.payment.due";
/// Dead letters of orders of nothing, and of what waited for a function that was removed, as [`letters`] names them.
const REJECTED: &str = "bill-order at functions/bill_order.py: an order of nothing";
const ASIDE: &str = "remind-customer: the function was removed";
impl Shop {
    /// Accounts for every order, once all that follows from them has happened.
    pub async fn every_order_counts_once(&self, removal: [u64; 2]) {
        let taken = self.client.taken();
        let good: Vec<u64> = (0..taken).filter(|n| is_good(*n)).collect();
        let invoiced = good.len() + SINGLE.len();
        let bus = self.bus().await;
        let billed = until("all invoices are sent and due", async || {
            let billed = Billed::all(&bus).await;
            let all = [SENT, DUE].map(|ty| ids(&billed, ty).len());
            (all[0] >= invoiced && all[1] >= invoiced).then_some(billed)
        })
        .await;

        let customers = rows(self, "customers");
        assert_eq!(customers.len(), CUSTOMERS.len() + SINGLE.len());
        for name in CUSTOMERS {
            let orders = good.iter().filter(|n| customer(**n) == name).count();
            assert_eq!(customers[name]["orders"], orders, "{name}: {customers:?}");
        }
        for name in SINGLE {
            assert_eq!(customers[name]["orders"], 1, "{customers:?}");
        }
        let invoices = rows(self, "invoices");
        assert_eq!(invoices.len(), invoiced);
        assert_eq!(sum(&invoices, "drawn"), invoiced as u64);
        // A row of version 1 that nobody has touched since has its old field.
        let spent = sum(&customers, "spent") + sum(&customers, "cents");
        assert_eq!(sum(&invoices, "cents"), spent, "{customers:?}");
        let sent = ids(&billed, SENT);
        let orders: BTreeSet<&str> = sent.iter().map(|(order, _)| *order).collect();
        assert_eq!(orders, invoices.keys().map(String::as_str).collect());
        assert_eq!(sent.len(), invoiced, "one invoice for each order");

        let letters = letters(self);
        assert_eq!(letters.len(), 2, "{letters:?}");
        assert_eq!(letters[REJECTED], taken - good.len() as u64);
        // What the removed function was owed, it had or is set aside.
        let reminders = rows(self, "reminders");
        let had = sum(&reminders, "sent") + sum(&reminders, "due") + letters[ASIDE];
        let owed = removal.map(|end| {
            let owed = billed.iter().take_while(|event| event.sequence <= end);
            let owed: Vec<&Billed> = owed.collect();
            let kinds = [SENT, DUE].map(|ty| ids(owed.iter().copied(), ty).len() as u64);
            kinds[0] + kinds[1]
        });
        assert!((owed[0]..=owed[1]).contains(&had), "{had} of {owed:?}");
    }

    /// Asks the commands that know what is wrong.
    pub fn nothing_is_wrong(&self) {
        let audit = self.json(&["audit", "--json"]);
        for sums in audit[0].as_array().expect("a list") {
            assert_eq!(sums["pending"], 0, "{sums}");
        }
        let said = ["consumers are as they should be"];
        self.oncue(&["doctor"]).says(0, &said);
        let drift = self.place.cluster.output("oncue", &["map", "--drift"]);
        let drift = text(&drift);
        let found: Vec<&str> = drift
            .lines()
            .filter(|line| !line.starts_with(' '))
            .collect();
        assert_eq!(found.len(), 2, "{drift}");
        // Nobody hears any more what the removed function heard.
        for (line, ty) in found.iter().zip([SENT, DUE]) {
            assert!(line.starts_with("unheard") && line.contains(ty), "{drift}");
        }
    }
}

/// Dead letters by function, file and reason; the place of each in the file is a line.
fn letters(shop: &Shop) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    let listed = shop.json(&["dlq", "ls", "--json"]);
    for group in listed[0].as_array().expect("a list") {
        let site = group["site"].as_str().filter(|site| !site.is_empty());
        let site = site.map(|site| {
            let (file, line) = site.split_once(':').expect("a line");
            assert!(line.parse::<u32>().is_ok(), "{group}");
            format!(" at {file}")
        });
        let function = group["function"].as_str().expect("a name");
        let why = group["message"].as_str().expect("a text");
        let letters = format!("{function}{}: {why}", site.unwrap_or_default());
        *counts.entry(letters).or_default() += group["count"].as_u64().expect("a number");
    }
    counts
}

/// Rows of a table, by key.
fn rows(shop: &Shop, table: &str) -> BTreeMap<String, Value> {
    let listed = shop.json(&["state", "ls", table, "--limit", "100000", "--json"]);
    let rows = listed.into_iter().map(|listed| {
        let key = listed["key"].as_str().expect("a text").to_owned();
        (key, listed["row"].clone())
    });
    rows.collect()
}

fn sum(rows: &BTreeMap<String, Value>, field: &str) -> u64 {
    rows.values().filter_map(|row| row[field].as_u64()).sum()
}

/// An event of the stream `billing`. What was published again has a place of its own, and the same id.
struct Billed {
    ty: String,
    order: String,
    id: String,
    sequence: u64,
}

impl Billed {
    fn of(message: &StoredMessage) -> Self {
        Self {
            ty: message.header("ce-type").expect("a type").to_owned(),
            order: message.header("ce-subject").expect("a key").to_owned(),
            id: message.header("ce-id").expect("an id").to_owned(),
            sequence: message.sequence,
        }
    }

    async fn all(bus: &Bus) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        loop {
            let from = all.last().map_or(1, |last| last.sequence + 1);
            let page = bus.read_stream("billing", from).await.expect("NATS");
            if page.is_empty() {
                return all;
            }
            all.extend(page.iter().map(Self::of));
        }
    }
}

/// Ids of the events of a type, each with its order.
fn ids<'b>(billed: impl IntoIterator<Item = &'b Billed>, ty: &str) -> BTreeSet<(&'b str, &'b str)> {
    let of_type = billed.into_iter().filter(|event| event.ty == ty);
    let ids = of_type.map(|event| (event.order.as_str(), event.id.as_str()));
    ids.collect()
}
