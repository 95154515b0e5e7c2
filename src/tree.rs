//! The tree: a trusted manifest bound to a source. Names, inodes and attributes, frozen from then on.
//!
//! What exists is what was signed; the source is only asked whether a signed file can be served. An entry of
//! the source that nobody signed has no way in here. After [`ModelTree::bind`] nothing changes but the
//! states of resources, so the tree is shared without a lock.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use crate::manifest::SignedContent;
use crate::path::ModelPath;
use crate::path::loading_order;
use crate::source::ModelDir;
use crate::source::Traffic;
use crate::source::What;
use crate::trust::Signer;
use crate::trust::SigningTime;
use crate::trust::TrustedManifest;
use crate::verify::Engine;
use crate::verify::State;
use crate::verify::VerifiedFile;

mod check;
pub use check::ContentProblem;
pub use check::Ignored;
pub use check::TreeProblem;
pub use check::TreeProblemKind;

/// The inode of the root, as FUSE numbers it.
pub const ROOT: u64 = 1;

/// A node's place in the tree; its inode is one more.
type Index = u32;

/// Most nodes, directories included, that a tree may have: inodes and indices are 32 bits wide.
const MAX_NODES: usize = 1 << 31;

/// Files smaller than this many bytes have no place in the order of loading: a model may have a million of them.
const MIN_ORDERED_BYTES: u64 = 1024 * 1024;

/// A model that can be served.
#[derive(Debug)]
pub struct ModelTree {
    nodes: Vec<Node>,
    files: Vec<Arc<VerifiedFile>>,
    model: Model,
    source: Arc<ModelDir>,
    engine: Arc<Engine>,
    bundle: Option<ShownBundle>,
    /// Signed files that cannot be served.
    unbound: Vec<ModelPath>,
}

/// What is known of the model as a whole.
#[derive(Debug)]
pub struct Model {
    /// SHA-256 of the signed payload.
    pub identity: [u8; 32],
    /// What the signer called it.
    pub subject: String,
    /// Who signed it.
    pub signer: Signer,
    /// When, as far as that is proven.
    pub signed_at: SigningTime,
    /// The paths that the signer left out.
    pub ignore_paths: Vec<ModelPath>,
    /// Whether files without bytes may be unsigned (OMS 6.3.2: shards leave them out).
    pub is_sharded: bool,
    /// Sum of all pinned sizes in bytes.
    pub total_bytes: u64,
}

/// The bundle, where it lies inside the model: shown as a file, from memory.
#[derive(Clone, Debug)]
pub struct ShownBundle {
    /// Its name in the model.
    pub path: ModelPath,
    /// What was verified.
    pub bytes: Arc<Vec<u8>>,
}

/// Something in the tree.
#[derive(Debug)]
pub struct Node {
    parent: Index,
    content: Content,
}

/// What a [`Node`] is.
#[derive(Debug)]
pub enum Content {
    /// A directory that signed names imply.
    Directory(Box<Directory>),
    /// A signed file.
    File(Arc<VerifiedFile>),
    /// Bytes that this process holds: the bundle.
    Memory(Box<ShownBundle>),
}

/// A directory of a [`ModelTree`].
#[derive(Debug)]
pub struct Directory {
    name: Box<str>,
    /// In byte order of their names.
    entries: Vec<Index>,
}

impl Directory {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Node {
    /// Its name in its directory; empty for the root.
    pub fn name(&self) -> &str {
        let path = match &self.content {
            Content::Directory(directory) => return &directory.name,
            Content::File(file) => file.path(),
            Content::Memory(bundle) => &bundle.path,
        };
        path.components().next_back().unwrap_or_default()
    }

