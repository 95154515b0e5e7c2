//! The built command as a person or a script meets it: what it prints, where, and its exit codes.
//!
//! Models are signed here, with keys and certificates made for the test; the vectors are read where they
//! are.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test stops at the first surprise"
)]

mod shared;

use std::fs;
use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::ECDSA_P256_SHA256_ASN1_SIGNING;
use aws_lc_rs::signature::EcdsaKeyPair;
use data_encoding::BASE64;
use data_encoding::HEXLOWER;
use modelfs::digest::sha256;
use serde_json::Value;
use serde_json::json;

/// A signed model, `model`, with its key, `key.pub`, in a folder of its own.
struct Scene {
    dir: tempfile::TempDir,
    key: rcgen::KeyPair,
}

/// What a run of the command came to.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    code: i32,
    out: String,
    err: String,
}

impl Scene {
    /// Signs these files; the bundle is `model/model.sig`.
    fn new(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let scene = Self { dir, key };
        fs::create_dir(scene.path("model")).unwrap();
        for (name, content) in files {
            let path = scene.path("model").join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        scene.write("key.pub", &scene.key.public_key_pem());
        let bundle = bundle(&statement(files), &scene.key, json!({"publicKey": {}}));
        scene.write("model/model.sig", &bundle);
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(0o644)).unwrap();
    }

    /// The command in this folder, in an environment without any policy.
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_modelfs"));
        command
            .args(line.split_whitespace())
            .current_dir(self.path(""))
            .stdin(Stdio::null())
            .env("HOME", self.path("home"))
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("MODELFS_POLICY")
            .env_remove("MODELFS_LOG")
            .env_remove("JOURNAL_STREAM");
        command
    }

    fn run(&self, line: &str) -> Outcome {
        self.outcome(self.command(line))
    }

    fn run_with(&self, variable: (&str, &str), line: &str) -> Outcome {
        let mut command = self.command(line);
        command.env(variable.0, variable.1);
        self.outcome(command)
    }

    /// Runs to the end; this scene's folder is taken out of what was printed.
    fn outcome(&self, mut command: Command) -> Outcome {
        let output = command.output().unwrap();
        let here = self.path("").display().to_string();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(&here, "/");
        Outcome {
            code: output.status.code().unwrap_or(-1),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }

    /// A policy that trusts this scene's key for one scope.
    fn policy(&self, scope: &str, pem: &str) -> String {
        format!(
            "version = 1\ndefault = \"reject\"\n[roots.key.lab]\npem = \"{pem}\"\n\
             [[rule]]\nscope = \"{scope}\"\nsigners = [{{ method = \"key\", key = \"lab\" }}]\n"
        )
    }
}

fn failed(code: i32, sentence: &str) -> Outcome {
    Outcome {
        code,
        out: String::new(),
        err: format!("modelfs: {sentence}.\n"),
    }
}

fn statement(files: &[(&str, &str)]) -> String {
    let mut files: Vec<_> = files.to_vec();
    files.sort_unstable();
    let digests: Vec<[u8; 32]> = files
        .iter()
        .map(|(_, content)| sha256(content.as_bytes()))
        .collect();
    let resources: Vec<Value> = files
        .iter()
        .zip(&digests)
        .map(|((name, _), digest)| {
            json!({"name": name, "algorithm": "sha256", "digest": HEXLOWER.encode(digest)})
        })
        .collect();
    json!({
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "model", "digest": {"sha256": HEXLOWER.encode(&sha256(&digests.concat()))}}],
        "predicateType": "https://model_signing/signature/v1.0",
        "predicate": {
            "serialization": {
                "method": "files", "hash_type": "sha256", "allow_symlinks": false,
                "ignore_paths": ["model.sig"],
            },
            "resources": resources,
        },
    })
    .to_string()
}

/// Signs a payload as DSSE says.
fn bundle(payload: &str, key: &rcgen::KeyPair, material: Value) -> String {
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der()).unwrap();
    let kind = "application/vnd.in-toto+json";
    let pae = format!("DSSEv1 {} {kind} {} {payload}", kind.len(), payload.len());
    let signature = key.sign(&SystemRandom::new(), pae.as_bytes()).unwrap();
    json!({
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": material,
        "dsseEnvelope": {
            "payload": BASE64.encode(payload.as_bytes()),
            "payloadType": kind,
            "signatures": [{"sig": BASE64.encode(signature.as_ref()), "keyid": ""}],
        },
    })
    .to_string()
}

const FILES: [(&str, &str); 2] = [("a.bin", "weights"), ("sub/b.json", "{}")];

