//! The command line: arguments become requests, results become words and exit codes.
//!
//! What a command decides is decided on the floors below; here it is asked for and told. An error is one
//! sentence on standard error that names the place and the remedy, or with `--json` the same as data on
//! standard output. Nothing that somebody else chose reaches a terminal unescaped.

mod anchors;
mod args;
mod background;
mod bundle;
mod exit;
mod failure;
mod helper;
mod inspect;
mod log;
mod model;
mod mount;
mod service;
mod verify;
mod warm;

use std::ffi::OsString;
use std::io;
use std::io::Write as _;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::process::ExitCode;

use clap::CommandFactory as _;
use clap::Parser as _;
use clap::error::ErrorKind;

use args::Arguments;
use args::Command;
use exit::Exit;
use failure::Failure;
use failure::render;
use helper::Personality;
use mount::Half;

/// The definition of the command line, which manual pages and completions are made from.
pub fn definition() -> clap::Command {
    Arguments::command()
}

/// Runs what the arguments, the program's name first, ask for: a command, or what mount(8) wants of a mount helper.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<OsString> = arguments.collect();
    let personality = Personality::of(&arguments, &Arguments::command());
    let exit = match catch_unwind(AssertUnwindSafe(|| dispatch(&arguments, personality))) {
        Ok(exit) => exit,
        Err(_) => {
            let failure = Failure::new(
                Exit::Unforeseen,
                "this is a bug in modelfs: please report it with the lines above",
            );
            report(&failure, asks_for_json(&arguments))
        }
    };
    ExitCode::from(match personality {
        Personality::Command => exit.code(),
        Personality::MountHelper | Personality::FuseProgram => exit.mount_code(),
    })
}

fn dispatch(arguments: &[OsString], personality: Personality) -> Exit {
    if personality == Personality::Command {
        return command(arguments);
    }
    match helper::translate(arguments, personality, &Arguments::command()) {
        Ok(translated) => {
            let name = OsString::from("modelfs");
            command(&[vec![name], translated].concat())
        }
        Err(failure) => report(&failure, false),
    }
}

fn command(arguments: &[OsString]) -> Exit {
    let parsed = match Arguments::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => return explain(&error, arguments),
    };
    let json = parsed.json;
    match perform(parsed, arguments) {
        Ok(exit) => exit,
        Err(failure) => report(&failure, json),
    }
}

fn perform(parsed: Arguments, arguments: &[OsString]) -> Result<Exit, Failure> {
    let json = parsed.json;
    let text = match parsed.command {
        Command::Mount(args) => {
            let half = match parsed.ready_on_stdin {
                true => Half::Server,
                false => Half::Caller,
            };
            return mount::run(&args, json, half, arguments.get(1..).unwrap_or_default());
        }
        Command::Unmount { mountpoint } => mount::unmount(&mountpoint)?,
        Command::Verify(args) => verify::run(&args, json)?,
        Command::Inspect(args) => inspect::run(&args, json)?,
        Command::Status { mountpoint } => mount::status(mountpoint.as_deref(), json)?,
        Command::Privileged(args) => mount::privileged(&args)?,
        Command::Attach(args) => mount::attach(&args)?,
        Command::Warm { mountpoint, paths } => warm::run(&mountpoint, &paths, json)?,
    };
    print(&text);
    Ok(Exit::Done)
}

/// What the argument parser says: help and version as they are, the rest as one sentence.
fn explain(error: &clap::Error, arguments: &[OsString]) -> Exit {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        // Help that nobody reads to the end is no failure.
        let _ = error.print();
        return Exit::Done;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return Exit::Usage;
    }
    report(&usage(error), asks_for_json(arguments))
}

fn usage(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let mut said = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.starts_with("Usage:") || line.starts_with("For more information") {
            break;
        }
        match line.strip_prefix("tip: ") {
            Some(tip) => said.push(format!("({tip})")),
            None if line.is_empty() => {}
            None => said.push(line.trim_start_matches("error: ").to_owned()),
        }
    }
    Failure::new(Exit::Usage, format!("{}; see modelfs --help", said.join(" ")))
}

fn asks_for_json(arguments: &[OsString]) -> bool {
    arguments.iter().take_while(|a| *a != "--").any(|a| a == "--json")
}

/// Says what went wrong, and gives the exit code for it.
fn report(failure: &Failure, json: bool) -> Exit {
    if json {
        print(&render(&failure.json()));
    } else {
        let _ = writeln!(io::stderr(), "{}", failure.sentence());
    }
    failure.exit()
}

/// Writes a command's result. A reader that has enough and hangs up is no failure.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
    let _ = io::stdout().flush();
}
