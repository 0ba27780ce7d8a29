//! `oncue test`: the app's own tests beside servers, functions and a gateway of their own, which nobody else uses and which
//! are gone afterwards. The tests find them by their environment.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use oncue_core::program;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::{self, Failure};
use crate::http;
use crate::settings::Settings;
use crate::terminal::paint::remark;
use crate::up::orphan_guard::OrphanGuard;
use crate::verbs::{dev, health};

/// Pause between two looks whether everything is ready.
const LOOK: Duration = Duration::from_millis(50);
/// Longest wait for the gateway's answer.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// Lines of the log that are shown where the app does not start.
const LOG_LINES: usize = 30;

#[derive(clap::Args)]
pub struct Args {
    /// Test command, behind `--`. Default: `[test] command` of oncue.toml, else `cargo test`. It finds ONCUE_NATS_URL,
    /// ONCUE_REDIS_URL and ONCUE_GATEWAY_URL in its environment; the exit code is its own.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// Servers, functions and gateway of one run, in a folder of their own.
struct Ground {
    /// Data of the servers and the log; removed with this.
    folder: PathBuf,
    nats_url: String,
    redis_url: String,
    /// Monitoring page of NATS: the usual one may be another run's.
    monitor: String,
    gateway: String,
    console: String,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    settings.require_file()?;
    let config = &settings.config;
    let folder = std::path::absolute(config.beside(Path::new("."))).map_err(Failure::failed)?;
    if let Some(build) = &config.build
        && !dev::build(build, &folder).await
    {
        return Err(Failure::failed("the functions are not built"));
    }
    let ground = Ground::find().map_err(Failure::failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Failure::failed)?;
    let guard = OrphanGuard::of_up()?;
    let mut up = ground.start(settings).map_err(Failure::failed)?;
    if let Some(pid) = up.id() {
        guard.watch(pid);
    }
    let tested = tokio::select! {
        tested = ground.test(&mut up, args, settings, &folder) => tested,
        _ = interrupt.recv() => Ok(exit::FAILED),
        _ = terminate.recv() => Ok(exit::FAILED),
        _ = hangup.recv() => Ok(exit::FAILED),
    };
    stop(up).await;
    guard.dismiss();
    tested
}

impl Ground {
    /// A folder and free ports. All are held until the last is found, so that no two are the same.
    fn find() -> io::Result<Self> {
        let held: Vec<TcpListener> = (0..5)
            .map(|_| TcpListener::bind("127.0.0.1:0"))
            .collect::<io::Result<_>>()?;
        let addresses: Vec<String> = held
            .iter()
            .map(|port| Ok(port.local_addr()?.to_string()))
            .collect::<io::Result<_>>()?;
        let folder = std::env::temp_dir().join(format!("oncue-test-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        Ok(Self {
            folder,
            nats_url: format!("nats://{}", addresses[0]),
            redis_url: format!("redis://{}", addresses[1]),
            gateway: addresses[2].clone(),
            console: addresses[3].clone(),
            monitor: addresses[4].clone(),
        })
    }

    fn gateway_url(&self, settings: &Settings) -> String {
        health::url(&self.gateway, settings.config.gateway.tls.as_ref())
    }

    fn log(&self) -> PathBuf {
        self.folder.join("up.log")
    }

    /// `oncue up` as it runs here, on these ports.
    fn start(&self, settings: &Settings) -> io::Result<Child> {
        let log = File::create(self.log())?;
        let mut up = Command::new(std::env::current_exe()?);
        up.arg("up").arg("--data").arg(self.folder.join("data"));
        // Tests look into everything, with whatever client they have.
        up.arg("--unlocked");
        if let Some(path) = &settings.config.path {
            up.env("ONCUE_CONFIG", std::path::absolute(path)?);
        }
        up.env("ONCUE_BIN_DIR", std::path::absolute(&settings.bin)?)
            .env("ONCUE_NATS_URL", &self.nats_url)
            .env("ONCUE_REDIS_URL", &self.redis_url)
            .env("ONCUE_NATS_MONITOR", &self.monitor)
            .env("ONCUE_GATEWAY_LISTEN", &self.gateway)
            .env("ONCUE_CONSOLE_LISTEN", &self.console);
        if std::env::var_os("OTEL_EXPORTER_OTLP_ENDPOINT").is_none() {
            // No trace viewer: its ports are the same for everybody.
            up.env("OTEL_SDK_DISABLED", "true")
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9");
        }
        up.stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
    }

    /// Waits until everything is ready, and runs the tests. Returns their exit code.
    async fn test(
        &self,
        up: &mut Child,
        args: &Args,
        settings: &Settings,
        folder: &Path,
    ) -> Result<u8, Failure> {
        self.until_ready(up, settings).await?;
        let configured = settings.config.test.as_ref().map(|test| &test.command);
        let mut command = match configured {
            _ if !args.command.is_empty() => args.command.clone(),
            Some(command) => command.clone(),
            None => ["cargo", "test"].map(str::to_owned).to_vec(),
        };
        if command.is_empty() {
            return Err(Failure::usage("[test] command in oncue.toml is empty"));
        }
        let first = command.remove(0);
        let gateway = self.gateway_url(settings);
        let mut tests = Command::new(&first);
        tests
            .args(command)
            .current_dir(folder)
            .env("ONCUE_NATS_URL", &self.nats_url)
            .env("ONCUE_REDIS_URL", &self.redis_url)
            .env("ONCUE_GATEWAY_URL", gateway)
            .envs(program::host().map(|host| (program::HOST_VARIABLE, host)))
            .kill_on_drop(true);
        let status = tests.status().await;
        let status = status.map_err(|e| Failure::usage(format_args!("{first}: {e}")))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok());
        Ok(code.unwrap_or(exit::FAILED))
    }

    async fn until_ready(&self, up: &mut Child, settings: &Settings) -> Result<(), Failure> {
        loop {
            if let Some(status) = up.try_wait().map_err(Failure::failed)? {
                let log = std::fs::read_to_string(self.log()).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                    remark(line);
                }
                let what = format!("the app does not start: `oncue up` ended with {status}");
                return Err(Failure::failed(what));
            }
            let page = http::get(&self.gateway_url(settings), "/readyz", HEALTH_TIMEOUT).await;
            if matches!(page, Ok((200, _))) {
                return Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Has `oncue up` finish, and waits for it.
async fn stop(mut up: Child) {
    if let Some(pid) = up.id().and_then(|pid| Pid::from_raw(pid as i32)) {
        let _ = kill_process(pid, Signal::TERM);
    }
    let _ = up.wait().await;
}
