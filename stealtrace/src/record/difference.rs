//! An event as what differs from the one before: which of its words, and by how much.

use anyhow::{Context as _, Result, bail};
use stealtrace_common::event::Event;

/// The most that one event takes: a bit for each word, and ten bytes for each that differs.
const MOST_BYTES: usize = 4 + 10 * Event::WORDS;

const _: () = assert!(Event::WORDS <= 32, "a bit for each word of an event");

/// The event before.
#[derive(Default)]
pub(super) struct Before([u64; Event::WORDS]);

impl Before {
    /// Write this event behind the others.
    pub(super) fn put(&mut self, event: &Event, to: &mut Vec<u8>) {
        let words = event.to_words();
        let mut bytes = [0; MOST_BYTES];
        let mut changed = 0_u32;
        let mut length = 4;
        for (i, (word, last)) in words.iter().zip(&self.0).enumerate() {
            if word != last {
                changed |= 1 << i;
                length += put_varint(&mut bytes[length..], zigzag(word.wrapping_sub(*last)));
            }
        }
        bytes[..4].copy_from_slice(&changed.to_le_bytes());
        *self = Self(words);
        to.extend_from_slice(&bytes[..length]);
    }

    /// Take the next event from these bytes.
    pub(super) fn take(&mut self, from: &mut &[u8]) -> Result<Event> {
        let (changed, rest) = from.split_first_chunk().context("damaged: half an event")?;
        *from = rest;
        let mut changed = u32::from_le_bytes(*changed);
        if changed >> Event::WORDS != 0 {
            bail!("damaged: an event has {} words", Event::WORDS);
        }
        while changed != 0 {
            let word = &mut self.0[changed.trailing_zeros() as usize];
            *word = word.wrapping_add(unzigzag(take_varint(from)?));
            changed &= changed - 1;
        }
        Event::from_words(&self.0).context("damaged")
    }
}

/// Small differences of either sign become small numbers.
const fn zigzag(difference: u64) -> u64 {
    (difference << 1) ^ (difference.cast_signed() >> 63).cast_unsigned()
}

const fn unzigzag(number: u64) -> u64 {
    (number >> 1) ^ (number & 1).wrapping_neg()
}

/// LEB128; the bytes used.
fn put_varint(to: &mut [u8], mut number: u64) -> usize {
    let mut length = 0;
    while number >= 0x80 {
        to[length] = number.to_le_bytes()[0] | 0x80;
        number >>= 7;
        length += 1;
    }
    to[length] = number.to_le_bytes()[0];
    length + 1
}

fn take_varint(from: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = from.split_first().context("damaged: half an event")?;
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("damaged: a number of more than 64 bits")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Before, unzigzag, zigzag};
    use stealtrace_common::{
        event::{Event, EventKind},
        source::Source,
    };

    /// These words, but for kind and source.
    fn an_event(words: &[u64; Event::WORDS]) -> Event {
        let mut bytes: Vec<_> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let kind = std::mem::offset_of!(Event, kind);
        bytes[kind..kind + 4].copy_from_slice(&(EventKind::Ioctl as u32).to_ne_bytes());
        let source = std::mem::offset_of!(Event, source);
        bytes[source..source + 2].copy_from_slice(&(Source::default() as u16).to_ne_bytes());
        Event::decode(&bytes).expect("an event")
    }

    proptest! {
        #[test]
        fn any_bytes_are_events_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let (mut before, mut rest) = (Before::default(), &bytes[..]);
            while !rest.is_empty() && before.take(&mut rest).is_ok() {}
        }

        #[test]
        fn any_words_are_taken_as_they_were_put(words: [[u64; Event::WORDS]; 2]) {
            let mut bytes = Vec::new();
            let mut before = Before::default();
            let events = words.map(|words| an_event(&words));
            events.iter().for_each(|event| before.put(event, &mut bytes));
            let (mut before, mut rest) = (Before::default(), &bytes[..]);
            for event in events {
                prop_assert_eq!(before.take(&mut rest).unwrap(), event);
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn zigzag_is_its_own_undoing() {
        for number in [0, 1, u64::MAX, 1 << 63, 12345] {
            assert_eq!(unzigzag(zigzag(number)), number);
        }
        assert_eq!(zigzag(u64::MAX), 1);
    }
}
