use proptest::prelude::*;

use super::*;

const PAGE_SIZE: PageSize = PageSize::new(512).unwrap();
const WRITER: WriterId = WriterId(7);

/// What a commit does: pages by number, each with bytes that it changes.
type Changes = Vec<(u32, Vec<(usize, u8)>)>;

fn changes() -> impl Strategy<Value = Vec<Vec<Changes>>> {
    let bytes = prop::collection::vec((0usize..512, any::<u8>()), 0..40);
    let commit = prop::collection::vec((1u32..9, bytes), 0..6);
    prop::collection::vec(prop::collection::vec(commit, 1..6), 1..8)
}

/// The pack of these commits, and what it must say.
fn packed(captures: &[Vec<Changes>], room: usize) -> (Vec<u8>, Vec<PackCapture>) {
    let mut pages: HashMap<u32, Vec<u8>> = HashMap::new();
    let mut encoder = PackEncoder::new(PAGE_SIZE, room);
    let mut bytes = PackEncoder::header(PAGE_SIZE, WRITER);
    let mut expected = vec![];
    for (txid, capture) in (5..).zip(captures) {
        let mut commits = vec![];
        for changes in capture {
            let mut commit = Commit { page_count: 9, pages: vec![] };
            for (number, bytes) in changes {
                let page = pages.entry(*number).or_insert_with(|| vec![*number as u8; 512]);
                bytes.iter().for_each(|(at, byte)| page[*at] = *byte);
                let pgno = Pgno::new(*number).unwrap();
                encoder.page(pgno, page);
                commit.pages.push((pgno, page[..].into()));
            }
            encoder.commit(commit.page_count);
            commits.push(commit);
        }
        let txid = Txid::new(txid).unwrap();
        let parts = commits.len() as u32;
        let entry = PackEntry { txid, timestamp_ms: -3, commits: parts, parts };
        bytes.extend(encoder.finish(txid, entry.timestamp_ms, parts).unwrap());
        expected.push(PackCapture { entry, commits });
    }
    (bytes, expected)
}

fn unpacked(bytes: &[u8]) -> Result<Vec<PackCapture>, Error> {
    let mut decoder = PackDecoder::new(bytes)?;
    assert_eq!((decoder.pack().page_size, decoder.pack().writer), (PAGE_SIZE, WRITER));
    std::iter::from_fn(|| decoder.next_capture().transpose()).collect()
}

proptest! {
    #[test]
    fn every_commit_comes_back(captures in changes(), room in 0usize..6000) {
        let (bytes, expected) = packed(&captures, room);
        prop_assert_eq!(unpacked(&bytes).unwrap(), expected);
    }

    /// A reader may be there while the pack is written.
    #[test]
    fn a_pack_that_grows_is_read_on(captures in changes(), cut in any::<prop::sample::Index>()) {
        let (bytes, expected) = packed(&captures, 4096);
        let at = Pack::HEADER_LEN + cut.index(bytes.len() - Pack::HEADER_LEN);
        let mut decoder = PackDecoder::new(bytes[..at].to_vec()).unwrap();
        let mut found = vec![];
        while let Some(capture) = decoder.next_capture().unwrap() {
            found.push(capture);
        }
        let end = decoder.pack().end();
        prop_assert!(decoder.grow(&bytes[end..]));
        while let Some(capture) = decoder.next_capture().unwrap() {
            found.push(capture);
        }
        prop_assert_eq!(found, expected);
    }

    /// What a crash leaves is a shorter pack, and what is damaged ends it.
    #[test]
    fn what_is_not_whole_ends_it(captures in changes(), cut in any::<prop::sample::Index>(), bit in 0u8..8) {
        let (bytes, expected) = packed(&captures, 4096);
        let at = Pack::HEADER_LEN + cut.index(bytes.len() - Pack::HEADER_LEN);
        let whole = Pack::scan(&bytes).unwrap().entries.iter().filter(|(_, range)| range.end <= at).count();
        prop_assert_eq!(&unpacked(&bytes[..at]).unwrap()[..], &expected[..whole]);
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << bit;
        prop_assert_eq!(&unpacked(&damaged).unwrap()[..], &expected[..whole]);
    }

    /// Also behind a checksum that is right.
    #[test]
    fn no_body_does_harm(body in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 1..200), parts in 1u32..4) {
        let mut entry = [&1u64.to_be_bytes()[..], &[0; 8], &parts.to_be_bytes(), &parts.to_be_bytes()].concat();
        entry.extend((body.len() as u32).to_be_bytes());
        let block = lz4_flex::block::compress(&body);
        entry.extend((block.len() as u32).to_be_bytes());
        entry.extend(entry_checksum(&entry, &block).0.to_be_bytes());
        entry.extend(block);
        let bytes = [PackEncoder::header(PAGE_SIZE, WRITER), entry].concat();
        if let Ok(captures) = unpacked(&bytes) {
            prop_assert_eq!(captures[0].commits.len(), parts as usize);
        }
    }
}

#[test]
fn a_version_costs_what_it_changes() {
    let commits = (0..100).map(|n| vec![(3, vec![(n, 200 + n as u8 % 50)])]).collect();
    let (bytes, _) = packed(&[commits], 4096);
    assert!(bytes.len() < 512 + 100 * 10, "{}", bytes.len());
}

#[test]
fn an_entry_that_does_not_follow_ends_it() {
    let (first, _) = packed(&[vec![vec![]]], 0);
    let again = [&first[..], &first[Pack::HEADER_LEN..]].concat();
    assert_eq!(unpacked(&again).unwrap().len(), 1);
    assert!(Pack::scan(b"litekeep parents and what follows").is_err());
}

#[test]
fn an_entry_without_commits_is_refused() {
    let mut encoder = PackEncoder::new(PAGE_SIZE, 4096);
    encoder.page(Pgno::FIRST, &[1; 512]);
    encoder.finish(Txid::FIRST, 0, 0).unwrap_err();
    assert!(encoder.body.is_empty());
}
