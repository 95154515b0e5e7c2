//! The rules of a manifest, one table per kind of rule, and random manifests read back.

use std::error::Error;

use data_encoding::HEXLOWER;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use serde_json::json;

use super::*;
use crate::digest::hash;
use crate::digest::sha256;

/// The digest that the tests give to the resource of this name.
fn digest_of(algorithm: Algorithm, name: &str) -> Digest {
    hash(algorithm, name.as_bytes())
}

fn hex_of(algorithm: Algorithm, name: &str) -> String {
    HEXLOWER.encode(digest_of(algorithm, name).as_bytes())
}

fn resources(algorithm: Algorithm, spelled: &str, names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| json!({"name": name, "algorithm": spelled, "digest": hex_of(algorithm, name)}))
        .collect()
}

/// A statement with the root digest that belongs to its resources.
fn statement(serialization: Value, resources: Value) -> Value {
    let mut raw = Vec::new();
    for resource in resources.as_array().into_iter().flatten() {
        let digest = resource["digest"].as_str().unwrap_or_default();
        raw.extend(HEXLOWER.decode(digest.as_bytes()).unwrap_or_default());
    }
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": HEXLOWER.encode(&sha256(&raw))}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {"serialization": serialization, "resources": resources},
    })
}

fn files(names: &[&str]) -> Value {
    statement(
        json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false}),
        resources(Algorithm::Sha256, "sha256", names),
    )
}

fn shards(shard_size: impl Into<Value>, names: &[&str]) -> Value {
    statement(
        json!({
            "method": "shards", "hash_type": "sha256", "allow_symlinks": false,
            "shard_size": shard_size.into(),
        }),
        resources(Algorithm::Sha256, "sha256", names),
    )
}

fn legacy(names: &[&str]) -> Value {
    let subject = |name: &&str| json!({"name": name, "digest": {"sha256": hex_of(Algorithm::Sha256, name)}});
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": names.iter().map(subject).collect::<Value>(),
        "predicateType": "https://model_signing/Digests/v0.1",
        "predicate": {"unused": ""},
    })
}

/// The statement with the value at a JSON pointer put in or replaced.
fn with(mut statement: Value, pointer: &str, value: impl Into<Value>) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    match statement.pointer_mut(parent).unwrap() {
        Value::Object(map) => drop(map.insert(key.to_owned(), value.into())),
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value.into(),
        other => panic!("{other} has no fields"),
    }
    statement
}

fn without(mut statement: Value, pointer: &str) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = statement.pointer_mut(parent).unwrap().as_object_mut().unwrap();
    assert!(parent.remove(key).is_some(), "{pointer}");
    statement
}

fn parse(statement: &Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(statement.to_string().as_bytes(), Format::V1)
}

fn parse_legacy(statement: &Value) -> Result<Manifest, ManifestError> {
    Manifest::parse(statement.to_string().as_bytes(), Format::LegacyV02)
}

/// The message with all its causes, or that there was none.
fn refusal(result: Result<Manifest, ManifestError>) -> String {
    let error = match result {
        Ok(manifest) => return format!("accepted: {manifest:?}"),
        Err(error) => error,
    };
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    message
}

fn paths(manifest: &Manifest) -> Vec<&str> {
    manifest.files().iter().map(|file| file.path().as_str()).collect()
}

#[test]
fn a_manifest_of_whole_files_says_what_was_signed() {
    let names = ["b", "a/b.bin", "a.txt", "a-b"];
    let statement = with(
        files(&names),
        "/predicate/serialization/ignore_paths",
        json!([".git", "a/c"]),
    );
    let text = serde_json::to_string_pretty(&statement).unwrap();
    let manifest = Manifest::parse(text.as_bytes(), Format::V1).unwrap();

    let raw: Vec<u8> = names
        .iter()
        .flat_map(|name| digest_of(Algorithm::Sha256, name).as_bytes().to_vec())
        .collect();
    assert_eq!(manifest.identity(), &sha256(text.as_bytes()));
    assert_eq!(manifest.root_digest(), &sha256(&raw));
    assert_eq!(manifest.subject(), "model");
    assert_eq!(manifest.algorithm(), Algorithm::Sha256);
    assert_eq!(manifest.shard_size(), None);
    assert!(!manifest.allow_symlinks());
    assert!(!manifest.is_single_file());
    assert_eq!(manifest.resources(), 4);
    let ignored: Vec<&str> = manifest.ignore_paths().iter().map(ModelPath::as_str).collect();
    assert_eq!(ignored, [".git", "a/c"]);
    assert_eq!(paths(&manifest), ["a-b", "a.txt", "a/b.bin", "b"]);
    for file in manifest.into_files() {
        let want = digest_of(Algorithm::Sha256, file.path().as_str());
        assert_eq!(file.content(), &SignedContent::Whole(want));
    }
}

