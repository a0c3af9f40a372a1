//! The recording of a live trace. Its trouble is its own: the trace goes on, and the recording keeps what it has.

use std::{io, path::PathBuf};

use anyhow::{Context as _, Result};
use stealtrace_common::event::Event;

use super::{End, Header, Recorder};
use crate::os::{late_file::LateFile, talk::say};

/// A recording that is being made.
pub(crate) struct Recording {
    path: PathBuf,
    /// Or why there is no more to come.
    recorder: Result<Recorder<LateFile>, io::Error>,
}

impl Recording {
    /// Begin it: from here on the file's old contents are gone.
    pub(crate) fn begin(path: PathBuf, file: LateFile, header: &Header) -> Self {
        let recorder = Recorder::new(file, header);
        let recording = Self { path, recorder };
        recording.say_trouble();
        recording
    }

    /// Can more be recorded?
    pub(crate) const fn is_whole(&self) -> bool {
        self.recorder.is_ok()
    }

    /// One more event.
    pub(crate) fn write(&mut self, event: &Event) {
        self.attempt(|recorder| recorder.event(event));
    }

    /// Make readable what was recorded so far.
    pub(crate) fn flush(&mut self) {
        self.attempt(Recorder::flush);
    }

    /// End it.
    ///
    /// # Errors
    /// When it is not whole.
    pub(crate) fn end(self, end: &End) -> Result<()> {
        let ended = self.recorder.and_then(|recorder| recorder.end(end));
        ended.with_context(|| format!("the recording {} is not whole", self.path.display()))
    }

    fn attempt(&mut self, act: impl FnOnce(&mut Recorder<LateFile>) -> io::Result<()>) {
        let Ok(recorder) = &mut self.recorder else { return };
        if let Err(error) = act(recorder) {
            self.recorder = Err(error);
            self.say_trouble();
        }
    }

    fn say_trouble(&self) {
        if let Err(error) = &self.recorder {
            say(&format!("write {}: {error}; it ends there, the trace goes on", self.path.display()));
        }
    }
}
