//! Policies that are understood as a whole, and everything that refuses one.

use super::error::scope_of;
use super::*;
use crate::path::Escaped;
use std::error::Error;
use std::fs;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;

/// A folder with a policy and what it names, and a model outside of it.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new(policy: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let scene = Self { dir };
        for folder in [
            "etc",
            "etc/keys",
            "models",
            "models/acme",
            "models/acme/a",
            "models/other",
        ] {
            fs::create_dir(scene.path(folder)).unwrap();
        }
        scene.write("etc/keys/lab.pub", &key_pem());
        for name in ["etc/acme-root.pem", "etc/acme-issuer.pem"] {
            scene.write(name, &root_pem());
        }
        scene.write(
            "etc/policy.toml",
            &policy.replace("$", scene.path("models").to_str().unwrap()),
        );
        scene
    }

    fn path(&self, name: &str) -> PathBuf {
        fs::canonicalize(self.dir.path()).unwrap().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), Permissions::from_mode(0o644)).unwrap();
    }

    fn model(&self, name: &str) -> ModelLocation {
        ModelLocation::of_model(&self.path("models").join(name)).unwrap()
    }

    fn load(&self) -> Result<Policy, PolicyError> {
        Policy::load(&self.path("etc/policy.toml"), &self.model("acme"))
    }

    /// A message with its cause, and with this scene's folder taken out.
    fn plain(&self, error: &PolicyError) -> String {
        let text = match error.source() {
            Some(cause) => format!("{error}: {cause}"),
            None => error.to_string(),
        };
        text.replace(&self.path("").display().to_string(), "/")
    }
}

fn key_pem() -> String {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    pair.public_key_pem()
}

fn root_pem() -> String {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.self_signed(&pair).unwrap().pem()
}

const HEAD: &str = "version = 1\ndefault = \"reject\"\n";
const ROOTS: &str = "[roots.key.lab]\npem = \"keys/lab.pub\"\n\
                     [roots.ca.acme]\ncerts = [\"acme-root.pem\", \"acme-issuer.pem\"]\n";

fn rule(scope: &str, signers: &str) -> String {
    format!("[[rule]]\nscope = \"{scope}\"\nsigners = [{signers}]\n")
}

const PUBLIC: &str = "[roots.sigstore.public]\ntrusted_root = \"production\"\n";

fn keyless(identity: &str, issuer: &str) -> String {
    let signer = format!(
        "{{ method = \"sigstore\", root = \"public\", identity = \"{identity}\", issuer = \"{issuer}\" }}"
    );
    rule("/a", &signer)
}

const LAB: &str = "{ method = \"key\", key = \"lab\" }";

#[test]
fn a_full_policy_gives_the_most_specific_rule() {
    let acme = "{ method = \"certificate\", ca = \"acme\", identity = \"uri:spiffe://acme/signer\", time = \"not-before\" }";
    let legacy = rule("$/other", LAB) + "tsa = [\"acme\", \"acme\"]\nallow_legacy = true\n";
    let tsa = "[roots.tsa.acme]\ncerts = [\"acme-root.pem\"]\n";
    let scene = Scene::new(
        &[
            HEAD,
            ROOTS,
            PUBLIC,
            tsa,
            &keyless("https://b.example/*", "https://id.b.example"),
            &rule("$/acme/**", LAB),
            &rule("$/acme/a", &format!("{LAB}, {acme}")),
            &legacy,
        ]
        .concat(),
    );
    let policy = scene.load().unwrap();
    assert_eq!(policy.path(), scene.path("etc/policy.toml"));
    for (model, scope) in [
        ("acme", "/models/acme/**"),
        ("acme/a", "/models/acme/a"),
        ("other", "/models/other"),
    ] {
        let rule = policy.rule_for(&scene.model(model)).unwrap();
        let found = rule.scope().to_string();
        assert_eq!(
            found.replace(&scene.path("").display().to_string(), "/"),
            scope,
            "{model}"
        );
        // Whom they accept is for tests that sign: tests/cli.rs.
        assert!(!rule.anchors().is_empty());
    }
}

