#![no_main]

use libfuzzer_sys::fuzz_target;
use stealtrace::evidence::{Kind, discard};

fuzz_target!(|text: &str| discard(Kind::Xp, text));
