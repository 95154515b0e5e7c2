//! Bytes as a policy file, beside a key and a chain that it may name.
//!
//! 1. Nothing panics, and every refusal is a message that is safe to print.
//! 2. A policy that loads trusts somebody in every rule that is found, and a rule is found only for a model that its
//!    scope matches.
//! 3. It says the same when it is read again.

#![cfg_attr(fuzzing, no_main)]

#[cfg(fuzzing)]
#[allow(dead_code, reason = "the other targets use the rest of it")]
mod common;

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use modelfs::policy::ModelLocation;
use modelfs::policy::Policy;
use tempfile::TempDir;

use crate::common::check_message;
use crate::common::root;

struct Place {
    policy: PathBuf,
    models: Vec<ModelLocation>,
    _dir: TempDir,
}

thread_local! {
    static PLACE: LazyLock<Place> = const { LazyLock::new(Place::new) };
}

impl Place {
    fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let tests = root().join("tests");
        fs::copy(tests.join("sample/model.pub"), path("lab.pub")).expect("the sample's key");
        let chain = "vectors-own/certificate/cert-expired-leaf-0/trust/ca0.pem";
        fs::copy(tests.join(chain), path("ca.pem")).expect("a chain");
        let models = ["srv/models/a", "srv/models/a/b", "srv/other"].map(|name| {
            fs::create_dir_all(path(name)).expect("a model");
            ModelLocation::of_model(&path(name)).expect("a model")
        });
        Self {
            policy: path("policy.toml"),
            models: models.into(),
            _dir: dir,
        }
    }

    /// The policy with this folder for `DIR`, so that a scope can meet a model.
    fn write(&self, text: &[u8]) {
        let dir = self
            .policy
            .parent()
            .expect("it is in a folder")
            .to_str()
            .expect("UTF-8");
        let text = match std::str::from_utf8(text) {
            Ok(text) => text.replace("DIR", dir).into_bytes(),
            Err(_) => text.to_vec(),
        };
        fs::write(&self.policy, text).expect("room for a policy");
    }
}

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(init: common::plant_seeds("policy"), |data: &[u8]| check(data));

pub(crate) fn check(data: &[u8]) {
    PLACE.with(|place| {
        place.write(data);
        // The length chooses, so that an input means the same whenever it comes.
        let model = place
            .models
            .get(data.len() % place.models.len())
            .expect("one of them");
        let policy = match Policy::load(&place.policy, model) {
            Ok(policy) => policy,
            Err(error) => return check_message(&error),
        };
        let again = Policy::load(&place.policy, model).expect("it was read before");
        match (policy.rule_for(model), again.rule_for(model)) {
            (Ok(rule), Ok(same)) => {
                assert!(rule.scope().matches(model.path()));
                assert!(!rule.anchors().is_empty());
                assert_eq!(rule.scope().to_string(), same.scope().to_string());
            }
            (Err(error), Err(same)) => {
                check_message(&error);
                assert_eq!(error.to_string(), same.to_string());
            }
            (a, b) => panic!("{:?} and {:?}", a.is_ok(), b.is_ok()),
        }
    });
}
