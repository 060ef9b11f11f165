//! The Outrider server: builds everything from the config, starts workers, drains.
//!
//! It is a library so that the demo and the tests can run the proxy in their own process. The binary adds only an
//! allocator to [`run`].

mod admin_log;
mod allocator;
mod application_log;
mod background;
mod bootstrap_extensions;
mod build;
mod cli;
mod commands;
mod control;
mod control_planes;
mod discovery;
mod dump;
mod entry_point;
mod graceful_end;
mod listener_manager;
mod listener_plan;
mod logging;
mod node;
mod overload;
mod reload;
mod retired;
mod runtime;
mod signals;
mod startup;
mod worker;
mod worker_listeners;

use std::io::Write;
use std::process::ExitCode;

pub use crate::allocator::Allocator;
use crate::cli::CliAction;
use crate::cli::Mode;
use crate::cli::Options;
use crate::logging::Logging;

/// Runs the command line to its end. `program` is the name that messages use; `arguments` are those after it.
pub fn run(program: &str, arguments: &[String]) -> ExitCode {
    let level = std::env::var("loglevel").ok();
    let arguments = match entry_point::translate(program, arguments, level.as_deref()) {
        Ok(arguments) => arguments,
        Err(message) => return print_with_code(&mut std::io::stderr(), &message, 1),
    };
    if let Some(code) = commands::run(program, &arguments) {
        return code;
    }
    match cli::parse(program, &arguments) {
        Ok(CliAction::Run(options)) if options.hot_restart_version => {
            print_with_code(&mut std::io::stderr(), "disabled\n", 0)
        }
        Ok(CliAction::Run(mut options)) => {
            let watch = std::env::var("OUTRIDER_WATCH_CONFIG");
            options.watch_config |= watch.is_ok_and(|value| value == "1");
            run_options(*options)
        }
        Ok(CliAction::Print(text)) => print_with_code(&mut std::io::stdout(), &text, 0),
        Err(refused) => print_with_code(&mut std::io::stderr(), &refused.0, 1),
    }
}

fn run_options(options: Options) -> ExitCode {
    let logging = Logging::new(
        &options.levels,
        options.log_format(),
        options.log_format_escaped,
    );
    logging.install();
    if !options.log_path.is_empty()
        && let Err(error) = logging.open(&options.log_path)
    {
        let message = format!("failed to open log file '{}': {error}\n", options.log_path);
        return print_with_code(&mut std::io::stderr(), &message, 1);
    }
    let (mode, path) = (options.mode, options.config_path.clone());
    let result = match mode {
        Mode::Validate => startup::validate(&options, &logging),
        Mode::Serve | Mode::InitOnly => startup::serve(options, logging.clone()),
    };
    match result {
        Ok(()) if mode == Mode::Validate => print_with_code(
            &mut std::io::stdout(),
            &format!("configuration '{path}' OK\n"),
            0,
        ),
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            logging.critical(
                "main",
                file!(),
                line!(),
                format_args!("error initializing configuration '{path}'"),
            );
            print_with_code(&mut std::io::stderr(), &format!("{fatal}\n"), 1)
        }
    }
}

/// Writes `text` and returns `code` as the exit code. A failed write is ignored: there is nowhere to report it.
fn print_with_code(stream: &mut impl Write, text: &str, code: u8) -> ExitCode {
    let _ = stream.write_all(text.as_bytes());
    ExitCode::from(code)
}
