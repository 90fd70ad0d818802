#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| linkspan::fuzzing::layer_entries(bytes));
