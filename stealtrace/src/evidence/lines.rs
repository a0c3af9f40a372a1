//! A log's lines, however it was stored: LF or CRLF, UTF-8 or UTF-16 or something else that has ASCII, with or without
//! byte order marks and the zeros that a cut file leaves behind.

use std::{
    borrow::Cow,
    io::{self, BufRead, Read as _},
};

use memchr::memchr;

/// A longer line is none of any log we know; its rest is left out.
const MOST_BYTES: u64 = 1 << 20;
/// Of UTF-8; files put behind one another have several.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// Reads lines.
pub struct Lines<R> {
    input: R,
    bytes: Vec<u8>,
    /// Not known before the first line.
    encoding: Option<Encoding>,
}

/// How characters are stored; a file that is not UTF-16 is read as UTF-8, whatever it is.
#[derive(Clone, Copy)]
enum Encoding {
    Utf8,
    Utf16(fn([u8; 2]) -> u16),
}

/// One line, without its end, marks, zeros and trailing blanks.
#[derive(Debug, PartialEq, Eq)]
pub struct Text<'a> {
    /// What is on it.
    pub text: Cow<'a, str>,
    /// Is that all of it?
    pub whole: bool,
}

impl<R: BufRead> Lines<R> {
    /// The lines of this.
    pub const fn new(input: R) -> Self {
        Self { input, bytes: Vec::new(), encoding: None }
    }

    /// The next line, if there is one.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn next_line(&mut self) -> io::Result<Option<Text<'_>>> {
        self.bytes.clear();
        loop {
            let begin = self.bytes.len();
            if self.input.by_ref().take(MOST_BYTES).read_until(b'\n', &mut self.bytes)? == 0 {
                let rest = !matches!(self.bytes[..], [] | [0]); // half a newline of UTF-16
                return Ok(rest.then(|| self.text(true)));
            }
            let ended = self.bytes.last() == Some(&b'\n');
            self.drop_zeros(begin);
            if ended {
                return Ok(Some(self.text(true)));
            }
            if self.bytes.len() as u64 >= MOST_BYTES {
                self.input.skip_until(b'\n')?;
                return Ok(Some(self.text(false)));
            }
        }
    }

    fn drop_zeros(&mut self, begin: usize) {
        let encoding = *self.encoding.get_or_insert_with(|| Encoding::of(&self.bytes));
        if matches!(encoding, Encoding::Utf8) && memchr(0, &self.bytes[begin..]).is_some() {
            self.bytes.retain(|byte| *byte != 0);
        }
    }

    fn text(&self, whole: bool) -> Text<'_> {
        let text = match self.encoding {
            Some(Encoding::Utf16(unit)) => Cow::Owned(utf16(&self.bytes, unit)),
            Some(Encoding::Utf8) | None => {
                let bytes = self.bytes.strip_prefix(MARK).unwrap_or(&self.bytes).trim_ascii_end();
                // Much faster than from_utf8_lossy.
                std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
            }
        };
        Text { text, whole }
    }
}

impl Encoding {
    fn of(begin: &[u8]) -> Self {
        if begin.starts_with(b"\xff\xfe") {
            Self::Utf16(u16::from_le_bytes)
        } else if begin.starts_with(b"\xfe\xff") {
            Self::Utf16(u16::from_be_bytes)
        } else {
            Self::Utf8
        }
    }
}

/// A line of UTF-16 that was cut behind its newline's 0x0a: half a unit may be left at either end.
fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> String {
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let bytes = bytes.strip_prefix(b"\0").filter(|_| unit([1, 0]) == 1).unwrap_or(bytes);
    let (pairs, _) = bytes.as_chunks::<2>();
    let wanted = |unit: &u16| *unit != 0 && *unit != 0xfeff;
    let units = pairs.iter().map(|pair| unit(*pair)).filter(wanted);
    let mut text: String =
        char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect();
    text.truncate(text.trim_ascii_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::{Lines, MOST_BYTES, Text};

    fn lines(bytes: &[u8]) -> Vec<(String, bool)> {
        let mut lines = Lines::new(bytes);
        let mut all = Vec::new();
        while let Some(Text { text, whole }) = lines.next_line().expect("from memory") {
            all.push((text.into_owned(), whole));
        }
        all
    }

    fn utf16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
        "\u{feff}".encode_utf16().chain(text.encode_utf16()).flat_map(order).collect()
    }

    #[test]
    fn a_line_is_the_same_however_it_was_stored() {
        let expected = [("a b".to_owned(), true), (String::new(), true), ("c".to_owned(), true)];
        for stored in [
            b"a b\n\nc".to_vec(),
            b"a b\r\n\r\nc\r\n".to_vec(),
            b"a b \t\r\n  \nc  \n".to_vec(),
            b"\xef\xbb\xbfa b\n\n\xef\xbb\xbfc\n".to_vec(),
            b"\0\0\0\0a b\n\0\nc\0\0\n".to_vec(),
            utf16("a b\r\n\r\nc\r\n", u16::to_le_bytes),
            utf16("a b\n\nc\n", u16::to_be_bytes),
        ] {
            assert_eq!(lines(&stored), expected, "{stored:?}");
        }
        assert!(lines(b"").is_empty());
    }

    #[test]
    fn utf16_is_read_as_it_is() {
        for order in [u16::to_le_bytes, u16::to_be_bytes] {
            let all = lines(&utf16("\u{a0}é €\r\n\u{1f980}\n", order));
            assert_eq!(all, [("\u{a0}é €".to_owned(), true), ("\u{1f980}".to_owned(), true)]);
        }
    }

    #[test]
    fn other_encodings_lose_only_what_is_not_ascii() {
        assert_eq!(lines(b"caf\xe9 1\n"), [("caf\u{fffd} 1".to_owned(), true)]);
    }

    #[test]
    fn zeros_of_a_cut_file_hide_nothing_and_the_rest_of_an_endless_line_is_left_out() {
        let most = usize::try_from(MOST_BYTES).expect("fits");
        let zeros = [vec![0; 3 * most], b"a\n".to_vec()].concat();
        assert_eq!(lines(&zeros), [("a".to_owned(), true)]);
        let endless = [vec![b'x'; 3 * most], b"\nb".to_vec()].concat();
        let all = lines(&endless);
        assert_eq!(all[0].0.len(), most);
        assert!(!all[0].1 && all[1] == ("b".to_owned(), true), "{}", all.len());
    }
}