#[test]
fn a_model_that_no_rule_covers_is_refused() {
    let scene = Scene::new(&[HEAD, ROOTS, &rule("$/acme/*", LAB)].concat());
    let policy = scene.load().unwrap();
    assert!(policy.rule_for(&scene.model("acme/a")).is_ok());
    let error = policy.rule_for(&scene.model("acme")).unwrap_err();
    assert_eq!(
        scene.plain(&error),
        "no rule of the policy /etc/policy.toml covers /models/acme: add a [[rule]] with scope = \"/models/acme\" \
         and the signers to accept"
    );
    let empty = Scene::new(HEAD);
    assert!(matches!(
        empty.load().unwrap().rule_for(&empty.model("acme")),
        Err(PolicyError::NoRule { .. })
    ));
}

#[test]
fn a_link_does_not_choose_the_rule() {
    let acme = rule("$/acme/**", LAB);
    let other = rule("$/other", LAB);
    let scene = Scene::new(&[HEAD, ROOTS, &acme, &other].concat());
    let policy = scene.load().unwrap();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, scene.path(name)).unwrap();
    };
    link("../other", "models/acme/moved");
    link("acme/moved", "models/unruled");
    link("a", "models/acme/current");
    link("other", "models/alias");
    for model in ["acme/current", "acme/../other", "alias", "acme/a"] {
        assert!(policy.rule_for(&scene.model(model)).is_ok(), "{model}");
    }
    for model in ["acme/moved", "unruled", "acme/moved/../other"] {
        let error = policy.rule_for(&scene.model(model)).unwrap_err();
        assert!(
            matches!(error, PolicyError::LinkBetweenRules(_)),
            "{model}: {error}"
        );
    }
    let error = policy.rule_for(&scene.model("unruled")).unwrap_err();
    assert_eq!(
        scene.plain(&error),
        "/models/acme/moved leads to /models/other through a link, and the policy /etc/policy.toml has one rule for \
         /models/acme/** and another for /models/other: name the model without the link, if it is the one that you want"
    );
}

#[test]
fn a_proposed_scope_is_the_models_path_and_no_pattern() {
    let proposed = |path: &[u8]| {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        scope_of(path).map(str::to_owned)
    };
    for path in ["/srv/a", "/", "/srv/a b/\u{e4}'[?]"] {
        assert_eq!(proposed(path.as_bytes()).as_deref(), Some(path));
        let scope = Scope::parse(path).unwrap();
        assert!(scope.matches(Path::new(path)));
    }
    for path in [
        b"/srv/**".as_slice(),
        b"/srv/a*/b",
        b"/srv/\"a",
        b"/srv/a\\n",
        b"/srv/\xff",
        "/srv/\u{9b}".as_bytes(),
        b"/srv/a\nb",
    ] {
        assert_eq!(proposed(path), None, "{}", Escaped(path));
    }
    let error = PolicyError::NoRule {
        policy: "/p".into(),
        model: "/srv/**".into(),
    };
    assert_eq!(
        error.to_string(),
        "no rule of the policy /p covers /srv/**: no scope can name it alone, rename it first"
    );
}

