#![no_main]

use libfuzzer_sys::fuzz_target;
use stealtrace::evidence::Kind;
use stealtrace_fuzz::analyze;

fuzz_target!(|bytes: &[u8]| analyze(Some(Kind::Strace), bytes));
