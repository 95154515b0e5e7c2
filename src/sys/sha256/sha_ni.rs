//! Two messages by the SHA extensions of x86-64.
//!
//! `sha256rnds2` gives its result after four cycles but can begin every three or two, and a message's rounds wait for
//! each other. The steps of two messages, one after the other, leave no gap.

use std::arch::x86_64::__m128i;
use std::arch::x86_64::_mm_add_epi32;
use std::arch::x86_64::_mm_alignr_epi8;
use std::arch::x86_64::_mm_extract_epi32;
use std::arch::x86_64::_mm_set_epi32;
use std::arch::x86_64::_mm_set_epi64x;
use std::arch::x86_64::_mm_sha256msg1_epu32;
use std::arch::x86_64::_mm_sha256msg2_epu32;
use std::arch::x86_64::_mm_sha256rnds2_epu32;
use std::arch::x86_64::_mm_shuffle_epi8;
use std::arch::x86_64::_mm_shuffle_epi32;

use super::AHEAD_BLOCKS;
use super::Block;
use super::K;
use super::State;
use super::prefetch;

/// A message's working variables, in the order that the instructions want them.
#[derive(Clone, Copy)]
struct Working {
    abef: __m128i,
    cdgh: __m128i,
}

/// Four words of the message schedule a register, the oldest first.
type Schedule = [__m128i; 4];

#[target_feature(enable = "sha,sse4.1")]
pub(super) fn compress([first, second]: &mut [State; 2], blocks: [&[Block]; 2]) -> usize {
    let [mut one, mut two] = [load_state(first), load_state(second)];
    let [blocks_one, blocks_two] = blocks;
    let mut done = 0;
    for (block_one, block_two) in blocks_one.iter().zip(blocks_two) {
        for blocks in [blocks_one, blocks_two] {
            if let Some(block) = blocks.get(done + AHEAD_BLOCKS) {
                prefetch(block);
            }
        }
        (one, two) = step([one, two], [block_one, block_two]);
        done += 1;
    }
    *first = store_state(one);
    *second = store_state(two);
    done
}

/// FIPS 180-4 section 6.2.2 for one block of each message.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn step([before_one, before_two]: [Working; 2], [block_one, block_two]: [&Block; 2]) -> (Working, Working) {
    let [mut one, mut two] = [before_one, before_two];
    let [mut w_one, mut w_two] = [load_block(block_one), load_block(block_two)];
    let (constants, _) = K.as_chunks::<4>();
    for k in constants {
        let k = constant(k);
        let ([words_one, ..], [words_two, ..]) = (w_one, w_two);
        one = four_rounds(one, _mm_add_epi32(words_one, k));
        two = four_rounds(two, _mm_add_epi32(words_two, k));
        // What this gives in the last four turns goes unused and is left out by the compiler.
        w_one = next_words(w_one);
        w_two = next_words(w_two);
    }
    (add(one, before_one), add(two, before_two))
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn four_rounds(from: Working, words: __m128i) -> Working {
    let cdgh = _mm_sha256rnds2_epu32(from.cdgh, from.abef, words);
    let abef = _mm_sha256rnds2_epu32(from.abef, cdgh, _mm_shuffle_epi32::<0b00_00_11_10>(words));
    Working { abef, cdgh }
}

/// The four words of the schedule that follow these sixteen, in place of the oldest four.
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn next_words([w0, w1, w2, w3]: Schedule) -> Schedule {
    let sum = _mm_add_epi32(_mm_sha256msg1_epu32(w0, w1), _mm_alignr_epi8::<4>(w3, w2));
    [w1, w2, w3, _mm_sha256msg2_epu32(sum, w3)]
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn add(a: Working, b: Working) -> Working {
    Working {
        abef: _mm_add_epi32(a.abef, b.abef),
        cdgh: _mm_add_epi32(a.cdgh, b.cdgh),
    }
}

/// Words are big-endian (FIPS 180-4 section 3.1).
#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn load_block(block: &Block) -> Schedule {
    let swap = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let mut w = [_mm_set_epi64x(0, 0); 4];
    for (w, [low, high]) in w.iter_mut().zip(block.as_chunks::<8>().0.as_chunks::<2>().0) {
        let bytes = _mm_set_epi64x(i64::from_le_bytes(*high), i64::from_le_bytes(*low));
        *w = _mm_shuffle_epi8(bytes, swap);
    }
    w
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn constant(k: &[u32; 4]) -> __m128i {
    let [k0, k1, k2, k3] = k.map(u32::cast_signed);
    _mm_set_epi32(k3, k2, k1, k0)
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn load_state(state: &State) -> Working {
    let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
    Working {
        abef: _mm_set_epi32(a, b, e, f),
        cdgh: _mm_set_epi32(c, d, g, h),
    }
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn store_state(from: Working) -> State {
    let [f, e, b, a] = words(from.abef);
    let [h, g, d, c] = words(from.cdgh);
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "sha,sse4.1")]
fn words(of: __m128i) -> [u32; 4] {
    [
        _mm_extract_epi32::<0>(of),
        _mm_extract_epi32::<1>(of),
        _mm_extract_epi32::<2>(of),
        _mm_extract_epi32::<3>(of),
    ]
    .map(i32::cast_unsigned)
}
