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
    block: Vec<u8>,
    taken: usize,
    event: Event,
    /// Where and how it was made.
    pub header: Header,
}

/// What comes next in a recording.
#[derive(Debug)]
pub enum Item<'a> {
    /// An event.
    Event(&'a Event),
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
        Ok(Self {
            blocks,
            before: Before::default(),
            block: Vec::new(),
            taken: 0,
            event: Event::default(),
            header,
        })
    }

    /// The next item; after the end or a cut nothing follows.
    pub fn next_item(&mut self) -> Item<'_> {
        match self.read_item() {
            Ok(None) => Item::Event(&self.event),
            Ok(Some(end)) => Item::End(end),
            Err(error) => Item::Cut(format!("{error:#}")),
        }
    }

    /// The next event, or the end.
    fn read_item(&mut self) -> Result<Option<End>> {
        while self.taken == self.block.len() {
            self.taken = 0;
            match self.blocks.next(&mut self.block)? {
                Kind::Events => {}
                Kind::End => return self.end().map(Some),
                Kind::Header => bail!("damaged: a second header"),
            }
        }
        let mut rest = &self.block[self.taken..];
        self.event = self.before.take(&mut rest)?;
        self.taken = self.block.len() - rest.len();
        Ok(None)
    }

    fn end(&mut self) -> Result<End> {
        let mut end = End::from_json(&self.block).context("its end is damaged")?;
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
