//! Screen of `oncue top`: the table of functions, or one of them in detail.

use oncue_admin::dead_letters::Letter;
use oncue_core::config::Limits;
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as TextLine, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};

use super::sample::{Line, Picture};
use crate::terminal::paint::{brief, number};
use crate::when;

/// Dead letters that are shown of one function.
/// As many as fit under the rest on a small terminal.
const MAX_DEAD_LETTERS: usize = 12;
/// Lag from which a function stands out.
/// Yellow only: a lag that is worked off is no fault.
const HIGH_LAG: u64 = 1000;
/// Columns of a value in the detail; a long one is wrapped.
const MAX_VALUE_WIDTH: usize = 500;
const MAX_MESSAGE_WIDTH: usize = 300;
const MAX_ERROR_WIDTH: usize = 120;
const MAX_NAME_WIDTH: usize = 64;

/// Order of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sort {
    Name,
    Rate,
    Lag,
    InFlight,
    P99,
    Errors,
    Dead,
}

/// Column of the table: its title, its least width, and the order it stands for.
struct Column {
    title: &'static str,
    width: u16,
    sort: Option<Sort>,
}

impl Column {
    const fn new(title: &'static str, width: u16, sort: Option<Sort>) -> Self {
        Self { title, width, sort }
    }
}

const COLUMNS: [Column; 10] = [
    Column::new("FUNCTION", 24, Some(Sort::Name)),
    Column::new("WORKERS", 8, None),
    Column::new("RATE/S", 10, Some(Sort::Rate)),
    Column::new("LAG", 10, Some(Sort::Lag)),
    Column::new("IN FLIGHT", 10, Some(Sort::InFlight)),
    Column::new("P50 MS", 9, None),
    Column::new("P99 MS", 9, Some(Sort::P99)),
    Column::new("ERRORS/S", 9, None),
    Column::new("ERRORS", 9, Some(Sort::Errors)),
    Column::new("DEAD", 8, Some(Sort::Dead)),
];

/// One function, looked at closely.
/// Read once when it is opened, but for the numbers in its first lines, which go on.
pub struct Detail {
    pub function: String,
    pub manifest: Option<Manifest>,
    pub limits: Option<Limits>,
    /// Dead letters, the latest first.
    pub letters: Vec<Letter>,
}

/// State of the screen. Drawn anew as a whole each time; ratatui sends the terminal only what has changed.
pub struct Screen {
    /// NATS URL, for the first line.
    server: String,
    lines: Vec<Line>,
    /// Whether no look has brought anything yet.
    is_first: bool,
    /// Why the last look brought nothing.
    trouble: Option<String>,
    sort: Sort,
    reversed: bool,
    table: TableState,
    detail: Option<Detail>,
}

impl Screen {
    pub fn new(server: String) -> Self {
        Self {
            server,
            lines: Vec::new(),
            is_first: true,
            trouble: None,
            // Where events wait is what one looks for first.
            sort: Sort::Lag,
            reversed: false,
            table: TableState::default().with_selected(0),
            detail: None,
        }
    }

    /// Takes over the result of a look; after one that failed, what was known stays.
    pub fn show(&mut self, picture: Result<Picture, String>) {
        let selected = self.selected();
        match picture {
            Ok(picture) => {
                self.lines = picture.functions;
                self.is_first = false;
                self.trouble = None;
            }
            Err(why) => self.trouble = Some(why),
        }
        self.order(selected);
    }

    /// Sorts; by the current order once more, the other way round.
    pub fn sort_by(&mut self, sort: Sort) {
        self.reversed = self.sort == sort && !self.reversed;
        self.sort = sort;
        self.order(self.selected());
    }

    /// Sorts the lines. The selection stays with its function, wherever that goes.
    fn order(&mut self, selected: Option<String>) {
        let sort = self.sort;
        // Largest first; names, and functions that are equal, from A to Z.
        self.lines.sort_by(|a, b| {
            let largest_first = sort.value(b).total_cmp(&sort.value(a));
            largest_first.then_with(|| a.function.cmp(&b.function))
        });
        if self.reversed {
            self.lines.reverse();
        }
        let row =
            selected.and_then(|name| self.lines.iter().position(|line| line.function == name));
        self.table.select(Some(row.unwrap_or(0)));
    }

