//! Blocks: pieces of a recording that are whole or noticed not to be. Does not know what is in them.

use std::io::{self, BufRead, ErrorKind, Read as _, Write};

use anyhow::{Result, anyhow, bail};
use crc32fast::Hasher;

/// A longer one is none of ours.
const MOST_PAYLOAD: u32 = 1 << 20;
/// Kind, sequence and length.
const HEAD: usize = 9;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Header = 1,
    Events = 2,
    End = 3,
}

impl Kind {
    fn of(number: u8) -> Result<Self> {
        [Self::Header, Self::Events, Self::End]
            .into_iter()
            .find(|kind| *kind as u8 == number)
            .ok_or_else(|| anyhow!("damaged: no block of kind {number}"))
    }
}

/// Writes blocks, each in one piece.
pub(super) struct BlockWriter<W> {
    out: W,
    sum: Hasher,
    sequence: u32,
    block: Vec<u8>,
}

impl<W: Write> BlockWriter<W> {
    /// Begin with this line.
    pub(super) fn new(mut out: W, opening: &[u8]) -> io::Result<Self> {
        out.write_all(opening)?;
        let mut sum = Hasher::new();
        sum.update(opening);
        Ok(Self { out, sum, sequence: 0, block: Vec::new() })
    }

    pub(super) fn put(&mut self, kind: Kind, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).ok().filter(|length| *length <= MOST_PAYLOAD);
        let length = length.ok_or_else(|| io::Error::other("more than a block of a recording holds"))?;
        self.block.clear();
        self.block.push(kind as u8);
        self.block.extend(self.sequence.to_le_bytes());
        self.block.extend(length.to_le_bytes());
        self.block.extend(payload);
        self.sum.update(&self.block);
        self.block.extend(self.sum.clone().finalize().to_le_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        self.out.write_all(&self.block)
    }

    pub(super) fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Reads blocks.
pub(super) struct BlockReader<R> {
    input: R,
    sum: Hasher,
    sequence: u32,
}

impl<R: BufRead> BlockReader<R> {
    /// The input stands behind this line.
    pub(super) fn new(input: R, opening: &[u8]) -> Self {
        let mut sum = Hasher::new();
        sum.update(opening);
        Self { input, sum, sequence: 0 }
    }

    /// The next block's kind, its payload into `payload`.
    ///
    /// # Errors
    /// When there is none, or it is not whole.
    pub(super) fn next(&mut self, payload: &mut Vec<u8>) -> Result<Kind> {
        let head: [u8; HEAD] = self.bytes()?;
        let [kind, s0, s1, s2, s3, l0, l1, l2, l3] = head;
        let sequence = u32::from_le_bytes([s0, s1, s2, s3]);
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if length > MOST_PAYLOAD {
            bail!("damaged: block {} is too long", self.sequence);
        }
        payload.clear();
        if self.input.by_ref().take(length.into()).read_to_end(payload)? < length as usize {
            bail!("cut off");
        }
        self.sum.update(&head);
        self.sum.update(payload);
        let is_whole = u32::from_le_bytes(self.bytes()?) == self.sum.clone().finalize();
        if !is_whole && !cfg!(fuzzing) {
            bail!("damaged: {}", self.fault(sequence));
        }
        self.sequence = self.sequence.wrapping_add(1);
        Kind::of(kind)
    }

    /// What is wrong with a block that says that it is the `sequence`th.
    fn fault(&self, sequence: u32) -> String {
        let expected = self.sequence;
        if sequence > expected {
            format!("block {expected} is missing, block {sequence} follows")
        } else {
            format!("block {expected} does not fit its checksum")
        }
    }

    /// Does anything follow?
    pub(super) fn has_more(&mut self) -> Result<bool> {
        Ok(!self.input.fill_buf()?.is_empty())
    }

    fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        match self.input.read_exact(&mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => bail!("cut off"),
            Err(error) => Err(error.into()),
        }
    }
}
