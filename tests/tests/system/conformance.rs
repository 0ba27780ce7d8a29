//! One suite of cases for functions in every language: `tests/conformance/cases.toml`. The table in `deploy/FUNCTIONS.md` is made of
//! it, and says no more than these tests show.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Child, Command};

use oncue_core::bus::Bus;
use oncue_core::store::Keys;
use oncue_proto::oncue::v1::DeadLetter;
use oncue_proto::{Catalog, Format};
use oncue_tests::cluster::{Cluster, Process, built, free_port, in_repository, quoted, until};
use prost::Message as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};

const ASKED: &str = "conform.case.asked";
const ANSWERED: &str = "conform.case.answered";
/// Functions of the suite.
const FUNCTIONS: [&str; 4] = ["conform", "owned", "aged", "once"];
/// Limits that let a test see a timeout and redelivery within seconds.
const QUICK: &str = "ack_wait = \"2s\"\ntimeout = \"3s\"\nattempts = 2\n";

/// Keys whose events a function is ended in the middle of.
const DRAIN_KEYS: [&str; 4] = ["drain-1", "drain-2", "drain-3", "drain-4"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Suite {
    case: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    title: String,
    /// Key of its events; its own by default.
    key: Option<String>,
    #[serde(default = "conform")]
    function: String,
    events: Vec<Map<String, Value>>,
    /// Times that each `text` is repeated.
    #[serde(default = "once")]
    repeat: usize,
    /// Whether it would harm its neighbours.
    #[serde(default)]
    alone: bool,
    #[serde(default)]
    before: BTreeMap<String, String>,
    outputs: Option<Vec<Map<String, Value>>>,
    row: Option<BTreeMap<String, String>>,
    /// Key of the row, where that is not the key of the events.
    row_of: Option<String>,
    #[serde(default)]
    absent: Vec<String>,
    #[serde(default)]
    operations: bool,
    letter: Option<Letter>,
    /// What a dry run of the letter says.
    dry_run: Option<String>,
    /// Who cannot, and why.
    #[serde(default)]
    not: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Letter {
    reason: String,
    words: String,
    attempts: u32,
}

fn conform() -> String {
    "conform".to_owned()
}

fn once() -> usize {
    1
}

fn suite() -> Vec<Case> {
    let file = in_repository("tests/conformance/cases.toml");
    let text = std::fs::read_to_string(file).expect("cases");
    let suite: Suite = toml::from_str(&text).unwrap_or_else(|e| panic!("cases.toml: {e}"));
    suite.case
}

/// One who conforms: its word in `not`, and its column in the table.
#[derive(Clone, Copy, PartialEq)]
enum Language {
    Rust,
    Python,
    PythonAsync,
    TypeScript,
    Lines,
    Http,
}

impl Language {
    const ALL: [Self; 6] = [
        Self::Rust,
        Self::Python,
        Self::PythonAsync,
        Self::TypeScript,
        Self::Lines,
        Self::Http,
    ];

    fn word(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Python | Self::PythonAsync => "python",
            Self::TypeScript => "typescript",
            Self::Lines => "lines",
            Self::Http => "http",
        }
    }

    fn column(self) -> &'static str {
        match self {
            Self::Rust => "Rust",
            Self::Python => "Python",
            Self::PythonAsync => "Python, async",
            Self::TypeScript => "TypeScript",
            Self::Lines => "lines",
            Self::Http => "HTTP",
        }
    }

    /// Sections of its functions, none of `aged` where rows have no version.
    fn config(self, port: u16) -> String {
        let mut config =
            "proto = \"proto\"\n[streams.conform]\nmax_bytes = \"64MiB\"\n[streams.dlq]\nmax_bytes = \"64MiB\"\n"
                .to_owned();
        for name in self.functions() {
            let _ = write!(config, "[functions.{name}]\n{QUICK}");
            let section = match self {
                Self::Rust => String::new(),
                Self::Python => python("conform.py"),
                Self::PythonAsync => python("conform_async.py"),
                Self::TypeScript => {
                    "run = [\"node_modules/.bin/oncue-node\", \"functions/conform.ts\"]\n"
                        .to_owned()
                }
                Self::Lines => format!(
                    "run = [\"python3\", \"functions/plain.py\", \"lines\", \"{name}\"]\nprotocol = \"lines\"\n{}",
                    declared(name)
                ),
                Self::Http => {
                    format!(
                        "http = \"http://127.0.0.1:{port}/{name}\"\n{}",
                        declared(name)
                    )
                }
            };
            config.push_str(&section);
        }
        config
    }

    fn functions(self) -> Vec<&'static str> {
        let has_versions = !matches!(self, Self::Lines | Self::Http);
        let all = FUNCTIONS.into_iter();
        all.filter(|name| has_versions || *name != "aged").collect()
    }
}

