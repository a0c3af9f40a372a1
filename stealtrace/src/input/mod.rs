//! A file's content, whatever it was compressed with: gzip and zstd are read as they are, of others it is said what to
//! do. Knows nothing of what the content means.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Cursor, Read},
    path::Path,
};

use anyhow::{Result, bail};
use flate2::bufread::MultiGzDecoder;

/// What is read of a file at once.
const BUFFER_BYTES: usize = 1 << 18;
/// What is read to find out what a file is.
const HEAD_BYTES: u64 = 64 << 10;
/// The longest of the marks that compressed files begin with.
const MARK_BYTES: u64 = 6;

const GZIP: &[u8] = b"\x1f\x8b";
const ZSTD: &[u8] = b"\x28\xb5\x2f\xfd";

/// Other ways to compress: the mark, the name, and what writes the content to stdout.
const OTHERS: &[(&[u8], &str, &str)] = &[
    (b"\xfd7zXZ\0", "xz", "xz -dc"),
    (b"BZh", "bzip2", "bzip2 -dc"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -dc"),
    (b"\x1f\x9d", "compress", "gzip -dc"),
    (b"PK\x03\x04", "zip", "unzip -p"),
];

/// The content of a file.
pub type Input = Box<dyn BufRead>;

/// The content of this file, `-` for standard input.
///
/// # Errors
/// When it cannot be read, or is compressed in a way that we do not know.
pub fn open(file: &Path) -> Result<Input> {
    let bytes: Input = if file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(BUFFER_BYTES, File::open(file)?))
    };
    content(bytes)
}

/// What these bytes are, or what is compressed in them.
///
/// # Errors
/// When they cannot be read, or are compressed in a way that we do not know.
pub fn content(bytes: Input) -> Result<Input> {
    let (mark, bytes) = begin(bytes, MARK_BYTES)?;
    if mark.starts_with(GZIP) {
        return Ok(buffered(MultiGzDecoder::new(bytes)));
    }
    if mark.starts_with(ZSTD) {
        return Ok(buffered(zstd::Decoder::with_buffer(bytes)?));
    }
    match OTHERS.iter().find(|(other, _, _)| mark.starts_with(other)) {
        Some((_, name, command)) => {
            bail!("it is compressed with {name}; use `{command} FILE | stealtrace analyze -`")
        }
        None => Ok(bytes),
    }
}

/// What finds out what a content is, and the whole of it again.
///
/// # Errors
/// When it cannot be read.
pub fn head(content: Input) -> io::Result<(Vec<u8>, Input)> {
    begin(content, HEAD_BYTES)
}

fn begin(mut input: Input, most: u64) -> io::Result<(Vec<u8>, Input)> {
    let mut begin = Vec::new();
    match input.as_mut().take(most).read_to_end(&mut begin) {
        Ok(_) => {}
        // What is before a cut or damage is good; whoever reads on meets it again.
        Err(_) if !begin.is_empty() => {}
        Err(error) => return Err(error),
    }
    Ok((begin.clone(), Box::new(Cursor::new(begin).chain(input))))
}

fn buffered(content: impl Read + 'static) -> Input {
    Box::new(BufReader::with_capacity(BUFFER_BYTES, content))
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Read as _, Write as _};

    use super::{Input, OTHERS, content, head};
    use flate2::{Compression, write::GzEncoder};

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text).expect("to memory");
        encoder.finish().expect("to memory")
    }

    fn zstd(text: &[u8]) -> Vec<u8> {
        zstd::encode_all(text, 1).expect("to memory")
    }

    fn input(bytes: Vec<u8>) -> Input {
        Box::new(Cursor::new(bytes))
    }

    fn read(bytes: Vec<u8>) -> Vec<u8> {
        let mut all = Vec::new();
        content(input(bytes)).expect("known").read_to_end(&mut all).expect("whole");
        all
    }

    #[test]
    fn files_and_files_behind_one_another_are_read_compressed_or_not() {
        for pack in [gzip, zstd, |text: &[u8]| text.to_vec()] {
            assert_eq!(read(pack(b"one\n")), b"one\n");
            assert_eq!(read([pack(b"one\n"), pack(b"two\n")].concat()), b"one\ntwo\n");
            assert_eq!(read(pack(b"")), b"");
        }
    }

    #[test]
    fn a_frame_that_says_nothing_is_skipped() {
        let skippable = b"\x50\x2a\x4d\x18\x02\0\0\0xx".to_vec();
        assert_eq!(read([zstd(b"one"), skippable, zstd(b"two")].concat()), b"onetwo");
    }

    #[test]
    fn what_is_before_a_cut_is_read_and_the_cut_is_said() {
        let text: Vec<u8> =
            (0..400_000_u32).flat_map(|n| (n.wrapping_mul(2_654_435_761) >> 3).to_le_bytes()).collect();
        for pack in [gzip, zstd] {
            let whole = pack(&text);
            let (begun, mut all) =
                head(content(input(whole[..whole.len() / 2].to_vec())).expect("known")).expect("begun");
            assert!(text.starts_with(&begun) && !begun.is_empty());
            let mut got = Vec::new();
            assert!(all.read_to_end(&mut got).is_err());
            assert!(text.starts_with(&got) && got.len() > text.len() / 4, "{}", got.len());
        }
    }

    #[test]
    fn damage_is_said() {
        let mut whole = zstd(&b"a line of a log\n".repeat(9));
        let last = whole.len() - 1;
        whole[last] ^= 1;
        assert!(content(input(whole)).expect("known").read_to_end(&mut Vec::new()).is_err());
    }

    /// Found by fuzzing another decoder, which panicked.
    #[test]
    fn a_frame_that_makes_no_sense_is_an_error() {
        let bytes = b"\x28\xb5\x2f\xfd\x30\x0b\x00\x00\x00\x30\x00\x00\x80\x00\x00\x60\x00\x00\x00\x00\x00\x00\x00\x00\
              \x40\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x24\x00\x00\x00\x28\x80\x01\xb5\x00\x00\x00\xff\xff\
              \xff\xff\x2d\x00\x00\x00\x00\x00\x00\x7b\x00\x64\xff\xff\xff\xff\xff\xff\xff\x03\x20\x00\x00\x00\
              \xd1";
        let read = content(input(bytes.to_vec())).and_then(|mut all| Ok(all.read_to_end(&mut Vec::new())?));
        assert!(read.is_err());
    }

    #[test]
    fn of_other_ways_to_compress_it_is_said_what_to_do() {
        for (mark, name, _) in OTHERS {
            let error =
                content(input(mark.to_vec())).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(name) && error.contains("| stealtrace analyze -"), "{error}");
        }
    }
}