#[test]
fn a_manifest_of_shards_says_each_file_s_size_and_ranges() {
    // Listed as text sorts them, not as numbers do; a name may hold colons.
    let names = [
        "w:1:2:0:100",
        "w:1:2:100:107",
        "c:0:100",
        "b:1000:1001",
        "b:0:100",
    ];
    let middle: Vec<String> = (1..10)
        .map(|i| format!("b:{}:{}", i * 100, (i + 1) * 100))
        .collect();
    let names: Vec<&str> = names
        .into_iter()
        .chain(middle.iter().map(|name| &**name))
        .collect();
    let manifest = parse(&shards(100, &names)).unwrap();
    assert_eq!(manifest.shard_size(), Some(100));
    assert_eq!(manifest.resources(), 14);
    assert_eq!(paths(&manifest), ["b", "c", "w:1:2"]);
    let mut seen = 0;
    for (file, size, count) in [("b", 1001, 11), ("c", 100, 1), ("w:1:2", 107, 2)] {
        let SignedContent::Shards(shards) = manifest
            .files()
            .iter()
            .find(|f| f.path().as_str() == file)
            .unwrap()
            .content()
        else {
            panic!("{file} has no shards");
        };
        assert_eq!(
            (shards.size(), shards.shard_size(), shards.count()),
            (size, 100, count)
        );
        for index in 0..count {
            let range = shards.range(index).unwrap();
            let name = format!("{file}:{}:{}", range.start, range.end);
            assert!(names.contains(&&*name), "{name}");
            assert_eq!(shards.digest(index), Some(digest_of(Algorithm::Sha256, &name)));
            seen += 1;
        }
        assert_eq!((shards.range(count), shards.digest(count)), (None, None));
        assert_eq!(
            (shards.range(usize::MAX), shards.digest(usize::MAX)),
            (None, None)
        );
    }
    assert_eq!(seen, names.len());
}

#[test]
fn what_producers_write_differently_is_accepted() {
    let sharded = ["a:0:64", "a:64:65"];
    let mangled = |spelled: &str| {
        statement(
            json!({"method": "shards", "hash_type": "sha256", "allow_symlinks": true, "shard_size": 64.0}),
            resources(Algorithm::Sha256, spelled, &sharded),
        )
    };
    let extra = with(files(&["a"]), "/predicate/modelCard", json!({"license": "mit"}));
    let extra = with(extra, "/predicate/serialization/more", json!([1]));
    let extra = with(extra, "/predicate/resources/0/annotations", json!({"x": 1}));
    let extra = with(extra, "/subject/0/digest/sha512", "00");
    let extra = with(extra, "/subject/0/annotations", json!({}));
    let extra = with(extra, "/more", json!(null));
    let at_a_range_that_looks_like_one = ["a:0:1:0:64", "a:0:64"];
    let cases = [
        ("mangled algorithm", mangled("sha256-sharded-64")),
        ("plain algorithm", mangled("sha256")),
        ("largest shard size", shards(MAX_SHARD_SIZE, &["a:0:1"])),
        (
            "largest shard size as a float",
            shards(9007199254740992.0, &["a:0:1"]),
        ),
        ("smallest shard size", shards(1, &["a:0:1", "a:1:2"])),
        (
            "names that look like ranges",
            shards(64, &at_a_range_that_looks_like_one),
        ),
        ("extra fields", extra),
        (
            "a pattern among the ignored paths",
            with(
                files(&["a"]),
                "/predicate/serialization/ignore_paths",
                json!(["*", "?"]),
            ),
        ),
        (
            "an ignored path twice",
            with(
                files(&["a"]),
                "/predicate/serialization/ignore_paths",
                json!(["b", "b"]),
            ),
        ),
        ("names that differ in case", files(&["A", "a"])),
    ];
    for (name, statement) in cases {
        assert!(
            parse(&statement).is_ok(),
            "{name}: {}",
            refusal(parse(&statement))
        );
    }
}

#[test]
fn each_hash_function_is_read_at_its_length() {
    for algorithm in [Algorithm::Sha256, Algorithm::Blake2b, Algorithm::Blake3] {
        let statement = statement(
            json!({"method": "files", "hash_type": algorithm.id(), "allow_symlinks": false}),
            resources(algorithm, algorithm.id(), &["a", "b"]),
        );
        let manifest = parse(&statement).unwrap();
        assert_eq!(manifest.algorithm(), algorithm);
        for file in manifest.files() {
            let want = digest_of(algorithm, file.path().as_str());
            assert_eq!(file.content(), &SignedContent::Whole(want));
        }
    }
}

