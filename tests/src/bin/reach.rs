//! A function for tests that reaches out of its process in the way its event's `referrer` names: `WAY ADDRESS`. What a
//! dry run must hold back.

use std::io::Write as _;
use std::net::{TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};

use oncue::{Context, Function, Result, reject};
use oncue_app_events::web::PageViewed;
use parking_lot::Mutex;

/// A thread that was there before the function is run, and connects where it is told.
static THREAD: OnceLock<Mutex<Sender<Errand>>> = OnceLock::new();

/// Where the thread is to connect, and who hears how it went.
struct Errand {
    to: String,
    done: Sender<String>,
}

async fn reach(event: PageViewed, _: &mut (), context: &Context) -> Result<()> {
    if std::env::var_os("REACH_REJECTS").is_some() {
        return Err(reject("not now"));
    }
    let (way, to) = event.referrer.split_once(' ').unwrap_or_default();
    match way {
        "tcp" => drop(TcpStream::connect(to)?),
        "udp" => drop(UdpSocket::bind("127.0.0.1:0")?.send_to(b"hello", to)?),
        "unix" => drop(UnixStream::connect(to)?),
        // One end of a pair sends elsewhere than to the other.
        "pair" => drop(UnixDatagram::pair()?.0.send_to(b"hello", to)?),
        "async" => drop(tokio::net::TcpStream::connect(to).await?),
        "process" => {
            let output = Command::new(std::env::current_exe()?)
                .env("REACH", to)
                .output()?;
            if !output.status.success() {
                let said = String::from_utf8_lossy(&output.stderr).into_owned();
                return Err(std::io::Error::other(said).into());
            }
        }
        "thread" => {
            let (done, ended) = channel();
            let thread = THREAD.get().ok_or(std::io::Error::other("no thread"))?;
            let to = to.to_owned();
            let _ = thread.lock().send(Errand { to, done });
            let said = ended.recv().unwrap_or_default();
            if !said.is_empty() {
                return Err(std::io::Error::other(said).into());
            }
        }
        // Through the context, which may: it is read and not written.
        "file" => {
            print!("printed, and no end of the line");
            let found = context.files().read(to, 4 << 20).await?;
            let found = found.map_or("nothing".to_owned(), |bytes| {
                format!("{} bytes, the last {:?}", bytes.len(), bytes.last())
            });
            context.files().delete(to).await?;
            context.files().put("made", &[], found.clone()).await?;
            context.set_add("files", &found)?;
        }
        "mute" => loop {
            std::thread::park();
        },
        _ => {}
    }
    Ok(())
}

/// Connects, and says what went wrong.
fn connect(to: &str) -> String {
    let connected = TcpStream::connect(to).and_then(|mut stream| stream.write_all(b"hello"));
    connected.err().map(|e| e.to_string()).unwrap_or_default()
}

fn main() -> ExitCode {
    if let Ok(to) = std::env::var("REACH") {
        let why = connect(&to);
        eprint!("{why}");
        return ExitCode::from(u8::from(!why.is_empty()));
    }
    let (tell, told) = channel::<Errand>();
    std::thread::spawn(move || {
        for errand in told {
            let _ = errand.done.send(connect(&errand.to));
        }
    });
    let _ = THREAD.set(Mutex::new(tell));
    let timeout = std::time::Duration::from_secs(10);
    let function = Function::new("reach", reach).attempts(1).timeout(timeout);
    oncue::run(function.changes(&["files"]).writes_files())
}
