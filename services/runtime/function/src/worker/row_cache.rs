//! Row cache: rows as this worker's own commits left them, so that the next event of a key needs no read. Nothing rests on
//! it: a commit on a remembered row compares all of it with what is there, and is refused if anybody has touched it.
//!
//! A row is in the cache only between two runs of its key: a run takes it out, and puts it back
//! when its commit is confirmed. So two runs never begin with the same memory, and a run whose fate
//! is unknown leaves none.

use std::collections::HashMap;
use std::sync::Arc;

use oncue_core::store::{Expected, Fields, Row, RowChange};
use parking_lot::Mutex;

/// Rows remembered. Where there are more keys, forgetting them all now and then costs a read for each.
const MAX_ROWS: usize = 1024;
/// Bytes of a row that is remembered. Larger ones cost more to compare than to read.
const MAX_ROW_BYTES: usize = 1024;
/// Fields of a row that is remembered, for the same reason.
const MAX_ROW_FIELDS: usize = 16;

/// A row that handlers begin with.
pub(crate) struct RowSnapshot {
    /// Fields by name, sorted, as Redis holds them.
    pub fields: Fields,
    /// How the commit tells whether the row is still so.
    pub expected: Expected,
}

/// A row that was read is compared by its version, one number, at the commit.
impl From<Row> for RowSnapshot {
    fn from(Row { version, fields }: Row) -> Self {
        Self {
            fields,
            expected: Expected::Version(version),
        }
    }
}

/// Rows by key of the function. One lock for all: the process has one thread, and a look-up is
/// short.
#[derive(Default)]
pub(crate) struct RowCache(Mutex<HashMap<Arc<str>, Fields>>);

impl RowCache {
    /// Takes the row of a key out of the cache; it comes back only when a commit has confirmed it.
    pub fn take(&self, key: &str) -> Option<RowSnapshot> {
        let fields = self.0.lock().remove(key)?;
        Some(RowSnapshot {
            expected: Expected::Fields(fields.clone()),
            fields,
        })
    }

    /// Remembers a row that a commit has just left behind. A full cache is emptied rather than
    /// sorted by age: an order would cost every event what the reads after it cost a few.
    pub fn put(&self, key: Arc<str>, fields: Fields) {
        let mut rows = self.0.lock();
        if rows.len() >= MAX_ROWS {
            rows.clear();
        }
        rows.insert(key, fields);
    }

    /// Forgets all rows, after a lost race: other workers write them too.
    pub fn clear(&self) {
        self.0.lock().clear();
    }
}

/// Row after a change, if it is small enough to be remembered.
///
/// Worked out before the commit and remembered behind it, if it is applied. Without the version,
/// which Redis gives.
pub(crate) fn after(before: &Fields, change: &RowChange) -> Option<Fields> {
    Some(changed(before, &change.set, &change.del)).filter(is_small)
}

/// Fields once some are set, which are sorted by name, and others deleted.
pub(crate) fn changed(before: &Fields, set: &Fields, del: &[String]) -> Fields {
    let untouched = before.iter().filter(|(name, _)| {
        !del.contains(name) && set.binary_search_by(|(field, _)| field.cmp(name)).is_err()
    });
    let mut fields: Fields = untouched.chain(set).cloned().collect();
    fields.sort();
    fields
}

/// Bytes of names and values count together, against [`MAX_ROW_BYTES`].
fn is_small(fields: &Fields) -> bool {
    let size: usize = fields
        .iter()
        .map(|(name, value)| name.len() + value.len())
        .sum();
    size <= MAX_ROW_BYTES && fields.len() <= MAX_ROW_FIELDS
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
            after(
                &Fields::new(),
                &change(&[("a", &"x".repeat(MAX_ROW_BYTES))], &[])
            ),
            None
        );
        let many: Vec<(String, String)> = (0..=MAX_ROW_FIELDS)
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
        let rows = RowCache::default();
        for n in 0..=MAX_ROWS {
            rows.put(n.to_string().into(), Fields::new());
        }
        assert!(rows.take("0").is_none(), "forgotten");
        let last = MAX_ROWS.to_string();
        assert!(rows.take(&last).is_some() && rows.take(&last).is_none());
    }
}