    /// What it is.
    pub fn content(&self) -> &Content {
        &self.content
    }
}

/// A tree and what hinders serving it.
#[derive(Debug)]
pub struct Binding {
    /// The tree, without the files that have a problem.
    pub tree: ModelTree,
    /// Signed files that are missing, of the wrong type or of the wrong size.
    pub problems: Vec<TreeProblem>,
}

impl ModelTree {
    /// Ties a trusted manifest to a source: each signed file is looked up, its type and, where it is signed,
    /// its size compared. No content is read, save that files without bytes are verified here, because the
    /// kernel never asks for a byte of them.
    ///
    /// # Errors
    /// When the shapes cannot fit: a single-file manifest and a directory, or the other way round.
    pub fn bind(
        trusted: TrustedManifest,
        source: ModelDir,
        engine: Arc<Engine>,
        bundle: Option<ShownBundle>,
    ) -> Result<Binding, BindError> {
        let manifest = trusted.manifest();
        // A file may be signed as `.` or under its own name; either way the model is that file.
        let is_one_file = manifest.is_single_file()
            || (manifest.files().len() == 1
                && manifest
                    .files()
                    .iter()
                    .all(|f| f.path().components().count() == 1));
        match (source.is_file(), manifest.is_single_file(), is_one_file) {
            (true, _, false) => {
                return Err(BindError::FileForTree {
                    files: manifest.files().len(),
                });
            }
            (false, true, _) => return Err(BindError::DirectoryForFile),
            _ => {}
        }
        let mut model = Model {
            identity: *manifest.identity(),
            subject: manifest.subject().to_owned(),
            signer: trusted.signer().clone(),
            signed_at: trusted.signed_at().clone(),
            ignore_paths: manifest.ignore_paths().to_vec(),
            is_sharded: manifest.shard_size().is_some(),
            total_bytes: 0,
        };
        let source = Arc::new(source);
        let mut problems = Vec::new();
        let mut unbound = Vec::new();
        let mut files = Vec::new();
        let mut builder = Builder::new();
        for (id, file) in (0..).zip(trusted.into_files()) {
            let path = file.path().clone();
            let size = match source.size_of(&path) {
                Ok(size) => size,
                Err(e) => {
                    problems.push(TreeProblem::unusable(&path, &e));
                    unbound.push(path);
                    continue;
                }
            };
            let max = engine.options().max_file_bytes;
            let problem = match file.content() {
                SignedContent::Shards(shards) if shards.size() != size => {
                    Some(TreeProblem::wrong_size(&path, shards.size(), size))
                }
                _ if size > max => Some(TreeProblem::too_long(&path, size, max)),
                _ => None,
            };
            if let Some(problem) = problem {
                problems.push(problem);
                unbound.push(path);
                continue;
            }
            let file = Arc::new(VerifiedFile::new(id, file, Arc::clone(&source), size));
            model.total_bytes = model.total_bytes.saturating_add(file.size());
            builder.add(&path, Content::File(Arc::clone(&file)))?;
            files.push(file);
        }
        if let Some(bundle) = &bundle {
            // A signed file of that name wins; a signed name beneath it leaves no room for a file.
            builder.add_if_free(&bundle.path, Content::Memory(Box::new(bundle.clone())))?;
        }
        let tree = Self {
            nodes: builder.finish(),
            files,
            model,
            source,
            engine,
            bundle,
            unbound,
        };
        tree.verify_empty_files();
        tree.engine.expect(tree.in_loading_order());
        Ok(Binding { tree, problems })
    }

    /// The node behind an inode.
    pub fn node(&self, inode: u64) -> Option<&Node> {
        self.nodes.get(usize::try_from(inode.checked_sub(ROOT)?).ok()?)
    }

    /// The inode of a node's directory; the root is its own.
    pub fn parent(&self, node: &Node) -> u64 {
        inode_of(node.parent)
    }

    /// Finds a name in a directory.
    pub fn child(&self, directory: &Directory, name: &str) -> Option<(u64, &Node)> {
        let entries = &directory.entries;
        let at = entries
            .binary_search_by(|&index| self.at(index).map_or("", |node| node.name()).cmp(name))
            .ok()?;
        let index = *entries.get(at)?;
        Some((inode_of(index), self.at(index)?))
    }

