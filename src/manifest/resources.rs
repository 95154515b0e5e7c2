//! The resources as a statement lists them, kept small while the rest of it is read: each name is a piece of the
//! payload, each digest its bytes. A statement may say only at its end what hash and method they are of, so that
//! is compared afterwards.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use data_encoding::HEXLOWER;
use serde::Deserialize;
use serde::Deserializer;
use serde::de::SeqAccess;
use serde::de::Visitor;

use super::MAX_RESOURCES;
use super::ManifestError;
use super::statement::Method;
use super::statement::Subject;
use crate::digest;
use crate::digest::Algorithm;
use crate::digest::Digest;
use crate::digest::DigestError;
use crate::json::Ignored;
use crate::json::Object;

/// After how many elements a list that is taken apart gives memory back. Smaller: more calls of the allocator;
/// bigger: more memory twice.
const STEP: usize = 1 << 16;

/// A resource as it is listed.
#[derive(Deserialize)]
pub(super) struct Resource<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow)]
    algorithm: Cow<'a, str>,
    #[serde(borrow)]
    digest: Cow<'a, str>,
}

impl<'a> From<Subject<'a>> for Resource<'a> {
    fn from(subject: Subject<'a>) -> Self {
        Self {
            name: subject.name,
            algorithm: Cow::Borrowed(Algorithm::Sha256.id()),
            digest: subject.digest.0.sha256,
        }
    }
}

/// A list of resources, of which at most [`MAX_RESOURCES`] are kept and the others counted.
#[derive(Default)]
pub(super) struct Resources<'a> {
    count: usize,
    names: Vec<Cow<'a, str>>,
    /// The spellings of the algorithm, each with the first resource that has it; nearly always one.
    algorithms: Vec<(usize, Cow<'a, str>)>,
    digests: Vec<u8>,
    /// Bytes in each of the digests.
    width: usize,
    /// The first digest that is not hexadecimal or not as long as those before it, and which it is. None behind it
    /// is kept: the list is refused.
    odd: Option<(usize, Cow<'a, str>)>,
}

impl<'a> Resources<'a> {
    /// How many are listed.
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// Whether the list has one resource, of this name.
    pub(super) fn is_only(&self, name: &str) -> bool {
        matches!(self.names.as_slice(), [only] if only == name)
    }

    /// Holds the list against what the statement says of it.
    pub(super) fn split(
        self,
        algorithm: Algorithm,
        method: Method,
    ) -> Result<(Vec<Cow<'a, str>>, ListedDigests), ManifestError> {
        let wrong_algorithm = self.wrong_algorithm(algorithm, method);
        let wrong_digest = self.wrong_digest(algorithm);
        let name = |index: usize| self.names.get(index).map(Cow::to_string).unwrap_or_default();
        match (wrong_algorithm, wrong_digest) {
            (Some((index, found)), digest) if digest.as_ref().is_none_or(|(at, _)| index <= *at) => {
                Err(ManifestError::AlgorithmMismatch {
                    name: name(index),
                    expected: algorithm,
                    found: found.to_owned(),
                })
            }
            (_, Some((index, cause))) => Err(ManifestError::Digest {
                name: name(index),
                cause,
            }),
            _ => Ok((
                self.names,
                ListedDigests {
                    algorithm,
                    bytes: self.digests,
                },
            )),
        }
    }

    /// The first resource that is of another algorithm, and which.
    fn wrong_algorithm(&self, algorithm: Algorithm, method: Method) -> Option<(usize, &str)> {
        // The references write `sha256-sharded-1000`, OMS 6.3.2 demands `sha256`: both are about.
        let mangled = match method {
            Method::Files => None,
            Method::Shards { shard_size } => Some(format!("{algorithm}-sharded-{shard_size}")),
        };
        let right = |text: &str| text == algorithm.id() || Some(text) == mangled.as_deref();
        let wrong = self.algorithms.iter().find(|(_, text)| !right(text))?;
        Some((wrong.0, &wrong.1))
    }

    /// The first digest that is none of this algorithm, and why.
    fn wrong_digest(&self, algorithm: Algorithm) -> Option<(usize, DigestError)> {
        let (index, text) = match &self.odd {
            Some((index, text)) if *index == 0 || self.width == algorithm.digest_bytes() => {
                (*index, text.clone())
            }
            _ if self.count > 0 && self.width != algorithm.digest_bytes() => {
                let first = self.digests.get(..self.width).unwrap_or_default();
                (0, HEXLOWER.encode(first).into())
            }
            _ => return None,
        };
        let cause = Digest::from_hex(algorithm, &text).err();
        Some((index, cause.unwrap_or(DigestError::NotHex)))
    }

    fn push(&mut self, resource: Resource<'a>) {
        let index = self.names.len();
        self.names.push(resource.name);
        if self
            .algorithms
            .last()
            .is_none_or(|(_, text)| *text != resource.algorithm)
        {
            self.algorithms.push((index, resource.algorithm));
        }
        if self.odd.is_none() && !self.push_digest(&resource.digest) {
            self.odd = Some((index, resource.digest));
        }
    }

    /// Adds a digest if it is as long as those before it.
    fn push_digest(&mut self, hex: &str) -> bool {
        let before = self.digests.len();
        if self.names.len() == 1 {
            self.width = hex.len() / 2;
        }
        // One that is empty, or of kilobytes, is the width of nothing.
        if hex.len() != 2 * self.width || !(1..=MAX_DIGEST_BYTES).contains(&self.width) {
            return false;
        }
        self.digests.resize(before + self.width, 0);
        let place = self.digests.get_mut(before..).unwrap_or_default();
        let decoded = HEXLOWER.decode_mut(hex.as_bytes(), place).is_ok();
        if !decoded {
            self.digests.truncate(before);
        }
        decoded
    }
}

/// Longest digest in bytes that any algorithm makes.
const MAX_DIGEST_BYTES: usize = 64;

impl<'de: 'a, 'a> Deserialize<'de> for Resources<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(ListVisitor::<'a, Resource<'a>>(PhantomData))
    }
}

