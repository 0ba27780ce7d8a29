//! Where an event lies, told by its mark.

use bytes::Bytes;
use oncue_core::store::{CommitEvent, Purpose};
use oncue_proto::event;
use oncue_tests::any_store::AnyStore;

use super::{HORIZON, alone, commit, handled, handled_at};

pub async fn a_mark_says_where_its_event_stands(store: &AnyStore) {
    let now = event::now_ms();
    let at = |sequence: u64, mut handled: CommitEvent| {
        handled.mark.sequence = sequence;
        handled
    };
    let old = now - HORIZON / 2;
    let events = [
        ("now", at(17, handled("now", "/now")), Some((17, false))),
        (
            "long ago",
            at((1 << 40) + 3, handled_at("long ago", "/old", old, true)),
            Some(((1 << 40) + 3, false)),
        ),
        (
            "untimed",
            at(300, handled_at("untimed", "/u", old, false)),
            Some((300, false)),
        ),
        (
            "with outputs",
            CommitEvent {
                outbox: Bytes::from_static(b"out"),
                ..at(18, handled("with outputs", "/o"))
            },
            Some((18, true)),
        ),
        ("nobody knows", at(0, handled("nobody knows", "/n")), None),
        (
            "dead",
            CommitEvent {
                purpose: Purpose::DeadLetter,
                ..at(19, handled("dead", "/x"))
            },
            Some((19, false)),
        ),
    ];
    let place = async |id: &str, function| {
        let places = store
            .places(&["?".to_owned(), id.to_owned()], function)
            .await;
        let places = places.expect("asked");
        assert!(places[0].is_none() && places.len() == 2);
        places[1].map(|place| (place.sequence, place.has_outputs))
    };
    for (id, handled, place_expected) in events {
        commit(store, alone(handled)).await;
        assert_eq!(place(id, "suite").await, place_expected, "{id}");
    }
    assert_eq!(place("now", "another").await, None);
    assert_eq!(place("nothing", "suite").await, None);
}
