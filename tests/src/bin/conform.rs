//! The functions of the conformance suite in Rust (`tests/conformance/cases.toml`): the one that `CONFORM` names.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use bytes::Bytes;
use conform::v1::{Answered, Asked};
use futures_util::{StreamExt as _, stream};
use oncue::{Context, Delayed, Function, Result, State, reject};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

#[allow(clippy::all, clippy::pedantic, dead_code, unused_imports)]
mod events {
    include!(concat!(env!("OUT_DIR"), "/events.rs"));
}
use events::conform;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Case {
    count: u64,
    large: i64,
    ratio: f64,
    flag: bool,
    last: String,
    note: Option<String>,
    names: Vec<String>,
}

impl State for Case {
    const TABLE: &'static str = "cases";
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Owned {
    count: u64,
}

impl State for Owned {
    const TABLE: &'static str = "owned";
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Aged {
    views: u64,
}

impl State for Aged {
    const TABLE: &'static str = "aged";
    const VERSION: u32 = 2;

    fn upgrade(_: u32, fields: &mut std::collections::BTreeMap<String, String>) -> Result<()> {
        let hits = fields.remove("hits").unwrap_or_default();
        fields.insert("views".to_owned(), hits);
        Ok(())
    }
}

/// Keys of events whose run was told that its time is over: here its future is dropped.
static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

struct Told(String);

impl Drop for Told {
    fn drop(&mut self) {
        TOLD.lock().insert(std::mem::take(&mut self.0));
    }
}

type Out = (Vec<Answered>, Option<Delayed<Answered>>);

async fn conform(asked: Asked, case: &mut Case, context: &Context) -> Result<Out> {
    let answered = |text: &str| Answered {
        key: asked.key.clone(),
        text: text.to_owned(),
        ..Answered::default()
    };
    match asked.what.as_str() {
        "echo" => return Ok((vec![echo(asked)], None)),
        "many" => return Ok((["1", "2", "3"].map(answered).to_vec(), None)),
        "later" => {
            let later = Delayed {
                event: answered(&asked.text),
                after: Duration::from_millis(500),
            };
            return Ok((Vec::new(), Some(later)));
        }
        "after" if case.count == 0 => return Err(reject("told to reject")),
        "row" | "after" => write(&asked, case),
        "fail-once" if context.attempt() > 1 => write(&asked, case),
        "fail-once" => return Err(std::io::Error::other("not yet").into()),
        "operate" => {
            context.add("sums", "sum", asked.number)?;
            context.set_add("members", &asked.number.to_string())?;
        }
        "file" | "large" | "half" | "stat" => return Ok((of_files(&asked, context).await?, None)),
        "undeclared" => context.add("others", "sum", asked.number)?,
        "reject" => return Err(reject("told to reject")),
        "fail" => return Err(std::io::Error::other("told to fail").into()),
        "spoil" => {
            write(&asked, case);
            return Err(std::io::Error::other("told to fail").into());
        }
        "stall" => {
            write(&asked, case);
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
        "slow" => tokio::time::sleep(Duration::from_mins(1)).await,
        "told" if context.attempt() == 1 => {
            let _told = Told(asked.key.clone());
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
        "told" => {
            let is_told = TOLD.lock().contains(&asked.key);
            let note = if is_told { "told" } else { "not told" };
            return Ok((vec![noted(&asked, note.to_owned())], None));
        }
        "keep" => {
            if case.count > 0 {
                let name = format!("{}/kept", asked.key);
                let text = asked.text.clone().into_bytes();
                context.files().put(&name, &[], text).await?;
            }
            return Err(reject("told to reject"));
        }
        // Its process is the worker itself; what ends a handler here is a panic.
        "crash" => panic!("told to crash"),
        _ => {}
    }
    Ok((Vec::new(), None))
}

fn echo(asked: Asked) -> Answered {
    Answered {
        key: asked.key,
        owner: asked.owner,
        what: asked.what,
        number: asked.number,
        count: asked.count,
        ratio: asked.ratio,
        flag: asked.flag,
        data: asked.data,
        colour: asked.colour,
        text: asked.text,
        note: asked.note,
        names: asked.names,
        totals: asked.totals,
        inner: asked.inner,
    }
}

async fn of_files(asked: &Asked, context: &Context) -> Result<Vec<Answered>> {
    let files = context.files();
    let name = format!("{}/file", asked.key);
    let half = format!("{}/half", asked.key);
    let text = asked.text.as_bytes();
    let note = match asked.what.as_str() {
        "large" => {
            files.read(&name, 1000).await?;
            String::new()
        }
        "half" => {
            let failure = std::io::Error::other("told to fail");
            let parts = [Ok(vec![0; 300_000].into()), Err(failure)];
            files.put_stream(&half, &[], stream::iter(parts)).await?;
            String::new()
        }
        "stat" if files.stat(&half).await?.is_some() => "there".to_owned(),
        "stat" => "absent".to_owned(),
        _ => {
            let parts: Vec<std::io::Result<Bytes>> = text
                .chunks(text.len().div_ceil(3))
                .map(|part| Ok(Bytes::copy_from_slice(part)))
                .collect();
            let of = [("of", "conform")];
            let stored = files.put_stream(&name, &of, stream::iter(parts)).await?;
            let read = files.read(&name, text.len() as u64).await?;
            let mut opened = Vec::new();
            if let Some(mut content) = files.open(&name).await?.map(Box::pin) {
                while let Some(part) = content.next().await {
                    opened.extend_from_slice(&part?);
                }
            }
            let other = format!("{name}-2");
            files.put(&other, &[], text.to_vec()).await?;
            files.delete(&other).await?;
            let is_whole = read.as_deref() == Some(text) && opened == text;
            let is_gone = files.stat(&other).await?.is_none();
            format!(
                "{} bytes {} of {}, {}, the other {}",
                stored.size,
                stored.sha256(),
                stored.metadata["of"],
                if is_whole {
                    "read as stored"
                } else {
                    "read otherwise"
                },
                if is_gone { "gone" } else { "there" },
            )
        }
    };
    Ok(vec![noted(asked, note)])
}

fn noted(asked: &Asked, note: String) -> Answered {
    Answered {
        key: asked.key.clone(),
        note: Some(note),
        ..Answered::default()
    }
}

fn write(asked: &Asked, case: &mut Case) {
    case.count += 1;
    case.large = asked.number;
    case.ratio = asked.ratio;
    case.flag = asked.flag;
    case.last.clone_from(&asked.text);
    case.note.clone_from(&asked.note);
    case.names.clone_from(&asked.names);
}

async fn owned(_: Asked, row: &mut Owned, _: &Context) -> Result<()> {
    row.count += 1;
    Ok(())
}

async fn aged(_: Asked, row: &mut Aged, _: &Context) -> Result<()> {
    row.views += 1;
    Ok(())
}

/// Heeds its own words alone: it hears those of the others as well.
async fn once(asked: Asked, _: &mut (), _: &Context) -> Result<Vec<Answered>> {
    match asked.what.as_str() {
        "once" => Ok(vec![noted(&asked, "called".to_owned())]),
        "once-fail" => Err(std::io::Error::other("told to fail").into()),
        _ => Ok(Vec::new()),
    }
}

fn main() -> ExitCode {
    match std::env::var("CONFORM").as_deref() {
        Ok("owned") => oncue::run(
            Function::new("owned", owned).keyed_by("owner", |asked: &Asked| asked.owner.clone()),
        ),
        Ok("once") => oncue::run(Function::new("once", once).at_most_once()),
        Ok("aged") => oncue::run(Function::new("aged", aged)),
        _ => oncue::run(
            Function::new("conform", conform)
                .changes(&["members", "sums"])
                .writes_files(),
        ),
    }
}
