//! `oncue dev` in front of somebody: each flow is told as it grows, and keys are taken.

use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use oncue_tests::cluster::{Cluster, Process, built, until};

use super::python::install;
use super::{Workplace, text};

/// Runs a program on a terminal of its own, whose keys are what is written into the pipe `keys`.
const ON_A_TERMINAL: &str = "mkfifo keys && exec python3 -c \
    'import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))' \"$0\" dev <>keys";

/// `oncue dev` of a new app, and the keys in front of it.
struct Seat {
    cluster: Cluster,
    dev: Process,
}

impl Seat {
    async fn take() -> Self {
        let Workplace { mut cluster, .. } = Workplace::open("python", install).await;
        // One that opens nothing.
        cluster.set("BROWSER", "false");
        let oncue = built("oncue").display().to_string();
        let dev = cluster.spawn_program("sh", "sh".as_ref(), &["-c", ON_A_TERMINAL, &oncue]);
        dev.wait_for_line("Keys: o opens").await;
        Self { cluster, dev }
    }

    fn press(&self, key: &str) {
        let keys = File::options()
            .write(true)
            .open(self.cluster.dir.join("keys"));
        let written = keys.and_then(|mut keys| keys.write_all(key.as_bytes()));
        written.expect("a key");
    }

    fn publish(&self, order: &str) {
        let event = format!(r#"{{"order":"{order}","customer":"ann","cents":1000}}"#);
        let output = self
            .cluster
            .output("oncue", &["pub", "shop.order.placed", &event]);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Lines that were told, without colours.
    fn told(&self) -> Vec<String> {
        let log = self.dev.log();
        let lines = log.lines().map(|line| {
            let mut plain = String::new();
            for part in line.split('\u{1b}') {
                let rest = part.strip_prefix('[').and_then(|code| code.split_once('m'));
                plain += rest.map_or(part, |(_, rest)| rest);
            }
            plain.trim_end().to_owned()
        });
        lines.collect()
    }

    /// Flows that were told, by their first lines.
    fn roots(&self, order: &str) -> usize {
        let root = format!("shop.order.placed {order}");
        let told = self.told();
        told.iter().filter(|line| line.ends_with(&root)).count()
    }
}

#[tokio::test]
async fn a_flow_is_told_as_it_grows_and_keys_are_taken() {
    let mut seat = Seat::take().await;
    // What is published before anybody watches is not told.
    until("a flow is told", async || {
        seat.publish("o1");
        tokio::time::sleep(Duration::from_millis(500)).await;
        (seat.roots("o1") > 0).then_some(())
    })
    .await;
    let step =
        |line: &String, name: &str, depth: &str| line.contains(&format!("{depth}└ ✓ {name} "));
    until("both functions are told", async || {
        let told = seat.told();
        let first = told.iter().find(|line| step(line, "bill-order", ""))?;
        assert!(first.contains(" ms → shop.order.billed o1"), "{first}");
        told.iter()
            .find(|line| step(line, "count-sales", "  "))
            .map(|_| ())
    })
    .await;

    seat.publish("o2");
    until("it is told", async || (seat.roots("o2") == 1).then_some(())).await;
    seat.press("p");
    until("it was published once more", async || {
        (seat.roots("o2") == 2).then_some(())
    })
    .await;
    seat.press("o");
    seat.dev
        .wait_for_line("no browser here; the console is at http://127.0.0.1:")
        .await;
    seat.press("q");
    assert_eq!(seat.dev.exit().await, Some(0), "{}", seat.dev.log());
    assert!(seat.dev.log().contains("stopped in "), "{}", seat.dev.log());
}
