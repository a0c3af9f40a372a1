//! `stealtrace watch`: the live table.

use std::{
    io::{self, IsTerminal as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ratatui::{
    DefaultTerminal,
    crossterm::{
        event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers},
        terminal,
    },
};
use tokio::sync::mpsc;

use super::{Run, Shared, options::parse_pause};
use crate::{
    exit::Exit,
    kernel::KernelFacts,
    live::vcpus::Vcpus,
    model::{Board, Line, Look, Thread, View},
    os::{clock::now_ns, interrupt::Interrupt},
    report::{
        Paint,
        board::{Details, Screen, Status},
    },
};

/// Columns of text that is no terminal's.
const COLUMNS: u16 = 80;

/// Live table: which guests' steal time is wrong, and what each vCPU waits
#[derive(Args, Debug)]
#[command(after_help = HELP)]
pub(super) struct Watch {
    /// Time between two looks
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_pause)]
    interval: Duration,
    /// A line a VM instead of a line a vCPU
    #[arg(long)]
    by_vm: bool,
    /// Print the table once, after two looks, and end
    #[arg(long)]
    once: bool,
    /// Only VMs of this process (repeatable)
    #[arg(long = "pid", value_name = "PID")]
    pids: Vec<u32>,
}

const HELP: &str = help!(
    "  stealtrace watch                                     every vCPU of this host
  stealtrace watch --by-vm --interval 5s               a line a VM
  stealtrace watch --once                              the table as text",
    "  0  ended by a key or a signal
  2  cannot run here, no terminal, or bad usage"
);

impl Run for Watch {
    fn run(self, shared: &Shared) -> Result<Exit> {
        let has_terminal = shared.out.is_terminal() && io::stdin().is_terminal();
        if !self.once && !has_terminal {
            bail!("watch needs a terminal; `stealtrace watch --once` prints the table as text");
        }
        let interrupt = Interrupt::block()?;
        let facts = KernelFacts::gather(&[]);
        let vcpus = Vcpus::watch(interrupt, &facts, &self.pids, Box::new(|_| Ok(())))?;
        let view = View { by_vm: self.by_vm, ..View::default() };
        let table = Watching::new(vcpus, view, Paint::of(&shared.out));
        if self.once { table.once(self.interval, &mut shared.out.clone()) } else { table.live(self.interval) }
    }
}

/// The table, and what the user does with it.
struct Watching {
    vcpus: Vcpus,
    board: Board,
    look: Option<Look>,
    view: View,
    paint: Paint,
    mode: Mode,
    selected: usize,
    is_frozen: bool,
    is_over: bool,
}

/// What keys are about.
enum Mode {
    Table,
    /// The filter is typed.
    Filter,
    /// The vCPU at this address is open, and scrolled so far.
    Open(u64, u16),
}

impl Watching {
    fn new(vcpus: Vcpus, view: View, paint: Paint) -> Self {
        Self {
            vcpus,
            board: Board::default(),
            look: None,
            view,
            paint,
            mode: Mode::Table,
            selected: 0,
            is_frozen: false,
            is_over: false,
        }
    }

    fn once(mut self, interval: Duration, out: &mut impl io::Write) -> Result<Exit> {
        self.see()?;
        if !self.vcpus.rest(interval)? {
            self.see()?;
        }
        let columns = terminal::size().map_or(COLUMNS, |(columns, _)| columns.max(COLUMNS));
        let columns = if io::stdout().is_terminal() { columns } else { COLUMNS };
        let lines = self.board.lines(&self.view);
        let screen = self.screen(&lines)?;
        write!(out, "{}", screen.text(columns))?;
        if let Some(note) = screen.status.note {
            writeln!(out, "{note}")?;
        }
        Ok(Exit::Clean)
    }

    fn live(mut self, interval: Duration) -> Result<Exit> {
        let mut terminal = ratatui::try_init().context("use the terminal")?;
        let shown = self.show(&mut terminal, interval);
        ratatui::try_restore().context("leave the terminal as it was")?;
        shown.map(|()| Exit::Clean)
    }

    fn show(&mut self, terminal: &mut DefaultTerminal, interval: Duration) -> Result<()> {
        let mut keys = keys()?;
        let mut next = Instant::now();
        while !self.is_over && !self.vcpus.all_ended() {
            if next <= Instant::now() {
                next = Instant::now() + interval;
                if !self.is_frozen {
                    self.see()?;
                }
            }
            self.draw(terminal)?;
            let mut key = None;
            let pause = next.saturating_duration_since(Instant::now());
            self.is_over = self.vcpus.rest_or(pause, async { key = keys.recv().await })?;
            self.is_over |= keys.is_closed(); // the terminal is gone
            for event in key.into_iter().chain(std::iter::from_fn(|| keys.try_recv().ok())) {
                self.hear(&event);
            }
        }
        Ok(())
    }

    fn see(&mut self) -> Result<()> {
        let look = self.vcpus.look()?;
        self.board.learn(&look);
        self.look = Some(look);
        Ok(())
    }