#[test]
fn a_model_that_is_one_file_bears_the_subject_s_name() {
    let named = |statement, name: &str| with(statement, "/subject/0/name", name);
    for statement in [files(&["."]), shards(64, &[".:0:64", ".:64:65"])] {
        let manifest = parse(&named(statement.clone(), "m.gguf")).unwrap();
        assert!(manifest.is_single_file());
        assert_eq!(paths(&manifest), ["m.gguf"]);
        let cases = [
            (
                "..",
                "the model is one file and its name, the subject \"..\", is not canonical: \
                 the name has a `.` or `..` component",
            ),
            (
                "/etc/passwd",
                "the model is one file and its name, the subject \"/etc/passwd\", is not canonical: \
                 the name is absolute",
            ),
            (
                "a/b",
                "the model is one file and its name, the subject a/b, has directories in it",
            ),
        ];
        for (name, want) in cases {
            assert_eq!(refusal(parse(&named(statement.clone(), name))), want);
        }
    }
    let ordinary = parse(&files(&["m.gguf"])).unwrap();
    assert!(!ordinary.is_single_file());
    let others = "a resource is named . as if the model were one file, and it is not the only one";
    for statement in [
        files(&[".", "a"]),
        files(&[".", "."]),
        shards(64, &[".:0:64", "a:0:64"]),
    ] {
        assert_eq!(refusal(parse(&statement)), others);
    }
}

