//! Writes what a package has besides the program: manual pages and completions.
//!
//! ```console
//! $ cargo run --example pages -- DIRECTORY
//! ```
//!
//! Options come from the definition of the command line, the policy's page from docs/POLICY.md, and the table of errors from
//! packaging/man/errors.tsv, which the tests hold against what modelfs says. Only the words around them are written by hand,
//! in packaging/man.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "run when a package is built; it stops at the first surprise"
)]
#![allow(
    dead_code,
    reason = "a test has this file as a module, and uses what this does not"
)]

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Command;
use clap_complete::Shell;

/// Name of each page, and where its handwritten part stands.
pub(crate) const PAGES: [&str; 3] = ["modelfs.1", "mount.modelfs.8", "modelfs-policy.5"];

/// Name of each completion.
pub(crate) const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "modelfs.bash"),
    (Shell::Zsh, "_modelfs"),
    (Shell::Fish, "modelfs.fish"),
];

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: cargo run --example pages -- DIRECTORY");
        return ExitCode::from(2);
    };
    match write_all(&directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("pages: {}: {e}", directory.display());
            ExitCode::FAILURE
        }
    }
}

/// Writes all of them.
pub(crate) fn write_all(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for name in PAGES {
        let template = read(&format!("packaging/man/{name}.in"))?;
        fs::write(directory.join(name), fill(&template)?)?;
    }
    for (shell, name) in COMPLETIONS {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut modelfs::cli::definition(), "modelfs", &mut text);
        fs::write(directory.join(name), text)?;
    }
    Ok(())
}

/// A line of packaging/man/errors.tsv.
#[derive(Clone, Debug)]
pub(crate) struct ErrorLine {
    pub(crate) key: String,
    pub(crate) what: String,
    /// Exit code of the command; `None` where the command cannot meet it.
    pub(crate) exit: Option<i32>,
    /// Exit code of the mount helper.
    pub(crate) mount_exit: Option<i32>,
    /// What is said; `...` stands for what differs from case to case.
    pub(crate) sentence: String,
}

/// The table of errors.
pub(crate) fn errors() -> io::Result<Vec<ErrorLine>> {
    let text = read("packaging/man/errors.tsv")?;
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    Ok(lines
        .map(|line| {
            let fields: Vec<&str> = line.split('\t').collect();
            let [key, what, exit, mount_exit, sentence] = fields.try_into().expect("five fields");
            ErrorLine {
                key: key.to_owned(),
                what: what.to_owned(),
                exit: exit.parse().ok(),
                mount_exit: mount_exit.parse().ok(),
                sentence: sentence.to_owned(),
            }
        })
        .collect())
}

fn read(name: &str) -> io::Result<String> {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
}

