//! Dry run of a redrive: the function's own program runs its handler on the letter and on the row as it is now,
//! commits nothing, and says what would have come of it.
//!
//! Answers hold for the moment: another event may change the row before the redrive.
//!
//! A handler may do anything, so its process is [kept off the network](crate::program) and holds no connection: row and
//! files are read here, and handed to it. A function that runs at most once refuses to be tried.

use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use prost::Message as _;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::letters::Letter;
use super::{LetterError, envelope};
use crate::program::shielded::{self, ShieldError};
use crate::program::{self, FIRST_WORD_TIMEOUT, ProgramError, no_pipe, read_whole};
use oncue_core::bus::Bus;
use oncue_core::config::Config;
use oncue_core::model::dry_run::{self, Answer, Binary, DryRun, Question, TriedLetter};
use oncue_core::store::{StateValue, Store};
use oncue_proto::event;

/// Time beyond the function's own timeout, which a handler that holds its thread does not keep.
const GRACE: Duration = Duration::from_secs(5);

/// Servers and programs that dry runs need.
pub struct Bench<'b> {
    pub bus: &'b Bus,
    pub store: &'b Store,
    pub config: &'b Config,
    /// Folder of the functions' programs.
    pub bin: &'b Path,
    pub network: Network,
}

/// Whether the program of a function that is tried may reach the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The kernel keeps it off, or nothing is tried.
    HeldBack,
    /// Somebody has allowed it.
    Allowed,
}

/// Tries one letter with its function's program.
///
/// One process, at most one direct get for the payload, and what the handler reads.
///
/// # Errors
/// [`LetterError::Output`] for the letter of an output; [`LetterError::PayloadGone`] and [`LetterError::Bus`] as of
/// [`complete`](super::complete); [`LetterError::Shield`] where the system cannot keep a program off the network;
/// [`LetterError::Program`] where the program is missing, refuses, or answers in another form.
pub async fn attempt(letter: &Letter, bench: &Bench<'_>) -> Result<DryRun, LetterError> {
    if letter.is_of_output() {
        let envelope = letter.content.envelope.clone().unwrap_or_default();
        return Err(LetterError::Output {
            function: letter.content.function.clone(),
            subject: envelope.subject,
        });
    }
    let bus = bench.bus;
    let mut complete = envelope::complete(bus, &letter.content).await?;
    // As it would be sent: under the identity it would have.
    complete.envelope = Some(envelope::redriven(bus.app(), &complete, event::now_ms()));
    let tried = TriedLetter {
        letter: Binary(complete.encode_to_vec()),
        stream_created: bus.stream_created(&complete.stream).await?,
    };
    let function = &letter.content.function;
    let mut command = program::command(bench.bin, bench.config, function)?;
    // It reaches neither, so it need not know their passwords.
    command
        .arg("--try")
        .env_remove("ONCUE_NATS_URL")
        .env_remove("ONCUE_REDIS_URL");
    let mut child = start(command, bench.network)?;
    let conversation = Conversation {
        stdin: child.stdin.take().ok_or_else(no_pipe)?,
        lines: BufReader::new(child.stdout.take().ok_or_else(no_pipe)?).lines(),
        bench,
    };
    let said = tokio::spawn(read_whole(child.stderr.take()));
    let Some(mut outcome) = conversation.hold(&tried, function).await? else {
        let status = child.wait().await.map_err(ProgramError::from)?;
        let said = tokio::time::timeout(GRACE, said).await;
        let said = said.ok().and_then(Result::ok).unwrap_or_default();
        return Err(program::refusal(function, status, &said).into());
    };
    let may_be_network = !outcome.is_applied() && outcome.reason.is_empty();
    if bench.network == Network::HeldBack && may_be_network {
        outcome.hint = HELD_BACK.into();
    }
    Ok(outcome)
}

/// Remark on a handler that failed.
const HELD_BACK: &str = "its process was kept off the network; a call to the outside is not made while the context's \
                         is_dry_run() says so";