#[test]
fn what_is_not_well_formed_is_refused() {
    let serialization = "/predicate/serialization";
    let field =
        |name: &str, value: Value| with(files(&["a", "b"]), &format!("{serialization}/{name}"), value);
    let resource = |name: &str, value: &str| {
        let mut resources = resources(Algorithm::Sha256, "sha256", &["a", "b"]);
        resources[1][name] = value.into();
        statement(
            json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false}),
            resources,
        )
    };
    let upper = hex_of(Algorithm::Sha256, "b").to_uppercase();
    let long = "x".repeat(256);
    let digest = |name: &str| digest_of(Algorithm::Sha256, name);
    let root = |names: &[&str]| {
        let raw: Vec<u8> = names
            .iter()
            .flat_map(|name| digest(name).as_bytes().to_vec())
            .collect();
        Digest::Sha256(sha256(&raw))
    };
    let other_root = with(
        files(&["b", "a"]),
        "/subject/0/digest/sha256",
        HEXLOWER.encode(root(&["a", "b"]).as_bytes()),
    );
    let two_subjects = {
        let statement = files(&["a"]);
        let subject = statement["subject"][0].clone();
        with(statement, "/subject", json!([subject, subject]))
    };
    struct Case(&'static str, Value, String);
    let case = |name, statement, want: &str| Case(name, statement, want.to_owned());
    let cases = [
        case(
            "type of the statement",
            with(files(&["a"]), "/_type", "https://in-toto.io/Statement/v0.1"),
            "the statement has the unknown type https://in-toto.io/Statement/v0.1",
        ),
        case(
            "type of the predicate",
            with(
                files(&["a"]),
                "/predicateType",
                "https://model_signing/signature/v1.1",
            ),
            "the predicate has the type https://model_signing/signature/v1.1, \
             not https://model_signing/signature/v1.0",
        ),
        case(
            "type of the predicate, and other fields too",
            json!({
                "_type": "https://in-toto.io/Statement/v1", "predicateType": "x\u{1b}", "subject": 1,
            }),
            "the predicate has the type x\\u{1b}, not https://model_signing/signature/v1.0",
        ),
        case(
            "no subject",
            with(files(&["a"]), "/subject", json!([])),
            "the statement has 0 subjects instead of one",
        ),
        case(
            "two subjects",
            two_subjects,
            "the statement has 2 subjects instead of one",
        ),
        case(
            "subject without a name",
            with(files(&["a"]), "/subject/0/name", ""),
            "the statement's subject has an empty name",
        ),
        case(
            "subject with half a digest",
            with(files(&["a"]), "/subject/0/digest/sha256", "00"),
            "the subject's sha256 is not a digest: the digest has 1 bytes, sha256 makes 32",
        ),
        Case(
            "root digest over another order",
            other_root,
            format!(
                "the subject's digest is {}, that of the resources {}",
                root(&["a", "b"]),
                root(&["b", "a"])
            ),
        ),
        case(
            "method",
            field("method", "file".into()),
            "unknown serialization method file",
        ),
        case(
            "hash function",
            field("hash_type", "blake2".into()),
            "unknown hash type blake2",
        ),
        case(
            "shard size with files",
            field("shard_size", 10.into()),
            "the method is files and a shard_size is stated",
        ),
        case(
            "no shard size with shards",
            without(shards(1, &["a:0:1"]), "/predicate/serialization/shard_size"),
            "the method is shards and no shard_size is stated",
        ),
        case(
            "ignored root",
            field("ignore_paths", json!(["."])),
            "the ignored path \".\" is not canonical: the name has a `.` or `..` component",
        ),
        case(
            "ignored path elsewhere",
            field("ignore_paths", json!(["c", "/etc"])),
            "the ignored path \"/etc\" is not canonical: the name is absolute",
        ),
        case(
            "ignored and signed",
            field("ignore_paths", json!(["c", "b"])),
            "b is signed and also ignored, by b",
        ),
        case(
            "beneath what is ignored",
            with(
                files(&["d-e", "d/e/f"]),
                "/predicate/serialization/ignore_paths",
                json!(["d"]),
            ),
            "d/e/f is signed and also ignored, by d",
        ),
        case(
            "beneath what is ignored, behind another name that it begins with",
            with(
                files(&["d/ef"]),
                "/predicate/serialization/ignore_paths",
                json!(["d", "d/e"]),
            ),
            "d/ef is signed and also ignored, by d",
        ),
        case("nothing", files(&[]), "the manifest lists no resources"),
        case(
            "another algorithm",
            resource("algorithm", "blake3"),
            "resource b has a digest of blake3, the manifest is of sha256",
        ),
        case(
            "a shard's algorithm on a whole file",
            resource("algorithm", "sha256-sharded-10"),
            "resource b has a digest of sha256-sharded-10, the manifest is of sha256",
        ),
        case(
            "upper case",
            resource("digest", &upper),
            "resource b has a malformed digest: the digest is not in lower case",
        ),
        case(
            "no digest of the first",
            with(files(&["a", "b"]), "/predicate/resources/0/digest", json!("")),
            "resource a has a malformed digest: the digest has 0 bytes, sha256 makes 32",
        ),
        case(
            "a digest of another length in the first",
            with(
                files(&["a", "b"]),
                "/predicate/resources/0/digest",
                json!("00".repeat(64)),
            ),
            "resource a has a malformed digest: the digest has 64 bytes, sha256 makes 32",
        ),
        case(
            "digests of another length throughout",
            statement(
                json!({"method": "files", "hash_type": "sha256", "allow_symlinks": false}),
                resources(Algorithm::Blake2b, "sha256", &["a", "b"]),
            ),
            "resource a has a malformed digest: the digest has 64 bytes, sha256 makes 32",
        ),
        case(
            "a wrong algorithm after a wrong digest",
            with(
                with(files(&["a", "b"]), "/predicate/resources/0/digest", json!("x")),
                "/predicate/resources/1/algorithm",
                json!("md5"),
            ),
            "resource a has a malformed digest: the digest is not hexadecimal",
        ),
        case(
            "no digest",
            resource("digest", ""),
            "resource b has a malformed digest: the digest has 0 bytes, sha256 makes 32",
        ),
        case(
            "out of the model",
            files(&["a", "../b"]),
            "the name \"../b\" is not canonical: the name has a `.` or `..` component",
        ),
        case(
            "no name",
            files(&[""]),
            "the name \"\" is not canonical: the name is empty",
        ),
        Case(
            "long name",
            files(&[&long]),
            format!("the name \"{long}\" is not canonical: a component has 256 bytes, more than 255"),
        ),
        case("twice", files(&["a", "b", "a"]), "a is listed twice"),
        case(
            "file and directory",
            files(&["a", "a-b", "a/b"]),
            "a/b lies beneath a, which is a file",
        ),
        case(
            "file and directory, deeper",
            files(&["a/b/c/d", "a/b-", "a/b", "a/b!"]),
            "a/b/c/d lies beneath a/b, which is a file",
        ),
    ];
    for Case(name, statement, want) in cases {
        assert_eq!(refusal(parse(&statement)), want, "{name}");
    }
}

