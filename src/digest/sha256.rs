//! SHA-256 (FIPS 180-4) over bytes that arrive in pieces, for one message or several at once.
//!
//! The state lies open between two pieces so that any engine can take the next blocks; what each engine computes is the
//! matter of `sys`. Here is what surrounds it: blocks that pieces cut in two, the padding, and which messages share
//! an engine.

use std::cmp::Reverse;
use std::slice;

use crate::sys::sha256::Avx512;
use crate::sys::sha256::BLOCK_BYTES;
use crate::sys::sha256::Block;
use crate::sys::sha256::ShaNi;
use crate::sys::sha256::State;
use crate::sys::sha256::compress;

/// One message's hash so far.
#[derive(Clone)]
pub(super) struct Sha256 {
    state: State,
    /// The begun block: its first `pending` bytes.
    partial: Block,
    pending: usize,
    /// Length so far in bytes.
    length: u64,
}

impl Sha256 {
    pub(super) fn new() -> Self {
        Self {
            state: INITIAL,
            partial: [0; BLOCK_BYTES],
            pending: 0,
            length: 0,
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        let blocks = self.take_edges(bytes);
        compress(&mut self.state, blocks);
    }

    /// FIPS 180-4 section 5.1.1: a one bit, zeros up to eight bytes before the end of a block, and there the length
    /// in bits.
    pub(super) fn finish(mut self) -> [u8; 32] {
        let bits = self.length.wrapping_mul(8);
        let zeros = (2 * BLOCK_BYTES - size_of::<u64>() - 1 - self.pending) % BLOCK_BYTES;
        let (padding, _) = PADDING.split_at(1 + zeros);
        self.update(padding);
        self.update(&bits.to_be_bytes());
        let mut digest = [0; 32];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        digest
    }

    /// Takes the bytes that complete the begun block and those that begin the last one. The whole blocks between
    /// them are given back: whoever called compresses them before anything else happens to this state.
    fn take_edges<'a>(&mut self, bytes: &'a [u8]) -> &'a [Block] {
        let length = u64::try_from(bytes.len()).expect("a slice is shorter than 2^64 bytes");
        self.length = self.length.wrapping_add(length);
        let mut rest = bytes;
        if self.pending > 0 {
            rest = self.begin(rest);
            if self.pending < BLOCK_BYTES {
                return &[];
            }
            compress(&mut self.state, slice::from_ref(&self.partial));
            self.pending = 0;
        }
        let (blocks, tail) = rest.as_chunks();
        self.begin(tail);
        blocks
    }

    /// Copies bytes behind those of the begun block; gives what found no room.
    fn begin<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (now, later) = bytes.split_at(bytes.len().min(BLOCK_BYTES - self.pending));
        for (to, from) in self.partial.iter_mut().skip(self.pending).zip(now) {
            *to = *from;
        }
        self.pending += now.len();
        later
    }
}

/// Gives each message its next bytes, as [`Sha256::update`] would.
pub(super) fn update_many<'a>(engines: Engines, pieces: impl Iterator<Item = (&'a mut Sha256, &'a [u8])>) {
    let streams = pieces.map(|(hash, bytes)| Stream {
        blocks: hash.take_edges(bytes),
        state: &mut hash.state,
    });
    engines.compress(streams.collect());
}

/// Blocks that one message's state has to take.
struct Stream<'a> {
    state: &'a mut State,
    blocks: &'a [Block],
}

/// What this processor can do beyond one message at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Engines {
    sha_ni: Option<ShaNi>,
    avx512: Option<Avx512>,
}

/// What takes the next turn.
#[derive(Debug)]
enum Turn {
    Sixteen(Avx512),
    Pair(ShaNi),
    One,
}

impl Engines {
    pub(super) fn detect() -> Self {
        Self {
            sha_ni: ShaNi::detect(),
            avx512: Avx512::detect(),
        }
    }

    /// Compresses all streams to their ends. Those with the most left go first, so that few are ever left alone.
    fn compress(self, mut streams: Vec<Stream<'_>>) {
        loop {
            streams.retain(|stream| !stream.blocks.is_empty());
            streams.sort_by_key(|stream| Reverse(stream.blocks.len()));
            match self.choose(streams.len()) {
                Turn::Sixteen(engine) => {
                    advance(&mut streams, |states, blocks| engine.compress(states, blocks))
                }
                Turn::Pair(engine) => advance(&mut streams, |states, blocks| engine.compress(states, blocks)),
                Turn::One => match streams.first_mut() {
                    Some(stream) => compress(stream.state, std::mem::take(&mut stream.blocks)),
                    None => return,
                },
            }
        }
    }