#[test]
fn wrong_arguments_are_one_sentence_and_exit_2() {
    let scene = Scene::new(&FILES);
    let cases = [
        ("mnt", "unrecognized subcommand 'mnt'; see modelfs --help"),
        (
            "verify model/model.sig",
            "the following required arguments were not provided: <MODEL>; see modelfs --help",
        ),
        (
            "verify --public-kee key.pub bundle model",
            "unexpected argument '--public-kee' found (a similar argument exists: '--public-key'); see modelfs --help",
        ),
        (
            "inspect --policy p --public-key key.pub model/model.sig",
            "the argument '--policy <FILE>' cannot be used with '--public-key <FILE>'; see modelfs --help",
        ),
        (
            "inspect --identity a --identity-provider b --trusted_root c model/model.sig",
            "--identity a: the identity is neither an email address nor a URI: begin it with email: or uri:",
        ),
        (
            "mount -f --identity_provider b bundle model mnt",
            "the following required arguments were not provided: --identity <STR>; see modelfs --help",
        ),
        (
            "verify --tsa-root key.pub bundle model",
            "--tsa-root needs --public-key or --certificate-chain: in a policy, write tsa = [\"NAME\"] in the rule",
        ),
        (
            "verify --allow-legacy bundle model",
            "--allow-legacy needs --public-key or --certificate-chain: in a policy, write allow_legacy = true in the rule",
        ),
        (
            "verify --public-key key.pub --ignore-paths ../x bundle model",
            "--ignore-paths ../x: name a file or folder beneath the model model, relative to it or absolute",
        ),
        (
            "inspect --public-key key.pub bundle",
            "there is no file bundle here: name the signature file, usually MODEL/model.sig",
        ),
    ];
    for (line, want) in cases {
        assert_eq!(scene.run(line), failed(2, want), "{line}");
        let json = scene.run(&format!("--json {line}"));
        let data: Value = serde_json::from_str(&json.out).unwrap_or_else(|e| panic!("{line}: {e}: {json:?}"));
        assert_eq!(
            (json.code, json.err.as_str(), data),
            (
                2,
                "",
                json!({"error": {"code": 2, "kind": "usage", "message": want}})
            ),
            "{line}"
        );
    }
    let bad_level = scene.run_with(
        ("MODELFS_LOG", "loud"),
        "mount -f --public-key key.pub bundle model mnt",
    );
    assert_eq!(
        bad_level,
        failed(2, "$MODELFS_LOG must be one of error, warn, info and debug")
    );
}

#[test]
fn help_lists_what_there_is_and_nothing_else() {
    let scene = Scene::new(&FILES);
    let help = scene.run("--help");
    assert_eq!((help.code, help.err.as_str()), (0, ""));
    let listed: Vec<&str> = help
        .out
        .lines()
        .skip_while(|l| *l != "Commands:")
        .skip(1)
        .take_while(|l| !l.is_empty())
        .filter_map(|l| l.split_whitespace().next())
        .collect();
    assert_eq!(
        listed,
        ["mount", "unmount", "verify", "inspect", "status", "warm", "help"]
    );
    assert!(
        help.out.contains("5  content differs from its signed digest"),
        "{}",
        help.out
    );
    assert_eq!(scene.run("").code, 2);
}

#[test]
fn without_trust_and_policy_the_remedy_is_told() {
    let scene = Scene::new(&FILES);
    if Path::new("/etc/modelfs/policy.toml").exists() {
        println!("LEFT OUT: this machine has a policy of its own, /etc/modelfs/policy.toml");
        return;
    }
    let want = failed(
        2,
        "nothing says whose signatures to trust: give --public-key FILE, --certificate-chain FILE or --identity STR, or write a \
         policy to /home/.config/modelfs/policy.toml or /etc/modelfs/policy.toml, as modelfs verify --help shows",
    );
    for line in [
        "inspect model/model.sig",
        "verify bundle model",
        "mount bundle model mnt",
        "mount --foreground bundle model mnt",
    ] {
        assert_eq!(scene.run(line), want, "{line}");
    }
}

#[test]
fn the_policy_is_found_where_it_is_said_to_be() {
    let scene = Scene::new(&FILES);
    let scope = scene.path("model").display().to_string();
    let good = scene.policy(&scope, &scene.path("key.pub").display().to_string());
    scene.write("named.toml", &good);
    scene.write("home/.config/modelfs/policy.toml", &good);
    scene.write("xdg/modelfs/policy.toml", "version = 2\n");
    let verified = |outcome: Outcome| {
        assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{outcome:?}");
        assert!(
            outcome
                .out
                .starts_with("model: verified, 2 files, 9 B, signed by P-256 key "),
            "{outcome:?}"
        );
    };
    verified(scene.run("verify bundle model"));
    verified(scene.run("verify --policy named.toml bundle model"));
    verified(scene.run_with(("MODELFS_POLICY", "named.toml"), "verify bundle model"));
    verified(scene.run_with(("MODELFS_POLICY", ""), "verify bundle model"));
    // Options win over any policy, also over one that is broken.
    verified(scene.run_with(
        ("MODELFS_POLICY", "gone.toml"),
        "verify --public-key key.pub bundle model",
    ));
    // What is there and broken is never passed over for a policy further down.
    let xdg = scene.path("xdg").display().to_string();
    assert_eq!(
        scene.run_with(("XDG_CONFIG_HOME", &xdg), "verify bundle model"),
        failed(
            4,
            "policy /xdg/modelfs/policy.toml refused: it has version 2, this modelfs knows version 1"
        )
    );
    assert_eq!(
        scene.run_with(("MODELFS_POLICY", "gone.toml"), "verify bundle model"),
        failed(
            4,
            "policy refused: gone.toml cannot be read: No such file or directory (os error 2)"
        )
    );
    // A bundle alone speaks for the folder it lies in.
    assert_eq!(scene.run("inspect model/model.sig").code, 0);
    fs::copy(scene.path("model/model.sig"), scene.path("elsewhere.sig")).unwrap();
    assert_eq!(scene.run("inspect elsewhere.sig").code, 4);
    verified(scene.run("verify elsewhere.sig model"));
}