#[test]
fn shards_that_do_not_tile_their_file_are_refused() {
    struct Case(&'static [&'static str], &'static str);
    let cases = [
        Case(
            &["a:0:100", "a:200:300"],
            "shard gap in a: expected offset 100, found 200",
        ),
        Case(&["a:100:200"], "shard gap in a: expected offset 0, found 100"),
        Case(
            &["a:0:100", "b:100:200"],
            "shard gap in b: expected offset 0, found 100",
        ),
        Case(
            &["a:0:100", "a:50:150", "a:100:200"],
            "shard overlap in a: expected offset 100, found 50",
        ),
        Case(
            &["a:0:100", "a:0:100"],
            "shard overlap in a: expected offset 100, found 0",
        ),
        Case(
            &["a:0:50", "a:0:100"],
            "shard overlap in a: expected offset 50, found 0",
        ),
        Case(&["a:0:101"], "the shard 0:101 of a has more than 100 bytes"),
        Case(
            &["a:0:9223372036854775807"],
            "the shard 0:9223372036854775807 of a has more than 100 bytes",
        ),
        Case(
            &["a:0:50", "a:50:100"],
            "the shard of a that ends at offset 50 has fewer than 100 bytes and is not the last",
        ),
        Case(
            &["a:0:100", "a:100:150", "a:150:250"],
            "the shard of a that ends at offset 150 has fewer than 100 bytes and is not the last",
        ),
        Case(&["a:0:0"], "the shard a:0:0 ends where it begins"),
        Case(&["a:100:0"], "the shard a:100:0 ends before it begins"),
        Case(&["a"], "the shard a has no range :start:end in its name"),
        Case(&["a:5"], "the shard a:5 has no range :start:end in its name"),
        Case(&[":0:5"], "the name \"\" is not canonical: the name is empty"),
        Case(
            &["../a:0:5"],
            "the name \"../a\" is not canonical: the name has a `.` or `..` component",
        ),
        Case(&["a:0:5", "a/b:0:5"], "a/b lies beneath a, which is a file"),
    ];
    for Case(names, want) in cases {
        assert_eq!(refusal(parse(&shards(100, names))), want, "{names:?}");
    }
}

#[test]
fn an_offset_has_one_spelling() {
    let refused = [
        "00:5",
        "0:05",
        "+0:5",
        "-1:5",
        "0:-5",
        " 0:5",
        "0:5 ",
        "0:1_0",
        "0:0x5",
        "0:5.0",
        "0:\u{0665}",
        ":5",
        "0:",
        "0:9223372036854775808",
        "0:18446744073709551616",
        "0:36893488147419103237",
    ];
    for range in refused {
        let name = format!("a:{range}");
        assert_eq!(
            refusal(parse(&shards(100, &[&name]))),
            format!("the range of the shard {name} is not two canonical decimal offsets"),
        );
    }
}

#[test]
fn a_shard_s_algorithm_may_repeat_the_shard_size_and_no_other() {
    for (spelled, accept) in [
        ("sha256", true),
        ("sha256-sharded-100", true),
        ("sha256-sharded-0100", false),
        ("sha256-sharded-100.0", false),
        ("sha256-sharded-99", false),
        ("sha256-sharded-", false),
        ("blake3-sharded-100", false),
        ("blake3", false),
        ("", false),
    ] {
        let statement = statement(
            json!({"method": "shards", "hash_type": "sha256", "allow_symlinks": false, "shard_size": 100}),
            resources(Algorithm::Sha256, spelled, &["a:0:1"]),
        );
        let want = format!("resource a:0:1 has a digest of {spelled}, the manifest is of sha256");
        match parse(&statement) {
            Ok(_) => assert!(accept, "{spelled}"),
            refused => assert_eq!((accept, refusal(refused)), (false, want)),
        }
    }
}

#[test]
fn a_shard_size_is_an_integer_that_every_reader_reads_alike() {
    for number in [
        "0",
        "-100",
        "-0",
        "-0.0",
        "100.5",
        "0.1",
        "1e300",
        "9007199254740993",
        "9007199254740994.0",
        "9223372036854775808",
        "100000000000000000000",
    ] {
        let text = shards(100, &["a:0:1"])
            .to_string()
            .replace(":100", &format!(":{number}"));
        let refusal = refusal(Manifest::parse(text.as_bytes(), Format::V1));
        assert!(refusal.starts_with("the shard_size "), "{number}: {refusal}");
        assert!(
            refusal.ends_with(" is no integer from 1 to 9007199254740992"),
            "{number}: {refusal}"
        );
    }
}

#[test]
fn fields_that_lack_or_have_another_type_are_refused() {
    let fields = [
        "/_type",
        "/subject",
        "/predicateType",
        "/predicate",
        "/subject/0/name",
        "/subject/0/digest",
        "/subject/0/digest/sha256",
        "/predicate/serialization",
        "/predicate/resources",
        "/predicate/serialization/method",
        "/predicate/serialization/hash_type",
        "/predicate/serialization/allow_symlinks",
        "/predicate/resources/0/name",
        "/predicate/resources/0/algorithm",
        "/predicate/resources/0/digest",
    ];
    let optional = [
        "/predicate/serialization/shard_size",
        "/predicate/serialization/ignore_paths",
    ];
    let good = files(&["a", "b"]);
    let mut cases: Vec<Value> = fields.iter().map(|field| without(good.clone(), field)).collect();
    for field in fields.into_iter().chain(optional) {
        // A number where there is none, so that `null` counts as another type.
        let absent = json!(0);
        let had = good.pointer(field).unwrap_or(&absent);
        for other in [
            json!(null),
            json!(5),
            json!("x"),
            json!([5]),
            json!({"a": 1}),
            json!(true),
        ] {
            if std::mem::discriminant(had) != std::mem::discriminant(&other) {
                cases.push(with(good.clone(), field, other));
            }
        }
    }
    // The fields of an object, in order and without their names.
    cases.push(with(
        good.clone(),
        "/predicate/resources/0",
        json!(["a", "sha256", hex_of(Algorithm::Sha256, "a")]),
    ));
    cases.push(with(
        good.clone(),
        "/predicate/serialization",
        json!(["files", "sha256", false]),
    ));
    cases.push(with(
        good.clone(),
        "/subject/0/digest",
        json!([good["subject"][0]["digest"]["sha256"]]),
    ));
    cases.push(json!([
        good["_type"],
        good["predicateType"],
        good["subject"],
        good["predicate"]
    ]));
    for statement in cases {
        let refusal = refusal(parse(&statement));
        assert!(
            refusal.starts_with("the payload is not a statement: unexpected JSON: "),
            "{refusal}: {statement}"
        );
    }
}

