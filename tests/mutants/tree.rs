//! JSON as a tree that may hold what no writer of JSON would write: a key twice, keys in any order.

use serde_json::Value;

/// A value, with objects as lists of keys and values.
#[derive(Clone, Debug)]
pub(crate) enum Tree {
    Object(Vec<(String, Tree)>),
    Array(Vec<Tree>),
    Leaf(Value),
}

/// The way from the root to a value: at each level, which child.
pub(crate) type Way = Vec<usize>;

impl Tree {
    pub(crate) fn parse(text: &[u8]) -> Self {
        Self::of(serde_json::from_slice(text).expect("the vectors are JSON"))
    }

    fn of(value: Value) -> Self {
        match value {
            Value::Object(map) => Self::Object(
                map.into_iter()
                    .map(|(key, value)| (key, Self::of(value)))
                    .collect(),
            ),
            Value::Array(list) => Self::Array(list.into_iter().map(Self::of).collect()),
            leaf => Self::Leaf(leaf),
        }
    }

    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Object(fields) => {
                out.push('{');
                for (index, (key, value)) in fields.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(&Value::from(key.as_str()).to_string());
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
            Self::Array(list) => {
                out.push('[');
                for (index, value) in list.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    value.write(out);
                }
                out.push(']');
            }
            Self::Leaf(value) => out.push_str(&value.to_string()),
        }
    }

    /// The ways to all values in it, its own first.
    pub(crate) fn ways(&self) -> Vec<Way> {
        let mut ways = vec![Vec::new()];
        for (index, child) in self.children().into_iter().enumerate() {
            for mut way in child.ways() {
                way.insert(0, index);
                ways.push(way);
            }
        }
        ways
    }

    fn children(&self) -> Vec<&Tree> {
        match self {
            Self::Object(fields) => fields.iter().map(|(_, value)| value).collect(),
            Self::Array(list) => list.iter().collect(),
            Self::Leaf(_) => Vec::new(),
        }
    }

    pub(crate) fn at(&mut self, way: &[usize]) -> &mut Tree {
        way.iter().fold(self, |tree, &index| match tree {
            Self::Object(fields) => &mut fields[index].1,
            Self::Array(list) => &mut list[index],
            Self::Leaf(_) => panic!("a leaf has no children"),
        })
    }
}
