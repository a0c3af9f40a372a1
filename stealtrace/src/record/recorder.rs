//! Writes a recording.

use std::io::{self, Write};

use stealtrace_common::event::Event;

use super::{
    End, Header,
    block::{BlockWriter, Kind},
    difference::Before,
    opening,
};

/// Events are written when so many bytes of them wait, or when they are flushed.
const BLOCK_BYTES: usize = 64 << 10;

/// Writes a recording.
pub struct Recorder<W> {
    blocks: BlockWriter<W>,
    before: Before,
    waiting: Vec<u8>,
}

impl<W: Write> Recorder<W> {
    /// Begin with the header.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(out: W, header: &Header) -> io::Result<Self> {
        let mut blocks = BlockWriter::new(out, &opening())?;
        blocks.put(Kind::Header, header.to_json().to_string().as_bytes())?;
        Ok(Self { blocks, before: Before::default(), waiting: Vec::new() })
    }

    /// One more event.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        self.before.put(event, &mut self.waiting);
        if self.waiting.len() < BLOCK_BYTES { Ok(()) } else { self.write() }
    }

    /// Make readable what was recorded so far, whatever happens next.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.write()?;
        self.blocks.flush()
    }

    fn write(&mut self) -> io::Result<()> {
        self.blocks.put(Kind::Events, &self.waiting)?;
        self.waiting.clear();
        Ok(())
    }

    /// The end: without it a recording counts as cut off.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self, end: &End) -> io::Result<()> {
        self.flush()?;
        self.blocks.put(Kind::End, end.to_json().to_string().as_bytes())?;
        self.blocks.flush()
    }
}
