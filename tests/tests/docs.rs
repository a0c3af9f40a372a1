//! The pages say what the program does.

use std::{collections::BTreeSet, fs, path::Path};

use stealtrace_tests::{run, stealtrace};

const SUBCOMMANDS: [&str; 9] =
    ["analyze", "doctor", "export", "guard", "guest", "inspect", "trace", "verify", "watch"];

/// Those of every subcommand, on trace's page.
const EVERYWHERE: [&str; 6] = ["--color", "--help", "--output", "--quiet", "--verbose", "--version"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the repository")
}

fn page(subcommand: &str) -> String {
    let file = root().join(format!("stealtrace/docs/{}.md", subcommand.to_uppercase()));
    fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
}

/// `--name` wherever it stands in these lines.
fn options<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeSet<String> {
    let is_of_name = |c: char| c.is_ascii_lowercase() || c == '-';
    let names = lines.flat_map(|line| line.match_indices("--").map(|(at, _)| &line[at..]));
    let names = names.map(|rest| &rest[..rest.find(|c| !is_of_name(c)).unwrap_or(rest.len())]);
    names.filter(|name| name.len() > 3).map(str::to_owned).collect()
}

fn in_help(subcommand: &str) -> BTreeSet<String> {
    let help = run(stealtrace().args(["help", subcommand])).stdout;
    let starts = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    options(starts.map(|line| line.split('<').next().unwrap_or(line)))
}

#[test]
fn every_option_is_on_its_page_and_every_option_there_exists() {
    let every: BTreeSet<_> = EVERYWHERE.map(str::to_owned).into();
    for subcommand in SUBCOMMANDS {
        let (page, help) = (page(subcommand), in_help(subcommand));
        let described = options(page.lines());
        let missing: Vec<_> = help.difference(&every).filter(|option| !described.contains(*option)).collect();
        assert!(missing.is_empty(), "{subcommand}'s page lacks {missing:?}");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `--")?.split(" | ").next());
        let rows: Vec<_> = rows.map(|cell| format!("`--{cell}")).collect();
        let unknown: Vec<_> = options(rows.iter().map(String::as_str)).difference(&help).cloned().collect();
        assert!(unknown.is_empty(), "{subcommand} has no {unknown:?}");
    }
}

/// `$ stealtrace analyze tests/...`, and what follows up to the end of the block.
#[test]
fn output_that_can_be_made_again_is_what_is_shown() {
    let page = page("analyze");
    let mut checked = 0;
    for block in page.split("\n```\n").filter_map(|block| block.strip_prefix("$ stealtrace ")) {
        let (command, shown) = block.split_once('\n').expect("a command and its output");
        let result = run(stealtrace().current_dir(root()).args(command.split(' ')));
        assert_eq!(result.stdout.trim_end(), shown.trim_end(), "{command}");
        checked += 1;
    }
    assert!(checked > 0);
}

#[test]
fn links_between_pages_lead_somewhere() {
    let pages = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].map(|name| root().join(name));
    let more =
        fs::read_dir(root().join("stealtrace/docs")).expect("readable").flatten().map(|entry| entry.path());
    for page in pages.into_iter().chain(more) {
        let text = fs::read_to_string(&page).expect("readable");
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://")) {
            let file = link.split('#').next().unwrap_or(link);
            let target = page.parent().expect("in a folder").join(file);
            assert!(target.exists(), "{}: {link}", page.display());
        }
    }
}

/// "```rust FILE", and code that stands in that file.
#[test]
fn examples_for_contributors_are_the_projects_code() {
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).expect("readable");
    let mut checked = 0;
    for block in text.split("```rust ").skip(1) {
        let (file, rest) = block.split_once('\n').expect("a file and its code");
        let code = rest.split("```").next().unwrap_or_default();
        let source = fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert!(source.contains(code), "{file} has no longer:\n{code}");
        checked += 1;
    }
    assert!(checked > 5);
}
