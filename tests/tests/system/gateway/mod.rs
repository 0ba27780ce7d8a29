//! The gateway over real HTTP, on servers of each test's own, within the test's process.

mod browsers;
mod cloud_events;
mod door;
mod events;
mod fairness;
mod files;
mod flows;
mod guards;
mod identity_of_ids;
mod limits;
pub mod oidc;
mod openapi;
mod process;
mod reads;
mod routes;
mod stream;
mod tls;
mod verdicts;
mod webhooks;

use std::net::SocketAddr;

use oncue_core::bus::Bus;
use oncue_core::bus::info::StreamState;
use oncue_core::config::Config;
use oncue_gateway::App;
use oncue_gateway::server::{Guards, serve};
use oncue_proto::Catalog;
use oncue_tests::cluster::{Cluster, Stored};
use oncue_tests::http::{self, Answer};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const VIEWED: &str = "/v1/events/web.page.viewed";

/// A gateway on a port of its own, with the servers it stands on.
struct Gateway {
    cluster: Cluster,
    bus: Bus,
    at: SocketAddr,
    /// What it says of itself: every answer it gives must be in there.
    document: Value,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<()>>,
}

impl Gateway {
    async fn start() -> Self {
        Self::with("", Guards::default()).await
    }

    async fn with(config: &str, guards: Guards) -> Self {
        Self::on(Cluster::new(config).await, guards).await
    }

    async fn on(cluster: Cluster, guards: Guards) -> Self {
        let config = config(&cluster);
        cluster.provide_gateway();
        let Served { at, stop, task } = Served::start(&config, guards).await;
        let bus = cluster.bus().await;
        let document = match config.gateway.tls {
            None => http::request(at, "GET", "/openapi.json", &[], "")
                .await
                .ok_json(),
            // Its tests speak for themselves.
            Some(_) => Value::Null,
        };
        Self {
            cluster,
            bus,
            at,
            document,
            stop: Some(stop),
            served: Some(task),
        }
    }

    /// Another gateway on the same servers.
    async fn beside(&self) -> Served {
        Served::start(&config(&self.cluster), Guards::default()).await
    }

    fn stop(&mut self) {
        self.stop.take().map(|stop| stop.send(()));
    }

    async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Answer {
        let answer = checked(http::request(self.at, method, path, headers, body).await);
        let known = openapi::is_documented(&self.document, method, path, &answer);
        let status = answer.status;
        assert!(known, "{method} {path}: {status} is not in /openapi.json");
        answer
    }

    async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// Writes these very bytes; `None` where no answer came.
    async fn raw(&self, message: &[u8]) -> Option<Answer> {
        http::raw(self.at, message).await.map(checked)
    }

    async fn stream(&self, name: &str) -> StreamState {
        self.bus.stream_info(name).await.expect("a stream").state
    }

    async fn messages(&self, stream: &str) -> u64 {
        self.stream(stream).await.messages
    }

    async fn message(&self, stream: &str, sequence: u64) -> Stored {
        let message = self.cluster.message(&self.bus, stream, sequence).await;
        message.expect("a message")
    }
}

/// Configuration with the place of its file, by which it names others.
fn config(cluster: &Cluster) -> Config {
    Config {
        path: Some(cluster.dir.join("oncue.toml")),
        ..cluster.config()
    }
}

/// A gateway without servers of its own.
struct Served {
    at: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(config: &Config, guards: Guards) -> Self {
        let mut catalog = Catalog::builtin();
        catalog.add(oncue_app_events::DESCRIPTORS).unwrap();
        let app = App::start(config, catalog, guards)
            .await
            .expect("a gateway");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let at = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(serve(listener, app, async {
            let _ = stopped.await;
        }));
        Self { at, stop, task }
    }
}

/// An answer, of which every problem document says where it happened and under which trace.
#[track_caller]
fn checked(answer: Answer) -> Answer {
    if answer.is_problem() {
        let problem = answer.json();
        let path = problem["instance"].as_str().unwrap_or_default();
        assert!(path.starts_with('/'), "{problem}");
        let trace = problem["trace_id"].as_str().unwrap_or_default();
        assert_eq!(trace.len(), 32, "{problem}");
    }
    answer
}
