//! Trees bound to sources that fit, and to sources that do not.

use super::*;
use crate::digest::Algorithm;
use crate::source::Links;
use crate::testing::Method;
use crate::testing::SignedModel;
use crate::verify::Haste;
use crate::verify::Options;

fn bind(model: &SignedModel, bundle: Option<ShownBundle>) -> Binding {
    let source = ModelDir::open(&model.path(), Links::Refuse).unwrap();
    let engine = Engine::start(
        Options {
            max_file_bytes: 100,
            ..Options::default()
        },
        None,
    )
    .unwrap();
    ModelTree::bind(model.trusted(), source, engine, bundle).unwrap()
}

fn shown(path: &str) -> Option<ShownBundle> {
    Some(ShownBundle {
        path: ModelPath::parse(path).unwrap(),
        bytes: Arc::new(b"bundle".to_vec()),
    })
}

/// Every path of a tree, directories with a slash.
fn paths(tree: &ModelTree) -> Vec<String> {
    let mut paths = Vec::new();
    let mut pending = vec![(ROOT, String::new())];
    while let Some((inode, path)) = pending.pop() {
        let Content::Directory(entries) = tree.node(inode).unwrap().content() else {
            continue;
        };
        for (inode, node) in tree.children(entries, 0) {
            let is_directory = matches!(node.content(), Content::Directory(_));
            let path = format!("{path}{}{}", node.name(), if is_directory { "/" } else { "" });
            paths.push(path.clone());
            pending.push((inode, path));
        }
    }
    paths.sort();
    paths
}

#[test]
fn a_tree_holds_the_signed_names_and_the_directories_they_imply() {
    let files = ["a", "a-b", "b/c/d", "b/c.d", "b/e", "z"].map(|name| (name, b"x".to_vec()));
    let model = SignedModel::new(&files, Algorithm::Sha256, Method::Files);
    std::fs::write(model.file("planted"), b"x").unwrap();
    std::fs::create_dir(model.file("b/empty")).unwrap();
    let tree = bind(&model, shown("model.sig")).tree;
    assert_eq!(
        paths(&tree),
        [
            "a",
            "a-b",
            "b/",
            "b/c.d",
            "b/c/",
            "b/c/d",
            "b/e",
            "model.sig",
            "z"
        ]
    );
    for (index, path) in ["a", "a-b", "b", "model.sig", "z"].into_iter().enumerate() {
        let Content::Directory(root) = tree.node(ROOT).unwrap().content() else {
            panic!("a root")
        };
        let (inode, node) = tree.child(root, path).unwrap();
        assert_eq!((node.name(), tree.parent(node)), (path, ROOT));
        assert_eq!(
            tree.children(root, index).next().map(|(inode, _)| inode),
            Some(inode)
        );
    }
    assert!(
        tree.node(0).is_none() && tree.node(tree.node_count() + 1).is_none() && tree.node(u64::MAX).is_none()
    );
}

#[test]
fn a_directory_is_made_once_and_costs_its_name() {
    let mut builder = Builder::new();
    let folders = "d/".repeat(crate::path::MAX_COMPONENTS - 1);
    for name in ["a", "b"] {
        let path = ModelPath::parse(&format!("{folders}{name}")).unwrap();
        builder
            .add(
                &path,
                Content::Memory(Box::new(ShownBundle {
                    path: path.clone(),
                    bytes: Arc::default(),
                })),
            )
            .unwrap();
    }
    let made = crate::path::MAX_COMPONENTS - 1;
    assert_eq!(builder.nodes.len(), 1 + made + 2);
    let kept: usize = builder.directories.keys().map(|(_, name)| name.len()).sum();
    assert_eq!((builder.directories.len(), kept), (made, made));
}

#[test]
fn a_bundle_is_shown_only_where_no_signed_name_stands_in_its_way() {
    let files = ["model.sig", "a/b"].map(|name| (name, b"x".to_vec()));
    let model = SignedModel::new(&files, Algorithm::Sha256, Method::Files);
    for (bundle, want) in [
        ("model.sig", vec!["a/", "a/b", "model.sig"]),
        ("a", vec!["a/", "a/b", "model.sig"]),
        ("a/b/c", vec!["a/", "a/b", "model.sig"]),
        ("a/c", vec!["a/", "a/b", "a/c", "model.sig"]),
        ("s/t", vec!["a/", "a/b", "model.sig", "s/", "s/t"]),
    ] {
        let tree = bind(&model, shown(bundle)).tree;
        assert_eq!(paths(&tree), want, "{bundle}");
    }
    let tree = bind(&model, shown("model.sig")).tree;
    assert!(
        tree.nodes
            .iter()
            .all(|node| !matches!(node.content, Content::Memory(_))),
        "the signed one wins"
    );
}

