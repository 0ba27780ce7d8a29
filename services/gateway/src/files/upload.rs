//! `PUT /v1/files/{name}`: bytes into the object store as they come, then an event that refers to them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use futures_util::StreamExt as _;
use oncue_core::bus::objects::{Object, PutError};
use oncue_http::Peer;
use oncue_proto::event;
use oncue_proto::files::FileUploaded;
use oncue_proto::{Event as _, Format};
use opentelemetry::trace::FutureExt as _;
use prost::Message as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::App;
use crate::door::identity::Identity;
use crate::events::attributes::root;
use crate::events::publish::{NewEvent, Published, connected, id_reuse};
use crate::flows::wait::{TakenFlow, WaitRequest, is_tracking_asked};
use crate::observe::trace::Trace;
use crate::problem::{
    AWAY, FORBIDDEN, ID_REUSE, INTERNAL, MALFORMED, Problem, UNKNOWN, of_publish,
};
use crate::request::body::{Incoming, broken};
use crate::request::{check_encoding, check_length, path_after, path_piece, text, too_large};

/// A file that was stored and announced, as its client is told.
#[derive(Serialize)]
struct Stored {
    file: String,
    id: String,
    flow: String,
    size: u64,
    sha256: String,
    traceparent: String,
    tracked: bool,
}

/// A file as its client describes it.
struct Upload {
    file: String,
    /// Id of the event.
    id: String,
    name: String,
    owner: String,
    /// The client named an idempotency key, so it may send the same again.
    keyed: bool,
    /// The client wants a ledger of the flow.
    tracked: bool,
}

impl Upload {
    /// With a key from the client, file and event get ids that follow from it: a retry gives the same of both.
    fn of(app: &App, raw_name: &str, head: &Parts) -> Result<Self, Problem> {
        let headers = &head.headers;
        let name = file_name(raw_name)?;
        let owner = owner(headers, head.extensions.get())?;
        let key = app.client_key(head)?;
        Ok(Self {
            file: id_of(key.as_deref(), &owner, "file"),
            id: id_of(key.as_deref(), &owner, "event"),
            name,
            owner,
            keyed: key.is_some(),
            tracked: is_tracking_asked(headers),
        })
    }
}

fn id_of(key: Option<&str>, owner: &str, step: &str) -> String {
    match key {
        Some(key) => event::idempotency_key(key, owner, step),
        None => event::new_id(),
    }
}

/// Name that the client calls its file by. Only ever shown: what is stored has a name of our own. One with folders in it is
/// refused and not cut, since whoever sends it means something that would not happen.
fn file_name(raw: &str) -> Result<String, Problem> {
    let whole = path_piece(raw)?;
    if whole.len() > 255 {
        return Err(bad_name("is longer than 255 bytes"));
    }
    if whole.chars().any(char::is_control) {
        return Err(bad_name("has control characters"));
    }
    if whole.contains(['/', '\\']) {
        return Err(bad_name(
            "has a / or \\ in it; send the name without folders",
        ));
    }
    match whole.trim() {
        "" | "." | ".." => Err(bad_name("is empty")),
        name => Ok(name.to_owned()),
    }
}

fn bad_name(why: &str) -> Problem {
    Problem::new(MALFORMED, format!("the file name {why}"))
}

/// Owner of the file: of the identity, where the policy says so, or else whoever the client says.
fn owner(headers: &HeaderMap, identity: Option<&Identity>) -> Result<String, Problem> {
    let said = text(headers, &HeaderName::from_static("oncue-owner"))?;
    if let Some(owner) = identity.and_then(|identity| identity.owner.as_deref()) {
        if said.is_some_and(|said| said != owner) {
            let why = "Oncue-Owner names somebody else than the credential does; leave it out";
            return Err(Problem::new(FORBIDDEN, why));
        }
        return Ok(owner.to_owned());
    }
    let owner = said.unwrap_or("anonymous");
    if owner.is_empty() || owner.len() > 128 || owner.chars().any(char::is_control) {
        return Err(Problem::new(
            MALFORMED,
            "Oncue-Owner must be 1 to 128 printable bytes",
        ));
    }
    Ok(owner.to_owned())
}