#[test]
fn a_policy_refuses_what_it_does_not_cover_and_whom_it_does_not_name() {
    let scene = Scene::new(&FILES);
    let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    scene.write("stranger.pub", &stranger.public_key_pem());
    symlink("model", scene.path("alias")).unwrap();
    let scope = scene.path("model").display().to_string();
    let alias = scene.path("alias").display().to_string();
    struct Case {
        name: &'static str,
        policy: String,
        want: Option<(i32, &'static str)>,
    }
    let cases = [
        Case {
            name: "the model",
            policy: scene.policy(&scope, "key.pub"),
            want: None,
        },
        Case {
            name: "all beneath a folder",
            policy: scene.policy(&format!("{}**", scene.path("").display()), "key.pub"),
            want: None,
        },
        Case {
            name: "another folder",
            policy: scene.policy("/srv/**", "key.pub"),
            want: Some((
                4,
                "no rule of the policy policy.toml covers /model: add a [[rule]] with scope = \"/model\" and the \
                 signers to accept",
            )),
        },
        Case {
            name: "a link to the model, which is not its canonical path",
            policy: scene.policy(&alias, "key.pub"),
            want: Some((
                4,
                "no rule of the policy policy.toml covers /model: add a [[rule]] with scope = \"/model\" and the \
                 signers to accept",
            )),
        },
        Case {
            name: "another key",
            policy: scene.policy(&scope, "stranger.pub"),
            want: Some((
                3,
                "the signature model/model.sig: the signature does not match: the bundle was changed or signed with \
                 another key",
            )),
        },
        Case {
            name: "a more specific rule for another key",
            policy: format!(
                "{}[roots.key.other]\npem = \"stranger.pub\"\n[[rule]]\nscope = \"{}**\"\n\
                 signers = [{{ method = \"key\", key = \"other\" }}]\n",
                scene.policy(&scope, "key.pub"),
                scene.path("").display()
            ),
            want: None,
        },
    ];
    let other_rule = failed(
        4,
        "/alias leads to /model through a link, and the policy policy.toml has one rule for /** and another for /model: \
         name the model without the link, if it is the one that you want",
    );
    for case in cases {
        scene.write("policy.toml", &case.policy);
        for model in ["model", "alias", "./model/../alias/"] {
            let outcome = scene.run(&format!("verify --policy policy.toml model/model.sig {model}"));
            let by_link = model != "model";
            match case.want {
                // Whoever may put a link there would choose between the rules.
                None if by_link && case.name == "a more specific rule for another key" => {
                    assert_eq!(outcome, other_rule, "{}", case.name);
                }
                None => assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{}", case.name),
                Some((code, sentence)) => assert_eq!(outcome, failed(code, sentence), "{}", case.name),
            }
        }
    }
}

#[test]
fn files_that_others_could_have_written_say_nothing_about_trust() {
    let scene = Scene::new(&FILES);
    let scope = scene.path("model").display().to_string();
    scene.write("policy.toml", &scene.policy(&scope, "key.pub"));
    let chmod =
        |name: &str, mode| fs::set_permissions(scene.path(name), Permissions::from_mode(mode)).unwrap();
    chmod("policy.toml", 0o664);
    assert_eq!(
        scene.run("verify --policy policy.toml bundle model"),
        failed(
            4,
            "policy refused: policy.toml is not safe to trust: others may write to it (mode 0664), run chmod go-w \
             policy.toml"
        )
    );
    chmod("policy.toml", 0o644);
    chmod("key.pub", 0o666);
    assert_eq!(
        scene.run("verify --public-key key.pub bundle model"),
        failed(
            4,
            "key.pub is not safe to trust: others may write to it (mode 0666), run chmod go-w key.pub"
        )
    );
    chmod("key.pub", 0o664);
    // Whoever names a key on the command line has looked at it; a policy is trusted unseen.
    assert_eq!(
        scene
            .run("verify --public-key key.pub --ignore-paths p.toml bundle model")
            .code,
        0
    );
    assert_eq!(scene.run("verify --policy policy.toml bundle model").code, 4);
    chmod("key.pub", 0o644);
    assert_eq!(scene.run("verify --policy policy.toml bundle model").code, 0);
    fs::copy(scene.path("key.pub"), scene.path("model/key.pub")).unwrap();
    assert_eq!(
        scene.run("verify --public-key model/key.pub bundle model"),
        failed(
            4,
            "model/key.pub lies inside the model /model, whose writer would choose what to trust: keep it elsewhere"
        )
    );
    assert_eq!(scene.run("verify --public-key gone.pub bundle model").code, 7);
    assert_eq!(
        scene
            .run("verify --public-key model/../key.pub bundle model")
            .code,
        4,
        "the way leads through the model"
    );
    assert_eq!(scene.run("verify --public-key key.pub/x bundle model").code, 7);
    assert_eq!(
        scene.run("verify --public-key policy.toml bundle model"),
        failed(
            3,
            "the key policy.toml: no PEM block: expected -----BEGIN PUBLIC KEY-----"
        )
    );
}

#[test]
fn the_policies_that_we_show_are_policies() {
    for document in ["docs/POLICY.md", "README.md"] {
        let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(document)).unwrap();
        let shown = text
            .split("```toml\n")
            .nth(1)
            .and_then(|rest| rest.split("```").next());
        let scene = Scene::new(&FILES);
        fs::copy(scene.path("key.pub"), scene.path("lab.pub")).unwrap();
        scene.write("acme-root.pem", &certified(2099).root.pem());
        scene.write("acme-tsa.pem", &certified(2099).root.pem());
        let models = format!("{}**", scene.path("").display());
        scene.write(
            "policy.toml",
            &shown.unwrap().replacen("/srv/models/**", &models, 1),
        );
        let outcome = scene.run("verify --policy policy.toml bundle model");
        assert_eq!((outcome.code, outcome.err.as_str()), (0, ""), "{document}");
    }
    let scene = Scene::new(&FILES);
    let help = scene.run("verify --help").out;
    let shown: Vec<&str> = help
        .lines()
        .skip_while(|l| *l != "  version = 1")
        .map(str::trim)
        .collect();
    fs::copy(scene.path("key.pub"), scene.path("lab.pub")).unwrap();
    let models = format!("{}**", scene.path("").display());
    scene.write(
        "policy.toml",
        &shown.join("\n").replace("/srv/models/**", &models),
    );
    assert_eq!(
        scene.run("verify --policy policy.toml bundle model").code,
        0,
        "{shown:?}"
    );
}

