//! Manual pages and completions: made from the command line's definition, and whole.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::pages::COMPLETIONS;
use crate::pages::PAGES;
use crate::pages::errors;
use crate::pages::write_all;
use crate::support::notice;
use crate::support::run;

fn page(directory: &Path, name: &str) -> String {
    let text = fs::read_to_string(directory.join(name)).unwrap();
    // As it is read, not as roff writes it.
    text.replace("\\-", "-")
        .replace("\\fB", "")
        .replace("\\fI", "")
        .replace("\\fP", "")
        .replace("\\fR", "")
}

#[test]
fn the_pages_name_every_option_command_and_error() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path()).unwrap();
    let program = modelfs::cli::definition();
    let (command, helper) = (page(dir.path(), "modelfs.1"), page(dir.path(), "mount.modelfs.8"));
    for sub in program.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let name = sub.get_name();
        let section = format!(".SH \"MODELFS {}\"", name.to_uppercase());
        let (_, section) = command
            .split_once(&section)
            .unwrap_or_else(|| panic!("no section: {name}"));
        let section = section.split("\n.SH").next().unwrap();
        for arg in sub.get_arguments().filter(|arg| !arg.is_hide_set()) {
            if let Some(long) = arg.get_long() {
                assert!(section.contains(&format!("--{long}")), "{name} --{long}");
            }
            let first = |help: String| help.split_whitespace().take(4).collect::<Vec<_>>().join(" ");
            let help = first(arg.get_help().unwrap().to_string());
            assert!(section.contains(&help), "{name}: {help}");
        }
    }
    let mount = program.find_subcommand("mount").unwrap();
    for arg in mount.get_arguments().filter(|arg| !arg.is_hide_set()) {
        if let Some(long) = arg.get_long() {
            assert!(
                helper.contains(&long.replace('-', "_")),
                "mount.modelfs(8): {long}"
            );
        }
    }
    for line in errors().unwrap() {
        assert!(command.contains(&line.sentence), "{}", line.key);
    }
    let policy = page(dir.path(), "modelfs-policy.5");
    for word in [
        "[roots.key.lab]",
        "allow_legacy",
        "SCOPES",
        "$XDG_CONFIG_HOME/modelfs/policy.toml",
    ] {
        assert!(policy.contains(word), "modelfs-policy(5): {word}");
    }
}

#[test]
fn the_pages_are_roff_that_man_takes_without_a_warning() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path()).unwrap();
    if run(Command::new("which").arg("groff")).code != Some(0) {
        return notice("reading the manual pages with groff was left out: there is no groff");
    }
    for name in PAGES {
        let outcome = run(Command::new("groff")
            .args(["-man", "-Tutf8", "-P-cbou", "-Wall", "-ww"])
            .arg(dir.path().join(name)));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{name}");
        assert!(outcome.stdout.contains("SEE ALSO"), "{name}");
        // Two asterisks before a letter are emphasis that nobody translated; elsewhere they are a scope's.
        let is_emphasis = |line: &str| {
            line.match_indices("**")
                .any(|(at, mark)| line[at + mark.len()..].starts_with(char::is_alphabetic))
        };
        for mark in ["\\-", "\\fB", "**", "`"] {
            let lines: Vec<&str> = outcome
                .stdout
                .lines()
                .filter(|line| line.contains(mark) && (mark != "**" || is_emphasis(line)))
                .collect();
            assert!(lines.is_empty(), "{name}: {mark}: {lines:?}");
        }
    }
}

#[test]
fn the_completions_are_scripts_that_their_shells_take() {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path()).unwrap();
    for (shell, name) in COMPLETIONS {
        let path = dir.path().join(name);
        let text = fs::read_to_string(&path).unwrap();
        for word in ["mount", "--public-key", "lazy"] {
            // fish writes an option's name without its hyphens.
            assert!(text.contains(word.trim_start_matches('-')), "{name}: {word}");
        }
        let shell = shell.to_string();
        if run(Command::new("which").arg(&shell)).code != Some(0) {
            notice(&format!(
                "the completions for {shell} were not tried: there is no {shell}"
            ));
            continue;
        }
        let outcome = run(Command::new(&shell).arg("-n").arg(&path));
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{name}");
    }
    // What bash would offer.
    let script = format!(
        "source {}; COMP_WORDS=(modelfs mount --ver); COMP_CWORD=2; _modelfs modelfs --ver mount; echo \"${{COMPREPLY[*]}}\"",
        dir.path().join("modelfs.bash").display()
    );
    let offered = run(Command::new("bash").args(["-c", &script]));
    assert_eq!(offered.stdout, "--verify\n", "{offered:?}");
}
