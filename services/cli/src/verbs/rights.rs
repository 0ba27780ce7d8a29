//! `oncue rights`: who may do what on the servers, and why; as text, or as the servers take it.

use std::path::{Path, PathBuf};

use oncue_admin::stores::rights::accounts::{self, IMPORTED_API, PublicKeys, Quota};
use oncue_admin::stores::rights::compare::Comparison;
use oncue_admin::stores::rights::folders::{self, Audience, SharedServers};
use oncue_admin::stores::rights::keys::KeyFolder;
use oncue_admin::stores::rights::{Access, Grant, Rights, Role, users};
use oncue_core::config::{LockedServers, parse_size};
use serde_json::{Value, json};

use crate::exit::{self, Failure};
use crate::manifests;
use crate::settings::Settings;
use crate::terminal::paint::{BAD, BOLD, DIM, GOOD, NAME, paint, say};
use crate::verbs::restart;

#[derive(clap::Args)]
pub struct Args {
    /// Only of these: a function, or `gateway`, `public`, `operator`, `console`.
    #[arg(value_name = "WHO")]
    who: Vec<String>,
    /// How they are written.
    #[arg(long, value_enum, default_value = "text")]
    format: Form,
    /// Replace all credentials of servers that `oncue up` has locked, while everything runs: old and new ones are good together
    /// until all have the new ones.
    #[arg(long, conflicts_with_all = ["who", "format", "keys"])]
    rotate: bool,
    /// Compare with the servers as they run: 1 where these give more or less. For a moment Redis has a user to whom nobody can
    /// log in.
    #[arg(long, conflicts_with_all = ["who", "format", "rotate", "write"])]
    check: bool,
    /// Folder of the credentials, for --check and for the formats that name keys; those of a format that are missing are made. Default: `.oncue/keys`
    /// beside oncue.toml.
    #[arg(long, value_name = "DIR")]
    keys: Option<PathBuf>,
    /// Write the credentials for servers that somebody else runs, each container engine among them: a folder for each who, to
    /// be mounted as `.oncue/keys` beside its oncue.toml, and `servers/` with what nats-server includes (accounts.conf) and
    /// Redis reads (redis.acl). Credentials that are there are kept.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["who", "format", "keys", "rotate"])]
    write: Option<PathBuf>,
    /// For servers that stand in for each other, as in deploy/ha: also what nats-servers prove in their routes, a replica and
    /// sentinels to Redis, and sentinels among themselves. A folder that was written so is written so again.
    #[arg(long, requires = "write", conflicts_with = "servers")]
    replicas: bool,
    /// Folder of what servers read that several apps share, in place of `servers/`: APP.accounts, APP.app.acl, APP.lua of each, and
    /// accounts.conf and redis.acl, which join those of all. Nobody comes to such servers without credentials.
    #[arg(long, value_name = "DIR", requires = "write")]
    servers: Option<PathBuf>,
    /// Most bytes of the app's streams on servers that several share, such as 10GiB.
    #[arg(long, value_name = "SIZE", requires = "servers", value_parser = bytes)]
    max_storage: Option<u64>,
    /// Most connections of each function, and of its gateways together, to a NATS that several share.
    #[arg(long, value_name = "COUNT", requires = "servers")]
    max_connections: Option<u32>,
    /// Number of the group that may read the folders which are written, besides their owner.
    #[arg(long, value_name = "GID", requires = "write")]
    group: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// Each right with its reason.
    Text,
    /// Everything, for programs.
    Json,
    /// Accounts, for the configuration of nats-server.
    Nats,
    /// Users, for the `aclfile` of Redis.
    Redis,
}

