//! Where the model lies that is about to be trusted, and where the policy is looked for.
//!
//! A [`ModelLocation`] is canonical: no link, `.` or `..` is left in it, so a scope cannot be dodged by
//! spelling a path in another way. It also knows the model's folder itself, whatever its name, so that
//! nothing that says what is trusted can come from inside.

use std::ffi::OsString;
use std::fs;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::path::PathBuf;

use super::file::FileError;

/// The canonical place of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelLocation {
    path: PathBuf,
    /// Device and inode of the model; `None` when only a bundle is known and no model.
    model: Option<(u64, u64)>,
}

impl ModelLocation {
    /// The place of a model, a folder or a single file.
    ///
    /// # Errors
    /// The model must exist and be reachable.
    pub fn of_model(model: &Path) -> Result<Self, FileError> {
        let (path, metadata) = resolve(model)?;
        Ok(Self {
            path,
            model: Some(identity(&metadata)),
        })
    }

    /// The place that a bundle speaks for when it is looked at without a model: its own folder. A key may
    /// well lie there, so nothing counts as being inside the model.
    ///
    /// # Errors
    /// The bundle must exist and be reachable.
    pub fn of_bundle(bundle: &Path) -> Result<Self, FileError> {
        let (path, _) = resolve(bundle)?;
        let folder = path.parent().unwrap_or(&path);
        Ok(Self {
            path: folder.to_path_buf(),
            model: None,
        })
    }

    /// The canonical absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether a file or folder is the model itself, through whichever name it was reached.
    pub(super) fn is(&self, metadata: &Metadata) -> bool {
        self.model == Some(identity(metadata))
    }
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn resolve(path: &Path) -> Result<(PathBuf, Metadata), FileError> {
    let io = |source| FileError::Io {
        path: path.to_path_buf(),
        source,
    };
    let path = fs::canonicalize(path).map_err(io)?;
    let metadata = fs::metadata(&path).map_err(io)?;
    Ok((path, metadata))
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