    /// The entries of a directory from the given position on.
    pub fn children<'a>(
        &'a self,
        directory: &'a Directory,
        from: usize,
    ) -> impl Iterator<Item = (u64, &'a Node)> {
        let rest = directory.entries.get(from..).unwrap_or_default();
        rest.iter()
            .filter_map(|&index| Some((inode_of(index), self.at(index)?)))
    }

    /// All files with their inodes, in no order.
    pub fn inodes(&self) -> impl Iterator<Item = (u64, &Arc<VerifiedFile>)> {
        (ROOT..)
            .zip(&self.nodes)
            .filter_map(|(inode, node)| match node.content() {
                Content::File(file) => Some((inode, file)),
                Content::Directory(_) | Content::Memory(_) => None,
            })
    }

    /// All files that can be served, in byte order of their paths.
    pub fn files(&self) -> &[Arc<VerifiedFile>] {
        &self.files
    }

    /// What is known of the model as a whole.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// What reads and hashes for this tree.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The source's path, for people.
    pub fn source_path(&self) -> &std::path::Path {
        self.source.path()
    }

    /// The files in the order in which frameworks read them, without those that are read before it could matter.
    fn in_loading_order(&self) -> Vec<Arc<VerifiedFile>> {
        let large = |file: &&Arc<VerifiedFile>| file.size() >= MIN_ORDERED_BYTES;
        let mut files: Vec<_> = self.files.iter().filter(large).cloned().collect();
        files.sort_by(|a, b| loading_order(a.path().as_str(), b.path().as_str()));
        files
    }

    /// How the source was read so far.
    pub fn traffic(&self) -> Traffic {
        self.source.traffic()
    }

    /// How many nodes there are.
    pub fn node_count(&self) -> u64 {
        u64::try_from(self.nodes.len()).unwrap_or(u64::MAX)
    }

    /// How many files are in each state.
    pub fn states(&self) -> HashMap<State, u64> {
        let mut states = HashMap::new();
        for file in &self.files {
            *states.entry(file.state()).or_insert(0) += 1;
        }
        states
    }

    fn at(&self, index: Index) -> Option<&Node> {
        self.nodes.get(usize::try_from(index).ok()?)
    }
}

impl Content {
    fn directory(name: &str) -> Self {
        Self::Directory(Box::new(Directory {
            name: name.into(),
            entries: Vec::new(),
        }))
    }
}

fn inode_of(index: Index) -> u64 {
    u64::from(index) + ROOT
}

/// Grows the nodes from paths.
struct Builder {
    nodes: Vec<Node>,
    /// By parent and name, so that a directory costs its name and not the whole path to it.
    directories: HashMap<(Index, Box<str>), Index>,
    /// The directory of the last file, with its path: files come in order, so most are in the same.
    recent: (String, Index),
}

impl Builder {
    fn new() -> Self {
        let root = Node {
            parent: 0,
            content: Content::directory(""),
        };
        Self {
            nodes: vec![root],
            directories: HashMap::new(),
            recent: (String::new(), 0),
        }
    }

    fn add(&mut self, path: &ModelPath, content: Content) -> Result<(), BindError> {
        let folder = path.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        if self.recent.0 != folder {
            let mut parent = 0;
            for component in folder.split('/').filter(|component| !component.is_empty()) {
                parent = self.directory(parent, component)?;
            }
            self.recent = (folder.to_owned(), parent);
        }
        self.push(self.recent.1, content).map(drop)
    }

