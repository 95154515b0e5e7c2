//! `modelfs verify`: the whole model against its signature.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use data_encoding::HEXLOWER;
use serde_json::json;

use super::args::VerifyArgs;
use super::bundle::shown;
use super::exit::Exit;
use super::failure::Failure;
use super::failure::render;
use super::model;
use super::model::Problems;
use crate::path::ModelPath;
use crate::tree::Ignored;
use crate::verify::Options;

/// Checks everything and tells all that is wrong; what is printed on success.
pub(super) fn run(args: &VerifyArgs, json: bool) -> Result<String, Failure> {
    let ignored = args
        .ignore_paths
        .iter()
        .map(|path| path_in_model(path, &args.model))
        .collect::<Result<Vec<_>, _>>()?;
    let options = Options {
        // Nobody will read it here.
        keep_tags: false,
        ..model::options(&args.limits)
    };
    let opened = model::open(&args.bundle, &args.model, &args.trust, &args.tree)?;
    if !args.no_sandbox {
        model::confine(Some(opened.source()))?;
    }
    let binding = opened.bind(options, None)?;
    let tree = binding.tree;
    let mut problems = Problems::default();
    problems.add_tree(binding.problems);
    let mut warnings = Vec::new();
    if !args.ignore_unsigned_files {
        let ignored = Ignored::new(ignored, !args.no_ignore_git_paths);
        let found = tree.unsigned(&ignored).map_err(|e| model::of_source(&e))?;
        let (wrong, tolerated) = model::split_warnings(found);
        problems.add_tree(wrong);
        warnings = tolerated;
    }
    problems.add_content(model::verify_all(&tree, &|_, _| {}));
    if !json {
        let mut out = io::stderr().lock();
        for line in problems.lines() {
            let _ = writeln!(out, "modelfs: {line}");
        }
        for warning in &warnings {
            let _ = writeln!(out, "modelfs: warning: {warning}");
        }
    }
    problems.judge(&args.model)?;
    let about = tree.model();
    Ok(if json {
        render(&json!({
            "model": tree.source_path().to_string_lossy(),
            "signer": about.signer.to_string(),
            "signed_at": about.signed_at.to_string(),
            "identity": HEXLOWER.encode(&about.identity),
            "files": tree.files().len(),
            "bytes": about.total_bytes,
            "warnings": warnings.iter().map(ToString::to_string).collect::<Vec<_>>(),
        }))
    } else {
        format!(
            "{}: verified, {}, signed by {} at {}\n",
            shown(&args.model),
            model::size_of(&tree),
            about.signer,
            about.signed_at
        )
    })
}

/// Takes a path that is relative to the model, or absolute and beneath it.
fn path_in_model(path: &Path, model: &Path) -> Result<ModelPath, Failure> {
    let relative = if path.is_absolute() {
        beneath(path, model)
    } else {
        Some(path.to_path_buf())
    };
    // `./a/` is what a shell completes; `..` would be another file than the one that is named.
    let canonical = relative.and_then(|relative| {
        let names = relative.components().filter(|c| *c != Component::CurDir);
        let names: Option<Vec<&str>> = names
            .map(|c| match c {
                Component::Normal(name) => OsStr::to_str(name),
                _ => None,
            })
            .collect();
        ModelPath::parse(&names?.join("/")).ok()
    });
    canonical.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!(
                "--ignore-paths {}: name a file or folder beneath the model {}, relative to it or absolute",
                shown(path),
                shown(model)
            ),
        )
    })
}

/// An absolute path from the model on, whichever way both are spelt.
fn beneath(path: &Path, model: &Path) -> Option<PathBuf> {
    let spelt = std::path::absolute(model).ok()?;
    if let Ok(relative) = path.strip_prefix(&spelt) {
        return Some(relative.to_path_buf());
    }
    let model = fs::canonicalize(model).ok()?;
    if let Ok(relative) = path.strip_prefix(&model) {
        return Some(relative.to_path_buf());
    }
    let folder = fs::canonicalize(path.parent()?).ok()?;
    let relative = folder.join(path.file_name()?);
    relative.strip_prefix(&model).ok().map(Path::to_path_buf)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn ignored_paths_are_relative_to_the_model_or_beneath_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("model/a/b")).unwrap();
        symlink("model", root.join("alias")).unwrap();
        let at = |name: &str| root.join(name).to_str().unwrap().to_owned();
        let cases = [
            ("a".to_owned(), Some("a")),
            ("./a/b/".to_owned(), Some("a/b")),
            ("gone".to_owned(), Some("gone")),
            (at("model/a"), Some("a")),
            (at("model/gone"), Some("gone")),
            (at("alias/a/b"), Some("a/b")),
            (".".to_owned(), None),
            ("..".to_owned(), None),
            ("a/../b".to_owned(), None),
            ("".to_owned(), None),
            (at("model"), None),
            (at("other/a"), None),
            ("/".to_owned(), None),
        ];
        for model in ["model", "alias"] {
            for (path, want) in &cases {
                let got = path_in_model(Path::new(path), &root.join(model));
                let got = got.as_ref().map(ModelPath::as_str).ok();
                assert_eq!(got, *want, "{path} in {model}");
            }
        }
    }
}