pub async fn run(args: &Args, settings: &Settings) -> Result<u8, Failure> {
    if args.rotate {
        return restart::rotate(settings).await;
    }
    let names: Vec<String> = settings.config.functions.keys().cloned().collect();
    let manifests = manifests::of(settings, &names).await?;
    let contracts = settings.contracts().await?;
    let mut rights = Rights::of(&settings.config, &manifests, &contracts.catalog);
    let all: Vec<String> = rights.roles().map(short).collect();
    if let Some(folder) = &args.write {
        return write(folder, args, &rights, settings);
    }
    if args.check {
        return check(args, &rights, settings).await;
    }
    if let Some(unknown) = args.who.iter().find(|who| !all.contains(who)) {
        return Err(Failure::usage(format_args!("nobody is called {unknown:?}"))
            .advise(format!("there are {}", all.join(", "))));
    }
    if !args.who.is_empty() {
        if matches!(args.format, Form::Nats | Form::Redis) {
            return Err(Failure::usage(
                "what servers read is of everybody; leave the names out",
            ));
        }
        rights
            .grants
            .retain(|grant| args.who.contains(&short(&grant.role)));
    }
    match args.format {
        Form::Text => rights.grants.iter().for_each(|grant| print(&rights, grant)),
        Form::Json => {
            let all: Vec<Value> = rights
                .grants
                .iter()
                .map(|grant| to_json(&rights, grant))
                .collect();
            say(serde_json::to_string_pretty(&all).unwrap_or_default());
        }
        Form::Nats | Form::Redis => {
            let folder = key_folder(args, settings);
            let text = if args.format == Form::Nats {
                nats_text(&rights, &folder)
            } else {
                redis_text(&rights, &folder)
            };
            let text = text.map_err(|e| Failure::failed(format_args!("credentials: {e}")))?;
            say(text.trim_end());
        }
    }
    Ok(exit::OK)
}

fn key_folder(args: &Args, settings: &Settings) -> KeyFolder {
    KeyFolder::new(match &args.keys {
        Some(folder) => folder.clone(),
        None => settings.config.key_folder(),
    })
}

async fn check(args: &Args, rights: &Rights, settings: &Settings) -> Result<u8, Failure> {
    let folder = key_folder(args, settings);
    let store = settings.store().await?;
    let compared = Comparison::of(rights, &settings.config, &folder, &store).await;
    let compared = compared.map_err(|e| {
        let why = e.to_string();
        let failure = Failure::silent(e);
        if why.contains("acl|") {
            return failure.advise(
                "on servers that apps share only the owner of Redis sees its users: give their login as ONCUE_REDIS_URL",
            );
        }
        failure
    })?;
    if compared.silent > 0 && compared.silent == compared.in_nats {
        return Err(Failure::silent("NATS answers nobody who has a key"));
    }
    for (whose, sentences) in &compared.differences {
        say(paint(BOLD, whose));
        for sentence in sentences {
            say(format_args!("  {} {sentence}", paint(BAD, "differs")));
        }
    }
    if !compared.without_key.is_empty() {
        let names: Vec<String> = compared.without_key.iter().map(short).collect();
        say(paint(
            DIM,
            format_args!(
                "not asked in NATS, since {} has no key of theirs: {}",
                folder.path().display(),
                names.join(", ")
            ),
        ));
    }
    let Comparison {
        in_nats, in_redis, ..
    } = compared;
    let compared_with = format!("{in_nats} in NATS and {in_redis} in Redis were compared");
    if compared.differences.is_empty() {
        say(paint(
            GOOD,
            format_args!("The servers give what is declared, and no more: {compared_with}."),
        ));
        return Ok(exit::OK);
    }
    Err(Failure::failed(format_args!(
        "the servers give something else than is declared: {compared_with}"
    ))
    .advise(
        "`oncue restart` has `oncue up` give its servers the rights anew; others take what `oncue rights --write DIR` writes",
    ))
}

fn bytes(text: &str) -> Result<u64, String> {
    parse_size(text).ok_or_else(|| "write a size like 512MiB or 10GiB".to_owned())
}

