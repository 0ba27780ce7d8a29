//! An app that `oncue new` has made, in a repository of its own, lived with as its author does: under `oncue dev` on locked
//! servers, grown to five functions over two domains, changed, checked, restarted and cut back, while orders come in all along.

mod account;
mod client;

use std::os::unix::fs::symlink;
use std::process::Command;
use std::sync::Arc;

use oncue_core::bus::Bus;
use oncue_core::config::NatsServer;
use oncue_tests::cluster::{Process, free_port, until};
use serde_json::Value;

use self::client::{Client, is_good};
use super::python::install;
use super::{Workplace, text};
use crate::changes::Answer;

const BILLING: &str = include_str!("grown/billing.proto");
/// Functions beside the two that were made.
const FURTHER: [(&str, &str); 3] = [
    ("draw_invoice.py", include_str!("grown/draw_invoice.py")),
    ("send_invoice.py", include_str!("grown/send_invoice.py")),
    (
        "remind_customer.py",
        include_str!("grown/remind_customer.py"),
    ),
];
const SECTIONS: &str = include_str!("grown/functions.toml");
/// `count-sales` with rows of version 2.
const COUNT_SALES: &str = include_str!("grown/count_sales.py");

/// Customers of one order each.
const SINGLE: [&str; 4] = ["dora", "emil", "fred", "gina"];
/// Orders that are placed and invoiced before each change, and after it.
const ENOUGH: u64 = 15;
/// Orders that are placed during a change, at least.
const SOME: u64 = 3;

struct Shop {
    place: Workplace,
    dev: Process,
    client: Arc<Client>,
}

impl Shop {
    /// Makes the app and starts `oncue dev`, which starts servers and locks them.
    async fn open() -> Self {
        let mut place = Workplace::open("python", install).await;
        let cluster = &mut place.cluster;
        let nats = format!("nats://127.0.0.1:{}", free_port());
        let redis = format!("redis://127.0.0.1:{}", free_port());
        let monitor = format!("127.0.0.1:{}", free_port());
        for (name, value) in [
            ("ONCUE_NATS_URL", nats.as_str()),
            ("ONCUE_REDIS_URL", &redis),
            ("ONCUE_NATS_MONITOR", &monitor),
        ] {
            cluster.set(name, value);
        }
        let dev = cluster.spawn("oncue", &["dev"]);
        dev.wait_for_line(": 2 functions, ").await;
        let client = Client::new(&place.gateway);
        let client = Arc::new(client);
        let shop = Self { place, dev, client };
        shop.git(&["init", "--quiet"]);
        shop.commit();
        shop
    }

    fn git(&self, args: &[&str]) {
        let author = [
            "-c",
            "user.name=author",
            "-c",
            "user.email=author@localhost",
        ];
        let git = Command::new("git")
            .args(author)
            .args(args)
            .current_dir(&self.place.app)
            .output()
            .expect("git");
        assert!(git.status.success(), "git {args:?}: {}", text(&git));
    }

    fn commit(&self) {
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--message", "as it is"]);
    }

    fn oncue(&self, args: &[&str]) -> Answer {
        self.place.cluster.output("oncue", args).into()
    }

    /// Output of a command that succeeds: JSON values, one after the other.
    #[track_caller]
    fn json(&self, args: &[&str]) -> Vec<Value> {
        let output = self.place.cluster.output("oncue", args);
        assert!(output.status.success(), "{args:?}: {}", text(&output));
        let values = serde_json::Deserializer::from_slice(&output.stdout).into_iter();
        values.map(|value| value.expect("JSON")).collect()
    }

    /// Bus of the operator.
    async fn bus(&self) -> Bus {
        let config = self.place.cluster.config();
        let mut server = NatsServer::from(config.nats.url.clone());
        server.credentials = Some(self.place.app.join(".oncue/keys/operator.nk"));
        let bus = Bus::connect(server, "test").await.expect("the operator");
        bus.of_app(&config.app)
    }

    fn read(&self, file: &str) -> String {
        std::fs::read_to_string(self.place.app.join(file)).expect("written")
    }

    /// Saves a file in one step, as editors do.
    fn write(&self, file: &str, text: &str) {
        let path = self.place.app.join(file);
        let aside = path.with_file_name(".saved");
        std::fs::write(&aside, text).expect("written");
        std::fs::rename(aside, path).expect("renamed");
    }

