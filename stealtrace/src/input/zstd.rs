//! zstd: frame after frame, each checked against its checksum. What is kept in memory is a frame's window, which the
//! decoder bounds to 128 MiB.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::{
    BlockDecodingStrategy::UptoBlocks,
    FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// The content of all frames.
pub(super) struct Frames<R> {
    input: R,
    /// The frame being read; none between two.
    frame: Option<Box<FrameDecoder>>,
}

impl<R: BufRead> Frames<R> {
    pub(super) const fn new(input: R) -> Self {
        Self { input, frame: None }
    }

    /// Is there another frame, or the rest of this?
    fn begin(&mut self) -> io::Result<bool> {
        while self.frame.is_none() {
            if self.input.fill_buf()?.is_empty() {
                return Ok(false);
            }
            let mut frame = Box::new(FrameDecoder::new());
            match frame.init(&mut self.input) {
                Ok(()) => self.frame = Some(frame),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => drop(io::copy(&mut self.input.by_ref().take(length.into()), &mut io::sink())?),
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        while self.begin()? {
            let Some(frame) = &mut self.frame else { break };
            while frame.can_collect() == 0 && !frame.is_finished() {
                frame.decode_blocks(&mut self.input, UptoBlocks(1)).map_err(io::Error::other)?;
            }
            match frame.read(to)? {
                0 if !to.is_empty() => {
                    check(frame)?;
                    self.frame = None;
                }
                read => return Ok(read),
            }
        }
        Ok(0)
    }
}

fn check(frame: &FrameDecoder) -> io::Result<()> {
    match frame.get_checksum_from_data() {
        Some(checksum) if Some(checksum) != frame.get_calculated_checksum() => {
            Err(io::Error::other("a zstd frame is damaged: its checksum does not fit"))
        }
        _ => Ok(()),
    }
}
