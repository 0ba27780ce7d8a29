//! Owners of tables: the rows of a table are one function's, since its marks alone say which events are in them. Another one
//! would act on all of these again, on top of what is there.

use oncue_core::config::Config;
use oncue_core::model::manifest::Manifest;
use oncue_core::store::Store;

use super::Obstacle;
use crate::AdminError;

/// Standing of the owner of a table today.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// oncue.toml names it.
    Declared,
    /// Gone from oncue.toml, and not from the servers.
    Left,
    /// Gone from both, or to another table, while its rows are there.
    Former,
}

/// Another owner of the table of `manifest`, if there is one. `declared` are manifests of oncue.toml, as many as are known.
///
/// # Errors
/// Redis does not answer.
pub async fn other_owner(
    manifest: &Manifest,
    declared: &[Manifest],
    config: &Config,
    store: &Store,
) -> Result<Option<Obstacle>, AdminError> {
    let Some(table) = manifest.owned_table() else {
        return Ok(None);
    };
    let registered = store.functions().await?;
    let registered: Vec<Manifest> = registered.into_iter().map(|known| known.manifest).collect();
    let recorded = store.table_owners().await?.remove(table);
    let claims = Claims {
        table,
        recorded: recorded.as_deref(),
        declared,
        registered: &registered,
    };
    let former = recorded.as_deref().filter(|name| !claims.has(name));
    let found = match former {
        Some(former) if former != manifest.name && store.has_rows(table).await? => {
            Some((former, Ownership::Former))
        }
        _ => claims.owner().map(|owner| {
            let is_declared = config.functions.contains_key(owner);
            (
                owner,
                if is_declared {
                    Ownership::Declared
                } else {
                    Ownership::Left
                },
            )
        }),
    };
    let other = found.filter(|(owner, _)| *owner != manifest.name);
    Ok(other.map(|(owner, standing)| Obstacle::OthersRows {
        table: table.to_owned(),
        keys: store.keys().rows(table),
        owner: owner.to_owned(),
        standing,
    }))
}

/// Conflicts among manifests alone, for checks without servers: a sentence for each function whose table another one owns.
pub fn among(manifests: &[Manifest]) -> Vec<String> {
    let conflicts = manifests.iter().filter_map(|manifest| {
        let table = manifest.owned_table()?;
        let claims = Claims {
            table,
            recorded: None,
            declared: manifests,
            registered: &[],
        };
        let owner = claims.owner().filter(|owner| *owner != manifest.name)?;
        Some(format!(
            "{0} writes rows of the table {table}, which are those of {owner}: a table has one owner; give {0} a table of its own",
            manifest.name
        ))
    });
    conflicts.collect()
}

/// Functions that want the rows of one table.
struct Claims<'c> {
    table: &'c str,
    /// Function that was let in last as its owner.
    recorded: Option<&'c str>,
    declared: &'c [Manifest],
    registered: &'c [Manifest],
}

impl<'c> Claims<'c> {
    /// Names, each once. What a program says today holds, and not what it said when it was let in.
    fn names(&self) -> impl Iterator<Item = &'c str> {
        let declared = self.declared;
        let others = self
            .registered
            .iter()
            .filter(move |known| declared.iter().all(|manifest| manifest.name != known.name));
        let table = self.table;
        let own = declared.iter().chain(others);
        own.filter(move |manifest| manifest.owned_table() == Some(table))
            .map(|manifest| manifest.name.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.names().any(|claiming| claiming == name)
    }

    /// Function that may have the table: that on record, else the first by name of those on the servers, else of all.
    fn owner(&self) -> Option<&'c str> {
        self.names().min_by_key(|name| {
            let is_recorded = self.recorded == Some(*name);
            let mut registered = self.registered.iter();
            let is_registered = registered
                .any(|known| known.name == *name && known.owned_table() == Some(self.table));
            (!is_recorded, !is_registered, *name)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, table: &str, trigger: &str) -> Manifest {
        let manifest = serde_json::json!({
            "name": name, "version": "1", "stream": "web", "triggers": [trigger], "filters": [], "table": table,
            "emits": [], "limits": oncue_core::config::Limits::default(),
        });
        serde_json::from_value(manifest).expect("a manifest")
    }

    fn owner(
        recorded: Option<&str>,
        declared: &[Manifest],
        registered: &[Manifest],
    ) -> Option<String> {
        let claims = Claims {
            table: "sales",
            recorded,
            declared,
            registered,
        };
        claims.owner().map(str::to_owned)
    }

    #[test]
    fn a_table_has_one_owner() {
        let [count, rival, elsewhere] = [
            function("count", "sales", "web.page.viewed"),
            function("a-rival", "sales", "web.page.liked"),
            function("count", "others", "web.page.viewed"),
        ];
        let both = [rival.clone(), count.clone()];
        assert_eq!(owner(None, &both, &[]).as_deref(), Some("a-rival"));
        let there = std::slice::from_ref(&count);
        assert_eq!(owner(None, &both, there).as_deref(), Some("count"));
        assert_eq!(owner(Some("count"), &both, &both).as_deref(), Some("count"));
        assert_eq!(
            owner(None, std::slice::from_ref(&rival), there).as_deref(),
            Some("count"),
            "gone from oncue.toml"
        );
        let moved = [elsewhere, rival];
        assert_eq!(
            owner(Some("count"), &moved, there).as_deref(),
            Some("a-rival")
        );
    }

    #[test]
    fn a_function_on_its_schedule_works_on_the_rows_of_another() {
        let count = function("count", "sales", "web.page.viewed");
        let publish = function("a-publisher", "sales", "timer.function.fired");
        assert!(among(&[publish.clone(), count.clone()]).is_empty());
        let rival = function("rival", "sales", "web.page.viewed");
        let both = [publish, count, rival];
        let found = among(&both);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("rival writes rows of the table sales, which are those of count")
        );
    }
}