/// A root, and a leaf of it that may sign code for `spiffe://acme/signer` between two dates.
struct Certified {
    root: rcgen::Certificate,
    leaf: rcgen::Certificate,
    key: rcgen::KeyPair,
}

fn certified(until: i32) -> Certified {
    let pair = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let named = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params
    };
    let mut root_params = named("acme root");
    root_params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    root_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    root_params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let root_key = pair();
    let root = root_params.self_signed(&root_key).unwrap();
    let mut leaf_params = named("acme signer");
    leaf_params.not_after = rcgen::date_time_ymd(until, 1, 1);
    leaf_params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    leaf_params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning];
    leaf_params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://acme/signer".try_into().unwrap())];
    leaf_params.use_authority_key_identifier_extension = true;
    let key = pair();
    let issuer = rcgen::Issuer::new(root_params, root_key);
    let leaf = leaf_params.signed_by(&key, &issuer).unwrap();
    Certified { root, leaf, key }
}

#[test]
fn certificates_are_trusted_for_their_identity_and_time() {
    let expired = "the signature /model/model.sig: the signer's certificate is not trusted: ";
    for (until, now) in [(2099, 0), (2021, 3)] {
        let scene = Scene::new(&FILES);
        let certified = certified(until);
        let material = json!({"x509CertificateChain": {"certificates": [
            {"rawBytes": BASE64.encode(certified.leaf.der())},
        ]}});
        scene.write(
            "model/model.sig",
            &bundle(&statement(&FILES), &certified.key, material),
        );
        scene.write("root.pem", &certified.root.pem());
        let scope = scene.path("model").display().to_string();
        let policy = |identity: &str, time: &str| {
            format!(
                "version = 1\ndefault = \"reject\"\n[roots.ca.acme]\ncerts = [\"root.pem\"]\n[[rule]]\n\
                 scope = \"{scope}\"\nsigners = [{{ method = \"certificate\", ca = \"acme\", \
                 identity = \"{identity}\"{time} }}]\n"
            )
        };
        struct Case {
            identity: &'static str,
            time: Option<&'static str>,
            want: i32,
        }
        let case = |identity, time, want| Case { identity, time, want };
        let cases = [
            case("uri:spiffe://acme/signer", None, now),
            case("uri:spiffe://acme/signer", Some("now"), now),
            case("uri:spiffe://acme/signer", Some("not-before"), 0),
            case("subject:CN=acme signer", Some("not-before"), 0),
            case("uri:spiffe://acme/other", Some("not-before"), 3),
            case("uri:spiffe://acme/", Some("not-before"), 3),
            case("dns:spiffe://acme/signer", Some("not-before"), 3),
        ];
        for Case { identity, time, want } in cases {
            let in_policy = time.map(|t| format!(", time = \"{t}\"")).unwrap_or_default();
            scene.write("policy.toml", &policy(identity, &in_policy));
            let by_policy = scene.run("verify --policy policy.toml bundle model");
            assert_eq!(by_policy.code, want, "{identity} {time:?} {until}: {by_policy:?}");
            let mut command = scene.command("verify --certificate-chain root.pem");
            command.args(["--certificate-identity", identity]);
            command.args(time.iter().flat_map(|t| ["--cert-time", t]));
            command.args(["bundle", "model"]);
            let by_option = scene.outcome(command);
            assert_eq!(by_option.code, want, "{identity} {time:?} {until}: {by_option:?}");
            if want == 3 {
                assert!(by_option.err.contains(expired), "{by_option:?}");
            }
        }
        let stranger = scene.run("verify --public-key key.pub bundle model");
        assert_eq!(stranger.code, 3, "{stranger:?}");
    }
}

