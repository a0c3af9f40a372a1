#![no_main]

use libfuzzer_sys::fuzz_target;
use stealtrace::{analyze::analyze_made_up, evidence::Kind};

fuzz_target!(|bytes: &[u8]| analyze_made_up(Some(Kind::Xp), bytes));
