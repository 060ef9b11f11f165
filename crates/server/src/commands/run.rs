//! `run`: an application that starts once the proxy is ready.

use std::process::Command;
use std::thread;
use std::time::Instant;

use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::WaitOptions;
use tokio::runtime;
use tokio::signal::unix;
use tokio::signal::unix::SignalKind;
use tokio::sync::mpsc;

use super::Invocation;
use super::RESPONSE_TIMEOUT;
use super::RETRY_INTERVAL;
use crate::commands::admin_client::AdminClient;

/// Exit codes as a shell gives them: this plus the signal's number for a program that a signal ended, and two codes for
/// programs that do not start.
const ENDED_BY_SIGNAL: u8 = 128;
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// The signals that are passed on to the application.
const PASSED_ON: [Signal; 7] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::WINCH,
];

/// Runs the application; returns its exit code.
pub(super) fn run(invocation: &Invocation) -> Result<u8, String> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(async {
        let mut signals =
            signals().map_err(|error| format!("cannot listen to signals: {error}"))?;
        if let Some(signal) = until_ready(invocation, &mut signals).await? {
            return Ok(code_of(signal));
        }
        let code = until_ended(invocation, &mut signals).await?;
        if invocation.quits_proxy {
            quit_proxy(invocation);
        }
        Ok(code)
    })
}

/// The signals that are received from now on.
fn signals() -> std::io::Result<mpsc::UnboundedReceiver<Signal>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for number in PASSED_ON.into_iter().chain([Signal::CHILD]) {
        let mut signal = unix::signal(SignalKind::from_raw(number.as_raw()))?;
        let sender = sender.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() && sender.send(number).is_ok() {}
        });
    }
    Ok(receiver)
}

/// Waits until the proxy is ready, or until a signal ends the waiting.
async fn until_ready(
    invocation: &Invocation,
    signals: &mut mpsc::UnboundedReceiver<Signal>,
) -> Result<Option<Signal>, String> {
    let end = invocation.timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let admin = AdminClient::new(&invocation.admin);
        let Err(reason) = admin.and_then(|admin| admin.get("/ready", RESPONSE_TIMEOUT)) else {
            return Ok(None);
        };
        if end.is_some_and(|end| Instant::now() >= end) {
            return Err(format!("the proxy is not ready: {reason}"));
        }
        tokio::select! {
            Some(signal) = signals.recv() => {
                if [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM].contains(&signal) {
                    return Ok(Some(signal));
                }
            }
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
        }
    }
}

/// Runs the application until it ends, and passes signals on to it.
async fn until_ended(
    invocation: &Invocation,
    signals: &mut mpsc::UnboundedReceiver<Signal>,
) -> Result<u8, String> {
    let Some((program, arguments)) = invocation.application.split_first() else {
        return Err("give the application after '--'".to_owned());
    };
    let child = match Command::new(program).args(arguments).spawn() {
        Ok(child) => child,
        Err(error) => {
            let code = match error.kind() {
                std::io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            };
            let message = format!("run: {program}: {error}\n");
            let _ = crate::print_with_code(&mut std::io::stderr(), &message, code);
            return Ok(code);
        }
    };
    let Some(application) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) else {
        return Err(format!("{program} has no process id"));
    };
    loop {
        // Collects all ended children: the first process of a container also becomes the parent of orphans.
        while let Ok(Some((ended, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if ended == application {
                let code = status.exit_status().map(|code| code.to_le_bytes()[0]);
                let killed = status
                    .terminating_signal()
                    .map(|signal| ENDED_BY_SIGNAL.saturating_add(signal.to_le_bytes()[0]));
                return Ok(code.or(killed).unwrap_or(1));
            }
        }
        match signals.recv().await {
            Some(signal) if signal != Signal::CHILD => {
                // Fails if the application has just ended.
                let _ = rustix::process::kill_process(application, signal);
            }
            Some(_) => {}
            None => return Err("the signal handlers have ended".to_owned()),
        }
    }
}

fn code_of(signal: Signal) -> u8 {
    ENDED_BY_SIGNAL.saturating_add(signal.as_raw().to_le_bytes()[0])
}

/// Ends the proxy. Retries for a moment, because nothing else would end it.
fn quit_proxy(invocation: &Invocation) {
    let mut said = String::new();
    for _ in 0..3 {
        let admin = AdminClient::new(&invocation.admin);
        match admin.and_then(|admin| admin.request("POST", "/quitquitquit", RESPONSE_TIMEOUT)) {
            Ok(()) => return,
            Err(reason) => said = reason,
        }
        thread::sleep(RETRY_INTERVAL);
    }
    let message = format!("run: cannot end the proxy: {said}\n");
    let _ = crate::print_with_code(&mut std::io::stderr(), &message, 1);
}
