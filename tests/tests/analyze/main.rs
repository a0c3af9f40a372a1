//! `stealtrace analyze` on files: what it prints is compared with golden files, word for word.
//! `UPDATE_GOLDEN=1` writes them anew; read the difference before you keep it.

mod logs;
mod pictures;
mod recordings;
mod stored;

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use stealtrace_tests::{Run, run, stealtrace};

pub(crate) fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

pub(crate) fn evidence(name: &str) -> String {
    folder("evidence").join(name).display().to_string()
}

pub(crate) fn recording(name: &str) -> String {
    folder("recordings").join(name).display().to_string()
}

pub(crate) fn analyze(args: &[&str]) -> Run {
    run(stealtrace().arg("analyze").args(args))
}

/// The output must be the golden file's.
pub(crate) fn assert_golden(name: &str, args: &[&str], code: i32) {
    let result = analyze(args);
    assert_eq!(result.code, code, "{args:?}: {}", result.stderr);
    assert_eq!(result.stderr, "", "{args:?}");
    let golden = folder("golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &result.stdout).expect("write the golden file");
    }
    let wanted = fs::read_to_string(&golden).unwrap_or_default();
    assert!(
        result.stdout == wanted,
        "{} differs:\n--- golden\n{wanted}\n--- now\n{}",
        golden.display(),
        result.stdout
    );
}

/// What analyze says of what comes from this writer.
pub(crate) fn analyze_written(
    command: &mut Command,
    write: impl FnOnce(&mut dyn io::Write) -> io::Result<()>,
) -> Run {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut stdin = child.stdin.take().expect("piped");
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| child.wait_with_output().expect("ends"));
        let _refused = write(&mut stdin);
        drop(stdin);
        Run::from(reading.join().expect("read"))
    })
}

pub(crate) fn analyze_bytes(args: &[&str], bytes: &[u8]) -> Run {
    analyze_written(stealtrace().args(["analyze", "-"]).args(args), |to| to.write_all(bytes))
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    flate2::read::GzEncoder::new(bytes, flate2::Compression::fast())
        .read_to_end(&mut packed)
        .expect("packed");
    packed
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("to memory")
}
