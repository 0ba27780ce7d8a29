//! Backups of an app: its streams with their consumers, and its keys in Redis, so that they fit; taken while the app runs.
//!
//! The two servers cannot be stopped at one moment. So the order makes them fit: streams first, then Redis. Whatever a
//! consumer in the copy had acked is in the Redis of the copy, and not made again. What was applied in between is there too:
//! delivered again it is known, and what followed from it is in Redis, where outputs are kept while a backup goes on, and
//! is published again after a restore.
//!
//! | file | holds |
//! |---|---|
//! | `contents.json` | [`Contents`]; written last, so a folder without it is no backup |
//! | `NAME.stream` | snapshot of a stream, in nats-server's own format |
//! | `redis.entries` | [`BackupEntry`]s, each with its length in front, 4 bytes, big-endian |
//! | `due.events` | [`Envelope`]s in the same form: what was due and not taken over, see [`due`] |
//!
//! Restored streams go on behind the last sequence that the app had seen: an event without an id has one by its sequence,
//! and a second event of that id would be taken for the first.

mod due;
mod shared;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, future, stream};
use oncue_core::app::AppName;
use oncue_core::bus::layout::TIMER;
use oncue_core::bus::{Bus, BusError, StreamSnapshot};
use oncue_core::store::{Gap, ServerSnapshot, Store, StoreError};
use oncue_proto::event;
use oncue_proto::oncue::v1::{BackupEntry, Envelope};
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use self::due::Taken;
use super::rdb::SnapshotReader;
use crate::AdminError;

/// Number of the format, raised where an older program could not read it.
const FORMAT: u32 = 1;
const CONTENTS: &str = "contents.json";
const ENTRIES: &str = "redis.entries";
const DUE: &str = "due.events";
/// Pause between two words to the workers that the backup still goes on.
const RENEWAL: Duration = Duration::from_mins(2);
/// Bytes of entries that are put back in one round trip.
const PUT_AT_ONCE: usize = 1 << 20;
/// Placeholders under way at a time.
const PLACEHOLDERS_AT_ONCE: usize = 512;
/// Placeholders in a stream at a time: it may be nearly full.
const PLACEHOLDERS_KEPT: u64 = 2048;
/// Sequences between two words of how far a stream is.
const SKIPPED_AT_A_WORD: u64 = 500 * PLACEHOLDERS_KEPT;

/// Contents of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Contents {
    pub format: u32,
    pub app: AppName,
    /// When it began, Unix milliseconds.
    pub begun: u64,
    pub streams: Vec<SavedStream>,
    pub redis: SavedFile,
    /// Entries of Redis.
    pub entries: u64,
    /// None in backups of versions before, and without `timer`.
    #[serde(default)]
    pub due: Option<SavedDue>,
}

/// File of the events that were due, and not taken over by the streams of the backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedDue {
    pub file: SavedFile,
    pub events: u64,
    /// Sequence of `timer` behind which they must come, or a stream takes them for taken.
    pub behind: u64,
}

/// A stream of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedStream {
    pub name: String,
    pub file: SavedFile,
    pub snapshot: StreamSnapshot,
    /// Last sequence once Redis had been copied: nothing in that copy is newer.
    pub last: u64,
}

/// A file of a backup, by which one that is damaged is found.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SavedFile {
    pub bytes: u64,
    pub crc32: u32,
}

/// A backup that could not be taken or restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Server(#[from] AdminError),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    /// Folder that is no backup, or one that does not belong here.
    #[error("{0}")]
    Unfit(String),
}

impl From<BusError> for BackupError {
    fn from(e: BusError) -> Self {
        Self::Server(e.into())
    }
}

impl From<StoreError> for BackupError {
    fn from(e: StoreError) -> Self {
        Self::Server(e.into())
    }
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::File { path, source }
}

/// News of a backup under way, a line each.
type News<'r> = &'r mut (dyn FnMut(String) + Send);

