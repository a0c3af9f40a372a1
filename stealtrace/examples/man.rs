//! The manual pages, from the same words as --help: stealtrace(1) and one for each subcommand. Not in the binary, which has
//! no use for what writes them: `cargo run --example man -- FOLDER`.

use std::{
    env,
    fs::File,
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::Command;
use clap_mangen::{
    Man,
    roff::{Roff, roman},
};

fn main() -> Result<()> {
    let folder = PathBuf::from(env::args_os().nth(1).context("say the folder")?);
    let mut whole = stealtrace::command().disable_help_subcommand(true);
    whole.build(); // which names the subcommands' pages
    let parts: Vec<_> = whole.get_subcommands().filter(|part| !part.is_hide_set()).collect();
    let names: Vec<_> = parts.iter().map(|part| name(part)).collect();
    page(&whole, &names, &folder)?;
    parts.iter().try_for_each(|part| page(part, &[name(&whole)], &folder))
}

/// `stealtrace-export`
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// Write its page.
fn page(command: &Command, others: &[&str], folder: &Path) -> Result<()> {
    let name = name(command);
    let mut out = File::create(folder.join(format!("{name}.1"))).context("create a page")?;
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let (examples, codes) = help.split_once("Exit codes:\n").unwrap_or((&help, ""));
    let man = Man::new(command.clone())
        .title(name.to_uppercase())
        .source(concat!("stealtrace ", env!("CARGO_PKG_VERSION")));
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    man.render_synopsis_section(&mut out)?;
    man.render_description_section(&mut out)?;
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    verbatim("EXAMPLES", examples.trim_start_matches("Examples:\n"), &mut out)?;
    verbatim("EXIT STATUS", codes, &mut out)?;
    let others: Vec<_> = others.iter().map(|other| format!("{other}(1)")).collect();
    Ok(Roff::new().control("SH", ["SEE ALSO"]).text([roman(others.join(", "))]).to_writer(&mut out)?)
}

/// A section whose lines stay as they are.
fn verbatim(title: &str, lines: &str, out: &mut impl Write) -> Result<()> {
    let lines = lines.trim_end();
    if lines.is_empty() {
        return Ok(());
    }
    let mut roff = Roff::new();
    roff.control("SH", [title]).control("nf", []);
    for line in lines.lines() {
        roff.text([roman(line)]);
    }
    Ok(roff.control("fi", []).to_writer(out)?)
}
