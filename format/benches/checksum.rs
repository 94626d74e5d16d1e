//! Speed of WAL checksums: SQLite's serial definition against each kernel of the linear form, over a WAL image that lies in
//! the L2 cache and over one that does not. `cargo bench -p litekeep-format`.

use litekeep_format::{FrameHeader, FrameSummer, Kernel, WalChecksum, checksum_serial};
use litekeep_ltx::PageSize;
use std::hint::black_box;
use std::time::{Duration, Instant};

const ROUNDS: usize = 9;

fn main() {
    for (image, len) in [("512 KiB", 512 << 10), ("64 MiB", 64 << 20)] {
        let mut bytes = vec![0; len];
        fastrand::Rng::with_seed(1).fill(&mut bytes);
        for size in [512, 4096, 65536] {
            let page_size = PageSize::new(size).expect("a page size");
            for big_endian in [false, true] {
                let order = if big_endian { "big-endian" } else { "little-endian" };
                println!("{image}, pages of {size} bytes, {order}");
                report("serial", &bytes, page_size, |sum, frame| {
                    checksum_serial(big_endian, &frame[24..], checksum_serial(big_endian, &frame[..8], sum))
                });
                for kernel in Kernel::ALL {
                    if let Some(summer) = FrameSummer::with_kernel(page_size, big_endian, kernel) {
                        report(&format!("{kernel:?}"), &bytes, page_size, |sum, frame| {
                            summer.chain(sum, frame)
                        });
                    }
                }
            }
        }
    }
}

/// Prints the best of some rounds, since every disturbance only makes it slower.
fn report(name: &str, bytes: &[u8], page_size: PageSize, chain: impl Fn(WalChecksum, &[u8]) -> WalChecksum) {
    let frame_len = FrameHeader::LEN + page_size.bytes();
    let repeats = (16 << 20) / bytes.len() + 1;
    let best: Duration = (0..ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..repeats {
                black_box(black_box(bytes).chunks_exact(frame_len).fold(WalChecksum::default(), &chain));
            }
            start.elapsed()
        })
        .min()
        .expect("at least one round");
    println!("    {name:10} {:6.2} GB/s", (repeats * bytes.len()) as f64 / best.as_secs_f64() / 1e9);
}