/// Takes a backup of the app into a new or empty folder. Only its owner can read it: it holds events, rows, and the secret
/// of the app.
///
/// # Errors
/// A server does not answer, the folder cannot be written or is not empty. What was written until then is no backup.
pub async fn take(
    bus: &Bus,
    store: &Store,
    folder: &Path,
    report: News<'_>,
) -> Result<Contents, BackupError> {
    let begun = event::now_ms();
    make_folder(folder)?;
    let id = format!("{begun}-{:016x}", fastrand::u64(..));
    store.begin_backup(&id).await?;
    // Dropped at the end, however that comes.
    let _renewal = Renewal::start(store, &id);
    let mut streams = Vec::new();
    for name in own_streams(bus).await? {
        if !shared::is_shared(&name)
            && let Some(others) = of_others(bus, &name).await?
        {
            report(format!(
                "stream {name} has {others}; such a backup can be put back on servers without that alone"
            ));
        }
        let path = folder.join(format!("{name}.stream"));
        let mut file = Checked::create(&path)?;
        let created = bus.stream_created(&name).await?;
        let mut snapshot = bus.snapshot(&name, |chunk| file.write_all(chunk)).await?;
        snapshot.note_created(created);
        let file = file.finish().map_err(at(&path))?;
        report(format!(
            "stream {name}: {} messages, {} bytes",
            snapshot.messages(),
            file.bytes
        ));
        streams.push(SavedStream {
            name,
            file,
            snapshot,
            last: 0,
        });
    }
    let timer = streams.iter().find(|saved| saved.name == TIMER);
    let due = match timer {
        Some(timer) => Some(due::keep(bus, timer, &streams, begun, &folder.join(DUE)).await?),
        None => None,
    };
    let path = folder.join(ENTRIES);
    let mut file = Checked::create(&path)?;
    let (entries, redis) = store
        .snapshot(move |snapshot| Ok((keep_entries(snapshot, &id, &mut file)?, file.finish()?)))
        .await?;
    report(format!("Redis: {entries} entries, {} bytes", redis.bytes));
    for saved in &mut streams {
        let info = bus.stream_info(&saved.name).await;
        let info = info.map_err(|e| AdminError::api(&saved.name, e))?;
        saved.last = info.state.last_seq;
    }
    store.end_backup().await?;
    let contents = Contents {
        format: FORMAT,
        app: bus.app().clone(),
        begun,
        streams,
        redis,
        entries,
        due,
    };
    let path = folder.join(CONTENTS);
    let json = serde_json::to_vec_pretty(&contents).map_err(io::Error::other);
    let written = json.and_then(|json| private(&path)?.write_all(&json));
    written.map_err(at(&path))?;
    Ok(contents)
}

/// Writes each entry of the app; returns how many, of which a large hash has several. `id` is the backup's.
fn keep_entries(snapshot: ServerSnapshot, id: &str, file: &mut impl Write) -> io::Result<u64> {
    let mut reader = SnapshotReader::new(snapshot.bytes, snapshot.database)?;
    let mut entries = 0;
    let mut is_fresh = false;
    while let Some(entry) = reader.next(&snapshot.prefix)? {
        if entry.key == snapshot.proof {
            // A string's dump holds it as it is, behind type and length.
            is_fresh = entry
                .dump
                .windows(id.len())
                .any(|part| part == id.as_bytes());
            continue;
        }
        entries += 1;
        write_entry(file, &entry)?;
    }
    if is_fresh {
        return Ok(entries);
    }
    Err(io::Error::other(
        "Redis sent a snapshot that somebody else had asked for before; try again",
    ))
}

/// Keeps workers from forgetting outputs for as long as it lives.
struct Renewal(tokio::task::JoinHandle<()>);

