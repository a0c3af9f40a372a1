#![no_main]

use libfuzzer_sys::fuzz_target;
use stealtrace::analyze::analyze_made_up;

fuzz_target!(|bytes: &[u8]| analyze_made_up(None, bytes));
