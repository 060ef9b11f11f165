//! The commands `wait`, `probe` and `run`, for containers without a shell or curl.

mod admin_client;
mod run;

use std::fmt::Write;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::cli::parse_duration;
use crate::commands::admin_client::AdminClient;
use crate::print_with_code;

/// How often readiness is checked.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// How long one response of the admin port may take.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A command with the values of its flags.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Invocation {
    command: Command,
    admin: AdminAddress,
    /// `--timeout`; without it `wait` and `run` wait without limit.
    timeout: Option<Duration>,
    /// `--path`
    path: String,
    /// `--quit-proxy`
    quits_proxy: bool,
    /// The arguments after `--`.
    application: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    Wait,
    Probe,
    Run,
}

/// How the address of the proxy's admin port is given.
#[derive(Clone, Debug, PartialEq, Eq)]
enum AdminAddress {
    /// `--admin-address`
    Given(String),
    /// `--admin-address-path`: the file that the proxy writes.
    File(String),
    /// `--config-path`: the proxy's own config.
    Config(String),
}

impl Command {
    fn find(name: &str) -> Option<Command> {
        Some(match name {
            "wait" => Command::Wait,
            "probe" => Command::Probe,
            "run" => Command::Run,
            _ => return None,
        })
    }
}

/// Whether this is the name of a command.
pub(crate) fn is_command(name: &str) -> bool {
    Command::find(name).is_some()
}

/// Runs the command that `arguments` begin with. `None` if they do not begin with a command.
pub(crate) fn run(program: &str, arguments: &[String]) -> Option<ExitCode> {
    let (name, arguments) = arguments.split_first()?;
    let command = Command::find(name)?;
    let own = arguments.iter().take_while(|argument| *argument != "--");
    if own
        .into_iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        return Some(print_with_code(&mut std::io::stdout(), &help(program), 0));
    }
    let result = match parse(command, arguments) {
        Err(message) => Err(format!("{message}\n\n{}", help(program))),
        Ok(invocation) => match command {
            Command::Wait => wait(&invocation).map(|()| 0),
            Command::Probe => probe(&invocation).map(|()| 0),
            Command::Run => run::run(&invocation),
        },
    };
    Some(match result {
        Ok(code) => ExitCode::from(code),
        Err(message) => print_with_code(&mut std::io::stderr(), &format!("{name}: {message}\n"), 1),
    })
}

fn parse(command: Command, arguments: &[String]) -> Result<Invocation, String> {
    let mut invocation = Invocation {
        command,
        admin: AdminAddress::Given("127.0.0.1:9901".to_owned()),
        timeout: None,
        path: "/ready".to_owned(),
        quits_proxy: false,
        application: Vec::new(),
    };
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let (flag, attached) = match argument.split_once('=') {
            Some((flag, value)) => (flag, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let mut value = || {
            let value = attached.clone().or_else(|| arguments.next().cloned());
            value.ok_or_else(|| format!("{flag} needs a value"))
        };
        match (flag, command) {
            ("--admin-address", _) => invocation.admin = AdminAddress::Given(value()?),
            ("--admin-address-path", _) => invocation.admin = AdminAddress::File(value()?),
            ("-c" | "--config-path", _) => invocation.admin = AdminAddress::Config(value()?),
            ("--timeout", _) => {
                let text = value()?;
                let timeout = parse_duration(&text);
                let refused =
                    || format!("--timeout '{text}': expected a time such as 5, 5s, 500ms or 1m");
                invocation.timeout = Some(timeout.ok_or_else(refused)?);
            }
            // Readiness is the only condition that can be waited for.
            ("--ready", Command::Wait) => {}
            ("--path", Command::Probe) => invocation.path = value()?,
            ("--quit-proxy", Command::Run) => invocation.quits_proxy = true,
            ("--", Command::Run) => invocation.application = arguments.by_ref().cloned().collect(),
            _ => return Err(format!("'{argument}' is not known")),
        }
    }
    if command == Command::Run && invocation.application.is_empty() {
        return Err("give the application after '--'".to_owned());
    }
    Ok(invocation)
}

/// Waits until the proxy is ready.
fn wait(invocation: &Invocation) -> Result<(), String> {
    let end = invocation.timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let Err(reason) = AdminClient::new(&invocation.admin)
            .and_then(|admin| admin.get("/ready", RESPONSE_TIMEOUT))
        else {
            return Ok(());
        };
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(format!("not ready: {reason}"));
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

/// Sends one request.
fn probe(invocation: &Invocation) -> Result<(), String> {
    let timeout = invocation.timeout.unwrap_or(RESPONSE_TIMEOUT);
    AdminClient::new(&invocation.admin)?.get(&invocation.path, timeout)
}

/// The part of `--help` about commands.
pub(crate) fn help(program: &str) -> String {
    let mut text = String::new();
    let commands = [
        (
            "wait --ready [--timeout <duration>]",
            "Waits until the proxy that runs beside it is ready; exit code 1 when it is not within the timeout.",
        ),
        (
            "probe [--path </ready>] [--timeout <1s>]",
            "Asks the admin port once; exit code 0 when it answers with 200.",
        ),
        (
            "run [--timeout <duration>] [--quit-proxy] -- <application> [arguments]",
            "Waits until the proxy is ready, runs the application, passes signals on to it, and ends with its exit code. \
             --quit-proxy ends the proxy after it (/quitquitquit), for jobs.",
        ),
    ];
    text.push_str("COMMANDS, in place of flags:\n\n");
    for (usage, about) in commands {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "   {program} {usage}");
        crate::cli::wrap(about, &mut text);
        text.push('\n');
    }
    text.push_str("   All of them find the admin port by one of:\n");
    for line in [
        "--admin-address <address>       127.0.0.1:9901 by default; a path for a UNIX socket",
        "--admin-address-path <file>     the file that the proxy writes for its flag of this name",
        "-c <file>,  --config-path       the proxy's configuration",
    ] {
        let _ = writeln!(text, "     {line}");
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(command: Command, arguments: &str) -> Result<Invocation, String> {
        let arguments: Vec<String> = arguments.split_whitespace().map(str::to_owned).collect();
        parse(command, &arguments)
    }

    #[test]
    fn arguments_after_two_dashes_belong_to_the_application() {
        let run = parsed(Command::Run, "--timeout=5 --quit-proxy -- app --help -- x").unwrap();
        assert_eq!(run.application, ["app", "--help", "--", "x"]);
        assert_eq!(run.timeout, Some(Duration::from_secs(5)));
        assert!(run.quits_proxy);
    }

    #[test]
    fn the_admin_port_is_found_in_three_ways() {
        for (flags, address) in [
            ("", AdminAddress::Given("127.0.0.1:9901".to_owned())),
            (
                "--admin-address [::1]:1",
                AdminAddress::Given("[::1]:1".to_owned()),
            ),
            (
                "--admin-address-path /a",
                AdminAddress::File("/a".to_owned()),
            ),
            ("-c /e.yaml", AdminAddress::Config("/e.yaml".to_owned())),
        ] {
            assert_eq!(parsed(Command::Probe, flags).unwrap().admin, address);
        }
    }

    #[test]
    fn flags_of_other_commands_are_refused() {
        for (command, arguments) in [
            (Command::Wait, "--path /x"),
            (Command::Probe, "--ready"),
            (Command::Probe, "-- app"),
            (Command::Run, "--timeout 5"),
            (Command::Run, "app"),
            (Command::Wait, "--timeout soon"),
            (Command::Wait, "--timeout"),
        ] {
            assert!(parsed(command, arguments).is_err(), "{arguments}");
        }
    }
}
