//! The process around a server: configuration, telemetry, the signal to stop, exit codes.
//!
//! | exit code | meaning |
//! |---|---|
//! | 0 | stopped as told |
//! | 1 | a server is not reachable or does not fit; one line says which |
//! | 2 | the configuration is wrong; every mistake has its line |

use std::path::PathBuf;
use std::process::ExitCode;

use oncue_core::config::{Config, ConfigErrors, Role, TlsConfig};
use oncue_core::contract::{self, Contracts};
use oncue_proto::{Catalog, event};
use oncue_telemetry::{Service, Telemetry};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Exit code for a wrong configuration: starting again will not help.
const WRONG_CONFIG: u8 = 2;

/// A process that has read its configuration and has promised nothing yet: no port is bound, no server connected.
pub struct Process {
    /// `oncue.toml` and the environment, read whole and checked.
    pub config: Config,
    /// Event types of the platform and of the functions, as they are now.
    pub catalog: Catalog,
    /// Folder of the functions' programs.
    pub programs: PathBuf,
    /// Becomes true with the signal, and stays so.
    stop: watch::Receiver<bool>,
}

/// Reason why a server could not start.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Exit code 2. For mistakes that only this program cares about; the others are found before it is called.
    #[error(transparent)]
    Config(#[from] ConfigErrors),
    /// Exit code 1, with a line for the person at the terminal.
    #[error("{0}")]
    Start(String),
}

impl From<String> for Failure {
    fn from(why: String) -> Self {
        Self::Start(why)
    }
}

impl Process {
    /// Waits for SIGTERM or Ctrl-C.
    pub async fn stopped(mut self) {
        // Without a sender no signal can come any more; then only a kill ends the process.
        if self.stop.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Life of a server process, which has the credentials of `role`: reads the configuration, starts telemetry with `name` as
/// `service.name`, runs `server` until it returns, and flushes what telemetry still holds, for at
/// most two seconds. Errors go to standard error, since telemetry may not have been started when
/// they happen.
pub async fn run(
    name: &'static str,
    role: Role,
    server: impl AsyncFnOnce(Process) -> Result<(), Failure>,
) -> ExitCode {
    let loaded = match load(&role).await {
        Ok(loaded) => loaded,
        Err(failure) => return failed(name, &failure),
    };
    let telemetry = Telemetry::start(Service::Program { name }, &event::new_id());
    for warning in &loaded.contracts.warnings {
        tracing::warn!("{warning}");
    }
    let ended = match oncue_core::process::stop_signal() {
        // Before anything is promised: whoever waits for the line of `listening` may send the signal at once.
        Ok(stop) => {
            let process = Process {
                config: loaded.config,
                catalog: loaded.contracts.catalog,
                programs: loaded.programs,
                stop,
            };
            server(process).await
        }
        Err(e) => Err(Failure::Start(format!("cannot handle signals: {e}"))),
    };
    telemetry.close().await;
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(name, &failure),
    }
}

/// Configuration, and the event types that it leads to.
struct Loaded {
    config: Config,
    programs: PathBuf,
    contracts: Contracts,
}

/// Reads the configuration, and asks the functions' programs for their contracts.
///
/// # Errors
/// Mistakes of the configuration. A program that does not answer is a warning.
async fn load(role: &Role) -> Result<Loaded, Failure> {
    let mut config = Config::load()?;
    config.log_in(role);
    let programs = contract::programs()?;
    let contracts = contract::load(&config, &programs).await?;
    Ok(Loaded {
        config,
        programs,
        contracts,
    })
}

/// Prints the reason and returns its exit code.
fn failed(name: &str, failure: &Failure) -> ExitCode {
    match failure {
        // Each line begins with its file already.
        Failure::Config(errors) => {
            eprintln!("{errors}");
            ExitCode::from(WRONG_CONFIG)
        }
        Failure::Start(why) => {
            eprintln!("oncue-{name}: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Binds `address`, `HOST:PORT`. Before the connections to NATS and Redis are made, so that a port that is taken is
/// the first thing said.
///
/// # Errors
/// [`Failure::Start`] with the address: the port is taken, or the host is not one of this machine.
pub async fn bind(address: &str) -> Result<TcpListener, Failure> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|e| Failure::Start(format!("cannot listen on {address}: {e}")))
}

/// Says where the server is reached, now that it can answer. Scripts and `oncue up` wait for this line, so it comes
/// after the connections to NATS and Redis, and names the port that was really bound where 0 was asked for.
///
/// # Errors
/// [`Failure::Start`], where the system does not tell the address of the socket.
pub fn announce(listener: &TcpListener, tls: Option<&TlsConfig>) -> Result<(), Failure> {
    let address = listener.local_addr().map_err(|e| e.to_string())?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!("listening on {scheme}://{address}");
    Ok(())
}