/// Starts the program.
fn start(mut command: Command, network: Network) -> Result<Child, LetterError> {
    match network {
        Network::Allowed => Ok(command.spawn().map_err(ProgramError::from)?),
        Network::HeldBack => shielded::spawn(command).map_err(|e| match e {
            ShieldError::Unavailable(why) => LetterError::Shield(why),
            ShieldError::Run(e) => ProgramError::from(e).into(),
        }),
    }
}

/// The pipes to a program that is tried, and what it is answered from.
struct Conversation<'c> {
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    bench: &'c Bench<'c>,
}

impl Conversation<'_> {
    /// Holds it to its end; `None` where the program ends it without an outcome.
    async fn hold(
        mut self,
        tried: &TriedLetter,
        function: &str,
    ) -> Result<Option<DryRun>, ProgramError> {
        // One that has ended before says why by its exit.
        let _ = self
            .stdin
            .write_all(dry_run::to_line(tried).as_bytes())
            .await;
        let first = tokio::time::timeout(FIRST_WORD_TIMEOUT, self.next()).await;
        let first = first.map_err(|_| ProgramError::Deaf {
            function: function.to_owned(),
            verb: "--try".to_owned(),
        })??;
        let timeout = match first {
            Some(Question::Begun { timeout_ms }) => Duration::from_millis(timeout_ms) + GRACE,
            Some(Question::Finished(outcome)) => return Ok(Some(outcome)),
            _ => return Ok(None),
        };
        match tokio::time::timeout(timeout, self.answer_all()).await {
            Ok(outcome) => outcome,
            Err(_) => Ok(Some(DryRun {
                outcome: "retry".into(),
                message: format!("still running after {timeout:?}, and holding its thread"),
                ..DryRun::default()
            })),
        }
    }

    /// Answers questions until there is an outcome.
    async fn answer_all(&mut self) -> Result<Option<DryRun>, ProgramError> {
        loop {
            let answer = match self.next().await? {
                None => return Ok(None),
                Some(Question::Finished(outcome)) => return Ok(Some(outcome)),
                Some(Question::Begun { .. }) => continue,
                Some(question) => self.answer(question).await.unwrap_or_else(Answer::Failed),
            };
            let line = dry_run::to_line(&answer);
            self.stdin.write_all(line.as_bytes()).await?;
        }
    }

    /// Next line of the program's own; `None` at the end of its output.
    async fn next(&mut self) -> Result<Option<Question>, ProgramError> {
        while let Some(line) = self.lines.next_line().await? {
            if let Some(question) = dry_run::of_line(&line) {
                return Ok(Some(question?));
            }
        }
        Ok(None)
    }

    /// Answer to one question; fails with words for the handler.
    async fn answer(&self, question: Question) -> Result<Answer, String> {
        match question {
            Question::Row { table, key } => self.row(&table, &key).await,
            Question::File { name } => {
                let object = self.bench.bus.object(&name).await;
                object.map(Answer::File).map_err(|e| e.to_string())
            }
            Question::Bytes { object, from, to } => {
                let mut parts = std::pin::pin!(self.bench.bus.read_object(&object, from..to));
                let mut bytes = Vec::new();
                while let Some(part) = parts.next().await {
                    bytes.extend_from_slice(&part.map_err(|e| e.to_string())?);
                }
                Ok(Answer::Bytes(Binary(bytes)))
            }
            Question::Begun { .. } | Question::Finished(_) => Err("no question".to_owned()),
        }
    }

    /// Row as it is now.
    async fn row(&self, table: &str, key: &str) -> Result<Answer, String> {
        let found = self.bench.store.show(table, key).await;
        let fields = match found.map_err(|e| e.to_string())? {
            None => Vec::new(),
            Some(StateValue::Row(row)) => row.fields,
            Some(_) => return Err(format!("{table} {key:?} is no row in Redis")),
        };
        let fields = fields.into_iter();
        Ok(Answer::Row(
            fields.map(|(name, value)| (name, Binary(value))).collect(),
        ))
    }
}
