//! Legal `.proto` files with names that Rust writes otherwise, or keeps for itself: what is made of them compiles.

use odd::self_::Seen;
use odd::r#type::{Match, Self_, r#match, self_};
use odd::v1::{Lowered, SmsLost, SmsSent, sms_sent};
use oncue_proto::{Catalog, Event, Format, decode};

include!(concat!(env!("OUT_DIR"), "/events.rs"));

/// Type and schema of an event, and its key where the JSON is this.
fn read<E: Event + serde::de::DeserializeOwned>(json: &str) -> [String; 3] {
    let catalog = Catalog::builtin().with(DESCRIPTORS).expect("a contract");
    let entry = catalog.get(E::TYPE).expect("an entry");
    let event: E = decode(Format::Json, json.as_bytes()).expect(json);
    let key = entry.check(Format::Json, json.as_bytes()).expect(json);
    assert_eq!(key, event.key(), "the gateway's key is the function's");
    [E::TYPE.to_owned(), E::SCHEMA.to_owned(), key]
}

#[test]
fn names_with_capitals() {
    let sent = r#"{"orderId":"o-1","carrier":"CARRIER_POST"}"#;
    assert_eq!(
        read::<SmsSent>(sent),
        ["odd.sms.sent", "Odd.V1.SMSSent", "o-1"]
    );
    assert_eq!(
        read::<SmsLost>("{}"),
        ["odd.sms.lost", "Odd.V1.sms_lost", ""]
    );
    assert_eq!(
        read::<Lowered>("{}"),
        ["odd.case.lowered", "odd.v1.Lowered", ""]
    );
}

#[test]
fn events_inside_of_messages() {
    assert_eq!(
        read::<sms_sent::Read>(r#"{"type":"t"}"#),
        ["odd.sms.read", "Odd.V1.SMSSent.READ", "t"]
    );
    assert_eq!(
        read::<sms_sent::read::Twice>(r#"{"BYWHOM":"b"}"#),
        ["odd.sms.reread", "Odd.V1.SMSSent.READ.Twice", "b"]
    );
}

#[test]
fn words_of_rust() {
    assert_eq!(
        read::<Self_>(r#"{"self":"s"}"#),
        ["odd.word.kept", "odd.type.self", "s"]
    );
    assert_eq!(
        read::<self_::Match>(r#"{"super":"s"}"#),
        ["odd.word.matched", "odd.type.self.Match", "s"]
    );
    let found = r#"{"crate":"c","extern":{"orderId":"o-1"},"async":{"a":{"type":"t"}},"in":"i"}"#;
    assert_eq!(
        read::<Match>(found),
        ["odd.word.found", "odd.type.match", "c"]
    );
    assert_eq!(
        read::<r#match::Try>("{}"),
        ["odd.word.tried", "odd.type.match.Try", ""]
    );
    assert_eq!(
        read::<Seen>(r#"{"where":"w","try":{}}"#),
        ["odd.self.seen", "odd.self.Seen", "w"]
    );
}