#[test]
fn payloads_that_parsers_read_differently_are_refused() {
    let good = files(&["a"]).to_string();
    assert!(Manifest::parse(good.as_bytes(), Format::V1).is_ok());
    let twice = good.replace("\"name\":\"a\"", "\"name\":\"a\",\"name\":\"a\"");
    let utf16: Vec<u8> = good.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let not_utf8 = [good.as_bytes(), b"\xff"].concat();
    let surrogate = good.replace("\"name\":\"a\"", "\"name\":\"\\ud800\"");
    let cases: [&[u8]; 8] = [
        twice.as_bytes(),
        &utf16,
        &not_utf8,
        surrogate.as_bytes(),
        &[b"\xef\xbb\xbf", good.as_bytes()].concat(),
        &[good.as_bytes(), b" {}"].concat(),
        good.as_bytes().split_last().unwrap().1,
        b"",
    ];
    for text in cases {
        let refusal = refusal(Manifest::parse(text, Format::V1));
        assert!(
            refusal.starts_with("the payload is not a statement: "),
            "{refusal}"
        );
    }
}

#[test]
fn names_are_printed_so_that_they_cannot_act_on_a_terminal() {
    let evil = "\u{1b}[2J\u{202e}\\x";
    for statement in [
        files(&[evil, evil]),
        files(&[&format!("/{evil}")]),
        files(&[evil, &format!("{evil}/a")]),
        shards(1, &[evil]),
        shards(1, &[&format!("{evil}:1:2")]),
        with(files(&["a"]), "/predicate/serialization/method", evil),
        with(files(&["a"]), "/predicate/serialization/allow_symlinks", evil),
        with(files(&["a"]), "/predicateType", evil),
    ] {
        let refusal = refusal(parse(&statement));
        // What serde quotes is escaped twice.
        let plain = refusal.replace("\\\\", "\\");
        assert!(plain.contains("\\u{1b}[2J"), "{refusal}");
        assert!(!refusal.contains(['\u{1b}', '\u{202e}']), "{refusal:?}");
    }
}

#[test]
fn a_message_shows_the_beginning_of_a_long_name() {
    for (chars, end) in [
        (512, "\u{e4}\" is"),
        (513, "\u{e4}... (1026 bytes)\" is"),
        (100_000, "\u{e4}... (200000 bytes)\" is"),
    ] {
        let name = "\u{e4}".repeat(chars);
        let refusal = refusal(parse(&files(&[&name])));
        let want = format!("the name \"{}{end} not canonical: ", "\u{e4}".repeat(511));
        assert!(refusal.starts_with(&want), "{refusal}");
    }
}

#[test]
fn the_legacy_format_is_read_only_where_it_is_asked_for() {
    let names = ["b", "a/c"];
    let manifest = parse_legacy(&legacy(&names)).unwrap();
    let raw: Vec<u8> = names
        .iter()
        .flat_map(|name| digest_of(Algorithm::Sha256, name).as_bytes().to_vec())
        .collect();
    assert_eq!(manifest.root_digest(), &sha256(&raw));
    assert_eq!(manifest.subject(), "");
    assert_eq!(manifest.algorithm(), Algorithm::Sha256);
    assert_eq!(manifest.shard_size(), None);
    assert!(!manifest.allow_symlinks());
    assert!(!manifest.is_single_file());
    assert_eq!(paths(&manifest), ["a/c", "b"]);
    let cases = [
        (
            refusal(parse(&legacy(&names))),
            "the predicate has the type https://model_signing/Digests/v0.1, \
             not https://model_signing/signature/v1.0",
        ),
        (
            refusal(parse_legacy(&files(&names))),
            "the predicate has the type https://model_signing/signature/v1.0, \
             not https://model_signing/Digests/v0.1",
        ),
        (
            refusal(parse_legacy(&legacy(&[]))),
            "the manifest lists no resources",
        ),
        (refusal(parse_legacy(&legacy(&["a", "a"]))), "a is listed twice"),
        (
            refusal(parse_legacy(&legacy(&["../a"]))),
            "the name \"../a\" is not canonical: the name has a `.` or `..` component",
        ),
        (
            refusal(parse_legacy(&legacy(&["."]))),
            "the model is one file and its name, the subject \"\", is not canonical: the name is empty",
        ),
    ];
    for (got, want) in cases {
        assert_eq!(got, want);
    }
}

