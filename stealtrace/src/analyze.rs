//! `stealtrace analyze`: a recording or a log through the same pipeline as a live trace.

mod bounds;
mod log;

use std::{
    io::{self, BufWriter, Read as _, Write},
    path::PathBuf,
};

use self::{bounds::Bounds, log::read_log};
use crate::{
    evidence::{self, Kind},
    exit::{Exit, is_broken_pipe},
    input::{self, Input},
    model::{Severity, Summary},
    pipeline::{Filter, Flow, Pipeline, Selection},
    record::{End, Header, Item, MAGIC, Player},
    report::{self, Style},
};
use anyhow::{Context as _, Result, bail};

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

/// Read, judge, show.
///
/// # Errors
/// When the file cannot be read or is none that we know.
pub fn analyze(options: &AnalyzeOptions) -> Result<Exit> {
    let content = input::open(&options.file).with_context(|| format!("read {}", options.file.display()))?;
    analyze_content(options, content, io::stdout())
}

/// The same with what is in the file, wherever that is from.
///
/// # Errors
/// When it cannot be read or is none that we know.
pub fn analyze_content(options: &AnalyzeOptions, content: Input, out: impl Write + 'static) -> Result<Exit> {
    let name = options.file.display();
    let (head, input) = input::head(content).with_context(|| format!("read {name}"))?;
    let kind = match options.kind.or_else(|| detect(&head)) {
        Some(kind) => kind,
        None if is_blank(&head) => return nothing(options, out),
        None => bail!(
            "{name} is none of: a recording of `stealtrace trace --record`, systemtap output of the script in \
             Launchpad 1494350, strace output with ioctls, /proc/stat, QEMU's xp; --kind says which if it is"
        ),
    };
    let analyzed = match evidence::reader(kind) {
        None => play(options, input, out),
        Some(reader) => read_log(options, kind, reader, input, out),
    };
    let summary = analyzed.with_context(|| format!("analyze {name}"))?;
    Ok(Exit::of(&summary, options.fail_on))
}

fn detect(head: &[u8]) -> Option<Kind> {
    if head.starts_with(MAGIC) { Some(Kind::Recording) } else { evidence::detect(head) }
}

fn is_blank(head: &[u8]) -> bool {
    head.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// There is nothing in the file.
fn nothing(options: &AnalyzeOptions, out: impl Write + 'static) -> Result<Exit> {
    let empty = End { unproved: Some("the file is empty".to_owned()), ..End::default() };
    let made = Summary { source: "an empty file".to_owned(), ..Summary::default() };
    let summary = finish(pipeline(options, &Header::of_log(), out), Ok(empty), made)?;
    Ok(Exit::of(&summary, options.fail_on))
}

fn pipeline(options: &AnalyzeOptions, header: &Header, out: impl Write + 'static) -> Pipeline {
    let reporter = report::reporter(options.style, header, BufWriter::new(out));
    Pipeline::new(&options.selection, reporter)
}

fn play(options: &AnalyzeOptions, mut input: Input, out: impl Write + 'static) -> Result<Summary> {
    let mut magic = vec![0; MAGIC.len()];
    input.read_exact(&mut magic).context("no recording")?;
    if magic != MAGIC {
        bail!("no recording of this version");
    }
    let mut player = Player::new(input)?;
    let mut pipeline = pipeline(options, &player.header, out);
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
    let (mut bounds, mut left_out) = (Bounds::default(), 0);
    loop {
        match player.next_item() {
            Item::Event(event) if !bounds.admit(&event) => left_out += 1,
            Item::Event(event) if options.filter.admits(&event) => {
                if pipeline.event(&event)? == Flow::Stop {
                    return Ok(End::default());
                }
            }
            Item::Event(_) => {}
            Item::End(end) => return Ok(less(end, left_out)),
            Item::Cut(how) => {
                let unproved = Some(format!("the recording is not whole: {how}"));
                return Ok(less(End { unproved, ..End::default() }, left_out));
            }
        }
    }
}

/// An end before which events had to be left out.
fn less(mut end: End, left_out: u64) -> End {
    end.losses.undecodable = end.losses.undecodable.saturating_add(left_out);
    end
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