#[test]
fn inspect_tells_who_signed_what() {
    let scene = Scene::new(&FILES);
    let payload = statement(&FILES);
    let parsed: Value = serde_json::from_str(&payload).unwrap();
    let outcome = scene.run("inspect --public-key key.pub model/model.sig");
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    let identity = HEXLOWER.encode(&sha256(payload.as_bytes()));
    let root = parsed["subject"][0]["digest"]["sha256"].as_str().unwrap();
    let digest = |content: &str| format!("sha256:{}", HEXLOWER.encode(&sha256(content.as_bytes())));
    let lines: Vec<&str> = outcome.out.lines().collect();
    let fingerprint = lines[1].rsplit(' ').next().unwrap();
    assert_eq!(
        lines,
        [
            "bundle       model/model.sig",
            &format!("signed by    P-256 key {fingerprint}"),
            "method       key",
            "signed at    an unproven time",
            &format!("identity     sha256:{identity}"),
            "subject      model",
            &format!("root digest  sha256:{root}"),
            "hash         sha256, one digest per file",
            "left out     model.sig",
            "files        2",
            "",
            &format!("{}  a.bin", digest("weights")),
            &format!("{}  sub/b.json", digest("{}")),
        ]
    );
    let outcome = scene.run("inspect --json --public-key key.pub model/model.sig");
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    assert_eq!(
        serde_json::from_str::<Value>(&outcome.out).unwrap(),
        json!({
            "bundle": "model/model.sig",
            "signer": {"method": "key", "fingerprint": fingerprint, "curve": "P-256"},
            "signed_at": [],
            "identity": identity,
            "subject": "model",
            "root_digest": root,
            "algorithm": "sha256",
            "shard_size": null,
            "allow_symlinks": false,
            "ignore_paths": ["model.sig"],
            "single_file": false,
            "files": [
                {"path": "a.bin", "digest": digest("weights")},
                {"path": "sub/b.json", "digest": digest("{}")},
            ],
        })
    );
}

#[test]
fn malformed_and_forged_bundles_exit_3() {
    let scene = Scene::new(&FILES);
    let good = fs::read_to_string(scene.path("model/model.sig")).unwrap();
    let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let forged = bundle(&statement(&FILES), &stranger, json!({"publicKey": {}}));
    let evil = bundle(&statement(&[("../a", "")]), &scene.key, json!({"publicKey": {}}));
    let cases = [
        ("", 3),
        ("{}", 3),
        (good.trim_end_matches('}'), 3),
        (&forged, 3),
        (&evil, 3),
        (&good, 0),
    ];
    for (text, want) in cases {
        scene.write("model/model.sig", text);
        // A bundle that is named is shown as it was named; one that was looked for, where it was found.
        for (line, shown) in [
            ("inspect --public-key key.pub model/model.sig", "model/model.sig"),
            ("verify --public-key key.pub bundle model", "/model/model.sig"),
        ] {
            let outcome = scene.run(line);
            assert_eq!(outcome.code, want, "{line} {text}: {outcome:?}");
            if want != 0 {
                assert!(
                    outcome
                        .err
                        .starts_with(&format!("modelfs: the signature {shown}: ")),
                    "{outcome:?}"
                );
            }
        }
    }
    assert_eq!(scene.run("inspect --public-key key.pub model").code, 3);
    assert_eq!(scene.run("inspect --public-key key.pub gone.sig").code, 7);
    assert_eq!(
        scene.run("verify --public-key key.pub model/model.sig gone").code,
        7
    );
}

