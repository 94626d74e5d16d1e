#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    litekeep_sync_mysql::decode_any_bytes(data);
});
