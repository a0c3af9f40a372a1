//! Pages in a real browser, which has no network: they are drawn, wide and narrow, light and dark, and nothing complains.

use std::{fs, path::PathBuf, process::Command};

use stealtrace_tests::{
    monitoring::{Folder, peer},
    run, stealtrace,
};

/// What a browser makes of a page; where its picture is, and what it said.
fn drawn(folder: &Folder, page: &str, width: u32, dark: bool) -> (PathBuf, String) {
    let here = folder.make("");
    let shot = format!("{page}-{width}-{dark}.png");
    let script = format!(
        "chromium --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --disable-quic \
         --disable-background-networking --disable-component-update --disable-sync --hide-scrollbars \
         --enable-logging=stderr --log-level=0 --user-data-dir=/tmp/profile --window-size={width},1400 \
         --blink-settings=preferredColorScheme={} --screenshot=/mnt/{shot} file:///mnt/{page}.html",
        u8::from(!dark)
    );
    let said = run(Command::new(peer("chromium")).arg(&here).args(["sh", "-c", &script]));
    assert_eq!(said.code, 0, "{}", said.stderr);
    (here.join(shot), said.stderr)
}

#[test]
fn pages_are_drawn_wide_and_narrow_light_and_dark_without_a_complaint() {
    let folder = Folder::new("pictures");
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    for (page, file) in [("stock", "recordings/stock-6.1.stealtrace"), ("report", "evidence/systemtap.txt")] {
        let made = run(stealtrace().args(["analyze", "--format", "html"]).arg(format!("{tests}{file}")));
        fs::write(folder.make("").join(format!("{page}.html")), made.stdout).expect("written");
        let mut pictures = Vec::new();
        for (width, dark) in [(1280, false), (1280, true), (380, false), (380, true)] {
            let (shot, said) = drawn(&folder, page, width, dark);
            assert!(!said.contains("CONSOLE"), "{said}");
            let picture = fs::read(shot).expect("a picture");
            assert!(picture.len() > 20_000, "{page} {width} {dark}: {} bytes", picture.len());
            pictures.push(picture);
        }
        assert!(pictures[0] != pictures[1] && pictures[2] != pictures[3], "dark is not light");
    }
}