/// A template with each `@word@` that stands on a line of its own, or in the title, replaced.
fn fill(template: &str) -> io::Result<String> {
    let mut program = modelfs::cli::definition();
    program.build();
    // clap_mangen writes apostrophes so.
    let mut page = String::from(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n");
    for line in template.lines() {
        match line {
            "@synopsis@" => page.push_str(&synopsis(&program)),
            "@commands@" => page.push_str(&commands(&program)),
            "@exit@" => page.push_str(&exit_codes(&program)),
            "@errors@" => page.push_str(&error_table()?),
            "@events@" => page.push_str(&events()?),
            "@mount-options@" => page.push_str(&mount_options(&program)),
            "@policy@" => page.push_str(&from_markdown(&read("docs/POLICY.md")?)),
            line => {
                let line = line.replace("@version@", env!("CARGO_PKG_VERSION"));
                assert!(!line.starts_with('@'), "{line}");
                page.push_str(&line);
            }
        }
        if !page.ends_with('\n') {
            page.push('\n');
        }
    }
    Ok(page)
}

fn shown_commands(program: &Command) -> impl Iterator<Item = &Command> {
    let shown = |command: &&Command| !command.is_hide_set() && command.get_name() != "help";
    program.get_subcommands().filter(shown)
}

fn synopsis(program: &Command) -> String {
    let mut out = String::new();
    for command in shown_commands(program) {
        let _ = write!(out, ".B modelfs {}\n[\\fIOPTIONS\\fP]", command.get_name());
        for place in command.get_positionals() {
            let name = place.get_value_names().and_then(|names| names.first());
            let name = name.map_or_else(|| place.get_id().to_string(), ToString::to_string);
            let word = format!("\\fI{}\\fP", escape(&name));
            let _ = match place.is_required_set() {
                true => write!(out, " {word}"),
                false => write!(out, " [{word}]"),
            };
        }
        out.push_str("\n.br\n");
    }
    out
}

/// A section for each command, with its options as clap_mangen lists them.
fn commands(program: &Command) -> String {
    let mut out = String::new();
    for command in shown_commands(program) {
        let _ = writeln!(out, ".SH \"MODELFS {}\"", command.get_name().to_uppercase());
        if let Some(about) = command.get_about() {
            let _ = writeln!(out, "{}", escape(&about.to_string()));
        }
        let mut text = Vec::new();
        clap_mangen::Man::new(command.clone())
            .render_options_section(&mut text)
            .expect("memory takes it");
        let text = String::from_utf8(text).expect("pages are text");
        // Its own headings become smaller ones: all commands share this page.
        for line in text.lines().skip_while(|line| !line.starts_with(".SH")) {
            let line = bold_code(&line.replacen(".SH", ".SS", 1));
            out.push_str(if line == ".SS OPTIONS" {
                ".SS Options"
            } else {
                &line
            });
            out.push('\n');
        }
    }
    out
}

fn exit_codes(program: &Command) -> String {
    let text = program
        .get_after_help()
        .map(ToString::to_string)
        .unwrap_or_default();
    let mut out = String::new();
    for line in text.lines() {
        if let Some((code, what)) = line.trim().split_once("  ") {
            let _ = writeln!(out, ".TP\n.B {code}\n{}", escape(what));
        }
    }
    assert!(!out.is_empty(), "the help ends with the exit codes");
    out
}

fn error_table() -> io::Result<String> {
    let mut out = String::new();
    let code = |code: Option<i32>| code.map_or_else(|| "\\-".to_owned(), |code| code.to_string());
    for line in errors()? {
        let (exit, mount) = (code(line.exit), code(line.mount_exit));
        let (what, sentence) = (escape(&line.what), escape(&line.sentence));
        let _ = writeln!(out, ".TP\n\\fB{what}\\fP: {exit} [{mount}]\n{sentence}");
    }
    Ok(out)
}

/// The words that the log's code has a number for.
fn events() -> io::Result<String> {
    let source = read("src/cli/log/entry.rs")?;
    let table = source
        .split("const MESSAGE_IDS")
        .nth(1)
        .and_then(|rest| rest.split("];").next());
    let names = table.unwrap_or_default().split('"').skip(1).step_by(4);
    let names: Vec<String> = names.map(escape).collect();
    assert!(names.len() > 3, "the log has events");
    Ok(names.join(", ") + ".")
}

/// The options of `mount` in the form of a mount option.
fn mount_options(program: &Command) -> String {
    let mount = program
        .find_subcommand("mount")
        .expect("there is a command to mount");
    let mut out = String::new();
    for arg in mount.get_arguments().filter(|arg| !arg.is_hide_set()) {
        // What else `modelfs` takes before or after any command is no option of a mount.
        let Some(long) = arg.get_long().filter(|long| !["json", "help"].contains(long)) else {
            continue;
        };
        let _ = writeln!(out, ".TP");
        let name = escape(&long.replace('-', "_"));
        let value = arg.get_value_names().and_then(|names| names.first());
        let _ = match value.filter(|_| arg.get_action().takes_values()) {
            Some(value) => writeln!(out, "\\fB{name}=\\fP\\fI{}\\fP", escape(value)),
            None => writeln!(out, "\\fB{name}\\fP"),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(out, "{}", inline(&help));
        let values: Vec<String> = arg
            .get_possible_values()
            .iter()
            .filter(|_| arg.get_action().takes_values())
            .map(|value| format!("\\fB{}\\fP", escape(value.get_name())))
            .collect();
        if !values.is_empty() {
            let _ = writeln!(out, "One of {}.", values.join(", "));
        }
    }
    out
}

/// The little Markdown that docs/POLICY.md is written in.
fn from_markdown(text: &str) -> String {
    let mut out = String::new();
    let mut code = false;
    for line in text.lines() {
        if line.starts_with("```") {
            code = !code;
            out.push_str(if code { ".PP\n.RS\n.nf\n" } else { ".fi\n.RE\n" });
        } else if code {
            let _ = writeln!(out, "{}", escape_line(line));
        } else if let Some(heading) = line.strip_prefix("## ") {
            let _ = writeln!(out, ".SH \"{}\"", heading.to_uppercase());
        } else if line.starts_with("# ") || line.starts_with("|---") || line == "| key | |" {
            // The page has a title, and no table needs a head here.
        } else if let Some(row) = line.strip_prefix("| ") {
            let cells: Vec<&str> = row.trim_end_matches('|').splitn(2, " | ").collect();
            let (key, what) = (cells.first().unwrap_or(&""), cells.get(1).unwrap_or(&""));
            let _ = writeln!(out, ".TP\n{}\n{}", inline(key), inline(what.trim()));
        } else if let Some(item) = line.strip_prefix("- ") {
            let _ = writeln!(out, ".IP \\(bu 2\n{}", inline(item));
        } else if line.is_empty() {
            out.push_str(".PP\n");
        } else {
            let _ = writeln!(out, "{}", inline(line.trim_start()));
        }
    }
    out
}

/// `code` and **strong** in bold, links by their text.
fn inline(text: &str) -> String {
    let mut out = String::new();
    for (at, part) in text.split('`').enumerate() {
        if at % 2 == 1 {
            let _ = write!(out, "\\fB{}\\fP", escape(part));
            continue;
        }
        let mut plain = part.replace("**", "");
        while let Some((before, rest)) = plain.split_once("](") {
            let (_, after) = rest.split_once(')').unwrap_or(("", rest));
            plain = format!("{}{after}", before.replacen('[', "", 1));
        }
        out.push_str(&escape(&plain));
    }
    guard(out)
}

/// The same for text that roff takes already.
fn bold_code(line: &str) -> String {
    let mut out = String::new();
    for (at, part) in line.split('`').enumerate() {
        out.push_str(match at {
            0 => "",
            at if at % 2 == 1 => "\\fB",
            _ => "\\fP",
        });
        out.push_str(part);
    }
    out
}

/// Text that roff takes as it is: no commands, hyphens that can be copied into a shell.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\n', " ")
}

fn escape_line(line: &str) -> String {
    guard(escape(line))
}

/// A line must not begin like a command.
fn guard(line: String) -> String {
    if line.starts_with('.') || line.starts_with('\'') {
        return format!("\\&{line}");
    }
    line
}
