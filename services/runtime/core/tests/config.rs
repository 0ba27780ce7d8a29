//! The file is read whole: every mistake is listed, each with its line.

use std::path::Path;
use std::time::Duration;

use oncue_core::config::{Config, ConfigErrors, Protocol, Start, Track, parse_size};
use oncue_proto::Catalog;

fn read(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, None, |_| None)
}

fn mistakes(text: &str) -> Vec<String> {
    read(text).expect_err("mistakes").0
}

/// The one mistake of `text`.
fn mistake(text: &str) -> String {
    let found = mistakes(text);
    assert_eq!(found.len(), 1, "{found:#?}");
    found[0].clone()
}

#[test]
fn nothing_need_be_said() {
    for text in [
        "",
        "[nats]\n[redis]\n[gateway]\n[streams]\n[functions]\n[functions.f]\n[streams.web]\n",
    ] {
        let config = read(text).expect("defaults");
        assert_eq!(
            (config.nats.url.expose(), config.redis.url.expose()),
            ("nats://127.0.0.1:4222", "redis://127.0.0.1:6379")
        );
        assert_eq!(
            (config.gateway.listen.as_str(), config.gateway.max_event.0),
            ("127.0.0.1:8080", 512 << 10)
        );
        let web = config.stream("web");
        assert_eq!((web.max_bytes.0, web.replicas), (1 << 30, 1));
        assert_eq!(
            (web.duplicate_window.0, web.horizon.0),
            (Duration::from_mins(2), Duration::from_hours(72))
        );
        assert!(config.function("f").concurrency.is_none());
        assert!(config.schedules.is_empty() && config.path.is_none());
    }
}

/// Streams that stand in no file, such as those of delayed events and of files, are not what a lost server takes along.
#[test]
fn a_stream_has_as_many_copies_as_the_one_with_the_most() {
    let text = "[streams.web]\nreplicas = 3\n[streams.dlq]\nmax_bytes = \"64MB\"\n[streams.clicks]\nreplicas = 1\n";
    let config = read(text).expect("a file");
    for domain in ["web", "dlq", "files", "mail", "timer"] {
        assert_eq!(config.stream(domain).replicas, 3, "{domain}");
    }
    assert_eq!(config.bucket().replicas, 3);
    assert_eq!(config.stream("clicks").replicas, 1, "as the file says");
}

#[test]
fn the_apps_own_file_is_in_order() {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../oncue.toml"));
    let text = std::fs::read_to_string(path).expect("oncue.toml");
    let config = Config::parse(&text, Some(path), |_| None).expect("no mistakes");
    assert_eq!(config.path.as_deref(), Some(path));
    assert!(config.functions.contains_key("count-views"));
    assert_eq!(
        config.schedules[0].payload(),
        serde_json::json!({ "function": "publish-trends" })
    );
}

