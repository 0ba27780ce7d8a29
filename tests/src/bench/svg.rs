//! Bars with their range, as an SVG that needs nothing and reads well on light and on dark ground.

use std::fmt::Write as _;

use super::paint::number;
use super::plan::{Figure, Row};

const WIDTH: f64 = 760.0;
const LABEL: f64 = 250.0;
const BAR: f64 = 16.0;
const GAP: f64 = 14.0;
/// Room behind the longest bar for its number.
const ROOM: f64 = 190.0;

const STYLE: &str = "<style>text{font:13px system-ui,sans-serif;fill:#24292f}.dim{fill:#656d76}.head{font-weight:600}\
    .s0{fill:#1f6feb}.s1{fill:#8c959f}.s2{fill:#bf8700}.s3{fill:#1a7f37}.range{stroke:#24292f;stroke-width:1.5}\
    @media(prefers-color-scheme:dark){text{fill:#e6edf3}.dim{fill:#8d96a0}.s0{fill:#58a6ff}.s1{fill:#6e7681}\
    .s2{fill:#d29922}.s3{fill:#3fb950}.range{stroke:#e6edf3}}</style>";

/// One group of bars for each row that has figures of this unit; `None` if none has.
pub fn bars(title: &str, unit: &str, rows: &[Row]) -> Option<String> {
    let of_unit = |row: &Row| {
        row.figures
            .iter()
            .filter(|figure| figure.unit == unit)
            .cloned()
            .collect::<Vec<_>>()
    };
    let groups: Vec<(&str, Vec<Figure>)> = rows
        .iter()
        .map(|row| (row.name.as_str(), of_unit(row)))
        .filter(|(_, figures)| !figures.is_empty())
        .collect();
    let all = groups.iter().flat_map(|(_, figures)| figures);
    let most = all.map(|figure| figure.spread.high).fold(0.0, f64::max);
    if most <= 0.0 {
        return None;
    }
    let mut names: Vec<&str> = Vec::new();
    for figure in groups.iter().flat_map(|(_, figures)| figures) {
        if !names.contains(&figure.name.as_str()) {
            names.push(&figure.name);
        }
    }
    let (scale, mut y, mut out) = ((WIDTH - LABEL - ROOM) / most, 40.0, String::new());
    for (name, figures) in &groups {
        let _ = write!(
            out,
            "<text x=\"0\" y=\"{}\">{}</text>",
            y + BAR - 4.0,
            escape(name)
        );
        for figure in figures {
            let class = names
                .iter()
                .position(|name| *name == figure.name)
                .unwrap_or(0)
                % 4;
            bar(&mut out, y, figure, scale, class);
            y += BAR + 3.0;
        }
        y += GAP;
    }
    let unit = if unit.is_empty() { "ratio" } else { unit };
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {y}\" width=\"{WIDTH}\" height=\"{y}\" role=\"img\">{STYLE}\
         <title>{0}</title><text class=\"head\" x=\"0\" y=\"18\">{0} <tspan class=\"dim\">({unit})</tspan></text>{out}</svg>\n",
        escape(title)
    ))
}

fn bar(out: &mut String, y: f64, figure: &Figure, scale: f64, class: usize) {
    let spread = figure.spread;
    let (x, width, middle) = (LABEL, (spread.median * scale).max(1.0), y + BAR / 2.0);
    let (low, high) = (x + spread.low * scale, x + spread.high * scale);
    let _ = write!(
        out,
        "<rect class=\"s{class}\" x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\"/>"
    );
    if high - low > 1.0 {
        let _ = write!(
            out,
            "<path class=\"range\" d=\"M{low:.1} {middle}H{high:.1}M{low:.1} {0}v6M{high:.1} {0}v6\"/>",
            middle - 3.0
        );
    }
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{}\">{} <tspan class=\"dim\">{}</tspan></text>",
        high.max(x + width) + 6.0,
        y + BAR - 4.0,
        number(spread.median),
        escape(&figure.name)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}
