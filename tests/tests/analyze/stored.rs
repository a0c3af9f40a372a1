//! Logs as they are stored: piped, compressed, cut.

use std::fs;

use stealtrace_tests::{expected, findings, json_lines};

use super::{analyze_bytes, evidence, folder, gzip, zstd};

#[test]
fn streams_are_read() {
    let text = fs::read(folder("evidence/xp-bytes.txt")).expect("the evidence");
    let result = analyze_bytes(&["--format", "json"], &text);
    assert_eq!(result.code, 1);
    assert_eq!(findings(&json_lines(&result.stdout)), expected(&[("steal-poisoned", "error")]));
}

#[test]
fn a_log_reads_the_same_however_it_was_stored() {
    for name in ["systemtap", "strace", "proc-stat", "xp-bytes", "xp-decimal"] {
        let text = fs::read_to_string(evidence(&format!("{name}.txt"))).expect("the evidence");
        let plain = analyze_bytes(&["--format", "json"], text.as_bytes());
        let crlf = text.replace('\n', "\r\n");
        let utf16 = |order: fn(u16) -> [u8; 2]| {
            "\u{feff}".encode_utf16().chain(crlf.encode_utf16()).flat_map(order).collect::<Vec<u8>>()
        };
        for (how, stored) in [
            ("CRLF", crlf.clone().into_bytes()),
            ("blanks", text.replace('\n', " \t \n").into_bytes()),
            ("zeros", [&[0; 5000], text.as_bytes(), &[0; 5000]].concat()),
            ("a mark", ["\u{feff}", &crlf].concat().into_bytes()),
            ("UTF-16LE", utf16(u16::to_le_bytes)),
            ("UTF-16BE", utf16(u16::to_be_bytes)),
            ("gzip", gzip(text.as_bytes())),
            ("zstd", zstd(text.as_bytes())),
        ] {
            let read = analyze_bytes(&["--format", "json"], &stored);
            assert_eq!((read.code, read.stdout), (plain.code, plain.stdout.clone()), "{name}, {how}");
        }
    }
}

#[test]
fn of_what_cannot_be_decompressed_it_is_said_what_to_do() {
    let result = analyze_bytes(&[], b"\xfd7zXZ\0\0\x04");
    assert_eq!(result.code, 2);
    assert!(result.stderr.contains("xz -dc FILE | stealtrace analyze -"), "{}", result.stderr);
    assert_eq!(result.stderr.lines().count(), 1, "{}", result.stderr);
}

#[test]
fn a_compressed_log_that_is_cut_is_read_up_to_the_cut_and_inconclusive() {
    let line = |n: u64| format!("10 ioctl(5, KVM_RUN, {:#x}) = 0\n", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let whole = gzip((0..20_000).map(line).collect::<String>().as_bytes());
    let result = analyze_bytes(&["--findings-only"], &whole[..whole.len() / 2]);
    assert_eq!(result.code, 3, "{}", result.stdout);
    assert!(result.stdout.contains("inconclusive: it could not be read to its end"), "{}", result.stdout);
}