#[test]
fn every_mistake_is_listed_with_its_line() {
    let text = r#"[nats]
url = 4222
port = 1

[streams.web]
max_bytes = "1 gigabyte"
horizon = "3 fortnights"
retention = "forever"

[streams.Web]

[functions.count-views]
concurrency = -1
start = "newest"

[[schedule]]
every = "10s"

[gatway]
"#;
    let found = mistakes(text);
    let expected: [(u32, &[&str]); 10] = [
        (2, &["[nats]", "string"]),
        (3, &["[nats]", "unknown field `port`", "url"]),
        (6, &["[streams.web]", "1 gigabyte", "512KiB"]),
        (7, &["[streams.web]", "3 fortnights", "30s"]),
        (
            8,
            &["[streams.web]", "unknown field `retention`", "max_bytes"],
        ),
        (10, &["\"Web\""]),
        (13, &["[functions.count-views]", "-1"]),
        (14, &["[functions.count-views]", "newest", "`all`"]),
        (16, &["[[schedule]]", "either `function` or `type`"]),
        (19, &["unknown section \"gatway\"", "gateway"]),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (found, (line, parts)) in found.iter().zip(expected) {
        assert!(
            found.starts_with(&format!("oncue.toml:{line}: ")),
            "{found} is of line {line}"
        );
        assert!(
            parts.iter().all(|part| found.contains(part)),
            "{found} does not say {parts:?}"
        );
    }
}

#[test]
fn flows_are_tracked_as_asked_all_or_by_share() {
    let track = |value: &str| {
        read(&format!("[flows]\ntrack = {value}"))
            .expect("a configuration")
            .flows
            .track
    };
    assert_eq!(read("").expect("defaults").flows.track, Track::Asked);
    assert_eq!(
        (track("\"all\""), track("0.25"), track("1")),
        (Track::All, Track::Share(0.25), Track::Share(1.0))
    );
    let of_thousand = |track: Track| (0..1000).filter(|n| track.wants(&n.to_string())).count();
    assert_eq!(
        (of_thousand(Track::Asked), of_thousand(Track::All)),
        (0, 1000)
    );
    assert_eq!(
        (
            of_thousand(Track::Share(0.0)),
            of_thousand(Track::Share(1.0))
        ),
        (0, 1000)
    );
    assert!((200..300).contains(&of_thousand(Track::Share(0.25))));
    for wrong in ["\"some\"", "2", "-0.1", "1.01", "nan", "true", "[]"] {
        let found = mistake(&format!("[flows]\ntrack = {wrong}"));
        assert!(
            found.starts_with("oncue.toml:2: [flows] track is ") && found.contains("0.01"),
            "{found}"
        );
    }
    assert!(mistake("[flows]\nkeep = \"0s\"").contains("at least 1s"));
    assert!(mistake("[flows]\nkept = \"1h\"").contains("unknown field `kept`"));
}

#[test]
fn what_is_no_toml_is_said_with_its_line() {
    let errors = Config::parse(
        "[nats]\nurl = nats",
        Some(Path::new("/etc/app.toml")),
        |_| None,
    )
    .expect_err("no TOML");
    assert!(
        errors.to_string().starts_with("/etc/app.toml:2: "),
        "{errors}"
    );
    assert!(mistake("[nats]\nurl = \"a\"\nurl = \"b\"").starts_with("oncue.toml:3: "));
}

#[test]
fn sections_have_a_shape() {
    assert!(mistake("streams = 1").contains("one table for each name"));
    assert!(mistake("[schedule]\nevery = \"1s\"").contains("[[schedule]]"));
    assert!(mistake("nats = \"nats://x\"").starts_with("oncue.toml:1: [nats] "));
    assert!(mistake("[functions]\nf = 1").contains("[functions.f]"));
}

#[test]
fn the_environment_goes_on_top() {
    let text = "[nats]\nurl = \"nats://file\"\n[gateway]\nmax_file = \"1KiB\"";
    let env = |name: &str| match name {
        "ONCUE_NATS_URL" => Some("nats://env".to_owned()),
        "ONCUE_GATEWAY_LISTEN" => Some("0.0.0.0:80".to_owned()),
        _ => None,
    };
    let config = Config::parse(text, None, env).expect("a file");
    assert_eq!(
        (config.nats.url.expose(), config.redis.url.expose()),
        ("nats://env", "redis://127.0.0.1:6379")
    );
    assert_eq!(
        (config.gateway.listen.as_str(), config.gateway.max_file.0),
        ("0.0.0.0:80", 1024)
    );
}

#[test]
fn limits_come_from_code_then_file_then_environment() {
    let text = "[functions.f]\nconcurrency = 5\nattempts = 9\n";
    let env = |name: &str| match name {
        "ONCUE_CONCURRENCY" => Some("7".to_owned()),
        "ONCUE_TIMEOUT" => Some("90s".to_owned()),
        _ => None,
    };
    let config = Config::parse(text, None, env).expect("a configuration");
    let limits = oncue_core::config::Limits::default()
        .with(&config.function("f"))
        .with(&config.process);
    assert_eq!(
        (
            limits.concurrency,
            limits.attempts,
            limits.timeout.0.as_secs()
        ),
        (7, 9, 90)
    );
    let bad = |_: &str| Some("0x".to_owned());
    let errors = Config::parse("", None, bad).expect_err("five mistakes").0;
    assert_eq!(errors.len(), 6, "{errors:?}");
    assert!(
        errors[0].contains("ONCUE_CONCURRENCY") && errors[2].contains("ONCUE_TIMEOUT"),
        "{errors:?}"
    );
}

#[test]
fn a_function_is_scaled_within_bounds() {
    let scale = |fields: &str| {
        let scale = read(&format!("[functions.f]\n{fields}\n"))
            .expect("a scale")
            .function("f")
            .scale();
        (scale.min, scale.max, scale.idle.as_secs())
    };
    assert_eq!(scale(""), (1, 1, 60));
    assert_eq!(scale("min = 0"), (0, 1, 60));
    assert_eq!(scale("max = 4\nidle = \"5s\""), (1, 4, 5));
    assert_eq!(scale("min = 3"), (3, 3, 60));
    assert_eq!(scale("replicas = 2"), (2, 2, 60));
    assert_eq!(scale("replicas = 0"), (0, 0, 60), "not run at all");
    let wrong = |fields: &str| mistake(&format!("[functions.e]\n[functions.f]\n{fields}\n"));
    assert!(
        wrong("min = 2\nmax = 1")
            .starts_with("oncue.toml:2: [functions.f] min = 2 is more than max = 1")
    );
    assert!(wrong("replicas = 2\nmax = 3").contains("either `replicas`"));
    assert!(wrong("min = 0\nmax = 0").contains("max = 0"));
}

#[test]
fn sizes_are_whole_numbers_with_a_unit() {
    for (text, bytes) in [
        ("0", Some(0)),
        ("7B", Some(7)),
        ("512KiB", Some(524_288)),
        ("512 KiB", Some(524_288)),
        ("3MiB", Some(3 << 20)),
        ("1GiB", Some(1 << 30)),
        ("2TiB", Some(2 << 40)),
        ("1KB", Some(1_000)),
        ("5MB", Some(5_000_000)),
        ("5GB", Some(5_000_000_000)),
        ("1TB", Some(1_000_000_000_000)),
        ("18446744073709551615", Some(u64::MAX)),
        ("18446744073709551616", None),
        ("16777216TiB", None),
        ("1.5GiB", None),
        ("-1", None),
        ("1kib", None),
        ("GiB", None),
        ("", None),
    ] {
        assert_eq!(parse_size(text), bytes, "{text:?}");
    }
    assert_eq!(
        read("[gateway]\nmax_event = 9")
            .expect("a number")
            .gateway
            .max_event
            .0,
        9
    );
}

#[test]
fn one_mistake_is_said_once_and_by_name() {
    for (text, expected) in [
        (
            "[[schedule]]\nfunction = \"f\"\nevery = \"x\"",
            "oncue.toml:3: [[schedule]] \"x\" is no duration like \"30s\" or \"2h\": expected number at 0",
        ),
        (
            "[functions.f]\ntimeout = \"30\"",
            "oncue.toml:2: [functions.f] \"30\" is no duration like \"30s\" or \"2h\": time unit needed, for example 30sec \
             or 30ms",
        ),
        (
            "[functions.f]\nmin = 1\nmax = 2\nmin = 1",
            "oncue.toml:4: min stands here a second time",
        ),
        (
            "[functions.f]\n[flows]\n[functions.f]",
            "oncue.toml:3: f stands here a second time",
        ),
        (
            "[nats]\nbatch_publish = true\nurl = \"http://127.0.0.1:4222\"",
            "oncue.toml:3: [nats] url begins with http:// and is no address of NATS: write nats://HOST:4222, or \
             tls://HOST:4222",
        ),
    ] {
        assert_eq!(mistake(text), expected);
    }
}

#[test]
fn durations_and_starts_are_words() {
    let config = read(
        "[functions.f]\ntimeout = \"1min 30s\"\nstart = \"new\"\n[streams.web]\nhorizon = \"72h\"",
    )
    .expect("a file");
    assert_eq!(
        config.function("f").timeout.expect("set").0,
        Duration::from_secs(90)
    );
    assert_eq!(config.function("f").start, Some(Start::New));
    assert_eq!(config.stream("web").horizon.0, Duration::from_hours(72));
    for bad in ["30", "s", "", "-1s"] {
        assert!(
            mistake(&format!("[functions.f]\ntimeout = {bad:?}")).contains("is no duration"),
            "{bad:?}"
        );
    }
}

#[test]
fn schedules_say_what_and_when() {
    let text = "[[schedule]]\nfunction = \"publish-trends\"\nevery = \"90s\"\n\
                [[schedule]]\ntype = \"files.file.uploaded\"\ndata = { file = \"home\" }\ncron = \"0 0 6 * * *\"\nname = \"six\"\n\
                [[schedule]]\ntype = \"files.file.uploaded\"\ndata = { file = \"home\" }\nevery = \"1s\"";
    let config = read(text).expect("three schedules");
    let shown: Vec<_> = config
        .schedules
        .iter()
        .map(|s| (s.name(), s.ty(), s.key().to_owned(), s.rule()))
        .collect();
    let row = |name: &str, ty: &str, key: &str, rule: &str| {
        (name.into(), ty.into(), key.into(), rule.into())
    };
    let expected = [
        row(
            "publish-trends",
            "timer.function.fired",
            "publish-trends",
            "@every 90s",
        ),
        row("six", "files.file.uploaded", "home", "0 0 6 * * *"),
        row(
            "files-file-uploaded",
            "files.file.uploaded",
            "home",
            "@every 1s",
        ),
    ];
    assert_eq!(shown, expected);
}

#[test]
fn a_schedule_that_could_not_fire_is_a_mistake() {
    for (entry, expected) in [
        (
            "function = \"f\"\ntype = \"files.file.uploaded\"\nevery = \"1s\"",
            "either `function` or `type`",
        ),
        ("function = \"f\"", "either `every`"),
        (
            "function = \"f\"\nevery = \"1s\"\ncron = \"* * * * * *\"",
            "either `every`",
        ),
        ("function = \"f\"\nevery = \"500ms\"", "at least 1s"),
        (
            "function = \"f\"\ncron = \"0 0 6 * *\"",
            "put a second in front: \"0 0 0 6 * *\"",
        ),
        ("function = \"f\"\ncron = \"0 61 * * * *\"", "is no minute"),
        (
            "function = \"f\"\ncron = \"0 0 6 * * *\"\nzone = \"Mars and Venus\"",
            "no name of a time zone",
        ),
        (
            "function = \"f\"\ncron = \"0 0 6 * * *\"\nzone = \"Local\"",
            "no name of a time zone",
        ),
        (
            "function = \"f\"\nevery = \"1h\"\nzone = \"Europe/Berlin\"",
            "`zone` belongs to `cron`",
        ),
        (
            "function = \"f\"\nname = \"a b\"\nevery = \"1s\"",
            "may hold letters",
        ),
        (
            "type = \"files.file.uploaded\"\nevery = \"1s\"",
            "must not be empty",
        ),
        (
            "type = \"files.file.uploaded\"\ndata = { file = 1 }\nevery = \"1s\"",
            "not a files.FileUploaded",
        ),
    ] {
        let found = mistake(&format!("\n[[schedule]]\n{entry}"));
        assert!(
            found.starts_with("oncue.toml:2: [[schedule]] ") && found.contains(expected),
            "{found} for {entry}"
        );
    }
    let twice = "[[schedule]]\nfunction = \"f\"\nevery = \"1s\"\n[[schedule]]\nfunction = \"f\"\nevery = \"2s\"";
    assert!(
        mistake(twice).starts_with("oncue.toml:4: "),
        "{}",
        mistake(twice)
    );
}

/// Programs bring event types that the file alone cannot know, so such a schedule is checked once they were asked.
#[test]
fn a_schedule_of_an_unknown_type_is_a_mistake_unless_a_program_may_know_it() {
    let schedule =
        "\n[[schedule]]\ntype = \"shops.file.uploaded\"\ndata = { file = \"f\" }\nevery = \"1s\"\n";
    let unknown =
        "[[schedule]] unknown event type \"shops.file.uploaded\"; known: files.file.uploaded";
    let found = mistake(schedule);
    assert_eq!(found, format!("oncue.toml:2: {unknown}"));

    let text = format!("{schedule}[functions.f]\n");
    let config = read(&text).expect("a program may know it");
    let found = config.check_schedules(&Catalog::builtin());
    assert_eq!(
        found.expect_err("nobody knows it").to_string(),
        format!("oncue.toml:2: {unknown}")
    );
    let shops = Catalog::builtin().with(&foreign_contract());
    assert!(config.check_schedules(&shops.expect("a contract")).is_ok());
    let wrong = text.replace("\"f\"", "1");
    let config = read(&wrong).expect("a program may know it");
    let shops = Catalog::builtin().with(&foreign_contract());
    let found = config.check_schedules(&shops.expect("a contract"));
    let found = found.expect_err("no file").to_string();
    assert!(found.contains("not a files.FileUploaded"), "{found}");
}

/// Our own contract under another domain, as another repository's `DESCRIPTORS`.
fn foreign_contract() -> Vec<u8> {
    let mut set = oncue_proto::DESCRIPTORS.to_vec();
    let ours = b"files.file.uploaded";
    let at = set
        .windows(ours.len())
        .position(|window| window == ours)
        .expect("an event type");
    set[at..at + 5].copy_from_slice(b"shops");
    set
}

#[test]
fn a_file_with_contracts_is_told_what_became_of_them() {
    let mistake = mistake("\ncontracts = [\"shop.bin\"]\n");
    assert!(
        mistake.starts_with("oncue.toml:2: contracts is no setting any more")
            && mistake.contains("take the line out"),
        "{mistake}"
    );
}

#[test]
fn the_site_lies_beside_the_file_or_is_a_mistake_with_its_line() {
    let dir = std::env::temp_dir().join(format!("oncue-config-site-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("site")).expect("a folder");
    let file = dir.join("oncue.toml");
    let site_dir = |name: &str| {
        let text = format!("app.name = \"a\"\n[gateway]\nsite = \"{name}\"\n");
        let config = Config::parse(&text, Some(&file), |_| None).expect("a configuration");
        config.site_dir().map_err(|e| e.to_string())
    };
    let relative = site_dir("site");
    let absolute = site_dir(&dir.join("site").display().to_string());
    let missing = site_dir("none").expect_err("a mistake");
    std::fs::remove_dir_all(&dir).expect("removed");
    assert_eq!(relative, Ok(Some(dir.join("site"))));
    assert_eq!(absolute, relative);
    assert!(
        missing.starts_with(&format!("{}:3: [gateway] site", file.display())),
        "{missing}"
    );
    let none = Config::parse("", None, |_| None).expect("a configuration");
    assert_eq!(none.site_dir().map_err(|e| e.to_string()), Ok(None));
}

#[test]
fn handlers_in_other_programs_are_checked() {
    let config = read(
        "[functions.a]\nrun = [\"python\", \"-m\", \"oncue\", \"a.py\"]\nprocesses = 2\nmemory = \"512MiB\"\n\
         [functions.b]\nrun = [\"bash\", \"b.sh\"]\nprotocol = \"lines\"\non = [\"web.page.viewed\"]\ntable = \"b\"\n\
         [functions.c]\nhttp = \"http://127.0.0.1:9000/hook\"\non = [\"web.page.viewed\"]\nprocesses = 4\n",
    )
    .expect("a configuration");
    assert_eq!(
        config.function("a").memory.map(|size| size.0),
        Some(512 << 20)
    );
    assert_eq!(config.function("b").protocol, Some(Protocol::Lines));
    let hosted = ["a", "b", "c", "d"].map(|name| config.function(name).is_hosted());
    assert_eq!(hosted, [true, true, true, false]);
    for (text, words) in [
        ("processes = 2", "processes is for a function with `run` or"),
        (
            "memory = \"1MiB\"",
            "memory is for a function with `run` or",
        ),
        ("run = []", "run names no program"),
        (
            "run = [\"bash\"]\nprotocol = \"lines\"",
            "protocol = \"lines\" needs `on`",
        ),
        (
            "run = [\"python\"]\ntable = \"t\"",
            "on, emits, table, key and at_most_once are for protocol = \"lines\"",
        ),
        (
            "run = [\"python\"]\nheaders = { a = \"env:A\" }",
            "headers are for a function with `http`",
        ),
        (
            "http = \"http://a/\"\non = [\"a.b\"]\nheaders = { CE-id = \"env:A\" }",
            "headers: \"CE-id\" is no name of a header that is free to be set",
        ),
        (
            "http = \"http://a/\"\non = [\"a.b\"]\nheaders = { \"a b\" = \"env:A\" }",
            "headers: \"a b\" is no name",
        ),
        (
            "run = [\"bash\"]\nhttp = \"http://a\"",
            "a program or a service, not both",
        ),
        ("http = \"127.0.0.1:9000\"", "is no address like"),
        ("http = \"http:///hook\"", "is no address like"),
        ("http = \"http://a:b@c/\"", "http holds a password"),
        ("http = \"http://a/\"", "http needs `on`"),
        (
            "http = \"http://a/\"\non = [\"a.b\"]\nmemory = \"1MiB\"",
            "memory and protocol are for a function with `run`",
        ),
    ] {
        let why = mistake(&format!("[functions.a]\n{text}\n"));
        assert!(
            why.starts_with("oncue.toml:1: [functions.a] ") && why.contains(words),
            "{why}"
        );
    }
}

#[test]
fn the_settings_of_the_security_page_are_read() {
    let page = include_str!("../../../../deploy/SECURITY.md");
    let blocks = page.split("```toml\n").skip(1);
    let blocks: Vec<&str> = blocks.filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 4, "{blocks:?}");
    for block in blocks {
        if let Err(why) = read(block) {
            panic!("{block}\n{why}");
        }
    }
}

#[test]
fn a_door_that_would_stand_open_or_shut_is_a_mistake() {
    for (text, says) in [
        ("[auth.a]\n", "takes no credential at all"),
        (
            "[console.login]\nissuer = \"https://a.example\"\nclient = \"c\"\nlook = \"x\"\n",
            "[console] url is missing",
        ),
        (
            "[console]\nurl = \"https://b.example\"\n[console.login]\nissuer = \"https://a.example\"\nclient = \"c\"\n",
            "lets nobody in",
        ),
        (
            "[console]\nurl = \"http://b.example\"\n[console.login]\nissuer = \"https://a.example\"\nclient = \"c\"\nlook = \"x\"\n",
            "[console] url \"http://b.example\" is no https URL",
        ),
        (
            "[console]\nurl = \"https://b.example\"\n[console.login]\nissuer = \"http://a.example\"\nclient = \"c\"\nlook = \"x\"\n",
            "issuer \"http://a.example\" is no https URL",
        ),
        (
            "[auth.a]\nissuer = \"https://a.example\"\n",
            "audience is missing",
        ),
        (
            "[auth.a]\nissuer = \"http://a.example\"\naudience = [\"a\"]\n",
            "no https URL",
        ),
        (
            "[auth.a]\nissuer = \"http://localhost.evil.example\"\naudience = [\"a\"]\n",
            "no https URL",
        ),
        (
            "[auth.a]\nissuer = \"https://a.example\"\naudience = [\"a\"]\nalgorithms = [\"HS256\"]\n",
            "\"HS256\" is none of",
        ),
        (
            "[auth.a]\nissuer = \"https://a.example\"\naudience = [\"a\"]\nskew = \"1h\"\n",
            "skew is at most",
        ),
        (
            "[auth.a]\nkeys = true\naudience = [\"a\"]\n",
            "with an issuer",
        ),
        ("[gateway]\nauth = \"a\"\n", "there is no [auth.a]"),
        ("[gateway]\nlimit = \"a\"\n", "there is no [limit.a]"),
        ("[limit.a]\nrate = 0\n", "at least 1"),
        ("[limit.a]\nrate = 1\nper = \"2days\"\n", "at most a day"),
        ("[limit.a]\nrate = 1\nby = \"claim.\"\n", "none of"),
        (
            "[gateway]\ncors = { origins = [\"https://a.example/\"] }\n",
            "is no origin",
        ),
    ] {
        let why = mistake(text);
        assert!(why.contains(says), "{text}\n{why}");
    }
    for text in [
        "[auth.a]\nissuer = \"http://localhost:8000/x\"\naudience = [\"a\"]\n",
        "[auth.a]\nkeys = true\n[gateway]\nauth = \"a\"\n",
        "[limit.a]\nrate = 1\nby = \"claim.tenant\"\n[gateway]\nlimit = \"a\"\n",
    ] {
        assert!(read(text).is_ok(), "{text}");
    }
}

#[test]
fn a_webhook_that_takes_what_nobody_signed_is_a_mistake() {
    let webhook = |rest: &str| {
        format!("[[webhook]]\nname = \"a\"\nkind = \"github\"\nevent = \"a.b\"\n{rest}\n")
    };
    assert!(read(&webhook("secrets = [\"env:A\"]")).is_ok());
    for (rest, says) in [
        ("secrets = []", "what is not signed is not taken"),
        (
            "secrets = [\"env:A\", \"env:B\", \"env:C\"]",
            "one secret, or two",
        ),
        (
            "secrets = [\"env:A\"]\nlimit = \"x\"",
            "there is no [limit.x]",
        ),
        (
            "secrets = [\"env:A\"]\nhmac = { header = \"x\" }",
            "for kind",
        ),
        (
            "secrets = [\"env:A\"]\ndata = { a = \"cookie.x\" }",
            "no place",
        ),
        (
            "secrets = [\"env:A\"]\nwhen = { \"body.\" = \"x\" }",
            "no place",
        ),
    ] {
        let why = mistake(&webhook(rest));
        assert!(why.contains(says), "{rest}\n{why}");
    }
    // The text may be the secret itself, and stands in no message.
    let why = mistake(&webhook("secrets = [\"whsec_canary\"]"));
    assert!(
        why.contains("env:VARIABLE") && !why.contains("canary"),
        "{why}"
    );
    let twice = webhook("secrets = [\"env:A\"]").repeat(2);
    assert!(mistake(&twice).contains("two named \"a\""));
}