#[test]
fn verify_tells_all_that_is_wrong_and_the_gravest_gives_the_code() {
    let remedy = "restore it from where it came, or have it signed anew";
    let unsigned = "remove what is not signed, or have it signed too";
    type Change = fn(&Path);
    struct Case {
        name: &'static str,
        change: Change,
        options: &'static str,
        code: i32,
        lines: Vec<String>,
    }
    let differs = |found: &str| {
        format!(
            "a.bin [0..{}): content differs from its signed digest (signed sha256:{}, found sha256:{})",
            found.len(),
            HEXLOWER.encode(&sha256(b"weights")),
            HEXLOWER.encode(&sha256(found.as_bytes()))
        )
    };
    let summary = |counts: &str, remedy: &str| format!("model is not what was signed ({counts}): {remedy}.");
    let cases = [
        Case {
            name: "one byte",
            change: |model| fs::write(model.join("a.bin"), "weightz").unwrap(),
            options: "",
            code: 5,
            lines: vec![differs("weightz"), summary("1 differs", remedy)],
        },
        Case {
            name: "one byte more",
            change: |model| fs::write(model.join("a.bin"), "weights!").unwrap(),
            options: "",
            code: 5,
            lines: vec![differs("weights!"), summary("1 differs", remedy)],
        },
        Case {
            name: "missing",
            change: |model| fs::remove_file(model.join("a.bin")).unwrap(),
            options: "",
            code: 6,
            lines: vec!["a.bin: missing".to_owned(), summary("1 missing", remedy)],
        },
        Case {
            name: "a folder instead",
            change: |model| {
                fs::remove_file(model.join("a.bin")).unwrap();
                fs::create_dir(model.join("a.bin")).unwrap();
            },
            options: "",
            code: 6,
            lines: vec![
                "a.bin: not a regular file but a directory".to_owned(),
                summary("1 wrong-type", remedy),
            ],
        },
        Case {
            name: "a link instead",
            change: |model| {
                fs::rename(model.join("a.bin"), model.join("../a.bin")).unwrap();
                symlink("../a.bin", model.join("a.bin")).unwrap();
            },
            options: "",
            code: 6,
            lines: vec![
                "a.bin: a symbolic link, which is followed only with --allow-symlinks".to_owned(),
                summary("1 wrong-type", remedy),
            ],
        },
        Case {
            name: "a link that may be followed",
            change: |model| {
                fs::rename(model.join("a.bin"), model.join("../a.bin")).unwrap();
                symlink("../a.bin", model.join("a.bin")).unwrap();
            },
            options: "--allow_symlinks",
            code: 0,
            lines: vec![],
        },
        Case {
            name: "extra",
            change: |model| fs::write(model.join("x\u{1b}[2J"), "x").unwrap(),
            options: "",
            code: 6,
            lines: vec![
                "x\\u{1b}[2J: not signed".to_owned(),
                summary("1 unsigned", unsigned),
            ],
        },
        Case {
            name: "extra that is accepted",
            change: |model| fs::write(model.join("x"), "x").unwrap(),
            options: "--ignore_unsigned_files",
            code: 0,
            lines: vec![],
        },
        Case {
            name: "extra that is named",
            change: |model| fs::write(model.join("sub/x"), "x").unwrap(),
            options: "--ignore_paths ./sub/x --ignore-paths gone",
            code: 0,
            lines: vec![],
        },
        Case {
            name: "signed, and named as ignored",
            change: |model| fs::write(model.join("a.bin"), "weightz").unwrap(),
            options: "--ignore-paths a.bin --ignore-unsigned-files",
            code: 5,
            lines: vec![differs("weightz"), summary("1 differs", remedy)],
        },
        Case {
            name: "git's own files",
            change: |model| fs::write(model.join(".gitignore"), "x").unwrap(),
            options: "",
            code: 0,
            lines: vec![],
        },
        Case {
            name: "git's own files, wanted signed",
            change: |model| fs::write(model.join(".gitignore"), "x").unwrap(),
            options: "--no-ignore-git-paths",
            code: 6,
            lines: vec![
                ".gitignore: not signed".to_owned(),
                summary("1 unsigned", unsigned),
            ],
        },
        Case {
            name: "everything at once",
            change: |model| {
                fs::write(model.join("a.bin"), "weightz").unwrap();
                fs::remove_file(model.join("sub/b.json")).unwrap();
                fs::write(model.join("x"), "x").unwrap();
            },
            options: "",
            code: 5,
            lines: vec![
                differs("weightz"),
                "sub/b.json: missing".to_owned(),
                "x: not signed".to_owned(),
                summary("1 differs, 1 missing, 1 unsigned", remedy),
            ],
        },
    ];
    for case in cases {
        let scene = Scene::new(&FILES);
        (case.change)(&scene.path("model"));
        let line = format!("verify --public-key key.pub {} bundle model", case.options);
        let outcome = scene.run(&line);
        let lines: Vec<String> = case.lines.iter().map(|l| format!("modelfs: {l}\n")).collect();
        assert_eq!(
            (outcome.code, &outcome.err),
            (case.code, &lines.concat()),
            "{}",
            case.name
        );
        let outcome = scene.run(&format!("--json {line}"));
        let data: Value = serde_json::from_str(&outcome.out).unwrap();
        assert_eq!(
            (outcome.code, outcome.err.as_str()),
            (case.code, ""),
            "{}",
            case.name
        );
        let problems = data["problems"].as_array().map_or(0, Vec::len);
        assert_eq!(problems, case.lines.len().saturating_sub(1), "{}", case.name);
        if case.code == 0 {
            assert_eq!(data["files"], json!(2), "{data}");
        } else {
            assert_eq!(data["error"]["code"], json!(case.code), "{data}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_exits_7() {
    let scene = Scene::new(&FILES);
    fs::set_permissions(scene.path("model/a.bin"), Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(scene.path(""), Permissions::from_mode(0o755)).unwrap();
    let mut command = scene.command("verify --public-key key.pub bundle model");
    if rustix::process::geteuid().is_root() {
        // Root may read every file; nobody may not.
        command.uid(65534);
    }
    if let Err(e) = command.output() {
        println!("LEFT OUT: the command cannot be run as another user here: {e}");
        return;
    }
    assert_eq!(
        scene.outcome(command),
        Outcome {
            code: 7,
            out: String::new(),
            err: "modelfs: a.bin: Permission denied (os error 13)\n\
                  modelfs: model cannot be verified (1 unreadable): see to its permissions and its disk.\n"
                .to_owned(),
        }
    );
}

/// Whether models can be mounted here; says so when not.
fn can_mount() -> bool {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    if let Err(e) = &device {
        println!("LEFT OUT: /dev/fuse cannot be opened: {e}");
    }
    device.is_ok()
}

/// Undoes a mount when a test ends in whatever way.
struct Mounted<'a>(&'a Scene);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = self.0.command("unmount mnt").output();
    }
}

/// What a stream says until everybody has closed it, which must be soon.
fn read_to_end(mut stream: impl io::Read + Send + 'static) -> String {
    let (sender, text) = mpsc::channel();
    thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let _ = sender.send(text);
    });
    text.recv_timeout(Duration::from_secs(20))
        .expect("the stream is closed once the mount stands")
}

