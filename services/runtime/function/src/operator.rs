//! The operator's program as the program of a function sees it that is tried: at the other end of stdin and stdout.

use std::io::{BufRead as _, Write as _};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;

use oncue_core::bus::objects::Object;
use oncue_core::model::dry_run::{self, Answer, Binary, Question};

/// Bytes of a file in one answer.
const PIECE: u64 = 512 << 10;

/// The program that asks, to which questions are put one after the other.
#[derive(Clone, Default)]
pub(crate) struct Operator {
    /// Held from a question to its answer.
    turn: Arc<Mutex<()>>,
}

impl Operator {
    /// Fields of a row as it is now.
    pub async fn row(&self, table: &str, key: &str) -> std::io::Result<Vec<(String, Binary)>> {
        let question = Question::Row {
            table: table.to_owned(),
            key: key.to_owned(),
        };
        match self.ask(question).await? {
            Answer::Row(fields) => Ok(fields),
            other => Err(unexpected(&other)),
        }
    }

    /// Description of a file; `None` where there is none.
    pub async fn file(&self, name: &str) -> std::io::Result<Option<Object>> {
        let question = Question::File {
            name: name.to_owned(),
        };
        match self.ask(question).await? {
            Answer::File(object) => Ok(object),
            other => Err(unexpected(&other)),
        }
    }

    /// Content of a file, a piece for each question.
    pub fn read_file(
        &self,
        object: Object,
    ) -> impl Stream<Item = std::io::Result<Bytes>> + Send + use<> {
        let operator = self.clone();
        stream::try_unfold(0, move |from| {
            let operator = operator.clone();
            let object = object.clone();
            async move {
                let to = object.size.min(from + PIECE);
                if from == to {
                    return Ok(None);
                }
                match operator.ask(Question::Bytes { object, from, to }).await? {
                    Answer::Bytes(bytes) => Ok(Some((Bytes::from(bytes.0), to))),
                    other => Err(unexpected(&other)),
                }
            }
        })
    }

    /// Puts one question, on a thread that may wait.
    async fn ask(&self, question: Question) -> std::io::Result<Answer> {
        let turn = self.turn.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn.lock();
            say(&question)?;
            hear()
        });
        asked.await.map_err(std::io::Error::other)?
    }
}

/// Error of an answer to another question, or of none.
fn unexpected(answer: &Answer) -> std::io::Error {
    match answer {
        Answer::Failed(why) => std::io::Error::other(why.clone()),
        other => std::io::Error::other(format!("not an answer to this question: {other:?}")),
    }
}

/// Writes one line of the conversation, whole.
pub(crate) fn say(question: &Question) -> std::io::Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(dry_run::to_line(question).as_bytes())?;
    stdout.flush()
}

/// Reads the next line of the conversation.
pub(crate) fn hear<T: DeserializeOwned>() -> std::io::Result<T> {
    let mut line = String::new();
    std::io::stdin().lock().read_line(&mut line)?;
    dry_run::of_line(&line)
        .ok_or_else(|| std::io::Error::other("it is asked for by `oncue dlq redrive --dry-run`"))?
        .map_err(std::io::Error::other)
}
