//! SHA-256's compression function over several messages at once, where the processor can do that.
//!
//! An engine is also the proof that it may run: [`ShaNi`] and [`Avx512`] come only from asking the processor. Each
//! gives every one of its messages exactly what [`compress256`] gives it alone. Nothing here knows of padding,
//! lengths or which messages belong together, and nothing waits.

use sha2::block_api::compress256;

#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod sha_ni;

/// The chaining value between two blocks (FIPS 180-4 section 6.2), which is also where another engine takes over.
pub type State = [u32; 8];

/// What one step of the function takes, in bytes (FIPS 180-4 section 5.2.1).
pub const BLOCK_BYTES: usize = 64;

/// One block of a message.
pub type Block = [u8; BLOCK_BYTES];

/// How far ahead of the step the data is asked for, in blocks: 1 KiB. Nearer comes too late from memory; 8 KiB
/// and more was no better than not asking.
const AHEAD_BLOCKS: usize = 16;

/// One message by the processor's SHA extensions or in plain Rust, as the crate finds; the measure of all others.
pub fn compress(state: &mut State, blocks: &[Block]) {
    let mut pieces = blocks.chunks(AHEAD_BLOCKS);
    let mut now = pieces.next();
    while let Some(piece) = now {
        now = pieces.next();
        now.into_iter().flatten().for_each(prefetch);
        compress256(state, piece);
    }
}

/// Two messages by the SHA extensions: the second fills the gaps that the first leaves while it waits for itself.
#[derive(Clone, Copy, Debug)]
pub struct ShaNi(
    #[cfg(target_arch = "x86_64")] (),
    #[cfg(not(target_arch = "x86_64"))] std::convert::Infallible,
);

impl ShaNi {
    /// How many messages it takes.
    pub const LANES: usize = 2;

    /// The engine, where the processor has the instructions.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") {
            return Some(Self(()));
        }
        None
    }

    /// Takes each message as far as the shorter one reaches, and returns by how many blocks.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn compress(self, states: &mut [State; Self::LANES], blocks: [&[Block]; Self::LANES]) -> usize {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the function asks for these instructions and nothing else, and `detect` found them.
        #[allow(
            unsafe_code,
            reason = "a call of code for instructions that not every processor has"
        )]
        return unsafe { sha_ni::compress(states, blocks) };
        #[cfg(not(target_arch = "x86_64"))]
        match self.0 {}
    }
}

/// Sixteen messages, each in one 32-bit lane of AVX-512 registers.
#[derive(Clone, Copy, Debug)]
pub struct Avx512(
    #[cfg(target_arch = "x86_64")] (),
    #[cfg(not(target_arch = "x86_64"))] std::convert::Infallible,
);

impl Avx512 {
    /// How many messages it takes. Fewer take as long.
    pub const LANES: usize = 16;

    /// The engine, where the processor has the instructions and the system keeps their registers.
    pub fn detect() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") {
            return Some(Self(()));
        }
        None
    }

    /// Takes each message as far as the shortest reaches, and returns by how many blocks.
    #[cfg_attr(not(target_arch = "x86_64"), allow(unused_variables))]
    pub fn compress(self, states: &mut [State; Self::LANES], blocks: [&[Block]; Self::LANES]) -> usize {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the function asks for these instructions and nothing else, and `detect` found them.
        #[allow(
            unsafe_code,
            reason = "a call of code for instructions that not every processor has"
        )]
        return unsafe { avx512::compress(states, blocks) };
        #[cfg(not(target_arch = "x86_64"))]
        match self.0 {}
    }
}

/// Asks for a block's cache line, without waiting for it. A block that is not aligned ends in the line that the next one
/// begins in.
fn prefetch(block: &Block) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch of any address reads nothing and cannot fault.
    #[allow(unsafe_code, reason = "the intrinsic takes a pointer")]
    unsafe {
        use std::arch::x86_64::_MM_HINT_T0;
        use std::arch::x86_64::_mm_prefetch;
        _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = block;
}

/// FIPS 180-4 section 4.2.2: the first 32 bits of the fractional parts of the cube roots of the first 64 primes.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use sha2::Digest as _;

    use super::*;

    fn words(seed: usize, count: usize) -> Vec<u32> {
        let word = |at: usize| sha2::Sha256::digest((at * 1_000_003 + seed).to_le_bytes());
        let quads = (0..count.div_ceil(8)).map(word);
        let bytes: Vec<u8> = quads.flatten().collect();
        let words = bytes.as_chunks().0.iter().copied().map(u32::from_le_bytes);
        words.take(count).collect()
    }

    fn blocks(seed: usize, count: usize) -> Vec<Block> {
        let bytes: Vec<u8> = words(seed, 16 * count)
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        bytes.as_chunks().0.to_vec()
    }

    /// Runs an engine over messages of which each is some blocks longer than the one before, the shortest in each
    /// place in turn, from states of no pattern.
    fn compare<const LANES: usize>(engine: impl Fn(&mut [State; LANES], [&[Block]; LANES]) -> usize) {
        for shortest in (0..=AHEAD_BLOCKS + 2).chain([100]) {
            for place in 0..LANES {
                let messages: Vec<_> = (0..LANES)
                    .map(|lane| blocks(lane, shortest + (lane + LANES - place) % LANES))
                    .collect();
                let mut states: [State; LANES] =
                    std::array::from_fn(|lane| words(1000 + lane, 8).try_into().unwrap());
                let mut want = states;
                for (state, message) in want.iter_mut().zip(&messages) {
                    compress256(state, message.get(..shortest).unwrap());
                }
                let done = engine(&mut states, std::array::from_fn(|lane| messages[lane].as_slice()));
                assert_eq!((done, states), (shortest, want), "shortest in lane {place}");
            }
        }
    }

    /// Says it past the capture of the test runner.
    fn left_out(engine: &str) {
        writeln!(
            std::io::stderr(),
            "NOTICE: this processor lacks {engine}, so its engine was not tested"
        )
        .ok();
    }

    #[test]
    fn sha_ni_gives_each_message_what_it_gets_alone() {
        match ShaNi::detect() {
            Some(engine) => compare(|states, blocks| engine.compress(states, blocks)),
            None => left_out("SHA"),
        }
    }

    #[test]
    fn avx512_gives_each_message_what_it_gets_alone() {
        match Avx512::detect() {
            Some(engine) => compare(|states, blocks| engine.compress(states, blocks)),
            None => left_out("AVX-512"),
        }
    }

    #[test]
    fn asking_for_data_ahead_leaves_out_no_block() {
        for count in 0..=3 * AHEAD_BLOCKS + 1 {
            let message = blocks(count, count);
            let mut state: State = words(7, 8).try_into().unwrap();
            let mut want = state;
            compress256(&mut want, &message);
            compress(&mut state, &message);
            assert_eq!(state, want, "{count} blocks");
        }
    }
}