/// How a function in Python is run.
fn python(file: &str) -> String {
    let python = quoted(&in_repository(".oncue/venv/bin/python"));
    let package = quoted(&in_repository("services/runtime/python"));
    format!(
        "run = [{python}, \"-m\", \"oncue\", \"functions/{file}\"]\nenv = {{ PYTHONPATH = {package} }}\n"
    )
}

/// What `oncue.toml` says of a function that cannot say it itself.
fn declared(name: &str) -> String {
    let table = if name == "conform" { "cases" } else { name };
    let key = if name == "owned" {
        "key = \"owner\"\n"
    } else {
        ""
    };
    let rest = if name == "once" {
        "at_most_once = true\n".to_owned()
    } else {
        format!("table = \"{table}\"\n{key}")
    };
    format!("on = [\"{ASKED}\"]\nemits = [\"{ANSWERED}\"]\n{rest}")
}

/// The functions in one language, with servers of their own.
struct Bench {
    language: Language,
    cluster: Cluster,
    bus: Bus,
    /// The suite's events.
    catalog: Catalog,
    hosts: Vec<Process>,
    service: Option<Child>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if let Some(service) = &mut self.service {
            let _ = service.kill();
            let _ = service.wait();
        }
    }
}

impl Bench {
    async fn start(language: Language) -> Self {
        let port = free_port();
        let cluster = Cluster::new(&language.config(port)).await;
        let sources = in_repository("tests/conformance");
        for (folder, names) in [
            ("proto", &["conform.proto"][..]),
            (
                "functions",
                &[
                    "answers.py",
                    "conform.py",
                    "conform_async.py",
                    "conform.ts",
                    "plain.py",
                ],
            ),
        ] {
            let folder = cluster.dir.join(folder);
            std::fs::create_dir_all(&folder).expect("a folder");
            for name in names {
                std::fs::copy(sources.join(name), folder.join(name)).expect("copied");
            }
        }
        if language == Language::TypeScript {
            generate(&cluster);
        }
        let service = (language == Language::Http).then(|| {
            let mut python = Command::new("python3");
            python.arg(cluster.dir.join("functions/plain.py"));
            python.args(["http", &port.to_string()]);
            python.spawn().expect("Python runs")
        });
        if service.is_some() {
            oncue_tests::cluster::wait_for_port(port).await;
        }
        let bus = cluster.bus().await;
        let mut catalog = Catalog::default();
        catalog.add(&contract(&cluster)).expect("a contract");
        let mut bench = Self {
            language,
            cluster,
            bus,
            catalog,
            hosts: Vec::new(),
            service,
        };
        bench.start_hosts().await;
        bench
    }

    async fn start_hosts(&mut self) {
        for name in self.language.functions() {
            let host = if self.language == Language::Rust {
                let which = [("CONFORM", name.to_owned())];
                self.cluster.spawn_with("conform", &[], &which)
            } else {
                self.cluster.spawn("oncue-host", &[name])
            };
            self.hosts.push(host);
        }
        for host in &self.hosts {
            host.wait_for_line("\"message\":\"ready\"").await;
        }
    }

    fn publish(&self, events: impl IntoIterator<Item = Value>) {
        let events = events.into_iter().map(|event| (ASKED, event.to_string()));
        self.cluster.plain_publish(events);
    }

    async fn stop_hosts(&mut self) {
        for mut host in std::mem::take(&mut self.hosts) {
            assert_eq!(host.stop().await, Some(0), "{}", host.log());
        }
    }

    /// How often each of the keys of [`drains`] was counted.
    async fn drain_counts(&self) -> [u64; DRAIN_KEYS.len()] {
        let store = self.cluster.store().await;
        let mut counts = [0; DRAIN_KEYS.len()];
        for (count, key) in counts.iter_mut().zip(DRAIN_KEYS) {
            let field = self.cluster.field(&store, "cases", key, "count").await;
            *count = field.parse().unwrap_or_default();
        }
        counts
    }

