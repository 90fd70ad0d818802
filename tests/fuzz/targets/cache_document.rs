#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| linkspan::fuzzing::cache_document(bytes));