    /// Adds a file unless its name, or a directory on the way to it, is a file's already.
    fn add_if_free(&mut self, path: &ModelPath, content: Content) -> Result<(), BindError> {
        let mut above = 0;
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            let Some(Node {
                content: Content::Directory(directory),
                ..
            }) = self.get(above)
            else {
                return Ok(());
            };
            let mut entries = directory.entries.iter();
            match entries.find(|&&entry| self.get(entry).is_some_and(|node| node.name() == component)) {
                Some(_) if components.peek().is_none() => return Ok(()),
                Some(&entry) => above = entry,
                None => break,
            }
        }
        self.add(path, content)
    }

    fn directory(&mut self, parent: Index, name: &str) -> Result<Index, BindError> {
        let key = (parent, name.into());
        if let Some(&index) = self.directories.get(&key) {
            return Ok(index);
        }
        let index = self.push(parent, Content::directory(name))?;
        self.directories.insert(key, index);
        Ok(index)
    }

    fn push(&mut self, parent: Index, content: Content) -> Result<Index, BindError> {
        let index = Index::try_from(self.nodes.len())
            .ok()
            .filter(|_| self.nodes.len() < MAX_NODES);
        let index = index.ok_or(BindError::TooManyNodes)?;
        self.nodes.push(Node { parent, content });
        let parent = usize::try_from(parent)
            .ok()
            .and_then(|parent| self.entries(parent));
        if let Some(entries) = parent {
            entries.push(index);
        }
        Ok(index)
    }

    fn get(&self, index: Index) -> Option<&Node> {
        self.nodes.get(usize::try_from(index).ok()?)
    }

    fn finish(mut self) -> Vec<Node> {
        for index in 0..self.nodes.len() {
            let Some(mut entries) = self.entries(index).map(std::mem::take) else {
                continue;
            };
            let name = |index: &Index| self.get(*index).map(Node::name);
            entries.sort_by(|a, b| name(a).cmp(&name(b)));
            entries.shrink_to_fit();
            if let Some(place) = self.entries(index) {
                *place = entries;
            }
        }
        self.nodes.shrink_to_fit();
        self.nodes
    }

    fn entries(&mut self, index: usize) -> Option<&mut Vec<Index>> {
        match self.nodes.get_mut(index) {
            Some(Node {
                content: Content::Directory(directory),
                ..
            }) => Some(&mut directory.entries),
            _ => None,
        }
    }
}

/// Why a manifest and a source cannot belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BindError {
    /// The manifest signs a single file and the source is a directory.
    DirectoryForFile,
    /// The manifest signs a tree and the source is a file.
    FileForTree {
        /// How many files are signed.
        files: usize,
    },
    /// More files and directories than inodes.
    TooManyNodes,
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DirectoryForFile => {
                write!(f, "the bundle signs a single file, but the model is a directory")
            }
            Self::FileForTree { files } => {
                write!(
                    f,
                    "the bundle signs a directory of {files} files, but the model is one file"
                )
            }
            Self::TooManyNodes => write!(f, "the bundle signs more files than inodes can number"),
        }
    }
}

impl std::error::Error for BindError {}

impl TreeProblem {
    fn unusable(path: &ModelPath, error: &crate::source::SourceError) -> Self {
        let kind = match error.what() {
            What::Missing => TreeProblemKind::Missing,
            What::Link | What::Outside | What::NotRegular(_) => TreeProblemKind::WrongType,
            What::Io(_) => TreeProblemKind::Unreadable,
        };
        Self::new(kind, path.as_str().into(), error.to_string())
    }

    fn too_long(path: &ModelPath, found: u64, max: u64) -> Self {
        let text = format!("{path}: {found} bytes, but no file may have more than {max} (--max-file-size)");
        Self::new(TreeProblemKind::WrongSize, path.as_str().into(), text)
    }

    fn wrong_size(path: &ModelPath, signed: u64, found: u64) -> Self {
        let text = format!("{path}: {found} bytes, but {signed} are signed");
        Self::new(TreeProblemKind::WrongSize, path.as_str().into(), text)
    }
}

#[cfg(test)]
mod tests;