pub async fn put(
    State(app): State<Arc<App>>,
    Extension(trace): Extension<Trace>,
    request: Request,
) -> Result<Response, Problem> {
    let raw_name = path_after(&request, "/v1/files/").to_owned();
    let (head, body) = request.into_parts();
    let peer = head.extensions.get::<Peer>().copied();
    let headers = &head.headers;
    let body = Incoming::new(body, headers, app.pace());
    check_encoding(headers)?;
    let upload = Upload::of(&app, &raw_name, &head)?;
    check_length(headers, app.config.max_file.0)?;
    connected(&app.bus)?;
    connected(&app.files)?;
    let place = app.transfer(&app.uploads, headers, peer)?;
    let stream = event::stream_of_type(FileUploaded::TYPE);
    app.backlog.admit(&app.bus, stream).await?;
    // Before the bytes are taken: without the event nobody would know of them.
    let settings = app.stream(stream);
    let room = app.room.admit(&app.bus, stream, &settings, 0);
    room.await?;
    let wait = WaitRequest::of(&app, &head)?;
    // A task of its own: when the client goes away in the middle, this handler is dropped wherever it stands, but
    // what was begun must be finished or taken back.
    let worker = app.clone();
    let context = trace.context();
    let taken = async move {
        let _place = place;
        worker.take(&trace, upload, body).await
    };
    let task = app.handle.tasks.spawn(taken.with_context(context));
    let stored = task
        .await
        .map_err(|e| Problem::new(INTERNAL, format!("the upload failed: {e}")))??;
    let flow = TakenFlow {
        id: &stored.flow,
        traceparent: &stored.traceparent,
        tracked: stored.tracked,
    };
    let mut response = wait.answer(&app, flow, &stored).await;
    let link = HeaderValue::from_str(&format!("</v1/files/{}>; rel=\"item\"", stored.file));
    let link = link.ok().map(|link| (header::LINK, link));
    response.headers_mut().extend(link);
    Ok(response)
}

/// Object of an upload.
struct Kept {
    object: Object,
    /// Whether this request has made it.
    made: bool,
}

impl Kept {
    fn found(object: Object) -> Self {
        Self {
            object,
            made: false,
        }
    }
}

impl App {
    /// The whole life of an upload: store, publish, and take back what nobody was told of.
    async fn take(&self, trace: &Trace, upload: Upload, body: Incoming) -> Result<Stored, Problem> {
        let before = if upload.keyed {
            self.files.object(&upload.file).await?
        } else {
            None
        };
        let object = match before {
            Some(object) => Kept::found(self.compare(object, body).await?),
            None => self.store(&upload, body).await?,
        };
        let Kept { object, made } = object;
        let sha256 = object.sha256();
        let published = match self.announce(trace, &upload, &object, &sha256).await {
            Ok(published) => published,
            Err(problem) => {
                // One whose event may have been taken must be there for whoever acts on it, and one with a key of the
                // client's may be that of another request, which was accepted; the next with this key finds it. Where the
                // key is that of other bytes, nobody was told of these.
                let is_nobodys = if upload.keyed {
                    made && problem.kind() == ID_REUSE
                } else {
                    problem.kind() != UNKNOWN
                };
                if is_nobodys {
                    self.take_back(&upload.file).await;
                }
                return Err(problem);
            }
        };
        let Upload { file, id, .. } = upload;
        let Published {
            traceparent,
            tracked,
            ..
        } = published;
        Ok(Stored {
            file,
            flow: id.clone(),
            id,
            size: object.size,
            sha256,
            traceparent,
            tracked,
        })
    }

    async fn take_back(&self, file: &str) {
        if let Err(e) = self.files.delete_object(file).await {
            tracing::warn!(error = %e, file, "cannot take back a file whose event was not taken");
        }
    }

    async fn store(&self, upload: &Upload, body: Incoming) -> Result<Kept, Problem> {
        let at = event::format_time(event::now_ms());
        let metadata = [
            ("name", upload.name.as_str()),
            ("owner", &upload.owner),
            ("at", &at),
        ];
        let limit = self.config.max_file.0;
        let stored = self
            .files
            .create_object(&upload.file, &metadata, body.stream(), limit);
        let object = match stored.await {
            Ok(object) => object,
            Err(PutError::Taken { digest }) => {
                return self
                    .stored_meanwhile(upload, &digest)
                    .await
                    .map(Kept::found);
            }
            Err(e) => return Err(put_problem(e)),
        };
        self.metrics
            .upload_bytes
            .fetch_add(object.size, Ordering::Relaxed);
        Ok(Kept { object, made: true })
    }

