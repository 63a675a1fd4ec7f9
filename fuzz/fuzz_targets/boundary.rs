#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| rbuddy_fuzz::boundary::check(input));
