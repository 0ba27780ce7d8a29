//! Texts of failures for traces, logs and metrics. A text may quote what the event holds, so it stays in the dead letter
//! unless somebody asked to see texts, or the words are the platform's own.

use crate::error::Error;

/// Classes whose texts are our own words.
const PLATFORM: [&str; 3] = ["redis", "timeout", "platform"];

/// Failure as it may be shown, under its own class.
pub(crate) fn shown(error: &Error) -> String {
    shown_as(error, error.class)
}

/// Failure as it may be shown, under the reason for which the event is set aside: `CLASS at FILE:LINE: TEXT`, without
/// place and text where there is none to show.
pub(crate) fn shown_as(error: &Error, class: &'static str) -> String {
    let mut shown = class.to_owned();
    if !error.site.is_empty() {
        shown.push_str(" at ");
        shown.push_str(&error.site);
    }
    if oncue_telemetry::shows_messages() || PLATFORM.contains(&error.class) {
        shown.push_str(": ");
        shown.push_str(&error.message);
    }
    shown
}
