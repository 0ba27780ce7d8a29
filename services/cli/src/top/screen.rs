//! What `oncue top` draws: the table of functions, or one of them.

use oncue_admin::dead_letters::Letter;
use oncue_core::config::Limits;
use oncue_core::model::manifest::Manifest;
use oncue_proto::event;
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line as Text, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState, Wrap};

use super::sample::{Line, Picture};
use crate::paint::{brief, number};
use crate::when;

/// Dead letters that are shown of one function.
const LETTERS: usize = 12;

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

/// One function, looked at closely.
pub struct Detail {
    pub function: String,
    pub manifest: Option<Manifest>,
    pub limits: Option<Limits>,
    /// The latest first.
    pub letters: Vec<Letter>,
}

pub struct Screen {
    place: String,
    lines: Vec<Line>,
    /// Why the last look brought nothing.
    trouble: Option<String>,
    sort: Sort,
    reversed: bool,
    table: TableState,
    detail: Option<Detail>,
}

impl Screen {
    pub fn new(place: String) -> Self {
        let table = TableState::default().with_selected(0);
        Self {
            place,
            lines: Vec::new(),
            trouble: None,
            sort: Sort::Lag,
            reversed: false,
            table,
            detail: None,
        }
    }

    pub fn show(&mut self, picture: Result<Picture, String>) {
        let selected = self.selected();
        match picture {
            Ok(picture) => (self.lines, self.trouble) = (picture.functions, None),
            Err(why) => self.trouble = Some(why),
        }
        self.order(selected);
    }

    /// The same key once more turns the order round.
    pub fn sort_by(&mut self, sort: Sort) {
        self.reversed = self.sort == sort && !self.reversed;
        self.sort = sort;
        self.order(self.selected());
    }

