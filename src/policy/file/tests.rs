//! Files that others could have written, and those they could not.

use super::*;
use std::fs;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::chown;
use std::os::unix::fs::symlink;

/// A folder with a model in it; the folder itself is safe.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scene = Self { dir };
        fs::create_dir(scene.path("model")).unwrap();
        scene.write("model/inside", 0o644);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn write(&self, name: &str, mode: u32) {
        fs::write(self.path(name), name).unwrap();
        self.chmod(name, mode);
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), Permissions::from_mode(mode)).unwrap();
    }

    fn location(&self) -> ModelLocation {
        ModelLocation::of_model(&self.path("model")).unwrap()
    }

    /// What both kinds of reading say, `ok` or the error.
    fn outcomes(&self, name: &str) -> (String, String) {
        let say = |result: Result<TrustFile, FileError>| match result {
            Ok(file) => {
                assert_eq!(file.path(), self.path(name));
                "ok".to_owned()
            }
            Err(e) => e.to_string().replace(&self.path("").display().to_string(), "/"),
        };
        let (path, model) = (self.path(name), self.location());
        (
            say(TrustFile::read_protected(&path, &model)),
            say(TrustFile::read_named(&path, &model)),
        )
    }
}

#[test]
fn only_files_that_others_cannot_write_are_read() {
    let scene = Scene::new();
    scene.write("good", 0o600);
    scene.write("group", 0o664);
    scene.write("others", 0o646);
    fs::create_dir(scene.path("open")).unwrap();
    scene.write("open/good", 0o644);
    scene.chmod("open", 0o777);
    fs::create_dir(scene.path("shared")).unwrap();
    scene.write("shared/good", 0o644);
    scene.chmod("shared", 0o775);
    fs::create_dir(scene.path("sticky")).unwrap();
    scene.write("sticky/good", 0o644);
    scene.chmod("sticky", 0o1777);
    symlink("open/good", scene.path("through-open")).unwrap();
    symlink("good", scene.path("link")).unwrap();
    rustix::fs::mknodat(
        CWD,
        scene.path("fifo"),
        rustix::fs::FileType::Fifo,
        Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    let open = |name: &str| {
        format!("/{name} is not safe to trust: others may write to /open (mode 0777), run chmod go-w /open")
    };
    let irregular =
        ["fifo", "sticky"].map(|name| format!("/{name} is not a regular file: name the file itself"));
    let opens = ["open/good", "open/../good", "through-open"].map(open);
    let cases = [
        ("good", "ok".to_owned(), "ok"),
        ("link", "ok".to_owned(), "ok"),
        ("sticky/good", "ok".to_owned(), "ok"),
        ("sticky/../good", "ok".to_owned(), "ok"),
        (
            "group",
            "/group is not safe to trust: others may write to it (mode 0664), run chmod go-w /group".to_owned(),
            "ok",
        ),
        (
            "others",
            "/others is not safe to trust: others may write to it (mode 0646), run chmod go-w /others".to_owned(),
            "/others is not safe to trust: others may write to it (mode 0646), run chmod go-w /others",
        ),
        ("open/good", opens[0].clone(), &opens[0]),
        ("open/../good", opens[1].clone(), &opens[1]),
        ("through-open", opens[2].clone(), &opens[2]),
        (
            "shared/good",
            "/shared/good is not safe to trust: others may write to /shared (mode 0775), run chmod go-w /shared"
                .to_owned(),
            "ok",
        ),
        ("fifo", irregular[0].clone(), &irregular[0]),
        ("sticky", irregular[1].clone(), &irregular[1]),
        ("gone", "/gone cannot be read".to_owned(), "/gone cannot be read"),
        ("good/x", "/good/x cannot be read".to_owned(), "/good/x cannot be read"),
    ];
    for (name, protected, named) in cases {
        assert_eq!(scene.outcomes(name), (protected, named.to_owned()), "{name}");
    }
}

#[test]
fn nothing_from_inside_the_model_is_read() {
    let scene = Scene::new();
    scene.write("good", 0o644);
    symlink("model/inside", scene.path("into")).unwrap();
    symlink("../good", scene.path("model/out")).unwrap();
    symlink("model", scene.path("alias")).unwrap();
    for name in [
        "model/inside",
        "into",
        "model/out",
        "alias/inside",
        "model/../good",
    ] {
        let want = format!(
            "/{name} lies inside the model /model, whose writer would choose what to trust: keep it elsewhere"
        );
        assert_eq!(scene.outcomes(name), (want.clone(), want), "{name}");
    }
    let single = ModelLocation::of_model(&scene.path("good")).unwrap();
    assert!(matches!(
        TrustFile::read_named(&scene.path("good"), &single),
        Err(FileError::InsideModel { .. })
    ));
    let bundle = ModelLocation::of_bundle(&scene.path("model/inside")).unwrap();
    assert!(TrustFile::read_named(&scene.path("model/inside"), &bundle).is_ok());
}

#[test]
fn files_folders_and_links_of_others_are_refused() {
    let scene = Scene::new();
    if !rustix::process::geteuid().is_root() {
        println!("left out: only root can give a file to somebody else");
        return;
    }
    scene.write("file", 0o644);
    chown(scene.path("file"), Some(4711), None).unwrap();
    fs::create_dir(scene.path("folder")).unwrap();
    scene.write("folder/file", 0o644);
    chown(scene.path("folder"), Some(4711), None).unwrap();
    scene.write("good", 0o644);
    symlink("good", scene.path("link")).unwrap();
    std::os::unix::fs::lchown(scene.path("link"), Some(4711), None).unwrap();
    let cases = [
        ("file", "it"),
        ("folder/file", "/folder"),
        // The link is what another user chose, though its target is safe.
        ("link", "it"),
    ];
    for (name, what) in cases {
        let want = format!(
            "/{name} is not safe to trust: {what} belongs to user 4711, let it belong to root or to you"
        );
        assert_eq!(scene.outcomes(name), (want, "ok".to_owned()), "{name}");
    }
}

#[test]
fn size_is_limited() {
    let scene = Scene::new();
    let limit = usize::try_from(MAX_TRUST_FILE_BYTES).unwrap();
    for (name, bytes, want) in [
        ("at", limit, "ok"),
        ("past", limit + 1, "/past is larger than 1048576 bytes"),
    ] {
        fs::write(scene.path(name), vec![b' '; bytes]).unwrap();
        scene.chmod(name, 0o644);
        assert_eq!(scene.outcomes(name), (want.to_owned(), want.to_owned()));
    }
}

#[test]
fn a_circle_of_links_ends() {
    let scene = Scene::new();
    symlink("b", scene.path("a")).unwrap();
    symlink("a", scene.path("b")).unwrap();
    assert_eq!(scene.outcomes("a").0, "/a cannot be read");
}