#[test]
fn a_manifest_may_list_as_many_resources_as_the_limit_and_no_more() {
    let text = files(&["a", "b", "c"]).to_string();
    assert!(Manifest::parse_within(text.as_bytes(), Format::V1, 3).is_ok());
    assert_eq!(
        refusal(Manifest::parse_within(text.as_bytes(), Format::V1, 2)),
        "the manifest lists 3 resources, more than 2"
    );
}

#[test]
fn a_manifest_may_ignore_as_many_paths_as_the_limit_and_no_more() {
    let ignoring = |count: usize| {
        with(
            files(&["ab"]),
            "/predicate/serialization/ignore_paths",
            vec!["a"; count],
        )
    };
    let manifest = parse(&ignoring(MAX_IGNORED_PATHS)).unwrap();
    assert_eq!(manifest.ignore_paths().len(), MAX_IGNORED_PATHS);
    assert_eq!(
        refusal(parse(&ignoring(MAX_IGNORED_PATHS + 1))),
        "the manifest ignores 10001 paths, more than 10000"
    );
}

/// Names that meet each other often, in the orders that bytes and components tell apart.
fn any_path() -> impl Strategy<Value = String> {
    let component = prop_oneof![
        Just("a"),
        Just("b"),
        Just("ab"),
        Just("a-"),
        Just("a.b"),
        Just("a!"),
        Just("\u{e4}"),
        Just("a:0:1"),
        Just("..."),
    ];
    vec(component, 1..5).prop_map(|components| components.join("/"))
}

/// Whether one is the other or lies beneath it: what the walk must find, said in the plainest way.
fn conflict(a: &str, b: &str) -> bool {
    a == b || a.starts_with(&format!("{b}/")) || b.starts_with(&format!("{a}/"))
}

/// The paths without those that conflict with an earlier one.
fn compatible(paths: Vec<String>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for path in paths {
        if !kept.iter().any(|other| conflict(other, &path)) {
            kept.push(path);
        }
    }
    kept
}

fn any_algorithm() -> impl Strategy<Value = Algorithm> {
    prop_oneof![
        Just(Algorithm::Sha256),
        Just(Algorithm::Blake2b),
        Just(Algorithm::Blake3)
    ]
}

