//! `[[schedule]]` with cron lines and time zones, as the server takes them.

use std::fmt::Write as _;

use oncue_core::bus::layout::{self, Mode};
use oncue_core::config::{Config, Cron};
use oncue_tests::cluster::{Cluster, named, until};
use serde_json::Value;

/// Zones of several kinds: half hours, three quarters, a sign in the name, two levels.
const ZONES: [&str; 6] = [
    "UTC",
    "Europe/Berlin",
    "Asia/Kathmandu",
    "Etc/GMT+5",
    "America/Argentina/Buenos_Aires",
    "Australia/Lord_Howe",
];

fn oncue(cluster: &Cluster, args: &[&str]) -> (i32, String) {
    let output = cluster.output("oncue", args);
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

/// One field of a cron line, right or not quite.
fn field(rng: &mut fastrand::Rng, max: u32) -> String {
    let value = rng.u32(0..max + 2);
    let other = rng.u32(0..max + 2);
    match rng.u32(0..9) {
        0..3 => "*".to_owned(),
        3 => value.to_string(),
        4 => format!("{value}-{other}"),
        5 => format!("{value},{other}"),
        6 => format!("*/{value}"),
        7 => format!("{value}/{other}"),
        _ => rng
            .choice([
                "?", "mon", "JAN-dec", "*-5", "", "x", "1-2-3", "1/2/3", "-1",
            ])
            .unwrap_or_default()
            .to_owned(),
    }
}

/// Whatever the configuration takes, the server takes.
#[tokio::test]
async fn what_the_configuration_takes_the_server_takes() {
    let cluster = Cluster::new("").await;
    let bus = cluster.bus().await;
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut text = String::new();
    let mut lines = Vec::new();
    while lines.len() < 400 {
        let fields = [59, 59, 23, 31, 12, 6].map(|max| field(&mut rng, max));
        let line = fields.join(" ");
        if line.parse::<Cron>().is_ok() {
            let zone = rng.choice(ZONES).unwrap_or_default();
            let _ = writeln!(
                text,
                "[[schedule]]\nname = \"s{}\"\nfunction = \"f\"\ncron = {line:?}\nzone = {zone:?}",
                lines.len()
            );
            lines.push(line);
        }
    }
    let config = Config::parse(&named(&text), None, |_| None).expect("accepted");
    let timer = layout::stream(&config.app, layout::TIMER, &config.stream(layout::TIMER));
    bus.provide(&timer).await.expect("a stream");
    let set = bus.ensure_schedules(&config, Mode::Apply).await;
    assert_eq!(set.expect("the server takes them all").len(), lines.len());
    let again = bus.ensure_schedules(&config, Mode::Apply).await;
    assert!(
        again.expect("asked").is_empty(),
        "they are as they should be"
    );
    // A zone that is taken out again is a change.
    let utc = text.replace("zone = \"Europe/Berlin\"\n", "");
    let berlin = text.matches("Europe/Berlin").count();
    let config = Config::parse(&named(&utc), None, |_| None).expect("accepted");
    let set = bus.ensure_schedules(&config, Mode::Apply).await;
    assert_eq!(set.expect("the server takes them all").len(), berlin);
}

/// Two who begin at once on new servers put the same schedules there, and neither fails because of the other.
#[tokio::test]
async fn several_put_the_same_schedules_there_at_once() {
    let cluster = Cluster::new("").await;
    let mut text = String::new();
    for number in 0..20 {
        let _ = writeln!(
            text,
            "[[schedule]]\nfunction = \"f\"\nname = \"s{number}\"\nevery = \"1h\""
        );
    }
    let config = Config::parse(&named(&text), None, |_| None).expect("a configuration");
    let bus = cluster.bus().await;
    let timer = layout::stream(&config.app, layout::TIMER, &config.stream(layout::TIMER));
    bus.provide(&timer).await.expect("a stream");
    let all = (0..6).map(|_| bus.ensure_schedules(&config, Mode::Apply));
    let made = futures_util::future::join_all(all).await;
    let refused: Vec<String> = made
        .iter()
        .filter_map(|one| one.as_ref().err().map(ToString::to_string))
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    let standing = bus.standing_schedules().await.expect("asked");
    assert_eq!(standing.len(), 20);
}

#[tokio::test]
async fn a_cron_line_fires_in_its_zone_and_its_next_times_are_shown() {
    let config = "[functions.publish-trends]\n\
        [[schedule]]\nfunction = \"publish-trends\"\ncron = \"* * * * * *\"\nzone = \"Asia/Kathmandu\"\n\
        [[schedule]]\nname = \"noon\"\nfunction = \"publish-trends\"\ncron = \"0 0 12 * * *\"\nzone = \"Asia/Kathmandu\"\n\
        [[schedule]]\nname = \"beat\"\nfunction = \"publish-trends\"\nevery = \"1h\"\n";
    let mut cluster = Cluster::new(config).await;
    let bus = cluster.bus().await;
    let (code, text) = oncue(&cluster, &["schedule", "next"]);
    assert_eq!(code, 0, "{text}");
    for part in [
        "noon",
        "12:00:00 +05:45",
        "06:15:00",
        "not known",
        "run `oncue apply`",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
    let (code, text) = oncue(&cluster, &["apply"]);
    assert_eq!(code, 0, "{text}");
    until("it fires", async || {
        let found = cluster.messages(&bus, "timer").await;
        let fired = found.iter().find(|m| m.subject.contains("function.fired"));
        fired.map(|_| ())
    })
    .await;
    let (code, text) = oncue(&cluster, &["schedule", "next", "noon", "-n", "2", "--json"]);
    assert_eq!(code, 0, "{text}");
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(
        (told[0]["set"].clone(), &told[0]["zone"]),
        (true.into(), &"Asia/Kathmandu".into())
    );
    let next = told[0]["next"].as_array().cloned().unwrap_or_default();
    assert_eq!(next.len(), 2);
    assert!(
        next.iter().all(|at| at
            .as_str()
            .is_some_and(|at| at.ends_with("T12:00:00+05:45"))),
        "{next:?}"
    );
    let (_, text) = oncue(&cluster, &["schedule", "next", "beat"]);
    assert!(
        text.contains("@every 3600s") && text.contains("+00:00"),
        "{text}"
    );
    assert_eq!(oncue(&cluster, &["schedule", "next", "nobody"]).0, 2);
    // Without NATS what a cron line says is known, and no more.
    cluster.nats.kill();
    let (code, text) = oncue(&cluster, &["schedule", "next"]);
    assert!(code == 0 && text.contains("NATS does not answer"), "{text}");
}

/// A zone that there is not is refused by every verb, with its line; the server would not say which.
#[tokio::test]
async fn a_zone_that_there_is_not_is_refused_with_its_line() {
    for zone in ["Europe/Berlln", "europe/berlin"] {
        let cluster = Cluster::new(&format!(
            "[[schedule]]\nfunction = \"f\"\ncron = \"@daily\"\nzone = \"{zone}\"\n"
        ))
        .await;
        for verb in ["apply", "doctor", "ps"] {
            let (code, text) = oncue(&cluster, &[verb]);
            assert_eq!(code, 2, "{text}");
            assert!(
                text.contains("oncue.toml:2: ") && text.contains(zone),
                "{verb}: {text}"
            );
        }
    }
}
