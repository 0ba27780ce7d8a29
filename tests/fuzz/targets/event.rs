#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    oncue_tests::fuzz::event(bytes);
});
