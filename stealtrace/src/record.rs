//! Recordings: a header line, then events, each as what differs from the one before, then the end with the losses.
//! A file without its end was cut off; what is before the cut is good.

use std::io::{self, BufRead, ErrorKind, Read, Write};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use stealtrace_common::event::Event;

use crate::model::{Losses, ProbeLoss, Summary};

/// The first bytes of every recording; the number is the format's version.
pub const MAGIC: &[u8] = b"stealtrace recording 1\n";

const EVENT: u8 = 1;
const END: u8 = 2;
/// A longer header or end is none of ours.
const MOST_JSON: u64 = 1 << 20;

/// Where and how a recording was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// `uname -r`.
    pub kernel: String,
    /// Backend.
    pub backend: String,
    /// What the steal-time code looked like.
    pub era: String,
    /// Does it hold only what can change a judgement?
    pub edges: bool,
    /// CPUs of the host.
    pub cpus: u64,
    /// CLOCK_MONOTONIC at the start of the trace.
    pub start_ns: u64,
    /// What to add to CLOCK_MONOTONIC for UTC (ns since 1970).
    pub utc_offset_ns: u64,
    /// Names of functions by address, for the view of calls.
    pub functions: Vec<(u64, String)>,
}

/// How a recording ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// What the live trace missed.
    pub losses: Losses,
    /// How long it took.
    pub duration_ns: u64,
    /// Why it proves nothing although nothing was lost.
    pub unproved: Option<String>,
}

/// Writes a recording.
pub struct Recorder<W> {
    out: W,
    last: [u64; Event::WORDS],
}

impl<W: Write> Recorder<W> {
    /// Begin with the header.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn new(mut out: W, header: &Header) -> io::Result<Self> {
        out.write_all(MAGIC)?;
        writeln!(out, "{}", header.to_json())?;
        Ok(Self { out, last: [0; Event::WORDS] })
    }

    /// One more event.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn event(&mut self, event: &Event) -> io::Result<()> {
        let words = event.to_words();
        let mut bytes = [0; 5 + 10 * Event::WORDS];
        let mut changed = 0_u32;
        let mut length = 5;
        for (i, (word, last)) in words.iter().zip(&self.last).enumerate() {
            if word != last {
                changed |= 1 << i;
                length += put_varint(&mut bytes[length..], zigzag(word.wrapping_sub(*last)));
            }
        }
        bytes[0] = EVENT;
        bytes[1..5].copy_from_slice(&changed.to_le_bytes());
        self.last = words;
        self.out.write_all(&bytes[..length])
    }

    /// Show what was written so far.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }

    /// The end: without it a recording counts as cut off.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn end(mut self, end: &End) -> io::Result<()> {
        self.out.write_all(&[END])?;
        writeln!(self.out, "{}", end.to_json())?;
        self.out.flush()
    }
}

/// Reads a recording.
pub struct Player<R> {
    input: R,
    last: [u64; Event::WORDS],
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
    /// Read the header; the input stands behind [`MAGIC`].
    ///
    /// # Errors
    /// When there is none.
    pub fn new(mut input: R) -> Result<Self> {
        let line = read_line(&mut input).context("the recording's header")?;
        let header = Header::from_json(&line).context("the recording's header is damaged")?;
        Ok(Self { input, last: [0; Event::WORDS], header })
    }

    /// The next item; after the end or a cut nothing follows.
    pub fn next_item(&mut self) -> Item {
        match self.read_item() {
            Ok(item) => item,
            Err(error) => Item::Cut(format!("{error:#}")),
        }
    }

    fn read_item(&mut self) -> Result<Item> {
        match read_byte(&mut self.input)? {
            EVENT => self.read_event(),
            END => {
                let line = read_line(&mut self.input)?;
                End::from_json(&line).map(Item::End).context("its end is damaged")
            }
            other => bail!("damaged: no record of kind {other}"),
        }
    }

    fn read_event(&mut self) -> Result<Item> {
        let mut changed = [0; 4];
        self.input.read_exact(&mut changed).map_err(|error| cut(&error))?;
        let changed = u32::from_le_bytes(changed);
        if changed >> Event::WORDS != 0 {
            bail!("damaged: an event has {} words", Event::WORDS);
        }
        for (i, word) in self.last.iter_mut().enumerate() {
            if changed & (1 << i) != 0 {
                *word = word.wrapping_add(unzigzag(read_varint(&mut self.input)?));
            }
        }
        let event = Event::from_words(&self.last).context("damaged")?;
        Ok(Item::Event(Box::new(event)))
    }
}

fn cut(error: &io::Error) -> anyhow::Error {
    match error.kind() {
        ErrorKind::UnexpectedEof => anyhow::anyhow!("cut off"),
        _ => anyhow::anyhow!("{error}"),
    }
}

fn read_byte(input: &mut impl BufRead) -> Result<u8> {
    let mut byte = [0];
    input.read_exact(&mut byte).map_err(|error| cut(&error))?;
    Ok(byte[0])
}

fn read_line(input: &mut impl BufRead) -> Result<Value> {
    let mut line = Vec::new();
    input.take(MOST_JSON).read_until(b'\n', &mut line)?;
    if line.last() != Some(&b'\n') {
        bail!("cut off");
    }
    Ok(serde_json::from_slice(&line)?)
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

fn read_varint(input: &mut impl BufRead) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = read_byte(input)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    bail!("damaged: a number of more than 64 bits")
}

