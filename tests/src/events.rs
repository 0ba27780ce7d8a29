//! Events of the demo as tests send them, and the letters that become of some.

use bytes::Bytes;
use oncue_core::bus::Bus;
use oncue_proto::event::{self, Meta, Origin};
use oncue_proto::oncue::v1::{DeadLetter, Envelope, Header};
use prost::Message as _;
use serde_json::json;

use crate::cluster::Cluster;

/// Page view that tells `misbehave` and its like what to do: subject and payload.
pub fn told(page: &str, what: &str) -> (&'static str, String) {
    let view = json!({ "page": page, "referrer": what });
    ("web.page.viewed", view.to_string())
}

/// Message with these headers, as a client publishes it.
pub fn envelope(subject: &str, headers: &[(&str, &str)], payload: impl AsRef<[u8]>) -> Envelope {
    let headers = headers.iter().map(|(name, value)| Header {
        name: (*name).to_owned(),
        value: (*value).to_owned(),
    });
    Envelope {
        subject: subject.to_owned(),
        headers: headers.collect(),
        payload: Bytes::copy_from_slice(payload.as_ref()),
    }
}

/// Attributes of a plain message under an id, which begins the flow of that id.
pub fn root(id: &str) -> Meta {
    let origin = Origin {
        stream: "s",
        stream_created: 1,
        sequence: 1,
        published: 7,
        subject: "web.page.viewed",
    };
    let mut meta = event::read([].into_iter(), Bytes::new(), &origin)
        .expect("a plain message")
        .meta;
    (meta.id, meta.flow) = (id.into(), id.into());
    meta
}

/// Dead letters in their order.
pub async fn letters(cluster: &Cluster, bus: &Bus) -> Vec<DeadLetter> {
    let messages = cluster.messages(bus, "dlq").await;
    messages
        .iter()
        .map(|message| DeadLetter::decode(&message.payload[..]).expect("a dead letter"))
        .collect()
}
