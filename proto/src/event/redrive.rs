//! Redriven events that still cannot be read: they keep the identity they had when they were dead-lettered, so that
//! their next dead letter is known to be theirs.

use super::{Meta, Origin, REDRIVE, Redrive, RedriveHeader, is_redrive, percent_decode};

impl Meta {
    /// Attributes of a message that cannot be read: those it had when it was dead-lettered, for one that is redriven,
    /// or else from where it stands.
    pub fn of_unreadable<'h>(
        mut headers: impl Iterator<Item = (&'h str, &'h str)>,
        origin: &Origin<'_>,
    ) -> Self {
        let meta = Self::of_origin(origin);
        let redrive = headers
            .find(|(name, _)| is_redrive(origin.subject) && name.eq_ignore_ascii_case(REDRIVE));
        let header = redrive.and_then(|(_, value)| percent_decode(value));
        match header.and_then(|json| serde_json::from_str::<RedriveHeader>(&json).ok()) {
            None => meta,
            Some(RedriveHeader {
                number,
                at,
                id,
                ty,
                flow,
                time,
                timed,
            }) => Self {
                id,
                ty,
                flow,
                time,
                timed,
                redrive: Some(Redrive { number, at }),
                ..meta
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::percent_encode;

    #[test]
    fn only_on_its_own_subject_does_the_header_count() {
        let header =
            r#"{"number":2,"at":9,"id":"e","type":"a.b.c","flow":"f","time":5,"timed":false}"#;
        let header = percent_encode(header);
        let read = |subject| {
            let origin = Origin {
                stream: "a",
                stream_created: 1,
                sequence: 7,
                published: 8,
                subject,
            };
            let meta = Meta::of_unreadable([("oncue-redrive", &*header)].into_iter(), &origin);
            (
                meta.id,
                meta.time,
                meta.redrive.map(|redrive| redrive.number),
            )
        };
        assert_eq!(read("a.redrive.x"), ("e".to_owned(), 5, Some(2)));
        assert_eq!(read("a.b.c"), ("a:1:7".to_owned(), 8, None));
    }
}
