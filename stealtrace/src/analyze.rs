//! `stealtrace analyze`: a recording or a log through the same pipeline as a live trace.

mod bounds;
mod log;
mod made_up;

use std::{
    io::{self, BufWriter},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};

pub use self::made_up::analyze_made_up;
use self::{bounds::Bounds, log::read_log};
use crate::{
    evidence::{self, Kind},
    exit::Exit,
    input::{self, Input},
    model::{Severity, Summary},
    os::output::Output,
    pipeline::{Filter, Flow, Pipeline, Selection},
    record::{End, Header, Item, Player, is_recording},
    report::{self, Style},
};

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
pub fn analyze(options: &AnalyzeOptions, out: &Output) -> Result<Exit> {
    let content = input::open(&options.file).with_context(|| format!("read {}", options.file.display()))?;
    analyze_content(options, content, out)
}

/// The same with what is in the file, wherever that is from.
fn analyze_content(options: &AnalyzeOptions, content: Input, out: &Output) -> Result<Exit> {
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
        Some(_) if options.style.calls => bail!("{name} holds no calls; leave --calls out"),
        Some(reader) => read_log(options, kind, reader, input, out),
    };
    let summary = analyzed.with_context(|| format!("analyze {name}"))?;
    Ok(Exit::of(&summary, options.fail_on))
}

fn detect(head: &[u8]) -> Option<Kind> {
    if is_recording(head) { Some(Kind::Recording) } else { evidence::detect(head) }
}

fn is_blank(head: &[u8]) -> bool {
    head.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0)
}

/// There is nothing in the file.
fn nothing(options: &AnalyzeOptions, out: &Output) -> Result<Exit> {
    let empty = End { unproved: Some("the file is empty".to_owned()), ..End::default() };
    let made = Summary { source: "an empty file".to_owned(), ..Summary::default() };
    let summary = finish(pipeline(options, &Header::of_log(), out), &options.filter, empty, made, out)?;
    Ok(Exit::of(&summary, options.fail_on))
}

/// Bytes to write at once.
const AT_ONCE: usize = 1 << 16;

fn pipeline(options: &AnalyzeOptions, header: &Header, out: &Output) -> Pipeline {
    let reporter = report::reporter(options.style, header, BufWriter::with_capacity(AT_ONCE, out.clone()));
    Pipeline::new(&options.selection, reporter)
}

fn play(options: &AnalyzeOptions, input: Input, out: &Output) -> Result<Summary> {
    let mut player = Player::new(input)?;
    if options.style.calls && !player.header.calls {
        bail!("it was recorded without --calls and holds none; leave --calls out");
    }
    let mut pipeline = pipeline(options, &player.header, out);
    pipeline.begin(&player.header)?;
    let end = play_events(&mut player, options, &mut pipeline, out)?;
    let made = Summary {
        source: format!("recording of the {} backend", player.header.backend),
        edges: player.header.edges,
        ..Summary::default()
    };
    finish(pipeline, &options.filter, end, made, out)
}

fn play_events(
    player: &mut Player<Input>,
    options: &AnalyzeOptions,
    pipeline: &mut Pipeline,
    out: &Output,
) -> io::Result<End> {
    let (mut bounds, mut left_out, mut is_enough) = (Bounds::default(), 0, false);
    while !out.is_over() {
        match player.next_item() {
            Item::Event(_) if is_enough => {} // on to the end, which knows of losses
            Item::Event(event) if !options.filter.admits(event) => {}
            Item::Event(event) if !bounds.admit(event) => left_out += 1,
            Item::Event(event) => is_enough = pipeline.event(event)? == Flow::Stop,
            Item::End(end) => return Ok(less(end, left_out)),
            Item::Cut(how) => {
                let unproved = Some(format!("the recording is not whole: {how}"));
                return Ok(less(End { unproved, ..End::default() }, left_out));
            }
        }
    }
    Ok(End::default())
}

/// An end before which events had to be left out.
fn less(mut end: End, left_out: u64) -> End {
    end.losses.undecodable = end.losses.undecodable.saturating_add(left_out);
    end
}

/// Tell what waited, then the end; `made` is what is known of how the file was made.
fn finish(mut pipeline: Pipeline, filter: &Filter, end: End, made: Summary, out: &Output) -> Result<Summary> {
    let unread = out.is_over().then(|| "nobody read the results to their end".to_owned());
    pipeline.settle()?;
    let seen = pipeline.summary();
    let is_in_vain = filter.is_narrow() && seen.vcpus.is_empty() && seen.findings.is_empty();
    let nothing =
        || is_in_vain.then(|| "nothing in it is by what --pid, --tid, --vcpu and --comm leave".to_owned());
    let summary = Summary {
        duration_ns: end.duration_ns,
        losses: end.losses,
        unproved: end.unproved.or(unread).or_else(nothing),
        source: made.source,
        edges: made.edges,
        ..seen
    };
    pipeline.end(&summary)?;
    Ok(summary)
}