#[test]
fn a_background_mount_returns_when_it_serves_and_lets_go_of_its_caller() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(&FILES);
    fs::create_dir(scene.path("mnt")).unwrap();
    let scope = scene.path("model").display().to_string();
    scene.write(
        "home/.config/modelfs/policy.toml",
        &scene.policy(&scope, "../../../key.pub"),
    );
    let mut child = scene
        .command("mount --json --log-file log bundle ./model mnt")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _mounted = Mounted(&scene);
    // Both end only when the server, too, has closed them.
    let out = read_to_end(child.stdout.take().unwrap());
    let err = read_to_end(child.stderr.take().unwrap());
    assert_eq!((child.wait().unwrap().code(), err.as_str()), (Some(0), ""));
    let data: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(data["mountpoint"], json!(scene.path("mnt")));
    // It serves at once, with no waiting.
    assert_eq!(fs::read_to_string(scene.path("mnt/a.bin")).unwrap(), "weights");
    let status = scene.run("--json status mnt");
    let report: Value = serde_json::from_str(&status.out).unwrap();
    assert_eq!(
        (status.code, &report["files"]["total"]),
        (0, &json!(2)),
        "{report}"
    );
    let pid = report["pid"].as_u64().unwrap();
    let server = PathBuf::from(format!("/proc/{pid}"));
    assert_eq!(fs::read_link(server.join("cwd")).unwrap(), Path::new("/"));
    for fd in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(
            fs::read_link(server.join(fd)).unwrap(),
            Path::new("/dev/null"),
            "{fd}"
        );
    }
    assert_eq!(scene.run("unmount mnt").code, 0);
    let gone = Instant::now() + Duration::from_secs(10);
    while server.exists() && Instant::now() < gone {
        thread::sleep(Duration::from_millis(20));
    }
    let log = fs::read_to_string(scene.path("log")).unwrap();
    let here = scene.path("").display().to_string();
    let lines: Vec<String> = log.lines().map(|l| l.replace(&here, "/")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines[0].contains("Z info: mounted /model on /mnt, 2 files, 9 B, signed by P-256 key ")
            && lines[0].contains(" at an unproven time, manifest sha256:"),
        "{log}"
    );
    assert!(lines[1].ends_with("Z info: unmounted /mnt"), "{log}");
    assert_eq!(
        scene.run("unmount mnt"),
        failed(
            8,
            "mnt: no model is mounted here; findmnt -t fuse.modelfs lists them"
        )
    );
}

#[test]
fn a_server_whose_caller_has_gone_undoes_its_mount() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(&FILES);
    fs::create_dir(scene.path("mnt")).unwrap();
    let (reader, writer) = io::pipe().unwrap();
    // Nobody will ever hear that it serves.
    drop(reader);
    let mut command =
        scene.command("--ready-on-stdin mount --log-file log --public-key key.pub bundle model mnt");
    command.stdin(writer);
    let outcome = scene.outcome(command);
    assert_eq!((outcome.code, outcome.err.as_str()), (8, ""), "{outcome:?}");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !table.contains(&scene.path("mnt").display().to_string()),
        "{table}"
    );
    let log = fs::read_to_string(scene.path("log")).unwrap();
    assert!(
        log.contains("the server cannot go into the background (Broken pipe"),
        "{log}"
    );
    assert!(log.ends_with("unmounted again\n"), "{log}");
}