    /// Saves a file with `from` replaced, and waits until `oncue dev` says this once more.
    async fn edit(&self, file: &str, from: &str, to: &str, said: &str) {
        let text = self.read(file);
        assert!(text.contains(from), "{from:?} is not in {file}:\n{text}");
        self.save(file, &text.replace(from, to), said).await;
    }

    async fn save(&self, file: &str, text: &str, said: &str) {
        let before = self.times_said(said);
        self.write(file, text);
        self.says_again(said, before).await;
    }

    fn times_said(&self, said: &str) -> usize {
        self.dev.log().matches(said).count()
    }

    async fn says_again(&self, said: &str, before: usize) {
        until(&format!("oncue dev says{said}"), async || {
            (self.times_said(said) > before).then_some(())
        })
        .await;
    }

    /// Waits until further orders are placed, and one that was placed behind them is invoiced.
    async fn pass(&self, orders: u64) {
        let goal = self.client.taken() + orders;
        let goal = if is_good(goal) { goal } else { goal + 1 };
        until(&format!("order {goal} is invoiced"), async || {
            let row = self.client.row("invoices", &format!("o{goal}")).await?;
            (row["drawn"] == 1).then_some(())
        })
        .await;
    }

    /// Does something while orders come: they pass before it, are taken during it, and pass after it.
    async fn under_orders(&self, what: &str, act: impl AsyncFnOnce()) {
        self.pass(ENOUGH).await;
        let before = self.client.taken();
        act().await;
        let during = self.client.taken() - before;
        assert!(during >= SOME, "{what}: {during} orders came meanwhile");
        self.pass(ENOUGH).await;
    }