#[test]
fn what_is_not_understood_refuses_the_file() {
    struct Case<'a> {
        text: String,
        want: &'a str,
    }
    let case = |parts: &[&str], want: &'static str| Case {
        text: parts.concat(),
        want,
    };
    let cert = |rest: &str| {
        rule(
            "/a",
            &format!("{{ method = \"certificate\", ca = \"acme\"{rest} }}"),
        )
    };
    let cases = [
        case(&[""], "line 1: missing field `version`"),
        case(
            &["version = 2\nfuture = true\n"],
            "it has version 2, this modelfs knows version 1",
        ),
        case(
            &["version = \"1\"\ndefault = \"reject\"\n"],
            "line 1: invalid type: string \"1\", expected i64",
        ),
        case(&["version = 1\n"], "line 1: missing field `default`"),
        case(
            &["version = 1\ndefault = \"accept\"\n"],
            "line 2: unknown variant `accept`, expected `reject`",
        ),
        case(
            &[HEAD, "defualt = 1\n"],
            "line 3: unknown field `defualt`, expected one of `version`, `default`, `roots`, `rule`",
        ),
        case(
            &[HEAD, "[roots.sigstor]\n"],
            "line 3: unknown field `sigstor`, expected one of `key`, `ca`, `sigstore`, `tsa`",
        ),
        case(
            &[HEAD, "[roots.sigstore.a]\n"],
            "line 3: missing field `trusted_root`",
        ),
        case(
            &[HEAD, "[roots.sigstore.a]\ntrusted_root = \"policy.toml\"\n"],
            "[roots.sigstore.a] is of no use: it is not a Sigstore trusted_root.json",
        ),
        case(
            &[HEAD, "[roots.tsa.a]\ncerts = [\"policy.toml\"]\n"],
            "[roots.tsa.a] is of no use: no PEM block: expected -----BEGIN CERTIFICATE-----",
        ),
        case(
            &[HEAD, ROOTS, &rule("/a", LAB), "tsa = [\"acme\"]\n"],
            "the rule for /a names the tsa acme, but there is no [roots.tsa.acme]",
        ),
        case(
            &[HEAD, &keyless("a@b.example", "https://b.example")],
            "the rule for /a names the sigstore public, but there is no [roots.sigstore.public]",
        ),
        case(
            &[HEAD, PUBLIC, &keyless("alice", "https://b.example")],
            "the rule for /a names the identity \"alice\": the identity is neither an email address nor a URI: begin it with email: or uri:",
        ),
        case(
            &[HEAD, PUBLIC, &keyless("https://*/a", "https://b.example")],
            "the rule for /a names the identity \"https://*/a\": a * may stand only before the @ of an email address, or after the host of a URI",
        ),
        case(
            &[HEAD, PUBLIC, &keyless("a@b.example", "")],
            "the rule for /a has an empty issuer: name the identity provider's URL",
        ),
        case(
            &[
                HEAD,
                PUBLIC,
                &rule(
                    "/a",
                    "{ method = \"sigstore\", root = \"public\", identity = \"a@b\" }",
                ),
            ],
            "line 7: missing field `issuer`",
        ),
        case(
            &[HEAD, "[roots.key.lab]\npem = \"keys/lab.pub\"\nhint = \"\"\n"],
            "line 5: unknown field `hint`, expected `pem`",
        ),
        case(&[HEAD, ROOTS, ROOTS], "line 7: duplicate key"),
        case(&[HEAD, "default = \"reject\"\n"], "line 3: duplicate key"),
        case(
            &[HEAD, ROOTS, &rule("/a", LAB), "threshold = 2\n"],
            "line 10: unknown field `threshold`, expected one of `scope`, `signers`, `tsa`, `allow_legacy`",
        ),
        case(
            &[HEAD, "[[rule]]\nscope = \"/a\"\n"],
            "line 3: missing field `signers`",
        ),
        case(
            &[HEAD, &rule("/a", "")],
            "the rule for /a has no signers: name one, or remove the rule",
        ),
        case(
            &[HEAD, ROOTS, &rule("a/*", LAB)],
            "the scope \"a/*\": a scope begins with `/`",
        ),
        case(
            &[HEAD, &rule("/a", LAB)],
            "the rule for /a names the key lab, but there is no [roots.key.lab]",
        ),
        case(
            &[HEAD, &cert(", identity = \"dns:a\"")],
            "the rule for /a names the ca acme, but there is no [roots.ca.acme]",
        ),
        case(&[HEAD, ROOTS, &cert("")], "line 9: missing field `identity`"),
        case(
            &[HEAD, ROOTS, &cert(", identity = \"dns:a\", time = \"ever\"")],
            "line 9: unknown variant `ever`, expected `now` or `not-before`",
        ),
        case(
            &[HEAD, ROOTS, &cert(", identity = \"dns:a\", eku = \"any\"")],
            "line 9: unknown field `eku`, expected one of `ca`, `identity`, `time`",
        ),
        case(
            &[HEAD, &rule("/a", "{ method = \"keyless\" }")],
            "line 5: unknown variant `keyless`, expected one of `key`, `certificate`, `sigstore`",
        ),
        case(
            &[HEAD, &rule("/a", "{ key = \"lab\" }")],
            "line 5: missing field `method`",
        ),
        case(
            &[HEAD, "[roots.ca.acme]\ncerts = []\n"],
            "[roots.ca.acme] is of no use: no PEM block: expected -----BEGIN CERTIFICATE-----",
        ),
        case(
            &[HEAD, "[roots.key.lab]\npem = \"acme-root.pem\"\n"],
            "[roots.key.lab] is of no use: expected a PEM block PUBLIC KEY, found CERTIFICATE",
        ),
        case(
            &[HEAD, "[roots.ca.acme]\ncerts = [\"policy.toml\"]\n"],
            "[roots.ca.acme] is of no use: no PEM block: expected -----BEGIN CERTIFICATE-----",
        ),
        case(
            &[HEAD, ROOTS, &cert(", identity = \"acme\"")],
            "the rule for /a names the identity \"acme\": the identity does not begin with subject:, email:, uri:, dns: or spki:",
        ),
        case(
            &[
                HEAD,
                ROOTS,
                &rule("/a/**", LAB),
                &rule("/b", LAB),
                &rule("/a/*", LAB),
            ],
            "the rules for /a/** and /a/* match the same models and neither is more specific: merge them, or name one scope more exactly",
        ),
        case(
            &[HEAD, ROOTS, &rule("/a", LAB), &rule("/a", LAB)],
            "the rules for /a and /a match the same models and neither is more specific: merge them, or name one scope more exactly",
        ),
        case(
            &[HEAD, "\"\\u001b[2J\" = 1\n"],
            "line 3: unknown field `\\u{1b}[2J`, expected one of `version`, `default`, `roots`, `rule`",
        ),
    ];
    for Case { text, want } in cases {
        let scene = Scene::new(&text);
        let error = scene.load().unwrap_err();
        assert_eq!(
            scene.plain(&error),
            format!("policy /etc/policy.toml refused: {want}"),
            "{text}"
        );
    }
}