#[test]
fn a_refused_mount_says_why_on_the_callers_streams_and_leaves_nothing() {
    let cases: [(&str, &str, i32); 7] = [
        ("", "a missing mount point", 8),
        ("--policy gone.toml", "a missing policy", 4),
        ("--public-key other.pub", "another key", 3),
        ("--public-key key.pub --unsigned refuse", "an unsigned file", 6),
        ("--public-key key.pub --verify eager", "a byte that differs", 5),
        ("--public-key key.pub", "a missing file", 6),
        ("--public-key key.pub --max-file-size 1", "a limit", 6),
    ];
    for (options, what, code) in cases {
        for foreground in ["", "--foreground"] {
            let scene = Scene::new(&FILES);
            let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            scene.write("other.pub", &stranger.public_key_pem());
            let mut options = options;
            match what {
                "a missing mount point" => options = "--public-key key.pub",
                "an unsigned file" => scene.write("model/x", "x"),
                "a byte that differs" => scene.write("model/a.bin", "weightz"),
                "a missing file" => fs::remove_file(scene.path("model/a.bin")).unwrap(),
                _ => {}
            }
            if code != 8 {
                fs::create_dir(scene.path("mnt")).unwrap();
            }
            let outcome = scene.run(&format!("mount {options} {foreground} bundle model mnt"));
            assert_eq!(
                (outcome.code, outcome.out.as_str()),
                (code, ""),
                "{what}: {outcome:?}"
            );
            let last = outcome.err.lines().last().unwrap_or_default();
            assert!(
                last.starts_with("modelfs: ") && last.ends_with('.'),
                "{what}: {outcome:?}"
            );
            let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
            let mountpoint = scene.path("mnt").display().to_string();
            assert!(!table.contains(&mountpoint), "{what}");
            let json = scene.run(&format!("--json mount {options} {foreground} bundle model mnt"));
            let data: Value = serde_json::from_str(&json.out).unwrap();
            assert_eq!(
                (json.code, json.err.as_str(), &data["error"]["code"]),
                (code, "", &json!(code)),
                "{what}"
            );
        }
    }
}

#[test]
fn background_verification_is_done_without_a_reader() {
    if !can_mount() {
        return;
    }
    let scene = Scene::new(&FILES);
    scene.write("model/sub/b.json", "[]");
    fs::create_dir(scene.path("mnt")).unwrap();
    let outcome = scene.run("mount --verify background --log-file log --public-key key.pub bundle model mnt");
    assert_eq!(outcome.code, 0, "{outcome:?}");
    let _mounted = Mounted(&scene);
    let until = Instant::now() + Duration::from_secs(20);
    let report = loop {
        let status = scene.run("--json status mnt");
        let report: Value = serde_json::from_str(&status.out).unwrap();
        if report["files"]["unverified"] == json!(0) || Instant::now() > until {
            break report;
        }
        thread::sleep(Duration::from_millis(50));
    };
    let files = &report["files"];
    assert_eq!(
        (&files["verified"], &files["rejected"]),
        (&json!(1), &json!(1)),
        "{report}"
    );
}

#[test]
fn inspect_judges_our_vectors_as_expected() {
    let Some(vectors) = shared::vectors("oms") else {
        return;
    };
    let manifest = shared::read_json(vectors.join("manifest.json"));
    let scene = Scene::new(&FILES);
    let mut count = 0;
    for vector in manifest["vectors"].as_array().unwrap() {
        let method = vector["method"].as_str().unwrap();
        let basis = vector["basis"].as_str().unwrap();
        if vector.get("license").is_some_and(|l| !l.is_null()) || method == "sigstore" {
            continue;
        }
        let dir = vectors.join(vector["dir"].as_str().unwrap());
        let mut command = scene.command("inspect");
        if method == "key" {
            command
                .arg("--public-key")
                .arg(dir.join(vector["trust"]["public_key"].as_str().unwrap()));
        }
        for file in vector["trust"]["cert_chain"].as_array().into_iter().flatten() {
            command
                .arg("--certificate-chain")
                .arg(dir.join(file.as_str().unwrap()));
        }
        if vector["expected"]["legacy"] == json!(true) {
            command.arg("--allow-legacy");
        }
        command.arg(dir.join(vector["bundle"].as_str().unwrap()));
        let outcome = scene.outcome(command);
        let want = if vector["expected"]["bundle"] == json!("accept") {
            0
        } else {
            3
        };
        let defensible = basis.starts_with("implementation-defined") && matches!(outcome.code, 0 | 3);
        assert!(
            outcome.code == want || defensible,
            "{}: {outcome:?}",
            vector["id"]
        );
        let safe = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control());
        assert!(
            safe(&outcome.out) && safe(&outcome.err),
            "{}: {outcome:?}",
            vector["id"]
        );
        count += 1;
    }
    assert!(count > 400, "only {count} vectors were run");
}
