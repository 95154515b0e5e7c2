//! Vectors of `oms/manifest.json`: read, laid out on disk as its README says, and turned into arguments.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use data_encoding::BASE64;
use data_encoding::HEXLOWER_PERMISSIVE;
use rustix::fs::CWD;
use rustix::fs::FileType;
use rustix::fs::Mode;
use rustix::fs::Timespec;
use rustix::fs::Timestamps;
use serde_json::Value;

/// One vector: the folder of all vectors and its entry in the manifest.
#[derive(Clone, Debug)]
pub(crate) struct Vector {
    base: PathBuf,
    entry: Value,
}

/// One signed entry of a bundle.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    pub(crate) path: String,
    /// The bytes it covers, end exclusive; all of the file where there is none.
    pub(crate) range: Option<(usize, usize)>,
    /// In hexadecimal, of whichever hash function.
    pub(crate) digest: String,
}

/// A vector laid out: what to pass to the binary.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) bundle: PathBuf,
    pub(crate) model: PathBuf,
    pub(crate) trust: Vec<OsString>,
    pub(crate) tree: Vec<OsString>,
    pub(crate) verify: Vec<OsString>,
}

/// Reads a folder of vectors.
pub(crate) fn read_manifest(base: &Path) -> Vec<Vector> {
    let text = fs::read(base.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(manifest["format"], 1, "the layout of the manifest is known");
    let Value::Array(entries) = manifest["vectors"].take() else {
        panic!("the manifest lists vectors");
    };
    entries
        .into_iter()
        .map(|entry| Vector {
            base: base.to_owned(),
            entry,
        })
        .collect()
}

impl Vector {
    /// A field that is text, empty where there is none.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.entry[field].as_str().unwrap_or_default()
    }

    /// The verdict on `bundle`, `mount` or `strict`: whether it is to be accepted.
    pub(crate) fn accepted(&self, what: &str) -> bool {
        match self.entry["expected"][what].as_str() {
            Some("accept") => true,
            Some("reject") => false,
            other => panic!("{}: no verdict on {what}: {other:?}", self.text("id")),
        }
    }

    /// Whether the old format must be asked for.
    pub(crate) fn is_legacy(&self) -> bool {
        self.entry["expected"]["legacy"] == true
    }

    /// What a reader of the mount is to meet, by name.
    pub(crate) fn reads(&self) -> Vec<(&str, &str)> {
        let Some(reads) = self.entry["expected"]["reads"].as_object() else {
            return Vec::new();
        };
        reads
            .iter()
            .map(|(name, want)| (name.as_str(), want.as_str().unwrap()))
            .collect()
    }

    /// What the bundle lists, read without any of the code under test; `None` where it has no such list.
    pub(crate) fn resources(&self) -> Option<Vec<Listed>> {
        let bundle = self.base.join(self.text("dir")).join(self.text("bundle"));
        let bundle: Value = serde_json::from_slice(&fs::read(bundle).ok()?).ok()?;
        let payload = bundle["dsseEnvelope"]["payload"].as_str()?;
        let payload = BASE64.decode(payload.as_bytes()).ok()?;
        let statement: Value = serde_json::from_slice(&payload).ok()?;
        let predicate = &statement["predicate"];
        let sharded = predicate["serialization"]["method"] == "shards";
        let resources = predicate["resources"].as_array()?;
        resources
            .iter()
            .map(|resource| {
                let name = resource["name"].as_str()?;
                let digest = resource["digest"].as_str()?.to_owned();
                let (path, range) = if sharded { split_shard(name)? } else { (name, None) };
                Some(Listed {
                    path: path.to_owned(),
                    range,
                    digest,
                })
            })
            .collect()
    }

    /// Lays the vector out beneath a directory.
    pub(crate) fn stage(&self, root: &Path) -> Staged {
        let dir = self.base.join(self.text("dir"));
        let top = root.join("w");
        fs::create_dir(&top).unwrap();
        let stored = dir.join("model");
        let laid = top.join("model");
        if stored.is_file() {
            fs::copy(&stored, &laid).unwrap();
        } else {
            copy_tree(&stored, &laid);
        }
        for op in self.entry["materialize"].as_array().unwrap() {
            apply(&laid, op);
        }
        let mut model = top.join(self.text("model"));
        let options = &self.entry["options"];
        if let Some(sub) = options["subdir"].as_str() {
            model.push(sub);
        }
        let mut bundle = dir.join(self.text("bundle"));
        if let Some(inside) = self.entry["bundle_in_model"].as_str() {
            let to = model.join(inside);
            fs::copy(&bundle, &to).unwrap();
            bundle = to;
        }
        let mut staged = Staged {
            bundle,
            model,
            trust: Vec::new(),
            tree: Vec::new(),
            verify: Vec::new(),
        };
        let trust = &self.entry["trust"];
        match self.text("method") {
            "key" => {
                let key = dir.join(trust["public_key"].as_str().unwrap());
                staged.trust.extend(["--public-key".into(), key.into()]);
            }
            "certificate" => {
                for file in trust["cert_chain"].as_array().unwrap() {
                    let file = dir.join(file.as_str().unwrap());
                    staged.trust.extend(["--certificate-chain".into(), file.into()]);
                }
            }
            "sigstore" => {
                let text = |field: &str| OsString::from(trust[field].as_str().unwrap());
                let root = dir.join(trust["trusted_root"].as_str().unwrap());
                staged.trust.extend(["--identity".into(), text("identity")]);
                staged
                    .trust
                    .extend(["--identity-provider".into(), text("issuer")]);
                staged.trust.extend(["--trusted-root".into(), root.into()]);
            }
            method => panic!("{}: no arguments for method {method}", self.text("id")),
        }
        if options["allow_symlinks"] == true {
            staged.tree.push("--allow-symlinks".into());
        }
        for path in options["ignore_paths"].as_array().into_iter().flatten() {
            let path = path.as_str().unwrap();
            staged.verify.extend(["--ignore-paths".into(), path.into()]);
        }
        staged
    }
}