    /// Moves the selection, and stops at both ends.
    pub fn step(&mut self, by: isize) {
        let last = self.lines.len().saturating_sub(1);
        let now = self.table.selected().unwrap_or(0);
        self.table
            .select(Some(now.saturating_add_signed(by).min(last)));
    }

    pub fn selected(&self) -> Option<String> {
        Some(self.lines.get(self.table.selected()?)?.function.clone())
    }

    pub fn open(&mut self, detail: Detail) {
        self.detail = Some(detail);
    }

    pub fn close(&mut self) {
        self.detail = None;
    }

    pub fn is_detail(&self) -> bool {
        self.detail.is_some()
    }

    pub fn draw(&mut self, frame: &mut Frame<'_>) {
        let rows = Layout::vertical([
            Constraint::Length(2),
            Constraint::Min(3),
            Constraint::Length(1),
        ]);
        let [head, body, foot] = rows.areas(frame.area());
        frame.render_widget(Paragraph::new(self.head()), head);
        let keys = if let Some(detail) = &self.detail {
            let line = self
                .lines
                .iter()
                .find(|line| line.function == detail.function);
            let text = Paragraph::new(detail_text(detail, line)).wrap(Wrap { trim: false });
            frame.render_widget(text, body);
            "q back"
        } else {
            self.draw_table(frame, body);
            "↑↓ choose  ⏎ look closely  sort: n name  r rate  l lag  i in flight  p p99  e errors  d dead  q quit"
        };
        frame.render_widget(
            Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)),
            foot,
        );
    }

    /// First line: the sums, and why the last look brought nothing.
    fn head(&self) -> TextLine<'static> {
        let title = Span::styled("oncue top", Style::new().add_modifier(Modifier::BOLD));
        if self.is_first && self.trouble.is_none() {
            return TextLine::from(vec![
                title,
                format!("  {}  looking ...", self.server).into(),
            ]);
        }
        let functions = self.lines.len();
        let workers: usize = self.lines.iter().map(|line| line.workers).sum();
        let per_second = self.lines.iter().fold(0.0, |sum, line| sum + line.rate);
        let lag: u64 = self.lines.iter().map(|line| line.lag).sum();
        let mut spans = vec![
            title,
            Span::raw(format!(
                "  {}  {functions} functions, {workers} workers, {}/s, lag {}",
                self.server,
                rate(per_second),
                number(lag),
            )),
        ];
        if let Some(why) = &self.trouble {
            spans.push(Span::styled(
                format!("  {}", brief(why, MAX_ERROR_WIDTH)),
                Style::new().fg(Color::Red),
            ));
        }
        TextLine::from(spans)
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let titles = COLUMNS.iter().enumerate().map(|(at, column)| {
            let style = if column.sort == Some(self.sort) {
                Modifier::REVERSED
            } else {
                Modifier::DIM
            };
            aligned(at, column.title.to_owned()).style(Style::new().add_modifier(style))
        });
        let head = Row::new(titles.collect::<Vec<_>>());
        let widths = COLUMNS.map(|column| Constraint::Min(column.width));
        let rows: Vec<Row> = self.lines.iter().map(row).collect();
        let table = Table::new(rows, widths)
            .header(head)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }
}

impl Sort {
    /// Value by which a line is sorted; names are equal here, and so sorted as equals are.
    fn value(self, line: &Line) -> f64 {
        match self {
            Self::Name => 0.0,
            Self::Rate => line.rate,
            Self::Lag => line.lag as f64,
            Self::InFlight => line.in_flight as f64,
            // Without a run it stands below a run that took no time.
            Self::P99 => line.p99.unwrap_or(-1.0),
            Self::Errors => line.errors as f64,
            Self::Dead => line.dead as f64,
        }
    }
}