fn write(folder: &Path, args: &Args, rights: &Rights, settings: &Settings) -> Result<u8, Failure> {
    let config = &settings.config;
    let servers = LockedServers {
        nats: Some(config.nats.url.expose().to_owned()),
        api_prefix: IMPORTED_API.to_owned(),
        inbox_prefix: config.nats.inbox_prefix.clone(),
        redis: Some(config.redis.url.expose().to_owned()),
        shared: args.servers.is_some(),
    };
    let audience = match &args.servers {
        Some(folder) => Audience::Shared(SharedServers {
            folder,
            quota: Quota {
                storage: args.max_storage,
                connections: args.max_connections,
            },
        }),
        // Without their users, replicas and sentinels would be shut out.
        None if args.replicas || folders::is_replicated(folder) => Audience::Replicated,
        None => Audience::Own,
    };
    folders::write(folder, rights, &servers, args.group, audience)
        .map_err(|e| Failure::failed(format_args!("cannot write the credentials: {e}")))?;
    let count = rights.roles().count();
    say(paint(
        GOOD,
        format_args!("{} has credentials of {count}.", folder.display()),
    ));
    Ok(exit::OK)
}

fn nats_text(rights: &Rights, folder: &KeyFolder) -> std::io::Result<String> {
    let mut keys = PublicKeys::new();
    for role in rights.roles() {
        keys.insert(role.clone(), vec![folder.public_key(role)?]);
    }
    Ok(accounts::configuration(rights, &keys))
}

fn redis_text(rights: &Rights, folder: &KeyFolder) -> std::io::Result<String> {
    users::file(&users::users(rights), |role| {
        Ok(vec![folder.password(role)?])
    })
}

/// Name that a person gives a role.
fn short(role: &Role) -> String {
    match role {
        Role::Function(name) => name.clone(),
        other => other.name(),
    }
}

fn print(rights: &Rights, grant: &Grant) {
    let Rights { app, .. } = rights;
    let account = grant.role.account(app);
    say(paint(BOLD, &grant.role));
    if grant.role.is_trusted() {
        say(format_args!(
            "  {} account {account}: everything",
            paint(DIM, "NATS ")
        ));
        say(format_args!(
            "  {} user {}: everything\n",
            paint(DIM, "Redis"),
            grant.role.user(app)
        ));
        return;
    }
    say(format_args!("  {} account {account}", paint(DIM, "NATS ")));
    for publish in &grant.publishes {
        say(format_args!(
            "    publish {}  {}",
            paint(NAME, &publish.subject),
            paint(DIM, &publish.why)
        ));
    }
    for (subject, why) in &grant.hears {
        say(format_args!(
            "    hear    {}  {}",
            paint(NAME, subject),
            paint(DIM, why)
        ));
    }
    match &grant.keys {
        None => say(format_args!("  {} nothing", paint(DIM, "Redis"))),
        Some(_) => say(format_args!(
            "  {} user {}",
            paint(DIM, "Redis"),
            grant.role.user(app)
        )),
    }
    for key in grant.keys.iter().flatten() {
        let access = match key.access {
            Access::Read => "read   ",
            Access::Full => "write  ",
        };
        let pattern = format!("{app}:{}", key.pattern);
        say(format_args!(
            "    {access} {}  {}",
            paint(NAME, pattern),
            paint(DIM, key.why)
        ));
    }
    say("");
}

fn to_json(rights: &Rights, grant: &Grant) -> Value {
    let Rights { app, .. } = rights;
    let publish: Vec<Value> = grant
        .publishes
        .iter()
        .map(|publish| json!({ "subject": publish.subject, "why": publish.why }))
        .collect();
    let hear: Vec<Value> = grant
        .hears
        .iter()
        .map(|(subject, why)| json!({ "subject": subject, "why": why }))
        .collect();
    let keys: Vec<Value> = grant
        .keys
        .iter()
        .flatten()
        .map(|key| {
            json!({ "pattern": format!("{app}:{}", key.pattern), "write": key.access == Access::Full, "why": key.why })
        })
        .collect();
    json!({
        "who": short(&grant.role),
        "everything": grant.role.is_trusted(),
        "account": grant.role.account(app),
        "publish": publish,
        "hear": hear,
        "user": grant.keys.as_ref().map(|_| grant.role.user(app)),
        "keys": keys,
    })
}