    async fn drained(&self) {
        for name in self.language.functions() {
            self.cluster.drained(&self.bus, "conform", name).await;
        }
    }

    fn log(&self) -> String {
        let logs = self.hosts.iter().map(Process::log);
        logs.collect::<Vec<_>>().join("\n---\n")
    }

    /// Answers so far, by key and in their order, each with all its fields but the ones that say what was asked.
    async fn answers(&self) -> HashMap<String, Vec<Value>> {
        let mut answers: HashMap<String, Vec<Value>> = HashMap::new();
        for message in self.cluster.messages(&self.bus, "conform").await {
            if message.subject.starts_with(ANSWERED) {
                let (key, answer) = self.read(&message.payload);
                answers.entry(key).or_default().push(answer);
            }
        }
        answers
    }

    /// Key and fields of an answer.
    fn read(&self, payload: &[u8]) -> (String, Value) {
        let entry = self.catalog.get(ANSWERED).expect("an event");
        let mut answer = entry.to_json(Format::Protobuf, payload).expect("JSON");
        let fields = answer.as_object_mut().expect("an object");
        let key = fields.remove("key").unwrap_or_default();
        for asked in ["what", "owner"] {
            fields.remove(asked);
        }
        (key.as_str().unwrap_or_default().to_owned(), answer)
    }

    /// Fields that are expected of an answer, with those that are not named.
    fn expected(&self, output: &Map<String, Value>, repeat: usize) -> Value {
        let mut output = output.clone();
        output.insert("key".to_owned(), json!("k"));
        if let Some(Value::String(text)) = output.get_mut("text") {
            *text = text.repeat(repeat);
        }
        let entry = self.catalog.get(ANSWERED).expect("an event");
        let json = Value::Object(output).to_string();
        let payload = entry.to_protobuf(Format::Json, json.as_bytes());
        self.read(&payload.expect("an answer")).1
    }

    async fn letters(&self, function: &str) -> Vec<DeadLetter> {
        let messages = self.cluster.messages(&self.bus, "dlq").await;
        let letters = messages
            .iter()
            .map(|m| DeadLetter::decode(&m.payload[..]).expect("a dead letter"));
        letters
            .filter(|letter| letter.function == function)
            .collect()
    }
}

/// Descriptor set of the suite's events, as the host compiles them.
fn contract(cluster: &Cluster) -> Vec<u8> {
    let made = cluster.output("oncue-host", &["--contract"]);
    assert!(made.status.success(), "{made:?}");
    made.stdout
}

