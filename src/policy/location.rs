//! Where the model lies that is about to be trusted, and where the policy is looked for.
//!
//! A [`ModelLocation`] is canonical: no link, `.` or `..` is left in it, so a scope cannot be dodged by
//! spelling a path in another way. It also knows every name that the way to the model goes by, so that who
//! may put a link in a model's place cannot choose the scope either; and the model's folder itself, whatever
//! its name, so that nothing that says what is trusted can come from inside.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use super::file::FileError;

/// Most links on the way to a model: the kernel's own limit (`path_resolution(7)`).
const MAX_LINKS: usize = 40;

/// The canonical place of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLocation {
    path: PathBuf,
    /// The names by which it was reached, as it was named and after each link; absolute, without `..`.
    names: Vec<PathBuf>,
    /// Device and inode of the model; `None` when only a bundle is known and no model.
    model: Option<(u64, u64)>,
}

impl ModelLocation {
    /// The place of a model, a folder or a single file.
    ///
    /// # Errors
    /// The model must exist and be reachable.
    pub fn of_model(model: &Path) -> Result<Self, FileError> {
        let (path, names, metadata) = resolve(model)?;
        Ok(Self {
            path,
            names,
            model: Some(identity(&metadata)),
        })
    }

    /// The place that a bundle speaks for when it is looked at without a model: its own folder. A key may
    /// well lie there, so nothing counts as being inside the model.
    ///
    /// # Errors
    /// The bundle must exist and be reachable.
    pub fn of_bundle(bundle: &Path) -> Result<Self, FileError> {
        let (path, names, _) = resolve(bundle)?;
        let folder = |path: &Path| path.parent().unwrap_or(path).to_path_buf();
        Ok(Self {
            path: folder(&path),
            names: names.iter().map(|name| folder(name)).collect(),
            model: None,
        })
    }

    /// The canonical absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The names by which it was reached: what was asked for, then what each link on the way made of it.
    /// Whoever may replace one of them by a link leads to another model.
    pub(super) fn names(&self) -> &[PathBuf] {
        &self.names
    }

    /// Whether a file or folder is the model itself, through whichever name it was reached.
    pub(super) fn is(&self, metadata: &Metadata) -> bool {
        self.model == Some(identity(metadata))
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn resolve(path: &Path) -> Result<(PathBuf, Vec<PathBuf>, Metadata), FileError> {
    let io = |source| FileError::Io {
        path: path.to_path_buf(),
        source,
    };
    let canonical = fs::canonicalize(path).map_err(io)?;
    let (end, names) = follow(path).map_err(io)?;
    if end != canonical {
        return Err(io(io::Error::other("it has moved while it was looked at")));
    }
    let metadata = fs::metadata(&canonical).map_err(io)?;
    Ok((canonical, names, metadata))
}

/// Goes to a path as the kernel does, link by link: where it ends, and each name on the way.
fn follow(path: &Path) -> io::Result<(PathBuf, Vec<PathBuf>)> {
    let path = std::path::absolute(path)?;
    let mut at = PathBuf::from("/");
    // The next name last.
    let mut rest: Vec<OsString> = path.iter().rev().map(OsStr::to_owned).collect();
    let mut names = vec![without_dots(&path)];
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match fs::read_link(&next) {
            Ok(target) => {
                if names.len() > MAX_LINKS {
                    return Err(io::Error::from_raw_os_error(libc::ELOOP));
                }
                rest.extend(target.iter().rev().map(OsStr::to_owned));
                names.push(without_dots(&at.join(rest.iter().rev().collect::<PathBuf>())));
            }
            // It is there and no link.
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => at = next,
            Err(e) => return Err(e),
        }
    }
    Ok((at, names))
}

/// An absolute path as it reads: `..` takes back the name before it, whatever that is on disk.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            name => plain.push(name),
        }
    }
    plain
}

/// The policy file for the whole machine.
pub const SYSTEM_POLICY: &str = "/etc/modelfs/policy.toml";

/// The variables that say where a policy file may lie; taken as values so that nothing here reads the
/// environment.
#[derive(Clone, Debug, Default)]
pub struct PolicyPlaces {
    /// `$MODELFS_POLICY`: this file and no other.
    pub modelfs_policy: Option<OsString>,
    /// `$XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<OsString>,
    /// `$HOME`.
    pub home: Option<OsString>,
}

impl PolicyPlaces {
    /// The places as this process's environment has them.
    pub fn from_environment() -> Self {
        Self {
            modelfs_policy: std::env::var_os("MODELFS_POLICY"),
            xdg_config_home: std::env::var_os("XDG_CONFIG_HOME"),
            home: std::env::var_os("HOME"),
        }
    }

    /// The policy file to use: `$MODELFS_POLICY`, else the user's, else the system's. `None` when none is
    /// installed. What is there is the answer even when it cannot be read: loading it will say so, and
    /// a weaker policy further down never takes its place.
    pub fn find(&self) -> Option<PathBuf> {
        self.find_or(Path::new(SYSTEM_POLICY))
    }

    /// The user's own policy file, whether or not it exists.
    pub fn user_policy(&self) -> Option<PathBuf> {
        // XDG Base Directory Specification: a relative path in these variables is to be ignored.
        let absolute =
            |value: &Option<OsString>| value.as_ref().map(PathBuf::from).filter(|p| p.is_absolute());
        let config = absolute(&self.xdg_config_home)
            .or_else(|| absolute(&self.home).map(|home| home.join(".config")))?;
        Some(config.join("modelfs/policy.toml"))
    }

