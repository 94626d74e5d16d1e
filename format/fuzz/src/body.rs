//! What must hold for any bytes at all: parsing them neither panics nor contradicts itself.

use litekeep_format::{
    Chain, DatabaseHeader, FrameHeader, FrameSummer, Kernel, WalChecksum, WalHeader, WalIndexHeader,
    checksum_serial, frame_offset, frame_size,
};
use litekeep_ltx::PageSize;

#[path = "states.rs"]
pub(crate) mod states;

/// Reads `data` as everything that it could be.
pub(crate) fn run(data: &[u8]) {
    states::run(data);
    if let Ok(header) = DatabaseHeader::parse(data) {
        assert!(data.len() >= DatabaseHeader::LEN);
        assert!(header.page_size.get() - u32::from(header.reserved) >= 480);
        assert_eq!(header.is_wal(), data[19] == 2);
        assert_eq!(DatabaseHeader::parse(&data[..DatabaseHeader::LEN]).as_ref(), Ok(&header));
    }
    if let Some(header) = WalIndexHeader::parse(data) {
        assert_eq!(data[..48], data[48..96]);
        assert_eq!(WalIndexHeader::parse(&data[..WalIndexHeader::LEN]), Some(header));
    }
    if let Some(header) = data.first_chunk().and_then(FrameHeader::parse) {
        assert_eq!(header.to_bytes(), data[..FrameHeader::LEN]);
    }
    let Some((first, frames)) = data.split_first_chunk() else { return };
    let header = WalHeader::parse(first).ok();
    if let Some(header) = &header {
        assert_eq!(&header.to_bytes(), first);
    }
    // A header whose checksum is right by chance hardly comes up: without one, the first bytes choose the parameters.
    let (mut chain, page_size, big_endian) = match &header {
        Some(header) => (Chain::new(header), header.page_size, header.big_endian),
        None => {
            let page_size = PageSize::new(512 << (first[0] % 8)).expect("512 to 65536");
            let (checksum, big_endian) = (WalChecksum(0, 0), first[0] & 8 != 0);
            let salt = litekeep_ltx::Salt(*first.last_chunk().expect("32 bytes"));
            (Chain::resume(salt, checksum, page_size, big_endian), page_size, big_endian)
        }
    };
    walk(&mut chain, frames, page_size, big_endian);
}

/// Follows the chain, and sums each whole frame with every kernel.
fn walk(chain: &mut Chain, frames: &[u8], page_size: PageSize, big_endian: bool) {
    let size = usize::try_from(frame_size(page_size)).expect("a frame fits into memory");
    let mut stopped = false;
    for (i, frame) in frames.chunks(size).enumerate() {
        let offset = frame_offset(page_size, u32::try_from(i).expect("few frames"));
        assert_eq!(offset, (WalHeader::LEN + i * size) as u64);
        let before = chain.checksum();
        if frame.len() == size {
            let expected = checksum_serial(
                big_endian,
                &frame[FrameHeader::LEN..],
                checksum_serial(big_endian, &frame[..8], before),
            );
            for kernel in Kernel::ALL {
                if let Some(summer) = FrameSummer::with_kernel(page_size, big_endian, kernel) {
                    assert_eq!(summer.chain(before, frame), expected, "{kernel:?}");
                }
            }
        }
        if stopped {
            continue;
        }
        match chain.step(frame) {
            Ok(header) => {
                assert_eq!(header.salt, chain.salt());
                assert_eq!(header.checksum, chain.checksum());
                assert_eq!(header.to_bytes(), frame[..FrameHeader::LEN]);
            }
            Err(_) => {
                assert_eq!(chain.checksum(), before, "a stop leaves the chain where it is");
                stopped = true;
            }
        }
    }
}
