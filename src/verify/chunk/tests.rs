//! Tags that match the bytes they were made of, in their place, and no others.

use super::*;
use crate::digest::Algorithm;
use crate::digest::hash;
use crate::verify::memory::Claim;
use crate::verify::memory::Memory;

const FILE: u32 = 1;

fn fetched(memory: &Memory, offset: u64, bytes: &[u8]) -> Fetched {
    let mut buffer = memory.buffer(bytes.len(), Claim::Demand).unwrap().unwrap();
    buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
    let end = offset + u64::try_from(bytes.len()).unwrap();
    Fetched::new(buffer, FILE, offset, offset..end)
}

/// The first pass over a resource of these bytes, whose digest is that of `signed`.
fn first_pass(
    key: &TagKey,
    memory: &Memory,
    bytes: &[u8],
    signed: &[u8],
) -> Result<(Tags, Vec<VerifiedBlock>), Digest> {
    let want = hash(Algorithm::Sha256, signed);
    let mut pass = FirstPass::new(key, &want, true);
    FirstPass::take(key, vec![(&mut pass, vec![fetched(memory, 7, bytes)])]);
    pass.finish(&want)
}

#[test]
fn making_room_for_one_buffer_lets_one_go_however_many_blocks_share_it() {
    const HALF: u64 = CHUNK_BYTES / 2;
    let memory = Memory::new(2 * CHUNK_BYTES + 4096);
    let key = TagKey::generate().unwrap();
    let content = vec![5; 2 * usize::try_from(CHUNK_BYTES).unwrap()];
    for buffer in 0..2 {
        let at = buffer * CHUNK_BYTES;
        let whole = fetched(&memory, at, &content[..usize::try_from(CHUNK_BYTES).unwrap()]);
        for half in [at..at + HALF, at + HALF..at + CHUNK_BYTES] {
            let want = hash(Algorithm::Sha256, &content[..usize::try_from(HALF).unwrap()]);
            let mut pass = FirstPass::new(&key, &want, true);
            FirstPass::take(&key, vec![(&mut pass, vec![whole.part(&half)])]);
            let (_, kept) = pass.finish(&want).unwrap();
            kept.into_iter().for_each(|block| memory.hold(Arc::new(block)));
        }
    }
    assert!(
        memory
            .buffer(usize::try_from(CHUNK_BYTES).unwrap(), Claim::Demand)
            .unwrap()
            .is_some()
    );
    let held = [0, HALF, 2 * HALF, 3 * HALF].map(|at| memory.find(FILE, at).is_some());
    assert_eq!(held, [false, false, true, true]);
}

/// Has this tag everywhere.
struct One(Option<Tag>);

impl Tagged for One {
    fn chunks(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        grid(range)
    }

    fn tag(&self, _: u64) -> Option<Tag> {
        self.0
    }
}

fn keys() -> [TagKey; 2] {
    let generated = TagKey::generate().unwrap();
    println!("tags here are {}", generated.name());
    [generated, TagKey::Blake3(Box::new([9; 32]))]
}

#[test]
fn every_flipped_bit_and_every_other_place_misses_the_tag() {
    let memory = Memory::new(1 << 20);
    for key in keys() {
        let bytes = b"weights and biases".to_vec();
        let (tags, _) = first_pass(&key, &memory, &bytes, &bytes).ok().unwrap();
        let one = One(tags.get(0));
        let verify = |offset, bytes: &[u8]| fetched(&memory, offset, bytes).verify(&key, &one);
        assert!(verify(7, &bytes).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes.clone();
            other[bit / 8] ^= 1 << (bit % 8);
            assert!(verify(7, &other).is_err(), "bit {bit}");
        }
        assert_eq!(verify(8, &bytes).err(), Some(8..26));
        assert!(verify(7, &bytes[1..]).is_err());
        let mut elsewhere = fetched(&memory, 7, &bytes);
        elsewhere.file = 2;
        assert!(elsewhere.verify(&key, &one).is_err());
        assert!(fetched(&memory, 7, &bytes).verify(&key, &One(None)).is_err());
        let other_key = TagKey::generate().unwrap();
        assert!(fetched(&memory, 7, &bytes).verify(&other_key, &one).is_err());
    }
}

#[test]
fn blocks_are_verified_only_when_the_digest_matches() {
    let memory = Memory::new(1 << 20);
    for key in keys() {
        for (bytes, ok) in [(b"signed", true), (b"sigmed", false)] {
            let outcome = first_pass(&key, &memory, bytes, b"signed");
            assert_eq!(outcome.map(|(_, kept)| kept.len()).ok(), ok.then_some(1));
        }
    }
}

#[test]
fn a_block_gives_the_bytes_it_has_and_no_others() {
    let memory = Memory::new(1 << 20);
    let key = TagKey::generate().unwrap();
    let (_, mut kept) = first_pass(&key, &memory, b"abcdef", b"abcdef").ok().unwrap();
    let block = Arc::new(kept.remove(0));
    for (range, want) in [
        (7..13, Some(&b"abcdef"[..])),
        (8..10, Some(b"bc")),
        (9..9, Some(b"")),
        (6..8, None),
        (12..14, None),
        (0..4096, None),
    ] {
        let got = VerifiedBytes::in_place(Arc::clone(&block), range.clone());
        assert_eq!(got.as_ref().map(VerifiedBytes::as_slice), want, "{range:?}");
    }
    let mut joined = VerifiedBytes::default();
    assert!(joined.append(&block, &(7..9)) && joined.append(&block, &(12..13)));
    assert!(!joined.append(&block, &(12..14)));
    assert_eq!(joined.as_slice(), b"abf");
}

#[test]
fn chunks_begin_at_multiples_of_their_length_and_at_the_beginning() {
    const C: u64 = CHUNK_BYTES;
    let borders = |range| {
        grid(range)
            .map(|chunk| (chunk.start, chunk.end))
            .collect::<Vec<_>>()
    };
    for (range, want) in [
        (0..0, vec![]),
        (5..5, vec![]),
        (0..1, vec![(0, 1)]),
        (0..C, vec![(0, C)]),
        (1..C + 1, vec![(1, C), (C, C + 1)]),
        (C..3 * C, vec![(C, 2 * C), (2 * C, 3 * C)]),
    ] {
        assert_eq!(borders(range), want);
    }
}