#[test]
fn bytes_that_are_not_text_and_bottomless_nesting_refuse_the_file() {
    let scene = Scene::new("");
    let deep = [HEAD.as_bytes(), b"a = ", "[".repeat(500_000).as_bytes()].concat();
    for text in [&[HEAD.as_bytes(), b"# \xff\n"].concat(), &deep] {
        fs::write(scene.path("etc/policy.toml"), text).unwrap();
        let error = scene.load().unwrap_err();
        let PolicyError::Content { fault, .. } = &error else {
            panic!("{error}");
        };
        assert!(matches!(**fault, Fault::Toml { line: Some(3), .. }), "{error}");
    }
}

#[test]
fn the_policy_and_each_file_it_names_must_be_protected() {
    for name in ["etc/policy.toml", "etc/keys/lab.pub", "etc/acme-issuer.pem"] {
        let scene = Scene::new(&[HEAD, ROOTS].concat());
        assert!(scene.load().is_ok());
        fs::set_permissions(scene.path(name), Permissions::from_mode(0o664)).unwrap();
        let error = scene.load().unwrap_err();
        let who = if name == "etc/policy.toml" {
            "policy"
        } else {
            "policy /etc/policy.toml"
        };
        assert_eq!(
            scene.plain(&error),
            format!(
                "{who} refused: /{name} is not safe to trust: others may write to it (mode 0664), run chmod go-w /{name}"
            )
        );
    }
}

#[test]
fn a_policy_inside_the_model_or_naming_files_there_is_refused() {
    let scene = Scene::new(&[HEAD, "[roots.key.lab]\npem = \"../models/acme/lab.pub\"\n"].concat());
    scene.write("models/acme/lab.pub", "");
    let error = scene.load().unwrap_err();
    assert_eq!(
        scene.plain(&error),
        "policy /etc/policy.toml refused: /etc/../models/acme/lab.pub lies inside the model /models/acme, \
         whose writer would choose what to trust: keep it elsewhere"
    );
    let within = ModelLocation::of_model(&scene.path("etc")).unwrap();
    let error = Policy::load(&scene.path("etc/policy.toml"), &within).unwrap_err();
    assert!(
        matches!(error, PolicyError::File(FileError::InsideModel { .. })),
        "{error}"
    );
}
