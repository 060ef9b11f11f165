//! The Outrider binary: builds everything from the config, starts workers, drains.

mod cli;
mod logging;

use std::io::Write;
use std::process::ExitCode;

use crate::cli::Command;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().map(|argument| argument.to_string_lossy().into_owned());
    let program = arguments.next().unwrap_or_else(|| "outrider".to_owned());
    let arguments: Vec<String> = arguments.collect();
    match cli::parse(&program, &arguments) {
        Ok(Command::Run(options)) if options.hot_restart_version => {
            say(&mut std::io::stderr(), "disabled\n", 0)
        }
        Ok(Command::Run(_options)) => ExitCode::SUCCESS,
        Ok(Command::Print(text)) => say(&mut std::io::stdout(), &text, 0),
        Err(refused) => say(&mut std::io::stderr(), &refused.0, 1),
    }
}

/// Writes `text`. Nobody is left to hear that it could not be written.
fn say(stream: &mut impl Write, text: &str, code: u8) -> ExitCode {
    let _ = stream.write_all(text.as_bytes());
    ExitCode::from(code)
}