    /// Object that another request has stored under the same key, if it is the same.
    async fn stored_meanwhile(&self, upload: &Upload, digest: &str) -> Result<Object, Problem> {
        let there = self.files.object(&upload.file).await?;
        there
            .filter(|there| there.digest == digest)
            .ok_or_else(|| id_reuse(&upload.file))
    }

    /// A retry of an upload that is there: its bytes are read once more, only to see that they are the same.
    async fn compare(&self, object: Object, body: Incoming) -> Result<Object, Problem> {
        let mut sha = Sha256::new();
        let mut size = 0;
        let mut parts = body.stream();
        while let Some(part) = parts.next().await {
            let part = part.map_err(|e| broken(&e))?;
            size += part.len() as u64;
            if size > self.config.max_file.0 {
                return Err(too_large(self.config.max_file.0));
            }
            sha.update(&part);
        }
        let same = format!("SHA-256={}", URL_SAFE.encode(sha.finalize())) == object.digest;
        if same {
            Ok(object)
        } else {
            Err(id_reuse(&object.name))
        }
    }

    /// Says what was stored. Time, name and owner are those stored with the bytes, so that a retry publishes the same
    /// event, to the byte.
    async fn announce(
        &self,
        trace: &Trace,
        upload: &Upload,
        object: &Object,
        sha256: &str,
    ) -> Result<Published, Problem> {
        let at = event::parse_time(&kept(object, "at")).unwrap_or_else(event::now_ms);
        let uploaded = FileUploaded {
            file: upload.file.clone(),
            name: kept(object, "name"),
            owner: kept(object, "owner"),
            size: object.size,
            sha256: sha256.to_owned(),
            at: Some(pbjson_types::Timestamp {
                seconds: (at / 1000) as i64,
                nanos: (at % 1000 * 1_000_000) as i32,
            }),
        };
        let mut meta = root(upload.id.clone(), FileUploaded::TYPE);
        meta.timed = !upload.keyed;
        let new = NewEvent {
            meta,
            key: upload.file.clone(),
            format: Format::Protobuf,
            payload: uploaded.encode_to_vec().into(),
            track: upload.tracked,
            body: None,
        };
        let published = self.publish(trace, new).await;
        let outcome = if published.is_ok() {
            "accepted"
        } else {
            "unavailable"
        };
        self.metrics.event(FileUploaded::TYPE, outcome);
        let published = published?;
        // The file was removed meanwhile and another sent under its key: the event that stands is not about this one.
        let earlier = published.earlier.as_ref();
        if earlier.is_some_and(|earlier| is_other(&earlier.payload, sha256)) {
            return Err(id_reuse(&upload.id));
        }
        Ok(published)
    }
}

/// Text stored with the bytes of a file.
fn kept(object: &Object, name: &str) -> String {
    object.metadata.get(name).cloned().unwrap_or_default()
}

/// Whether an event that was taken before is about other bytes. One that cannot be read says nothing.
fn is_other(earlier: &[u8], sha256: &str) -> bool {
    FileUploaded::decode(earlier).is_ok_and(|then| then.sha256 != sha256)
}

fn put_problem(e: PutError) -> Problem {
    match e {
        PutError::Source(e) => broken(&e),
        PutError::TooLarge(limit) => too_large(limit),
        PutError::Taken { .. } => id_reuse("of the file"),
        PutError::Publish(e) => {
            let problem = of_publish(e);
            // A chunk is never too large; a bucket at its limit takes no more.
            if problem.status() == StatusCode::PAYLOAD_TOO_LARGE {
                Problem::new(AWAY, problem.detail())
            } else {
                problem
            }
        }
    }
}

/// `PUT /v1/files/` without a name.
pub async fn unnamed(_: Body) -> Problem {
    Problem::new(MALFORMED, "the file name is empty")
}

#[cfg(test)]
mod tests {
    use super::file_name;

    #[test]
    fn names_are_for_showing() {
        let of = |raw: &str| file_name(raw).map_err(|problem| problem.status().as_u16());
        assert_eq!(of("a%20b.png").as_deref(), Ok("a b.png"));
        for bad in [
            "",
            ".",
            "..",
            "%2e%2e",
            "a%00b",
            "a%0d%0ab",
            "%ff",
            "a%2f",
            "..%2f..%2fx",
            "a%5cb.jpg",
            "C:%5Cpictures%5Cx.jpg",
            &"x".repeat(256),
        ] {
            assert_eq!(of(bad), Err(400), "{bad:?}");
        }
    }
}
