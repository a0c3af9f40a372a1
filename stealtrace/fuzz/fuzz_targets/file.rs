#![no_main]

use libfuzzer_sys::fuzz_target;
use stealtrace_fuzz::analyze;

fuzz_target!(|bytes: &[u8]| analyze(None, bytes));
