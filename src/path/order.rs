//! The order in which frameworks load the files of a model.
//!
//! It only decides what is verified first, so a guess that is wrong costs time and nothing else: files are told apart by
//! their names, never by their content.

use std::cmp::Ordering;

/// Compares two paths by when a framework loads them: the model's settings (`*.json`), the tokenizer, the index that
/// tells which weights lie where, and then everything else, the weights among it, with numbers in names in their natural
/// order. No two paths are equal in it.
pub fn loading_order(a: &str, b: &str) -> Ordering {
    (Stage::of(a).cmp(&Stage::of(b)))
        .then_with(|| natural(a, b))
        .then_with(|| a.cmp(b))
}

/// What a file is for, in the order of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Settings,
    Tokenizer,
    Index,
    /// Weights have no ending of their own, and what is neither weights nor one of the above is small.
    Weights,
}

impl Stage {
    fn of(path: &str) -> Self {
        let name = path.rsplit('/').next().unwrap_or(path);
        if TOKENIZERS.iter().any(|start| name.starts_with(start)) || name.ends_with(".tiktoken") {
            Self::Tokenizer
        } else if name.ends_with(".index.json") {
            Self::Index
        } else if name.ends_with(".json") {
            Self::Settings
        } else {
            Self::Weights
        }
    }
}

/// How the files of tokenizers begin that are published with models.
const TOKENIZERS: [&str; 7] = [
    "tokenizer",
    "vocab",
    "merges",
    "special_tokens",
    "added_tokens",
    "spiece",
    "sentencepiece",
];

/// Compares texts in which numbers stand: `part-2` comes before `part-10`, and a path before those beneath it.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    loop {
        let ((text_a, rest_a), (text_b, rest_b)) = (split(a, false), split(b, false));
        let ((number_a, next_a), (number_b, next_b)) = (split(rest_a, true), split(rest_b, true));
        let order = text_a.cmp(text_b).then_with(|| {
            let (a, b) = (without_zeros(number_a), without_zeros(number_b));
            (number_a.is_empty().cmp(&number_b.is_empty()).reverse())
                .then(a.len().cmp(&b.len()))
                .then(a.cmp(b))
        });
        if order.is_ne() || (next_a.is_empty() && next_b.is_empty()) {
            return order;
        }
        (a, b) = (next_a, next_b);
    }
}

/// The digits, or all but digits, at the beginning, and the rest.
fn split(text: &[u8], digits: bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| byte.is_ascii_digit() != digits);
    text.split_at(end.unwrap_or(text.len()))
}

fn without_zeros(number: &[u8]) -> &[u8] {
    let first = number.iter().position(|digit| *digit != b'0');
    number.split_at(first.unwrap_or(number.len())).1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_files_that_say_what_to_load_come_first_and_weights_by_their_numbers() {
        let want = [
            "config.json",
            "generation_config.json",
            "unet/config.json",
            "added_tokens.json",
            "merges.txt",
            "qwen.tiktoken",
            "sub/vocab.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer_config.json",
            "vocab.txt",
            "model.safetensors.index.json",
            "README.md",
            "model-1.bin",
            "model-00002-of-00010.safetensors",
            "model-10.bin",
            "model-18446744073709551616.bin",
            "model-18446744073709551617.bin",
            "onnx/model.onnx",
            "onnx/model.onnx_data",
            "x",
            "x01",
            "x1",
            "x1/y",
            "x2",
        ];
        let mut found = want;
        found.reverse();
        found.sort_by(|a, b| loading_order(a, b));
        assert_eq!(found, want);
    }

    #[test]
    fn the_order_is_total() {
        let names = [
            "", "0", "00", "a", "a0", "a00", "a0b", "a00b", "a/0", "a-0", "1a", "b.json", "vocab",
        ];
        for a in names {
            for b in names {
                assert_eq!(loading_order(a, b), loading_order(b, a).reverse(), "{a} {b}");
                assert_eq!(loading_order(a, b).is_eq(), a == b, "{a} {b}");
                for c in names {
                    let sorted = loading_order(a, b).is_lt() && loading_order(b, c).is_lt();
                    assert!(!sorted || loading_order(a, c).is_lt(), "{a} {b} {c}");
                }
            }
        }
    }
}
