//! `stealtrace analyze`: a recording or a log through the same pipeline as a live trace.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, BufWriter, Chain, Cursor, Read},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use stealtrace_common::event::Event;

use crate::{
    evidence::{self, Kind, Line, Reader, Sink},
    exit::{Exit, is_broken_pipe},
    model::{Finding, Severity, Summary, VcpuKey},
    pipeline::{Filter, Flow, Pipeline, Selection},
    record::{End, Header, Item, MAGIC, Player},
    report::{self, Style},
};

/// What is read to find out what a file is.
const HEAD_BYTES: u64 = 64 << 10;
/// A longer line is none of any log we know; its rest is left out.
const MOST_LINE_BYTES: u64 = 1 << 20;

/// What to read and how to show it.
#[derive(Clone, Debug)]
pub struct AnalyzeOptions {
    /// The file; `-` for standard input.
    pub file: PathBuf,
    /// What it is; None to find out.
    pub kind: Option<Kind>,
    /// Whose events.
    pub filter: Filter,
    /// What to show.
    pub selection: Selection,
    /// How.
    pub style: Style,
    /// Findings from here upwards make exit code 1.
    pub fail_on: Severity,
}

type Input = Chain<Cursor<Vec<u8>>, Box<dyn BufRead>>;

/// Read, judge, show.
///
/// # Errors
/// When the file cannot be read or is none that we know.
pub fn analyze(options: &AnalyzeOptions) -> Result<Exit> {
    let name = options.file.display();
    let (head, input) = open(options).with_context(|| format!("read {name}"))?;
    let kind = match options.kind {
        Some(kind) => kind,
        None => detect(&head).with_context(|| {
            format!(
                "{name} is none of: a recording of `stealtrace trace --record`, systemtap output of the script in \
                 Launchpad 1494350, strace output with ioctls, /proc/stat, QEMU's xp; --kind says which if it is"
            )
        })?,
    };
    let analyzed = match evidence::reader(kind) {
        None => play(options, input),
        Some(reader) => read_log(options, kind, reader, input),
    };
    let summary = analyzed.with_context(|| format!("analyze {name}"))?;
    Ok(Exit::of(&summary, options.fail_on))
}

fn open(options: &AnalyzeOptions) -> Result<(Vec<u8>, Input)> {
    let mut file: Box<dyn BufRead> = if options.file.as_os_str() == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::with_capacity(1 << 18, File::open(&options.file)?))
    };
    let mut head = Vec::new();
    file.as_mut().take(HEAD_BYTES).read_to_end(&mut head)?;
    Ok((head.clone(), Cursor::new(head).chain(file)))
}

fn detect(head: &[u8]) -> Option<Kind> {
    if head.starts_with(MAGIC) {
        Some(Kind::Recording)
    } else {
        evidence::detect(&String::from_utf8_lossy(head))
    }
}

fn pipeline(options: &AnalyzeOptions, header: &Header) -> Pipeline {
    let reporter = report::reporter(options.style, header, BufWriter::new(io::stdout()));
    Pipeline::new(&options.selection, reporter)
}

fn play(options: &AnalyzeOptions, mut input: Input) -> Result<Summary> {
    let mut magic = vec![0; MAGIC.len()];
    input.read_exact(&mut magic).context("no recording")?;
    if magic != MAGIC {
        bail!("no recording of this version");
    }
    let mut player = Player::new(input)?;
    let mut pipeline = pipeline(options, &player.header);
    let played = play_events(&mut player, options, &mut pipeline);
    let made = Summary {
        source: format!("recording of the {} backend", player.header.backend),
        edges: player.header.edges,
        ..Summary::default()
    };
    finish(pipeline, played, made)
}

