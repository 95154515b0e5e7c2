//! Lines of mount(8) and what becomes of them.

use super::*;
use crate::cli::args::Arguments;
use clap::CommandFactory as _;
use clap::Parser as _;

fn words(line: &str) -> Vec<OsString> {
    line.split(' ').map(OsString::from).collect()
}

/// What `mount.modelfs` makes of a line, without what root adds.
fn translated(line: &str) -> Result<String, String> {
    let arguments = words(&format!("mount.modelfs {line}"));
    let translated = translate(&arguments, Personality::MountHelper, &Arguments::command());
    let translated = translated.map_err(|failure| failure.sentence())?;
    let text: Vec<_> = translated.iter().map(|word| word.to_string_lossy()).collect();
    Ok(text.join(" ").replace(" --allow-other", ""))
}

#[test]
fn who_asks_is_told_by_name_and_by_what_no_command_looks_like() {
    use Personality::Command as Ours;
    use Personality::FuseProgram;
    use Personality::MountHelper;
    let cases = [
        ("/sbin/mount.modelfs /m /mnt", MountHelper),
        ("mount.fuse.modelfs /m /mnt -o rw", MountHelper),
        ("mount.modelfs", MountHelper),
        ("modelfs /m /mnt -o rw", FuseProgram),
        ("modelfs m /mnt -o rw", FuseProgram),
        ("modelfs -o rw /m /mnt", FuseProgram),
        ("modelfs ./m /mnt", FuseProgram),
        ("modelfs mount bundle /m /mnt", Ours),
        ("modelfs mount -o rw /m /mnt", Ours),
        ("modelfs unmount /mnt", Ours),
        ("modelfs --json status", Ours),
        ("modelfs moutn bundle /m /mnt", Ours),
        ("modelfs help mount", Ours),
        ("modelfs /mnt", Ours),
        ("modelfs", Ours),
    ];
    for (line, want) in cases {
        assert_eq!(
            Personality::of(&words(line), &Arguments::command()),
            want,
            "{line}"
        );
    }
}

#[test]
fn options_become_arguments() {
    let cases = [
        ("/m /mnt", "mount -- /m/model.sig /m /mnt"),
        (
            "/m /mnt -n -v -t fuse.modelfs -o rw",
            "mount -- /m/model.sig /m /mnt",
        ),
        (
            "-o bundle=/s,policy=/p,verify=eager /m /mnt",
            "mount --policy=/p --verify=eager -- /s /m /mnt",
        ),
        (
            "/m /mnt -o public_key=/a,public-key=/b -oallow_symlinks",
            "mount --public-key=/a --public-key=/b --allow-symlinks -- /m/model.sig /m /mnt",
        ),
        // mount(8) puts the command line's options behind those of fstab.
        (
            "/m /mnt -o verify=lazy,memory=1G,verify=eager",
            "mount --memory=1G --verify=eager -- /m/model.sig /m /mnt",
        ),
        ("/m /mnt -o exec", "mount -- /m/model.sig /m /mnt"),
        (
            "/m /mnt -o allow_exec,noexec",
            "mount --allow-exec -- /m/model.sig /m /mnt",
        ),
        ("/m /mnt -f", "mount --fake -- /m/model.sig /m /mnt"),
        ("/m /mnt -sfo colour=red", "mount --fake -- /m/model.sig /m /mnt"),
        (
            "/m /mnt -o policy=/a\\,b",
            "mount --policy=/a,b -- /m/model.sig /m /mnt",
        ),
        (
            "/m /mnt -o policy=\"/a,b\",ro",
            "mount --policy=/a,b -- /m/model.sig /m /mnt",
        ),
        (
            "/m /mnt -o ,,policy=/a=b,",
            "mount --policy=/a=b -- /m/model.sig /m /mnt",
        ),
        ("-- -m /mnt", "mount -- -m/model.sig -m /mnt"),
        ("--help", "mount --help"),
        ("-V", "--version"),
    ];
    for (line, want) in cases {
        let got = translated(line);
        assert_eq!(got.as_deref(), Ok(want), "{line}");
        let full = words(&format!("modelfs {want}"));
        let parsed = Arguments::try_parse_from(full);
        assert!(
            parsed.is_ok() || want.ends_with("--help") || want.ends_with("--version"),
            "{parsed:?}"
        );
    }
}

#[test]
fn what_mount_says_for_every_file_system_means_nothing() {
    let system = "defaults,auto,noauto,user,nouser,users,owner,group,_netdev,nofail,relatime,noatime,rw,ro,dev,suid,\
                  nodev,nosuid,noexec,user=me,comment=x,x-systemd.automount,x-systemd.mount-timeout=9,X-mount.mkdir,\
                  fsname=f,subtype=s,default_permissions,noallow_other";
    let want = "mount -- /m/model.sig /m /mnt";
    for option in system.split(',').chain([system]) {
        assert_eq!(
            translated(&format!("/m /mnt -o {option}")).as_deref(),
            Ok(want),
            "{option}"
        );
    }
}

#[test]
fn every_option_of_mount_is_one_here_in_both_spellings() {
    let program = Arguments::command();
    let mount = program.find_subcommand("mount").unwrap();
    let mut seen = 0;
    for arg in mount
        .get_arguments()
        .filter(|arg| !arg.is_positional() && !arg.is_hide_set())
    {
        let long = arg.get_long().unwrap();
        for name in [long.to_owned(), long.replace('-', "_")] {
            let option = if takes_value(arg) {
                format!("{name}=1")
            } else {
                name
            };
            let got = translated(&format!("/m /mnt -o {option}")).unwrap();
            assert!(
                long == "allow-other" || got.contains(&format!("--{long}")),
                "{option}: {got}"
            );
            seen += 1;
        }
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        ("/m", "expected a model and a directory"),
        ("/m /mnt /x", "found 3 arguments"),
        ("/m /mnt -x", "-x: there is no such flag"),
        ("/m /mnt --verify=eager", "--verify=eager: there is no such flag"),
        ("/m /mnt -o", "-o needs a value"),
        ("/m /mnt -o colour=red", "-o colour: there is no such option"),
        ("/m /mnt -o fake", "-o fake: there is no such option"),
        ("/m /mnt -o policy", "-o policy: needs a value, policy=FILE"),
        ("/m /mnt -o bundle=", "-o bundle: needs a value, bundle=FILE"),
        (
            "/m /mnt -o allow_symlinks=yes",
            "-o allow_symlinks: takes no value",
        ),
        (
            "/m /mnt -o remount,ro",
            "-o remount: a mounted model does not change",
        ),
        ("/m /mnt -o auto_unmount", "-o auto_unmount: not for a model"),
        ("/m /mnt -o policy=\"/a", "a quotation mark is missing"),
        ("/m /mnt -t ext4", "-t ext4: this mounts models only"),
        (
            "/m /mnt -N /proc/1/ns/mnt",
            "nsenter --mount=/proc/1/ns/mnt mount",
        ),
    ];
    for (line, want) in cases {
        let got = translated(line).expect_err(line);
        assert!(got.contains(want), "{line}: {got}");
    }
    // Sloppy means unknown ones, not wrong ones.
    assert!(translated("/m /mnt -s -o policy").is_err());
}
