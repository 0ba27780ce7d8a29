//! Owner of a group of letters: the person who sees to it, so that nobody else begins the same. It binds nobody: whoever may
//! redrive, still may.

use std::collections::BTreeMap;
use std::time::Duration;

use oncue_core::store::Store;
use oncue_proto::event;
use serde::{Deserialize, Serialize};

use crate::AdminError;

/// Time after which nobody remembers whose a cause was that has not come back.
const REMEMBERED: Duration = Duration::from_hours(30 * 24);

/// Person who has taken a group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupOwner {
    /// Name, and where they came from.
    pub who: String,
    /// Moment at which it was taken, Unix milliseconds.
    pub since: u64,
    /// Words for the others; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub note: String,
}

/// Owners by group, of groups whose letters are gone too: the same cause may come back.
///
/// # Errors
/// Redis does not answer.
pub async fn owners(store: &Store) -> Result<BTreeMap<String, GroupOwner>, AdminError> {
    let kept = store.letter_owners().await?.into_iter();
    let read = kept.filter_map(|(group, json)| Some((group, serde_json::from_str(&json).ok()?)));
    Ok(read.collect())
}

/// Makes somebody the owner of a group, in place of the one before, whom it returns. Of groups without letters, as `has_letters` says,
/// owners are forgotten after a month.
///
/// # Errors
/// Redis does not answer.
pub async fn take(
    group: &str,
    who: &str,
    note: &str,
    has_letters: impl Fn(&str) -> bool,
    store: &Store,
) -> Result<Option<GroupOwner>, AdminError> {
    let now = event::now_ms();
    let mut known = owners(store).await?;
    let oldest = now.saturating_sub(REMEMBERED.as_millis() as u64);
    for (old, owner) in &known {
        if owner.since < oldest && !has_letters(old) {
            store.remove_letter_owner(old).await?;
        }
    }
    let owner = GroupOwner {
        who: who.to_owned(),
        since: now,
        note: note.to_owned(),
    };
    let json = serde_json::to_string(&owner).unwrap_or_default();
    store.set_letter_owner(group, &json).await?;
    Ok(known.remove(group))
}

/// Leaves a group to whoever takes it; `false` where nobody had it.
///
/// # Errors
/// Redis does not answer.
pub async fn release(group: &str, store: &Store) -> Result<bool, AdminError> {
    Ok(store.remove_letter_owner(group).await?)
}
