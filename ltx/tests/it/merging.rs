//! Compaction against a model: applying the merged file equals applying the inputs one after another.

use litekeep_ltx::{Decoder, ErrorKind, Header, merge};
use proptest::prelude::*;

use crate::sample::{Pages, Sample, decode, header, page, page_sizes};

/// A chain of files as a writer leaves it: each holds what it changed and every page by which the database grew.
fn chains() -> impl Strategy<Value = Vec<Sample>> {
    let steps = prop::collection::vec((1u32..30, any::<u64>(), 0u64..3), 1..8);
    (page_sizes(), any::<bool>(), steps).prop_map(|(page_size, snapshot_first, steps)| {
        let mut chain: Vec<Sample> = Vec::new();
        for (commit, choice, span) in steps {
            let min = match chain.last() {
                Some(before) => before.header.max_txid.get() + 1,
                None if snapshot_first => 1,
                None => 100,
            };
            let before = chain.last().map_or(0, |sample| sample.header.commit);
            let pages = (1..=commit)
                .filter(|&pgno| min == 1 || pgno > before || choice.rotate_left(pgno) & 3 == 0)
                .map(|pgno| (pgno, page(page_size, choice ^ u64::from(pgno), 3)))
                .collect();
            let header = Header { timestamp_ms: choice as i64, ..header(page_size, commit, min, min + span) };
            chain.push(Sample { header, pages });
        }
        chain
    })
}

fn apply(database: &mut Pages, sample: &Sample) {
    database.extend(sample.pages.iter().map(|(&pgno, page)| (pgno, page.clone())));
    database.retain(|&pgno, _| pgno <= sample.header.commit);
}

fn merged(files: &[Vec<u8>]) -> Result<Vec<u8>, litekeep_ltx::Error> {
    let inputs = files.iter().map(|file| Decoder::new(&file[..])).collect::<Result<Vec<_>, _>>()?;
    merge(inputs, Vec::new()).map(|encoded| encoded.writer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn merged_equals_one_after_another(chain in chains()) {
        let files: Vec<_> = chain.iter().map(Sample::encode).collect();
        let out = decode(&merged(&files).unwrap()).unwrap();
        let (first, last) = (&chain[0].header, &chain[chain.len() - 1].header);
        prop_assert_eq!(out.header, Header { min_txid: first.min_txid, ..*last });

        let (mut one_by_one, mut at_once) = (Pages::new(), Pages::new());
        chain.iter().for_each(|sample| apply(&mut one_by_one, sample));
        apply(&mut at_once, &out);
        prop_assert!(one_by_one == at_once);
        let changed: Pages = one_by_one
            .into_iter()
            .filter(|(pgno, _)| chain.iter().any(|sample| sample.pages.contains_key(pgno)))
            .collect();
        prop_assert!(out.pages == changed, "nothing but what changed");
    }

    /// In two steps or in one: the same bytes.
    #[test]
    fn merging_is_associative(chain in chains(), cut in 1usize..8) {
        prop_assume!(cut < chain.len());
        let files: Vec<_> = chain.iter().map(Sample::encode).collect();
        let halves = [merged(&files[..cut]).unwrap(), merged(&files[cut..]).unwrap()];
        // Pages that the first half ends with and the second half's database lacks are gone either way.
        prop_assert!(merged(&halves).unwrap() == merged(&files).unwrap());
    }
}

#[test]
fn inputs_that_do_not_follow_one_another_are_refused() {
    let file = |page_size, min, max| {
        let pages = [(1, page(page_size, min, 3))].into();
        Sample { header: header(page_size, 1, min, max), pages }.encode()
    };
    let refused = |files: &[Vec<u8>]| assert_eq!(merged(files).unwrap_err().kind(), ErrorKind::Invalid);
    refused(&[]);
    refused(&[file(512, 5, 6), file(512, 8, 8)]);
    refused(&[file(512, 5, 6), file(512, 6, 8)]);
    refused(&[file(512, 7, 7), file(512, 6, 6)]);
    refused(&[file(512, 5, 6), file(1024, 7, 7)]);
    refused(&[file(512, 5, u64::MAX), file(512, 1, 1)]);
    merged(&[file(512, 5, 6), file(512, 7, 7)]).unwrap();
}

/// A page cut off by a shrinking database and not written again when it grew would otherwise come back with old
/// content.
#[test]
fn pages_that_were_cut_off_do_not_come_back() {
    let file = |txid, commit, pages: &[u32]| {
        let pages = pages.iter().map(|&n| (n, page(512, u64::from(n) ^ txid, 3))).collect();
        Sample { header: header(512, commit, txid, txid), pages }.encode()
    };
    let (three, one) = (file(5, 3, &[1, 2, 3]), file(6, 1, &[1]));
    let whole = merged(&[three.clone(), one.clone(), file(7, 3, &[2, 3])]).unwrap();
    assert!(decode(&whole).unwrap().pages[&3] == page(512, 3 ^ 7, 3));
    let error = merged(&[three, one, file(7, 3, &[2])]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid LTX input: page 3 was cut off and did not come back when the database grew"
    );
}

/// Damage in a page that the merge would drop is found all the same.
#[test]
fn damage_in_a_superseded_page_is_found() {
    let file =
        |min| Sample { header: header(512, 1, min, min), pages: [(1, page(512, min, 16))].into() }.encode();
    let (mut old, new) = (file(5), file(6));
    old[300] ^= 1;
    let error = merged(&[old, new]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(error.to_string(), "read `0000000000000005-0000000000000005.ltx`");
}