/// Lines of one function: how it fares, what it is, what failed last.
fn detail_text(detail: &Detail, line: Option<&Line>) -> Vec<TextLine<'static>> {
    let mut text = vec![bold(detail.function.clone())];
    if let Some(line) = line {
        text.push(field(
            "now",
            &format!(
                "{}/s, lag {}, {} in flight, {} workers",
                rate(line.rate),
                number(line.lag),
                line.in_flight,
                line.workers
            ),
        ));
        if !line.last_error.is_empty() {
            text.push(field("last error", &line.last_error));
        }
    }
    match (&detail.manifest, &detail.limits) {
        (Some(manifest), Some(limits)) => text.extend(manifest_text(manifest, limits)),
        _ => text.push(field(
            "manifest",
            "nobody says what it is: no worker answers, and there is no program",
        )),
    }
    text.push(TextLine::raw(""));
    text.push(bold(if detail.letters.is_empty() {
        "no dead letters lately".to_owned()
    } else {
        "last dead letters".to_owned()
    }));
    let now = event::now_ms();
    let letters = detail.letters.iter().take(MAX_DEAD_LETTERS);
    text.extend(letters.map(|letter| letter_text(letter, now)));
    text
}

/// Triggers, outputs, table, stream and limits of a function, a line each.
fn manifest_text(manifest: &Manifest, limits: &Limits) -> [TextLine<'static>; 5] {
    let emits = if manifest.emits.is_empty() {
        "nothing".to_owned()
    } else {
        manifest.emits.join(", ")
    };
    let filters = manifest.filters.join(" ");
    [
        field("acts on", &manifest.triggers.join(", ")),
        field("may emit", &emits),
        field("owns", manifest.table.as_deref().unwrap_or("no state")),
        field("stream", &format!("{}, filters {filters}", manifest.stream)),
        field(
            "limits",
            &format!(
                "{} at a time in a worker, {} in all, timeout {:?}, {} attempts",
                limits.concurrency, limits.reserved_concurrency, limits.timeout.0, limits.attempts
            ),
        ),
    ]
}

/// Letter in one line: how long ago, its number, the class of the reason, the words and the place.
fn letter_text(letter: &Letter, now: u64) -> TextLine<'static> {
    let content = &letter.content;
    let age = when::ago(when::ms(content.at.as_ref()), now);
    let site = if content.site.is_empty() {
        String::new()
    } else {
        format!(" at {}", content.site)
    };
    let message = format!("  {}{site}", content.message);
    TextLine::from(vec![
        Span::raw(format!("  {age:>7} ago  #{}  ", letter.number)),
        Span::styled(content.reason.clone(), Style::new().fg(Color::Red)),
        Span::raw(brief(&message, MAX_MESSAGE_WIDTH)),
    ])
}

fn bold(text: String) -> TextLine<'static> {
    TextLine::styled(text, Style::new().add_modifier(Modifier::BOLD))
}

fn field(name: &str, value: &str) -> TextLine<'static> {
    TextLine::from(format!("  {name:<13}{}", brief(value, MAX_VALUE_WIDTH)))
}

/// Cell of a column: names to the left, numbers to the right.
fn aligned(column: usize, text: String) -> Cell<'static> {
    let text = TextLine::raw(text);
    Cell::from(if column == 0 {
        text
    } else {
        text.right_aligned()
    })
}

fn row(line: &Line) -> Row<'static> {
    let cells = [
        brief(&line.function, MAX_NAME_WIDTH),
        line.workers.to_string(),
        rate(line.rate),
        number(line.lag),
        number(line.in_flight),
        milliseconds(line.p50, line.average),
        milliseconds(line.p99, line.average),
        rate(line.error_rate),
        number(line.errors),
        number(line.dead),
    ];
    let cells = cells.into_iter().enumerate();
    Row::new(
        cells
            .map(|(column, text)| aligned(column, text).style(cell_style(column, line)))
            .collect::<Vec<_>>(),
    )
}

/// Style of a cell, by its index into [`COLUMNS`]: trouble is red, what may become trouble yellow.
fn cell_style(column: usize, line: &Line) -> Style {
    match column {
        1 if line.workers == 0 => Style::new().fg(Color::Yellow),
        3 if line.lag > HIGH_LAG => Style::new().fg(Color::Yellow),
        7 | 8 if line.error_rate > 0.0 => Style::new().fg(Color::Red),
        9 if line.dead > 0 => Style::new().fg(Color::Red),
        _ => Style::new(),
    }
}

