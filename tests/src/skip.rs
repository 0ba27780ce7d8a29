//! What a test could not try since something is not here: said, never silent. `make test` lists it at its end, and where
//! `ONCUE_TESTS_MAY_SKIP` names what may be missing, anything else that is fails.

use std::fs::OpenOptions;
use std::io::Write as _;

/// Names of what may be skipped, with blanks between them. Unset: anything.
const MAY_SKIP: &str = "ONCUE_TESTS_MAY_SKIP";
/// File that has a line for each thing that was skipped.
const LIST: &str = "ONCUE_TESTS_SKIPPED";

/// Notes that something is not tried here, by its name in [`MAY_SKIP`], and why. Fails where it had to be tried.
pub fn skip(name: &str, why: &str) {
    let line = format!("{name}: {why}\n");
    eprint!("skipped: {line}");
    if let Some(list) = std::env::var_os(LIST) {
        // Many tests at a time: each line is written at once, at the end.
        let list = OpenOptions::new().create(true).append(true).open(list);
        let mut list = list.unwrap_or_else(|e| panic!("{LIST}: {e}"));
        list.write_all(line.as_bytes())
            .unwrap_or_else(|e| panic!("{LIST}: {e}"));
    }
    let may_skip = std::env::var(MAY_SKIP).ok();
    assert!(
        allows(may_skip.as_deref(), name),
        "{name} is not tried, and {MAY_SKIP} does not name it: {why}"
    );
}

fn allows(may_skip: Option<&str>, name: &str) -> bool {
    may_skip.is_none_or(|names| names.split_whitespace().any(|known| known == name))
}

#[cfg(test)]
mod tests {
    use super::allows;

    #[test]
    fn what_is_not_named_must_be_tried() {
        assert!(allows(None, "promtool"));
        assert!(allows(Some("oidc promtool"), "promtool"));
        assert!(!allows(Some(""), "promtool"));
        assert!(!allows(Some("promtools"), "promtool"));
    }
}