/// `path:start:end` taken apart at its last two colons.
fn split_shard(name: &str) -> Option<(&str, Option<(usize, usize)>)> {
    let (rest, end) = name.rsplit_once(':')?;
    let (path, start) = rest.rsplit_once(':')?;
    Some((path, Some((start.parse().ok()?, end.parse().ok()?))))
}

/// Changes a staged model as one line of `materialize` says.
fn apply(model: &Path, op: &Value) {
    let text = |field: &str| op[field].as_str().unwrap_or_else(|| panic!("{field} in {op}"));
    let number = |field: &str| op[field].as_u64().unwrap_or_else(|| panic!("{field} in {op}"));
    let kind = text("op");
    let path = match op["path_hex"].as_str() {
        Some(hex) => {
            let name = HEXLOWER_PERMISSIVE.decode(hex.as_bytes()).unwrap();
            beneath(model, OsString::from_vec(name).as_os_str())
        }
        None => beneath(model, op["path"].as_str().unwrap_or_default().as_ref()),
    };
    let made_parent = |path: &Path| fs::create_dir_all(path.parent().unwrap()).unwrap();
    let edit = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = fs::read(&path).unwrap();
        change(&mut bytes);
        fs::write(&path, bytes).unwrap();
    };
    match kind {
        "write" | "write_hex" => {
            made_parent(&path);
            fs::write(&path, BASE64.decode(text("b64").as_bytes()).unwrap()).unwrap();
        }
        "append" => edit(&|bytes| bytes.extend(BASE64.decode(text("b64").as_bytes()).unwrap())),
        "truncate" => edit(&|bytes| bytes.resize(number("size") as usize, 0)),
        "flip" => edit(&|bytes| bytes[number("offset") as usize] ^= 1),
        "swap_ranges" => edit(&|bytes| {
            let (a, b, len) = (number("a") as usize, number("b") as usize, number("len") as usize);
            for i in 0..len {
                bytes.swap(a + i, b + i);
            }
        }),
        "remove" if path.is_dir() => fs::remove_dir_all(&path).unwrap(),
        "remove" => fs::remove_file(&path).unwrap(),
        "rename" => {
            let to = beneath(model, text("to").as_ref());
            made_parent(&to);
            fs::rename(&path, to).unwrap();
        }
        "swap" => {
            let a = beneath(model, text("a").as_ref());
            let b = beneath(model, text("b").as_ref());
            let both = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(CWD, a, CWD, b, both).unwrap();
        }
        "mkdir" => fs::create_dir_all(&path).unwrap(),
        "symlink" => {
            made_parent(&path);
            symlink(text("target"), &path).unwrap();
        }
        "hardlink" => fs::hard_link(beneath(model, text("target").as_ref()), &path).unwrap(),
        "fifo" => {
            let mode = Mode::from_raw_mode(0o666);
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, mode, 0).unwrap();
        }
        "chmod" => {
            let mode = fs::Permissions::from_mode(number("mode") as u32);
            fs::set_permissions(&path, mode).unwrap();
        }
        "utime" => {
            let time = Timespec {
                tv_sec: number("mtime") as i64,
                tv_nsec: 0,
            };
            let times = Timestamps {
                last_access: time,
                last_modification: time,
            };
            rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::empty()).unwrap();
        }
        _ => panic!("no such operation: {op}"),
    }
}

/// Joins as the README means it: `..` may lead to the model's siblings, and is resolved by name.
fn beneath(model: &Path, name: &OsStr) -> PathBuf {
    let mut path = model.to_owned();
    for component in Path::new(name).components() {
        match component {
            Component::ParentDir => assert!(path.pop(), "the name stays beneath the root"),
            Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::RootDir | Component::Prefix(_) => panic!("{} is absolute", name.display()),
        }
    }
    path
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let Ok(entries) = fs::read_dir(from) else {
        return; // A vector whose model is made by its operations alone stores no folder.
    };
    for entry in entries {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