/// Types of the events for TypeScript.
fn generate(cluster: &Cluster) {
    symlink(
        in_repository(".oncue/typescript/node_modules"),
        cluster.dir.join("node_modules"),
    )
    .expect("linked");
    std::fs::write(cluster.dir.join("package.json"), r#"{"type":"module"}"#).expect("written");
    let made = Command::new("node_modules/.bin/oncue-node")
        .args(["generate", "gen"])
        .current_dir(&cluster.dir)
        .env("ONCUE_HOST", built("oncue-host"))
        .output()
        .expect("node runs");
    assert!(made.status.success(), "{made:?}");
}

impl Case {
    fn key(&self, number: usize) -> String {
        self.key.clone().unwrap_or_else(|| format!("case-{number}"))
    }

    /// Its events, as they are published.
    fn events(&self, number: usize) -> impl Iterator<Item = Value> {
        let key = self.key(number);
        self.events.iter().map(move |event| {
            let mut event = event.clone();
            event.insert("key".to_owned(), json!(key));
            // All functions hear all events, and `owned` needs a key of its own.
            event
                .entry("owner")
                .or_insert_with(|| json!(format!("nobody-{key}")));
            if let Some(Value::String(text)) = event.get_mut("text") {
                *text = text.repeat(self.repeat);
            }
            Value::Object(event)
        })
    }

    fn table(&self) -> &str {
        if self.function == "conform" {
            "cases"
        } else {
            &self.function
        }
    }

    fn is_for(&self, language: Language) -> bool {
        !self.not.contains_key(language.word())
    }
}

/// Everything that must hold of a case; mistakes in words.
async fn mistakes(bench: &Bench, case: &Case, number: usize) -> Vec<String> {
    let mut wrong = Vec::new();
    let key = case.key(number);
    if let Some(expected) = &case.outputs {
        let expected = expected.iter();
        let expected: Vec<Value> = expected
            .map(|output| bench.expected(output, case.repeat))
            .collect();
        let found = bench.answers().await.remove(&key).unwrap_or_default();
        if found != expected {
            let found = format!("{found:?}");
            wrong.push(format!("answers {found:.1000}"));
        }
    }
    let store = bench.cluster.store().await;
    let row_key = case.row_of.as_ref().unwrap_or(&key);
    let row = bench.cluster.row(&store, case.table(), row_key).await;
    for (name, value) in case.row.iter().flatten() {
        // The version of a row is not among what is shown of it.
        let found = if name == "_schema" {
            let at = Keys::default().row(case.table(), row_key);
            Some(bench.cluster.redis_cli(&["HGET", &at, name]))
        } else {
            row.get(name).cloned()
        };
        if found.as_ref() != Some(value) {
            wrong.push(format!("{name} is {found:?} in {row:?}"));
        }
    }
    let there = case.absent.iter().filter(|name| row.contains_key(*name));
    wrong.extend(there.map(|name| format!("{name} is there: {row:?}")));
    if case.operations {
        let sum = bench.cluster.field(&store, "sums", &key, "sum").await;
        let members = bench
            .cluster
            .redis_cli(&["SMEMBERS", &Keys::default().row("members", &key)]);
        let members: BTreeSet<&str> = members.lines().collect();
        if sum != "42" || members != BTreeSet::from(["2", "40"]) {
            wrong.push(format!("sum {sum:?}, members {members:?}"));
        }
    }
    wrong.extend(wrong_letter(bench, case, &key).await);
    wrong
}

async fn wrong_letter(bench: &Bench, case: &Case, key: &str) -> Option<String> {
    let about = format!("\"key\":{}", json!(key));
    let letters = bench.letters(&case.function).await;
    let mut letters = letters.iter().filter(|letter| {
        let payload = letter.envelope.as_ref().map(|envelope| &envelope.payload);
        payload.is_some_and(|payload| String::from_utf8_lossy(payload).contains(&about))
    });
    let found = letters.next();
    let (Some(letter), Some(expected)) = (found, &case.letter) else {
        return (found.is_some() != case.letter.is_some()).then(|| format!("letter {found:?}"));
    };
    let is_right = letter.reason == expected.reason
        && letter.message.contains(&expected.words)
        && letter.attempts == expected.attempts
        && letters.next().is_none();
    if !is_right {
        return Some(format!("letter {letter:?}"));
    }
    wrong_dry_run(bench, case, key, letter).await
}

async fn wrong_dry_run(
    bench: &Bench,
    case: &Case,
    key: &str,
    letter: &DeadLetter,
) -> Option<String> {
    let words = case.dry_run.as_ref()?;
    let store = bench.cluster.store().await;
    let before = bench.cluster.row(&store, case.table(), key).await;
    let id = &letter.event_id;
    let output = bench
        .cluster
        .output("oncue", &["dlq", "redrive", "--dry-run", id]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    if !said.contains(words) {
        return Some(format!("a dry run says {said}"));
    }
    let after = bench.cluster.row(&store, case.table(), key).await;
    let letters = bench.letters(&case.function).await;
    let is_unchanged = after == before && letters.contains(letter);
    (!is_unchanged).then(|| format!("a dry run changed {before:?} to {after:?}, {letters:?}"))
}

/// Has a language work through all cases, and is ended in the middle of more.
async fn conforms(language: Language) {
    let suite = suite();
    let cases = suite.iter().enumerate();
    let cases: Vec<(usize, &Case)> = cases.filter(|(_, case)| case.is_for(language)).collect();
    assert!(cases.len() > 20, "{}", cases.len());
    let mut bench = Bench::start(language).await;
    for (number, case) in &cases {
        let at = Keys::default().row(case.table(), &case.key(*number));
        for (name, value) in &case.before {
            bench.cluster.redis_ok(&["HSET", &at, name, value]);
        }
    }
    let together = cases.iter().filter(|(_, case)| !case.alone);
    bench.publish(together.flat_map(|(number, case)| case.events(*number)));
    bench.drained().await;
    for (number, case) in cases.iter().filter(|(_, case)| case.alone) {
        bench.publish(case.events(*number));
        bench.drained().await;
    }
    until("what follows later is there", async || {
        let answers = bench.answers().await;
        let mut all = cases.iter().filter_map(|(number, case)| {
            let expected = case.outputs.as_ref()?.len();
            Some(answers.get(&case.key(*number)).map_or(0, Vec::len) >= expected)
        });
        all.all(|is_there| is_there).then_some(())
    })
    .await;
    let mut wrong = Vec::new();
    for (number, case) in &cases {
        let found = mistakes(&bench, case, *number).await;
        wrong.extend(
            found
                .into_iter()
                .map(|found| format!("{}: {found}", case.title)),
        );
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.join("\n"), bench.log());
    nothing_is_left_of_files(&bench).await;
    drains(&mut bench).await;
}

/// Chunks are there of whole files alone: those that were deleted, replaced or not finished have left none.
async fn nothing_is_left_of_files(bench: &Bench) {
    let count = async |kind: &str| {
        let subjects = format!("$O.app_files.{kind}.*");
        let found = bench.bus.stream_subjects("OBJ_app_files", &subjects).await;
        found.map_or(0, |found| found.len())
    };
    if matches!(bench.language, Language::Lines | Language::Http) {
        return;
    }
    // Two files that stay; of the two others of their cases a description says that they are gone.
    assert_eq!(count("M").await, 4, "{}", bench.log());
    until("half a file is gone", async || {
        (count("C").await == 2).then_some(())
    })
    .await;
}

/// Ended in the middle of its work, a function finishes what it has in hand, and another goes on: each event counts once.
async fn drains(bench: &mut Bench) {
    let mut published = 0;
    // Who is quick is given more, until the end finds something left.
    for each in [40, 200, 1000, 5000] {
        let before = bench.drain_counts().await;
        let events = (0..each).flat_map(|_| DRAIN_KEYS);
        bench.publish(events.map(|key| json!({ "key": key, "owner": key, "what": "row" })));
        published += each;
        until("some are counted", async || {
            (bench.drain_counts().await != before).then_some(())
        })
        .await;
        bench.stop_hosts().await;
        let counts = bench.drain_counts().await;
        bench.start_hosts().await;
        if counts.iter().sum::<u64>() < published * DRAIN_KEYS.len() as u64 {
            bench.drained().await;
            let all = DRAIN_KEYS.map(|_| published);
            assert_eq!(bench.drain_counts().await, all, "{}", bench.log());
            return bench.stop_hosts().await;
        }
    }
    panic!("no end came in the middle of its work:\n{}", bench.log());
}

#[tokio::test]
async fn rust_conforms() {
    conforms(Language::Rust).await;
}

#[tokio::test]
async fn python_conforms() {
    conforms(Language::Python).await;
}

#[tokio::test]
async fn async_python_conforms() {
    conforms(Language::PythonAsync).await;
}

#[tokio::test]
async fn typescript_conforms() {
    conforms(Language::TypeScript).await;
}

#[tokio::test]
async fn lines_conform() {
    conforms(Language::Lines).await;
}

#[tokio::test]
async fn http_conforms() {
    conforms(Language::Http).await;
}

/// The published table is that of the cases.
#[test]
fn the_published_table_says_who_conforms() {
    let mut table = "| |".to_owned();
    for language in Language::ALL {
        let _ = write!(table, " {} |", language.column());
    }
    table.push_str("\n|---|");
    table.push_str(&"---|".repeat(Language::ALL.len()));
    for case in suite() {
        let _ = write!(table, "\n| {} |", case.title);
        for language in Language::ALL {
            let cell = case.not.get(language.word()).map_or("yes", String::as_str);
            let _ = write!(table, " {cell} |");
        }
    }
    table.push_str("\n| ended in the middle of its work, nothing is lost or done twice |");
    table.push_str(&" yes |".repeat(Language::ALL.len()));
    let page = std::fs::read_to_string(in_repository("deploy/FUNCTIONS.md")).expect("a page");
    assert!(
        page.contains(&table),
        "deploy/FUNCTIONS.md needs this table:\n{table}"
    );
}