#[test]
fn what_does_not_fit_is_named_and_left_out() {
    let files = ["gone", "dir", "link", "good", "huge"].map(|name| (name, b"x".to_vec()));
    let model = SignedModel::new(&files, Algorithm::Sha256, Method::Files);
    std::fs::remove_file(model.file("gone")).unwrap();
    std::fs::remove_file(model.file("dir")).unwrap();
    std::fs::create_dir(model.file("dir")).unwrap();
    std::fs::remove_file(model.file("link")).unwrap();
    std::os::unix::fs::symlink("good", model.file("link")).unwrap();
    std::fs::write(model.file("huge"), [b'x'; 101]).unwrap();
    let Binding { tree, problems } = bind(&model, None);
    let got: Vec<_> = problems
        .iter()
        .map(|p| (String::from_utf8_lossy(p.name()).into_owned(), p.kind()))
        .collect();
    let want = [
        ("dir", TreeProblemKind::WrongType),
        ("gone", TreeProblemKind::Missing),
        ("huge", TreeProblemKind::WrongSize),
        ("link", TreeProblemKind::WrongType),
    ];
    assert_eq!(got, want.map(|(name, kind)| (name.to_owned(), kind)));
    assert_eq!(paths(&tree), ["good"]);
}

#[test]
fn what_nobody_signed_is_named() {
    let files = ["a", "d/b", ".gitignore"].map(|name| (name, b"x".to_vec()));
    let model = SignedModel::new(&files[..2], Algorithm::Sha256, Method::Shards(10));
    for name in ["planted.py", "d/planted", ".git/config", "cache/x", "model.sig"] {
        std::fs::create_dir_all(model.file(name).parent().unwrap()).unwrap();
        std::fs::write(model.file(name), b"x").unwrap();
    }
    std::fs::write(model.file("d/__init__.py"), b"").unwrap();
    std::os::unix::fs::symlink("a", model.file("link")).unwrap();
    let tree = bind(&model, shown("model.sig")).tree;
    let ignored = Ignored::new(vec![ModelPath::parse("cache").unwrap()], false);
    let got: Vec<_> = tree
        .unsigned(&ignored)
        .unwrap()
        .iter()
        .map(|p| (p.to_string(), p.kind()))
        .collect();
    let want = [
        (
            "d/__init__.py: empty and not signed, as shards leave empty files out",
            TreeProblemKind::UnsignedEmpty,
        ),
        ("d/planted: not signed", TreeProblemKind::Unsigned),
        (
            "link: not signed; it is a symbolic link",
            TreeProblemKind::Unsigned,
        ),
        ("planted.py: not signed", TreeProblemKind::Unsigned),
    ];
    assert_eq!(got, want.map(|(text, kind)| (text.to_owned(), kind)));
}

#[test]
fn files_without_bytes_are_verified_when_the_tree_is_bound() {
    let files = [("good", Vec::new()), ("bad", b"x".to_vec())];
    let model = SignedModel::new(&files, Algorithm::Sha256, Method::Files);
    std::fs::write(model.file("bad"), b"").unwrap();
    let tree = bind(&model, None).tree;
    assert_eq!(
        tree.files().iter().map(|f| f.state()).collect::<Vec<_>>(),
        [State::Rejected, State::Verified]
    );
}

#[test]
fn a_check_that_nobody_waits_for_goes_in_the_order_of_loading() {
    let files = ["a-2.bin", "a-10.bin", "config.json", "tokenizer.json"].map(|name| (name, vec![b'x'; 50]));
    let model = SignedModel::new(&files, Algorithm::Sha256, Method::Files);
    let tree = bind(&model, None).tree;
    let names = |haste| -> Vec<_> {
        let files = tree.in_order(haste).into_iter();
        files.map(|file| file.path().as_str().to_owned()).collect()
    };
    assert_eq!(
        names(Haste::None),
        ["config.json", "tokenizer.json", "a-2.bin", "a-10.bin"]
    );
    assert_eq!(
        names(Haste::Some),
        ["a-10.bin", "a-2.bin", "config.json", "tokenizer.json"]
    );
}

#[test]
fn a_whole_tree_is_verified_and_what_differs_is_named() {
    let files = ["a", "b", "c", "d"].map(|name| (name, vec![b'x'; 50]));
    for method in [Method::Files, Method::Shards(20)] {
        let model = SignedModel::new(&files, Algorithm::Sha256, method);
        std::fs::write(model.file("b"), [b'y'; 50]).unwrap();
        let tree = bind(&model, None).tree;
        std::fs::remove_file(model.file("c")).unwrap();
        let told = std::cell::Cell::new((0, 0));
        let problems = tree.verify_all(Haste::Some, &|done, total| told.set((done, total)));
        let got: Vec<_> = problems
            .iter()
            .map(|p| (p.path().as_str(), p.is_mismatch()))
            .collect();
        assert_eq!(got, [("b", true), ("c", false)], "{method:?}");
        assert_eq!(told.get(), (150, 200), "{method:?}");
    }
}
