//! Which letters a verb is about.

use oncue_admin::dead_letters::Letter;

use crate::exit::Failure;

#[derive(clap::Args, Debug, Default)]
pub struct Selection {
    /// A letter's number (`12`, `#12`), a group, or an event id.
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
                "name them by number, group or event id (see `oncue dlq ls`), or with --function, --reason or --all",
            ));
        }
        let mut chosen = vec![self.targets.is_empty(); letters.len()];
        for target in &self.targets {
            let found = matches(target, letters);
            if found.is_empty() {
                return Err(Failure::usage(format_args!(
                    "no letter, group or event is called {target}"
                ))
                .advise("`oncue dlq ls --each` lists them"));
            }
            for at in found {
                chosen[at] = true;
            }
        }
        let fits = |wanted: &Option<String>, is: &String| {
            wanted.as_ref().is_none_or(|wanted| wanted == is)
        };
        let chosen = letters
            .iter()
            .zip(chosen)
            .filter(|(_, chosen)| *chosen)
            .map(|(letter, _)| letter);
        Ok(chosen
            .filter(|l| {
                fits(&self.function, &l.content.function) && fits(&self.reason, &l.content.reason)
            })
            .cloned()
            .collect())
    }
}

/// Places of what a target means: a number comes before a group, and a group before an event id.
fn matches(target: &str, letters: &[Letter]) -> Vec<usize> {
    let places = |is: &dyn Fn(&Letter) -> bool| -> Vec<usize> {
        letters
            .iter()
            .enumerate()
            .filter(|(_, letter)| is(letter))
            .map(|(at, _)| at)
            .collect()
    };
    // As written, so that a group of digits with zeros in front is a group.
    let number = target.strip_prefix('#').unwrap_or(target);
    [
        places(&|letter| letter.number.to_string() == number),
        places(&|letter| letter.group == target),
        places(&|letter| letter.content.event_id == target),
    ]
    .into_iter()
    .find(|found| !found.is_empty())
    .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use oncue_proto::oncue::v1::DeadLetter;

    use super::*;
    use crate::exit;

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
    fn a_target_is_a_number_a_group_or_an_event() {
        assert_eq!(chosen(&named(&["12"])), [12]);
        assert_eq!(chosen(&named(&["#13", "12"])), [12, 13]);
        assert_eq!(chosen(&named(&["ab12cd34"])), [13]);
        assert_eq!(chosen(&named(&["e-1"])), [1]);
        assert_eq!(
            chosen(&named(&["1"])),
            [1],
            "the letter, not the event called 1"
        );
        assert_eq!(
            chosen(&named(&["00000012"])),
            [1, 12],
            "a group, for no number has zeros in front"
        );
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
