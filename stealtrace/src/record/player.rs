//! Reads a recording.

use std::io::{BufRead, Read as _};

use anyhow::{Context as _, Result, bail};
use stealtrace_common::event::Event;

use super::{
    End, Header, NAME, VERSION,
    block::{BlockReader, Kind},
    difference::Before,
    is_recording, opening,
};

/// Reads a recording.
pub struct Player<R> {
    blocks: BlockReader<R>,
    before: Before,
    /// The block being read, and how much of it was.
    events: Vec<u8>,
    taken: usize,
    /// Where and how it was made.
    pub header: Header,
}

/// What comes next in a recording.
#[derive(Debug)]
pub enum Item {
    /// An event.
    Event(Box<Event>),
    /// The end.
    End(End),
    /// No end: the file was cut off or is damaged from here on.
    Cut(String),
}

impl<R: BufRead> Player<R> {
    /// Read the header.
    ///
    /// # Errors
    /// When this is no recording, one of another version, or the header is not whole.
    pub fn new(mut input: R) -> Result<Self> {
        require_version(&mut input)?;
        let mut blocks = BlockReader::new(input, &opening());
        let mut block = Vec::new();
        let kind = blocks.next(&mut block).context("the recording's header")?;
        let header = Some(&block).filter(|_| kind == Kind::Header).and_then(|json| Header::from_json(json));
        let header = header.context("the recording's header is damaged")?;
        Ok(Self { blocks, before: Before::default(), events: Vec::new(), taken: 0, header })
    }

    /// The next item; after the end or a cut nothing follows.
    pub fn next_item(&mut self) -> Item {
        match self.read_item() {
            Ok(item) => item,
            Err(error) => Item::Cut(format!("{error:#}")),
        }
    }

    fn read_item(&mut self) -> Result<Item> {
        while self.taken == self.events.len() {
            self.taken = 0;
            match self.blocks.next(&mut self.events)? {
                Kind::Events => {}
                Kind::End => return self.end().map(Item::End),
                Kind::Header => bail!("damaged: a second header"),
            }
        }
        let mut rest = &self.events[self.taken..];
        let event = self.before.take(&mut rest)?;
        self.taken = self.events.len() - rest.len();
        Ok(Item::Event(Box::new(event)))
    }

    fn end(&mut self) -> Result<End> {
        let mut end = End::from_json(&self.events).context("its end is damaged")?;
        if self.blocks.has_more()? {
            let more = "something follows its end and was not read; if that is another recording, analyze it by itself";
            end.unproved.get_or_insert(more.to_owned());
        }
        Ok(end)
    }
}

/// The first line names the version.
fn require_version(input: &mut impl BufRead) -> Result<()> {
    const MOST_DIGITS: u64 = 10;
    let mut line = Vec::new();
    input.take(NAME.len() as u64 + MOST_DIGITS + 1).read_until(b'\n', &mut line)?;
    if line == opening() {
        return Ok(());
    }
    if !is_recording(&line) {
        bail!("this is no recording");
    }
    match std::str::from_utf8(&line[NAME.len()..])
        .ok()
        .and_then(|version| version.trim_end().parse::<u32>().ok())
    {
        Some(version) => bail!(
            "this is a recording of version {version}; this stealtrace reads version {VERSION}: take the stealtrace that made it"
        ),
        None => bail!("the recording's first line is damaged"),
    }
}