/// The subjects of a statement of v0.2, each of which is a file.
#[derive(Default)]
pub(super) struct LegacyResources<'a>(pub(super) Resources<'a>);

impl<'de: 'a, 'a> Deserialize<'de> for LegacyResources<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = ListVisitor::<'a, Subject<'a>>(PhantomData);
        deserializer.deserialize_seq(visitor).map(Self)
    }
}

struct ListVisitor<'a, T>(PhantomData<(&'a str, T)>);

impl<'de, 'a, T: Deserialize<'de> + Into<Resource<'a>>> Visitor<'de> for ListVisitor<'a, T> {
    type Value = Resources<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut list = Resources::default();
        while list.count < MAX_RESOURCES {
            match seq.next_element::<Object<T>>()? {
                Some(Object(resource)) => list.push(resource.into()),
                None => return Ok(list),
            }
            list.count += 1;
        }
        while seq.next_element::<Ignored>()?.is_some() {
            list.count += 1;
        }
        Ok(list)
    }
}

/// The digests of all resources, in the order in which they are listed.
pub(super) struct ListedDigests {
    pub(super) algorithm: Algorithm,
    bytes: Vec<u8>,
}

impl ListedDigests {
    /// Always SHA-256, whatever the resources were hashed with (OMS 6.5.1).
    pub(super) fn root(&self) -> [u8; 32] {
        digest::sha256(&self.bytes)
    }

    /// The digest of the resource that was listed at `index`.
    pub(super) fn at(&self, index: usize) -> Option<&[u8]> {
        let width = self.algorithm.digest_bytes();
        let start = index.checked_mul(width)?;
        self.bytes.get(start..start.checked_add(width)?)
    }

    /// All of them, one behind the other.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Takes the last one away.
    pub(super) fn pop(&mut self) -> Option<Digest> {
        let rest = self.bytes.len().checked_sub(self.algorithm.digest_bytes())?;
        let last = Digest::from_bytes(self.algorithm, self.bytes.get(rest..)?);
        self.bytes.truncate(rest);
        if (rest / self.algorithm.digest_bytes()).is_multiple_of(STEP) {
            self.bytes.shrink_to_fit();
        }
        last
    }
}

/// Takes a list apart from its end and gives memory back on the way: of a million resources, the list and what is
/// made of it would not both be small.
pub(super) struct FromTheEnd<T>(pub(super) Vec<T>);

impl<T> Iterator for FromTheEnd<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        let last = self.0.pop();
        if self.0.len().is_multiple_of(STEP) {
            self.0.shrink_to_fit();
        }
        last
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.0.len(), Some(self.0.len()))
    }
}
