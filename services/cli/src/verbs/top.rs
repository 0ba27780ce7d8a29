//! `oncue top`: functions as they work, once a second: rates, lag, durations, errors, dead letters.

mod sample;
mod screen;

use std::io::IsTerminal as _;
use std::time::Duration;

use oncue_admin::dead_letters;
use oncue_core::bus::Bus;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::sync::{mpsc, watch};

use self::sample::{FunctionSampler, Picture};
use self::screen::{Detail, Screen};
use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::when;

/// Newest dead letters among which those of one function are looked for.
/// A page is opened while somebody waits, so not the whole stream is read for it.
const LETTERS_WINDOW: u64 = 500;

#[derive(clap::Args)]
pub struct Args {
    /// Time between two looks.
    #[arg(long, value_name = "SPAN", default_value = "1s", value_parser = when::span)]
    interval: Duration,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        return Err(Failure::usage("`oncue top` draws on a terminal")
            .advise("for a script there is `oncue ps --json`"));
    }
    let bus = settings.bus().await?;
    let pictures = watch_functions(bus.clone(), args.interval);
    let mut terminal = ratatui::try_init().map_err(broken_terminal)?;
    let ended = Box::pin(watch_keys(&mut terminal, settings, &bus, pictures)).await;
    // Before an error is printed: it would be lost on the other screen.
    ratatui::restore();
    ended.map(|()| exit::OK)
}

#[allow(clippy::needless_pass_by_value)] // for `map_err`
fn broken_terminal(e: std::io::Error) -> Failure {
    Failure::failed(format_args!("cannot draw here: {e}"))
}

/// Looks in the background, so that keys are answered at once.
fn watch_functions(bus: Bus, interval: Duration) -> watch::Receiver<Result<Picture, String>> {
    let (sender, pictures) = watch::channel(Ok(Picture::default()));
    tokio::spawn(async move {
        let mut sampler = FunctionSampler::default();
        while !sender.is_closed() {
            let picture = sampler.look(&bus).await.map_err(|e| e.to_string());
            let _ = sender.send(picture);
            tokio::time::sleep(interval).await;
        }
    });
    pictures
}

/// Keys as they are pressed. A thread of its own: the terminal is read by blocking.
fn keys() -> mpsc::UnboundedReceiver<Event> {
    let (sender, keys) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    });
    keys
}

async fn watch_keys(
    terminal: &mut ratatui::DefaultTerminal,
    settings: &Settings,
    bus: &Bus,
    mut pictures: watch::Receiver<Result<Picture, String>>,
) -> Result<(), Failure> {
    let mut stop = oncue_core::process::stop_signal()
        .map_err(|e| Failure::failed(format_args!("cannot handle signals: {e}")))?;
    let mut screen = Screen::new(settings.nats_shown());
    let mut keys = keys();
    loop {
        terminal
            .draw(|frame| screen.draw(frame))
            .map_err(broken_terminal)?;
        tokio::select! {
            changed = pictures.changed() => {
                if changed.is_err() { return Ok(()) }
                screen.show(pictures.borrow_and_update().clone());
            }
            event = keys.recv() => match event {
                Some(Event::Key(key)) if key.kind != KeyEventKind::Release => match action(key, screen.is_detail()) {
                    Action::Quit => return Ok(()),
                    Action::Open => if let Some(function) = screen.selected() {
                        screen.open(detail(settings, bus, &function).await);
                    },
                    Action::Screen(change) => change(&mut screen),
                    Action::None => {}
                },
                Some(_) => {} // a new size: drawn anew
                None => return Ok(()),
            },
            _ = stop.wait_for(|stop| *stop) => return Ok(()),
        }
    }
}

enum Action {
    Quit,
    Open,
    Screen(fn(&mut Screen)),
    None,
}

fn action(key: KeyEvent, detail: bool) -> Action {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Action::Quit,
        KeyCode::Esc | KeyCode::Char('q') | KeyCode::Backspace | KeyCode::Left if detail => {
            Action::Screen(Screen::close)
        }
        KeyCode::Char('q') | KeyCode::Esc => Action::Quit,
        KeyCode::Down | KeyCode::Char('j') => Action::Screen(|screen| screen.step(1)),
        KeyCode::Up | KeyCode::Char('k') => Action::Screen(|screen| screen.step(-1)),
        KeyCode::Enter | KeyCode::Right if !detail => Action::Open,
        KeyCode::Char('n') => Action::Screen(|screen| screen.sort_by(screen::Sort::Name)),
        KeyCode::Char('r') => Action::Screen(|screen| screen.sort_by(screen::Sort::Rate)),
        KeyCode::Char('l') => Action::Screen(|screen| screen.sort_by(screen::Sort::Lag)),
        KeyCode::Char('i') => Action::Screen(|screen| screen.sort_by(screen::Sort::InFlight)),
        KeyCode::Char('p') => Action::Screen(|screen| screen.sort_by(screen::Sort::P99)),
        KeyCode::Char('e') => Action::Screen(|screen| screen.sort_by(screen::Sort::Errors)),
        KeyCode::Char('d') => Action::Screen(|screen| screen.sort_by(screen::Sort::Dead)),
        _ => Action::None,
    }
}

/// Page of one function: its manifest, its limits, and why it last failed.
async fn detail(settings: &Settings, bus: &Bus, function: &str) -> Detail {
    // Without Redis: a function that runs, or is built here, says itself what it is.
    let topology = settings.topology(Some(bus), None).await.ok();
    let manifest = topology.and_then(|topology| {
        topology
            .functions
            .get(function)
            .map(|known| known.manifest.clone())
    });
    let limits = manifest
        .as_ref()
        .map(|manifest| manifest.limits(&settings.config));
    let letters = match dead_letters::latest(bus, LETTERS_WINDOW).await {
        Ok(latest) => latest
            .letters
            .into_iter()
            .rev()
            .filter(|letter| letter.content.function == function)
            .collect(),
        Err(_) => Vec::new(),
    };
    Detail {
        function: function.to_owned(),
        manifest,
        limits,
        letters,
    }
}
