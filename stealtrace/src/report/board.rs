//! The live table, for a terminal of 80 columns or more; the same lines as text.

use std::io::Write as _;

use ratatui::{
    Frame,
    buffer::Buffer,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line as Text, Span},
    widgets::{Block, Cell, Paragraph, Row, StatefulWidget as _, Table, TableState, Wrap},
};

use super::{Paint, Tone, Units, inspect, text};
use crate::{
    model::{Line, Order, Thread, VcpuLook, View},
    os::shown::shown,
};

/// All that is on the screen.
pub(crate) struct Screen<'a> {
    pub(crate) lines: &'a [Line],
    pub(crate) selected: usize,
    pub(crate) now_ns: u64,
    pub(crate) paint: Paint,
    /// What the bottom line says.
    pub(crate) status: Status<'a>,
}

/// What the bottom line says.
pub(crate) struct Status<'a> {
    pub(crate) view: &'a View,
    /// Is the filter being typed?
    pub(crate) is_typing: bool,
    pub(crate) is_frozen: bool,
    pub(crate) lost: u64,
    /// That there is nothing, or that something is not seen.
    pub(crate) note: Option<&'a str>,
}

const HEADER: [&str; 8] = ["VM", "vCPU", "STATE", "STEAL%", "WAIT%", "OFF BY", "RUNNER", "LAST FINDING"];

const WIDTHS: [Constraint; 8] = [
    Constraint::Fill(4),
    Constraint::Length(5),
    Constraint::Length(11),
    Constraint::Length(6),
    Constraint::Length(6),
    Constraint::Length(8),
    Constraint::Fill(3),
    Constraint::Fill(5),
];

impl Screen<'_> {
    /// The table and the line below it.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let [table, bottom] =
            Layout::vertical([Constraint::Min(2), Constraint::Length(1)]).areas(frame.area());
        let mut state = TableState::new().with_selected(self.selected);
        self.table().row_highlight_style(Modifier::REVERSED).render(table, frame.buffer_mut(), &mut state);
        frame.render_widget(Paragraph::new(self.bottom()), bottom);
    }

    /// The same table as text, so many columns wide.
    pub(crate) fn text(&self, columns: u16) -> String {
        let rows = u16::try_from(self.lines.len() + 1).unwrap_or(u16::MAX);
        let area = Rect::new(0, 0, columns, rows);
        let mut buffer = Buffer::empty(area);
        self.table().render(area, &mut buffer, &mut TableState::new());
        let line = |row: u16| (0..columns).map(|column| buffer[(column, row)].symbol()).collect::<String>();
        (0..rows).map(|row| format!("{}\n", line(row).trim_end())).collect()
    }

    fn table(&self) -> Table<'_> {
        let rows = self.lines.iter().map(|line| self.row(line));
        Table::new(rows, WIDTHS).header(Row::new(HEADER).style(Modifier::BOLD))
    }

    fn row(&self, line: &Line) -> Row<'_> {
        let tone = inspect::tone(line.judgement);
        let last = line.last.as_ref().map_or_else(String::new, |last| {
            format!("{} {}", age(self.now_ns.saturating_sub(last.time_ns)), last.rule)
        });
        Row::new([
            Cell::new(shown(&line.domain).into_owned()),
            Cell::new(line.vcpu.map_or_else(|| format!("all {}", line.vcpus), |(id, _)| id.to_string())),
            Cell::new(line.judgement.word()).style(style(tone, self.paint)),
            Cell::new(percent(line.steal)),
            Cell::new(percent(line.waited)),
            Cell::new(signed(line.difference_ns)),
            Cell::new(line.runner.as_ref().map_or_else(String::new, Thread::to_string)),
            Cell::new(last),
        ])
    }

    fn bottom(&self) -> Text<'_> {
        let Status { view: View { order, by_vm, filter, .. }, is_typing, is_frozen, lost, note } =
            &self.status;
        if *is_typing {
            return Text::from(format!("filter by name or pid: {}_", shown(filter)));
        }
        let order = match order {
            Order::Wrong => "most wrong",
            Order::Steal => "steal",
            Order::Name => "name",
        };
        let mut words = Vec::new();
        if *is_frozen {
            words.push(Span::styled("frozen ", Modifier::BOLD));
        }
        if *lost > 0 {
            words.push(Span::styled(format!("{lost} events lost "), style(Tone::Bad, self.paint)));
        }
        if let Some(note) = note {
            words.push(Span::raw(format!("{} ", shown(note))));
        }
        if !filter.is_empty() {
            words.push(Span::raw(format!("[{}] ", shown(filter))));
        }
        let other = if *by_vm { "vCPUs" } else { "VMs" };
        words.push(Span::raw(format!(
            "s:by {order} v:{other} space:fold /:filter enter:open p:freeze q:quit"
        )));
        Text::from(words)
    }
}

