//! What `oncue apply` does before a program starts, for the programs of a test: most tests are not about it, and have no
//! `[functions]` in their file either.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use oncue_core::agreement;
use oncue_core::bus::Bus;
use oncue_core::bus::layout::{self, Wanted};
use oncue_core::config::Config;
use oncue_core::model::manifest::Manifest;
use oncue_core::secret;
use oncue_core::store::Store;
use oncue_proto::Catalog;
use oncue_proto::event::stream_of_type;

/// Programs of ours that are no functions.
const OTHERS: [&str; 10] = [
    "oncue",
    "oncue-gateway",
    "oncue-console",
    "oncue-trace-viewer",
    "bench",
    "bench-limit",
    "chaos",
    "crowd",
    "own-tests",
    "pictures",
];

/// Servers as they are, and what a program has been told of them.
pub struct Providing {
    pub nats: String,
    pub redis: String,
    pub config: Config,
    pub env: Vec<(String, String)>,
}

impl Providing {
    /// Makes all that a function wants. What cannot be made the program itself will complain of.
    pub fn function(&self, program: &Path, args: &[&str]) {
        let name = program.file_name().and_then(|name| name.to_str());
        if name.is_none_or(|name| OTHERS.contains(&name)) {
            return;
        }
        let Some(manifest) = self.manifest(program, args) else {
            return;
        };
        self.run(async |bus, store| {
            let config = &self.config;
            let domains = manifest.domains();
            for domain in &domains {
                let wanted = layout::stream(&config.app, domain, &config.stream(domain));
                self.make(&bus, &wanted).await;
            }
            self.make(&bus, &layout::bucket(&config.app, &config.bucket()))
                .await;
            let _ = agreement::check_streams(&bus, &store, &domains).await;
            // Before the consumer: what is published once it is there will be waited for.
            let _ = store.register(&manifest).await;
            self.make(&bus, &manifest.consumer(config)).await;
        });
    }

    /// Makes the streams of every type the gateway may be sent.
    pub fn gateway(&self) {
        let mut catalog = Catalog::builtin();
        catalog
            .add(oncue_app_events::DESCRIPTORS)
            .expect("the app's contract");
        self.run(async |bus, store| {
            let config = &self.config;
            let types = catalog.entries().map(|entry| stream_of_type(&entry.ty));
            for domain in [layout::TIMER, layout::DLQ].into_iter().chain(types) {
                let wanted = layout::stream(&config.app, domain, &config.stream(domain));
                self.make(&bus, &wanted).await;
            }
            self.make(&bus, &layout::bucket(&config.app, &config.bucket()))
                .await;
            drop(store);
        });
    }

    /// Makes one of them. The servers of a cluster may still have to agree on who leads.
    async fn make(&self, bus: &Bus, wanted: &Wanted) {
        let attempts = if self.nats.contains(',') { 40 } else { 1 };
        for _ in 0..attempts {
            if bus.provide(wanted).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    /// The function as its program describes it; `None` for one that is not there or has no description.
    fn manifest(&self, program: &Path, args: &[&str]) -> Option<Manifest> {
        let output = Command::new(program)
            .args(args)
            .arg("--manifest")
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        serde_json::from_slice(&output.stdout).ok()
    }

    /// Runs on a thread of its own: a test is in the middle of its own runtime.
    fn run(&self, work: impl AsyncFnOnce(Bus, Store) + Send) {
        std::thread::scope(|threads| {
            threads.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                runtime.block_on(async {
                    let bus = Bus::connect(self.nats.as_str(), "provide");
                    let store = Store::look(self.redis.as_str(), &self.config.app);
                    let (Ok(bus), Ok(store)) = tokio::join!(bus, store) else {
                        return;
                    };
                    let bus = bus.of_app(&self.config.app);
                    if store.lay_out().await.is_ok() {
                        let _ = secret::id_secret(&bus, &store).await;
                        work(bus, store).await;
                    }
                });
            });
        });
    }
}
