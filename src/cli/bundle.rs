//! Finding and reading the bundle that a command names.

use std::fs;
use std::fs::File;
use std::io;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use super::exit::Exit;
use super::failure::Failure;
use crate::path::Escaped;
use crate::path::ModelPath;
use crate::trust::bundle::MAX_BUNDLE_BYTES;

/// The word that stands for the bundle inside the model.
const WORD: &str = "bundle";

/// Name of the bundle inside a model, as the reference tool writes it.
pub(super) const BUNDLE_NAME: &str = "model.sig";

/// A bundle as it lies on disk; nothing in it is trusted.
#[derive(Debug)]
pub(super) struct BundleFile {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

impl BundleFile {
    /// Reads the bundle that an argument names. With a model, the word `bundle` means the one inside it,
    /// where there is no file of that name.
    pub(super) fn read(argument: &Path, model: Option<&Path>) -> Result<Self, Failure> {
        let path = locate(argument, model)?;
        let bytes = read(&path)?;
        Ok(Self { path, bytes })
    }

    /// The bundle's name in the model, when it lies inside. What counts is where its name stands: a link in
    /// the model that leads to a bundle elsewhere is inside.
    pub(super) fn path_within(&self, model: &Path) -> Option<ModelPath> {
        let model = fs::canonicalize(model).ok()?;
        let folder = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let place = fs::canonicalize(folder).ok()?.join(self.path.file_name()?);
        let name = place.strip_prefix(&model).ok()?.to_str()?;
        ModelPath::parse(name).ok()
    }
}

fn locate(argument: &Path, model: Option<&Path>) -> Result<PathBuf, Failure> {
    if argument != Path::new(WORD) || argument.is_file() {
        return Ok(argument.to_path_buf());
    }
    match model {
        Some(model) if model.is_dir() => Ok(model.join(BUNDLE_NAME)),
        Some(model) => Err(Failure::new(
            Exit::Usage,
            format!(
                "{} is not a folder, so there is no signature inside: name the signature file",
                shown(model)
            ),
        )),
        None => Err(Failure::new(
            Exit::Usage,
            format!("there is no file {WORD} here: name the signature file, usually MODEL/{BUNDLE_NAME}"),
        )),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let io = |e: io::Error| {
        Failure::new(
            Exit::Io,
            format!("the signature {} cannot be read: {e}", shown(path)),
        )
    };
    let refuse = |what: &str| Failure::new(Exit::NotTrusted, format!("the signature {} {what}", shown(path)));
    let other = "is not a regular file: name the signature file itself, usually model.sig";
    // Looked at before it is opened: opening a device may do something, opening a pipe may wait.
    if !fs::metadata(path).map_err(io)?.is_file() {
        return Err(refuse(other));
    }
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
        .open(path)
        .map_err(io)?;
    if !file.metadata().map_err(io)?.is_file() {
        return Err(refuse(other));
    }
    let limit = u64::try_from(MAX_BUNDLE_BYTES).unwrap_or(u64::MAX - 1);
    // Room for all of it: a buffer that grows copies a bundle of many megabytes again and again.
    let size = file.metadata().map_err(io)?.len().min(limit);
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0).saturating_add(1));
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() > MAX_BUNDLE_BYTES {
        return Err(refuse(&format!("is larger than {MAX_BUNDLE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// A path from the command line or from disk, safe to print.
pub(super) fn shown(path: &Path) -> Escaped<'_> {
    Escaped(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_word_means_the_one_inside_a_model_folder() {
        let dir = tempfile::tempdir().unwrap();
        let model = dir.path().join("model");
        fs::create_dir(&model).unwrap();
        fs::write(model.join("model.sig"), "signed").unwrap();
        fs::write(dir.path().join("single"), "x").unwrap();
        let word = Path::new("bundle");
        assert_eq!(BundleFile::read(word, Some(&model)).unwrap().bytes, b"signed");
        for model in [Some(dir.path().join("single")), None] {
            let failure = BundleFile::read(word, model.as_deref()).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
        }
        fs::remove_file(model.join("model.sig")).unwrap();
        assert_eq!(BundleFile::read(word, Some(&model)).unwrap_err().exit(), Exit::Io);
        let folder = BundleFile::read(&model, None).unwrap_err();
        assert_eq!(folder.exit(), Exit::NotTrusted);
    }

    #[test]
    fn a_bundle_is_inside_where_its_name_stands() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("model/sub")).unwrap();
        fs::create_dir_all(path("blobs")).unwrap();
        for name in ["model/model.sig", "model/sub/other.sig", "blobs/x", "modelx.sig"] {
            fs::write(path(name), "").unwrap();
        }
        symlink("../blobs/x", path("model/linked.sig")).unwrap();
        symlink("model", path("alias")).unwrap();
        let cases = [
            ("model/model.sig", Some("model.sig")),
            ("model/sub/other.sig", Some("sub/other.sig")),
            ("model/sub/../model.sig", Some("model.sig")),
            ("model/linked.sig", Some("linked.sig")),
            ("alias/model.sig", Some("model.sig")),
            ("blobs/x", None),
            ("modelx.sig", None),
        ];
        for (name, want) in cases {
            for model in ["model", "alias", "model/."] {
                let got = BundleFile::read(&path(name), None)
                    .unwrap()
                    .path_within(&path(model));
                assert_eq!(got.as_ref().map(ModelPath::as_str), want, "{name} in {model}");
            }
        }
    }
}
