#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| linkspan::fuzzing::http1_head(bytes));
