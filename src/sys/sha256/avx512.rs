//! Sixteen messages by AVX-512: each register holds one working variable, or one word, of all of them.

use std::arch::x86_64::__m512i;
use std::arch::x86_64::_mm_extract_epi32;
use std::arch::x86_64::_mm512_add_epi32;
use std::arch::x86_64::_mm512_extracti32x4_epi32;
use std::arch::x86_64::_mm512_ror_epi32;
use std::arch::x86_64::_mm512_set_epi32;
use std::arch::x86_64::_mm512_set_epi64;
use std::arch::x86_64::_mm512_set1_epi32;
use std::arch::x86_64::_mm512_shuffle_epi8;
use std::arch::x86_64::_mm512_shuffle_i32x4;
use std::arch::x86_64::_mm512_srli_epi32;
use std::arch::x86_64::_mm512_ternarylogic_epi32;
use std::arch::x86_64::_mm512_unpackhi_epi32;
use std::arch::x86_64::_mm512_unpackhi_epi64;
use std::arch::x86_64::_mm512_unpacklo_epi32;
use std::arch::x86_64::_mm512_unpacklo_epi64;

use super::AHEAD_BLOCKS;
use super::Block;
use super::K;
use super::State;
use super::prefetch;

/// Truth tables of three inputs: the parity, the choice and the majority of FIPS 180-4 section 4.1.2.
const XOR: i32 = 0x96;
const CH: i32 = 0xca;
const MAJ: i32 = 0xe8;

#[target_feature(enable = "avx512f,avx512bw")]
pub(super) fn compress(states: &mut [State; 16], blocks: [&[Block]; 16]) -> usize {
    let shortest = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
    let mut working = load_states(states);
    for at in 0..shortest {
        let mut rows = [_mm512_set1_epi32(0); 16];
        for (row, blocks) in rows.iter_mut().zip(blocks) {
            if let Some(block) = blocks.get(at) {
                *row = load_block(block);
            }
            if let Some(block) = blocks.get(at + AHEAD_BLOCKS) {
                prefetch(block);
            }
        }
        working = step(working, transpose(rows));
    }
    store_states(working, states);
    shortest
}

