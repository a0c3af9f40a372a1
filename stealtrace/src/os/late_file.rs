//! A file that may be there already: it keeps what is in it until there is something to write, so that a run that fails
//! before destroys nothing and leaves nothing behind. Written in place: it may be a pipe or a device.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write},
    os::fd::{AsRawFd, RawFd},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

/// Open, with its old contents until the first write.
pub(crate) struct LateFile {
    path: PathBuf,
    file: File,
    /// Was it not there before?
    created: bool,
    begun: bool,
}

impl LateFile {
    /// Open it for writing, or make it.
    ///
    /// # Errors
    /// When this user cannot write there.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let (opened, created) = match File::create_new(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                (OpenOptions::new().write(true).create(true).truncate(false).open(path), false)
            }
            opened => (opened, true),
        };
        let file = opened.with_context(|| format!("write {}", path.display()))?;
        if is_taken(&file)? {
            bail!("{} is being written by another stealtrace", path.display());
        }
        Ok(Self { path: path.to_owned(), file, created, begun: false })
    }

    fn begin(&mut self) -> io::Result<()> {
        if !self.begun && self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        self.begun = true;
        Ok(())
    }
}

/// Two at once would make nonsense of a file. A pipe or a device has its own rules.
fn is_taken(file: &File) -> Result<bool> {
    let is_file = file.metadata().context("look at what is to be written")?.is_file();
    Ok(is_file && matches!(file.try_lock(), Err(TryLockError::WouldBlock)))
}

impl AsRawFd for LateFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Write for LateFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.begin()?;
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.begin()
    }
}

impl Drop for LateFile {
    fn drop(&mut self) {
        if self.created && !self.begun {
            let _left_behind = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _, path::PathBuf};

    use super::LateFile;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("stealtrace-late-{name}-{}", std::process::id()))
    }

    #[test]
    fn what_was_there_stays_until_something_is_written() {
        let path = scratch("old");
        fs::write(&path, "old and long").unwrap();
        drop(LateFile::open(&path).unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), "old and long");
        LateFile::open(&path).unwrap().write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn nothing_is_left_behind_where_nothing_was_written() {
        let path = scratch("new");
        drop(LateFile::open(&path).unwrap());
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_cannot_be_written_is_named() {
        let Err(error) = LateFile::open("/no/such/folder/f".as_ref()) else { panic!("opened") };
        assert!(format!("{error:#}").starts_with("write /no/such/folder/f: "), "{error:#}");
    }

    #[test]
    fn two_do_not_write_one_file() {
        let path = scratch("two");
        let first = LateFile::open(&path).unwrap();
        assert!(LateFile::open(&path).is_err());
        drop(first);
        drop(LateFile::open(&path).unwrap());
        assert!(LateFile::open(std::path::Path::new("/dev/null")).is_ok());
        assert!(!path.exists());
    }
}
