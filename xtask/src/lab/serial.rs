//! A serial port of the lab guest, as a socket on this side.

use std::{
    fs,
    io::{self, Read as _, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Child,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

/// It takes a moment to load its libraries.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for QEMU to connect.
pub(crate) struct Port {
    listener: UnixListener,
    path: PathBuf,
}

impl Port {
    /// A port whose socket has this path.
    pub(crate) fn listen(path: &Path) -> Result<Self> {
        let _absent = fs::remove_file(path);
        let listener = UnixListener::bind(path).with_context(|| format!("listen on {}", path.display()))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// QEMU's argument for it.
    pub(crate) fn argument(&self) -> String {
        format!("unix:{}", self.path.display())
    }

    /// QEMU's name for a port of the lab guest's.
    pub(crate) fn device(&self) -> String {
        format!("socket,path={}", self.path.display())
    }

    /// Accept the connection of this QEMU, which may end before it connects.
    pub(crate) fn accept(self, qemu: &mut Child) -> Result<UnixStream> {
        self.listener.set_nonblocking(true)?;
        let give_up = Instant::now() + PATIENCE;
        let stream = loop {
            match self.listener.accept() {
                Ok((stream, _)) => break stream,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                    return Err(error).context("wait for QEMU");
                }
                Err(_) => {}
            }
            if let Some(status) = qemu.try_wait()? {
                bail!("QEMU did not start: {status}");
            }
            ensure!(Instant::now() < give_up, "QEMU did not start within {PATIENCE:?}");
            thread::sleep(Duration::from_millis(10));
        };
        stream.set_nonblocking(false)?;
        let _gone = fs::remove_file(&self.path);
        Ok(stream)
    }
}

/// How much was copied, over all ports of a lab guest.
#[derive(Clone, Default)]
pub(crate) struct Written(Arc<AtomicU64>);

impl Written {
    /// Bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn count(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Copy what the port says, as it says it, until QEMU ends.
pub(crate) fn copy(
    mut port: UnixStream,
    mut to: impl Write + Send + 'static,
    written: Written,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = port.read(&mut buffer) {
            written.count(length);
            if write_all(&mut to, &buffer[..length]).is_err() {
                return; // a closed pipe is the reader's wish
            }
        }
    })
}

fn write_all(to: &mut impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes)?;
    to.flush()
}