impl Header {
    /// For a log, which has none.
    #[must_use]
    pub fn of_log() -> Self {
        Self {
            kernel: String::new(),
            backend: String::new(),
            era: String::new(),
            edges: false,
            cpus: 0,
            start_ns: 0,
            utc_offset_ns: 0,
            functions: Vec::new(),
        }
    }

    fn to_json(&self) -> Value {
        let functions: Vec<_> = self.functions.iter().map(|(address, name)| json!([address, name])).collect();
        json!({
            "kernel": self.kernel,
            "backend": self.backend,
            "era": self.era,
            "edges": self.edges,
            "cpus": self.cpus,
            "start_ns": self.start_ns,
            "utc_offset_ns": self.utc_offset_ns,
            "functions": functions,
        })
    }

    fn from_json(json: &Value) -> Option<Self> {
        let text = |key: &str| json[key].as_str().map(str::to_owned);
        let function = |pair: &Value| Some((pair[0].as_u64()?, pair[1].as_str()?.to_owned()));
        Some(Self {
            kernel: text("kernel")?,
            backend: text("backend")?,
            era: text("era")?,
            edges: json["edges"].as_bool().unwrap_or(false),
            cpus: json["cpus"].as_u64()?,
            start_ns: json["start_ns"].as_u64()?,
            utc_offset_ns: json["utc_offset_ns"].as_u64()?,
            functions: json["functions"].as_array()?.iter().map(function).collect::<Option<_>>()?,
        })
    }
}

impl End {
    /// The end of a run.
    #[must_use]
    pub fn of(summary: &Summary) -> Self {
        Self {
            losses: summary.losses.clone(),
            duration_ns: summary.duration_ns,
            unproved: summary.unproved.clone(),
        }
    }

    fn to_json(&self) -> Value {
        let probe = |probe: &ProbeLoss| {
            json!({
                "probe": probe.probe, "hits": probe.hits, "emitted": probe.emitted, "lost": probe.lost,
                "lost_by_cpu": probe.lost_by_cpu,
            })
        };
        json!({
            "duration_ns": self.duration_ns,
            "unproved": self.unproved,
            "undecodable": self.losses.undecodable,
            "probes": self.losses.probes.iter().map(probe).collect::<Vec<_>>(),
        })
    }

    fn from_json(json: &Value) -> Option<Self> {
        let by_cpu = |pair: &Value| Some((usize::try_from(pair[0].as_u64()?).ok()?, pair[1].as_u64()?));
        let probe = |probe: &Value| {
            Some(ProbeLoss {
                probe: probe["probe"].as_str()?.to_owned(),
                hits: probe["hits"].as_u64()?,
                emitted: probe["emitted"].as_u64()?,
                lost: probe["lost"].as_u64()?,
                lost_by_cpu: probe["lost_by_cpu"].as_array()?.iter().map(by_cpu).collect::<Option<_>>()?,
            })
        };
        Some(Self {
            duration_ns: json["duration_ns"].as_u64()?,
            unproved: json["unproved"].as_str().map(str::to_owned),
            losses: Losses {
                undecodable: json["undecodable"].as_u64()?,
                probes: json["probes"].as_array()?.iter().map(probe).collect::<Option<_>>()?,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use stealtrace_common::event::Event;

    use super::{End, Header, Item, MAGIC, Player, Recorder, unzigzag, zigzag};

    fn header() -> Header {
        Header {
            kernel: "6.1.0".to_owned(),
            backend: "kprobe".to_owned(),
            era: "recording".to_owned(),
            edges: true,
            cpus: 2,
            start_ns: 5,
            utc_offset_ns: 7,
            functions: vec![(0xffff_ffff_8000_0000, "kvm_arch_vcpu_load".to_owned())],
        }
    }

    fn events() -> Vec<Event> {
        let event = |time_ns, run_delay_ns| Event { kind: 3, time_ns, run_delay_ns, ..Event::default() };
        vec![event(10, u64::MAX), event(20, 0), event(20, 1 << 63)]
    }

    fn recording() -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut recorder = Recorder::new(&mut bytes, &header()).unwrap();
        events().iter().for_each(|event| recorder.event(event).unwrap());
        recorder.end(&End { duration_ns: 99, ..End::default() }).unwrap();
        bytes
    }

    /// Everything before the end or cut, and whether there was an end.
    fn play(bytes: &[u8]) -> (Vec<Event>, bool) {
        let mut player = Player::new(bytes.strip_prefix(MAGIC).unwrap()).unwrap();
        assert_eq!(player.header, header());
        let mut played = Vec::new();
        loop {
            match player.next_item() {
                Item::Event(event) => played.push(*event),
                Item::End(end) => {
                    assert_eq!(end.duration_ns, 99);
                    return (played, true);
                }
                Item::Cut(_) => return (played, false),
            }
        }
    }

    #[test]
    fn what_was_recorded_is_played() {
        assert_eq!(play(&recording()), (events(), true));
    }

    #[test]
    fn a_cut_anywhere_keeps_what_is_before_it() {
        let whole = recording();
        let header = MAGIC.len() + whole[MAGIC.len()..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for length in header..whole.len() {
            let (played, ended) = play(&whole[..length]);
            assert!(!ended);
            assert!(events().starts_with(&played));
        }
    }

    #[test]
    fn damage_is_a_cut_and_never_a_panic() {
        let whole = recording();
        let start = MAGIC.len() + whole[MAGIC.len()..].iter().position(|byte| *byte == b'\n').unwrap() + 1;
        for at in start..whole.len() {
            for damage in [0, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] = damage;
                let mut player = Player::new(&bytes[MAGIC.len()..]).unwrap();
                while let Item::Event(_) = player.next_item() {}
            }
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
