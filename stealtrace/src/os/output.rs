//! Where results go: standard output, or the file of `--output`. The one place that decides what happens when they
//! cannot be written. A reader that has seen enough is no error, anything else is one, told when the command ends; in
//! both cases nothing more is written, and long commands ask [`Output::is_over`] whether to go on.

use std::{
    cell::RefCell,
    env,
    io::{self, ErrorKind, IsTerminal as _, Write},
    mem,
    os::fd::{AsRawFd as _, RawFd},
    path::Path,
    rc::Rc,
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;

use crate::os::late_file::LateFile;

/// Results; every clone writes to the same place.
#[derive(Clone)]
pub struct Output(Rc<RefCell<Inner>>);

struct Inner {
    name: String,
    to: Box<dyn Write>,
    /// Where that ends; None if nobody reads it.
    descriptor: Option<RawFd>,
    state: State,
    is_terminal: bool,
    is_colored: bool,
}

/// `--color`
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    Auto,
    /// Everywhere.
    Always,
    /// Nowhere.
    Never,
}

impl Color {
    fn is_wanted(self, is_terminal: bool) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && env::var_os("NO_COLOR").is_none_or(|set| set.is_empty()),
        }
    }
}

/// Can results still be written?
enum State {
    Open,
    /// The reader has seen enough.
    Unread,
    Refused(io::Error),
}

impl Output {
    /// Standard output if no file is named.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(file: Option<&Path>, color: Color) -> Result<Self> {
        Ok(match file {
            Some(name) => {
                let file = LateFile::open(name)?;
                let descriptor = Some(file.as_raw_fd());
                Self::to(name.display().to_string(), Box::new(file), descriptor, false, color)
            }
            None => {
                let stdout = io::stdout();
                let (descriptor, is_terminal) = (Some(stdout.as_raw_fd()), stdout.is_terminal());
                Self::to("standard output".to_owned(), Box::new(stdout), descriptor, is_terminal, color)
            }
        })
    }

    /// Nowhere: for whoever only asks what results there are.
    #[must_use]
    pub fn nowhere() -> Self {
        Self::to("nowhere".to_owned(), Box::new(io::sink()), None, false, Color::Never)
    }

    fn to(
        name: String,
        to: Box<dyn Write>,
        descriptor: Option<RawFd>,
        is_terminal: bool,
        color: Color,
    ) -> Self {
        let is_colored = color.is_wanted(is_terminal);
        let state = State::Open;
        Self(Rc::new(RefCell::new(Inner { name, to, descriptor, state, is_terminal, is_colored })))
    }

    /// Does somebody look at it as it is written?
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        self.0.borrow().is_terminal
    }

    /// Are colours wanted in it?
    #[must_use]
    pub fn is_colored(&self) -> bool {
        self.0.borrow().is_colored
    }

    /// Is everything that is still written written in vain?
    #[must_use]
    pub fn is_over(&self) -> bool {
        !matches!(self.0.borrow().state, State::Open)
    }

    /// Would a line that is written now wait for a reader that does not read? A pipe says that it takes more while it has
    /// room for `PIPE_BUF` bytes.
    #[must_use]
    pub fn would_wait(&self) -> bool {
        self.0.borrow().descriptor.is_some_and(|descriptor| {
            let mut asked = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
            // SAFETY: one record of our own; it returns at once.
            unsafe { libc::poll(&raw mut asked, 1, 0) == 0 }
        })
    }

    /// Could everything be written that anybody wanted to read?
    ///
    /// # Errors
    /// When it could not.
    pub fn settle(&self) -> Result<()> {
        let mut inner = self.0.borrow_mut();
        match mem::replace(&mut inner.state, State::Unread) {
            State::Refused(error) => Err(error).with_context(|| format!("write {}", inner.name)),
            State::Open | State::Unread => Ok(()),
        }
    }
}

impl Inner {
    /// Do it unless it is in vain; what to return then.
    fn attempt<T>(&mut self, in_vain: T, act: impl FnOnce(&mut dyn Write) -> io::Result<T>) -> io::Result<T> {
        if !matches!(self.state, State::Open) {
            return Ok(in_vain);
        }
        match act(&mut self.to) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.state = State::Unread,
            Err(error) => self.state = State::Refused(error),
            done => return done,
        }
        Ok(in_vain)
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().attempt(bytes.len(), |to| to.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.borrow_mut().attempt((), |to| to.flush())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, ErrorKind, Write};

    use super::{Color, Output};

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn after_a_write(error: ErrorKind) -> Output {
        let out = Output::to("f".to_owned(), Box::new(Failing(error)), None, false, Color::Auto);
        assert!(!out.is_over());
        writeln!(out.clone(), "a result").unwrap();
        assert!(out.is_over());
        out
    }

    #[test]
    fn a_reader_that_has_seen_enough_is_no_error() {
        assert!(after_a_write(ErrorKind::BrokenPipe).settle().is_ok());
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let error = after_a_write(ErrorKind::StorageFull).settle().unwrap_err();
        assert!(format!("{error:#}").starts_with("write f: "), "{error:#}");
    }
}
