//! Rows as this worker's own commits left them, so that the next event of a key needs no read. Nothing rests on them: a
//! commit on a remembered row compares all of it with what is there, and is refused if anybody has touched it.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

use oncue_core::store::{Expected, Fields, Row, RowChange};

/// Rows remembered. Where there are more keys, forgetting them all now and then costs a read for each.
const MOST: usize = 1024;
/// Larger rows cost more to compare than to read.
const LARGEST: usize = 1024;
const MOST_FIELDS: usize = 16;

/// A row that handlers begin with.
pub(crate) struct RowHeld {
    pub fields: Fields,
    pub basis: Expected,
}

impl From<Row> for RowHeld {
    fn from(Row { version, fields }: Row) -> Self {
        Self {
            fields,
            basis: Expected::Version(version),
        }
    }
}

#[derive(Default)]
pub(crate) struct Rows(Mutex<HashMap<Arc<str>, Fields>>);

impl Rows {
    /// The row of a key, which is remembered again only when a commit has confirmed it.
    pub fn take(&self, key: &str) -> Option<RowHeld> {
        let fields = self.0.lock().remove(key)?;
        Some(RowHeld {
            basis: Expected::Fields(fields.clone()),
            fields,
        })
    }

    pub fn put(&self, key: Arc<str>, fields: Fields) {
        let mut rows = self.0.lock();
        if rows.len() >= MOST {
            rows.clear();
        }
        rows.insert(key, fields);
    }

    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// What a change leaves of a row, if that is worth remembering.
pub(crate) fn after(before: &Fields, change: &RowChange) -> Option<Fields> {
    let changed = |name: &String| {
        change.del.contains(name) || change.set.iter().any(|(field, _)| field == name)
    };
    let mut fields: Fields = before
        .iter()
        .filter(|(name, _)| !changed(name))
        .cloned()
        .collect();
    fields.extend(change.set.iter().cloned());
    fields.sort();
    is_small(&fields).then_some(fields)
}

fn is_small(fields: &Fields) -> bool {
    let size: usize = fields
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    size <= LARGEST && fields.len() <= MOST_FIELDS
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncue_core::store::RowKey;

    fn fields(of: &[(&str, &str)]) -> Fields {
        of.iter()
            .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
            .collect()
    }

    fn change(set: &[(&str, &str)], del: &[&str]) -> RowChange {
        let key = RowKey {
            table: "t",
            key: "k".into(),
        };
        let del = del.iter().map(|name| (*name).to_owned()).collect();
        RowChange {
            key,
            basis: Expected::Version(1),
            set: fields(set),
            del,
        }
    }

    #[test]
    fn a_change_leaves_what_it_does_not_touch() {
        let before = fields(&[("a", "1"), ("b", "2"), ("c", "3")]);
        let left = after(&before, &change(&[("d", "4"), ("b", "5")], &["c"]));
        assert_eq!(left, Some(fields(&[("a", "1"), ("b", "5"), ("d", "4")])));
    }

    #[test]
    fn large_rows_are_read_each_time() {
        assert_eq!(
            after(&Fields::new(), &change(&[("a", &"x".repeat(LARGEST))], &[])),
            None
        );
        let many: Vec<(String, String)> = (0..=MOST_FIELDS)
            .map(|n| (format!("f{n}"), String::new()))
            .collect();
        let many: Vec<(&str, &str)> = many
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(after(&Fields::new(), &change(&many, &[])), None);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_taken_once() {
        let rows = Rows::default();
        for n in 0..=MOST {
            rows.put(n.to_string().into(), Fields::new());
        }
        assert!(rows.take("0").is_none(), "forgotten");
        let last = MOST.to_string();
        assert!(rows.take(&last).is_some() && rows.take(&last).is_none());
    }
}