    /// Sends an order of a customer who has no other, and waits for what they have spent.
    async fn buys(&self, customer: &str, more: &str, spent: u64) {
        let order =
            format!(r#"{{"order":"{customer}","customer":"{customer}","cents":1000{more}}}"#);
        self.client.send(customer, &order).await;
        let row = until(&format!("{customer} is counted"), async || {
            self.client.row("customers", customer).await
        })
        .await;
        // `spent` is how it is called since version 2.
        let found = row.get("spent").or_else(|| row.get("cents"));
        assert_eq!(found, Some(&spent.into()), "{row}");
    }

    /// Grows the app to five functions over two domains.
    async fn grow(&self) {
        self.write("proto/billing.proto", BILLING);
        for (file, source) in FURTHER {
            self.write(&format!("functions/{file}"), source);
        }
        let exposed = r#"expose = ["customers", "invoices"]"#;
        let config = self.read("oncue.toml") + SECTIONS;
        let config = config.replace(r#"expose = ["customers"]"#, exposed);
        self.save("oncue.toml", &config, ": 5 functions, ").await;
        self.commit();
        self.pass(ENOUGH).await;
    }

    /// Tries in a second working tree what the servers would refuse: a field of another number, a row's field of another type.
    fn check_next(&self) {
        let next = self.place.cluster.dir.join("next");
        let path = next.display().to_string();
        self.git(&["worktree", "add", "--quiet", "--detach", &path]);
        for linked in [".venv", ".oncue"] {
            let linked_to = self.place.app.join(linked);
            symlink(linked_to, next.join(linked)).expect("linked");
        }
        for (file, from, to) in [
            ("proto/billing.proto", "cents = 3;", "cents = 9;"),
            (
                "functions/count_sales.py",
                "spent: int = 0",
                "spent: bool = False",
            ),
        ] {
            let text = std::fs::read_to_string(next.join(file)).expect("written");
            assert!(text.contains(from), "{text}");
            std::fs::write(next.join(file), text.replace(from, to)).expect("written");
        }
        let config = next.join("oncue.toml").display().to_string();
        let said = [
            "! count-sales cannot read customers/ann: field spent",
            "\n! contract of draw-invoice: ",
            "billing.InvoiceDrawn.cents has the number 9 where it had 3",
        ];
        self.oncue(&["check", "--config", &config]).says(1, &said);
    }

    /// Takes a function off the servers, and returns where the stream of its events ended before and after.
    async fn remove(&self, bus: &Bus) -> [u64; 2] {
        let remove = ["remove", "remind-customer", "--yes"];
        let said = ["remind-customer runs in 1", "take it out of oncue.toml"];
        self.oncue(&remove).says(1, &said);
        let section = SECTIONS.find("\n[functions.remind-customer]").expect("one");
        let file = "oncue.toml";
        self.edit(file, &SECTIONS[section..], "", ": 4 functions, ")
            .await;
        self.commit();
        self.pass(ENOUGH).await;
        let said = ["events wait for remind-customer", "--set-aside"];
        self.oncue(&remove).says(1, &said);
        let aside = ["remove", "remind-customer", "--set-aside"];
        self.oncue(&aside).says(2, &["say so with --yes"]);
        let before = end(bus).await;
        let said = [
            "events that waited: dead letters of remind-customer now",
            "- consumer billing/shop_remind-customer",
            "remind-customer is removed",
        ];
        let aside = [&aside[..], &["--yes"]].concat();
        self.oncue(&aside).says(0, &said);
        let after = end(bus).await;
        assert!(
            bus.consumer_info("billing", "remind-customer")
                .await
                .is_err()
        );
        self.oncue(&remove)
            .says(1, &["has no function remind-customer"]);
        [before, after]
    }
}

/// Sequence of the last message of the stream `billing`.
async fn end(bus: &Bus) -> u64 {
    let info = bus.stream_info("billing").await.expect("NATS");
    info.state.last_seq
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grown_app_is_changed_checked_restarted_and_cut_back_under_orders() {
    let mut shop = Shop::open().await;
    let client = shop.client.clone();
    let orders = tokio::spawn(async move { client.run().await });
    until("orders come", async || {
        (shop.client.taken() > ENOUGH).then_some(())
    })
    .await;
    shop.grow().await;
    shop.oncue(&["map", "--drift"]).says(0, &[]);
    shop.buys("dora", "", 1190).await;

    let bill = "functions/bill_order.py";
    shop.under_orders("a saved change", async || {
        shop.edit(bill, "TAX = 19", "TAX = 7", " anew (").await;
        shop.buys("emil", "", 1070).await;
    })
    .await;
    shop.under_orders("rows of another version", async || {
        shop.save("functions/count_sales.py", COUNT_SALES, " anew (")
            .await;
        until("a row is of the new version", async || {
            shop.client
                .row("customers", "ann")
                .await?
                .get("spent")
                .map(|_| ())
        })
        .await;
    })
    .await;
    shop.under_orders("a new field", async || {
        let field =
            "  uint64 cents = 3;\n  // Half the price.\n  bool sale = 4;\n}\n\nmessage OrderBilled";
        let before = "  uint64 cents = 3;\n}\n\nmessage OrderBilled";
        shop.edit("proto/orders.proto", before, field, " anew (")
            .await;
        let whole = "order.cents * TAX // 100";
        let half = format!("({whole})\n    cents = cents // 2 if order.sale else cents");
        shop.edit(bill, whole, &half, " anew (").await;
        shop.buys("fred", r#","sale":true"#, 535).await;
    })
    .await;
    shop.commit();

    shop.under_orders("a field of another type", async || {
        let said = "were not replaced; they run on as they were";
        shop.edit("proto/billing.proto", "uint64 cents", "string cents", said)
            .await;
        let said = [
            "\n! contract of draw-invoice: ",
            "billing.invoice.drawn: billing.InvoiceDrawn.cents was uint64, and is string",
        ];
        shop.oncue(&["check"]).says(1, &said);
        shop.oncue(&["restart", "draw-invoice"]).says(1, &said[1..]);
        shop.buys("gina", "", 1070).await;
        let before = shop.times_said(" anew (");
        shop.git(&["checkout", "--quiet", "."]);
        shop.says_again(" anew (", before).await;
    })
    .await;
    shop.under_orders("a check of what comes next", async || shop.check_next())
        .await;
    shop.under_orders("a restart of one function", async || {
        let restart = shop.oncue(&["restart", "draw-invoice"]);
        restart.says(0, &["draw-invoice", "1 process is replaced"]);
    })
    .await;
    shop.under_orders("a restart of all", async || {
        shop.oncue(&["restart"])
            .says(0, &["5 processes are replaced"]);
    })
    .await;
    // Servers start anew with what is left in oncue.toml.
    let mut removal = [0, 0];
    shop.under_orders("a removal", async || {
        removal = shop.remove(&shop.bus().await).await;
    })
    .await;

    shop.client.stop();
    orders.await.expect("every order is taken in the end");
    shop.every_order_counts_once(removal).await;
    shop.nothing_is_wrong();
    shop.dev.signal("INT");
    assert_eq!(shop.dev.exit().await, Some(0), "{}", shop.dev.log());
}