    fn find_or(&self, system: &Path) -> Option<PathBuf> {
        if let Some(named) = self.modelfs_policy.as_ref().filter(|v| !v.is_empty()) {
            return Some(PathBuf::from(named));
        }
        let system = Some(system.to_path_buf());
        [self.user_policy(), system]
            .into_iter()
            .flatten()
            .find(|path| is_there(path))
    }
}

/// Whether something stands at a path, be it a dangling link or a folder nobody may look into.
fn is_there(path: &Path) -> bool {
    !matches!(
        fs::symlink_metadata(path).map_err(|e| e.kind()),
        Err(io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn locations_are_canonical() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(root.join("models/a")).unwrap();
        fs::write(root.join("models/a/model.sig"), "").unwrap();
        symlink("models/a", root.join("link")).unwrap();
        for spelling in ["models/a", "models/./a/", "models/a/../a", "link", "link/."] {
            let model = ModelLocation::of_model(&root.join(spelling)).unwrap();
            assert_eq!(model.path(), root.join("models/a"), "{spelling}");
        }
        let bundle = ModelLocation::of_bundle(&root.join("link/model.sig")).unwrap();
        assert_eq!(bundle.path(), root.join("models/a"));
        assert!(matches!(
            ModelLocation::of_model(&root.join("nowhere")),
            Err(FileError::Io { path, .. }) if path == root.join("nowhere")
        ));
    }

    #[test]
    fn every_name_on_the_way_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::canonicalize(dir.path()).unwrap();
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("blobs/deep/a")).unwrap();
        fs::write(at("blobs/deep/a/model.sig"), "").unwrap();
        symlink("blobs/deep", at("models")).unwrap();
        symlink(at("models/a"), at("release")).unwrap();
        symlink("../release", at("blobs/up")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let cases: &[(&str, &[&str])] = &[
            ("blobs/deep/a", &["blobs/deep/a"]),
            ("blobs/deep/../deep/./a/", &["blobs/deep/a"]),
            ("models/a", &["models/a", "blobs/deep/a"]),
            ("models/../deep/a", &["deep/a", "blobs/deep/a"]),
            ("release", &["release", "models/a", "blobs/deep/a"]),
            ("blobs/up", &["blobs/up", "release", "models/a", "blobs/deep/a"]),
        ];
        for (spelling, want) in cases {
            let want: Vec<PathBuf> = want.iter().map(|name| at(name)).collect();
            let (end, names) = follow(&at(spelling)).unwrap();
            assert_eq!((end, names), (at("blobs/deep/a"), want.clone()), "{spelling}");
            let bundle = ModelLocation::of_bundle(&at(spelling).join("model.sig")).unwrap();
            assert_eq!(bundle.names(), want, "{spelling}");
        }
        let endless = follow(&at("loop")).unwrap_err();
        assert_eq!(endless.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn the_nearest_policy_that_exists_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("xdg/modelfs")).unwrap();
        fs::create_dir_all(path("home/.config/modelfs")).unwrap();
        fs::create_dir_all(path("empty")).unwrap();
        fs::write(path("xdg/modelfs/policy.toml"), "").unwrap();
        fs::write(path("system.toml"), "").unwrap();
        // A link to nothing is there, and must not be passed over for the system's policy.
        symlink("gone", path("home/.config/modelfs/policy.toml")).unwrap();
        struct Case<'a> {
            name: &'a str,
            modelfs: Option<&'a str>,
            xdg: Option<&'a str>,
            home: Option<&'a str>,
            system: &'a str,
            want: Option<&'a str>,
        }
        let cases = [
            Case {
                name: "the variable wins even where nothing stands",
                modelfs: Some("gone.toml"),
                xdg: Some("xdg"),
                home: Some("home"),
                system: "system.toml",
                want: Some("gone.toml"),
            },
            Case {
                name: "an empty variable is no variable",
                modelfs: Some(""),
                xdg: Some("xdg"),
                home: Some("home"),
                system: "system.toml",
                want: Some("xdg/modelfs/policy.toml"),
            },
            Case {
                name: "a dangling link is not passed over",
                modelfs: None,
                xdg: None,
                home: Some("home"),
                system: "system.toml",
                want: Some("home/.config/modelfs/policy.toml"),
            },
            Case {
                name: "the config folder replaces the one in the home",
                modelfs: None,
                xdg: Some("empty"),
                home: Some("home"),
                system: "system.toml",
                want: Some("system.toml"),
            },
            Case {
                name: "no home at all",
                modelfs: None,
                xdg: None,
                home: None,
                system: "system.toml",
                want: Some("system.toml"),
            },
            Case {
                name: "nothing anywhere",
                modelfs: None,
                xdg: Some("empty"),
                home: None,
                system: "none.toml",
                want: None,
            },
        ];
        for case in cases {
            let absolute =
                |name: Option<&str>| name.map(|n| if n.is_empty() { n.into() } else { path(n).into() });
            let places = PolicyPlaces {
                modelfs_policy: absolute(case.modelfs),
                xdg_config_home: absolute(case.xdg),
                home: absolute(case.home),
            };
            let got = places.find_or(&path(case.system));
            assert_eq!(got, case.want.map(path), "{}", case.name);
        }
    }

    #[test]
    fn relative_configuration_folders_are_ignored() {
        let places = PolicyPlaces {
            xdg_config_home: Some("config".into()),
            home: Some("/home/a".into()),
            ..PolicyPlaces::default()
        };
        assert_eq!(
            places.user_policy(),
            Some("/home/a/.config/modelfs/policy.toml".into())
        );
    }
}