/// One vCPU with all that is known of it.
pub(crate) struct Details<'a> {
    pub(crate) domain: &'a str,
    pub(crate) vcpu: &'a VcpuLook,
    /// By thread, as far as they were reported.
    pub(crate) ioctls: &'a [(Thread, u64)],
    /// Lines that are scrolled past.
    pub(crate) scrolled: u16,
}

impl Details<'_> {
    /// On the whole screen.
    pub(crate) fn draw(&self, frame: &mut Frame<'_>) {
        let title = format!(" {}, vCPU {} (esc: back, arrows: scroll) ", shown(self.domain), self.vcpu.id);
        let text = Paragraph::new(self.text()).wrap(Wrap { trim: false }).scroll((self.scrolled, 0));
        frame.render_widget(text.block(Block::bordered().title(title)), frame.area());
    }

    fn text(&self) -> String {
        let mut out = Vec::new();
        let _infallible = inspect::show_vcpu(self.vcpu, Paint(false), &mut out);
        let told = &self.vcpu.account.told;
        for (thread, count) in self.ioctls {
            let _infallible = writeln!(out, "            {count} ioctls reported by {thread}");
        }
        for finding in told {
            let _infallible = writeln!(
                out,
                "\n{} {}, {} times: {}",
                finding.severity,
                finding.rule,
                finding.count,
                text::in_words(finding, Units::Human)
            );
            let _infallible = writeln!(out, "do: {}", finding.advice);
        }
        if told.is_empty() {
            let _infallible = writeln!(out, "\nno finding since stealtrace watches");
        }
        String::from_utf8_lossy(&out).into_owned()
    }
}

fn percent(share: Option<f64>) -> String {
    share.map_or_else(String::new, |share| format!("{:>5.1}", share * 100.0))
}

/// Nothing for what only waits to be charged.
fn signed(ns: i64) -> String {
    const NOTHING_NS: u64 = 10_000_000;
    if ns.unsigned_abs() < NOTHING_NS { String::new() } else { format!("{:+.2}s", ns as f64 / 1e9) }
}

/// `12s`, `4m`, `3h`, `2d`
fn age(ns: u64) -> String {
    match ns / 1_000_000_000 {
        s @ 0..60 => format!("{s}s"),
        s @ 60..3600 => format!("{}m", s / 60),
        s @ 3600..86_400 => format!("{}h", s / 3600),
        s => format!("{}d", s / 86_400),
    }
}

fn style(tone: Tone, paint: Paint) -> Style {
    let Paint(is_colored) = paint;
    match tone {
        _ if !is_colored => Style::new(),
        Tone::Good => Style::new().fg(Color::Green),
        Tone::Notable => Style::new().fg(Color::Cyan),
        Tone::Doubtful => Style::new().fg(Color::Yellow),
        Tone::Bad => Style::new().fg(Color::Red).add_modifier(Modifier::BOLD),
        Tone::Marked => Style::new().add_modifier(Modifier::BOLD),
        Tone::Plain => Style::new(),
    }
}
