//! What must hold for any bytes at all: nothing panics, and every way of reading agrees on what is a sound file.

use std::collections::BTreeMap;

use litekeep_ltx::{
    Decoder, Encoder, Error, Header, IndexTail, PageChecks, PageIndex, Pgno, decode_chunk, decode_file,
    decode_page, merge, verify_parts,
};

type Pages = BTreeMap<Pgno, Vec<u8>>;

/// Returns whether `data` was a sound file, once its checksum was put right.
pub(crate) fn run(data: &[u8]) -> bool {
    if let Ok(checks) = PageChecks::parse(data) {
        assert!(checks.to_bytes() == data, "a record that is not what is written");
    }
    // Hardly any mutation keeps the checksum right; what lies behind that check wants testing too.
    let mut sealed = data.to_vec();
    if let Err(Error::Checksum { found, .. }) = stream(data)
        && let Some(trailer) = sealed.last_chunk_mut()
    {
        *trailer = found.0.to_be_bytes();
    }
    let streamed = stream(&sealed);
    let chunked = [1, 4096, u64::MAX].map(|max_bytes| chunks(&sealed, max_bytes));
    for chunked in chunked.iter().chain([&whole(&sealed)]) {
        match (&streamed, chunked) {
            (Ok(streamed), Ok(chunked)) => assert!(streamed == chunked, "readers disagree on pages"),
            (Err(_), Err(_)) => {}
            (streamed, chunked) => {
                panic!(
                    "readers disagree: stream {:?}, chunks {:?}",
                    streamed.as_ref().err(),
                    chunked.as_ref().err()
                )
            }
        }
    }
    let Ok(pages) = streamed else { return false };
    let header = Header::parse(&sealed).expect("it was read");
    check_singly(&sealed, &pages);
    let again = encode(&header, &pages);
    assert!(stream(&again).expect("what we write is sound") == pages);
    let merged =
        merge(vec![Decoder::new(&sealed[..]).expect("it was read")], Vec::new()).expect("it is sound");
    assert!(stream(&merged.writer).expect("what we write is sound") == pages);
    true
}

fn stream(data: &[u8]) -> Result<Pages, Error> {
    let mut decoder = Decoder::new(data)?;
    let mut page = vec![0; decoder.header().page_size.bytes()];
    let mut pages = Pages::new();
    while let Some(pgno) = decoder.next_page(&mut page)? {
        pages.insert(pgno, page.clone());
    }
    Ok(pages)
}

fn chunks(data: &[u8], max_bytes: u64) -> Result<Pages, Error> {
    let header = Header::parse(data)?;
    let IndexTail::Index(index) = PageIndex::from_tail(data.len() as u64, data)? else {
        panic!("the whole file is tail enough");
    };
    let slice = |range: std::ops::Range<u64>| &data[range.start as usize..range.end as usize];
    let mut pages = Pages::new();
    let mut parts = Vec::new();
    for chunk in index.split(max_bytes) {
        let part = decode_chunk(header.page_size, slice(chunk.range), |pgno, page| {
            pages.insert(pgno, page.to_vec());
        })?;
        parts.push(part);
    }
    verify_parts(&data[..Header::LEN], &parts, slice(index.tail_range()))?;
    let mut page = vec![0; header.page_size.bytes()];
    for (pgno, range) in index.iter() {
        assert_eq!(decode_page(header.page_size, slice(range), &mut page)?, pgno);
        assert!(page == pages[&pgno]);
    }
    Ok(pages)
}

fn whole(data: &[u8]) -> Result<Pages, Error> {
    let mut pages = Pages::new();
    decode_file(data, |pgno, page| drop(pages.insert(pgno, page.to_vec())))?;
    Ok(pages)
}

/// Each page alone is known for what it is.
fn check_singly(data: &[u8], pages: &Pages) {
    let checks = PageChecks::of(data).expect("it was read");
    let IndexTail::Index(index) = PageIndex::from_tail(data.len() as u64, data).expect("it was read") else {
        panic!("the whole file is tail enough");
    };
    let tail = &data[index.tail_range().start as usize..];
    assert_eq!(PageChecks::seal_of(&data[..Header::LEN], tail), checks.seal());
    assert_eq!(checks.pages(), pages.len());
    for (pgno, page) in pages {
        let nth = index.nth(*pgno).expect("it was read");
        assert!(checks.is_page(nth, page) && !checks.is_page(nth, &page[1..]));
    }
    assert!(PageChecks::parse(&checks.to_bytes()).expect("what we write is sound") == checks);
}

fn encode(header: &Header, pages: &Pages) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), header).expect("the header was read");
    for (&pgno, page) in pages {
        encoder.page(pgno, page).expect("the page was read");
    }
    encoder.finish().expect("the file was sound").writer
}