fn play_events(
    player: &mut Player<Input>,
    options: &AnalyzeOptions,
    pipeline: &mut Pipeline,
) -> io::Result<End> {
    loop {
        match player.next_item() {
            Item::Event(event) if options.filter.admits(&event) => {
                if pipeline.event(&event)? == Flow::Stop {
                    return Ok(End::default());
                }
            }
            Item::Event(_) => {}
            Item::End(end) => return Ok(end),
            Item::Cut(how) => {
                return Ok(End {
                    unproved: Some(format!("the recording is not whole: {how}")),
                    ..End::default()
                });
            }
        }
    }
}

/// Tell what waited, then the end; `made` is what is known of how the file was made.
fn finish(mut pipeline: Pipeline, played: io::Result<End>, made: Summary) -> Result<Summary> {
    let ended = played.and_then(|end| pipeline.settle().map(|()| end));
    let end = match ended {
        Ok(end) => end,
        Err(error) => return quiet_if_closed(error, &pipeline),
    };
    let summary = Summary {
        duration_ns: end.duration_ns,
        losses: end.losses,
        unproved: end.unproved,
        source: made.source,
        edges: made.edges,
        ..pipeline.summary()
    };
    match pipeline.end(&summary) {
        Ok(()) => Ok(summary),
        Err(error) => quiet_if_closed(error, &pipeline),
    }
}

fn quiet_if_closed(error: io::Error, pipeline: &Pipeline) -> Result<Summary> {
    let error = anyhow::Error::from(error);
    if is_broken_pipe(&error) { Ok(pipeline.summary()) } else { Err(error.context("write the result")) }
}

fn read_log(
    options: &AnalyzeOptions,
    kind: Kind,
    mut reader: Box<dyn Reader>,
    input: Input,
) -> Result<Summary> {
    let mut judge =
        Judge { pipeline: pipeline(options, &Header::of_log()), filter: &options.filter, enough: false };
    let read = read_lines(input, reader.as_mut(), &mut judge);
    let (lines, not_understood) = match read {
        Ok(counts) => counts,
        Err(error) => return quiet_if_closed(error, &judge.pipeline),
    };
    let note = format!("{lines} lines read, {not_understood} not understood");
    if let Err(error) = judge.note(&note) {
        return quiet_if_closed(error, &judge.pipeline);
    }
    let made = Summary { source: format!("{} log", kind.word()), ..Summary::default() };
    finish(judge.pipeline, Ok(End::default()), made)
}

fn read_lines(mut input: Input, reader: &mut dyn Reader, judge: &mut Judge<'_>) -> io::Result<(u64, u64)> {
    let (mut lines, mut not_understood) = (0, 0);
    let mut bytes = Vec::new();
    while !judge.enough && next_line(&mut input, &mut bytes)? {
        lines += 1;
        let line = match std::str::from_utf8(&bytes) {
            Ok(line) => reader.line(line, judge)?,
            Err(_) => reader.line(&String::from_utf8_lossy(&bytes), judge)?,
        };
        not_understood += u64::from(line == Line::NotUnderstood);
    }
    reader.end(judge)?;
    Ok((lines, not_understood))
}

/// The next line without its end; false if there is none.
fn next_line(input: &mut Input, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    if input.take(MOST_LINE_BYTES).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else {
        input.skip_until(b'\n')?;
    }
    Ok(true)
}

/// Hands what a reader says to the pipeline.
struct Judge<'a> {
    pipeline: Pipeline,
    filter: &'a Filter,
    enough: bool,
}

impl Sink for Judge<'_> {
    fn event(&mut self, event: &Event) -> io::Result<()> {
        if self.filter.admits(event) && !self.enough {
            self.enough = self.pipeline.event(event)? == Flow::Stop;
        }
        Ok(())
    }

    fn finding(&mut self, vcpu: VcpuKey, finding: Finding) -> io::Result<()> {
        if self.filter.admits_finding(&finding) && !self.enough {
            self.enough = self.pipeline.found(vcpu, finding)? == Flow::Stop;
        }
        Ok(())
    }

    fn note(&mut self, note: &str) -> io::Result<()> {
        self.pipeline.note(note)
    }
}
