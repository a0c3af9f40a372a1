//! Recordings: what a trace saw, to be judged again. A line with the version, then blocks:
//!
//! ```text
//! kind u8 · sequence u32 · length u32 · payload · checksum u32       (integers are little-endian)
//! ```
//!
//! Block 0 is the header, then come events, each as what differs from the one before, then the end with the losses.
//! The checksum is the CRC-32 of all that the file holds up to there, checksums left out: a block that is damaged,
//! missing, repeated or another recording's does not fit. A file without its end was cut off; what is before the cut
//! is good.

mod block;
mod difference;
mod header;
mod player;
mod recorder;
mod recording;

pub use self::{
    header::{End, Header},
    player::{Item, Player},
    recorder::Recorder,
};

pub(crate) use self::recording::Recording;

use stealtrace_common::event::Event;

/// How every recording of every version begins; the version and the end of the line follow.
const NAME: &[u8] = b"stealtrace recording ";
/// Raised with every change of the format or of [`Event`].
const VERSION: u32 = 2;

const _: () = assert!(Event::WORDS == 23, "another event makes another version of recordings");

/// Is this the beginning of a recording, of whatever version?
#[must_use]
pub fn is_recording(head: &[u8]) -> bool {
    head.starts_with(NAME)
}

/// The first line of a recording.
fn opening() -> Vec<u8> {
    [NAME, format!("{VERSION}\n").as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use stealtrace_common::event::{Event, EventKind};

    use super::{End, Header, Item, NAME, Player, Recorder, opening};

    fn header() -> Header {
        Header {
            kernel: "6.1.0".to_owned(),
            backend: "kprobe".to_owned(),
            era: "recording".to_owned(),
            edges: true,
            calls: true,
            cpus: 2,
            start_ns: 5,
            utc_offset_ns: 7,
            functions: vec![(0xffff_ffff_8000_0000, "kvm_arch_vcpu_load".to_owned())],
        }
    }

    fn events() -> Vec<Event> {
        let event = |time_ns, run_delay_ns| Event {
            kind: EventKind::Ioctl,
            time_ns,
            run_delay_ns,
            ..Event::default()
        };
        vec![event(10, u64::MAX), event(20, 0), event(20, 1 << 63)]
    }

    fn end() -> End {
        End { duration_ns: 99, ..End::default() }
    }

    /// A block for each event.
    fn recording(header: &Header, events: &[Event]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes, header).unwrap();
        for event in events {
            recorder.event(event).unwrap();
            recorder.flush().unwrap();
        }
        recorder.end(&end()).unwrap();
        bytes
    }

    /// What a reader learns.
    #[derive(Debug, PartialEq)]
    struct Played {
        header: Header,
        events: Vec<Event>,
        /// The end, or what is the matter.
        end: Result<End, String>,
    }

    fn play(bytes: &[u8]) -> Option<Played> {
        let mut player = Player::new(bytes).ok()?;
        let mut events = Vec::new();
        loop {
            let end = match player.next_item() {
                Item::Event(event) => {
                    events.push(*event);
                    continue;
                }
                Item::End(end) => Ok(end),
                Item::Cut(how) => Err(how),
            };
            return Some(Played { header: player.header, events, end });
        }
    }

    fn whole() -> Vec<u8> {
        recording(&header(), &events())
    }

    /// Refused, or what is before the fault and that it is one.
    fn assert_noticed(bytes: &[u8], fault: &str) {
        let Some(played) = play(bytes) else { return };
        assert_eq!(played.header, header(), "{fault}");
        assert!(events().starts_with(&played.events), "{fault}");
        let inconclusive = played.end.as_ref().map_or(true, |end| end.unproved.is_some());
        assert!(inconclusive, "{fault}: {:?}", played.end);
    }

    #[test]
    fn what_was_recorded_is_played() {
        let played = Played { header: header(), events: events(), end: Ok(end()) };
        assert_eq!(play(&whole()), Some(played));
    }

    #[test]
    fn a_cut_anywhere_keeps_what_is_before_it() {
        let whole = whole();
        for length in 0..whole.len() {
            assert_noticed(&whole[..length], &format!("cut at {length}"));
        }
        let before_the_end = play(&whole[..whole.len() - 1]).unwrap();
        assert_eq!(before_the_end.events, events());
        assert_eq!(before_the_end.end, Err("cut off".to_owned()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = whole();
        for bit in 0..8 * whole.len() {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_noticed(&bytes, &format!("bit {bit}"));
        }
    }

    /// Where each block begins, and where the file ends.
    fn blocks(bytes: &[u8]) -> Vec<usize> {
        let mut starts = vec![opening().len()];
        while let Some(head) = bytes.get(starts[starts.len() - 1]..).filter(|rest| rest.len() > 9) {
            let length = u32::from_le_bytes(head[5..9].try_into().unwrap());
            starts.push(starts[starts.len() - 1] + 13 + length as usize);
        }
        starts
    }

    #[test]
    fn a_block_that_is_missing_repeated_or_foreign_is_noticed() {
        let whole = whole();
        let other = recording(&Header { start_ns: 6, ..header() }, &events());
        let starts = blocks(&whole);
        assert_eq!(starts.len(), 6, "header, three events, end, and where it ends");
        for pair in starts.windows(2) {
            let [before, block, after] = [&whole[..pair[0]], &whole[pair[0]..pair[1]], &whole[pair[1]..]];
            let foreign = &other[pair[0]..pair[1]];
            assert_noticed(&[before, after].concat(), "missing");
            assert_noticed(&[before, block, block, after].concat(), "repeated");
            if pair[0] > starts[0] {
                assert_noticed(&[before, foreign, after].concat(), "foreign");
                assert_noticed(&[before, &other[pair[0]..]].concat(), "another one's rest");
            }
        }
        let missing = play(&[&whole[..starts[2]], &whole[starts[3]..]].concat()).unwrap();
        assert_eq!(missing.end, Err("damaged: block 2 is missing, block 3 follows".to_owned()));
    }

    #[test]
    fn what_follows_the_end_is_said() {
        let two = play(&[whole(), whole()].concat()).unwrap();
        assert_eq!(two.events, events());
        let unproved = two.end.unwrap().unproved.unwrap();
        assert!(unproved.contains("follows its end"), "{unproved}");
    }

    #[test]
    fn another_version_is_told() {
        for version in ["1", "3", "10"] {
            let bytes = [NAME, version.as_bytes(), b"\n{}"].concat();
            let error = Player::new(&bytes[..]).err().unwrap().to_string();
            assert!(error.contains(&format!("of version {version};")), "{error}");
        }
        assert!(Player::new(&b"no recording"[..]).is_err());
    }

    #[test]
    fn a_writer_that_was_killed_leaves_what_it_flushed() {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes, &header()).unwrap();
        recorder.event(&events()[0]).unwrap();
        recorder.flush().unwrap();
        recorder.event(&events()[1]).unwrap();
        drop(recorder);
        let played = play(&bytes).unwrap();
        assert_eq!((played.events, played.end), (events()[..1].to_vec(), Err("cut off".to_owned())));
    }
}