impl Renewal {
    fn start(store: &Store, id: &str) -> Self {
        let store = store.clone();
        let id = id.to_owned();
        Self(tokio::spawn(async move {
            loop {
                tokio::time::sleep(RENEWAL).await;
                // One that fails is made up for by the next: the mark lives five times as long.
                if let Err(e) = store.begin_backup(&id).await {
                    tracing::warn!(error = %e, "workers may forget outputs that this backup needs");
                }
            }
        }))
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Streams of the app, buckets last: an object must be there if the event is that tells of it.
async fn own_streams(bus: &Bus) -> Result<Vec<String>, AdminError> {
    let all = bus.streams().await;
    let all = all.map_err(|e| AdminError::api("streams", e))?;
    let mut names = Vec::new();
    for info in all {
        let name = info.config.name.clone();
        if info.config.is_owned_by(bus.app())
            // What is due in one of its streams says nothing of whose it is.
            || name == TIMER
            || (shared::is_shared(&name) && is_in(bus, &name).await?)
        {
            names.push(name);
        }
    }
    // The one with the schedules behind those that take over from it: none of them has more of it than its copy.
    names.sort_by_key(|name| (is_bucket(name), name == TIMER, name.clone()));
    Ok(names)
}

/// Whether a shared stream has anything of the app.
async fn is_in(bus: &Bus, stream: &str) -> Result<bool, AdminError> {
    let apps = shared::apps_in(bus, stream).await?;
    Ok(apps.contains(bus.app().as_str()))
}

/// Words for what others have in a stream: messages of another app in a shared one, or a consumer that is none of this app's.
async fn of_others(bus: &Bus, stream: &str) -> Result<Option<String>, AdminError> {
    if shared::is_shared(stream) {
        let apps = shared::apps_in(bus, stream).await?;
        let other = apps.into_iter().find(|app| app != bus.app().as_str());
        if let Some(app) = other {
            return Ok(Some(format!("what is of the app {app}")));
        }
    }
    let consumers = bus.consumers(stream).await;
    let consumers = consumers.map_err(|e| AdminError::api(stream, e))?;
    let mut durable = consumers
        .iter()
        .filter_map(|it| it.config.durable_name.as_deref());
    let other = durable.find(|name| bus.app().function_of(name).is_none());
    Ok(other.map(|name| format!("the consumer {name}, which is none of this app")))
}

/// Whether a shared stream stays where a backup replaces what is there: another app has made it, or has anything in it.
async fn stays(bus: &Bus, stream: &str, contents: &Contents) -> Result<bool, AdminError> {
    let info = bus.stream_info(stream).await;
    let info = info.map_err(|e| AdminError::api(stream, e))?;
    Ok(!info.config.is_of(bus.app())
        || of_others(bus, stream).await?.is_some()
        || (stream == TIMER && due::is_for_others(bus, contents).await?))
}

/// Whether a stream is behind an object store or key-value bucket: its messages have no identity by their sequence.
fn is_bucket(stream: &str) -> bool {
    stream.starts_with("OBJ_") || stream.starts_with("KV_")
}

/// Reads what a backup holds, and all of its files once, so that a damaged one is found before anything is changed.
///
/// # Errors
/// The folder is no backup, of another app, of a newer Oncue, or damaged.
pub fn read(folder: &Path, app: &AppName) -> Result<Contents, BackupError> {
    let path = folder.join(CONTENTS);
    let json = fs::read(&path).map_err(|e| {
        BackupError::Unfit(format!(
            "{} is no complete backup: {CONTENTS}: {e}",
            folder.display()
        ))
    })?;
    let contents: Contents = serde_json::from_slice(&json)
        .map_err(|e| BackupError::Unfit(format!("{}: {e}", path.display())))?;
    if contents.format > FORMAT {
        return Err(BackupError::Unfit(format!(
            "the backup has format {}, and this oncue reads up to {FORMAT}",
            contents.format
        )));
    }
    if contents.app != *app {
        return Err(BackupError::Unfit(format!(
            "the backup is of the app {}, and this is {app}",
            contents.app
        )));
    }
    for saved in &contents.streams {
        check(&stream_file(folder, &saved.name), &saved.file)?;
    }
    check(&folder.join(ENTRIES), &contents.redis)?;
    if let Some(due) = &contents.due {
        check(&folder.join(DUE), &due.file)?;
    }
    Ok(contents)
}

fn stream_file(folder: &Path, stream: &str) -> PathBuf {
    folder.join(format!("{stream}.stream"))
}

/// Refuses a file that is not as it was written.
fn check(path: &Path, saved: &SavedFile) -> Result<(), BackupError> {
    let mut file = File::open(path).map_err(at(path))?;
    let mut checked = Checked::new(io::sink());
    io::copy(&mut file, &mut checked).map_err(at(path))?;
    let found = checked.finish().map_err(at(path))?;
    if (found.bytes, found.crc32) == (saved.bytes, saved.crc32) {
        return Ok(());
    }
    Err(BackupError::Unfit(format!(
        "{} is not as it was written: {} bytes of {}",
        path.display(),
        found.bytes,
        saved.bytes
    )))
}

/// Streams of the backup that are there now; one that apps share only where it has something of this one.
///
/// # Errors
/// NATS does not answer.
pub async fn in_the_way(bus: &Bus, contents: &Contents) -> Result<Vec<String>, AdminError> {
    let names = stream_names(bus).await?;
    let mut there = Vec::new();
    for SavedStream { name, .. } in &contents.streams {
        if names.contains(name) && (!shared::is_shared(name) || is_in(bus, name).await?) {
            there.push(name.clone());
        }
    }
    Ok(there)
}

async fn stream_names(bus: &Bus) -> Result<Vec<String>, AdminError> {
    let names = bus.stream_names().await;
    names.map_err(|e| AdminError::api("streams", e))
}

/// Removes what stands in the way of a restore: these streams, or what is of the app in one that others use too, and all keys of
/// the app. Returns the streams that are gone.
///
/// # Errors
/// A server does not answer, or a stream is of another app.
pub async fn clear(
    bus: &Bus,
    store: &Store,
    contents: &Contents,
    streams: &[String],
) -> Result<Vec<String>, BackupError> {
    for name in streams.iter().filter(|name| !shared::is_shared(name)) {
        let info = bus.stream_info(name).await;
        let info = info.map_err(|e| AdminError::api(name, e))?;
        if !info.config.is_of(bus.app()) {
            return Err(BackupError::Unfit(format!(
                "the stream {name} is of another app now; it stays as it is"
            )));
        }
        if let Some(others) = of_others(bus, name).await? {
            return Err(BackupError::Unfit(format!(
                "the stream {name} has {others}, and would lose it; nothing was removed. Restore on servers that hold no other app"
            )));
        }
    }
    let mut gone = Vec::new();
    for name in streams {
        if shared::is_shared(name) && stays(bus, name, contents).await? {
            shared::purge_of(bus, name, bus.app().as_str()).await?;
            continue;
        }
        let deleted = bus
            .api(&format!("STREAM.DELETE.{name}"), &Value::Null)
            .await;
        deleted.map_err(|e| AdminError::api(name, e))?;
        gone.push(name.clone());
    }
    store.remove_all().await?;
    Ok(gone)
}

/// Puts a backup back on servers that hold nothing of the app. Outputs that were published while it was taken are in Redis
/// then, and have still to be published again.
///
/// # Errors
/// A server does not answer or refuses; [`clear`] and this may be run again.
pub async fn restore(
    bus: &Bus,
    store: &Store,
    folder: &Path,
    contents: &Contents,
    report: News<'_>,
) -> Result<(), BackupError> {
    let there = stream_names(bus).await?;
    let mut timer = Timer::NotSaved;
    let mut taken = Taken::by(contents);
    // The one with the schedules first: it tells what is due. The others go on taking that over once it is known what they have.
    let mut streams: Vec<&SavedStream> = contents.streams.iter().collect();
    streams.sort_by_key(|saved| saved.name != TIMER);
    for saved in &streams {
        let name = &saved.name;
        let path = stream_file(folder, name);
        let file = BufReader::new(File::open(&path).map_err(at(&path))?);
        if shared::is_shared(name) && there.contains(name) {
            let beside = shared::beside(bus, saved, file).await?;
            if name == TIMER {
                taken.is_due_in(bus, saved, &beside).await?;
                timer = Timer::Beside(saved, beside);
                continue;
            }
            let messages = shared::merge(bus, &beside, saved, &taken, report).await?;
            report(beside_others(name, messages));
            continue;
        }
        bus.restore_snapshot(name, &saved.snapshot.without_sources(), file)
            .await?;
        if shared::is_shared(name) {
            shared::purge_others(bus, name).await?;
        }
        if name == TIMER {
            taken.is_due_in(bus, saved, TIMER).await?;
            timer = Timer::Whole(saved);
        } else {
            taken.look(bus, saved, contents.begun).await?;
        }
        report(format!("stream {name}"));
    }
    put_timer_back(bus, timer, &taken, &there, report).await?;
    if let Some(due) = &contents.due {
        skip_to(bus, TIMER, due.behind, report).await?;
        due::put_back(bus, &folder.join(DUE)).await?;
        report(format!(
            "stream {TIMER}: {} events that were due",
            due.events
        ));
    }
    for saved in streams {
        if saved.snapshot.has_sources() {
            due::go_on(bus, saved).await?;
        }
    }
    put_back(store, &folder.join(ENTRIES)).await?;
    report(format!("Redis: {} entries", contents.entries));
    for saved in contents
        .streams
        .iter()
        .filter(|saved| !is_bucket(&saved.name))
    {
        let gap = skip_to(bus, &saved.name, saved.last, report).await?;
        if let Some(from) = gap {
            let gap = Gap {
                from,
                to: saved.last,
                backup: contents.begun,
            };
            store.note_gap(&saved.name, gap).await?;
        }
    }
    Ok(())
}

/// Fate of the saved stream with the schedules.
enum Timer<'s> {
    /// Backups of versions before have none, where the app had nothing in it.
    NotSaved,
    Whole(&'s SavedStream),
    /// Put back under another name, to be copied into the one that is there.
    Beside(&'s SavedStream, String),
}

/// Ends the way back of the stream with the schedules, once it is known what the other streams have taken of it.
async fn put_timer_back(
    bus: &Bus,
    timer: Timer<'_>,
    taken: &Taken,
    there: &[String],
    report: News<'_>,
) -> Result<(), BackupError> {
    match timer {
        Timer::Whole(saved) => taken.clear(bus, saved.snapshot.last(), there).await?,
        Timer::Beside(saved, beside) => {
            let waiting = shared::waiting(bus, &beside).await?;
            if waiting > 0 {
                report(format!(
                    "stream {TIMER}: {waiting} timers had fired for functions that have not handled them; they are not put back \
                     beside those of other apps"
                ));
            }
            // What came since the backup goes, as it does elsewhere.
            taken.purge_own(bus).await?;
            let messages = shared::merge(bus, &beside, saved, taken, report).await?;
            report(beside_others(TIMER, messages));
        }
        Timer::NotSaved => {}
    }
    Ok(())
}

fn beside_others(stream: &str, messages: u64) -> String {
    format!("stream {stream}: {messages} messages, beside those of other apps")
}

/// Lets a stream go on behind `last`: fills it up to there and takes the filling out again. Returns the first sequence that
/// is left out; `None` if it is that far already. A purge could raise the sequence at once, and would take along what others
/// publish just then.
async fn skip_to(
    bus: &Bus,
    stream: &str,
    last: u64,
    report: News<'_>,
) -> Result<Option<u64>, BackupError> {
    let info = bus.stream_info(stream).await;
    let info = info.map_err(|e| AdminError::api(stream, e))?;
    let is = info.state.last_seq;
    if is >= last {
        return Ok(None);
    }
    let mut next = is;
    while next < last {
        let end = last.min(next + PLACEHOLDERS_KEPT);
        fill(bus, stream, end - next).await?;
        next = end;
        if (next - is).is_multiple_of(SKIPPED_AT_A_WORD) {
            report(format!("stream {stream}: at sequence {next} of {last}"));
        }
    }
    Ok(Some(is + 1))
}

/// Publishes placeholders and removes them, also those of a stream that takes no more.
async fn fill(bus: &Bus, stream: &str, count: u64) -> Result<(), BackupError> {
    let subject = format!("{stream}.placeholder");
    let placeholder = Envelope {
        subject: subject.clone(),
        ..Envelope::default()
    };
    let acks = stream::iter(0..count)
        .map(|_| bus.publish(&placeholder))
        .buffer_unordered(PLACEHOLDERS_AT_ONCE);
    let filled = acks.try_for_each(|_| future::ready(Ok(()))).await;
    let purge = json!({ "filter": subject });
    let purged = bus.api(&format!("STREAM.PURGE.{stream}"), &purge).await;
    filled.map_err(|e| BusError(format!("{subject}: {e}")))?;
    purged.map_err(|e| AdminError::api(stream, e))?;
    Ok(())
}

/// Puts the entries of a file back, a part after the other.
async fn put_back(store: &Store, path: &Path) -> Result<(), BackupError> {
    let mut file = BufReader::new(File::open(path).map_err(at(path))?);
    let mut entries = Vec::new();
    let mut size = 0;
    while let Some(entry) = read_entry::<BackupEntry>(&mut file).map_err(at(path))? {
        size += entry.encoded_len();
        entries.push(entry);
        if size >= PUT_AT_ONCE {
            store.put_back(&entries).await?;
            entries.clear();
            size = 0;
        }
    }
    store.put_back(&entries).await?;
    Ok(())
}

fn write_entry(file: &mut impl Write, entry: &impl Message) -> io::Result<()> {
    let bytes = entry.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    file.write_all(&length.to_be_bytes())?;
    file.write_all(&bytes)
}

/// Next entry; `None` at the end of the file.
fn read_entry<M: Message + Default>(file: &mut impl Read) -> io::Result<Option<M>> {
    let mut length = [0; 4];
    match file.read_exact(&mut length) {
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
    file.read_exact(&mut bytes)?;
    M::decode(&bytes[..]).map(Some).map_err(io::Error::other)
}

/// Makes the folder, or takes an empty one.
fn make_folder(folder: &Path) -> Result<(), BackupError> {
    let made = fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder);
    made.map_err(at(folder))?;
    let mut inside = fs::read_dir(folder).map_err(at(folder))?;
    if inside.next().is_some() {
        return Err(BackupError::Unfit(format!(
            "{} is not empty; a backup has a folder of its own",
            folder.display()
        )));
    }
    Ok(())
}

/// A new file that only its owner can read.
fn private(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path)
}

/// Output of which length and checksum are known at its end.
struct Checked<W> {
    output: W,
    bytes: u64,
    crc32: crc32fast::Hasher,
}

impl<W: Write> Checked<W> {
    fn new(output: W) -> Self {
        Self {
            output,
            bytes: 0,
            crc32: crc32fast::Hasher::new(),
        }
    }

    /// Writes what is still to be written.
    fn finish(&mut self) -> io::Result<SavedFile> {
        self.output.flush()?;
        Ok(SavedFile {
            bytes: self.bytes,
            crc32: self.crc32.clone().finalize(),
        })
    }
}

impl Checked<BufWriter<File>> {
    fn create(path: &Path) -> Result<Self, BackupError> {
        let file = private(path).map_err(at(path))?;
        Ok(Self::new(BufWriter::new(file)))
    }
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.bytes += written as u64;
        self.crc32.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}
