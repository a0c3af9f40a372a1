//! The service manager: ready, what we do, alive, and the socket it made for us.

use std::{
    io,
    net::TcpListener,
    os::fd::FromRawFd as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sd_notify::NotifyState;

/// The one that started us, if it is one; nothing is told where there is none.
pub(crate) struct Service {
    /// How often it wants to hear that we live.
    watchdog: Option<Duration>,
    next: Instant,
}

impl Service {
    pub(crate) fn new() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled().map(|within| within / 3), next: Instant::now() }
    }

    /// Everything is set up.
    pub(crate) fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// What we do now.
    pub(crate) fn status(&self, status: &str) {
        tell(&[NotifyState::Status(status)]);
    }

    /// We live; how long nothing need be said then.
    pub(crate) fn live(&mut self, most: Duration) -> Duration {
        let Some(pause) = self.watchdog else { return most };
        if self.next <= Instant::now() {
            tell(&[NotifyState::Watchdog]);
            self.next = Instant::now() + pause;
        }
        most.min(pause)
    }

    /// We end.
    pub(crate) fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("the service manager does not hear us: {error}");
    }
}

/// The socket that it listens on for us, if there is one.
pub(crate) fn listener() -> Result<Option<TcpListener>> {
    let mut given = sd_notify::listen_fds().context("take the service manager's socket")?;
    let Some(fd) = given.next() else { return Ok(None) };
    ensure!(given.len() == 0, "the service manager gives more than one socket; one is expected");
    // SAFETY: the descriptor was handed to this process, and nobody else here takes it.
    let listener = unsafe { TcpListener::from_raw_fd(fd) };
    let is_socket = listener.local_addr().map_err(|error| io::Error::new(error.kind(), error));
    is_socket.context("the service manager's descriptor is no TCP socket")?;
    Ok(Some(listener))
}