    fn draw(&mut self, terminal: &mut DefaultTerminal) -> Result<()> {
        let lines = self.board.lines(&self.view);
        self.selected = self.selected.min(lines.len().saturating_sub(1));
        match self.mode {
            Mode::Open(address, scrolled) if self.draw_open(terminal, &lines, address, scrolled)? => {}
            Mode::Open(..) => self.mode = Mode::Table, // it has ended
            Mode::Table | Mode::Filter => {
                let screen = self.screen(&lines)?;
                terminal.draw(|frame| screen.draw(frame)).context("draw")?;
            }
        }
        Ok(())
    }

    /// False if there is no such vCPU any more.
    fn draw_open(
        &self,
        terminal: &mut DefaultTerminal,
        lines: &[Line],
        address: u64,
        scrolled: u16,
    ) -> Result<bool> {
        let vcpu = self.look.as_ref().and_then(|look| look.vcpus.iter().find(|vcpu| vcpu.address == address));
        let line = lines.iter().find(|line| line.vcpu.is_some_and(|(_, at)| at == address));
        let (Some(vcpu), Some(line)) = (vcpu, line) else { return Ok(false) };
        let ioctls: Vec<(Thread, u64)> = self.vcpus.ioctls(address).into_iter().collect();
        let details = Details { domain: &line.domain, vcpu, ioctls: &ioctls, scrolled };
        terminal.draw(|frame| details.draw(frame)).context("draw")?;
        Ok(true)
    }

    fn screen<'a>(&'a self, lines: &'a [Line]) -> Result<Screen<'a>> {
        let look = self.look.as_ref();
        let none = || self.board.lines(&View::default()).is_empty().then_some("no VM runs");
        let note = look.and_then(|look| look.unread.as_deref().or(look.no_iterator.as_deref())).or_else(none);
        let status = Status {
            view: &self.view,
            is_typing: matches!(self.mode, Mode::Filter),
            is_frozen: self.is_frozen,
            lost: look.map_or(0, |look| look.lost),
            note,
        };
        Ok(Screen { lines, selected: self.selected, now_ns: now_ns()?, paint: self.paint, status })
    }

    fn hear(&mut self, event: &Event) {
        let Event::Key(KeyEvent { code, modifiers, kind, .. }) = event else { return };
        if *kind == KeyEventKind::Release {
            return;
        }
        if modifiers.contains(KeyModifiers::CONTROL) && *code == KeyCode::Char('c') {
            self.is_over = true;
            return;
        }
        match self.mode {
            Mode::Table => self.hear_table(*code),
            Mode::Filter => self.hear_filter(*code),
            Mode::Open(address, scrolled) => self.hear_open(*code, address, scrolled),
        }
    }

    fn hear_table(&mut self, code: KeyCode) {
        match code {
            KeyCode::Char('q') | KeyCode::Esc => self.is_over = true,
            KeyCode::Char('s') => self.view.order = self.view.order.next(),
            KeyCode::Char('v') => self.view.by_vm = !self.view.by_vm,
            KeyCode::Char('p') => self.is_frozen = !self.is_frozen,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char('j') | KeyCode::Down => self.selected += 1,
            KeyCode::Char('k') | KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            KeyCode::PageDown => self.selected += 20,
            KeyCode::PageUp => self.selected = self.selected.saturating_sub(20),
            KeyCode::Home => self.selected = 0,
            KeyCode::End => self.selected = usize::MAX,
            KeyCode::Char(' ') => self.fold(),
            KeyCode::Enter => self.open(),
            _ => {}
        }
    }

    fn hear_filter(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => {
                self.view.filter.clear();
                self.mode = Mode::Table;
            }
            KeyCode::Backspace => drop(self.view.filter.pop()),
            KeyCode::Char(c) => self.view.filter.push(c),
            _ => {}
        }
    }

    fn hear_open(&mut self, code: KeyCode, address: u64, scrolled: u16) {
        self.mode = match code {
            KeyCode::Char('q') | KeyCode::Esc | KeyCode::Enter => Mode::Table,
            KeyCode::Char('j') | KeyCode::Down => Mode::Open(address, scrolled.saturating_add(1)),
            KeyCode::Char('k') | KeyCode::Up => Mode::Open(address, scrolled.saturating_sub(1)),
            _ => Mode::Open(address, scrolled),
        };
    }

    fn line(&self) -> Option<Line> {
        self.board.lines(&self.view).into_iter().nth(self.selected)
    }

    fn fold(&mut self) {
        if let Some(line) = self.line()
            && !self.view.folded.remove(&line.domain)
        {
            self.view.folded.insert(line.domain);
        }
    }

    /// A vCPU; of a VM that is one line, its vCPUs.
    fn open(&mut self) {
        match self.line() {
            Some(Line { vcpu: Some((_, address)), .. }) => self.mode = Mode::Open(address, 0),
            Some(_) => self.fold(),
            None => {}
        }
    }
}

/// What is typed, and that the terminal has another size.
fn keys() -> Result<mpsc::UnboundedReceiver<Event>> {
    let (sender, keys) = mpsc::unbounded_channel();
    let read = move || {
        while let Ok(event) = event::read() {
            if sender.send(event).is_err() {
                return;
            }
        }
    };
    thread::Builder::new().name("keys".to_owned()).spawn(read).context("start a thread")?;
    Ok(keys)
}
