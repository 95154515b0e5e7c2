//! A mount by policy: `modelfs mount bundle ./model /mnt/model` as it stands, once a policy says whom to
//! trust.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::path::PathBuf;

use crate::small_model;
use crate::support;
use crate::support::Outcome;
use crate::support::modelfs_command;
use crate::support::mounted::mount_entry;
use crate::support::mounted::new_mount_point;
use crate::support::mounted::unmount;
use crate::support::run;
use crate::support::signing::Layout;
use crate::support::signing::Signed;

/// A model with its bundle inside, and a policy of the user's that trusts its key for `scope`.
struct Scene {
    model: Signed,
    config: PathBuf,
}

impl Scene {
    fn new(scope: impl FnOnce(&Path) -> String) -> Self {
        let mut model = small_model(Layout::FILES);
        model.bundle_inside();
        let config = model.dir().join("config");
        let own = config.join("modelfs");
        fs::create_dir_all(&own).unwrap();
        fs::rename(model.dir().join("signer.pem"), own.join("lab.pub")).unwrap();
        let scope = scope(&model.model.canonicalize().unwrap());
        let policy = format!(
            "version = 1\ndefault = \"reject\"\nroots.key.lab = {{ pem = \"lab.pub\" }}\n\n\
             [[rule]]\nscope = \"{scope}\"\nsigners = [{{ method = \"key\", key = \"lab\" }}]\n"
        );
        fs::write(own.join("policy.toml"), policy).unwrap();
        Self { model, config }
    }

    fn policy(&self) -> PathBuf {
        self.config.join("modelfs/policy.toml")
    }

    /// Mounts with nothing but the three words, from the directory above the model.
    fn mount(&self, point: &Path) -> Outcome {
        run(modelfs_command()
            .args(["mount", "bundle", "./model"])
            .arg(point)
            .current_dir(self.model.dir())
            .env("XDG_CONFIG_HOME", &self.config))
    }

    fn refused(&self, code: i32, said: &str) {
        let point = new_mount_point(self.model.dir());
        let outcome = self.mount(&point);
        assert_eq!(outcome.code, Some(code), "{outcome:?}");
        assert!(outcome.stderr.contains(said), "{said}: {outcome:?}");
        assert_eq!(mount_entry(&point), None);
    }
}

#[test]
fn with_a_policy_three_words_are_enough() {
    if !support::can_mount() {
        return;
    }
    let scene = Scene::new(|model| model.display().to_string());
    let point = new_mount_point(scene.model.dir());
    let outcome = scene.mount(&point);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(fs::read(point.join("weights.bin")).unwrap() == scene.model.content("weights.bin"));
    assert_eq!(unmount(&point).code, Some(0));
}

#[test]
fn a_model_that_no_rule_covers_is_refused() {
    let scene = Scene::new(|_| "/srv/elsewhere/**".to_owned());
    scene.refused(4, "rule");
}

#[test]
fn a_policy_that_others_can_write_is_refused() {
    let scene = Scene::new(|model| model.display().to_string());
    fs::set_permissions(scene.policy(), fs::Permissions::from_mode(0o666)).unwrap();
    scene.refused(4, "policy.toml");
}

#[test]
fn a_policy_inside_the_model_is_refused() {
    let mut scene = Scene::new(|model| model.display().to_string());
    let inside = scene.model.source("modelfs");
    fs::rename(scene.config.join("modelfs"), &inside).unwrap();
    scene.config = scene.model.model.clone();
    scene.refused(4, "inside the model");
}

#[test]
fn a_policy_with_a_key_it_does_not_know_is_refused() {
    let scene = Scene::new(|model| model.display().to_string());
    let text = fs::read_to_string(scene.policy()).unwrap();
    fs::write(scene.policy(), format!("verification = \"off\"\n{text}")).unwrap();
    scene.refused(4, "verification");
}