/// FIPS 180-4 section 6.2.2 for one block of each message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
#[allow(clippy::indexing_slicing, reason = "sixteen constants, written out")]
fn step(before: [__m512i; 8], mut w: [__m512i; 16]) -> [__m512i; 8] {
    let mut v = before;
    let mut quarters = K.as_chunks::<16>().0.iter();
    if let Some(k) = quarters.next() {
        macro_rules! first {
            ($($t:literal)*) => { $( v = round(v, w[$t], k[$t]); )* };
        }
        first!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
    for k in quarters {
        macro_rules! next {
            ($($t:literal)*) => { $(
                w[$t] = next_word(w[$t], w[($t + 1) % 16], w[($t + 9) % 16], w[($t + 14) % 16]);
                v = round(v, w[$t], k[$t]);
            )* };
        }
        next!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
    let mut sums = v;
    for (sum, before) in sums.iter_mut().zip(before) {
        *sum = _mm512_add_epi32(*sum, before);
    }
    sums
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn round([a, b, c, d, e, f, g, h]: [__m512i; 8], w: __m512i, k: u32) -> [__m512i; 8] {
    let sigma1 = xor(
        _mm512_ror_epi32::<6>(e),
        _mm512_ror_epi32::<11>(e),
        _mm512_ror_epi32::<25>(e),
    );
    let sigma0 = xor(
        _mm512_ror_epi32::<2>(a),
        _mm512_ror_epi32::<13>(a),
        _mm512_ror_epi32::<22>(a),
    );
    let ch = _mm512_ternarylogic_epi32::<CH>(e, f, g);
    let maj = _mm512_ternarylogic_epi32::<MAJ>(a, b, c);
    let wk = _mm512_add_epi32(w, _mm512_set1_epi32(k.cast_signed()));
    let t1 = _mm512_add_epi32(_mm512_add_epi32(h, wk), _mm512_add_epi32(sigma1, ch));
    let t2 = _mm512_add_epi32(sigma0, maj);
    [
        _mm512_add_epi32(t1, t2),
        a,
        b,
        c,
        _mm512_add_epi32(d, t1),
        e,
        f,
        g,
    ]
}

/// The word of the schedule that is sixteen after the first of these, given the words 1, 9 and 14 after it.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn next_word(w0: __m512i, w1: __m512i, w9: __m512i, w14: __m512i) -> __m512i {
    let sigma0 = xor(
        _mm512_ror_epi32::<7>(w1),
        _mm512_ror_epi32::<18>(w1),
        _mm512_srli_epi32::<3>(w1),
    );
    let sigma1 = xor(
        _mm512_ror_epi32::<17>(w14),
        _mm512_ror_epi32::<19>(w14),
        _mm512_srli_epi32::<10>(w14),
    );
    _mm512_add_epi32(_mm512_add_epi32(w0, w9), _mm512_add_epi32(sigma0, sigma1))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn xor(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<XOR>(a, b, c)
}

/// Words are big-endian (FIPS 180-4 section 3.1).
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_block(block: &Block) -> __m512i {
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(block.as_chunks::<8>().0) {
        *word = i64::from_le_bytes(*bytes);
    }
    let [w0, w1, w2, w3, w4, w5, w6, w7] = words;
    let (high, low) = (0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
    let swap = _mm512_set_epi64(high, low, high, low, high, low, high, low);
    _mm512_shuffle_epi8(_mm512_set_epi64(w7, w6, w5, w4, w3, w2, w1, w0), swap)
}

/// Sixteen rows of one message's words each become sixteen rows of one word of each message.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let [
        r0,
        r1,
        r2,
        r3,
        r4,
        r5,
        r6,
        r7,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = rows;
    let [a0, a1, a2, a3] = transpose_words([r0, r1, r2, r3]);
    let [b0, b1, b2, b3] = transpose_words([r4, r5, r6, r7]);
    let [c0, c1, c2, c3] = transpose_words([r8, r9, r10, r11]);
    let [d0, d1, d2, d3] = transpose_words([r12, r13, r14, r15]);
    let [w0, w4, w8, w12] = transpose_quarters([a0, b0, c0, d0]);
    let [w1, w5, w9, w13] = transpose_quarters([a1, b1, c1, d1]);
    let [w2, w6, w10, w14] = transpose_quarters([a2, b2, c2, d2]);
    let [w3, w7, w11, w15] = transpose_quarters([a3, b3, c3, d3]);
    [
        w0, w1, w2, w3, w4, w5, w6, w7, w8, w9, w10, w11, w12, w13, w14, w15,
    ]
}

/// Within each quarter of 128 bits: four words of four messages become four messages of one word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose_words([r0, r1, r2, r3]: [__m512i; 4]) -> [__m512i; 4] {
    let (low01, high01) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpackhi_epi32(r0, r1));
    let (low23, high23) = (_mm512_unpacklo_epi32(r2, r3), _mm512_unpackhi_epi32(r2, r3));
    [
        _mm512_unpacklo_epi64(low01, low23),
        _mm512_unpackhi_epi64(low01, low23),
        _mm512_unpacklo_epi64(high01, high23),
        _mm512_unpackhi_epi64(high01, high23),
    ]
}

/// The quarters of four registers, as if they were the words of a matrix.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn transpose_quarters([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let (even_ab, odd_ab) = (
        _mm512_shuffle_i32x4::<EVEN>(a, b),
        _mm512_shuffle_i32x4::<ODD>(a, b),
    );
    let (even_cd, odd_cd) = (
        _mm512_shuffle_i32x4::<EVEN>(c, d),
        _mm512_shuffle_i32x4::<ODD>(c, d),
    );
    [
        _mm512_shuffle_i32x4::<EVEN>(even_ab, even_cd),
        _mm512_shuffle_i32x4::<EVEN>(odd_ab, odd_cd),
        _mm512_shuffle_i32x4::<ODD>(even_ab, even_cd),
        _mm512_shuffle_i32x4::<ODD>(odd_ab, odd_cd),
    ]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load_states(states: &[State; 16]) -> [__m512i; 8] {
    let mut rows = [_mm512_set1_epi32(0); 16];
    for (row, state) in rows.iter_mut().zip(states) {
        let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
        *row = _mm512_set_epi32(0, 0, 0, 0, 0, 0, 0, 0, h, g, f, e, d, c, b, a);
    }
    let [a, b, c, d, e, f, g, h, ..] = transpose(rows);
    [a, b, c, d, e, f, g, h]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn store_states([a, b, c, d, e, f, g, h]: [__m512i; 8], states: &mut [State; 16]) {
    let none = _mm512_set1_epi32(0);
    let rows = transpose([
        a, b, c, d, e, f, g, h, none, none, none, none, none, none, none, none,
    ]);
    for (row, state) in rows.into_iter().zip(states) {
        let low = _mm512_extracti32x4_epi32::<0>(row);
        let high = _mm512_extracti32x4_epi32::<1>(row);
        *state = [
            _mm_extract_epi32::<0>(low),
            _mm_extract_epi32::<1>(low),
            _mm_extract_epi32::<2>(low),
            _mm_extract_epi32::<3>(low),
            _mm_extract_epi32::<0>(high),
            _mm_extract_epi32::<1>(high),
            _mm_extract_epi32::<2>(high),
            _mm_extract_epi32::<3>(high),
        ]
        .map(i32::cast_unsigned);
    }
}
