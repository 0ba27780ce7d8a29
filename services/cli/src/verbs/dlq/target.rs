//! Choice of the letters a verb is about.

use std::collections::BTreeSet;

use oncue_admin::consumers;
use oncue_admin::dead_letters::{Letter, LetterFilter, meant_by};
use oncue_core::bus::Bus;

use crate::exit::{self, Failure};
use crate::settings::Settings;
use crate::terminal::paint::say;

#[derive(clap::Args, Debug, Default)]
pub struct Selection {
    /// A letter's number (`12`, `#12`), a group, an event id, or a function.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// Only letters of this function.
    #[arg(long, value_name = "F")]
    function: Option<String>,
    /// Only letters with this class of reason: rejected, attempts, decode, too_old...
    #[arg(long, value_name = "R")]
    reason: Option<String>,
    /// Every letter.
    #[arg(long, conflicts_with_all = ["targets", "function", "reason"])]
    all: bool,
}

impl Selection {
    /// The letters meant, oldest first. A target that means none is a mistake, like no target at all.
    pub fn choose(&self, letters: &[Letter]) -> Result<Vec<Letter>, Failure> {
        if self.targets.is_empty() && self.function.is_none() && self.reason.is_none() && !self.all
        {
            return Err(Failure::usage("which letters?").advise(
                "name them by number, group, event id or function (see `oncue dlq ls`), or with --function, --reason or --all",
            ));
        }
        let mut meant = BTreeSet::new();
        for target in &self.targets {
            let found = meant_by(target, letters);
            if found.is_empty() {
                return Err(Failure::usage(format_args!(
                    "no letter, group, event or function with letters is called {target}"
                ))
                .advise("`oncue dlq ls --each` lists them"));
            }
            meant.extend(found.into_iter().map(|letter| letter.number));
        }
        let filter = LetterFilter {
            function: self.function.clone(),
            reason: self.reason.clone(),
        };
        let chosen = letters.iter().filter(|letter| {
            let named = self.targets.is_empty() || meant.contains(&letter.number);
            named && filter.passes(letter)
        });
        Ok(chosen.cloned().collect())
    }

    /// End of a verb for which no letter was chosen. A function that there is none of is a mistake, one without letters is not.
    pub async fn none(
        &self,
        letters: &[Letter],
        settings: &Settings,
        bus: &Bus,
    ) -> Result<u8, Failure> {
        if let Some(function) = &self.function {
            check_function(function, letters, settings, bus).await?;
        }
        say("there are no such dead letters; nothing was done");
        Ok(exit::OK)
    }
}

/// Refuses a function that neither oncue.toml nor the servers know: no consumer is its, and no letter.
pub async fn check_function(
    function: &str,
    letters: &[Letter],
    settings: &Settings,
    bus: &Bus,
) -> Result<(), Failure> {
    let consumers = consumers::all(bus).await.map_err(Failure::silent)?;
    let of_letters = letters.iter().map(|letter| &letter.content.function);
    let declared = settings.config.functions.keys();
    let known: BTreeSet<&str> = declared
        .chain(consumers.keys())
        .chain(of_letters)
        .map(String::as_str)
        .collect();
    if known.contains(function) {
        return Ok(());
    }
    let names: Vec<&str> = known.into_iter().collect();
    let app = &settings.config.app;
    let what = format!("app {app} has no function {function:?}, and no letters of one");
    Err(Failure::usage(what).advise(format!("it has {}", names.join(", "))))
}

#[cfg(test)]
mod tests {
    use oncue_proto::oncue::v1::DeadLetter;

    use super::*;

    fn letters() -> Vec<Letter> {
        let letter = |number, function: &str, id: &str, group: &str| Letter {
            number,
            content: DeadLetter {
                function: function.into(),
                reason: "rejected".into(),
                event_id: id.into(),
                ..DeadLetter::default()
            },
            group: group.into(),
            traceparent: None,
        };
        vec![
            letter(1, "f", "e-1", "00000012"),
            letter(12, "f", "e-2", "00000012"),
            letter(13, "g", "1", "ab12cd34"),
        ]
    }

    fn chosen(selection: &Selection) -> Vec<u64> {
        selection
            .choose(&letters())
            .unwrap()
            .iter()
            .map(|letter| letter.number)
            .collect()
    }

    fn named(targets: &[&str]) -> Selection {
        Selection {
            targets: targets.iter().map(|&t| t.to_owned()).collect(),
            ..Selection::default()
        }
    }

    #[test]
    fn targets_add_up_in_the_order_of_the_stream() {
        assert_eq!(chosen(&named(&["#13", "12"])), [12, 13]);
        assert_eq!(chosen(&named(&["00000012"])), [1, 12]);
    }

    #[test]
    fn filters_narrow_and_mistakes_are_said() {
        assert_eq!(
            chosen(&Selection {
                function: Some("g".into()),
                ..Selection::default()
            }),
            [13]
        );
        assert_eq!(
            chosen(&Selection {
                reason: Some("rejected".into()),
                ..named(&["e-2", "13"])
            }),
            [12, 13]
        );
        assert_eq!(
            chosen(&Selection {
                reason: Some("decode".into()),
                ..Selection::default()
            }),
            [0; 0]
        );
        assert_eq!(
            chosen(&Selection {
                all: true,
                ..Selection::default()
            }),
            [1, 12, 13]
        );
        let refused = |selection: Selection| selection.choose(&letters()).unwrap_err().code;
        assert_eq!(refused(Selection::default()), exit::USAGE);
        assert_eq!(refused(named(&["12", "nobody"])), exit::USAGE);
    }
}
