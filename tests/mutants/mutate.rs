//! Mutants of one bundle: a byte changed, added or taken away, and the tree of its JSON cut and sewn together anew, in
//! the bundle and in every document that it holds in base64.

use std::collections::HashSet;

use data_encoding::BASE64;
use serde_json::Value;
use serde_json::json;

use crate::random::Random;
use crate::tree::Tree;
use crate::tree::Way;

/// Makes mutants of one bundle; the same seed makes the same ones.
pub(crate) struct Mutator {
    original: Vec<u8>,
    tree: Tree,
    ways: Vec<Way>,
    /// The ways to texts that are base64 of something.
    documents: Vec<Way>,
    random: Random,
    made: HashSet<u64>,
}

impl Mutator {
    pub(crate) fn new(original: Vec<u8>, seed: u64) -> Self {
        let mut tree = Tree::parse(&original);
        let ways = tree.ways();
        let documents = ways
            .iter()
            .filter(|way| document(tree.at(way)).is_some())
            .cloned()
            .collect();
        Self {
            original,
            tree,
            ways,
            documents,
            random: Random::from_seed(seed),
            made: HashSet::new(),
        }
    }

    /// A mutant that was not made before and is not the original; the number says which kinds take turns. The first
    /// ones go through every byte of the bundle.
    pub(crate) fn make(&mut self, number: usize) -> Vec<u8> {
        loop {
            let mutant = match number.checked_sub(self.original.len()) {
                None => {
                    let bit = 1 << self.random.within(0..8);
                    let mut mutant = self.original.clone();
                    mutant[number] ^= bit;
                    mutant
                }
                Some(rest) => match rest % 4 {
                    0 => change_byte(self.original.clone(), &mut self.random),
                    1 => self.structural(),
                    _ => self.inner(),
                },
            };
            if mutant != self.original && self.made.insert(hash(&mutant)) {
                return mutant;
            }
        }
    }

    /// Changes the shape of the bundle.
    fn structural(&mut self) -> Vec<u8> {
        let mut tree = self.tree.clone();
        for _ in 0..=self.random.within(0..2) {
            let ways = tree.ways();
            reshape(&mut tree, &ways, &mut self.random);
        }
        let mut text = tree.text().into_bytes();
        if self.random.within(0..3) == 0 {
            text = change_byte(text, &mut self.random);
        }
        text
    }

    /// Changes a document that the bundle holds, by a byte or in its shape, and spells it in base64 again.
    fn inner(&mut self) -> Vec<u8> {
        let mut tree = self.tree.clone();
        let way = &self.documents[self.random.within(0..self.documents.len())];
        let place = tree.at(way);
        let bytes = document(place).expect("it was one");
        let is_json = serde_json::from_slice::<Value>(&bytes).is_ok_and(|value| value.is_object());
        let bytes = match is_json && self.random.within(0..2) == 0 {
            true => {
                let mut inner = Tree::parse(&bytes);
                let ways = inner.ways();
                reshape(&mut inner, &ways, &mut self.random);
                inner.text().into_bytes()
            }
            false => change_byte(bytes, &mut self.random),
        };
        *place = Tree::Leaf(BASE64.encode(&bytes).into());
        tree.text().into_bytes()
    }

    pub(crate) fn values(&self) -> usize {
        self.ways.len()
    }
}

/// The bytes of a text that is base64 of something longer than a number.
fn document(tree: &Tree) -> Option<Vec<u8>> {
    let Tree::Leaf(Value::String(text)) = tree else {
        return None;
    };
    BASE64
        .decode(text.as_bytes())
        .ok()
        .filter(|bytes| bytes.len() > 8)
}

fn change_byte(mut bytes: Vec<u8>, random: &mut Random) -> Vec<u8> {
    if bytes.is_empty() {
        return vec![0];
    }
    let at = random.within(0..bytes.len());
    let byte = random.next().to_le_bytes()[0];
    match random.within(0..8) {
        0 => drop(bytes.remove(at)),
        1 => bytes.insert(at, byte),
        2 => bytes.insert(at, bytes[at]),
        3 => bytes.truncate(at),
        4 => {
            bytes[at] = *b"\"{}[],:\\\0 =/+-_"
                .get(usize::from(byte % 15))
                .expect("in the list")
        }
        5 => bytes[at] = byte,
        _ => bytes[at] ^= 1 << (byte % 8),
    }
    bytes
}

/// What may stand where something else is expected.
fn stranger(random: &mut Random) -> Tree {
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(18_446_744_073_709_551_615_u64),
        json!(""),
        json!("x"),
        json!("AAAA"),
        json!("\u{202e}\u{0}\n"),
    ];
    match random.within(0..values.len() + 3) {
        0 => Tree::Object(Vec::new()),
        1 => Tree::Array(Vec::new()),
        2 => Tree::Array(vec![Tree::Object(Vec::new())]),
        other => Tree::Leaf(values[other - 3].clone()),
    }
}

/// One change of shape.
fn reshape(tree: &mut Tree, ways: &[Way], random: &mut Random) {
    let way = &ways[random.within(0..ways.len())];
    let donor = ways[random.within(0..ways.len())].clone();
    let donated = tree.at(&donor).clone();
    let change = random.within(0..9);
    match (tree.at(way), change) {
        (place, 0) => *place = stranger(random),
        (place, 1) => *place = donated,
        (place, 2) => *place = Tree::Array(vec![place.clone()]),
        (place, 3) => *place = Tree::Object(vec![("value".into(), place.clone())]),
        (Tree::Object(fields), _) if !fields.is_empty() => {
            let at = random.within(0..fields.len());
            let other = random.within(0..fields.len());
            match change {
                4 => drop(fields.remove(at)),
                // The same key again: before it or behind it, with its own value or another.
                5 => fields.insert(other, (fields[at].0.clone(), donated)),
                6 => fields.push(fields[at].clone()),
                7 => {
                    let key = fields[other].0.clone();
                    fields[at].0 = match random.within(0..3) {
                        0 => key,
                        1 => key.to_uppercase(),
                        _ => key + "x",
                    };
                }
                _ => fields.push((
                    ["keyid", "publicKey", "x", ""][random.within(0..4)].into(),
                    donated,
                )),
            }
        }
        (Tree::Array(list), _) if !list.is_empty() => {
            let at = random.within(0..list.len());
            match change {
                4 => drop(list.remove(at)),
                5 => list.insert(at, donated),
                6 => list.push(list[at].clone()),
                7 => list.reverse(),
                _ => list.extend(std::iter::repeat_n(donated, 12)),
            }
        }
        (Tree::Leaf(Value::String(text)), _) => {
            *text = match change {
                4 => text.to_uppercase(),
                5 => text.clone() + " ",
                6 => text.repeat(2),
                7 => text.trim_end_matches('=').to_owned(),
                _ => text.replace('+', "-").replace('/', "_"),
            };
        }
        (place, _) => *place = stranger(random),
    }
}

fn hash(bytes: &[u8]) -> u64 {
    use std::hash::BuildHasher as _;
    use std::hash::BuildHasherDefault;
    use std::hash::DefaultHasher;
    BuildHasherDefault::<DefaultHasher>::default().hash_one(bytes)
}
