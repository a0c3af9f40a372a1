//! `lab verify --markdown`: which kernels were tried, what they are, who saw it, and what cannot be seen there.

use std::fmt::Write as _;

use anyhow::Result;

use super::{
    matrix::{precision, tally},
    row::{Pass, Row},
};
use crate::process::output;

/// The page.
pub(super) fn page(rows: &[Row]) -> Result<String> {
    let date = output(std::process::Command::new("date").args(["-u", "+%F"]))?;
    let mut page = format!(
        "# Kernels\n\n\
         Tried on {}, each with every scenario of [`stealtrace verify`](VERIFY.md), by `cargo xtask lab verify --all \
         --markdown FILE`. What the words mean stands in VERIFY.md; how kernels get here in [LAB.md](LAB.md). A cell says \
         in how many scenarios the tracer says the same as the VMM, and how many are skipped, since that kernel's KVM does \
         not serve them (guests of Xen); of random hand-offs how many corruptions it named (recall) and how many of its \
         reports were one (precision).\n\n\
         | kernel | version | it is | fentry | kprobe | tracepoint | not seen there |\n|---|---|---|---|---|---|---|\n",
        date.trim()
    );
    for row in rows {
        write!(page, "{}", line(row))?;
    }
    Ok(page)
}

fn line(row: &Row) -> String {
    let Row { name, release, expect, passes, unable } = row;
    let Ok(passes) = passes else {
        return format!("| {name} | {release} | not known | | | the lab failed |\n");
    };
    let class = passes.iter().find_map(Pass::class).unwrap_or("undecided");
    let class = if class == expect { class.to_owned() } else { format!("{class}, not {expect}") };
    let by =
        |backend| passes.iter().find(|pass| pass.backend() == Some(backend)).map(cell).unwrap_or_default();
    let unseen: Vec<_> =
        passes.iter().filter_map(|pass| pass.summary.as_ref()?["no_witness"].as_str()).collect();
    let unseen = unseen.first().copied().or(unable.first().map(String::as_str)).unwrap_or_default();
    let seen = ["fentry", "kprobe", "tracepoint"].map(by).join(" | ");
    format!("| {name} | {release} | {class} | {seen} | {unseen} |\n")
}

fn cell(pass: &Pass) -> String {
    let agree = tally(pass);
    match precision(pass) {
        Some([_, _, recall, precision]) => format!("{agree}; recall {recall}, precision {precision}"),
        None => agree,
    }
}
