//! `oncue keys`: API keys, by which programs come in through the gateway. A key is shown when it is made and never again.

use std::collections::BTreeSet;
use std::time::Duration;

use oncue_core::model::api_key::{ApiKey, IssuedKey};
use oncue_core::store::StoredKey;
use oncue_proto::event;
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::{BAD, DIM, NAME, remark, say};
use crate::terminal::table::{self, Cell, text};
use crate::verbs::pause::span_ahead;
use crate::when;

#[derive(clap::Subcommand)]
pub enum Verb {
    /// Make a key and show it, once. Redis keeps a hash of it.
    Add(AddArgs),
    /// List keys: who has them, what they may, when they were last used.
    Ls(KeysArgs),
    /// Revoke a key. Gateways that have seen it take it for five seconds more at most.
    Revoke(RevokeArgs),
}

#[derive(clap::Args)]
pub struct AddArgs {
    /// Name of its client; the owner of its files where `[auth.NAME] owner = "sub"`. To replace a key make another of the
    /// same name, and revoke the old one once it is used no more.
    name: String,
    /// Right that it has, as `[auth.NAME] scopes` ask for them; may be given several times.
    #[arg(long = "scope", value_name = "SCOPE")]
    scopes: Vec<String>,
    /// Time after which it is refused, such as 90d. Default: never.
    #[arg(long, value_name = "TIME", value_parser = span_ahead)]
    expires: Option<Duration>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct KeysArgs {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub struct RevokeArgs {
    /// Ids as `oncue keys ls` shows them; they are the second part of a key.
    #[arg(required = true)]
    ids: Vec<String>,
}

impl Verb {
    /// Whether it changes what an app has on the servers.
    pub fn changes_an_app(&self) -> bool {
        !matches!(self, Self::Ls(_))
    }
}

pub async fn run(verb: Verb, settings: &Settings) -> Result<u8, Failure> {
    match verb {
        Verb::Add(args) => add(args, settings).await,
        Verb::Ls(args) => list(&args, settings).await,
        Verb::Revoke(args) => revoke(&args, settings).await,
    }
}

async fn add(args: AddArgs, settings: &Settings) -> Result<u8, Failure> {
    let expires = args
        .expires
        .map(|after| event::now_ms() + after.as_millis() as u64);
    let scopes: BTreeSet<String> = args.scopes.into_iter().collect();
    let IssuedKey { key, token } =
        ApiKey::issue(&args.name, scopes, expires).map_err(Failure::usage)?;
    let store = settings.store().await?;
    store.add_api_key(&key).await.map_err(Failure::silent)?;
    if args.json {
        let mut all = to_json(&StoredKey { key, used: None });
        all["key"] = token.into();
        say(serde_json::to_string_pretty(&all).unwrap_or_default());
        return Ok(exit::OK);
    }
    // Alone, so that it can be piped to where it belongs.
    say(token);
    remark(format_args!(
        "that is the key of {:?}, and nobody can show it again; send it as `Authorization: Bearer ...` or `X-API-Key`",
        key.name
    ));
    if settings.config.auths.values().all(|auth| !auth.keys) {
        remark(
            "no [auth.NAME] of oncue.toml has `keys = true`, so the gateway asks nobody for a key",
        );
    }
    Ok(exit::OK)
}

async fn list(args: &KeysArgs, settings: &Settings) -> Result<u8, Failure> {
    let store = settings.store().await?;
    let keys = store.api_keys().await.map_err(Failure::silent)?;
    if args.json {
        let all: Vec<Value> = keys.iter().map(to_json).collect();
        say(serde_json::to_string_pretty(&all).unwrap_or_default());
        return Ok(exit::OK);
    }
    if keys.is_empty() {
        say("there are no API keys; `oncue keys add NAME` makes one");
        return Ok(exit::OK);
    }
    let now = event::now_ms();
    let rows: Vec<Vec<Cell>> = keys.iter().map(|stored| row(stored, now)).collect();
    let head = ["ID", "NAME", "SCOPES", "CREATED", "EXPIRES", "LAST USED"];
    say(table::render(&head, &rows));
    Ok(exit::OK)
}

fn row(stored: &StoredKey, now: u64) -> Vec<Cell> {
    let StoredKey { key, used } = stored;
    let expires = match key.expires {
        None => text("never").style(DIM),
        Some(_) if key.has_expired(now) => text("expired").style(BAD),
        Some(at) => text(event::format_time(at)),
    };
    let used = match used {
        None => text("never").style(DIM),
        Some(at) => text(format!("{} ago", when::ago(*at, now))),
    };
    let scopes: Vec<&str> = key.scopes.iter().map(String::as_str).collect();
    vec![
        text(&key.id),
        text(&key.name).style(NAME),
        text(scopes.join(" ")),
        text(format!("{} ago", when::ago(key.created, now))),
        expires,
        used,
    ]
}

async fn revoke(args: &RevokeArgs, settings: &Settings) -> Result<u8, Failure> {
    let store = settings.store().await?;
    let mut missing = Vec::new();
    for id in &args.ids {
        if store.remove_api_key(id).await.map_err(Failure::silent)? {
            say(format_args!("- {id}"));
        } else {
            missing.push(id.as_str());
        }
    }
    if missing.is_empty() {
        return Ok(exit::OK);
    }
    Err(
        Failure::failed(format_args!("there is no key {}", missing.join(", ")))
            .advise("`oncue keys ls` shows their ids"),
    )
}

fn to_json(stored: &StoredKey) -> Value {
    let StoredKey { key, used } = stored;
    json!({
        "id": key.id,
        "name": key.name,
        "scopes": key.scopes,
        "created": event::format_time(key.created),
        "expires": key.expires.map(event::format_time),
        "used": used.map(event::format_time),
    })
}
