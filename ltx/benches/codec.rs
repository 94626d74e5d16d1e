//! Throughput of the codec on one core: `cargo bench -p litekeep-ltx`.
//!
//! GB/s are of uncompressed pages. The pages are 4 KiB, a third of their bytes random and the rest repeating, which
//! LZ4 brings to about half.

use std::hint::black_box;
use std::time::{Duration, Instant};

use litekeep_ltx::{
    Decoder, Encoder, Header, IndexTail, PageIndex, PageSize, Pgno, Salt, Txid, WriterId, decode_chunk,
    merge, page_checksum,
};

const PAGE_SIZE: usize = 4096;
// Few enough for a run to end within one time slice of a busy machine.
const PAGES: u32 = 1024;

fn main() {
    // `cargo test --benches` asks whether it runs at all, not how fast.
    let budget =
        if std::env::args().any(|arg| arg == "--bench") { Duration::from_secs(1) } else { Duration::ZERO };
    let pages = pages();
    let all = pages.len() as u64;
    let file = encode(&pages, 1);
    println!("{} MiB of pages, {:.2} of it compressed", all >> 20, file.len() as f64 / all as f64);

    measure("page_checksum", budget, all, || {
        pages.chunks_exact(PAGE_SIZE).zip(1..).fold(0, |sum, (page, n)| sum ^ page_checksum(pgno(n), page).0)
    });
    measure("encode", budget, all, || encode(&pages, 1).len() as u64);
    measure("encode 3 pages", budget, 3 * PAGE_SIZE as u64, || {
        encode(&pages[..3 * PAGE_SIZE], 2).len() as u64
    });
    measure("decode", budget, all, || Decoder::new(&file[..]).unwrap().verify().unwrap().file.0);
    let few = encode(&pages[..3 * PAGE_SIZE], 2);
    measure("decode 3 pages", budget, 3 * PAGE_SIZE as u64, || {
        Decoder::new(&few[..]).unwrap().verify().unwrap().file.0
    });
    measure("decode in chunks of 1 MiB", budget, all, || {
        let IndexTail::Index(index) = PageIndex::from_tail(file.len() as u64, &file).unwrap() else {
            unreachable!()
        };
        let blocks = index.split(1 << 20).into_iter().map(|chunk| chunk.range);
        let page_size = PageSize::new(PAGE_SIZE as u32).unwrap();
        let parts: Vec<_> = blocks
            .map(|range| {
                decode_chunk(page_size, &file[range.start as usize..range.end as usize], |_, _| ()).unwrap()
            })
            .collect();
        let tail = &file[index.tail_range().start as usize..];
        litekeep_ltx::verify_parts(&file[..Header::LEN], &parts, tail).unwrap().file.0
    });
    let newer = encode(&pages, 2);
    let mut out = Vec::with_capacity(file.len() * 2);
    measure("merge of two", budget, 2 * all, || {
        let inputs = [&file, &newer].map(|file| Decoder::new(&file[..]).unwrap()).into();
        out.clear();
        merge(inputs, &mut out).unwrap().size
    });
}

fn measure(name: &str, budget: Duration, bytes: u64, mut run: impl FnMut() -> u64) {
    let begin = Instant::now();
    let mut best = Duration::MAX;
    loop {
        let start = Instant::now();
        black_box(run());
        best = best.min(start.elapsed());
        if begin.elapsed() >= budget {
            break;
        }
    }
    let seconds = best.as_secs_f64();
    let pages = bytes as f64 / PAGE_SIZE as f64;
    println!(
        "{name:26} {:6.2} GB/s {:8.0} ns/page {best:10.1?}",
        bytes as f64 / seconds / 1e9,
        seconds * 1e9 / pages
    );
}

fn pages() -> Vec<u8> {
    let mut state = 88_172_645_463_325_252u64;
    (0..PAGES as usize * PAGE_SIZE)
        .map(|at| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            if at / 40 % 3 == 0 { state as u8 } else { (at % 40) as u8 }
        })
        .collect()
}

fn encode(pages: &[u8], txid: u64) -> Vec<u8> {
    encode_into(Vec::with_capacity(pages.len()), pages, txid)
}

fn encode_into(out: Vec<u8>, pages: &[u8], txid: u64) -> Vec<u8> {
    let txid = Txid::new(txid).unwrap();
    let header = Header {
        page_size: PageSize::new(PAGE_SIZE as u32).unwrap(),
        commit: PAGES,
        min_txid: txid,
        max_txid: txid,
        timestamp_ms: 0,
        wal_offset: 32,
        wal_size: 0,
        wal_salt: Salt([0; 8]),
        node: WriterId(0),
    };
    let mut encoder = Encoder::new(out, &header).unwrap();
    for (page, n) in pages.chunks_exact(PAGE_SIZE).zip(1..) {
        encoder.page(pgno(n), page).unwrap();
    }
    encoder.finish().unwrap().writer
}

fn pgno(n: u32) -> Pgno {
    Pgno::new(n).unwrap()
}