proptest! {
    #[test]
    fn conflicts_are_found_wherever_they_stand(paths in vec(any_path(), 1..12)) {
        let names: Vec<&str> = paths.iter().map(|path| &**path).collect();
        let conflicts = (1..names.len()).any(|i| names[..i].iter().any(|other| conflict(other, names[i])));
        prop_assert_eq!(parse(&files(&names)).is_err(), conflicts);
    }

    #[test]
    fn ignored_files_are_found_wherever_they_stand(
        paths in vec(any_path(), 1..8),
        ignored in vec(any_path(), 0..8),
    ) {
        let paths = compatible(paths);
        let names: Vec<&str> = paths.iter().map(|path| &**path).collect();
        let covers = |path: &str| ignored.iter().any(|i| path == i || path.starts_with(&format!("{i}/")));
        let statement = with(files(&names), "/predicate/serialization/ignore_paths", ignored.clone());
        prop_assert_eq!(parse(&statement).is_err(), names.iter().any(|name| covers(name)));
    }

    #[test]
    fn whole_files_are_read_back_as_they_were_written(
        paths in vec(any_path(), 1..20),
        algorithm in any_algorithm(),
        allow_symlinks: bool,
        pretty: bool,
    ) {
        let mut paths = compatible(paths);
        let names: Vec<&str> = paths.iter().map(|path| &**path).collect();
        let statement = statement(
            json!({"method": "files", "hash_type": algorithm.id(), "allow_symlinks": allow_symlinks}),
            resources(algorithm, algorithm.id(), &names),
        );
        let text = if pretty { format!("{statement:#}") } else { statement.to_string() };
        let manifest = Manifest::parse(text.as_bytes(), Format::V1).unwrap();
        prop_assert_eq!(manifest.allow_symlinks(), allow_symlinks);
        prop_assert_eq!(manifest.resources(), u64::try_from(paths.len()).unwrap());
        paths.sort();
        let want: Vec<SignedFile> = paths
            .iter()
            .map(|path| SignedFile {
                path: ModelPath::parse(path).unwrap(),
                content: SignedContent::Whole(digest_of(algorithm, path)),
            })
            .collect();
        prop_assert_eq!(manifest.files(), want);
    }

    #[test]
    fn shards_are_read_back_as_they_were_written(
        paths in vec(any_path(), 1..6),
        sizes in vec(1_u64..400, 6),
        shard_size in 1_u64..150,
        algorithm in any_algorithm(),
        mangled: bool,
        float: bool,
        order in any::<prop::sample::Index>(),
    ) {
        let paths = compatible(paths);
        let mut want = Vec::new();
        let mut names = Vec::new();
        for (path, size) in paths.iter().zip(&sizes) {
            let mut start = 0;
            let mut shards = Vec::new();
            while start < *size {
                let end = size.min(&(start + shard_size)).to_owned();
                let name = format!("{path}:{start}:{end}");
                shards.push((start..end, digest_of(algorithm, &name)));
                names.push(name);
                start = end;
            }
            want.push((path.clone(), *size, shards));
        }
        want.sort_by(|a, b| a.0.cmp(&b.0));
        names.sort();
        let count = names.len();
        names.rotate_left(order.index(count));
        let spelled = if mangled { format!("{algorithm}-sharded-{shard_size}") } else { algorithm.to_string() };
        let stated = if float { serde_json::from_str(&format!("{shard_size}.0")).unwrap() } else { json!(shard_size) };
        let statement = statement(
            json!({
                "method": "shards", "hash_type": algorithm.id(), "allow_symlinks": false,
                "shard_size": stated,
            }),
            resources(algorithm, &spelled, &names.iter().map(|name| &**name).collect::<Vec<_>>()),
        );
        let manifest = parse(&statement).unwrap();
        prop_assert_eq!(manifest.shard_size(), Some(shard_size));
        let got: Vec<_> = manifest.files().iter().map(|file| {
            let SignedContent::Shards(shards) = file.content() else { panic!("{file:?}") };
            let each = (0..shards.count()).map(|i| (shards.range(i).unwrap(), shards.digest(i).unwrap()));
            (file.path().to_string(), shards.size(), each.collect::<Vec<_>>())
        }).collect();
        let want: Vec<_> = want
            .into_iter()
            .map(|(path, size, shards)| (ModelPath::parse(&path).unwrap().to_string(), size, shards))
            .collect();
        prop_assert_eq!(got, want);
    }

    #[test]
    fn ranges_are_taken_only_as_the_one_tiling_of_their_size(
        size in 1_u64..60,
        edits in vec((any::<prop::sample::Index>(), 0_usize..4, -11_i64..12), 0..3),
    ) {
        let tiling = |size: u64| -> Vec<(u64, u64)> {
            (0..size.div_ceil(10)).map(|i| (i * 10, size.min(i * 10 + 10))).collect()
        };
        let mut ranges = tiling(size);
        for (at, edit, by) in edits {
            let at = at.index(ranges.len());
            let (start, end) = ranges[at];
            match edit {
                0 => ranges[at].0 = start.saturating_add_signed(by),
                1 => ranges[at].1 = end.saturating_add_signed(by),
                2 => ranges.push((start, end)),
                _ if ranges.len() > 1 => drop(ranges.remove(at)),
                _ => {}
            }
        }
        let names: Vec<String> = ranges.iter().map(|(start, end)| format!("a:{start}:{end}")).collect();
        let names: Vec<&str> = names.iter().map(|name| &**name).collect();
        let end = ranges.iter().map(|(_, end)| *end).max().unwrap_or(0);
        ranges.sort_unstable();
        prop_assert_eq!(parse(&shards(10, &names)).is_ok(), ranges == tiling(end));
    }

    #[test]
    fn changed_bytes_never_panic(
        sharded: bool,
        edits in vec((any::<prop::sample::Index>(), 0_usize..3, any::<u8>()), 1..8),
    ) {
        let statement = if sharded {
            shards(64.0, &["a:0:64", "a:64:65", "b/c:0:1"])
        } else {
            with(files(&["a", "b/c"]), "/predicate/serialization/ignore_paths", json!(["d", ".git"]))
        };
        let mut text = statement.to_string().into_bytes();
        for (at, edit, byte) in edits {
            let at = at.index(text.len());
            match edit {
                0 => text[at] = byte,
                1 => text.insert(at, byte),
                _ => drop(text.remove(at)),
            }
        }
        for format in [Format::V1, Format::LegacyV02] {
            if let Err(error) = Manifest::parse(&text, format) {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