/// Duration with as many digits as matter; `~` marks an average where there is no histogram.
fn milliseconds(value: Option<f64>, average: bool) -> String {
    let Some(value) = value else {
        return "-".to_owned();
    };
    let sign = if average { "~" } else { "" };
    let digits = if value < 10.0 { 2 } else { 0 };
    format!("{sign}{value:.digits$}")
}

/// Events per second; a digit behind the point only where it says something.
fn rate(per_second: f64) -> String {
    if per_second >= 100.0 {
        number(per_second as u64)
    } else {
        format!("{per_second:.1}")
    }
}

#[cfg(test)]
mod tests {
    use oncue_proto::oncue::v1::DeadLetter;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    fn line(function: &str, lag: u64, rate: f64) -> Line {
        Line {
            function: function.into(),
            workers: 1,
            lag,
            rate,
            p50: Some(1.25),
            p99: Some(9.0),
            dead: lag / 10,
            ..<_>::default()
        }
    }

    fn drawn(screen: &mut Screen) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(120, 20)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        let buffer = terminal.backend().buffer();
        buffer
            .content()
            .chunks(120)
            .map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect())
            .collect()
    }

    #[test]
    fn functions_are_sorted_and_the_selection_stays_with_its_function() {
        let mut screen = Screen::new("nats://here".into());
        screen.show(Ok(Picture {
            functions: vec![line("a", 5, 3.0), line("b", 50, 2.0), line("c", 0, 1.0)],
        }));
        let names = |screen: &Screen| {
            screen
                .lines
                .iter()
                .map(|line| line.function.clone())
                .collect::<String>()
        };
        assert_eq!(
            (names(&screen), screen.selected().as_deref()),
            ("bac".into(), Some("b"))
        );
        screen.step(1);
        screen.sort_by(Sort::Rate);
        assert_eq!(
            (names(&screen), screen.selected().as_deref()),
            ("abc".into(), Some("a"))
        );
        screen.sort_by(Sort::Rate);
        assert_eq!(
            (names(&screen), screen.selected().as_deref()),
            ("cba".into(), Some("a"))
        );
        screen.step(9);
        screen.step(-1);
        assert_eq!(screen.selected().as_deref(), Some("b"));
        let shown = drawn(&mut screen);
        assert!(
            shown[0].contains("3 functions, 3 workers, 6.0/s, lag 55"),
            "{}",
            shown[0]
        );
        let b = shown.iter().find(|row| row.starts_with("b ")).unwrap();
        let cells: Vec<&str> = b.split_whitespace().collect();
        assert_eq!(
            cells,
            ["b", "1", "2.0", "50", "0", "1.25", "9.00", "0.0", "0", "5"]
        );
        screen.show(Err("NATS is away".into()));
        assert!(
            drawn(&mut screen)[0].contains("NATS is away"),
            "what was known stays, and why nothing is new"
        );
    }

    #[test]
    fn one_function_with_its_last_errors() {
        let mut screen = Screen::new("nats://here".into());
        screen.show(Ok(Picture {
            functions: vec![line("f", 5, 3.0)],
        }));
        let content = DeadLetter {
            function: "f".into(),
            reason: "rejected".into(),
            message: "too\u{1b}[2J large".into(),
            site: "f.rs:7".into(),
            ..<_>::default()
        };
        let letter = Letter {
            number: 12,
            content,
            group: String::new(),
            traceparent: None,
        };
        screen.open(Detail {
            function: "f".into(),
            manifest: None,
            limits: None,
            letters: vec![letter],
        });
        let shown = drawn(&mut screen).join("\n");
        for part in [
            "3.0/s, lag 5",
            "#12  rejected  too [2J large at f.rs:7",
            "nobody says what it is",
            "q back",
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        screen.close();
        assert!(!screen.is_detail());
    }

    #[test]
    fn an_empty_house_and_a_tiny_terminal_are_drawn_too() {
        let mut screen = Screen::new("nats://here".into());
        screen.step(1);
        assert!(screen.selected().is_none());
        let mut terminal = Terminal::new(TestBackend::new(3, 2)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
    }
}
