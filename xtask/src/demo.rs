//! The demo: the bug of 2015 caught on a kernel that has it, silence on the same kernel fixed, today's hand-off. A story on
//! the terminal, a page with pictures of each kernel, everything else in a log.

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    arch::Arch,
    build, cache,
    process::{output, say, which},
};

struct Act {
    kernel: &'static str,
    expect: &'static str,
    title: &'static str,
    story: &'static str,
}

const ACTS: [Act; 2] = [
    Act {
        kernel: "unfixed-6.1",
        expect: "affected",
        title: "Linux 6.1 with the bug of 2015",
        story: "The VMM's main thread restores the steal MSR, as QEMU's did on live migration. This kernel copies the
restorer's run_delay into last_steal. The thread that runs the vCPU has waited less: the next update
subtracts more than there is, and the guest reads 584 years of steal time.",
    },
    Act {
        kernel: "stock-6.1",
        expect: "fixed",
        title: "Linux 6.1 as Debian ships it",
        story: "The same restore does no harm here. But when KVM_RUN moves to another thread, last_steal is still the
first thread's: the guest's steal time goes back by what that one had waited.",
    },
];

/// Enough for a verdict.
const SCENARIOS: &str = "same-thread restore-by-main-thread run-hand-off-down";

/// In the lab guest: the recording comes out as text, then what was found.
const SCRIPT: &str = r#"
stealtrace trace --format json --output /tmp/trace --record /tmp/recording -- \
    stealtrace verify --no-trace --output /tmp/verdicts --expect "$1" $2
code=$?
cat /tmp/verdicts >&2
base64 /tmp/recording
exit $code
"#;

/// Play both acts; each must find corruption. With `picture`, that of README is made anew.
pub(crate) fn demo(picture: bool) -> Result<()> {
    let stealtrace = build::dist(Arch::HERE)?;
    let folder = cache::target()?.join("demo");
    fs::create_dir_all(&folder)?;
    say(&format!("what is not told here is in {}", folder.join("log").display()));
    let mut pages = Vec::new();
    for (n, act) in ACTS.iter().enumerate() {
        tell(&format!("\n{} of {}: {}\n\n{}\n", n + 1, ACTS.len(), act.title, act.story))?;
        pages.push(play(act, &stealtrace, &folder)?);
    }
    for page in &pages {
        tell(&format!("picture: {}", page.display()))?;
    }
    if picture {
        let page = fs::read_to_string(&pages[0])?;
        let file = cache::root()?.join("stealtrace/docs/picture.svg");
        fs::write(&file, drawing(&page).context("no picture in the page")?)?;
        say(&format!("{} is new", file.display()));
    }
    show(&pages)
}

/// Record it in the lab; the page that is made of it here.
fn play(act: &Act, stealtrace: &Path, folder: &Path) -> Result<PathBuf> {
    let log = fs::File::options().create(true).append(true).open(folder.join("log"))?;
    let mut lab = Command::new(env::current_exe().context("find xtask itself")?);
    lab.args(["lab", "run", act.kernel, "--", "sh", "-c", SCRIPT, "demo", act.expect, SCENARIOS]);
    let played = lab.stdin(Stdio::null()).stderr(log).output().context("run the lab")?;
    let code = played.status.code();
    ensure!(code == Some(1), "stealtrace trace ended with {code:?} on {}, not with 1 (findings)", act.kernel);
    let recording = folder.join(format!("{}.stealtrace", act.kernel));
    decode(&played.stdout, &recording)?;
    let analyze = |arguments: &[&str]| -> Result<String> {
        let mut analyze = Command::new(stealtrace);
        let told = analyze.args(["analyze", "--quiet"]).args(arguments).arg(&recording).output()?;
        Ok(String::from_utf8_lossy(&told.stdout).into_owned())
    };
    for line in
        analyze(&["--findings-only", "--min-severity", "error"])?.lines().filter(|line| is_decisive(line))
    {
        tell(&format!("   {}", line.split(" [").next().unwrap_or(line).trim()))?;
    }
    tell(&format!("\nverdict: {}, as it should be", act.expect))?;
    let page = folder.join(format!("{}.html", act.kernel));
    fs::write(&page, analyze(&["--format", "html"])?)?;
    Ok(page)
}

fn is_decisive(line: &str) -> bool {
    line.contains("error: ") && line.contains(" at ")
}

/// As `base64` writes it.
fn decode(text: &[u8], to: &Path) -> Result<()> {
    let mut decoder = Command::new("base64")
        .args(["--decode", "--ignore-garbage"])
        .stdin(Stdio::piped())
        .stdout(fs::File::create(to)?)
        .spawn()
        .context("run base64")?;
    decoder.stdin.take().context("base64 has no input")?.write_all(text)?;
    ensure!(decoder.wait()?.success(), "the lab did not hand over its recording");
    Ok(())
}

fn tell(what: &str) -> Result<()> {
    writeln!(io::stdout(), "{what}").context("print")
}

/// The first picture of a page, from close by if there is one: it stands alone.
fn drawing(page: &str) -> Option<String> {
    let close = page.split_once("from close by").map_or(page, |(_, close)| close);
    let between =
        |text: &'static str, to: &str, of: &str| Some(of.split_once(text)?.1.split_once(to)?.0.to_owned());
    let (style, svg) = (between("<style>", "</style>", page)?, between("<svg ", "</svg>", close)?);
    let svg = svg.replace("&quot;", "\"");
    let (attributes, shapes) = svg.split_once('>')?;
    let paper = r#"<rect width="100%" height="100%" style="fill: var(--paper)"/>"#;
    Some(format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" {attributes}><style>{style}</style>{paper}{shapes}</svg>\n"
    ))
}

/// Open them where there is somebody to look.
fn show(pages: &[PathBuf]) -> Result<()> {
    let has_display = ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| env::var_os(name).is_some());
    if has_display && which("xdg-open").is_some() {
        for page in pages {
            output(Command::new("xdg-open").arg(page))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::drawing;

    #[test]
    fn a_picture_takes_its_style_along() {
        let page = "<style>a{}</style><svg></svg>from close by:<svg viewBox=\"0 0 1 1\"><path/></svg>";
        let svg = drawing(page).expect("a picture");
        assert!(
            svg.starts_with("<svg xmlns=")
                && svg.contains("<style>a{}</style>")
                && svg.contains("<path/></svg>")
        );
    }
}