    /// The selection stays with its function, wherever that goes.
    fn order(&mut self, selected: Option<String>) {
        let sort = self.sort;
        // Largest first; names, and functions that are equal, from A to Z.
        self.lines.sort_by(|a, b| {
            let by = |key: fn(&Line) -> f64| key(b).total_cmp(&key(a));
            let order = match sort {
                Sort::Name => std::cmp::Ordering::Equal,
                Sort::Rate => by(|line| line.rate),
                Sort::Lag => by(|line| line.lag as f64),
                Sort::InFlight => by(|line| line.in_flight as f64),
                Sort::P99 => by(|line| line.p99.unwrap_or(-1.0)),
                Sort::Errors => by(|line| line.errors as f64),
                Sort::Dead => by(|line| line.dead as f64),
            };
            order.then_with(|| a.function.cmp(&b.function))
        });
        if self.reversed {
            self.lines.reverse();
        }
        let place =
            selected.and_then(|name| self.lines.iter().position(|line| line.function == name));
        self.table.select(Some(place.unwrap_or(0)));
    }

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
        match &self.detail {
            Some(detail) => self.draw_detail(frame, detail, body),
            None => self.draw_table(frame, body),
        }
        let keys = if self.detail.is_some() {
            "q back"
        } else {
            "↑↓ choose  ⏎ look closely  sort: n name  r rate  l lag  i in flight  p p99  e errors  d dead  q quit"
        };
        frame.render_widget(
            Paragraph::new(keys).style(Style::new().add_modifier(Modifier::DIM)),
            foot,
        );
    }

    fn head(&self) -> Text<'static> {
        let sum = |of: fn(&Line) -> f64| self.lines.iter().map(of).sum::<f64>();
        let mut spans = vec![
            Span::styled("oncue top", Style::new().add_modifier(Modifier::BOLD)),
            Span::raw(format!(
                "  {}  {} functions, {} workers, {}/s, lag {}",
                self.place,
                self.lines.len(),
                self.lines.iter().map(|line| line.workers).sum::<usize>(),
                rate(sum(|line| line.rate)),
                number(sum(|line| line.lag as f64) as u64),
            )),
        ];
        if let Some(why) = &self.trouble {
            spans.push(Span::styled(
                format!("  {}", brief(why, 120)),
                Style::new().fg(Color::Red),
            ));
        }
        Text::from(spans)
    }

    fn draw_table(&mut self, frame: &mut Frame<'_>, area: Rect) {
        let titles = [
            "FUNCTION",
            "WORKERS",
            "RATE/S",
            "LAG",
            "IN FLIGHT",
            "P50 MS",
            "P99 MS",
            "ERRORS/S",
            "ERRORS",
            "DEAD",
        ];
        let columns = [
            Sort::Name,
            Sort::Rate,
            Sort::Lag,
            Sort::InFlight,
            Sort::P99,
            Sort::Errors,
            Sort::Dead,
        ];
        let sorted = [0, 2, 3, 4, 6, 8, 9][columns
            .iter()
            .position(|sort| *sort == self.sort)
            .unwrap_or(0)];
        let head = titles.iter().enumerate().map(|(at, title)| {
            let style = if at == sorted {
                Modifier::REVERSED
            } else {
                Modifier::DIM
            };
            aligned(at, (*title).to_owned()).style(Style::new().add_modifier(style))
        });
        let head = Row::new(head.collect::<Vec<_>>());
        let widths = [24, 8, 10, 10, 10, 9, 9, 9, 9, 8].map(Constraint::Min);
        let rows: Vec<Row> = self.lines.iter().map(row).collect();
        let table = Table::new(rows, widths)
            .header(head)
            .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        frame.render_stateful_widget(table, area, &mut self.table);
    }

    fn draw_detail(&self, frame: &mut Frame<'_>, detail: &Detail, area: Rect) {
        let mut lines = vec![Text::styled(
            detail.function.clone(),
            Style::new().add_modifier(Modifier::BOLD),
        )];
        let mut put = |name: &str, value: String| {
            lines.push(Text::from(format!("  {name:<13}{}", brief(&value, 500))))
        };
        if let Some(line) = self
            .lines
            .iter()
            .find(|line| line.function == detail.function)
        {
            put(
                "now",
                format!(
                    "{}/s, lag {}, {} in flight, {} workers",
                    rate(line.rate),
                    number(line.lag),
                    line.in_flight,
                    line.workers
                ),
            );
            if !line.last_error.is_empty() {
                put("last error", line.last_error.clone());
            }
        }
        match (&detail.manifest, &detail.limits) {
            (Some(manifest), Some(limits)) => {
                put("acts on", manifest.triggers.join(", "));
                put(
                    "may emit",
                    if manifest.emits.is_empty() {
                        "nothing".into()
                    } else {
                        manifest.emits.join(", ")
                    },
                );
                put(
                    "owns",
                    manifest.table.clone().unwrap_or_else(|| "no state".into()),
                );
                put(
                    "stream",
                    format!(
                        "{}, filters {}",
                        manifest.stream,
                        manifest.filters.join(" ")
                    ),
                );
                put(
                    "limits",
                    format!(
                        "{} at a time in a worker, {} in all, timeout {:?}, {} attempts",
                        limits.concurrency,
                        limits.reserved_concurrency,
                        limits.timeout.0,
                        limits.attempts
                    ),
                );
            }
            _ => put(
                "manifest",
                "nobody says what it is: no worker answers, and there is no program".into(),
            ),
        }
        lines.push(Text::raw(""));
        let title = if detail.letters.is_empty() {
            "no dead letters lately"
        } else {
            "last dead letters"
        };
        lines.push(Text::styled(
            title,
            Style::new().add_modifier(Modifier::BOLD),
        ));
        let now = event::now_ms();
        for letter in detail.letters.iter().take(LETTERS) {
            let inner = &letter.content;
            let age = when::ago(when::ms(inner.at.as_ref()), now);
            let site = if inner.site.is_empty() {
                String::new()
            } else {
                format!(" at {}", inner.site)
            };
            lines.push(Text::from(vec![
                Span::raw(format!("  {age:>7} ago  #{}  ", letter.number)),
                Span::styled(inner.reason.clone(), Style::new().fg(Color::Red)),
                Span::raw(brief(&format!("  {}{site}", inner.message), 300)),
            ]));
        }
        frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
    }
}

fn aligned(column: usize, text: String) -> Cell<'static> {
    let text = Text::raw(text);
    Cell::from(if column == 0 {
        text
    } else {
        text.right_aligned()
    })
}

fn row(line: &Line) -> Row<'static> {
    let ms = |value: Option<f64>| match value {
        Some(value) => {
            let (sign, digits) = (
                if line.average { "~" } else { "" },
                if value < 10.0 { 2 } else { 0 },
            );
            format!("{sign}{value:.digits$}")
        }
        None => "-".to_owned(),
    };
    let cells = [
        brief(&line.function, 64),
        line.workers.to_string(),
        rate(line.rate),
        number(line.lag),
        number(line.in_flight),
        ms(line.p50),
        ms(line.p99),
        rate(line.error_rate),
        number(line.errors),
        number(line.dead),
    ];
    let style = |at: usize| match at {
        1 if line.workers == 0 => Style::new().fg(Color::Yellow),
        3 if line.lag > 1000 => Style::new().fg(Color::Yellow),
        7 | 8 if line.error_rate > 0.0 => Style::new().fg(Color::Red),
        9 if line.dead > 0 => Style::new().fg(Color::Red),
        _ => Style::new(),
    };
    Row::new(
        cells
            .into_iter()
            .enumerate()
            .map(|(at, text)| aligned(at, text).style(style(at)))
            .collect::<Vec<_>>(),
    )
}

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
