//! Numbers that only Redis knows: what functions have done over all time, and the memory that is left.

use std::collections::BTreeMap;

use oncue_core::store::{Store, StoreError};

/// Numbers by name, as the workers of a function add to them.
pub type FunctionCounts = BTreeMap<String, u64>;

/// Answers of Redis of one moment.
#[derive(Debug, Clone, Default)]
pub struct RedisLook {
    /// Counts by function.
    pub counts: BTreeMap<String, FunctionCounts>,
    /// Bytes of the seen-marks of each function.
    pub marks: BTreeMap<String, u64>,
    pub used_bytes: u64,
    /// 0 for no limit of its own.
    pub max_bytes: u64,
    /// Loss of commits that workers have found; none of them starts until it is mended.
    pub regression: Option<String>,
}

impl RedisLook {
    pub async fn read(store: &Store, functions: &[&str]) -> Result<Self, StoreError> {
        let (counts, marks, memory, regression) = tokio::try_join!(
            store.counts(),
            store.mark_bytes(functions),
            store.info("memory"),
            store.regression(functions),
        )?;
        let marks = functions.iter().map(ToString::to_string).zip(marks);
        Ok(Self {
            counts,
            marks: marks.collect(),
            used_bytes: number(&memory, "used_memory"),
            max_bytes: number(&memory, "maxmemory"),
            regression: regression.map(|loss| loss.to_string()),
        })
    }
}

/// Number of a line `name:value`; 0 where there is none.
fn number(info: &str, name: &str) -> u64 {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    let found = lines.find(|(known, _)| *known == name);
    found
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn memory_is_read_by_its_whole_name() {
        let info = "# Memory\r\nused_memory:1024\r\nused_memory_human:1K\r\nmaxmemory:0\r\n";
        assert_eq!(number(info, "used_memory"), 1024);
        assert_eq!(number(info, "maxmemory"), 0);
        assert_eq!(number(info, "memory"), 0);
    }
}