    /// The fastest for so many messages. Lanes without a message cost as much as those with one: sixteen give 2.05 times
    /// the rate of one message by the SHA extensions and pairs give 1.33 times, so they are even at
    /// 16 / 2.05 * 1.33 = 10.4. One message in plain Rust runs at a tenth of the sixteen.
    fn choose(self, streams: usize) -> Turn {
        let worth_sixteen = if self.sha_ni.is_some() { 11 } else { 2 };
        match (self.avx512, self.sha_ni) {
            (Some(engine), _) if streams >= worth_sixteen => Turn::Sixteen(engine),
            (_, Some(engine)) if streams >= ShaNi::LANES => Turn::Pair(engine),
            _ => Turn::One,
        }
    }
}

/// Runs an engine once over the first streams, until the shortest ends or, while others wait, for a turn. A lane
/// that has no stream repeats the first, for nobody.
fn advance<const LANES: usize>(
    streams: &mut [Stream<'_>],
    engine: impl FnOnce(&mut [State; LANES], [&[Block]; LANES]) -> usize,
) {
    let turn = if streams.len() > LANES {
        TURN_BLOCKS
    } else {
        usize::MAX
    };
    let Some(first) = streams.first() else { return };
    let mut states = [*first.state; LANES];
    let mut blocks = [first.blocks; LANES];
    for ((stream, state), lane) in streams.iter().zip(&mut states).zip(&mut blocks) {
        *state = *stream.state;
        *lane = stream.blocks.get(..turn).unwrap_or(stream.blocks);
    }
    let done = engine(&mut states, blocks);
    for (stream, state) in streams.iter_mut().zip(states) {
        *stream.state = state;
        stream.blocks = stream.blocks.get(done..).unwrap_or_default();
    }
}

/// How far a message gets before those that wait have their turn, in blocks: 16 KiB. Longer: more is left for the end,
/// when lanes are empty. Shorter: states are carried in and out more often, and each turn begins without prefetch.
const TURN_BLOCKS: usize = 256;

/// FIPS 180-4 section 5.3.3.
#[rustfmt::skip]
const INITIAL: State = [
    0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19,
];

const PADDING: Block = {
    let mut padding = [0; BLOCK_BYTES];
    padding[0] = 0x80;
    padding
};

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use data_encoding::HEXLOWER;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;

    /// Every combination of engines that some processor has, by name. What this one lacks is said.
    fn engines() -> Vec<(&'static str, Engines)> {
        let (sha_ni, avx512) = (ShaNi::detect(), Avx512::detect());
        for (name, lacking) in [("SHA", sha_ni.is_none()), ("AVX-512", avx512.is_none())] {
            if lacking {
                // Past the capture of the test runner.
                writeln!(
                    std::io::stderr(),
                    "NOTICE: this processor lacks {name}, so SHA-256 was not tested with it"
                )
                .ok();
            }
        }
        let mut all = vec![(
            "one",
            Engines {
                sha_ni: None,
                avx512: None,
            },
        )];
        if sha_ni.is_some() {
            all.push(("SHA", Engines { sha_ni, avx512: None }));
        }
        if avx512.is_some() {
            all.push(("AVX-512", Engines { sha_ni: None, avx512 }));
        }
        if sha_ni.is_some() && avx512.is_some() {
            all.push(("both", Engines { sha_ni, avx512 }));
        }
        all
    }

    fn message(length: usize, seed: usize) -> Vec<u8> {
        let word = |at: usize| sha2::Sha256::digest((at * 1_000_003 + seed).to_le_bytes());
        (0..length.div_ceil(32)).flat_map(word).take(length).collect()
    }

    fn by_the_crate(bytes: &[u8]) -> [u8; 32] {
        sha2::Sha256::digest(bytes).into()
    }

    fn together(engines: Engines, messages: &[Vec<u8>]) -> Vec<[u8; 32]> {
        let mut hashes = vec![Sha256::new(); messages.len()];
        update_many(engines, hashes.iter_mut().zip(messages.iter().map(Vec::as_slice)));
        hashes.into_iter().map(Sha256::finish).collect()
    }

    #[test]
    fn known_answers_of_nist_come_out_of_every_engine() {
        // The examples of FIPS 180-2 appendix B, and the empty message.
        let cases = [
            (
                b"".to_vec(),
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            ),
            (
                b"abc".to_vec(),
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".to_vec(),
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (
                vec![b'a'; 1_000_000],
                "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
            ),
        ];
        for (bytes, want) in &cases {
            let want: [u8; 32] = HEXLOWER.decode(want.as_bytes()).unwrap().try_into().unwrap();
            let mut hash = Sha256::new();
            hash.update(bytes);
            assert_eq!(hash.finish(), want);
            for (name, engines) in engines() {
                let messages = vec![bytes.clone(); 17];
                assert_eq!(together(engines, &messages), [want; 17], "{name}");
            }
        }
    }

    /// Lengths in bytes where blocks, padding, the prefetch and turns have their edges.
    fn edge_lengths() -> impl Iterator<Item = usize> {
        let edges = [
            1024,
            2048,
            TURN_BLOCKS * BLOCK_BYTES,
            2 * TURN_BLOCKS * BLOCK_BYTES,
        ];
        (0..=257).chain(edges.into_iter().flat_map(|edge| edge - 65..=edge + 65))
    }

    #[test]
    fn every_length_of_tail_agrees_with_the_crate() {
        for length in edge_lengths() {
            let bytes = message(length, length);
            let mut hash = Sha256::new();
            hash.update(&bytes);
            assert_eq!(hash.finish(), by_the_crate(&bytes), "{length} bytes");
        }
    }

    #[test]
    fn every_number_of_messages_agrees_with_the_crate_in_every_engine() {
        let lengths: Vec<_> = edge_lengths().collect();
        for (name, engines) in engines() {
            for count in 0..=35 {
                let equal = vec![message(TURN_BLOCKS * BLOCK_BYTES + 7, count); count];
                let mixed = lengths.iter().skip(count * 13).step_by(7).take(count);
                let mixed: Vec<_> = mixed.map(|&length| message(length, count)).collect();
                for messages in [equal, mixed] {
                    let want: Vec<_> = messages.iter().map(|bytes| by_the_crate(bytes)).collect();
                    assert_eq!(together(engines, &messages), want, "{name}, {count} messages");
                }
            }
        }
    }

    #[test]
    fn engine_is_chosen_by_what_there_is_and_how_many_messages() {
        let (sha_ni, avx512) = (ShaNi::detect(), Avx512::detect());
        let turn = |sha_ni, avx512, streams| match (Engines { sha_ni, avx512 }).choose(streams) {
            Turn::Sixteen(_) => 16,
            Turn::Pair(_) => 2,
            Turn::One => 1,
        };
        for streams in 0..40 {
            assert_eq!(turn(None, None, streams), 1);
            if sha_ni.is_some() {
                assert_eq!(turn(sha_ni, None, streams), if streams < 2 { 1 } else { 2 });
            }
            if avx512.is_some() {
                assert_eq!(turn(None, avx512, streams), if streams < 2 { 1 } else { 16 });
            }
            if sha_ni.is_some() && avx512.is_some() {
                let want = [1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2];
                assert_eq!(turn(sha_ni, avx512, streams), *want.get(streams).unwrap_or(&16));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn pieces_cut_anywhere_agree_with_the_crate(
            pieces in vec((0_usize..20, prop_oneof![0_usize..200, 0_usize..40_000]), 0..120),
            rounds in 1_usize..30,
        ) {
            for (name, engines) in engines() {
                let mut hashes = vec![Sha256::new(); 20];
                let mut whole = vec![Vec::new(); 20];
                for round in pieces.chunks(rounds) {
                    // One piece for a message in each round; a second one for it goes alone.
                    let mut next: Vec<Option<Vec<u8>>> = vec![None; 20];
                    for &(to, length) in round {
                        let bytes = message(length, whole[to].len());
                        whole[to].extend_from_slice(&bytes);
                        if let Some(before) = next[to].replace(bytes) {
                            hashes[to].update(&before);
                        }
                    }
                    let given = hashes.iter_mut().zip(&next);
                    update_many(engines, given.filter_map(|(hash, bytes)| Some((hash, bytes.as_deref()?))));
                }
                for (hash, whole) in hashes.into_iter().zip(&whole) {
                    prop_assert_eq!(hash.finish(), by_the_crate(whole), "{}", name);
                }
            }
        }
    }
}
